"""What the server itself writes into ``metadata``: names, uids, times, generations."""

from __future__ import annotations

import random
import time
import uuid
from typing import Final

from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.resources import Resource

_SUFFIX: Final = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so that no words appear
_MAX_BASE: Final = 58  # 63 for a DNS label, less the suffix
_ORDER: Final = ("name", "generateName", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp")
_SERVER_OWNED: Final = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def now(offset_s: float = 0.0) -> str:
    """Return the time as API objects carry it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + offset_s))


def micro_now() -> str:
    """Return the time with microseconds (leases, events)."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"


def generated(base: str) -> str:
    """Return a name from a ``generateName``."""
    return base[:_MAX_BASE] + "".join(random.choices(_SUFFIX, k=5))


def envelope(obj: JsonObject, resource: Resource) -> JsonObject:
    """Return the object with ``apiVersion``, ``kind`` and ``metadata`` first, as people expect to read it."""
    rest = {key: value for key, value in obj.items() if key not in {"apiVersion", "kind", "metadata"}}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": obj.get("metadata") or {}, **rest}


def fill_new(meta: JsonObject, resource: Resource, namespace: str) -> JsonObject:
    """Return the metadata of a new object."""
    given = {key: value for key, value in meta.items() if key not in {*_SERVER_OWNED, "resourceVersion", "selfLink"}}
    if not given.get("name") and isinstance(given.get("generateName"), str) and given["generateName"]:
        given["name"] = generated(given["generateName"])
    if namespace:
        given["namespace"] = namespace
    given["uid"] = str(uuid.uuid4())
    given["creationTimestamp"] = now()
    given["resourceVersion"] = ""
    if resource.generation:
        given["generation"] = 1
    return ordered(given)


def ordered(meta: JsonObject) -> JsonObject:
    """Return the metadata with the fields that identify first."""
    return {key: meta[key] for key in _ORDER if key in meta} | meta


def carry_over(old: JsonObject, new: JsonObject) -> JsonObject:
    """Return the new metadata with what no client may change taken from the old."""
    kept = {key: value for key, value in new.items() if key not in {*_SERVER_OWNED, "selfLink"}}
    kept |= {key: old[key] for key in _SERVER_OWNED if key in old}
    if "namespace" in old:
        kept["namespace"] = old["namespace"]
    kept["name"] = old["name"]
    if "generateName" in old:
        kept.setdefault("generateName", old["generateName"])
    return ordered(kept)


def bump_generation(old: JsonObject, new: JsonObject, resource: Resource) -> None:
    """Count a change of anything but metadata and status."""
    if resource.generation and _wish(old) != _wish(new):
        new["metadata"]["generation"] = int(old["metadata"].get("generation") or 0) + 1


def _wish(obj: JsonObject) -> JsonObject:
    return {key: value for key, value in obj.items() if key not in {"metadata", "status"}}
