"""Objects as lines: every kind has one, and no secret is in any."""

from __future__ import annotations

import pytest

from kuberouterpy.dataplane import (
    KINDS,
    Chain,
    ChainKey,
    Flows,
    FlowsKey,
    HealthCheck,
    HealthCheckKey,
    Neighbor,
    NeighborKey,
    NextHop,
    Object,
    Op,
    Owner,
    PodTunnel,
    PodTunnelKey,
    RealServer,
    RealServerKey,
    Route,
    RouteKey,
    RoutingRule,
    RoutingRuleKey,
    Rule,
    Table,
    Verb,
    VirtualServer,
    VirtualServerKey,
)
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.protocol import Protocol
from kuberouterpy.text import kind_of, line, lines, op_line
from tests.contract.test_fake import ALL

SAMPLES = (
    *ALL,
    HealthCheck(HealthCheckKey(32000), "default", "web", 2),
    Flows(FlowsKey(IPV6, Protocol.UDP, "fd00::10", 53), ("fd00::2",)),
    PodTunnel(PodTunnelKey("fd00:1::2", "fd00::10")),
)

WEB4 = VirtualServerKey(IPV4, Protocol.TCP, "10.96.0.10", 80)
WEB6 = VirtualServerKey(IPV6, Protocol.UDP, "fd00::10", 53)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (VirtualServer(WEB4, "sh", 0x10, 300), "virtual   tcp 10.96.0.10:80 sh flags 0x10 persistent 300"),
        (VirtualServer(WEB6), "virtual   udp [fd00::10]:53 rr"),
        (
            RealServer(RealServerKey(WEB6, "fd00::2", 53), 0),
            "real      udp [fd00::10]:53 -> [fd00::2]:53 weight 0 masq",
        ),
        (
            Route(RouteKey(254, "10.1.0.0/24"), (NextHop("10.0.0.1"), NextHop("10.0.0.2", "eth0")), "10.0.0.9"),
            "route     10.1.0.0/24 via 10.0.0.1 via 10.0.0.2 dev eth0 src 10.0.0.9",
        ),
        (Route(RouteKey(77, "fd00::1/128"), (NextHop(link="tun-x"),)), "route     fd00::1/128 table 77 dev tun-x"),
        (RoutingRule(RoutingRuleKey(IPV6, 5, "fd00::/64"), 77), "rule      v6 5: from fd00::/64 lookup 77"),
        (
            RoutingRule(RoutingRuleKey(IPV4, 5, fwmark=0x50000000, fwmask=0xF001C000), 78),
            "rule      v4 5: fwmark 0x50000000/0xf001c000 lookup 78",
        ),
        (PodTunnel(PodTunnelKey("10.1.3.4", "203.0.113.7")), "tunnel    pod 10.1.3.4 203.0.113.7"),
    ],
)
def test_a_line_says_what_the_tools_would(value: Object, expected: str) -> None:
    assert line(value) == expected


def test_a_chain_shows_its_rules_below_it() -> None:
    chain = Chain(ChainKey(IPV4, Table.NAT, "KUBE-ROUTER-X"), (Rule(("-s", "10.0.0.0/8"), ("RETURN",), "why"),))
    assert line(chain) == "chain     v4 nat KUBE-ROUTER-X\n            -s 10.0.0.0/8 -> RETURN"


def test_lines_are_sorted_by_kind_and_end_with_their_owner() -> None:
    owner = Owner("proxy", "service", "default/web")
    made = lines([(RealServer(RealServerKey(WEB4, "10.1.0.1", 80)), owner), (VirtualServer(WEB4), owner)])
    assert [row.split()[0] for row in made] == ["virtual", "real"]
    assert all(row.endswith("# proxy/service/default/web") for row in made)


def test_an_operation_begins_with_its_verb() -> None:
    assert op_line(Op(Verb.DELETE, WEB4, None)) == "delete virtual tcp 10.96.0.10:80"
    assert op_line(Op(Verb.CREATE, WEB4, VirtualServer(WEB4))) == "create virtual tcp 10.96.0.10:80 rr"


def test_a_password_is_in_no_text() -> None:
    neighbor = Neighbor(NeighborKey("10.0.0.9"), 64512, password="hunter2")
    assert "hunter2" not in line(neighbor) + repr(neighbor) + str(neighbor) + op_line(
        Op(Verb.CREATE, neighbor.key, neighbor)
    )


@pytest.mark.parametrize("value", SAMPLES, ids=lambda value: type(value).__name__)
def test_every_kind_has_a_line(value: Object) -> None:
    assert line(value).startswith(kind_of(value.key))


def test_there_is_a_sample_of_every_kind() -> None:
    assert {type(value) for value in SAMPLES} == set(KINDS)
