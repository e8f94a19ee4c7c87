"""Secrets made unreadable, wherever the agent writes something down for people to pass on. Pure.

Two ways, because neither suffices: by name (an annotation or field that is called password, token, key, ...), and by look
(PEM blocks, JSON web tokens, bearer headers). What is left out is replaced by :data:`HIDDEN`, so that a reader sees that it
was there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, TypeVar

from msgspec import Struct, inspect, structs

S = TypeVar("S", bound=Struct)

HIDDEN: Final = "(hidden)"

_NAME: Final = re.compile(
    r"passwords?|passwd|passphrase|secret|token|credential|api[-_.]?key|private[-_.]?key|client[-_.]?key|(^|[-_.])key[-_.]?data"
    r"|certificate[-_.]?data|authorization|cookie",
    re.IGNORECASE,
)
"""Names whose values nobody should read."""
_HARMLESS: Final = re.compile(r"(file|path|dir|mount\w*|secretname)$", re.IGNORECASE)
"""Names that say where a secret is, not what."""
_LOOKS: Final = (
    re.compile(r"-----BEGIN [A-Z0-9 ]*-----.*?(-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.?[\w-]*"),
    re.compile(r"(?<=bearer )\S+", re.IGNORECASE),
    re.compile(r"(?<=basic )[A-Za-z0-9+/=]{8,}", re.IGNORECASE),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)
_ASSIGNED: Final = re.compile(
    r"(?P<name>[\"']?[\w./-]*(?:passwords?|passwd|passphrase|secret|token|credential|api[-_.]?key|private[-_.]?key|client-key-data"
    r"|certificate-authority-data|client-certificate-data)[\"']?)(?P<sign>\s*[:=]\s*)"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;&}\]]+)",
    re.IGNORECASE,
)
"""``name=value``, ``name: value``, ``"name": "value"`` in a text."""


def is_secret(name: str) -> bool:
    """Return whether values of this name are nobody's business."""
    return _NAME.search(name) is not None and _HARMLESS.search(name) is None


def mapping(values: Mapping[str, str]) -> dict[str, str]:
    """Return annotations or the like without their secrets."""
    return {name: HIDDEN if value and is_secret(name) else text(value) for name, value in values.items()}


def record(value: S) -> S:
    """Return a record with every field hidden that is called a secret, however deep, and its annotations redacted."""
    if not _bears_secrets(type(value)):
        return value
    changed = {name: _field(name, one) for name, one in structs.asdict(value).items()}
    return structs.replace(value, **changed)


def _field(name: str, value: Any) -> Any:
    match value:
        case str() if value and is_secret(name):
            return HIDDEN
        case dict() if name == "annotations":
            return mapping(value)
        case dict():
            return {key: _field(str(key), one) for key, one in value.items()}
        case Struct():
            return record(value)
        case tuple() if type(value) is tuple:
            return tuple(_field(name, one) for one in value)
        case _:
            return value


@lru_cache(maxsize=256)
def _bears_secrets(kind: type[Struct]) -> bool:
    """Return whether a kind of record has anything to hide; most have not, and cost nothing then."""
    return any(
        is_secret(field.name)
        or field.name == "annotations"
        or any(_bears_secrets(inner) for inner in _structs(inspect.type_info(field.type)))
        for field in structs.fields(kind)
    )


def _structs(info: inspect.Type) -> Iterator[type[Struct]]:
    match info:
        case inspect.StructType(cls=cls):
            yield cls
        case inspect.VarTupleType(item_type=item):
            yield from _structs(item)
        case inspect.DictType(value_type=value):
            yield from _structs(value)
        case inspect.UnionType(types=types):
            for one in types:
                yield from _structs(one)
        case _:
            return


def text(value: str) -> str:
    """Return a text without what looks like a secret or is called one."""
    for look in _LOOKS:
        value = look.sub(HIDDEN, value)
    return _ASSIGNED.sub(_assigned, value)


def _assigned(found: re.Match[str]) -> str:
    name, sign, value = found["name"], found["sign"], found["value"]
    if _HARMLESS.search(name.strip("\"'")):
        return found[0]
    quote = value[0] if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1 else ""
    return f"{name}{sign}{quote}{HIDDEN}{quote}"


def tree(value: Any, name: str = "") -> Any:
    """Return a JSON value without its secrets."""
    match value:
        case dict():
            return {str(key): tree(one, str(key)) for key, one in value.items()}
        case list() | tuple():
            return [tree(one, name) for one in value]
        case str():
            return HIDDEN if value and name and is_secret(name) else text(value)
        case _:
            return HIDDEN if value and name and is_secret(name) and not isinstance(value, bool) else value
