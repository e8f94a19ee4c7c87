"""The 24 conformance tests of ClusterNetworkPolicy (networkpolicy.md 3D), against the compiled rules and the oracle.

Four houses of two pods each on three nodes, servers on two ports of each protocol, probes straight to pods, in both families;
every expectation is asked for every pair of pods of the two houses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from kuberouterpy.cluster import (
    Action,
    ClusterNetworkPolicy,
    ClusterPeer,
    ClusterRule,
    IpBlock,
    NodeSelector,
    PolicyPort,
    PolicyRule,
    Record,
)
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from kuberouterpy.protocol import Protocol
from tests.firewall.world import NODES, Cluster, cluster_policy, namespace, node, pod, policy, replaced
from tests.oracle.networkpolicy import Flow

HOUSES = {
    "gryffindor": "harry-potter",
    "slytherin": "draco-malfoy",
    "hufflepuff": "cedric-diggory",
    "ravenclaw": "luna",
}
G, S, H, R = HOUSES
PORTS = (("web", "tcp", 80), ("alt", "tcp", 8080), ("dns", "udp", 53), ("dns-alt", "udp", 5353))
NODE_ADDRESSES = {name: (f"10.0.0.{n}", f"fd00::{n}") for n, name in enumerate(NODES, 1)}
OUTSIDE = {4: "192.0.2.1", 6: "2001:db8::1"}
TIERS = ("Admin", "Baseline")


def address(house: str, number: int, version: int) -> str:
    """Return the address of a house's pod; the two of a house are on different nodes."""
    index = list(HOUSES).index(house)
    on = (index + number) % len(NODES)
    return f"10.1.{on}.{10 * index + number + 5}" if version == 4 else f"fd00:1:{on}::{index}{number + 5}"


def base() -> tuple[Record, ...]:
    """Return nodes, namespaces, pods, and one pod on the host network."""
    label = "conformance-house"
    pods = (
        pod(
            f"{house}/{name}-{number}",
            node=NODES[(index + number) % len(NODES)],
            addresses=(address(house, number, 4), address(house, number, 6)),
            labels={label: house},
            ports=PORTS,
        )
        for index, (house, name) in enumerate(HOUSES.items())
        for number in (0, 1)
    )
    centaur = pod("forest/centaur", node=NODES[0], addresses=NODE_ADDRESSES[NODES[0]], host_network=True)
    spaces = (namespace(house, **{label: house}) for house in (*HOUSES, "forest"))
    return (*spaces, *pods, centaur, *(node(name, *both) for name, both in NODE_ADDRESSES.items()))


def houses(name: str) -> PodSelector:
    """Return the pods of the namespaces with a house's label."""
    return PodSelector(EVERYTHING, namespaces=selector({"conformance-house": name}))


def rule(action: Action, *peers: ClusterPeer, on: tuple[PolicyPort, ...] = ()) -> ClusterRule:
    """Return an item of ingress or egress."""
    return ClusterRule(action, peers, on)


def port(protocol: str, number: int | str) -> tuple[PolicyPort, ...]:
    """Return one port, of every protocol where it is a name."""
    if isinstance(number, str):
        return tuple(PolicyPort(each, number) for each in Protocol)
    return (PolicyPort(Protocol(protocol), number),)


class Probe(NamedTuple):
    """Who asks whom."""

    source: str
    destination: str
    protocol: str
    port: int


def check(records: tuple[Record, ...], expected: dict[Probe, bool]) -> None:
    """Fail unless every pair of pods of each probe gets what is expected, by the rules and by the oracle."""
    cluster = Cluster(records)
    for probe, allowed in expected.items():
        for version in (4, 6):
            for source in addresses_of(probe.source, version):
                for destination in addresses_of(probe.destination, version):
                    flow = Flow(source, destination, probe.protocol, probe.port)
                    assert cluster.oracle.allowed(flow) == allowed, (probe, flow)
                    assert cluster.connect(flow)[0] == allowed, (probe, flow)


def addresses_of(who: str, version: int) -> list[str]:
    """Return the addresses of a house's pods, of the nodes, of the world, or of one pod ``house/number``."""
    index = version == 6
    if who == "nodes":
        return [both[index] for both in NODE_ADDRESSES.values()]
    if who == "world":
        return [OUTSIDE[version]]
    house, _, number = who.partition("/")
    return [address(house, one, version) for one in ((int(number),) if number else (0, 1))]


# --- one direction, one protocol: twelve tests ------------------------------------------------------------------------


class Case(NamedTuple):
    """One direction's rules: a friend, one open on one port only, one closed on one port only."""

    direction: str
    protocol: str
    subject: str
    friend: str
    half: str
    open: int
    closed: int
    foe: str
    foe_closed: int
    foe_open: int


