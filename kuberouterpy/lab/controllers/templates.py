"""Pods and labels made from the templates of workloads."""

from __future__ import annotations

import copy

from kuberouterpy.lab.client import Object, Resource
from kuberouterpy.lab.controllers.objects import reference, short_hash


def pod_from(resource: Resource, owner: Object, **labels: str) -> Object:
    """Return a pod of the owner's template, with further labels; its name is still to be given."""
    template = copy.deepcopy(owner["spec"]["template"])
    meta = template.get("metadata") or {}
    return {
        "metadata": {
            "namespace": owner["metadata"]["namespace"],
            "labels": {**(meta.get("labels") or {}), **labels},
            "annotations": meta.get("annotations") or {},
            "ownerReferences": [reference(resource, owner)],
        },
        "spec": template["spec"],
    }


def template_hash(owner: Object) -> str:
    """Return the name of the owner's template as it is now."""
    return short_hash(owner["spec"]["template"])


def share(value: int | str | None, whole: int, default: int | str, *, up: bool) -> int:
    """Return a number of pods given as such or in per cent of ``whole``, rounded ``up`` or down."""
    value = default if value is None else value
    if isinstance(value, int):
        return value
    percent = int(value.removesuffix("%"))
    return -(-whole * percent // 100) if up else whole * percent // 100
