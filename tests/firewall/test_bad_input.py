"""Policies at the edge of what the API takes and beyond: isolated or skipped, never open, never in the way of others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from firewall.policies import AUDIT
from kuberouterpy.cluster import ClusterNetworkPolicy, IpBlock, Kind, NetworkPolicy, PolicyRule, Record, Ref
from kuberouterpy.dataplane import Chain, Entry, Set
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from kuberouterpy.sources.decode import Decoded, decode
from tests.firewall.world import Cluster, by_owner, filled, host, merged, namespace, pod, policy
from tests.oracle.networkpolicy import Flow

A = pod("x/a", addresses=("10.1.0.5", "fd00:1::5"), labels={"app": "a"})
B = pod("x/b", addresses=("10.1.0.6", "fd00:1::6"), labels={"app": "b"})
BASE: tuple[Record, ...] = (namespace("x"), A, B)
TO_A = (Flow("10.1.0.6", "10.1.0.5", "tcp", 80), Flow("fd00:1::6", "fd00:1::5", "tcp", 80))
TO_B = (Flow("10.1.0.5", "10.1.0.6", "tcp", 80), Flow("fd00:1::5", "fd00:1::6", "tcp", 80))
SELECT_A = {"matchLabels": {"app": "a"}}


def read(kind: Kind, name: str, spec: Any, **meta: Any) -> Decoded:
    metadata = {"name": name, "uid": "u", **({"namespace": "x"} if kind is NetworkPolicy else {}), **meta}
    return decode(kind, json.dumps({"metadata": metadata, "spec": spec}).encode())


def arrives(flows: tuple[Flow, ...], *records: Record) -> set[bool]:
    """Return what becomes of some flows with more records, by the rules and by the oracle, which must agree."""
    cluster = Cluster((*BASE, *records))
    found = {(cluster.oracle.allowed(flow), cluster.connect(flow)[0]) for flow in flows}
    assert all(one == other for one, other in found)
    return {one for one, _ in found}


@pytest.mark.parametrize(
    "spec",
    [
        {"ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]}]},
        {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}]},
        {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["192.0.2.0/24"]}}]}]},
        {"ingress": [{"from": [{}]}]},
        {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]},
        {"ingress": [{"ports": [{"port": 0}]}]},
        {"ingress": [{"ports": [{"port": 80, "endPort": 79}]}]},
        {"ingress": [{"ports": [{"port": "http", "endPort": 80}]}]},
        {"ingress": [{"ports": [{"protocol": "GRE"}]}]},
        {"ingress": "all"},
        {"ingress": [{"to": [{"podSelector": {}}]}]},
        {"policyTypes": ["Ingress", "Sideways"], "ingress": [{}]},
    ],
)
def test_a_policy_with_an_invalid_field_isolates_whom_it_selects_and_nobody_else(spec: dict[str, Any]) -> None:
    decoded = read(NetworkPolicy, "bad", {"podSelector": SELECT_A, **spec})
    assert decoded.record is None
    assert decoded.problems
    assert decoded.isolating is not None
    assert decoded.rejection is not None, "whoever wrote it is told by an Event"
    assert (decoded.rejection.kind, decoded.rejection.uid) == (NetworkPolicy, "u")
    assert arrives(TO_A, decoded.isolating) == {False}
    assert arrives(TO_B, decoded.isolating) == {True}


def test_a_policy_that_does_not_say_whom_it_selects_is_skipped_and_told() -> None:
    bad = {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["a"]}]}
    decoded = read(NetworkPolicy, "bad", {"podSelector": bad, "ingress": []})
    assert (decoded.record, decoded.isolating) == (None, None)
    assert "podSelector" in decoded.problems[0]


def test_ten_thousand_blocks_are_one_set_and_one_rule() -> None:
    blocks = [{"ipBlock": {"cidr": f"172.{16 + n // 4096}.{n // 16 % 256}.{n % 16 * 16}/28"}} for n in range(10_000)]
    blocks[-1] = {"ipBlock": {"cidr": "10.1.0.6/32"}}
    decoded = read(NetworkPolicy, "many", {"podSelector": SELECT_A, "ingress": [{"from": blocks}]})
    assert isinstance(decoded.record, NetworkPolicy)
    objects = merged(by_owner(filled((*BASE, decoded.record)), host("node-0"))).values()
    (name,) = {one.key.set for one in objects if isinstance(one, Entry) and one.key.set.startswith("KUBE-SRC-")}
    assert sum(1 for one in objects if isinstance(one, Entry) and one.key.set == name) == 10_000
    (made,) = (one for one in objects if isinstance(one, Set) and one.key.name == name)
    assert made.max_elements >= 10_000
    chains = [one for one in objects if isinstance(one, Chain) and one.key.name.startswith("KUBE-NWPLCY")]
    assert sorted(len(one.rules) for one in chains) == [0, 1]
    assert arrives(TO_A[:1], decoded.record) == {True}
    assert arrives(TO_A[1:], decoded.record) == {False}


def test_names_of_three_hundred_characters_fit_the_kernel() -> None:
    long = "n" * 300
    here = pod(f"{long}/{long}", addresses=("10.1.0.9",), labels={"app": "a"})
    peers = (PodSelector(selector({"k" * 63: "v" * 63}), namespaces=selector({"kubernetes.io/metadata.name": long})),)
    records = (
        namespace(long),
        here,
        policy(f"{long}/{long}", EVERYTHING, ingress=(PolicyRule(peers),), egress=()),
        policy(f"{long}/{long[1:]}", EVERYTHING, ingress=(), annotations={AUDIT: "true"}),
    )
    assert arrives((Flow("10.1.0.6", "10.1.0.9", "tcp", 80),), *records) == {False}
    assert arrives(TO_A, *records) == {True}


def test_selectors_of_nothing_and_of_everything() -> None:
    nobody = selector({"app": "nobody"})
    assert arrives(TO_A, policy("x/none", nobody, ingress=())) == {True}
    assert arrives(TO_A, policy("x/all", EVERYTHING, ingress=())) == {False}
    from_nobody = PolicyRule((PodSelector(nobody, "x"),))
    assert arrives(TO_A, policy("x/all", EVERYTHING, ingress=(from_nobody,))) == {False}
    from_all = PolicyRule((PodSelector(EVERYTHING, namespaces=EVERYTHING),))
    assert arrives(TO_A, policy("x/all", EVERYTHING, ingress=(from_all,))) == {True}


def test_a_block_that_excepts_itself_allows_nobody() -> None:
    itself = IpBlock("10.0.0.0/8", ("10.0.0.0/9", "10.128.0.0/9"))
    assert arrives(TO_A[:1], policy("x/p", EVERYTHING, ingress=(PolicyRule((itself,)),))) == {False}


@pytest.mark.parametrize("tier", ["Admin", "Baseline"])
def test_what_a_cluster_policy_cannot_say_denies_and_never_accepts(tier: str) -> None:
    def made(*rules: dict[str, Any]) -> ClusterNetworkPolicy:
        spec = {"tier": tier, "priority": 1, "subject": {"namespaces": {}}, "ingress": list(rules)}
        decoded = read(ClusterNetworkPolicy, "newer", spec)
        assert decoded.problems
        assert isinstance(decoded.record, ClusterNetworkPolicy)
        assert decoded.record.ref == Ref("", "newer")
        assert decoded.rejection is not None, "whoever wrote it is told by an Event"
        assert (decoded.rejection.kind, decoded.rejection.uid) == (ClusterNetworkPolicy, "u")
        return decoded.record

    unknown = [{"services": {"name": "web"}}]
    assert arrives(TO_A, made({"action": "Deny", "from": unknown})) == {False}
    assert arrives(TO_A, made({"action": "Pass", "from": unknown})) == {False}
    deny_all = {"action": "Deny", "from": [{"namespaces": {}}]}
    assert arrives(TO_A, made({"action": "Accept", "from": unknown}, deny_all)) == {False}
    assert arrives(TO_A, made({"action": "Accept", "from": unknown})) == {True}
