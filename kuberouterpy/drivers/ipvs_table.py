"""The whole IPVS table as people look at it: ours and others', with masks, thresholds, tunnels, counters and rates.

Apart from the driver, which reads only what it compares. Read-only. Attribute numbers: include/uapi/linux/ip_vs.h.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from socket import AF_INET6, inet_ntop
from typing import Final

from msgspec import Struct

from kuberouterpy.dataplane import Forward, RealServerKey, VirtualServerKey
from kuberouterpy.drivers import ipvs_wire as wire
from kuberouterpy.drivers.netlink import GENERIC, Message, Netlink, address_text, attributes, unanswered
from kuberouterpy.errors import DriverError, MissingCapability
from kuberouterpy.family import IPV4, IPV6, Family
from kuberouterpy.protocol import BY_NUMBER, Protocol

_SERVICE: Final = 1
_DESTINATION: Final = 2
_GET_INFO: Final = 15
_FAMILIES: Final = {2: IPV4, int(AF_INET6): IPV6}
_NO_STATS: Final = (0,) * 10


class Counters(Struct, frozen=True):
    """Totals since a server was made, and estimates of the last seconds."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    connections_per_s: int = 0
    packets_in_per_s: int = 0
    packets_out_per_s: int = 0
    bytes_in_per_s: int = 0
    bytes_out_per_s: int = 0


class Real(Struct, frozen=True):
    """A destination."""

    key: RealServerKey
    forward: Forward
    weight: int
    active: int
    """Established connections."""
    inactive: int
    """Other connections."""
    counters: Counters
    tunnel: int = 0
    """0 ipip, 1 gue, 2 gre."""
    tunnel_port: int = 0
    tunnel_flags: int = 0
    """1: checksum, 2: remote checksum."""


class Virtual(Struct, frozen=True):
    """A service with its destinations, as the kernel lists them."""

    key: VirtualServerKey
    scheduler: str
    flags: int
    """IP_VS_SVC_F_*."""
    persistence_s: int
    netmask: str
    """Granularity of persistence, where it is not a single address: ``255.255.255.0`` or ``64``."""
    engine: str
    """Persistence engine, or empty."""
    counters: Counters
    reals: tuple[Real, ...] = ()

    @property
    def persistent(self) -> bool:
        """IP_VS_SVC_F_PERSISTENT."""
        return bool(self.flags & 1)


class Table(Struct, frozen=True):
    """The IPVS table of a network namespace."""

    version: str
    """Of IPVS: ``1.2.1``."""
    size: int
    """Of the connection table."""
    servers: tuple[Virtual, ...]


def read(*, reals: bool = True) -> Table:
    """Return the table of this thread's network namespace; without ``reals`` one listing is enough.

    Errors: MissingCapability where the kernel has no IPVS or we may not read it; DriverError.
    """
    netlink = Netlink(GENERIC)
    try:
        family = _family(netlink)
        said = dict(attributes(netlink.request(Message(family, 0, wire.get(_GET_INFO)))[4:]))
        number = _number(said[1])
        bodies = list(netlink.dump(Message(family, 0, wire.get(wire.GET_SERVICE))))
        servers = tuple(_server(netlink, family, body, reals) for body in bodies if _key(body) is not None)
    except OSError as error:
        raise unanswered("list the IPVS table", error) from error
    finally:
        netlink.close()
    return Table(f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", _number(said[2]), servers)


def _family(netlink: Netlink) -> int:
    try:
        return netlink.family(wire.FAMILY_NAME)
    except FileNotFoundError as error:
        raise MissingCapability("the kernel has no IPVS: modprobe ip_vs", error.errno or 0) from error
    except OSError as error:
        raise unanswered("ask for the IPVS netlink family", error) from error


def _server(netlink: Netlink, family: int, body: memoryview, with_reals: bool) -> Virtual:
    fields = _inner(body, _SERVICE)
    key = _key(body)
    if key is None:
        raise DriverError("an IPVS service of a protocol that is not known")
    asked = Message(family, 0, wire.server_key_message(wire.GET_DESTINATION, key))
    reals = netlink.dump(asked) if with_reals else ()
    flags = int.from_bytes(fields[7][:4], sys.byteorder)
    return Virtual(
        key,
        scheduler=_text(fields[6]),
        flags=flags,
        persistence_s=_number(fields[8]),
        netmask=_netmask(key.family, bytes(fields[9])),
        engine=_text(fields[11]) if 11 in fields else "",
        counters=_counters(fields),
        reals=tuple(_real(one, key) for one in reals),
    )


def _real(body: memoryview, server: VirtualServerKey) -> Real:
    fields = _inner(body, _DESTINATION)
    family = _FAMILIES[_number(fields[11])] if 11 in fields else server.family
    address = bytes(fields[1])
    key = RealServerKey(
        server, address_text(address[:4] if family is IPV4 else address), int.from_bytes(fields[2], "big")
    )
    return Real(
        key,
        forward=Forward(_number(fields[3]) & 7),
        weight=int.from_bytes(fields[4], sys.byteorder, signed=True),
        active=_number(fields[7]),
        inactive=_number(fields[8]),
        counters=_counters(fields),
        tunnel=_number(fields.get(13, memoryview(b""))),
        tunnel_port=int.from_bytes(fields.get(14, b""), "big"),
        tunnel_flags=_number(fields.get(15, memoryview(b""))),
    )


def _key(body: memoryview) -> VirtualServerKey | None:
    fields = _inner(body, _SERVICE)
    family = _FAMILIES[_number(fields[1])]
    if 5 in fields:
        return VirtualServerKey(family, Protocol.TCP, "", 0, _number(fields[5]))
    protocol = BY_NUMBER.get(_number(fields[2]))
    if protocol is None:
        return None
    address = bytes(fields[3])
    return VirtualServerKey(
        family, protocol, address_text(address[:4] if family is IPV4 else address), int.from_bytes(fields[4], "big")
    )


def _netmask(family: Family, raw: bytes) -> str:
    """Return a mask unless it is that of a single address. IPv6 has a prefix length, in host byte order."""
    if family is IPV4:
        return "" if raw == b"\xff\xff\xff\xff" else address_text(raw)
    length = int.from_bytes(raw, sys.byteorder)
    return "" if length == IPV6.host_prefix else str(length)


def _counters(fields: Mapping[int, memoryview]) -> Counters:
    found = dict(attributes(fields[12]))
    return Counters(*(_number(found[kind]) if kind in found else 0 for kind in range(1, 11)))


def _inner(body: memoryview, kind: int) -> dict[int, memoryview]:
    return next((dict(attributes(value)) for found, value in attributes(body[4:]) if found == kind), {})


def _number(raw: memoryview) -> int:
    return int.from_bytes(raw, sys.byteorder)


def _text(raw: memoryview) -> str:
    return bytes(raw).rstrip(b"\0").decode()


def address(text: str) -> str:
    """Return an address as inet_ntop writes it, which is what ipvsadm prints: ``::102:304`` is ``::1.2.3.4`` there."""
    from socket import inet_pton  # noqa: PLC0415

    return inet_ntop(AF_INET6, inet_pton(AF_INET6, text)) if ":" in text else text
