"""Keeps one pod of a DaemonSet on every node that admits it; a new template replaces them one node after another."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Final

import msgspec

from kuberouterpy.lab.client import DAEMON_SETS, NODES, PODS, Key, Object, Resource, key_of
from kuberouterpy.lab.controllers.loop import Api, Controller, View
from kuberouterpy.lab.controllers.objects import active, controller_of, owned, ready, report
from kuberouterpy.lab.controllers.scheduler import selects, tolerates
from kuberouterpy.lab.controllers.templates import pod_from, share, template_hash

HASH_LABEL: Final = "controller-revision-hash"
_TOLERATED: Final = (
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/unschedulable",
)


class Plan(msgspec.Struct, frozen=True):
    """What a DaemonSet needs."""

    create: list[str]
    """Nodes that get a pod."""
    delete: list[Object]
    """Pods that go."""


def controller() -> Controller:
    """Return the controller."""
    return Controller("daemonsets", _affected, _reconcile)


def plan(daemon_set: Object, nodes: Iterable[Object], pods: Iterable[Object]) -> Plan:
    """Return the nodes without a pod and the pods without a right: of the wrong node, double, finished or outdated.

    Of the outdated only as many go as ``maxUnavailable`` leaves.
    """
    wanted = {node["metadata"]["name"] for node in nodes if admits(daemon_set, node)}
    here: dict[str, Object] = {}
    delete: list[Object] = []
    leaving: set[str] = set()
    for pod in sorted(pods, key=lambda one: (not ready(one), one["metadata"]["name"])):
        name = pod["spec"].get("nodeName", "")
        if pod["metadata"].get("deletionTimestamp"):
            leaving.add(name)
        elif name not in wanted or name in here or not active(pod):
            delete.append(pod)
        else:
            here[name] = pod
    unready = sum(not ready(pod) for pod in here.values()) + len(wanted - here.keys())
    label = template_hash(daemon_set)
    for pod in _outdated(daemon_set, here.values(), label):
        if ready(pod) and unready >= _unavailable(daemon_set, len(wanted)):
            continue
        unready += ready(pod)
        delete.append(pod)
    return Plan(sorted(wanted - here.keys() - leaving), delete)


def admits(daemon_set: Object, node: Object) -> bool:
    """Return whether the node gets a pod; cordoned and not yet Ready nodes do."""
    spec = copy.deepcopy(daemon_set["spec"]["template"]["spec"])
    spec["tolerations"] = [
        *(spec.get("tolerations") or []),
        *({"key": key, "operator": "Exists"} for key in _TOLERATED),
    ]
    return selects(spec, node) and tolerates(spec, node)


def _outdated(daemon_set: Object, pods: Iterable[Object], label: str) -> list[Object]:
    if (daemon_set["spec"].get("updateStrategy") or {}).get("type") == "OnDelete":
        return []
    return [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(HASH_LABEL) != label]


def _unavailable(daemon_set: Object, nodes: int) -> int:
    given = (daemon_set["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    return max(1, share(given.get("maxUnavailable"), nodes, 1, up=True))


def _status(daemon_set: Object, nodes: list[Object], pods: list[Object]) -> Object:
    wanted = {node["metadata"]["name"] for node in nodes if admits(daemon_set, node)}
    right = [pod for pod in pods if active(pod) and pod["spec"].get("nodeName") in wanted]
    serving = sum(map(ready, right))
    label = template_hash(daemon_set)
    return {
        "observedGeneration": daemon_set["metadata"].get("generation", 1),
        "desiredNumberScheduled": len(wanted),
        "currentNumberScheduled": len({pod["spec"]["nodeName"] for pod in right}),
        "numberMisscheduled": sum(active(pod) for pod in pods) - len(right),
        "numberReady": serving,
        "numberAvailable": serving,
        "numberUnavailable": len(wanted) - serving,
        "updatedNumberScheduled": sum(pod["metadata"]["labels"].get(HASH_LABEL) == label for pod in right),
    }


def _affected(view: View, resource: Resource, item: Object) -> list[Key]:
    if resource == DAEMON_SETS:
        return [key_of(item)]
    if resource == NODES:
        return [key_of(one) for one in view.all(DAEMON_SETS)]
    owner = controller_of(item) if resource == PODS else None
    return [(key_of(item)[0], owner["name"])] if owner and owner["kind"] == DAEMON_SETS.kind else []


def _reconcile(view: View, api: Api, key: Key) -> None:
    daemon_set = view.get(DAEMON_SETS, key)
    if daemon_set is None or daemon_set["metadata"].get("deletionTimestamp"):
        return
    nodes = view.all(NODES)
    todo = plan(daemon_set, nodes, owned(view.all(PODS, key[0]), daemon_set))
    for pod in todo.delete:
        api.delete(PODS, pod)
    for name in todo.create:
        made = pod_from(DAEMON_SETS, daemon_set, **{HASH_LABEL: template_hash(daemon_set)})
        made["metadata"]["generateName"] = f"{key[1]}-"
        made["spec"]["nodeName"] = name
        api.create(PODS, made)
    report(api, DAEMON_SETS, daemon_set, _status(daemon_set, nodes, owned(view.all(PODS, key[0]), daemon_set)))