CASES = (
    Case("egress", "tcp", G, R, H, 8080, 80, S, 80, 8080),
    Case("ingress", "tcp", G, R, H, 80, 8080, S, 80, 8080),
    Case("egress", "udp", H, R, G, 53, 5353, S, 5353, 53),
    Case("ingress", "udp", H, R, G, 53, 5353, S, 5353, 53),
    Case("egress", "sctp", R, G, H, 9003, 9005, S, 9003, 9005),
    Case("ingress", "sctp", R, G, H, 9003, 9005, S, 9003, 9005),
)


def rules_of(case: Case) -> list[ClusterRule]:
    """Return the rules of a case, in order."""
    return [
        rule(Action.ACCEPT, houses(case.friend)),
        rule(Action.DENY, houses(case.friend)),
        rule(Action.ACCEPT, houses(case.half), on=port(case.protocol, case.open)),
        rule(Action.DENY, houses(case.half), on=port(case.protocol, case.closed)),
        rule(Action.DENY, houses(case.foe), on=port(case.protocol, case.foe_closed)),
    ]


def between(case: Case, other: str, number: int) -> Probe:
    """Return the probe between the subject and another house in the case's direction."""
    ends = (case.subject, other) if case.direction == "egress" else (other, case.subject)
    return Probe(*ends, case.protocol, number)


def named(case: Case, tier: str, rules: list[ClusterRule]) -> ClusterNetworkPolicy:
    """Return the case's policy."""
    return cluster_policy("case", houses(case.subject), tier=tier, **{case.direction: tuple(rules)})


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.direction}-{case.protocol}")
def test_one_direction_of_one_protocol(case: Case, tier: str) -> None:
    rules = rules_of(case)
    friend = {between(case, case.friend, number): True for number in (case.open, case.closed)}
    half = {between(case, case.half, case.open): True, between(case, case.half, case.closed): False}
    foe = {between(case, case.foe, case.foe_closed): False, between(case, case.foe, case.foe_open): True}
    check((*base(), named(case, tier, rules)), {**friend, **half, **foe})
    swapped = [rules[1], rules[0], *rules[2:]]
    check((*base(), named(case, tier, swapped)), {**dict.fromkeys(friend, False), **half, **foe})
    passing = [rule(Action.PASS, houses(case.friend)), *swapped]
    check((*base(), named(case, tier, passing)), friend)
    over = [
        *rules[:4],
        rule(Action.PASS, houses(case.foe), on=port(case.protocol, case.foe_closed)),
        rules[4],
    ]
    check((*base(), named(case, tier, over)), dict.fromkeys(foe, True))


@pytest.mark.parametrize("tier", TIERS)
def test_both_directions_and_all_protocols_together(tier: str) -> None:
    """Gress."""
    numbers = {"tcp": (8080, 80), "udp": (5353, 53), "sctp": (9003, 9005)}
    incoming = {"tcp": (80, 8080), "udp": (5353, 53), "sctp": (9003, 9005)}
    foes = {"tcp": (80, 8080), "udp": (53, 5353), "sctp": (9003, 9005)}

    def rules(opened: dict[str, tuple[int, int]], first: tuple[Action, ...]) -> tuple[ClusterRule, ...]:
        found = [rule(action, houses(R)) for action in first]
        for protocol, (good, bad) in opened.items():
            found += [rule(Action.ACCEPT, houses(H), on=port(protocol, good))]
            found += [rule(Action.DENY, houses(H), on=port(protocol, bad))]
        found += [rule(Action.DENY, houses(S), on=port(protocol, bad)) for protocol, (bad, _) in foes.items()]
        return tuple(found)

    def probes(opened: dict[str, tuple[int, int]], *, outward: bool) -> Iterator[tuple[Probe, bool]]:
        for protocol, (good, bad) in opened.items():
            closed, free = foes[protocol]
            for other, number, allowed in ((H, good, True), (H, bad, False), (S, closed, False), (S, free, True)):
                yield Probe(*((G, other) if outward else (other, G)), protocol, number), allowed

    friends = [
        Probe(*ends, protocol, number)
        for ends in ((G, R), (R, G))
        for protocol, both in foes.items()
        for number in both
    ]
    expected = dict(probes(numbers, outward=True)) | dict(probes(incoming, outward=False))
    for first, allowed in (
        ((Action.ACCEPT, Action.DENY), True),
        ((Action.DENY, Action.ACCEPT), False),
        ((Action.PASS, Action.DENY), True),
    ):
        one = cluster_policy(
            "gress", houses(G), tier=tier, ingress=rules(incoming, first), egress=rules(numbers, first)
        )
        check((*base(), one), expected | dict.fromkeys(friends, allowed))


# --- the others -------------------------------------------------------------------------------------------------------

SUBJECT = houses(G)
EVERYWHERE = (IpBlock("0.0.0.0/0"), IpBlock("::/0"))
ANY = (("tcp", 80), ("udp", 53), ("sctp", 9003))


def all_of(source: str, destination: str, *, allowed: bool) -> dict[Probe, bool]:
    """Return one expectation for all three protocols."""
    return {Probe(source, destination, protocol, number): allowed for protocol, number in ANY}


