"""Turns a Deployment into ReplicaSets: one per template it ever had, scaled so that a roll-out keeps its promises.

``maxSurge`` and ``maxUnavailable`` bound the roll-out as upstream does; ``Recreate`` empties the old before it fills the
new. Not here: progress deadlines, proportional scaling while a roll-out is under way.
Source: upstream deployment controller, ``rolling.go`` and ``recreate.go`` (the arithmetic).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Final

import msgspec

from kuberouterpy.lab.client import DEPLOYMENTS, REPLICA_SETS, Key, Object, Resource, key_of
from kuberouterpy.lab.controllers.loop import Api, Controller, View
from kuberouterpy.lab.controllers.objects import controller_of, owned, reference, report, with_condition
from kuberouterpy.lab.controllers.templates import share, template_hash

REVISION: Final = "deployment.kubernetes.io/revision"
HASH_LABEL: Final = "pod-template-hash"
_HISTORY: Final = 10


class Old(msgspec.Struct):
    """A ReplicaSet as the arithmetic needs it."""

    name: str
    """Its name."""
    wanted: int
    """Pods it asks for."""
    available: int
    """Pods of it that serve."""


def controller() -> Controller:
    """Return the controller."""
    return Controller("deployments", _affected, _reconcile)


def rolling(wanted: int, surge: int, unavailable: int, new: Old, old: Iterable[Old]) -> dict[str, int]:
    """Return the size of every ReplicaSet for the next step of a rolling update.

    Never more than ``wanted + surge`` pods asked for, and never fewer than ``wanted - unavailable`` serving by our doing.
    """
    old = list(old)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    sizes = {one.name: one.wanted for one in old}
    total = sum(sizes.values()) + new.wanted
    grown = new.wanted
    if new.wanted > wanted:
        grown = wanted
    elif new.wanted < wanted:
        grown += max(0, min(wanted - new.wanted, wanted + surge - total))
    # What may go: whatever is above the minimum, less the new pods that do not serve yet.
    spare = total - max(0, wanted - unavailable) - (new.wanted - min(new.available, new.wanted))
    for idle in (True, False):  # first those that serve nobody, then the oldest
        for one in old:
            limit = sizes[one.name] - min(one.available, one.wanted) if idle else sizes[one.name]
            gone = max(0, min(limit, spare))
            sizes[one.name] -= gone
            spare -= gone
    return {**sizes, new.name: grown}


def recreate(wanted: int, new: Old, old: Iterable[Old], running_old: int) -> dict[str, int]:
    """Return the sizes for Recreate: nothing new before nothing old is left."""
    sizes = {one.name: 0 for one in old}
    return {**sizes, new.name: new.wanted if running_old else wanted}


def status(deployment: Object, new: Object | None, sets: Iterable[Object]) -> Object:
    """Return the Deployment's status from those of its ReplicaSets."""
    states = [one.get("status") or {} for one in sets]
    wanted = deployment["spec"].get("replicas", 1)
    available = sum(state.get("availableReplicas", 0) for state in states)
    updated = ((new or {}).get("status") or {}).get("replicas", 0)
    total = sum(state.get("replicas", 0) for state in states)
    _surge, unavailable = bounds(deployment)
    complete = updated == total == available == wanted
    return {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        "replicas": total,
        "updatedReplicas": updated,
        "readyReplicas": sum(state.get("readyReplicas", 0) for state in states),
        "availableReplicas": available,
        "unavailableReplicas": max(0, max(total, wanted) - available),
        "conditions": [
            with_condition(
                deployment,
                "Available",
                holds=available >= wanted - unavailable,
                reason="MinimumReplicasAvailable"
                if available >= wanted - unavailable
                else "MinimumReplicasUnavailable",
            ),
            with_condition(
                deployment,
                "Progressing",
                holds=True,
                reason="NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
            ),
        ],
    }


def bounds(deployment: Object) -> tuple[int, int]:
    """Return how many pods a roll-out may have too many and too few."""
    given = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    wanted = deployment["spec"].get("replicas", 1)
    surge = share(given.get("maxSurge"), wanted, "25%", up=True)
    return surge, share(given.get("maxUnavailable"), wanted, "25%", up=False)


