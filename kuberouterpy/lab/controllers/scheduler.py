"""Gives pods without a node one: a Ready node that the pod may run on, with the fewest pods of the same owner, then of any.

Honoured: ``nodeSelector``, required node affinity, taints and tolerations, ``spec.unschedulable``, scheduling gates, and
host ports. Not: resources, pod affinity, priorities; lab pods need none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from kuberouterpy.lab.client import NODES, PODS, ApiError, Key, Object, Resource, key_of
from kuberouterpy.lab.controllers.loop import WHOLE, Api, Controller, View
from kuberouterpy.lab.controllers.objects import condition, finished, owner_uid

_REPELLING: Final = frozenset({"NoSchedule", "NoExecute"})
_START_S: Final = 20.0


def controller() -> Controller:
    """Return the controller."""
    return Controller("scheduler", _affected, _reconcile)


def place(pod: Object, nodes: Iterable[Object], pods: Iterable[Object]) -> str | None:
    """Return the name of the node that gets the pod; none where no node may have it."""
    fitting = [node["metadata"]["name"] for node in nodes if fits(pod, node)]
    placed = [other for other in pods if other["spec"].get("nodeName") and not finished(other)]
    taken = {(other["spec"]["nodeName"], port) for other in placed for port in _host_ports(other)}
    fitting = [name for name in fitting if not any((name, port) in taken for port in _host_ports(pod))]
    everything = Counter(other["spec"]["nodeName"] for other in placed)
    owner = owner_uid(pod)
    alike = Counter(other["spec"]["nodeName"] for other in placed if owner and owner_uid(other) == owner)
    return min(fitting, key=lambda name: (alike[name], everything[name], name), default=None)


def fits(pod: Object, node: Object) -> bool:
    """Return whether the node is Ready and the pod accepts it and is accepted."""
    return (
        condition(node, "Ready") == "True"
        and not node["metadata"].get("deletionTimestamp")
        and selects(pod["spec"], node)
        and tolerates(pod["spec"], node)
    )


def selects(spec: Object, node: Object) -> bool:
    """Return whether nodeSelector and required node affinity admit the node."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if affinity is None:
        return True
    fields = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(_holds(term, labels) for term in alternative.get("matchExpressions") or [])
        and all(_holds(term, fields) for term in alternative.get("matchFields") or [])
        for alternative in affinity.get("nodeSelectorTerms") or []
    )


def tolerates(spec: Object, node: Object) -> bool:
    """Return whether every repelling taint of the node, and being cordoned, is tolerated."""
    taints = [taint for taint in node["spec"].get("taints") or [] if taint.get("effect") in _REPELLING]
    if node["spec"].get("unschedulable"):
        taints.append({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})
    tolerations = spec.get("tolerations") or []
    return all(any(_tolerated(taint, one) for one in tolerations) for taint in taints)


def _tolerated(taint: Object, toleration: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def _holds(term: Object, labels: dict[str, str]) -> bool:
    test = _TESTS.get(term["operator"])
    return test is not None and test(labels.get(term["key"]), term.get("values") or [])


_TESTS: Final[dict[str, Callable[[str | None, list[str]], bool]]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _values: value is not None,
    "DoesNotExist": lambda value, _values: value is None,
    "Gt": lambda value, values: value is not None and int(value) > int(values[0]),
    "Lt": lambda value, values: value is not None and int(value) < int(values[0]),
}


def _host_ports(pod: Object) -> list[tuple[str, int]]:
    spec = pod["spec"]
    ports = [port for container in spec.get("containers") or [] for port in container.get("ports") or []]
    return [(port.get("protocol", "TCP"), port["hostPort"]) for port in ports if port.get("hostPort")]


def _waiting(pod: Object) -> bool:
    spec = pod["spec"]
    gone = pod["metadata"].get("deletionTimestamp") or finished(pod)
    return not (spec.get("nodeName") or spec.get("schedulingGates") or gone)


def _affected(_view: View, resource: Resource, item: Object) -> list[Key]:
    return [WHOLE] if resource == NODES or (resource == PODS and _waiting(item)) else []


def starting(node: Object, now: str) -> bool:
    """Return whether a node was made a moment ago and is not Ready yet: pods wait for it, or the first would get all."""
    if condition(node, "Ready") == "True":
        return False
    born = datetime.fromisoformat(node["metadata"]["creationTimestamp"])
    return (datetime.fromisoformat(now) - born).total_seconds() < _START_S


def _reconcile(view: View, api: Api, _key: Key) -> float | None:
    nodes = view.all(NODES)
    now = datetime.now(UTC).isoformat()
    if any(starting(node, now) for node in nodes):
        return _START_S / 10
    for pod in sorted(filter(_waiting, view.all(PODS)), key=lambda pod: pod["metadata"].get("creationTimestamp", "")):
        node = place(pod, nodes, view.all(PODS))
        if node is None:
            _report(api, pod)
            continue
        try:
            api.bind(pod, node)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
            continue
        # The binding answers no pod; until the watch tells, count it where it will be.
        view.caches[PODS].objects[key_of(pod)] = {**pod, "spec": {**pod["spec"], "nodeName": node}}
    return None


def _report(api: Api, pod: Object) -> None:
    """Say on the pod that no node fits, once."""
    if condition(pod, "PodScheduled") == "False":
        return
    others = [one for one in pod.get("status", {}).get("conditions") or [] if one["type"] != "PodScheduled"]
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "no Ready node fits",
    }
    patch = {
        "metadata": {"resourceVersion": pod["metadata"]["resourceVersion"]},
        "status": {"conditions": [*others, unschedulable]},
    }
    api.patch(PODS, key_of(pod), patch, subresource="status")
