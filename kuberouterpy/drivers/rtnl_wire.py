"""Bytes of rtnetlink: links, addresses, routes and rules, as far as the drivers need them.

Own structs where there may be thousands (addresses, routes) and for every dump; links to be made go through pyroute2's
schema (:mod:`kuberouterpy.drivers.links`), which knows the attributes of every kind of link. pyroute2's decoder is the oracle
in tests.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, NamedTuple

from kuberouterpy.drivers.netlink import address_text, attribute, attributes
from kuberouterpy.family import IPV4, IPV6, Family

NEW_LINK, DELETE_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOR, DELETE_NEIGHBOR, GET_NEIGHBOR = 28, 29, 30
NEW_RULE, DELETE_RULE, GET_RULE = 32, 33, 34

UP: Final = 0x1
NOARP: Final = 0x80

SCOPE_GLOBAL, SCOPE_LINK, SCOPE_HOST, SCOPE_NOWHERE = 0, 253, 254, 255

_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_HOP: Final = struct.Struct("=HBBi")
_NEIGHBOR: Final = struct.Struct("=BxHiHBB")
_U32: Final = struct.Struct("=I")

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_EXT_MASK = 1, 3, 4, 18, 29
_INFO_KIND, _INFO_DATA = 1, 2
_TUNNEL_LOCAL, _TUNNEL_REMOTE = 2, 3
_TUNNEL_ENCAP_TYPE, _TUNNEL_ENCAP_PORT = 15, 18
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 15, 17
_SKIP_STATISTICS: Final = 8
_TUNNEL_KINDS: Final = frozenset({"ipip", "ip6tnl", "sit"})
VXLAN: Final = "vxlan"

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NODAD, _NOPREFIXROUTE = 0x02, 0x200

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 1, 4, 5, 7, 9, 15, 18
_CLONED: Final = 0x200
_ON_LINK: Final = 0x4
_NDA_DST, _NDA_LLADDR = 1, 2
_PERMANENT: Final = 0x80
_NTF_SELF: Final = 0x02
_AF_BRIDGE: Final = 7
"""Family of forwarding entries."""
_ROUTE_TYPES: Final = {"unicast": 1, "local": 2}
_ROUTE_TYPE_NAMES: Final = {number: name for name, number in _ROUTE_TYPES.items()}

_FRA_SRC, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 2, 6, 10, 15, 16, 21
_FRA_OF_OTHERS: Final = frozenset({1, 3, 17})
"""Destination, incoming and outgoing link: no rule of ours has them."""
_TO_TABLE: Final = 1
_WHOLE_MARK: Final = 0xFFFFFFFF

AF_OF: Final = {IPV4: AF_INET, IPV6: AF_INET6}
FAMILY_OF: Final = {int(AF_INET): IPV4, int(AF_INET6): IPV6}


class LinkSeen(NamedTuple):
    """A link as the kernel lists it."""

    ifindex: int
    name: str
    kind: str
    mtu: int
    up: bool
    local: str = ""
    remote: str = ""
    port: int = 0
    vni: int = 0
    hardware: str = ""


class NeighborSeen(NamedTuple):
    """A permanent neighbor or forwarding entry as the kernel lists it."""

    ifindex: int
    address: str
    hardware: str
    forwarding: bool
    """It stands in the forwarding table: packets for the hardware address go to the address."""


class AddressSeen(NamedTuple):
    """An address as the kernel lists it."""

    ifindex: int
    address: str
    prefix: int
    link_local: bool


class Hop(NamedTuple):
    """A next hop by link index; 0: none."""

    gateway: str
    ifindex: int
    on_link: bool = False


class RouteSeen(NamedTuple):
    """A route as the kernel lists it."""

    family: Family
    table: int
    destination: str
    protocol: int
    kind: str
    hops: tuple[Hop, ...]
    source: str


class RuleSeen(NamedTuple):
    """A routing rule that looks up a table, as the kernel lists it."""

    family: Family
    priority: int
    source: str
    fwmark: int
    fwmask: int
    """0: the whole mark, or no mark at all."""
    table: int
    protocol: int


def get_links(name: str = "") -> bytes:
    """Return the body of RTM_GETLINK, for one link or for a dump, without statistics."""
    wanted = attribute(_IFLA_IFNAME, name.encode() + b"\0") if name else b""
    return _LINK.pack(0, 0, 0, 0, 0) + wanted + attribute(_IFLA_EXT_MASK, _U32.pack(_SKIP_STATISTICS))


def link_by_index(index: int) -> bytes:
    """Return the body of RTM_DELLINK."""
    return _LINK.pack(0, 0, index, 0, 0)


def decode_link(body: memoryview) -> LinkSeen:
    """Return the link of one message."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    fields = dict(attributes(body[_LINK.size :]))
    inner = dict(attributes(fields.get(_IFLA_LINKINFO, b"")))
    kind = bytes(inner.get(_INFO_KIND, b"")).rstrip(b"\0").decode()
    ends = dict(attributes(inner[_INFO_DATA])) if _INFO_DATA in inner else {}
    local, remote, port, vni = _tunnel(kind, ends)
    return LinkSeen(
        index,
        bytes(fields[_IFLA_IFNAME]).rstrip(b"\0").decode(errors="replace"),
        kind,
        _number(fields.get(_IFLA_MTU, b"")),
        bool(flags & UP),
        local,
        remote,
        port,
        vni,
        hardware_text(bytes(fields.get(_IFLA_ADDRESS, b""))),
    )


