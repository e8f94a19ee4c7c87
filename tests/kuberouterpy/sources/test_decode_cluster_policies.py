"""ClusterNetworkPolicies as the API sends them: what a rule means, and that what cannot be read fails closed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuberouterpy.cluster import (
    Action,
    Anyone,
    ClusterNetworkPolicy,
    ClusterRule,
    IpBlock,
    NodeSelector,
    PolicyPort,
    Ref,
    Tier,
)
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from kuberouterpy.protocol import Protocol
from kuberouterpy.sources.decode import Decoded, decode

ANY_PODS = {"namespaceSelector": {}, "podSelector": {}}
EVERY = PodSelector(EVERYTHING, namespaces=EVERYTHING)
TEAM = {"matchLabels": {"team": "a"}}
TCP_80 = {"tcp": {"destinationPort": {"number": 80}}}


def read(**spec: Any) -> Decoded:
    made = {"tier": "Admin", "priority": 7, "subject": {"namespaces": {}}} | spec
    raw = {"metadata": {"name": "guard", "namespace": "ignored", "uid": "u"}, "spec": made}
    return decode(ClusterNetworkPolicy, json.dumps(raw).encode())


def policy(**spec: Any) -> ClusterNetworkPolicy:
    decoded = read(**spec)
    assert isinstance(decoded.record, ClusterNetworkPolicy), decoded
    return decoded.record


def rule(direction: str = "egress", **fields: Any) -> tuple[ClusterRule, tuple[str, ...]]:
    """Return the one rule of a policy and what was told of it."""
    word = "from" if direction == "ingress" else "to"
    made = {"action": "Deny", word: [{"namespaces": {}}]} | fields
    decoded = read(**{direction: [made]})
    assert isinstance(decoded.record, ClusterNetworkPolicy), decoded
    return getattr(decoded.record, direction)[0], decoded.problems


def test_a_whole_policy() -> None:
    one = policy(
        tier="Baseline",
        subject={"pods": {"namespaceSelector": TEAM, "podSelector": {}}},
        ingress=[{"name": "friends", "action": "Accept", "from": [{"namespaces": TEAM}]}],
        egress=[{"action": "Pass", "to": [{"pods": ANY_PODS}, {"nodes": TEAM}, {"networks": ["10.0.0.0/8", "::/0"]}]}],
    )
    assert (one.ref, one.tier, one.priority, one.uid) == (Ref("", "guard"), Tier.BASELINE, 7, "u")
    team = selector({"team": "a"})
    assert one.subject == PodSelector(EVERYTHING, namespaces=team)
    assert one.ingress == (ClusterRule(Action.ACCEPT, (PodSelector(EVERYTHING, namespaces=team),), (), "friends"),)
    peers = (EVERY, NodeSelector(team), IpBlock("10.0.0.0/8"), IpBlock("::/0"))
    assert one.egress == (ClusterRule(Action.PASS, peers),)


@pytest.mark.parametrize(
    ("protocol", "ports"),
    [
        (TCP_80, (PolicyPort(Protocol.TCP, 80),)),
        ({"udp": {"destinationPort": {"range": {"start": 5, "end": 9}}}}, (PolicyPort(Protocol.UDP, 5, 9),)),
        ({"sctp": {"destinationPort": {"number": 9003}}}, (PolicyPort(Protocol.SCTP, 9003),)),
        ({"destinationNamedPort": "web"}, tuple(PolicyPort(one, "web") for one in Protocol)),
    ],
)
def test_protocols(protocol: dict[str, Any], ports: tuple[PolicyPort, ...]) -> None:
    found, problems = rule(protocols=[protocol])
    assert (found.ports, problems) == (ports, ())


UNREADABLE_PEERS: list[Any] = [
    [{}],
    [{"services": {}}],
    [{"domainNames": ["example.com"]}],
    [{"namespaces": {}}, {"newer": 1}],
    [{"namespaces": {}, "pods": ANY_PODS}],
    [{"networks": ["10.0.0.0/33"]}],
    [{"networks": []}],
    [{"namespaces": {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["b"]}]}}],
    [{"pods": {"podSelector": {}}}],
    [],
    None,
    "all",
]
UNREADABLE_PROTOCOLS: list[Any] = [
    [{}],
    [{"icmp": {}}],
    [{"tcp": {}}],
    [{"tcp": {"destinationPort": {}}}],
    [{"tcp": {"sourcePort": {"number": 1}}}],
    [{"tcp": {"destinationPort": {"number": 0}}}],
    [{"tcp": {"destinationPort": {"number": 1, "range": {"start": 1, "end": 2}}}}],
    [{"udp": {"destinationPort": {"range": {"start": 9, "end": 5}}}}],
    [TCP_80, {"destinationNamedPort": ""}],
    "tcp",
]


@pytest.mark.parametrize("peers", UNREADABLE_PEERS)
def test_an_unreadable_peer_denies_everybody_or_accepts_nobody(peers: Any) -> None:
    for action in ("Deny", "Pass"):
        found, problems = rule(action=action, to=peers, protocols=[TCP_80])
        assert found == ClusterRule(Action.DENY, (Anyone(),), (PolicyPort(Protocol.TCP, 80),))
        assert problems
        assert "spec.egress[0].to" in problems[0]
    found, problems = rule(action="Accept", to=peers)
    assert (found.action, found.peers, bool(problems)) == (Action.ACCEPT, (), True)


@pytest.mark.parametrize("protocols", UNREADABLE_PROTOCOLS)
def test_an_unreadable_protocol_denies_every_one_or_accepts_none(protocols: Any) -> None:
    for action in ("Deny", "Pass"):
        found, problems = rule(action=action, protocols=protocols)
        assert found == ClusterRule(Action.DENY, (EVERY,))
        assert "spec.egress[0].protocols" in problems[0]
    assert rule(action="Accept", protocols=protocols)[0].peers == ()


def test_ingress_has_no_networks_and_no_nodes() -> None:
    for peer in ({"networks": ["10.0.0.0/8"]}, {"nodes": {}}):
        assert rule("ingress", **{"from": [peer]})[0] == ClusterRule(Action.DENY, (Anyone(),))


def test_an_unknown_action_or_field_fails_closed() -> None:
    assert rule(action="Log")[0] == ClusterRule(Action.DENY, (EVERY,))
    assert rule(action="Pass", unless=[1])[0] == ClusterRule(Action.DENY, (EVERY,))
    assert rule(action="Accept", unless=[1])[0] == ClusterRule(Action.ACCEPT)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"tier": "Root"}, "spec.tier"),
        ({"priority": 1001}, "spec.priority"),
        ({"priority": "high"}, "spec.priority"),
        ({"subject": {}}, "spec.subject"),
        ({"subject": {"namespaces": {}, "pods": ANY_PODS}}, "spec.subject"),
        ({"subject": {"namespaces": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}, "spec.subject"),
    ],
)
def test_a_policy_without_tier_priority_or_subject_is_refused(spec: dict[str, Any], field: str) -> None:
    decoded = read(**spec)
    assert decoded.record is None
    assert field in decoded.problems[0]
