"""Keeps as many pods as a ReplicaSet asks for."""

from __future__ import annotations

from collections.abc import Iterable

from kuberouterpy.lab.client import PODS, REPLICA_SETS, Key, Object, Resource, key_of
from kuberouterpy.lab.controllers.loop import Api, Controller, View
from kuberouterpy.lab.controllers.objects import active, controller_of, owned, ready, report, turned_ready
from kuberouterpy.lab.controllers.templates import pod_from


def controller() -> Controller:
    """Return the controller."""
    return Controller("replicasets", _affected, _reconcile)


def surplus(pods: Iterable[Object], wanted: int) -> list[Object]:
    """Return the pods to delete, those first that serve least: without node, pending, not ready, youngest."""
    pods = sorted(pods, key=_worth)
    return pods[: max(0, len(pods) - wanted)]


def status(replica_set: Object, pods: Iterable[Object]) -> Object:
    """Return the status that goes with these (active) pods."""
    pods = list(pods)
    serving = sum(map(ready, pods))
    return {
        "replicas": len(pods),
        "fullyLabeledReplicas": len(pods),
        "readyReplicas": serving,
        "availableReplicas": serving,
        "observedGeneration": replica_set["metadata"].get("generation", 1),
    }


def _worth(pod: Object) -> tuple[bool, bool, bool, str, str]:
    spec, phase = pod["spec"], pod.get("status", {}).get("phase")
    # Among equals the youngest goes: text that sorts upwards with time, turned over digit by digit.
    age = turned_ready(pod).translate(str.maketrans("0123456789", "9876543210"))
    return bool(spec.get("nodeName")), phase == "Running", ready(pod), age, pod["metadata"]["name"]


def _affected(_view: View, resource: Resource, item: Object) -> list[Key]:
    if resource == REPLICA_SETS:
        return [key_of(item)]
    owner = controller_of(item) if resource == PODS else None
    return [(key_of(item)[0], owner["name"])] if owner and owner["kind"] == REPLICA_SETS.kind else []


def _reconcile(view: View, api: Api, key: Key) -> None:
    replica_set = view.get(REPLICA_SETS, key)
    if replica_set is None or replica_set["metadata"].get("deletionTimestamp"):
        return
    pods = [pod for pod in owned(view.all(PODS, key[0]), replica_set) if active(pod)]
    wanted = replica_set["spec"].get("replicas", 1)
    for _ in range(wanted - len(pods)):
        made = pod_from(REPLICA_SETS, replica_set)
        made["metadata"]["generateName"] = f"{key[1]}-"
        api.create(PODS, made)
    for pod in surplus(pods, wanted):
        api.delete(PODS, pod)
    pods = [pod for pod in owned(view.all(PODS, key[0]), replica_set) if active(pod)]
    report(api, REPLICA_SETS, replica_set, status(replica_set, pods))