def _tunnel(kind: str, ends: dict[int, memoryview]) -> tuple[str, str, int, int]:
    """Return local and remote end, UDP port and VXLAN identifier of a tunnel; empty and 0 for what it has not."""
    if kind == VXLAN:
        local = ends.get(_VXLAN_LOCAL) or ends.get(_VXLAN_LOCAL6)
        return _endpoint(local), "", _big(ends.get(_VXLAN_PORT)), _number(ends.get(_VXLAN_ID, b""))
    if kind not in _TUNNEL_KINDS:
        return "", "", 0, 0
    wrapped = _number(ends.get(_TUNNEL_ENCAP_TYPE, b""))
    port = _big(ends.get(_TUNNEL_ENCAP_PORT)) if wrapped else 0
    return _endpoint(ends.get(_TUNNEL_LOCAL)), _endpoint(ends.get(_TUNNEL_REMOTE)), port, 0


def neighbor(index: int, address: str, hardware: str, *, forwarding: bool) -> bytes:
    """Return the body of RTM_NEWNEIGH or RTM_DELNEIGH for a permanent neighbor or forwarding entry."""
    family = AF_INET6 if ":" in address else AF_INET
    head = _NEIGHBOR.pack(_AF_BRIDGE if forwarding else family, 0, index, _PERMANENT, _NTF_SELF if forwarding else 0, 0)
    return head + attribute(_NDA_DST, inet_pton(family, address)) + attribute(_NDA_LLADDR, hardware_bytes(hardware))


def get_neighbors(family: Family | None) -> bytes:
    """Return the body of a dump of the neighbor entries of a family; of the forwarding entries for ``None``."""
    return _NEIGHBOR.pack(_AF_BRIDGE if family is None else AF_OF[family], 0, 0, 0, 0, 0)


def decode_neighbor(body: memoryview) -> NeighborSeen | None:
    """Return the entry of one message; ``None`` for what is not permanent or lacks an address."""
    family, _, index, state, _, _ = _NEIGHBOR.unpack_from(body)
    fields = dict(attributes(body[_NEIGHBOR.size :]))
    if not state & _PERMANENT or _NDA_DST not in fields or _NDA_LLADDR not in fields:
        return None
    address, hardware = bytes(fields[_NDA_DST]), bytes(fields[_NDA_LLADDR])
    return NeighborSeen(index, address_text(address), hardware_text(hardware), family == _AF_BRIDGE)


def hardware_text(packed: bytes) -> str:
    """Return the text of a hardware address of six bytes; empty for others."""
    return packed.hex(":") if len(packed) == 6 else ""


def hardware_bytes(text: str) -> bytes:
    """Return the six bytes of a hardware address."""
    return bytes.fromhex(text.replace(":", ""))


