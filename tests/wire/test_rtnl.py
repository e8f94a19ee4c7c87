"""Bytes of rtnetlink, with pyroute2's decoder as the oracle: no kernel needed."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from kuberouterpy.drivers import rtnl_wire as wire
from kuberouterpy.drivers.rtnl_wire import Hop
from kuberouterpy.family import FAMILIES, IPV4, Family, family_of

ifindexes = st.integers(1, 2**31 - 1)
tables = st.integers(1, 2**32 - 1)
families = st.sampled_from(FAMILIES)


def decoded(schema: Any, body: bytes) -> Any:
    """Return what pyroute2 makes of a body, behind a netlink header."""
    message = schema(struct.pack("=IHHII", 16 + len(body), 99, 0, 1, 0) + body)
    message.decode()
    return message


def addresses(family: Family) -> st.SearchStrategy[str]:
    # Canonical keys hold no IPv4-mapped address, and pyroute2 spells IPv4-compatible ones in another way.
    return st.ip_addresses(v=int(family)).filter(lambda one: one.packed[:10] != bytes(10)).map(str)


def prefixes(family: Family) -> st.SearchStrategy[str]:
    from ipaddress import ip_network

    lengths = st.integers(20, family.host_prefix)
    return st.tuples(addresses(family), lengths).map(lambda pair: str(ip_network(f"{pair[0]}/{pair[1]}", strict=False)))


@st.composite
def routes(draw: st.DrawFn) -> dict[str, Any]:
    family = draw(families)
    hop = st.builds(Hop, st.just("") | addresses(family), ifindexes, st.booleans())
    return {
        "family": family,
        "destination": draw(prefixes(family)),
        "table": draw(tables),
        "protocol": draw(st.integers(1, 255)),
        "kind": draw(st.sampled_from(["unicast", "local"])),
        "hops": tuple(draw(st.lists(hop, min_size=1, max_size=5))),
        "source": draw(st.just("") | addresses(family)),
    }


@given(families.flatmap(lambda family: st.tuples(st.just(family), addresses(family))), ifindexes)
def test_the_oracle_reads_an_address(pair: tuple[Family, str], ifindex: int) -> None:
    family, text = pair
    message = decoded(ifaddrmsg, wire.address(ifindex, text, family.host_prefix, wire.SCOPE_LINK))
    assert (message["family"], message["index"], message["prefixlen"]) == (family.af, ifindex, family.host_prefix)
    assert message["scope"] == wire.SCOPE_LINK
    assert message.get_attr("IFA_LOCAL") == text
    assert message.get_attr("IFA_FLAGS") == (None if family is IPV4 else 0x202)


@given(routes())
def test_the_oracle_reads_a_route(route: dict[str, Any]) -> None:
    family: Family = route["family"]
    message = decoded(rtmsg, wire.route(**route))
    network, _, length = route["destination"].partition("/")
    assert (message["family"], message["dst_len"], message["proto"]) == (family.af, int(length), route["protocol"])
    assert message["type"] == {"unicast": 1, "local": 2}[route["kind"]]
    assert message.get_attr("RTA_DST") == network
    assert message.get_attr("RTA_TABLE") == route["table"]
    assert (message.get_attr("RTA_PREFSRC") or "") == route["source"]
    if len(route["hops"]) == 1:
        hops = [(message.get_attr("RTA_GATEWAY") or "", message.get_attr("RTA_OIF"), bool(message["flags"] & 4))]
    else:
        hops = [
            (hop.get_attr("RTA_GATEWAY") or "", hop["oif"], bool(hop["flags"] & 4))
            for hop in message.get_attr("RTA_MULTIPATH")
        ]
    assert hops == [tuple(hop) for hop in route["hops"]]


@given(routes())
def test_a_route_survives_encoding_and_decoding(route: dict[str, Any]) -> None:
    seen = wire.decode_route(memoryview(wire.route(**route)))
    assert seen is not None
    assert seen._asdict() == route


@given(addresses(IPV4), addresses(FAMILIES[1]))
def test_an_ipv4_route_may_have_an_ipv6_gateway(four: str, six: str) -> None:
    body = wire.route(IPV4, f"{four}/32", table=254, protocol=17, kind="unicast", hops=(Hop(six, 7),), source="")
    via = decoded(rtmsg, body).get_attr("RTA_VIA")
    assert (via["family"], via["addr"]) == (10, six)
    seen = wire.decode_route(memoryview(body))
    assert seen is not None
    assert seen.hops == (Hop(six, 7),)


@given(families.flatmap(addresses), ifindexes, st.binary(min_size=6, max_size=6).map(wire.hardware_text), st.booleans())
def test_the_oracle_reads_a_neighbor_and_a_forwarding_entry(
    address: str, ifindex: int, hardware: str, forwarding: bool
) -> None:
    body = wire.neighbor(ifindex, address, hardware, forwarding=forwarding)
    message = decoded(ndmsg, body)
    family = 7 if forwarding else family_of(address).af
    assert (message["family"], message["ifindex"], message["state"]) == (family, ifindex, 0x80)
    assert message["flags"] == (2 if forwarding else 0)
    assert message.get_attr("NDA_LLADDR") == hardware
    seen = wire.decode_neighbor(memoryview(body))
    assert seen == (ifindex, address, hardware, forwarding)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    family = draw(families)
    return {
        "family": family,
        "priority": draw(st.integers(1, 32766)),
        "source": draw(st.just("") | prefixes(family)),
        "fwmark": draw(st.integers(0, 2**32 - 1)),
        "fwmask": draw(st.integers(0, 2**32 - 2)),
        "table": draw(tables),
        "protocol": draw(st.integers(1, 255)),
    }


@given(rules())
def test_the_oracle_reads_a_rule(rule: dict[str, Any]) -> None:
    message = decoded(fibmsg, wire.rule(**rule))
    network, _, length = rule["source"].partition("/")
    assert (message["family"], message["src_len"]) == (rule["family"].af, int(length or 0))
    assert (message.get_attr("FRA_SRC") or "") == network
    assert (message.get_attr("FRA_FWMARK") or 0) == rule["fwmark"]
    assert (message.get_attr("FRA_FWMASK") or 0) == rule["fwmask"]
    for name in ("priority", "table", "protocol"):
        assert message.get_attr(f"FRA_{name.upper()}") == rule[name]


@given(rules())
def test_a_rule_survives_encoding_and_decoding(rule: dict[str, Any]) -> None:
    seen = wire.decode_rule(memoryview(wire.rule(**rule)))
    assert seen is not None
    assert seen._asdict() == rule
