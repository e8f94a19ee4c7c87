"""CustomResourceDefinitions, and custom objects by the schema of theirs."""

from __future__ import annotations

import re
from typing import Any, Final

from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.validation.report import Report


def check_definition(report: Report, obj: JsonObject, _old: JsonObject | None) -> None:
    """Check a CRD."""
    spec = obj.get("spec") or {}
    names, versions = spec.get("names") or {}, spec.get("versions") or []
    for field in ("plural", "kind"):
        if not names.get(field):
            report.required(f"spec.names.{field}")
    if not spec.get("group"):
        report.required("spec.group")
    elif obj["metadata"]["name"] != f"{names.get('plural')}.{spec['group']}":
        report.invalid("metadata.name", obj["metadata"]["name"], 'must be spec.names.plural+"."+spec.group')
    if spec.get("scope") not in {"Namespaced", "Cluster"}:
        report.unsupported("spec.scope", spec.get("scope"), ("Cluster", "Namespaced"))
    if sum(1 for version in versions if version.get("storage")) != 1:
        report.invalid("spec.versions", versions, "must have exactly one version marked as storage version")
    for index, version in enumerate(versions):
        if not (version.get("schema") or {}).get("openAPIV3Schema"):
            report.required(f"spec.versions[{index}].schema.openAPIV3Schema", "schemas are required")


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def prune_and_default(value: Any, schema: JsonObject) -> Any:
    """Return the value with the schema's defaults filled in, without nulls and fields that the schema does not name."""
    if isinstance(value, list):
        inner = schema.get("items")
        return [prune_and_default(item, inner) for item in value] if isinstance(inner, dict) else value
    if not isinstance(value, dict):
        return value
    properties, further = schema.get("properties") or {}, schema.get("additionalProperties")
    keep_all = bool(schema.get("x-kubernetes-preserve-unknown-fields")) or not (properties or further)
    kept: JsonObject = {}
    for key, inner in value.items():
        if key in properties:
            if inner is None and not properties[key].get("nullable"):
                continue
            kept[key] = prune_and_default(inner, properties[key])
        elif isinstance(further, dict):
            kept[key] = prune_and_default(inner, further)
        elif further is True or keep_all:
            kept[key] = inner
    for key, inner in properties.items():
        if key not in kept and "default" in inner:
            kept[key] = prune_and_default(inner["default"], inner)
    return kept


def check_value(report: Report, place: str, value: Any, schema: JsonObject) -> None:
    """Check a value by an OpenAPI schema: types, required fields, enumerations, limits, patterns. No CEL rules."""
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            report.invalid(place, value, "must be an integer or a string")
        return
    if not _typed(report, place, value, schema.get("type", "")):
        return
    if "enum" in schema and value not in schema["enum"]:
        report.unsupported(place, value, map(str, schema["enum"]))
    match value:
        case dict():
            _object(report, place, value, schema)
        case list():
            _sizes(report, place, value, schema, "Items")
            for index, item in enumerate(value):
                check_value(report, f"{place}[{index}]", item, schema.get("items") or {})
        case str():
            _sizes(report, place, value, schema, "Length")
            if (pattern := schema.get("pattern")) and not re.search(pattern, value):
                report.invalid(place, value, f"should match '{pattern}'")
        case int() | float():
            _limits(report, place, value, schema)
    _combined(report, place, value, schema)


def _typed(report: Report, place: str, value: Any, kind: str) -> bool:
    allowed = _TYPES.get(kind)
    if allowed is None:
        return True
    if isinstance(value, allowed) and (kind == "boolean" or not isinstance(value, bool)):
        return True
    report.invalid(place, value, f"must be of type {kind}")
    return False


def _object(report: Report, place: str, value: JsonObject, schema: JsonObject) -> None:
    for key in schema.get("required") or []:
        if key not in value:
            report.required(f"{place}.{key}".lstrip("."))
    _sizes(report, place, value, schema, "Properties")
    properties, further = schema.get("properties") or {}, schema.get("additionalProperties")
    for key, inner in value.items():
        known = properties.get(key) or (further if isinstance(further, dict) else None)
        if known:
            check_value(report, f"{place}.{key}".lstrip("."), inner, known)


def _sizes(report: Report, place: str, value: JsonObject | list[Any] | str, schema: JsonObject, what: str) -> None:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if low is not None and len(value) < low:
        report.invalid(place, value, f"should have at least {low} {what.lower()}")
    if high is not None and len(value) > high:
        report.too_many(place, len(value), high)


def _limits(report: Report, place: str, value: float, schema: JsonObject) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        report.invalid(place, value, f"should be greater than or equal to {low}")
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        report.invalid(place, value, f"should be less than or equal to {high}")


def _combined(report: Report, place: str, value: Any, schema: JsonObject) -> None:
    for one in schema.get("allOf") or []:
        check_value(report, place, value, one)
    passed = [sum(_passes(value, one) for one in schema.get(word) or []) for word in ("anyOf", "oneOf")]
    if schema.get("anyOf") and passed[0] == 0:
        report.invalid(place, value, "must validate at least one schema (anyOf)")
    if schema.get("oneOf") and passed[1] != 1:
        report.invalid(place, value, "must validate one and only one schema (oneOf)")
    if (refused := schema.get("not")) and _passes(value, refused):
        report.invalid(place, value, "must not validate the schema (not)")


def _passes(value: Any, schema: JsonObject) -> bool:
    inner = Report()
    check_value(inner, "", value, schema)
    return not inner.problems