@pytest.mark.parametrize("tier", TIERS)
def test_networks_cover_pods_behind_more_specific_rules(tier: str) -> None:
    """EgressInlineCIDRPeers, with the namespace of the peers relabelled and back."""
    rules = (rule(Action.ACCEPT, houses(S)), rule(Action.DENY, *EVERYWHERE))
    records = (*base(), cluster_policy("networks", SUBJECT, tier=tier, egress=rules))
    closed = all_of(G, R, allowed=False) | all_of(G, H, allowed=False) | all_of(G, "world", allowed=False)
    check(records, closed | all_of(G, S, allowed=True))
    check(replaced(records, namespace(S)), all_of(G, S, allowed=False))
    check(records, all_of(G, S, allowed=True))
    first = tuple(
        IpBlock(f"{address(house, 0, version)}/{32 if version == 4 else 128}") for house in (R, H) for version in (4, 6)
    )
    more = cluster_policy("networks", SUBJECT, tier=tier, egress=(rule(Action.ACCEPT, *first), *rules))
    for house in (R, H):
        expected = all_of(G, f"{house}/0", allowed=True) | all_of(G, f"{house}/1", allowed=False)
        check(replaced(records, more), expected)


def test_the_lower_priority_number_decides() -> None:
    """AdminTierPriorityField."""
    both = (rule(Action.DENY, houses(S)),)
    passes = (rule(Action.PASS, houses(S)),)
    accepts = (rule(Action.ACCEPT, houses(S)),)
    records = (
        *base(),
        cluster_policy("deny", SUBJECT, priority=50, ingress=both, egress=both),
        cluster_policy("pass", SUBJECT, priority=60, ingress=passes, egress=passes),
        cluster_policy("floor", SUBJECT, tier="Baseline", ingress=accepts, egress=accepts),
    )
    pairs = ((G, S), (S, G))
    check(records, {one: False for ends in pairs for one in all_of(*ends, allowed=False)})
    sooner = cluster_policy("pass", SUBJECT, priority=40, ingress=passes, egress=passes)
    check(replaced(records, sooner), {one: True for ends in pairs for one in all_of(*ends, allowed=True)})


def test_admin_then_network_policy_then_baseline() -> None:
    """AdminTierIntegration."""
    deny, passed = (rule(Action.DENY, houses(S)),), (rule(Action.PASS, houses(S)),)
    peers = (PolicyRule((houses(S),)),)
    allow = policy(f"{G}/allow", EVERYTHING, ingress=peers, egress=peers)
    floor = cluster_policy("floor", SUBJECT, tier="Baseline", ingress=deny, egress=deny)
    guard = cluster_policy("guard", SUBJECT, ingress=deny, egress=deny)
    records = (*base(), allow, floor, guard)
    inward, outward = all_of(S, G, allowed=False), all_of(G, S, allowed=False)
    check(records, inward | outward)
    half = cluster_policy("guard", SUBJECT, ingress=passed, egress=deny)
    check(replaced(records, half), dict.fromkeys(inward, True) | outward)
    passing = replaced(records, cluster_policy("guard", SUBJECT, ingress=passed, egress=passed))
    check(passing, dict.fromkeys((*inward, *outward), True))
    check(tuple(one for one in passing if one is not allow), inward | outward)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_named_ports(direction: str, tier: str) -> None:
    """EgressNamedPort, IngressNamedPort: the number behind the name, and no other."""
    rules = (
        rule(Action.ACCEPT, houses(R), on=(*port("tcp", "web"), *port("udp", "dns"))),
        rule(Action.DENY, houses(R)),
    )
    one = cluster_policy("named", SUBJECT, tier=tier, **{direction: rules})
    ends = (G, R) if direction == "egress" else (R, G)
    expected = {Probe(*ends, "tcp", 80): True, Probe(*ends, "tcp", 8080): False}
    expected |= {Probe(*ends, "udp", 53): True, Probe(*ends, "udp", 5353): False, Probe(*ends, "sctp", 9003): False}
    check((*base(), one), expected)


@pytest.mark.parametrize("tier", TIERS)
def test_nodes_as_peers(tier: str) -> None:
    """EgressNodePeers: the subject's own node included, which only INPUT sees."""
    nodes = NodeSelector(EVERYTHING)
    rules = (
        rule(Action.ACCEPT, nodes, on=port("tcp", 36363)),
        rule(Action.PASS, nodes, on=port("udp", 34346)),
        rule(Action.DENY, nodes),
        rule(Action.DENY, *EVERYWHERE),
    )
    records = (*base(), cluster_policy("nodes", SUBJECT, tier=tier, egress=rules))
    expected = {Probe(G, "nodes", "tcp", 36363): True, Probe(G, "nodes", "udp", 34346): True}
    expected |= {Probe(G, "nodes", "tcp", 34345): False, Probe(G, "nodes", "udp", 1): False}
    expected |= all_of(G, "nodes", allowed=False) | all_of(G, S, allowed=False) | all_of(G, "world", allowed=False)
    check(records, expected | all_of(R, "nodes", allowed=True))
