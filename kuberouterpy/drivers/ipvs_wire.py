"""Bytes of the IPVS generic netlink family: messages that change, and what its dumps say.

One struct per message kind, because building an attribute tree costs 367 us an operation in pyroute2 and 1 us here. What the
kernel wants that its header does not say (net/netfilter/ipvs/ip_vs_ctl.c: ip_vs_genl_parse_service, ip_vs_add_service):

- a full service needs scheduler, flags, timeout and netmask, a firewall-mark one too; without any of them: EINVAL;
- NETMASK is a network-order mask for IPv4, but for IPv6 a prefix length from 1 to 128 *in host byte order*;
- a full destination needs both thresholds beside forward and weight.
"""

from __future__ import annotations

import struct
import sys
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, NamedTuple

from kuberouterpy.dataplane import Forward, RealServer, RealServerKey, VirtualServer, VirtualServerKey
from kuberouterpy.drivers.netlink import address_text, attribute, attributes, nested
from kuberouterpy.family import IPV4, IPV6, Family
from kuberouterpy.protocol import BY_NUMBER, Protocol

FAMILY_NAME: Final = "IPVS"

NEW_SERVICE: Final = 1
SET_SERVICE: Final = 2
DELETE_SERVICE: Final = 3
GET_SERVICE: Final = 4
NEW_DESTINATION: Final = 5
SET_DESTINATION: Final = 6
DELETE_DESTINATION: Final = 7
GET_DESTINATION: Final = 8
SET_CONFIG: Final = 12
GET_CONFIG: Final = 13

_ATTR_SERVICE: Final = 1
_ATTR_DESTINATION: Final = 2
_ATTR_TIMEOUTS: Final = (4, 5, 6)

_SVC_AF, _SVC_PROTOCOL, _SVC_ADDR, _SVC_PORT, _SVC_FWMARK = 1, 2, 3, 4, 5
_SVC_SCHED, _SVC_FLAGS, _SVC_TIMEOUT, _SVC_NETMASK, _SVC_STATS64 = 6, 7, 8, 9, 12
_DEST_ADDR, _DEST_PORT, _DEST_FORWARD, _DEST_WEIGHT, _DEST_UPPER, _DEST_LOWER = 1, 2, 3, 4, 5, 6
_DEST_ACTIVE, _DEST_INACTIVE, _DEST_AF, _DEST_STATS64 = 7, 8, 11, 12

_PERSISTENT: Final = 0x0001
_OURS_OF_FLAGS: Final = 0x003C
"""ONE_PACKET and the three scheduler flags; PERSISTENT follows from the timeout and HASHED is the kernel's own."""

_GENL: Final = struct.Struct("=BBH")
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")
_AF_OF: Final = {IPV4: AF_INET, IPV6: AF_INET6}
_FAMILY_OF: Final = {int(AF_INET): IPV4, int(AF_INET6): IPV6}
_NETMASK: Final = {IPV4: b"\xff\xff\xff\xff", IPV6: _U32.pack(128)}

# A destination attribute of ours: nested header, ADDR (4 or 16 bytes), PORT, FORWARD, WEIGHT, UPPER, LOWER, ADDR_FAMILY.
_DEST_TAIL: Final = struct.Struct("=HH2sxx HHI HHI HHI HHI HHHxx")
_DEST_LENGTH: Final = {4: 4 + 8 + _DEST_TAIL.size, 16: 4 + 20 + _DEST_TAIL.size}
_DEST_FRONT: Final = struct.Struct("=HHHH")

# Where the kernel's own dump has them: ADDR at 8 (always 16 bytes), PORT at 28, FORWARD at 36, WEIGHT at 44, counted from the
# generic header on. The words between are attribute headers, checked before anything is believed.
_FIXED: Final = struct.Struct("=4xHH HH16s HH2s2x HHI HHi")
_FIXED_WORDS: Final = (20, _DEST_ADDR, 6, _DEST_PORT, 8, _DEST_FORWARD, 8, _DEST_WEIGHT)


class Statistics(NamedTuple):
    """Counters of a virtual or real server since it was made."""

    connections: int
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int
    active: int = 0
    """Established connections; real servers only."""
    inactive: int = 0
    """Other connections; real servers only."""


