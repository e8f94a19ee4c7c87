"""The same stored object in another version: events of two groups, custom resources of several versions."""

from __future__ import annotations

from typing import Final

from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.resources import Resource

_EVENT_FIELDS: Final = (  # (events.k8s.io/v1, core/v1)
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
)


def shown(resource: Resource, obj: JsonObject) -> JsonObject:
    """Return a stored object as this resource shows it."""
    if resource.stored_as == "events":
        return _renamed(obj, {core: new for new, core in _EVENT_FIELDS}, resource.api_version)
    return {**obj, "apiVersion": resource.api_version, "kind": resource.kind}


def stored(resource: Resource, obj: JsonObject) -> JsonObject:
    """Return an object of this resource as it is stored."""
    if resource.stored_as == "events":
        return _renamed(obj, dict(_EVENT_FIELDS), "v1")
    return obj


def _renamed(obj: JsonObject, names: dict[str, str], api_version: str) -> JsonObject:
    return {names.get(key, key): value for key, value in obj.items()} | {"apiVersion": api_version}