def replica_set(deployment: Object, revision: int) -> Object:
    """Return the ReplicaSet of the Deployment's present template, without pods."""
    name, label = deployment["metadata"]["name"], template_hash(deployment)
    template = copy.deepcopy(deployment["spec"]["template"])
    meta = template.setdefault("metadata", {})
    meta["labels"] = {**(meta.get("labels") or {}), HASH_LABEL: label}
    selector = copy.deepcopy(deployment["spec"]["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: label}
    return {
        "metadata": {
            "namespace": deployment["metadata"]["namespace"],
            "name": f"{name}-{label}",
            "labels": meta["labels"],
            "annotations": {REVISION: str(revision)},
            "ownerReferences": [reference(DEPLOYMENTS, deployment)],
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    }


def _affected(_view: View, resource: Resource, item: Object) -> list[Key]:
    if resource == DEPLOYMENTS:
        return [key_of(item)]
    owner = controller_of(item) if resource == REPLICA_SETS else None
    return [(key_of(item)[0], owner["name"])] if owner and owner["kind"] == DEPLOYMENTS.kind else []


def _reconcile(view: View, api: Api, key: Key) -> None:
    deployment = view.get(DEPLOYMENTS, key)
    if deployment is None or deployment["metadata"].get("deletionTimestamp"):
        return
    sets = sorted(owned(view.all(REPLICA_SETS, key[0]), deployment), key=_revision)
    label = template_hash(deployment)
    new = next((one for one in sets if (one["metadata"].get("labels") or {}).get(HASH_LABEL) == label), None)
    if not deployment["spec"].get("paused"):
        new = _renewed(api, deployment, new, sets)
        sets = [one for one in sets if key_of(one) != key_of(new)]
        for name, size in _sizes(deployment, new, sets).items():
            _scale(view, api, (key[0], name), size)
        _forget(api, deployment, sets)
        sets = [*sets, new]
    fresh = [view.get(REPLICA_SETS, key_of(one)) or one for one in sets]
    newest = view.get(REPLICA_SETS, key_of(new)) if new else None
    report(api, DEPLOYMENTS, deployment, status(deployment, newest, fresh))


def _renewed(api: Api, deployment: Object, new: Object | None, sets: list[Object]) -> Object:
    """Return the ReplicaSet of the present template, made or given the newest revision."""
    revision = max((_revision(one) for one in sets), default=0)
    if new is None:
        revision += 1
        new = api.create(REPLICA_SETS, replica_set(deployment, revision))
    elif _revision(new) < revision:  # an old template is wanted again
        revision += 1
        patch = {"metadata": {"annotations": {REVISION: str(revision)}}}
        new = api.patch(REPLICA_SETS, key_of(new), patch)
    if (deployment["metadata"].get("annotations") or {}).get(REVISION) != str(revision):
        api.patch(DEPLOYMENTS, key_of(deployment), {"metadata": {"annotations": {REVISION: str(revision)}}})
    return new


def _sizes(deployment: Object, new: Object, old: list[Object]) -> dict[str, int]:
    wanted = deployment["spec"].get("replicas", 1)
    if (deployment["spec"].get("strategy") or {}).get("type") == "Recreate":
        running = sum((one.get("status") or {}).get("replicas", 0) for one in old)
        return recreate(wanted, _old(new), map(_old, old), running)
    surge, unavailable = bounds(deployment)
    return rolling(wanted, surge, unavailable, _old(new), map(_old, old))


def _scale(view: View, api: Api, key: Key, size: int) -> None:
    one = view.get(REPLICA_SETS, key)
    if one is not None and one["spec"].get("replicas", 1) != size:
        api.patch(REPLICA_SETS, key, {"spec": {"replicas": size}})


def _forget(api: Api, deployment: Object, old: list[Object]) -> None:
    """Delete the empty ReplicaSets that are too old to go back to."""
    empty = [one for one in old if not one["spec"].get("replicas") and not (one.get("status") or {}).get("replicas")]
    keep = deployment["spec"].get("revisionHistoryLimit", _HISTORY)
    for one in empty[: max(0, len(empty) - keep)]:
        api.delete(REPLICA_SETS, one)


def _old(one: Object) -> Old:
    state = one.get("status") or {}
    return Old(one["metadata"]["name"], one["spec"].get("replicas", 1), state.get("availableReplicas", 0))


def _revision(one: Object) -> int:
    text = (one["metadata"].get("annotations") or {}).get(REVISION, "0")
    return int(text) if text.isdecimal() else 0
