"""Keeps the numbered pods of a StatefulSet: NAME-0, NAME-1, ... in order, or at once with Parallel. No volumes."""

from __future__ import annotations

from typing import Final

import msgspec

from kuberouterpy.lab.client import PODS, STATEFUL_SETS, Key, Object, Resource, key_of
from kuberouterpy.lab.controllers.loop import Api, Controller, View
from kuberouterpy.lab.controllers.objects import active, controller_of, finished, owned, ready, report
from kuberouterpy.lab.controllers.templates import pod_from, template_hash

HASH_LABEL: Final = "controller-revision-hash"
_INDEX_LABEL: Final = "apps.kubernetes.io/pod-index"
_NAME_LABEL: Final = "statefulset.kubernetes.io/pod-name"


class Plan(msgspec.Struct, frozen=True):
    """What a StatefulSet needs next."""

    create: list[int]
    """Numbers of the pods to make."""
    delete: list[Object]
    """Pods that go."""


def controller() -> Controller:
    """Return the controller."""
    return Controller("statefulsets", _affected, _reconcile)


def plan(stateful_set: Object, pods: dict[str, Object]) -> Plan:
    """Return the next step: make the first that is missing, delete the last that is too much, renew the last outdated.

    One at a time, and only while all before it are ready; all at once with ``podManagementPolicy: Parallel``.
    Shapes: ``pods`` are those the set owns, by name.
    """
    name, spec = stateful_set["metadata"]["name"], stateful_set["spec"]
    names = [f"{name}-{number}" for number in range(spec.get("replicas", 1))]
    parallel = spec.get("podManagementPolicy") == "Parallel"
    step = None if parallel else 1
    over = [pod for pod in pods.values() if finished(pod) and not pod["metadata"].get("deletionTimestamp")]
    missing = [number for number, one in enumerate(names) if one not in pods]
    if over or missing:
        blocked = not parallel and missing and any(not ready(pods[one]) for one in names[: missing[0]])
        return Plan([] if blocked else missing[:step], over)
    if not parallel and any(not (active(pods[one]) and ready(pods[one])) for one in names):
        return Plan([], [pod for pod in _outdated(stateful_set, pods, names) if not ready(pod) and active(pod)][:1])
    surplus = sorted(pods.keys() - set(names), key=_number, reverse=True)
    if surplus:
        leaving = any(not active(pods[one]) for one in surplus)
        return Plan([], [] if leaving and not parallel else [pods[one] for one in surplus if active(pods[one])][:step])
    return Plan([], [pod for pod in _outdated(stateful_set, pods, names) if active(pod)][:1])


def _outdated(stateful_set: Object, pods: dict[str, Object], names: list[str]) -> list[Object]:
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return []
    first = (strategy.get("rollingUpdate") or {}).get("partition") or 0
    label = template_hash(stateful_set)
    return [pods[one] for one in reversed(names[first:]) if pods[one]["metadata"]["labels"].get(HASH_LABEL) != label]


def _number(name: str) -> int:
    text = name.rpartition("-")[2]
    return int(text) if text.isdecimal() else -1


def _status(stateful_set: Object, pods: list[Object]) -> Object:
    label = template_hash(stateful_set)
    serving = sum(map(ready, pods))
    updated = sum(pod["metadata"]["labels"].get(HASH_LABEL) == label for pod in pods)
    before = (stateful_set.get("status") or {}).get("currentRevision", label)
    complete = updated == len(pods) == serving
    return {
        "observedGeneration": stateful_set["metadata"].get("generation", 1),
        "replicas": len(pods),
        "readyReplicas": serving,
        "availableReplicas": serving,
        "currentReplicas": updated if complete else len(pods) - updated,
        "updatedReplicas": updated,
        "currentRevision": label if complete else before,
        "updateRevision": label,
    }


def _affected(_view: View, resource: Resource, item: Object) -> list[Key]:
    if resource == STATEFUL_SETS:
        return [key_of(item)]
    owner = controller_of(item) if resource == PODS else None
    return [(key_of(item)[0], owner["name"])] if owner and owner["kind"] == STATEFUL_SETS.kind else []


def _reconcile(view: View, api: Api, key: Key) -> None:
    stateful_set = view.get(STATEFUL_SETS, key)
    if stateful_set is None or stateful_set["metadata"].get("deletionTimestamp"):
        return
    todo = plan(stateful_set, {pod["metadata"]["name"]: pod for pod in owned(view.all(PODS, key[0]), stateful_set)})
    for pod in todo.delete:
        api.delete(PODS, pod)
    for number in todo.create:
        name = f"{key[1]}-{number}"
        own = {HASH_LABEL: template_hash(stateful_set), _NAME_LABEL: name, _INDEX_LABEL: str(number)}
        made = pod_from(STATEFUL_SETS, stateful_set, **own)
        made["metadata"]["name"] = made["spec"]["hostname"] = name
        made["spec"]["subdomain"] = stateful_set["spec"].get("serviceName", "")
        api.create(PODS, made)
    pods = [pod for pod in owned(view.all(PODS, key[0]), stateful_set) if not finished(pod)]
    report(api, STATEFUL_SETS, stateful_set, _status(stateful_set, pods))