class Timeouts(NamedTuple):
    """IPVS connection timeouts of a network namespace, seconds."""

    tcp_s: int
    fin_s: int
    udp_s: int


def get(command: int, attribute_bytes: bytes = b"") -> bytes:
    """Return the body of a request: generic header, then attributes."""
    return _GENL.pack(command, 1, 0) + attribute_bytes


def server_message(command: int, server: VirtualServer) -> bytes:
    """Return the body of NEW_SERVICE or SET_SERVICE."""
    flags = server.flags & _OURS_OF_FLAGS | (_PERSISTENT if server.persistence_s else 0)
    return _GENL.pack(command, 1, 0) + nested(
        _ATTR_SERVICE,
        _identity(server.key),
        attribute(_SVC_SCHED, server.scheduler.encode() + b"\0"),
        attribute(_SVC_FLAGS, struct.pack("=II", flags, 0xFFFFFFFF)),
        attribute(_SVC_TIMEOUT, _U32.pack(server.persistence_s)),
        attribute(_SVC_NETMASK, _NETMASK[server.key.family]),
    )


def server_key_message(command: int, key: VirtualServerKey) -> bytes:
    """Return the body of DEL_SERVICE, or of a dump of its destinations."""
    return _GENL.pack(command, 1, 0) + _service(key)


def real_message(command: int, real: RealServer) -> bytes:
    """Return the body of NEW_DEST or SET_DEST."""
    key = real.key
    family = AF_INET6 if ":" in key.address else AF_INET
    address = inet_pton(family, key.address)
    length = len(address)
    tail = _DEST_TAIL.pack(
        *(6, _DEST_PORT, key.port.to_bytes(2, "big")),
        *(8, _DEST_FORWARD, real.forward),
        *(8, _DEST_WEIGHT, real.weight),
        *(8, _DEST_UPPER, 0),
        *(8, _DEST_LOWER, 0),
        *(6, _DEST_AF, family),
    )
    front = _DEST_FRONT.pack(_DEST_LENGTH[length], _ATTR_DESTINATION | 0x8000, length + 4, _DEST_ADDR)
    return b"".join((_GENL.pack(command, 1, 0), _service(key.server), front, address, tail))


def real_key_message(command: int, key: RealServerKey) -> bytes:
    """Return the body of DEL_DEST."""
    family = AF_INET6 if ":" in key.address else AF_INET
    return b"".join(
        (
            _GENL.pack(command, 1, 0),
            _service(key.server),
            nested(
                _ATTR_DESTINATION,
                attribute(_DEST_ADDR, inet_pton(family, key.address)),
                attribute(_DEST_PORT, key.port.to_bytes(2, "big")),
                attribute(_DEST_AF, _U16.pack(family)),
            ),
        )
    )


def timeouts_message(timeouts: Timeouts) -> bytes:
    """Return the body of SET_CONFIG; the kernel leaves alone what is 0."""
    return get(
        SET_CONFIG,
        b"".join(attribute(kind, _U32.pack(value)) for kind, value in zip(_ATTR_TIMEOUTS, timeouts, strict=True)),
    )


def decode_timeouts(body: memoryview) -> Timeouts:
    """Return what GET_CONFIG answers."""
    found = dict(attributes(body[4:]))
    return Timeouts(*(_U32.unpack(found[kind])[0] for kind in _ATTR_TIMEOUTS))


def decode_server(body: memoryview) -> VirtualServer | None:
    """Return the virtual server of one dump message; ``None`` for a protocol we do not know."""
    fields = _inner(body, _ATTR_SERVICE)
    key = _server_key(fields)
    if key is None:
        return None
    flags = _U32.unpack_from(fields[_SVC_FLAGS])[0]
    return VirtualServer(
        key,
        scheduler=bytes(fields[_SVC_SCHED]).rstrip(b"\0").decode(),
        flags=flags & _OURS_OF_FLAGS,
        persistence_s=_U32.unpack(fields[_SVC_TIMEOUT])[0] if flags & _PERSISTENT else 0,
    )