def address(index: int, text: str, prefix: int, scope: int) -> bytes:
    """Return the body of RTM_NEWADDR or RTM_DELADDR.

    IPv6 without duplicate address detection: a VIP is on every node. A host prefix needs no prefix route beside its local one.
    """
    family = AF_INET6 if ":" in text else AF_INET
    packed = inet_pton(family, text)
    head = _ADDRESS.pack(family, prefix, 0, scope, index)
    if family == AF_INET:
        return head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    flags = _NODAD | (_NOPREFIXROUTE if prefix == IPV6.host_prefix else 0)
    return head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_FLAGS, _U32.pack(flags))


def get_addresses() -> bytes:
    """Return the body of a dump of all addresses."""
    return _ADDRESS.pack(0, 0, 0, 0, 0)


def decode_address(body: memoryview) -> AddressSeen | None:
    """Return the address of one message; ``None`` for families that are not IP."""
    family, prefix, _, scope, index = _ADDRESS.unpack_from(body)
    if family not in FAMILY_OF:
        return None
    fields = dict(attributes(body[_ADDRESS.size :]))
    packed = fields[_IFA_LOCAL] if _IFA_LOCAL in fields else fields[_IFA_ADDRESS]
    return AddressSeen(index, address_text(bytes(packed)), prefix, family == AF_INET6 and scope == SCOPE_LINK)


def route(
    family: Family, destination: str, *, table: int, protocol: int, kind: str, hops: tuple[Hop, ...], source: str
) -> bytes:
    """Return the body of RTM_NEWROUTE."""
    scope = SCOPE_HOST if kind == "local" else SCOPE_GLOBAL if any(hop.gateway for hop in hops) else SCOPE_LINK
    flags = _ON_LINK if len(hops) == 1 and hops[0].on_link else 0
    parts = [_route_head(destination, (family, table, protocol, scope, _ROUTE_TYPES[kind]), flags)]
    if source:
        parts.append(attribute(_RTA_PREFSRC, inet_pton(AF_OF[family], source)))
    if len(hops) == 1:
        parts += _hop(family, hops[0])
        if hops[0].ifindex:
            parts.append(attribute(_RTA_OIF, _U32.pack(hops[0].ifindex)))
    else:
        parts.append(attribute(_RTA_MULTIPATH, b"".join(_multipath(family, hops))))
    return b"".join(parts)


def route_key(family: Family, destination: str, *, table: int, protocol: int) -> bytes:
    """Return the body of RTM_DELROUTE: whatever next hops it has, but only of this protocol."""
    return _route_head(destination, (family, table, protocol, SCOPE_NOWHERE, 0))


def get_routes(family: Family, protocol: int, table: int = 0) -> bytes:
    """Return the body of a dump of the routes of one protocol in all tables, or in one below 256.

    An old kernel gives those of all protocols and tables; one without that table answers ENOENT.
    """
    return _ROUTE.pack(AF_OF[family], 0, 0, 0, table, protocol, 0, 0, 0)


def decode_route(body: memoryview) -> RouteSeen | None:
    """Return the route of one message; ``None`` for cached ones and for kinds we do not know."""
    af, length, _, _, table, protocol, _, kind, flags = _ROUTE.unpack_from(body)
    family = FAMILY_OF.get(af)
    if family is None or flags & _CLONED or kind not in _ROUTE_TYPE_NAMES:
        return None
    fields = dict(attributes(body[_ROUTE.size :]))
    return RouteSeen(
        family,
        _number(fields[_RTA_TABLE]) if _RTA_TABLE in fields else table,
        _prefix(family, fields.get(_RTA_DST), length),
        protocol,
        _ROUTE_TYPE_NAMES[kind],
        tuple(_hops(fields, flags)),
        address_text(bytes(fields[_RTA_PREFSRC])) if _RTA_PREFSRC in fields else "",
    )


def rule(family: Family, *, priority: int, source: str, fwmark: int, fwmask: int, table: int, protocol: int) -> bytes:
    """Return the body of RTM_NEWRULE or RTM_DELRULE."""
    length = int(source.partition("/")[2]) if source else 0
    parts = [_ROUTE.pack(AF_OF[family], 0, length, 0, table if table < 256 else 0, 0, 0, _TO_TABLE, 0)]
    if source:
        parts.append(attribute(_FRA_SRC, ip_network(source).network_address.packed))
    parts += [attribute(_FRA_PRIORITY, _U32.pack(priority)), attribute(_FRA_TABLE, _U32.pack(table))]
    if fwmark:
        parts.append(attribute(_FRA_FWMARK, _U32.pack(fwmark)))
    if fwmask:
        parts.append(attribute(_FRA_FWMASK, _U32.pack(fwmask)))
    if protocol:
        parts.append(attribute(_FRA_PROTOCOL, bytes((protocol,))))
    return b"".join(parts)


