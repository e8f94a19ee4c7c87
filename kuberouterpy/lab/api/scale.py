"""The scale subresource: replicas of a workload seen as an ``autoscaling/v1`` Scale."""

from __future__ import annotations

from collections.abc import Callable

from kuberouterpy.lab.api.errors import JsonObject, bad_request


def shown(obj: JsonObject) -> JsonObject:
    """Return the Scale of a workload."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": status.get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def change(scaling: Callable[[JsonObject], JsonObject]) -> Callable[[JsonObject], JsonObject]:
    """Return the change of the workload that a change of its Scale means."""

    def changed(obj: JsonObject) -> JsonObject:
        wanted = scaling(shown(obj))
        replicas = (wanted.get("spec") or {}).get("replicas", 0)
        if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
            raise bad_request(f"spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0")
        version = (wanted.get("metadata") or {}).get("resourceVersion")
        meta = {**obj["metadata"], "resourceVersion": version} if version else obj["metadata"]
        return {**obj, "metadata": meta, "spec": {**obj["spec"], "replicas": replicas}}

    return changed
