"""Where pods go."""

from __future__ import annotations

from typing import Any

import pytest

from kuberouterpy.lab.controllers.scheduler import fits, place, starting

Object = dict[str, Any]


def node(name: str, *, ready: bool = True, labels: Object | None = None, **spec: Any) -> Object:
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": status}


def pod(name: str = "p", *, owner: str = "", phase: str = "Running", **spec: Any) -> Object:
    owners = [{"controller": True, "kind": "ReplicaSet", "name": owner, "uid": owner}] if owner else []
    meta = {"namespace": "default", "name": name, "ownerReferences": owners}
    return {"metadata": meta, "spec": spec, "status": {"phase": phase}}


NODES = [node("a"), node("b"), node("c")]


def test_pods_of_one_owner_are_spread_before_the_load_is() -> None:
    pods = [pod(owner="web", nodeName="a"), pod(nodeName="b"), pod(nodeName="b"), pod(nodeName="c")]
    assert place(pod(owner="web"), NODES, pods) == "c"
    assert place(pod(owner="db"), NODES, pods) == "a"


def test_finished_pods_take_no_place() -> None:
    assert place(pod(), NODES, [pod(nodeName="a", phase="Succeeded"), pod(nodeName="b")]) == "a"


def test_host_ports_are_not_shared() -> None:
    wants: Object = {"containers": [{"ports": [{"hostPort": 80}]}]}
    assert (
        place(
            pod(**wants), NODES, [pod(nodeName="a", **wants), pod(nodeName="b"), pod(nodeName="c"), pod(nodeName="c")]
        )
        == "b"
    )


TAINT = [{"key": "k", "value": "v", "effect": "NoSchedule"}]
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
        }
    }
}


@pytest.mark.parametrize(
    ("spec", "there", "expected"),
    [
        ({}, node("a"), True),
        ({}, node("a", ready=False), False),
        ({}, node("a", unschedulable=True), False),
        ({"tolerations": [{"operator": "Exists"}]}, node("a", unschedulable=True), True),
        ({"nodeSelector": {"disk": "ssd"}}, node("a"), False),
        ({"nodeSelector": {"disk": "ssd"}}, node("a", labels={"disk": "ssd"}), True),
        ({"affinity": AFFINITY}, node("a", labels={"disk": "hdd"}), False),
        ({"affinity": AFFINITY}, node("a", labels={"disk": "ssd"}), True),
        ({}, node("a", taints=TAINT), False),
        ({"tolerations": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}, node("a", taints=TAINT), True),
        ({"tolerations": [{"key": "k", "value": "w"}]}, node("a", taints=TAINT), False),
        ({"tolerations": [{"key": "k", "operator": "Exists"}]}, node("a", taints=TAINT), True),
        ({}, node("a", taints=[{"key": "k", "effect": "PreferNoSchedule"}]), True),
    ],
)
def test_a_pod_fits_a_ready_node_that_both_accept(spec: Object, there: Object, expected: bool) -> None:
    assert expected == fits(pod(**spec), there)


def test_no_node_is_an_answer() -> None:
    assert place(pod(), [node("a", ready=False)], []) is None


@pytest.mark.parametrize(
    ("ready", "now", "expected"),
    [
        (False, "2026-01-01T00:00:05+00:00", True),
        (False, "2026-01-01T00:05:00+00:00", False),
        (True, "2026-01-01T00:00:05+00:00", False),
    ],
)
def test_pods_wait_for_nodes_that_were_made_a_moment_ago(ready: bool, now: str, expected: bool) -> None:
    """Otherwise the first node to be Ready would get every pod that was applied before the others were."""
    one = node("a", ready=ready)
    one["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    assert starting(one, now) is expected
