"""Small questions that every controller asks of API objects."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import msgspec

from kuberouterpy.lab.client import Object, Resource, key_of
from kuberouterpy.labels import Selector, selector, term

if TYPE_CHECKING:
    from kuberouterpy.lab.controllers.loop import Api


def condition(item: Object, kind: str) -> str:
    """Return the status of a condition: True, False, Unknown, or empty where it is not set."""
    for one in item.get("status", {}).get("conditions") or []:
        if one.get("type") == kind:
            return str(one.get("status", ""))
    return ""


def ready(pod: Object) -> bool:
    """Return whether the pod is Ready."""
    return condition(pod, "Ready") == "True"


def turned_ready(pod: Object) -> str:
    """Return when the Ready condition last turned; the pod's creation where it never did."""
    for one in pod.get("status", {}).get("conditions") or []:
        if one.get("type") == "Ready" and one.get("lastTransitionTime"):
            return str(one["lastTransitionTime"])
    return str(pod["metadata"].get("creationTimestamp", ""))


def finished(pod: Object) -> bool:
    """Return whether the pod ran to its end: it never becomes an endpoint again and holds no place."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def active(pod: Object) -> bool:
    """Return whether the pod counts as a replica: neither finished nor on its way out."""
    return not finished(pod) and not pod["metadata"].get("deletionTimestamp")


def controller_of(item: Object) -> Object | None:
    """Return the owner reference that says controller, if there is one."""
    for owner in item["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            return dict(owner)
    return None


def owner_uid(item: Object) -> str:
    """Return the uid of the controlling owner, or nothing."""
    owner = controller_of(item)
    return str(owner["uid"]) if owner else ""


def owned(items: list[Object], owner: Object) -> list[Object]:
    """Return the items that this object controls."""
    return [item for item in items if owner_uid(item) == owner["metadata"]["uid"]]


def reference(resource: Resource, owner: Object) -> Object:
    """Return the controlling owner reference to an object."""
    return {
        "apiVersion": resource.version,
        "kind": resource.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def parse_selector(raw: Object | None) -> Selector:
    """Return the selector of a ``matchLabels``/``matchExpressions`` object. Errors: ValueError."""
    raw = raw or {}
    terms = (
        term(one["key"], one["operator"], tuple(one.get("values") or ())) for one in raw.get("matchExpressions") or []
    )
    return selector(raw.get("matchLabels"), tuple(terms))


def short_hash(value: Any) -> str:
    """Return ten letters and digits that stand for a value, the same for the same value in any key order."""
    digest = hashlib.sha256(msgspec.json.encode(value, order="deterministic")).digest()
    return "".join("bcdfghjklmnpqrstvwxz2456789"[byte % 27] for byte in digest[:10])


def report(api: Api, resource: Resource, item: Object, status: Object) -> None:
    """Write a status if it says anything new."""
    before = item.get("status") or {}
    if any(before.get(name) != value for name, value in status.items()):
        api.patch(resource, key_of(item), {"status": status}, subresource="status")


def with_condition(item: Object, kind: str, *, holds: bool, reason: str) -> Object:
    """Return a condition for ``item``'s status, keeping its times where it did not turn."""
    value = "True" if holds else "False"
    for one in item.get("status", {}).get("conditions") or []:
        if one["type"] == kind and one["status"] == value:
            return {**one, "reason": reason}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"type": kind, "status": value, "reason": reason, "lastUpdateTime": now, "lastTransitionTime": now}