def get_rules(family: Family) -> bytes:
    """Return the body of a dump of the rules of one family."""
    return _ROUTE.pack(AF_OF[family], 0, 0, 0, 0, 0, 0, 0, 0)


def decode_rule(body: memoryview) -> RuleSeen | None:
    """Return the rule of one message; ``None`` where it matches on what no rule of ours does."""
    af, _, length, _, table, _, _, action, _ = _ROUTE.unpack_from(body)
    family = FAMILY_OF.get(af)
    fields = dict(attributes(body[_ROUTE.size :]))
    if family is None or action != _TO_TABLE or _FRA_OF_OTHERS & fields.keys():
        return None
    mask = _number(fields.get(_FRA_FWMASK, b""))
    return RuleSeen(
        family,
        _number(fields.get(_FRA_PRIORITY, b"")),
        _prefix(family, fields[_FRA_SRC], length) if length and _FRA_SRC in fields else "",
        _number(fields.get(_FRA_FWMARK, b"")),
        0 if mask == _WHOLE_MARK else mask,
        _number(fields[_FRA_TABLE]) if _FRA_TABLE in fields else table,
        _number(fields.get(_FRA_PROTOCOL, b"")),
    )


def _route_head(destination: str, head: tuple[Family, int, int, int, int], flags: int = 0) -> bytes:
    family, table, protocol, scope, kind = head
    text, _, length = destination.partition("/")
    af = AF_OF[family]
    fixed = _ROUTE.pack(af, int(length), 0, 0, table if table < 256 else 0, protocol, scope, kind, flags)
    return fixed + attribute(_RTA_DST, inet_pton(af, text)) + attribute(_RTA_TABLE, _U32.pack(table))


def _hop(family: Family, hop: Hop) -> list[bytes]:
    if not hop.gateway:
        return []
    af = AF_INET6 if ":" in hop.gateway else AF_INET
    packed = inet_pton(af, hop.gateway)
    if af == AF_OF[family]:
        return [attribute(_RTA_GATEWAY, packed)]
    return [attribute(_RTA_VIA, struct.pack("=H", af) + packed)]


def _multipath(family: Family, hops: tuple[Hop, ...]) -> Iterator[bytes]:
    for hop in hops:
        inner = b"".join(_hop(family, hop))
        yield _HOP.pack(_HOP.size + len(inner), _ON_LINK * hop.on_link, 0, hop.ifindex) + inner


def _hops(fields: dict[int, memoryview], flags: int) -> Iterator[Hop]:
    if _RTA_MULTIPATH not in fields:
        yield Hop(_gateway(fields), _number(fields.get(_RTA_OIF, b"")), bool(flags & _ON_LINK))
        return
    view = fields[_RTA_MULTIPATH]
    while len(view) >= _HOP.size:
        length, marks, _, index = _HOP.unpack_from(view)
        if length < _HOP.size:
            return
        yield Hop(_gateway(dict(attributes(view[_HOP.size : length]))), index, bool(marks & _ON_LINK))
        view = view[(length + 3) & ~3 :]


def _gateway(fields: dict[int, memoryview]) -> str:
    if _RTA_GATEWAY in fields:
        return address_text(bytes(fields[_RTA_GATEWAY]))
    return address_text(bytes(fields[_RTA_VIA][2:])) if _RTA_VIA in fields else ""


def _prefix(family: Family, packed: memoryview | None, length: int) -> str:
    return family.everything if packed is None else f"{address_text(bytes(packed))}/{length}"


def _endpoint(packed: memoryview | None) -> str:
    """Return the text of a tunnel's end; one that is all zeros is no end."""
    return address_text(bytes(packed)) if packed is not None and any(packed) else ""


def _big(value: memoryview | None) -> int:
    return int.from_bytes(value or b"", "big")


def _number(value: memoryview | bytes) -> int:
    return int.from_bytes(value, sys.byteorder)
