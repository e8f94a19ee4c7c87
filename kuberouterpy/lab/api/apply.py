"""Server-side apply: who owns which field, and what happens when two disagree.

Ownership is kept only for objects that were applied once: their first apply notes the fields they had before as owned by
whoever wrote them. Every later write to such an object is noted; other objects cost nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

from kuberouterpy.lab.api import fieldsets
from kuberouterpy.lab.api.errors import JsonObject, StatusError, bad_request
from kuberouterpy.lab.api.fieldsets import Path
from kuberouterpy.lab.api.metadata import now
from kuberouterpy.lab.api.routes import Target
from kuberouterpy.lab.api.schema import types

Change = Callable[[JsonObject], JsonObject]

_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def change(target: Target, wanted: Any, *, manager: str, force: bool) -> Change:
    """Return the change that applying ``wanted`` makes. Errors: 400; the change raises 409 for conflicts."""
    if not isinstance(wanted, dict):
        raise bad_request("the applied configuration is no object")
    wanted = _without_nulls(wanted)
    meta = wanted.setdefault("metadata", {})
    if meta.get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    meta.setdefault("name", target.name)

    def applied(live: JsonObject) -> JsonObject:
        return _applied(target, live, wanted, manager=manager, force=force)

    return applied


def tracking(inner: Change, manager: str, target: Target) -> Change:
    """Return a change that also notes who changed which fields, on objects whose fields have owners."""

    def tracked(old: JsonObject) -> JsonObject:
        before = copy.deepcopy(old) if (old.get("metadata") or {}).get("managedFields") else None
        new = inner(old)
        if before is None or not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
            return new
        return _noted(before, new, manager, target)

    return tracked


def _applied(target: Target, live: JsonObject, wanted: JsonObject, *, manager: str, force: bool) -> JsonObject:
    kind = types.root(target.resource.api_version, target.resource.kind)
    entries = _entries(live, kind)
    mine = _find(entries, manager, "Apply", target.subresource)
    asked = set(fieldsets.leaves(fieldsets.of_object(wanted, kind)))
    owned = set(fieldsets.leaves(mine["fieldsV1"])) if mine else set()
    others = [entry for entry in entries if entry is not mine]
    _settle(target, live, wanted, asked, others, force=force)
    result: JsonObject = fieldsets.merged(live, wanted, kind)
    result = copy.deepcopy(result)
    kept = {path for entry in others for path in fieldsets.leaves(entry["fieldsV1"])}
    # order matters: whole items first, while they can still be found by their keys.
    for path in sorted(owned - asked - kept, key=lambda one: one[-1] != "."):
        if path[-1] != "." or not any(one[: len(path) - 1] == path[:-1] for one in kept | asked):
            fieldsets.remove(result, path)
    others.append(_entry(target, manager, "Apply", asked))
    result["metadata"]["managedFields"] = [entry for entry in others if entry["fieldsV1"]]
    return result


def _settle(
    target: Target, live: JsonObject, wanted: JsonObject, asked: set[Path], others: list[JsonObject], *, force: bool
) -> None:
    """Refuse what others own and would lose; with ``force``, take it from them. Errors: 409."""
    conflicts: list[tuple[str, Path]] = []
    for entry in others:
        theirs = set(fieldsets.leaves(entry["fieldsV1"]))
        lost = {path for path in theirs & asked if fieldsets.value_at(live, path) != fieldsets.value_at(wanted, path)}
        conflicts += [(f'"{entry["manager"]}" using {entry["apiVersion"]}', path) for path in sorted(lost)]
        if force and lost:
            entry["fieldsV1"] = fieldsets.build(theirs - lost)
    if conflicts and not force:
        raise _conflict(target, conflicts)


def _conflict(target: Target, conflicts: list[tuple[str, Path]]) -> StatusError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {owner}", "field": _dotted(path)}
        for owner, path in conflicts
    ]
    listed = "; ".join(f"conflict with {owner}: {_dotted(path)}" for owner, path in conflicts)
    word = "conflict" if len(conflicts) == 1 else "conflicts"
    message = f"Apply failed with {len(conflicts)} {word}: {listed}"
    details = {"name": target.name, "group": target.resource.group, "kind": target.resource.plural, "causes": causes}
    return StatusError(409, "Conflict", message, details=details)


def _dotted(path: Path) -> str:
    return "".join(f".{name[2:]}" if name.startswith("f:") else f"[{name[2:]}]" for name in path if name != ".")


def _noted(old: JsonObject, new: JsonObject, manager: str, target: Target) -> JsonObject:
    """Give the fields that this write changed to its writer."""
    given = new["metadata"].get("managedFields")
    if given is not None and given != old["metadata"]["managedFields"]:
        new["metadata"]["managedFields"] = [entry for entry in given if entry]
        return new  # the client rewrites ownership itself
    kind = types.root(target.resource.api_version, target.resource.kind)
    had = set(fieldsets.leaves(fieldsets.of_object(old, kind)))
    has = set(fieldsets.leaves(fieldsets.of_object(new, kind)))
    changed = {
        path for path in has if path not in had or fieldsets.value_at(old, path) != fieldsets.value_at(new, path)
    }
    if not changed and had == has:
        new["metadata"]["managedFields"] = old["metadata"]["managedFields"]
        return new
    entries = old["metadata"]["managedFields"]
    mine = _find(entries, manager, "Update", target.subresource)
    owned = (set(fieldsets.leaves(mine["fieldsV1"])) if mine else set()) & has
    lost = changed | (had - has)
    kept = []
    for entry in entries:
        if entry is mine:
            continue
        theirs = set(fieldsets.leaves(entry["fieldsV1"]))
        entry["fieldsV1"] = fieldsets.build(theirs - lost)
        kept.append(entry)
    kept.append(_entry(target, manager, "Update", owned | changed))
    new["metadata"]["managedFields"] = [entry for entry in kept if entry["fieldsV1"]]
    return new


def _entries(live: JsonObject, kind: str) -> list[JsonObject]:
    """Return the owners of an object; of one that was never applied, the one who made it."""
    meta = live.get("metadata") or {}
    if meta.get("managedFields"):
        return [dict(entry) for entry in meta["managedFields"] if entry.get("fieldsV1")]
    fields = fieldsets.of_object({key: value for key, value in live.items() if key != "status"}, kind)
    if not fields:
        return []
    client_side = _LAST_APPLIED in (meta.get("annotations") or {})
    return [
        {
            "manager": "kubectl-client-side-apply" if client_side else "before-first-apply",
            "operation": "Update",
            "apiVersion": live.get("apiVersion", "v1"),
            "time": now(),
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        }
    ]


def _find(entries: list[JsonObject], manager: str, operation: str, subresource: str) -> JsonObject | None:
    wanted = (manager, operation, subresource)
    for entry in entries:
        if (entry.get("manager"), entry.get("operation"), entry.get("subresource", "")) == wanted:
            return entry
    return None


def _entry(target: Target, manager: str, operation: str, paths: set[Path]) -> JsonObject:
    entry = {
        "manager": manager,
        "operation": operation,
        "apiVersion": target.resource.api_version,
        "time": now(),
        "fieldsType": "FieldsV1",
        "fieldsV1": fieldsets.build(paths),
    }
    return entry | ({"subresource": target.subresource} if target.subresource else {})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
