"""The 42 upstream cases (networkpolicy.md 1B): the number of denied pairs, by the oracle and by the compiled rules.

Nine pods on three nodes, each serving ports 80 and 81; every ordered pair but a pod with itself, directly and through a
VIP, in both families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from kuberouterpy.cluster import IpBlock, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule, Record
from kuberouterpy.labels import EVERYTHING, PodSelector, Selector, selector, term
from kuberouterpy.protocol import Protocol
from tests.firewall.world import NODES, Cluster, namespace, pod, policy, replaced
from tests.oracle.networkpolicy import Flow

NAMESPACES, NAMES = ("x", "y", "z"), ("a", "b", "c")
PODS = tuple(f"{ns}/{name}" for ns in NAMESPACES for name in NAMES)
PROTOCOLS = ("tcp", "udp", "sctp")


def address(where: str, version: int) -> str:
    """Return the address of one of the nine pods; pods of one name share a node."""
    node, number = NAMES.index(where[2]), NAMESPACES.index(where[0]) + 5
    return f"10.1.{node}.{number}" if version == 4 else f"fd00:1:{node}::{number}"


def base() -> tuple[Record, ...]:
    """Return the nine pods and their namespaces."""
    ports = tuple((f"serve-{port}-{protocol}", protocol, port) for protocol in PROTOCOLS for port in (80, 81))
    pods = (
        pod(
            where,
            node=NODES[NAMES.index(where[2])],
            addresses=(address(where, 4), address(where, 6)),
            labels={"pod": where[2]},
            ports=ports,
        )
        for where in PODS
    )
    return (*(namespace(name) for name in NAMESPACES), *pods)


def labels(**equal: str) -> Selector:
    """Return a selector by equality."""
    return selector(equal)


def ns_name(operator: str, *names: str) -> Selector:
    """Return a selector by the default label of namespaces."""
    return Selector((term("kubernetes.io/metadata.name", operator, names),))


def peer(pods: Selector = EVERYTHING, *, ns: str = "", where: Selector | None = None) -> PodSelector:
    """Return a peer: of one namespace, or of the namespaces ``where`` matches."""
    return PodSelector(pods, "" if where is not None else ns, where)


def rule(*peers: PolicyPeer, ports: tuple[PolicyPort, ...] = ()) -> PolicyRule:
    """Return an item of ingress or egress."""
    return PolicyRule(peers, ports)


def port(number: int | str | None, protocol: str = "tcp", end: int | None = None) -> PolicyPort:
    """Return an item of ports."""
    return PolicyPort(Protocol(protocol), number, end)


A, B = labels(pod="a"), labels(pod="b")
IN_Y = ns_name("In", "y")
DNS = rule(ports=(port(53, "udp"), port(53)))
ALLOW_ALL = (rule(),)


def ingress(name: str, pods: Selector, *rules: PolicyRule) -> NetworkPolicy:
    """Return an ingress policy ``namespace/name``."""
    return policy(name, pods, ingress=rules)


def egress(name: str, pods: Selector, *rules: PolicyRule) -> NetworkPolicy:
    """Return an egress policy that lets names be looked up."""
    return policy(name, pods, egress=(*rules, DNS))


def blocks(where: str, *excepts: str, length: Mapping[int, int] | None = None) -> tuple[IpBlock, ...]:
    """Return an ipBlock a family around a pod."""
    lengths = length or {4: 32, 6: 128}
    found = []
    for version in (4, 6):
        one = IpBlock(
            _network(address(where, version), lengths[version]),
            tuple(f"{address(other, version)}/{32 if version == 4 else 128}" for other in excepts),
        )
        found.append(one)
    return tuple(found)


def _network(text: str, length: int) -> str:
    from ipaddress import ip_network

    return str(ip_network(f"{text}/{length}", strict=False))


def everything_of(where: str, *excepts: str) -> tuple[IpBlock, ...]:
    """Return blocks that hold every pod's address, as upstream's podIP/4 does."""
    return blocks(where, *excepts, length={4: 4, 6: 4})


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    records: tuple[Record, ...]
    denied: tuple[tuple[str, int, int], ...]
    """(protocol, port, pairs denied)."""
    spot: Mapping[tuple[str, str], bool] | None = None
    """Some pairs by name, on the first protocol and port: whether they pass."""


def tcp(on_80: int, on_81: int | None = None) -> tuple[tuple[str, int, int], ...]:
    """Return the numbers denied on both TCP ports."""
    return (("tcp", 80, on_80), ("tcp", 81, on_80 if on_81 is None else on_81))


def cases() -> Iterator[Case]:
    """Yield the cases, those with an update as one for each step."""
    yield from _ingress_cases()
    yield from _update_cases()
    yield from _egress_cases()
    yield from _protocol_cases()


def _ingress_cases() -> Iterator[Case]:
    deny_x = ingress("x/deny", EVERYTHING)
    from_y_81 = ingress("x/from-y-81", A, rule(peer(where=IN_Y), ports=(port(81),)))
    from_y_80 = ingress("x/from-y-80", A, rule(peer(where=IN_Y), ports=(port(80),)))
    b_or_not_x = rule(peer(B, ns="x"), peer(where=ns_name("NotIn", "x")))
    b_or_c = Selector((term("pod", "In", ("b", "c")),))
    yield Case("1 default-deny-ingress", (deny_x,), tcp(24))
    yield Case("2 default-deny-all", (policy("x/deny", EVERYTHING, ingress=(), egress=(DNS,)),), tcp(42))
    yield Case("3 from podSelector", (ingress("x/b", A, rule(peer(B, ns="x"))),), tcp(7), {("x/b", "x/a"): True})
    yield Case("4 target in deny-all", (deny_x, ingress("x/open", A, *ALLOW_ALL)), tcp(16))
    yield Case("5 all namespaces", (ingress("x/all", A, rule(peer(where=EVERYTHING))),), tcp(0))
    yield Case("6 namespaceSelector", (ingress("x/y", A, rule(peer(where=IN_Y))),), tcp(5))
    yield Case(
        "7 pod expressions", (ingress("x/b", A, rule(peer(Selector((term("pod", "In", ("b",)),)), ns="x"))),), tcp(7)
    )
    yield Case("8 namespace expressions", (ingress("x/y", A, rule(peer(where=ns_name("In", "y")))),), tcp(5))
    yield Case("9 or", (ingress("x/or", A, b_or_not_x),), tcp(1), {("x/c", "x/a"): False})
    yield Case("10 and", (ingress("x/and", A, rule(peer(B, where=ns_name("NotIn", "x")))),), tcp(6))
    yield Case("11 multiple", (ingress("x/m", A, rule(peer(b_or_c, where=ns_name("NotIn", "x")))),), tcp(4))
    yield Case(
        "12 any podSelector", (ingress("x/bc", A, rule(peer(B, ns="x"), peer(labels(pod="c"), ns="x"))),), tcp(6)
    )
    yield Case("13 pod and namespace", (ingress("x/ya", A, rule(peer(A, where=IN_Y))),), tcp(7))
    yield Case("14 ports", (from_y_81,), tcp(8, 5))
    yield Case("15 stacked", (from_y_81, from_y_80), tcp(5))
    yield Case("16 allow-all", (ingress("x/all", EVERYTHING, *ALLOW_ALL),), tcp(0))
    named = ingress("x/named", EVERYTHING, rule(ports=(port("serve-81-tcp"),)))
    yield Case("17 named port", (named,), tcp(24, 0))
    named_y = ingress("x/named", A, rule(peer(where=IN_Y), ports=(port("serve-80-tcp"),)))
    yield Case("18 named port and namespace", (named_y,), tcp(5, 8))
    yield Case(
        "19 egress named port", (egress("x/named", EVERYTHING, rule(ports=(port("serve-80-tcp"),))),), tcp(0, 24)
    )
    yield Case("23 own namespace only", (ingress("x/own", EVERYTHING, rule(peer(ns="x"))),), tcp(18))


def _update_cases() -> Iterator[Case]:
    yield Case("20 before", (ingress("x/p", EVERYTHING, *ALLOW_ALL),), tcp(0))
    yield Case("20 after", (ingress("x/p", EVERYTHING),), tcp(24))
    by_ns = ingress("x/p", A, rule(peer(where=labels(ns2="updated"))))
    yield Case("21 before", (by_ns,), tcp(8))
    yield Case("21 after", (by_ns, namespace("y", ns2="updated")), tcp(5))
    by_pod = ingress("x/p", A, rule(peer(labels(pod2="updated"), ns="x")))
    yield Case("22 before", (by_pod,), tcp(8))
    yield Case("22 after", (by_pod, _labelled("x/b", pod2="updated")), tcp(7))
    isolated = ingress("x/p", labels(target="isolated"))
    yield Case("24 before", (isolated,), tcp(0))
    yield Case("24 after", (isolated, _labelled("x/a", target="isolated")), tcp(8))
    open_81 = ingress("x/80", EVERYTHING, rule(ports=(port(80),)))
    yield Case("31 before", (open_81,), tcp(0, 24))
    yield Case("31 after", (open_81, ingress("x/all", EVERYTHING, *ALLOW_ALL)), tcp(0))
    out_80 = egress("x/80", EVERYTHING, rule(ports=(port(80),)))
    yield Case("32 before", (out_80,), tcp(0, 24))
    yield Case("32 after", (out_80, egress("x/all", EVERYTHING, *ALLOW_ALL)), tcp(0))
    yield Case("33 before", (policy("x/deny", EVERYTHING, ingress=(), egress=()),), tcp(42))
    yield Case("33 after", (), tcp(0))


def _egress_cases() -> Iterator[Case]:
    yield Case("25 egress of a pod", (egress("x/out", A),), tcp(8))
    yield Case("26 egress of a namespace", (egress("x/out", EVERYTHING),), tcp(24))
    both = policy("x/both", A, ingress=(rule(peer(B, ns="x")),), egress=(rule(ports=(port(80),)), DNS))
    yield Case("27 both directions", (both,), tcp(7, 15))
    only_xa = rule(peer(A, where=ns_name("In", "x")))
    to_ya = egress("x/out", A, rule(peer(A, where=IN_Y)))
    yield Case(
        "28 server allows, client may not", (to_ya, ingress("y/a", A, only_xa), ingress("y/b", B, only_xa)), tcp(21)
    )
    yield Case("29 egress to another namespace", (to_ya,), tcp(7))
    yield Case("34 CIDR", (egress("x/out", A, rule(*blocks("y/b"))),), tcp(7))
    yield Case("35 except", (egress("x/out", A, rule(*everything_of("x/a", "x/b"))),), tcp(1), {("x/a", "x/b"): False})
    overlap = egress("x/out", A, rule(*everything_of("x/a", "x/b"), *blocks("x/b")))
    yield Case("36 overlapping", (overlap,), tcp(0), {("x/a", "x/b"): True})
    yield Case("36 updated", (egress("x/out", A, rule(*blocks("x/b"))),), tcp(7))
    independent = (egress("x/out", A, *ALLOW_ALL), ingress("x/in", A))
    yield Case("37 independent", independent, tcp(8), {("x/a", "y/a"): True, ("y/a", "x/a"): False})
    yield Case(
        "41 default label",
        (ingress("x/y", A, rule(peer(where=labels(**{"kubernetes.io/metadata.name": "y"})))),),
        tcp(5),
    )
    yield Case("42 default label NotIn", (egress("x/out", A, rule(peer(where=ns_name("NotIn", "y")))),), tcp(3))


def _protocol_cases() -> Iterator[Case]:
    only_tcp = ingress("x/tcp", A, rule(ports=(port(None),)))
    yield Case("30 protocol only", (only_tcp,), (*tcp(0), ("udp", 80, 8), ("udp", 81, 8)))
    deny = ingress("x/deny", EVERYTHING)
    sctp_81 = ingress("x/sctp", EVERYTHING, rule(ports=(port(81, "sctp"),)))
    yield Case("38 SCTP is not TCP", (deny, sctp_81), (*tcp(24), ("sctp", 80, 24), ("sctp", 81, 0)))
    yield Case(
        "39 SCTP isolates TCP", (ingress("x/sctp", A, rule(ports=(port(80, "sctp"),))),), (*tcp(8), ("sctp", 80, 0))
    )
    yield Case("40 UDP isolates TCP", (ingress("x/udp", A, rule(ports=(port(80, "udp"),))),), (*tcp(8), ("udp", 80, 0)))
    for protocol in ("udp", "sctp"):
        from_y = rule(peer(where=IN_Y), ports=(port(81, protocol),))
        yield Case(f"{protocol} default-deny", (deny,), ((protocol, 80, 24), (protocol, 81, 24)))
        yield Case(f"{protocol} 81 from y", (ingress("x/p", A, from_y),), ((protocol, 80, 8), (protocol, 81, 5)))
        from_ya = rule(peer(A, where=IN_Y))
        yield Case(f"{protocol} only y/a", (ingress("x/p", A, from_ya),), ((protocol, 80, 7), (protocol, 81, 7)))


def _labelled(where: str, **more: str) -> Record:
    before = next(one for one in base() if str(one.ref) == where)
    assert hasattr(before, "labels")
    from msgspec.structs import replace

    return replace(before, labels={**before.labels, **more})


CASES = tuple(cases())


def denied(judge: Callable[[Flow], bool], version: int, protocol: str, number: int) -> set[tuple[str, str]]:
    """Return the pairs that may not connect."""
    return {
        (one, other)
        for one in PODS
        for other in PODS
        if one != other and not judge(Flow(address(one, version), address(other, version), protocol, number))
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_upstream_case_denies_as_many_pairs_as_the_table_says(case: Case) -> None:
    cluster = Cluster(replaced(base(), *case.records))
    for protocol, number, expected in case.denied:
        for version in (4, 6):
            by_oracle = denied(cluster.oracle.allowed, version, protocol, number)
            assert expected == len(by_oracle), (protocol, number, version)
            for through_vip in (False, True):
                compiled = denied(
                    lambda flow, vip=through_vip: cluster.connect(flow, through_vip=vip)[0], version, protocol, number
                )
                assert by_oracle == compiled, (protocol, number, version, through_vip)


@pytest.mark.parametrize("case", [case for case in CASES if case.spot], ids=lambda case: case.name)
def test_pairs_that_a_case_names_come_out_as_it_says(case: Case) -> None:
    cluster = Cluster(replaced(base(), *case.records))
    for (one, other), expected in (case.spot or {}).items():
        for version in (4, 6):
            flow = Flow(address(one, version), address(other, version), "tcp", 80)
            assert (expected, expected) == (cluster.oracle.allowed(flow), cluster.connect(flow)[0])


def test_all_42_cases_stand_in_the_table() -> None:
    assert {str(number) for number in range(1, 43)} <= {case.name.split(maxsplit=1)[0] for case in CASES}
