"""NFLOG's bytes: packets of both families, with extension headers and fragments, and what is no packet."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.drivers.netlink import attribute
from kuberouterpy.drivers.nflog import Logged, decode, read_packet

PORTS = struct.pack(">HH", 4000, 80) + bytes(16)


def ipv4(protocol: int, upper: bytes, *, fragment: int = 0, options: bytes = b"") -> bytes:
    head = bytes([0x45 + len(options) // 4, 0]) + struct.pack(">HHHBBH", 0, 0, fragment, 64, protocol, 0)
    return head + ip_address("10.1.0.5").packed + ip_address("10.1.1.5").packed + options + upper


def ipv6(following: int, upper: bytes) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(upper), following, 64)
    return head + ip_address("fd00::5").packed + ip_address("fd00::6").packed + upper


def datagram(prefix: bytes, packet: bytes, kind: int = 0x400) -> bytes:
    body = struct.pack(">BBH", 2, 0, 100) + attribute(1, struct.pack(">HBB", 0x800, 2, 0))
    body += attribute(10, prefix + b"\0") + attribute(9, packet)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (ipv4(6, PORTS), ("10.1.0.5", "10.1.1.5", "tcp", 4000, 80)),
        (ipv4(17, PORTS, options=bytes(8)), ("10.1.0.5", "10.1.1.5", "udp", 4000, 80)),
        (ipv4(17, PORTS, fragment=0x2000), ("10.1.0.5", "10.1.1.5", "udp", 4000, 80)),
        (ipv4(17, PORTS, fragment=0x0010), ("10.1.0.5", "10.1.1.5", "udp", 0, 0)),
        (ipv4(1, b"\x08\0"), ("10.1.0.5", "10.1.1.5", "icmp", 0, 0)),
        (ipv4(47, b""), ("10.1.0.5", "10.1.1.5", "47", 0, 0)),
        (ipv4(6, b"\0"), ("10.1.0.5", "10.1.1.5", "tcp", 0, 0)),
        (ipv6(132, PORTS), ("fd00::5", "fd00::6", "sctp", 4000, 80)),
        (ipv6(58, b"\x80\0"), ("fd00::5", "fd00::6", "icmp", 0, 0)),
        (
            ipv6(0, bytes([60, 0]) + bytes(6) + bytes([6, 1]) + bytes(14) + PORTS),
            ("fd00::5", "fd00::6", "tcp", 4000, 80),
        ),
        (ipv6(44, bytes([17, 0, 0, 1]) + bytes(4) + PORTS), ("fd00::5", "fd00::6", "udp", 4000, 80)),
        (ipv6(44, bytes([17, 0, 0, 9]) + bytes(4) + PORTS), ("fd00::5", "fd00::6", "udp", 0, 0)),
    ],
)
def test_headers_are_read(packet: bytes, expected: tuple[str, str, str, int, int]) -> None:
    assert list(decode(datagram(b"in:a/b:c", packet))) == [Logged("in:a/b:c", *expected)]


def test_other_messages_are_passed_over() -> None:
    assert list(decode(datagram(b"x", ipv4(6, PORTS), kind=2))) == []
    assert read_packet("x", b"") is None
    assert read_packet("x", b"\x45" + bytes(10)) is None


@given(st.binary(max_size=120))
def test_no_bytes_break_it(packet: bytes) -> None:
    read_packet("x", packet)
    list(decode(packet))
