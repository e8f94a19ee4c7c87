"""Bytes of the IPVS messages, with pyroute2's decoder as the oracle: no kernel needed."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.ipvs import ipvsmsg

from kuberouterpy.dataplane import Forward, RealServer, RealServerKey, VirtualServer, VirtualServerKey
from kuberouterpy.drivers import ipvs_wire as wire
from kuberouterpy.drivers.netlink import attribute, nested
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.protocol import Protocol

AF = {IPV4: AF_INET, IPV6: AF_INET6}
ports = st.integers(1, 65535)
names = st.sampled_from(["rr", "wrr", "lc", "sh", "mh", "dh", "sed", "nq"])
flag_bits = st.integers(0, 15).map(lambda bits: bits << 2)


def addresses(family: Family) -> st.SearchStrategy[str]:
    return st.ip_addresses(v=int(family)).map(str)


@st.composite
def server_keys(draw: st.DrawFn) -> VirtualServerKey:
    family = draw(st.sampled_from(FAMILIES))
    if draw(st.booleans()):
        return VirtualServerKey(family, Protocol.TCP, "", 0, draw(st.integers(1, 2**32 - 1)))
    return VirtualServerKey(family, draw(st.sampled_from(Protocol)), draw(addresses(family)), draw(ports))


servers = st.builds(VirtualServer, server_keys(), names, flag_bits, st.integers(0, 86400 * 7))


@st.composite
def reals(draw: st.DrawFn) -> RealServer:
    key = draw(server_keys())
    forward = draw(st.sampled_from(Forward))
    # Only a tunnel may lead into the other family (ip_vs_ctl.c: ip_vs_genl_set_cmd).
    family = draw(st.sampled_from(FAMILIES)) if forward is Forward.TUNNEL else key.family
    return RealServer(RealServerKey(key, draw(addresses(family)), draw(ports)), draw(st.integers(0, 65535)), forward)


def decoded(body: bytes) -> Any:
    """Return what pyroute2 makes of a body, behind a netlink header."""
    message = ipvsmsg(struct.pack("=IHHII", 16 + len(body), 99, 0, 1, 0) + body)
    message.decode()
    return message


def identity(key: VirtualServerKey) -> list[tuple[str, object]]:
    family: list[tuple[str, object]] = [("IPVS_SVC_ATTR_AF", int(AF[key.family]))]
    if key.fwmark:
        return [*family, ("IPVS_SVC_ATTR_FWMARK", key.fwmark)]
    return [
        *family,
        ("IPVS_SVC_ATTR_PROTOCOL", key.protocol.number),
        ("IPVS_SVC_ATTR_ADDR", key.address),
        ("IPVS_SVC_ATTR_PORT", key.port),
    ]


def pairs(attributes: Any) -> list[tuple[str, object]]:
    # pyroute2 spells ::102:304 as ::1.2.3.4, keys do not.
    return [
        (name, str(ip_address(value)) if name.endswith("_ADDR") else value) for name, value, *_ in attributes["attrs"]
    ]


@given(servers, st.sampled_from([wire.NEW_SERVICE, wire.SET_SERVICE]))
def test_the_oracle_reads_every_attribute_of_a_virtual_server(server: VirtualServer, command: int) -> None:
    message = decoded(wire.server_message(command, server))
    assert (message["cmd"], message["version"]) == (command, 1)
    *head, flags, timeout, netmask = pairs(message.get_attr("IPVS_CMD_ATTR_SERVICE"))
    assert head == [*identity(server.key), ("IPVS_SVC_ATTR_SCHED_NAME", server.scheduler)]
    assert flags[0] == "IPVS_SVC_ATTR_FLAGS"
    assert (flags[1]["flags"], flags[1]["mask"]) == (server.flags | bool(server.persistence_s), 0xFFFFFFFF)
    assert timeout == ("IPVS_SVC_ATTR_TIMEOUT", server.persistence_s)
    # 128 in host order is what pyroute2 must be told as 128.0.0.0: its schema knows only the IPv4 meaning.
    assert netmask == ("IPVS_SVC_ATTR_NETMASK", "255.255.255.255" if server.key.family is IPV4 else "128.0.0.0")


@given(reals(), st.sampled_from([wire.NEW_DESTINATION, wire.SET_DESTINATION]))
def test_the_oracle_reads_every_attribute_of_a_real_server(real: RealServer, command: int) -> None:
    message = decoded(wire.real_message(command, real))
    assert message["cmd"] == command
    assert pairs(message.get_attr("IPVS_CMD_ATTR_SERVICE")) == identity(real.key.server)
    assert pairs(message.get_attr("IPVS_CMD_ATTR_DEST")) == [
        ("IPVS_DEST_ATTR_ADDR", real.key.address),
        ("IPVS_DEST_ATTR_PORT", real.key.port),
        ("IPVS_DEST_ATTR_FWD_METHOD", int(real.forward)),
        ("IPVS_DEST_ATTR_WEIGHT", real.weight),
        ("IPVS_DEST_ATTR_U_THRESH", 0),
        ("IPVS_DEST_ATTR_L_THRESH", 0),
        ("IPVS_DEST_ATTR_ADDR_FAMILY", int(AF_INET6 if ":" in real.key.address else AF_INET)),
    ]


@given(reals())
def test_the_oracle_reads_the_keys_of_deletions(real: RealServer) -> None:
    message = decoded(wire.real_key_message(wire.DELETE_DESTINATION, real.key))
    assert pairs(message.get_attr("IPVS_CMD_ATTR_SERVICE")) == identity(real.key.server)
    assert pairs(message.get_attr("IPVS_CMD_ATTR_DEST"))[:2] == [
        ("IPVS_DEST_ATTR_ADDR", real.key.address),
        ("IPVS_DEST_ATTR_PORT", real.key.port),
    ]
    message = decoded(wire.server_key_message(wire.DELETE_SERVICE, real.key.server))
    assert pairs(message.get_attr("IPVS_CMD_ATTR_SERVICE")) == identity(real.key.server)


@given(servers)
def test_a_virtual_server_survives_encoding_and_decoding(server: VirtualServer) -> None:
    assert wire.decode_server(memoryview(wire.server_message(wire.NEW_SERVICE, server))) == server


@given(reals())
def test_a_real_server_survives_the_generic_decoder(real: RealServer) -> None:
    body = memoryview(wire.real_message(wire.NEW_DESTINATION, real))
    assert wire.decode_real(body, real.key.server) == real


@given(reals(), st.booleans())
def test_fixed_offsets_and_the_attribute_walk_agree_on_a_dump(real: RealServer, reordered: bool) -> None:
    """The kernel pads an IPv4 address to 16 bytes; another order of attributes must only be slower."""
    packed = ip_address(real.key.address).packed
    fields = [
        attribute(1, packed + bytes(16 - len(packed))),
        attribute(2, real.key.port.to_bytes(2, "big")),
        attribute(3, struct.pack("=I", real.forward)),
        attribute(4, struct.pack("=i", real.weight)),
        attribute(11, struct.pack("=H", AF_INET6 if ":" in real.key.address else AF_INET)),
    ]
    body = wire.get(wire.NEW_DESTINATION, nested(2, *(reversed(fields) if reordered else fields)))
    assert wire.decode_real(memoryview(body), real.key.server) == real


GOLDEN = [
    (
        wire.server_message(
            wire.NEW_SERVICE,
            VirtualServer(VirtualServerKey(IPV4, Protocol.TCP, "10.96.0.10", 80), persistence_s=10800),
        ),
        # command 1 version 1 | SERVICE | AF 2 | PROTOCOL 6 | ADDR | PORT 80 | SCHED rr | FLAGS 1/~0 | TIMEOUT | NETMASK
        (
            "01010000 48000180 0600010002000000 0600020006000000 080003000a60000a 0600040000500000 0700060072720000"
            " 0c00070001000000ffffffff 08000800302a0000 08000900ffffffff"
        ),
    ),
    (
        wire.server_message(
            wire.SET_SERVICE,
            VirtualServer(VirtualServerKey(IPV6, Protocol.UDP, "fd00:96::10", 53), scheduler="sh", flags=0x18),
        ),
        # NETMASK of IPv6: prefix length 128 in host byte order
        (
            "02010000 54000180 060001000a000000 0600020011000000 14000300fd000096000000000000000000000010"
            " 0600040000350000 0700060073680000 0c00070018000000ffffffff 0800080000000000 0800090080000000"
        ),
    ),
    (
        wire.server_key_message(wire.DELETE_SERVICE, VirtualServerKey(IPV6, Protocol.TCP, "", 0, fwmark=0x2001)),
        "03010000 14000180 060001000a000000 0800050001200000",
    ),
    (
        wire.real_message(
            wire.NEW_DESTINATION,
            RealServer(RealServerKey(VirtualServerKey(IPV4, Protocol.TCP, "10.96.0.10", 80), "10.1.2.3", 8080), 1),
        ),
        (
            "05010000 24000180 0600010002000000 0600020006000000 080003000a60000a 0600040000500000"
            " 3c000280 080001000a010203 060002001f900000 0800030000000000 0800040001000000 0800050000000000"
            " 0800060000000000 06000b0002000000"
        ),
    ),
]


@pytest.mark.skipif("__import__('sys').byteorder != 'little'", reason="golden bytes are of a little-endian machine")
@pytest.mark.parametrize(("body", "golden"), GOLDEN)
def test_golden_bytes(body: bytes, golden: str) -> None:
    assert body.hex() == golden.replace(" ", "")
