"""What the model says of a connection is what the oracle says, and its words name the rule and what came near."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall.model import Flow, judge
from firewall.policies import AUDIT, Direction
from kuberouterpy.cluster import Action, ClusterRule, IpBlock, PolicyPort, PolicyRule, Record
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from kuberouterpy.protocol import Protocol
from tests.firewall.world import Cluster, cluster_policy, filled, namespace, node, pod, policy
from tests.oracle.networkpolicy import Flow as OracleFlow
from tests.properties.test_firewall import FLOWS, clusters

CLIENT = pod("d/client", addresses=("10.1.0.5", "fd00:1::5"), labels={"app": "client"})
WEB = pod(
    "d/web", node="node-1", addresses=("10.1.1.5", "fd00:1:1::5"), labels={"app": "web"}, ports=(("http", "tcp", 80),)
)
BASE = (namespace("d"), CLIENT, WEB, node("node-0", "10.0.0.1"), node("node-1", "10.0.0.2"))
FRIENDS = PodSelector(selector({"app": "friend"}), "d")
EVERY = PodSelector(EVERYTHING, namespaces=EVERYTHING)
IN, OUT = Direction.INGRESS, Direction.EGRESS
TO_WEB = Flow("10.1.0.5", "10.1.1.5", "tcp", 80)


@settings(max_examples=100, deadline=None)
@given(clusters(), st.data())
def test_the_model_decides_as_the_oracle_does(records: tuple[Record, ...], data: st.DataObject) -> None:
    cluster = Cluster(records)
    for flow in data.draw(st.lists(st.sampled_from(FLOWS), min_size=30, max_size=40)):
        asked = Flow(flow.source, flow.destination, flow.protocol, flow.port)
        for direction, expected in ((IN, cluster.oracle.ingress_ok), (OUT, cluster.oracle.egress_ok)):
            pod_there = cluster.oracle.pod_at(flow.destination)
            if direction is IN and pod_there and cluster.oracle.is_own_node(pod_there, flow.source):
                continue  # the model knows that a node reaches its own pods; the oracle judges what comes from elsewhere
            assert judge(asked, direction, cluster.store).allowed == expected(flow), (flow, direction)


def said(*records: Record, flow: Flow = TO_WEB, direction: Direction = IN) -> tuple[bool, str, tuple[str, ...]]:
    found = judge(flow, direction, filled((*BASE, *records)))
    return found.allowed, found.by, found.near


def test_who_is_no_pod_is_judged_by_nobody() -> None:
    outside = Flow("192.0.2.1", "198.51.100.1", "tcp", 80)
    assert said(flow=outside) == (True, "198.51.100.1 is no pod's: no policy is about it", ())


def test_the_rule_that_allows_is_named() -> None:
    one = policy("d/p", EVERYTHING, ingress=(PolicyRule((FRIENDS,)), PolicyRule((IpBlock("10.1.0.0/16"),))))
    assert said(one) == (True, "policy d/p ingress[1]", ())


@pytest.mark.parametrize(
    ("rule", "near"),
    [
        (PolicyRule((FRIENDS,)), "pod d/client has app=client, not app=friend"),
        (PolicyRule((PodSelector(selector({"x": "y"}), "d"),)), "pod d/client has no label x, not x=y"),
        (PolicyRule((PodSelector(EVERYTHING, "e"),)), "only pods of namespace e; d/client is not"),
        (
            PolicyRule((PodSelector(EVERYTHING, namespaces=selector({"team": "a"})),)),
            "namespace d has no label team, not team=a",
        ),
        (PolicyRule((IpBlock("10.9.0.0/16"),)), "only 10.9.0.0/16; 10.1.0.5 is outside"),
        (PolicyRule((IpBlock("10.0.0.0/8", ("10.1.0.0/24",)),)), "10.0.0.0/8 excepts 10.1.0.0/24, where 10.1.0.5 is"),
        (PolicyRule((), (PolicyPort(Protocol.TCP, 81),)), "only tcp/81, asked was tcp/80"),
        (PolicyRule((), (PolicyPort(Protocol.UDP),)), "only udp, asked was tcp/80"),
        (PolicyRule((), (PolicyPort(Protocol.TCP, 90, 99),)), "only tcp/90-99, asked was tcp/80"),
        (
            PolicyRule((), (PolicyPort(Protocol.TCP, "dns"),)),
            "only port 'dns', which on d/web is none, asked was tcp/80",
        ),
    ],
)
def test_what_came_near_is_told(rule: PolicyRule, near: str) -> None:
    allowed, by, told = said(policy("d/p", EVERYTHING, ingress=(rule,)))
    assert (allowed, by) == (False, "isolated by d/p, no rule allows it")
    assert told == (f"policy d/p ingress[0]: {near}",)


def test_the_nearest_come_first_and_few_are_told() -> None:
    far = PolicyRule((FRIENDS,), (PolicyPort(Protocol.TCP, 81),))
    close = PolicyRule((FRIENDS,))
    _, _, near = said(policy("d/p", EVERYTHING, ingress=(far, far, far, close)))
    assert len(near) == 3
    assert near[0].startswith("policy d/p ingress[3]")


def test_tiers_are_named() -> None:
    deny = ClusterRule(Action.DENY, (EVERY,), (), "quarantine")
    allow = policy("d/p", EVERYTHING, ingress=(PolicyRule(),))
    admin = cluster_policy("guard", EVERY, ingress=(deny,))
    assert said(admin, allow)[:2] == (False, "cnp/guard ingress[0] 'quarantine': Deny (Admin tier)")
    baseline = cluster_policy("floor", EVERY, tier="Baseline", ingress=(deny,))
    assert said(baseline)[:2] == (False, "cnp/floor ingress[0] 'quarantine': Deny (Baseline tier)")
    assert said(baseline, allow)[:2] == (True, "policy d/p ingress[0]")


def test_own_nodes_are_reached_unless_the_cluster_denies_it() -> None:
    closed = policy("d/p", EVERYTHING, ingress=(), egress=())
    assert said(closed, flow=Flow("10.0.0.2", "10.1.1.5", "tcp", 80))[:2] == (
        True,
        "a node always reaches its own pods",
    )
    to_node = Flow("10.1.0.5", "10.0.0.1", "tcp", 22)
    assert said(closed, flow=to_node, direction=OUT)[0]
    guard = cluster_policy("guard", EVERY, egress=(ClusterRule(Action.DENY, (IpBlock("10.0.0.0/24"),)),))
    assert not said(closed, guard, flow=to_node, direction=OUT)[0]


def test_an_audited_policy_tells_and_allows() -> None:
    audited = policy("d/p", EVERYTHING, ingress=(), annotations={AUDIT: "true"})
    found = judge(TO_WEB, IN, filled((*BASE, audited)))
    assert (found.allowed, found.audit) == (True, "d/p")
    assert judge(TO_WEB, OUT, filled((*BASE, audited))).audit == ""


def test_the_oracles_flow_is_the_same() -> None:
    """The two are compared field by field above: a field more would be compared by nobody."""
    assert Flow.__struct_fields__ == tuple(OracleFlow.__dataclass_fields__)
