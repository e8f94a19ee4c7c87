"""Deployments, ReplicaSets, DaemonSets and StatefulSets: what each does next."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.lab.controllers import daemonsets, deployments, replicasets, statefulsets
from kuberouterpy.lab.controllers.deployments import Old, rolling
from kuberouterpy.lab.controllers.templates import share, template_hash

Object = dict[str, Any]


def pod(name: str, *, ready: bool = True, node: str = "a", leaving: bool = False, label: str = "") -> Object:
    meta: Object = {"namespace": "default", "name": name, "labels": {"controller-revision-hash": label}}
    if leaving:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    return {"metadata": meta, "spec": {"nodeName": node} if node else {}, "status": status}


sizes = st.integers(0, 6)


@given(sizes, sizes, sizes, st.integers(0, 3), st.integers(0, 3))
def test_a_rolling_update_keeps_its_bounds_and_ends(old: int, new: int, wanted: int, surge: int, spare: int) -> None:
    """Every pod that is asked for becomes available between steps, as in a healthy cluster."""
    sets = {"new": min(new, wanted), "old": old}
    for _ in range(40):
        before = dict(sets)
        sets = rolling(
            wanted, surge, spare, Old("new", before["new"], before["new"]), [Old("old", before["old"], before["old"])]
        )
        total, had = sum(sets.values()), sum(before.values())
        assert total <= max(wanted + surge, had)
        lost = max(0, before["old"] - sets["old"])
        kept = had - lost - max(0, before["new"] - sets["new"])
        assert kept >= min(had, wanted - max(spare, 0 if surge else 1))
    assert {"new": wanted, "old": 0} == sets


def test_a_roll_out_whose_new_pods_do_not_come_up_stops_at_the_bound() -> None:
    sets = {"new": 0, "old": 4}
    for _ in range(5):
        sets = rolling(4, 1, 1, Old("new", sets["new"], 0), [Old("old", sets["old"], sets["old"])])
    assert sets == {"new": 2, "old": 3}


def test_recreate_waits_for_the_old_to_be_gone() -> None:
    assert deployments.recreate(3, Old("new", 0, 0), [Old("old", 3, 3)], 3) == {"new": 0, "old": 0}
    assert deployments.recreate(3, Old("new", 0, 0), [Old("old", 0, 0)], 0) == {"new": 3, "old": 0}


def test_percentages_round_surge_up_and_unavailable_down() -> None:
    assert (share("25%", 3, 0, up=True), share(None, 3, "25%", up=False), share(2, 3, 0, up=True)) == (1, 0, 2)


def test_the_replica_set_carries_the_hash_in_name_labels_and_selector() -> None:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {}}
    meta = {"namespace": "default", "name": "web", "uid": "u"}
    deployment = {"metadata": meta, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}}
    made = deployments.replica_set(deployment, 1)
    label = template_hash(deployment)
    assert f"web-{label}" == made["metadata"]["name"]
    assert {"app": "web", "pod-template-hash": label} == made["spec"]["selector"]["matchLabels"]
    assert made["spec"]["selector"]["matchLabels"] == made["spec"]["template"]["metadata"]["labels"]


def test_the_surplus_pods_are_those_that_serve_least() -> None:
    pods = [pod("serving"), pod("not-ready", ready=False), pod("unbound", ready=False, node="")]
    assert [one["metadata"]["name"] for one in replicasets.surplus(pods, 1)] == ["unbound", "not-ready"]


def daemon_set(**spec: Any) -> Object:
    return {"metadata": {"namespace": "default", "name": "ds"}, "spec": {"template": {"spec": spec}}}


def node(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}, "spec": {}}


def test_a_daemon_set_has_one_pod_per_admitted_node() -> None:
    ds = daemon_set(nodeSelector={"role": "x"})
    label = template_hash(ds)
    nodes = [node("a", role="x"), node("b"), node("c", role="x"), node("d", role="x")]
    pods = [pod("p1", node="a", label=label), pod("p2", node="b", label=label), pod("p3", node="d", leaving=True)]
    plan = daemonsets.plan(ds, nodes, pods)
    assert (plan.create, [one["metadata"]["name"] for one in plan.delete]) == (["c"], ["p2"])


def test_a_new_daemon_set_template_replaces_one_pod_at_a_time() -> None:
    ds = daemon_set()
    nodes = [node("a"), node("b")]
    pods = [pod("p1", node="a", label="old"), pod("p2", node="b", label="old")]
    assert [one["metadata"]["name"] for one in daemonsets.plan(ds, nodes, pods).delete] == ["p1"]
    assert daemonsets.plan(ds, nodes, [pods[1]]).delete == []


def stateful_set(replicas: int, **spec: Any) -> Object:
    return {"metadata": {"namespace": "default", "name": "db"}, "spec": {"replicas": replicas, "template": {}, **spec}}


def step(one: Object, *pods: Object) -> tuple[list[int], list[str]]:
    plan = statefulsets.plan(one, {found["metadata"]["name"]: found for found in pods})
    return plan.create, [found["metadata"]["name"] for found in plan.delete]


def test_a_stateful_set_grows_in_order_and_shrinks_in_reverse() -> None:
    label = template_hash(stateful_set(0))
    zero, one, two = (pod(f"db-{number}", label=label) for number in range(3))
    assert step(stateful_set(3)) == ([0], [])
    assert step(stateful_set(3), zero) == ([1], [])
    assert step(stateful_set(3), pod("db-0", ready=False, label=label)) == ([], [])
    assert step(stateful_set(3), zero, one, two) == ([], [])
    assert step(stateful_set(1), zero, one, two) == ([], ["db-2"])
    assert step(stateful_set(3, podManagementPolicy="Parallel")) == ([0, 1, 2], [])


def test_a_new_stateful_set_template_renews_from_the_end() -> None:
    pods = [pod("db-0", label="old"), pod("db-1", label="old")]
    assert step(stateful_set(2), *pods) == ([], ["db-1"])
