"""The three patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge, which knows by what keys lists are merged."""

from __future__ import annotations

from typing import Any, Final

from kuberouterpy.lab.api.errors import JsonObject, StatusError, bad_request
from kuberouterpy.lab.api.schema import keys, types

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
TYPES: Final = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)

_MAX_OPERATIONS: Final = 10_000
_ORDER: Final = "$setElementOrder/"
_DELETE: Final = "$deleteFromPrimitiveList/"


def merge(target: Any, patch: Any) -> Any:
    """Return ``target`` with a merge patch applied: null deletes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def strategic(target: Any, patch: JsonObject, kind: str) -> JsonObject:
    """Return ``target`` with a strategic merge patch applied. ``kind`` is the name of its type in the schema.

    Errors: 400 for directives that make no sense.
    """
    directive = patch.get("$patch")
    if directive == "delete":
        return {}
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    merged: JsonObject = dict(target) if isinstance(target, dict) else {}
    if (retained := patch.get("$retainKeys")) is not None:
        merged = {key: value for key, value in merged.items() if key in retained}
    for key, value in patch.items():
        if key in {"$patch", "$retainKeys"} or key.startswith(_ORDER):
            continue
        if key.startswith(_DELETE):
            field = key[len(_DELETE) :]
            merged[field] = [one for one in merged.get(field) or [] if one not in value]
        elif value is None:
            merged.pop(key, None)
        else:
            inner = types.step(kind, key)
            merged[key] = _strategic_value(merged.get(key), value, inner, keys.STRATEGIC.get((kind, key)))
    for key, order in patch.items():
        if key.startswith(_ORDER):
            field = key[len(_ORDER) :]
            if isinstance(merged.get(field), list):
                merged[field] = _reorder(merged[field], order, keys.STRATEGIC.get((kind, field)))
    return merged


def _strategic_value(target: Any, value: Any, kind: str, key: str | None) -> Any:
    if isinstance(value, dict):
        return strategic(target, value, kind)
    if not isinstance(value, list) or key is None:
        return [_clean(item) for item in value] if isinstance(value, list) else value
    if key == keys.PRIMITIVE:
        known = list(target) if isinstance(target, list) else []
        return known + [item for item in value if item not in known]
    return _strategic_list(target if isinstance(target, list) else [], value, types.item(kind), key)


def _strategic_list(target: list[Any], patch: list[Any], kind: str, key: str) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if item.get("$patch") != "replace"]
    merged = list(target)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        index = _find(merged, item, key)
        if item.get("$patch") == "delete":
            merged = [one for one in merged if not _same(one, item, key)]
        elif index is None:
            merged.append(_clean(item))
        else:
            merged[index] = strategic(merged[index], item, kind)
    return merged


def _find(items: list[Any], wanted: JsonObject, key: str) -> int | None:
    return next((index for index, item in enumerate(items) if _same(item, wanted, key)), None)


def _same(item: Any, wanted: JsonObject, key: str) -> bool:
    """Return whether a patch item means this item.

    Beyond the key also the protocol must agree where both say one: 53/UDP and 53/TCP of a service are two ports.
    """
    if not isinstance(item, dict) or item.get(key) != wanted.get(key):
        return False
    if key in {"port", "containerPort"} and "protocol" in wanted:
        return bool(item.get("protocol", "TCP") == wanted["protocol"])
    return True


def _clean(value: Any) -> Any:
    """Return a new value without directives and nulls."""
    if isinstance(value, dict):
        return {
            key: _clean(inner)
            for key, inner in value.items()
            if inner is not None and not key.startswith(("$patch", _ORDER))
        }
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _reorder(items: list[Any], order: Any, key: str | None) -> list[Any]:
    """Return the items in the order of the patch; those it does not name stay behind the one they followed."""
    if key is None or not isinstance(order, list):
        return items

    def same(item: Any, wanted: Any) -> bool:
        return bool(item == wanted) if key == keys.PRIMITIVE else isinstance(wanted, dict) and _same(item, wanted, key)

    rank: dict[int, float] = {}
    for index, item in enumerate(items):
        place = next((at for at, wanted in enumerate(order) if same(item, wanted)), None)
        rank[index] = place if place is not None else (rank[index - 1] + 1e-6 if index else -1.0)
    return [items[index] for index in sorted(range(len(items)), key=lambda index: rank[index])]


def json_patch(target: Any, operations: Any) -> Any:
    """Return ``target`` with a JSON patch applied. Errors: 400 malformed, 422 where a path or test fails."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    if len(operations) > _MAX_OPERATIONS:
        raise StatusError(413, "RequestEntityTooLarge", f"The allowed maximum operations is {_MAX_OPERATIONS}")
    document = {"": target}
    for operation in operations:
        try:
            _operate(document, operation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            message = f"the server rejected our request due to an error in our request: {operation}: {error}"
            raise StatusError(422, "Invalid", message) from error
    return document[""]


def _operate(document: JsonObject, operation: JsonObject) -> None:
    path = _pointer(operation["path"])
    match operation["op"]:
        case "add":
            _add(document, path, operation["value"])
        case "remove":
            _remove(document, path)
        case "replace":
            _get(document, path)
            _set(document, path, operation["value"])
        case "move":
            source = _pointer(operation["from"])
            value = _get(document, source)
            _remove(document, source)
            _add(document, path, value)
        case "copy":
            _add(document, path, _get(document, _pointer(operation["from"])))
        case "test":
            if _get(document, path) != operation.get("value"):
                raise ValueError(f"testing value {operation['path']} failed")
        case other:
            raise ValueError(f"unexpected kind: {other}")


def _pointer(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise ValueError(f"path {path!r} does not begin with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[_index(document, part)] if isinstance(document, list) else document[part]
    return document


def _index(items: list[Any], part: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise IndexError(f"index {part} out of range")
    return int(part)


def _add(document: JsonObject, path: list[str], value: Any) -> None:
    parent = _get(document, path[:-1])
    if isinstance(parent, list):
        at = len(parent) if path[-1] == "-" else int(path[-1])
        if at > len(parent):
            raise IndexError(f"index {path[-1]} out of range")
        parent.insert(at, value)
    else:
        parent[path[-1]] = value


def _set(document: JsonObject, path: list[str], value: Any) -> None:
    parent = _get(document, path[:-1])
    parent[_index(parent, path[-1]) if isinstance(parent, list) else path[-1]] = value


def _remove(document: JsonObject, path: list[str]) -> None:
    parent = _get(document, path[:-1])
    del parent[_index(parent, path[-1]) if isinstance(parent, list) else path[-1]]
