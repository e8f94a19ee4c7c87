"""Label and field selectors of list and watch requests, compiled once into a predicate."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from kuberouterpy.lab.api.errors import JsonObject, StatusError, bad_request

Predicate = Callable[[JsonObject], bool]
"""Whether an object is selected."""
LabelTest = Callable[[dict[str, str]], bool]
"""Whether a set of labels is selected."""

_SET: Final = re.compile(r"^\s*(?P<key>[^\s,()=!<>]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)\s*$")
_EQUAL: Final = re.compile(r"^\s*(?P<key>[^\s,()=!<>]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s,()=!<>]*)\s*$")
_COMPARE: Final = re.compile(r"^\s*(?P<key>[^\s,()=!<>]+)\s*(?P<op>[<>])\s*(?P<value>-?\d+)\s*$")
_EXISTS: Final = re.compile(r"^\s*(?P<not>!?)\s*(?P<key>[^\s,()=!<>]+)\s*$")

COMMON_FIELDS: Final = ("metadata.name", "metadata.namespace")
FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "pods": (
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    ),
    "services": ("spec.clusterIP", "spec.type"),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "replicasets.apps": ("status.replicas",),
    "events": (
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
        "reason", "reportingComponent", "source", "type",
    ),
}  # fmt: skip
"""Fields that may be selected besides the common ones, as the real server allows them."""
_EMPTY_IS_FALSE: Final = frozenset({"spec.unschedulable", "spec.hostNetwork"})


def labels(text: str) -> LabelTest:
    """Return the test for a label selector: ``a=b,c!=d,e in (x,y),f notin (z),g,!h,n>3``. Errors: 400."""
    tests = [_requirement(part) for part in _split(text)]
    return lambda given: all(test(given) for test in tests)


def _split(text: str) -> list[str]:
    """Return the requirements: commas inside parentheses separate values, not requirements."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    parts.append(current)
    return [part for part in parts if part.strip()]


def _requirement(part: str) -> LabelTest:
    if match := _SET.match(part):
        return _in(match["key"], match["op"], frozenset(value.strip() for value in match["values"].split(",")))
    if match := _EQUAL.match(part):
        return _in(match["key"], "notin" if match["op"] == "!=" else "in", frozenset({match["value"]}))
    if match := _COMPARE.match(part):
        return _compare(match["key"], match["op"], int(match["value"]))
    if match := _EXISTS.match(part):
        key, wanted = match["key"], not match["not"]
        return lambda given: (key in given) == wanted
    raise bad_request(f'unable to parse requirement: found "{part.strip()}", expected: a label selector')


def _in(key: str, op: str, values: frozenset[str]) -> LabelTest:
    if op == "in":
        return lambda given: given.get(key, _ABSENT) in values
    return lambda given: given.get(key, _ABSENT) not in values


_ABSENT: Final = "\0absent"


def _compare(key: str, op: str, limit: int) -> LabelTest:
    def test(given: dict[str, str]) -> bool:
        try:
            value = int(given[key])
        except (KeyError, ValueError):
            return False
        return value > limit if op == ">" else value < limit

    return test


def fields(text: str, resource_key: str, *, custom: bool = False) -> Predicate:
    """Return the predicate of a field selector: ``a.b=c,d!=e``. Errors: 400 for a field that is not selectable."""
    tests: list[Predicate] = []
    allowed = COMMON_FIELDS if custom else (*COMMON_FIELDS, *FIELDS.get(resource_key, ()))
    for part in text.split(","):
        if not part.strip():
            continue
        match = re.match(r"^\s*(?P<field>[^=!\s]+)\s*(?P<op>==|=|!=)(?P<value>.*)$", part)
        if not match:
            raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        if match["field"] not in allowed:
            raise _unknown_field(match["field"])
        tests.append(_field(match["field"], match["value"].strip(), equal=match["op"] != "!="))
    return lambda obj: all(test(obj) for test in tests)


def _unknown_field(field: str) -> StatusError:
    return bad_request(f"field label not supported: {field}")


def _field(path: str, wanted: str, *, equal: bool) -> Predicate:
    steps = path.split(".")
    if path == "source":
        steps = ["source", "component"]
    fallback = "false" if path in _EMPTY_IS_FALSE else ""

    def test(obj: JsonObject) -> bool:
        value: object = obj
        for step in steps:
            value = value.get(step) if isinstance(value, dict) else None
        text = fallback if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        return (text == wanted) == equal

    return test


def selection(label_selector: str, field_selector: str, resource_key: str, *, custom: bool = False) -> Predicate | None:
    """Return the predicate for both selectors; None where nothing is selected away."""
    if not label_selector and not field_selector:
        return None
    by_label = labels(label_selector)
    by_field = fields(field_selector, resource_key, custom=custom)
    return lambda obj: by_label(obj["metadata"].get("labels") or {}) and by_field(obj)