def decode_real(body: memoryview, server: VirtualServerKey) -> RealServer:
    """Return the real server of one dump message.

    By fixed offsets where the message is laid out as expected and the address can only be of the service's family, which is
    so for every masqueraded one; by walking its attributes elsewhere.
    """
    if len(body) >= _FIXED.size:
        words = _FIXED.unpack_from(body)
        _, outer, w0, w1, address, w2, w3, port, w4, w5, forward, w6, w7, weight = words
        if (w0, w1, w2, w3, w4, w5, w6, w7) == _FIXED_WORDS and not forward and outer & 0x7FFF == _ATTR_DESTINATION:
            return RealServer(
                RealServerKey(server, _address(server.family, address), int.from_bytes(port, "big")), weight
            )
    return _walk_real(_inner(body, _ATTR_DESTINATION), server)


def decode_server_statistics(body: memoryview) -> tuple[VirtualServerKey, Statistics] | None:
    """Return key and counters of one message of a service dump."""
    fields = _inner(body, _ATTR_SERVICE)
    key = _server_key(fields)
    return None if key is None else (key, Statistics(*_counters(fields[_SVC_STATS64])))


def decode_real_statistics(body: memoryview, server: VirtualServerKey) -> tuple[RealServerKey, Statistics]:
    """Return key and counters of one message of a destination dump."""
    fields = _inner(body, _ATTR_DESTINATION)
    active, inactive = (_U32.unpack(fields[kind])[0] for kind in (_DEST_ACTIVE, _DEST_INACTIVE))
    return _walk_real(fields, server).key, Statistics(*_counters(fields[_DEST_STATS64]), active, inactive)


@lru_cache(maxsize=65536)
def _service(key: VirtualServerKey) -> bytes:
    """Return the SERVICE attribute that only identifies: one for all destinations of a service."""
    return nested(_ATTR_SERVICE, _identity(key))


def _identity(key: VirtualServerKey) -> bytes:
    family = attribute(_SVC_AF, _U16.pack(_AF_OF[key.family]))
    if key.fwmark:
        return family + attribute(_SVC_FWMARK, _U32.pack(key.fwmark))
    return b"".join(
        (
            family,
            attribute(_SVC_PROTOCOL, _U16.pack(key.protocol.number)),
            attribute(_SVC_ADDR, inet_pton(_AF_OF[key.family], key.address)),
            attribute(_SVC_PORT, key.port.to_bytes(2, "big")),
        )
    )


def _inner(body: memoryview, kind: int) -> dict[int, memoryview]:
    return next((dict(attributes(value)) for found, value in attributes(body[4:]) if found == kind), {})


def _server_key(fields: dict[int, memoryview]) -> VirtualServerKey | None:
    family = _FAMILY_OF[_U16.unpack(fields[_SVC_AF])[0]]
    if _SVC_FWMARK in fields:
        return VirtualServerKey(family, Protocol.TCP, "", 0, _U32.unpack(fields[_SVC_FWMARK])[0])
    protocol = BY_NUMBER.get(_U16.unpack(fields[_SVC_PROTOCOL])[0])
    if protocol is None:
        return None
    port = int.from_bytes(fields[_SVC_PORT], "big")
    return VirtualServerKey(family, protocol, _address(family, bytes(fields[_SVC_ADDR])), port)


def _walk_real(fields: dict[int, memoryview], server: VirtualServerKey) -> RealServer:
    # Only a kernel older than 3.18 leaves the family out; then it is the service's.
    family = _FAMILY_OF[_U16.unpack(fields[_DEST_AF])[0]] if _DEST_AF in fields else server.family
    key = RealServerKey(server, _address(family, bytes(fields[_DEST_ADDR])), int.from_bytes(fields[_DEST_PORT], "big"))
    weight = struct.unpack("=i", fields[_DEST_WEIGHT])[0]
    return RealServer(key, weight, Forward(_U32.unpack(fields[_DEST_FORWARD])[0]))


def _address(family: Family, raw: bytes) -> str:
    return address_text(raw[:4] if family is IPV4 else raw)


def _counters(stats: memoryview) -> tuple[int, int, int, int, int]:
    found = dict(attributes(stats))
    connections, packets_in, packets_out, bytes_in, bytes_out = (
        int.from_bytes(found[kind], sys.byteorder) for kind in range(1, 6)
    )
    return connections, packets_in, packets_out, bytes_in, bytes_out
