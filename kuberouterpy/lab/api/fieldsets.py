"""Sets of fields in the form of ``managedFields.fieldsV1``: of what an object is made, item by item where lists have keys.

``{"f:spec": {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}}}}}``
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.schema import keys, types

FieldSet = JsonObject
"""Nested names; a name without names under it is a leaf."""
Path = tuple[str, ...]
"""Names from the root to a leaf."""

_SELF: Final = "."
_UNOWNED: Final = frozenset(
    {"name", "generateName", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink",
     "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"}
)  # fmt: skip


def of_object(obj: JsonObject, kind: str) -> FieldSet:
    """Return the fields of an object that somebody can own: all but its envelope and what the server writes."""
    found: FieldSet = {}
    for key, value in obj.items():
        if key == "metadata":
            meta = {name: inner for name, inner in value.items() if name not in _UNOWNED}
            if meta:
                found["f:metadata"] = _of(meta, "V1ObjectMeta", None)
        elif key not in {"apiVersion", "kind"}:
            found[f"f:{key}"] = _of(value, types.step(kind, key), (kind, key))
    return found


def _of(value: Any, kind: str, place: tuple[str, str] | None) -> FieldSet:
    if isinstance(value, dict):
        if kind in keys.ATOMIC_TYPES or place in keys.ATOMIC_MAPS:
            return {}
        return {f"f:{key}": _of(inner, types.step(kind, key), (kind, key)) for key, inner in value.items()}
    if isinstance(value, list) and place in keys.APPLY:
        names = keys.APPLY[place]
        if not names:
            return {f"v:{_compact(item)}": {} for item in value}
        inner_kind = types.item(kind)
        return {
            item_name(item, names): {_SELF: {}, **_of(item, inner_kind, None)}
            for item in value
            if isinstance(item, dict)
        }
    return {}


def item_name(item: JsonObject, names: tuple[str, ...]) -> str:
    """Return the name of a list item by its keys."""
    return "k:" + _compact({name: item.get(name, keys.APPLY_DEFAULTS.get(name)) for name in sorted(names)})


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def leaves(fields: FieldSet, prefix: Path = ()) -> Iterator[Path]:
    """Yield the path of every leaf."""
    for name, inner in fields.items():
        if inner:
            yield from leaves(inner, (*prefix, name))
        else:
            yield (*prefix, name)


def build(paths: Iterator[Path] | set[Path]) -> FieldSet:
    """Return the set of the leaves given."""
    fields: FieldSet = {}
    for path in sorted(paths):
        inner = fields
        for name in path:
            inner = inner.setdefault(name, {})
    return fields


def value_at(obj: Any, path: Path) -> tuple[bool, Any]:
    """Return whether an object has a field, and its value."""
    for name in path:
        if name == _SELF:
            return True, None
        found, obj = _step(obj, name)
        if not found:
            return False, None
    return True, obj


def _step(obj: Any, name: str) -> tuple[bool, Any]:
    if name.startswith("f:"):
        key = name[2:]
        return (True, obj[key]) if isinstance(obj, dict) and key in obj else (False, None)
    if not isinstance(obj, list):
        return False, None
    wanted = json.loads(name[2:])
    if name.startswith("v:"):
        return wanted in obj, wanted
    for item in obj:
        if isinstance(item, dict) and item_name(item, tuple(wanted)) == name:
            return True, item
    return False, None


def remove(obj: Any, path: Path) -> None:
    """Take a field out of an object; parents that are left empty go too."""
    *parents, last = path
    chain = [obj]
    for name in parents:
        found, inner = _step(chain[-1], name)
        if not found:
            return
        chain.append(inner)
    if last == _SELF:
        if len(chain) > 1 and isinstance(chain[-2], list) and chain[-1] in chain[-2]:
            chain[-2].remove(chain[-1])
        chain.pop()
        parents.pop()
    elif last.startswith("f:"):
        if isinstance(chain[-1], dict):
            chain[-1].pop(last[2:], None)
    else:
        found, item = _step(chain[-1], last)
        if found:
            chain[-1].remove(item)
    while len(chain) > 1 and not chain[-1] and parents[-1].startswith("f:"):
        chain.pop()
        chain[-1].pop(parents.pop()[2:], None)


def merged(live: Any, wanted: Any, kind: str, place: tuple[str, str] | None = None) -> Any:
    """Return the live value with the wanted one merged in, list items told apart by their keys."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        if kind in keys.ATOMIC_TYPES or place in keys.ATOMIC_MAPS:
            return wanted
        result = dict(live)
        for key, value in wanted.items():
            inner = "V1ObjectMeta" if key == "metadata" and place is None else types.step(kind, key)
            result[key] = merged(live.get(key), value, inner, (kind, key)) if key in live else value
        return result
    if isinstance(wanted, list) and isinstance(live, list) and place in keys.APPLY:
        return _merged_list(live, wanted, types.item(kind), keys.APPLY[place])
    return wanted


def _merged_list(live: list[Any], wanted: list[Any], kind: str, names: tuple[str, ...]) -> list[Any]:
    if not names:
        return live + [item for item in wanted if item not in live]
    asked = {item_name(item, names): item for item in wanted if isinstance(item, dict)}
    result = []
    for item in live:
        given = asked.pop(item_name(item, names), None)
        # The place of an item is that of no list, so that it is merged as a structure.
        result.append(item if given is None else merged(item, given, kind, (kind, "")))
    return result + list(asked.values())
