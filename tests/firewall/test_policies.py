"""A policy as rules: what each peer and port becomes, in both directions and families."""

from __future__ import annotations

import pytest

from firewall.peers import Blocks, pod_set_name
from firewall.policies import ALLOW, Direction, policy_chain_name, rules
from kuberouterpy.cluster import IpBlock, PolicyPort, PolicyRule
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import EVERY_POD, NamedPort
from tests.firewall.world import policy

IN, OUT = Direction.INGRESS, Direction.EGRESS
DB = PodSelector(selector({"app": "db"}), "default")
TCP = Protocol.TCP


def matches(rule: PolicyRule, direction: Direction, family: Family = IPV4) -> list[str]:
    """Return the matches of one rule of ``default/p``, each as one line."""
    one = policy("default/p", EVERYTHING, **{direction.value: (rule,)})
    found = rules(one, direction, family)
    assert all(rule.target == ALLOW for rule in found)
    return [" ".join(rule.match) for rule in found]


def peer(pods: PodSelector, direction: Direction, family: Family = IPV4) -> str:
    """Return the match of a selector peer."""
    return f"-m set --match-set {pod_set_name(pods, family)} {direction.peer}"


def named(pods: PodSelector, name: str, family: Family = IPV4) -> str:
    """Return the match of a named TCP port."""
    return f"-m set --match-set {pod_set_name(NamedPort(pods, TCP, name), family)} dst,dst"


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_rule_without_peers_and_ports_allows_everything(direction: Direction, family: Family) -> None:
    assert matches(PolicyRule(), direction, family) == [""]


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_selector_matches_the_side_of_the_peer(direction: Direction, family: Family) -> None:
    assert [peer(DB, direction, family)] == matches(PolicyRule((DB,)), direction, family)


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (PolicyPort(TCP), "-p tcp"),
        (PolicyPort(TCP, 80), "-p tcp --dport 80"),
        (PolicyPort(Protocol.UDP, 53), "-p udp --dport 53"),
        (PolicyPort(Protocol.SCTP, 80), "-p sctp --dport 80"),
        (PolicyPort(TCP, 80, 90), "-p tcp --dport 80:90"),
        (PolicyPort(TCP, 80, 80), "-p tcp --dport 80"),
    ],
)
def test_a_port_becomes(port: PolicyPort, expected: str) -> None:
    for direction in Direction:
        assert [expected] == matches(PolicyRule(ports=(port,)), direction)
        assert [f"{expected} {peer(DB, direction)}"] == matches(PolicyRule((DB,), (port,)), direction)


def test_ports_and_peers_are_every_pair() -> None:
    both = PolicyRule((DB, EVERY_POD), (PolicyPort(TCP, 80), PolicyPort(TCP, 81)))
    expected = {f"-p tcp --dport {port} {peer(one, IN)}" for port in (80, 81) for one in (DB, EVERY_POD)}
    assert expected == set(matches(both, IN))


def test_a_named_port_of_ingress_is_the_own_pods() -> None:
    rule = PolicyRule((DB,), (PolicyPort(TCP, "web"),))
    own = PodSelector(EVERYTHING, "default")
    assert [f"-p tcp {peer(DB, IN)} {named(own, 'web')}"] == matches(rule, IN)
    assert [f"-p tcp {named(own, 'web')}"] == matches(PolicyRule((), rule.ports), IN)


def test_a_named_port_of_egress_is_the_peers() -> None:
    """Fault 31 and 32 of kube-router: without peers any destination was open, with an ipBlock none was."""
    ports = (PolicyPort(TCP, "web"),)
    block = IpBlock("10.0.0.0/8")
    assert [f"-p tcp {named(DB, 'web')}"] == matches(PolicyRule((DB,), ports), OUT)
    assert [f"-p tcp {named(EVERY_POD, 'web')}"] == matches(PolicyRule((), ports), OUT)
    in_block = f"-m set --match-set {Blocks(('10.0.0.0/8',)).name} dst"
    assert [f"-p tcp {in_block} {named(EVERY_POD, 'web')}"] == matches(PolicyRule((block,), ports), OUT)


def test_a_block_of_the_other_family_allows_nothing() -> None:
    """Row 36: the pod stays isolated in that family."""
    rule = PolicyRule((IpBlock("10.0.0.0/8"),))
    assert matches(rule, IN, IPV6) == []


@pytest.mark.parametrize(("family", "cidr"), [(IPV4, "0.0.0.0/0"), (IPV6, "::/0")])
def test_everything_matches_without_a_set(family: Family, cidr: str) -> None:
    assert matches(PolicyRule((IpBlock(cidr),)), OUT, family) == [""]
    assert matches(PolicyRule((IpBlock(cidr),), (PolicyPort(TCP, 80),)), OUT, family) == ["-p tcp --dport 80"]


def test_equal_matches_stand_once() -> None:
    assert len(matches(PolicyRule((DB, DB), (PolicyPort(TCP, 80), PolicyPort(TCP, 80))), IN)) == 1


def test_chain_names_are_identity_only_and_never_meet() -> None:
    names = {
        policy_chain_name(policy(where, EVERYTHING), direction) for where in ("a/bc", "ab/c") for direction in Direction
    }
    assert len(names) == 4
    assert all(len(name) <= 28 for name in names)
    assert policy_chain_name(policy("a/bc", DB.pods, ingress=()), IN) in names


def test_a_reason_names_policy_rule_peer_and_port_and_stays_short() -> None:
    one = policy("default/p", EVERYTHING, ingress=(PolicyRule((DB,), (PolicyPort(TCP, 80),)),))
    assert rules(one, IN, IPV4)[0].reason == "default/p ingress[0] from pods app=db in namespace default on tcp:80"
    long = policy("n" * 63 + "/" + "p" * 253, EVERYTHING, ingress=(PolicyRule(),))
    assert len(rules(long, IN, IPV4)[0].reason) <= 200
