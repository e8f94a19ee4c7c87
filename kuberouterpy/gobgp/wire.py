"""Paths as bytes: prefixes and path attributes of RFC 4271, 4760 (MP_REACH_NLRI) and 1997 (communities).

GoBGP takes and gives them raw in every version, while its own messages for them differ. Only what the agent announces and
what it needs to compare is read; unknown attributes are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Struct

from kuberouterpy.family import IPV4, IPV6, Family, family_of

UNICAST: Final = 1
"""SAFI."""
AFI: Final = {IPV4: 1, IPV6: 2}
"""Address family identifiers of IANA."""

_TRANSITIVE: Final = 0x40
_OPTIONAL: Final = 0x80
_EXTENDED: Final = 0x10
_ORIGIN, _AS_PATH, _NEXT_HOP, _MED, _LOCAL_PREF, _COMMUNITIES, _MP_REACH = 1, 2, 3, 4, 5, 8, 14
_AS_SET: Final = 1
_IGP: Final = b"\0"

WELL_KNOWN: Final = {
    "graceful-shutdown": 0xFFFF0000,
    "accept-own": 0xFFFF0001,
    "llgr-stale": 0xFFFF0006,
    "no-llgr": 0xFFFF0007,
    "blackhole": 0xFFFF029A,
    "no-export": 0xFFFFFF01,
    "no-advertise": 0xFFFFFF02,
    "local-as": 0xFFFFFF03,
    "no-peer": 0xFFFFFF04,
}
"""Names that GoBGP and kube-router know (RFC 1997, 7999, 8326, 9494)."""


class Attributes(Struct, frozen=True):
    """What a path carries, as far as it matters here; a missing attribute has its default."""

    next_hop: str = ""
    """Canonical address; empty: none."""
    origin: int = 0
    """0 IGP, 1 EGP, 2 incomplete."""
    as_path: tuple[int, ...] = ()
    """Every AS of the path, sets included."""
    as_path_length: int = 0
    """As RFC 4271 9.1.2.2 counts: a set is one."""
    med: int = 0
    """Multi-exit discriminator."""
    local_preference: int = 0
    """0: not there."""
    communities: tuple[str, ...] = ()
    """``high:low``, in the path's order."""


def encode_prefix(prefix: str) -> bytes:
    """Return the NLRI of a prefix: its length, then as many bytes as it needs."""
    network = ip_network(prefix)
    return bytes([network.prefixlen]) + network.network_address.packed[: (network.prefixlen + 7) // 8]


def decode_prefix(data: bytes, family: Family) -> str:
    """Return the canonical prefix of an NLRI. Errors: ValueError when it is cut short or too long."""
    if not data or len(data) != 1 + (data[0] + 7) // 8 or data[0] > family.host_prefix:
        raise ValueError(f"not an NLRI: {data.hex()}")
    address = data[1:].ljust(family.host_prefix // 8, b"\0")
    return str(ip_network((address, data[0]), strict=False))


def encode(
    prefix: str, next_hop: str, *, communities: Iterable[str] = (), local_preference: int = 0
) -> tuple[bytes, ...]:
    """Return the attributes of a path we originate, by rising type.

    An IPv6 prefix, or any prefix with an IPv6 next hop, carries MP_REACH_NLRI in place of NEXT_HOP (RFC 4760, 8950).
    Errors: ValueError for a prefix, address or community that is none.
    """
    attributes = [_attribute(_TRANSITIVE, _ORIGIN, _IGP)]
    packed = ip_address(next_hop).packed
    family = family_of(prefix)
    if family is IPV4 and len(packed) == 4:
        attributes.append(_attribute(_TRANSITIVE, _NEXT_HOP, packed))
    if local_preference:
        attributes.append(_attribute(_TRANSITIVE, _LOCAL_PREF, struct.pack("!I", local_preference)))
    numbers = [community(text) for text in communities]
    if numbers:
        data = struct.pack(f"!{len(numbers)}I", *numbers)
        attributes.append(_attribute(_TRANSITIVE | _OPTIONAL, _COMMUNITIES, data))
    if family is IPV6 or len(packed) != 4:
        head = struct.pack("!HBB", AFI[family], UNICAST, len(packed))
        attributes.append(_attribute(_OPTIONAL, _MP_REACH, head + packed + b"\0" + encode_prefix(prefix)))
    return tuple(attributes)


def decode(attributes: Iterable[bytes]) -> Attributes:
    """Return what attributes say. Errors: ValueError when one is cut short."""
    found: dict[int, bytes] = dict(_split(one) for one in attributes)
    try:
        segments = tuple(_segments(found.get(_AS_PATH, b"")))
        return Attributes(
            next_hop=_next_hop(found),
            origin=found[_ORIGIN][0] if _ORIGIN in found else 0,
            as_path=tuple(asn for _, asns in segments for asn in asns),
            as_path_length=sum(1 if kind == _AS_SET else len(asns) for kind, asns in segments),
            med=_number(found.get(_MED)),
            local_preference=_number(found.get(_LOCAL_PREF)),
            communities=tuple(_communities(found.get(_COMMUNITIES, b""))),
        )
    except (IndexError, struct.error) as error:
        raise ValueError(f"malformed path attribute: {error}") from None


def community(text: str) -> int:
    """Return the number of a community: ``high:low``, one number, or a well-known name.

    Errors: ValueError names the text.
    """
    name = text.strip().lower()
    if name in WELL_KNOWN:
        return WELL_KNOWN[name]
    high, colon, low = name.partition(":")
    parts = (high, low) if colon else (name,)
    limit = 0xFFFF if colon else 0xFFFFFFFF
    if not all(part.isascii() and part.isdigit() and int(part) <= limit for part in parts):
        raise ValueError(f"{text!r} is not a community; write high:low, a number or a well-known name")
    return (int(high) << 16) + int(low) if colon else int(name)


def community_text(number: int) -> str:
    """Return the one spelling of a community that is compared: ``high:low``."""
    return f"{number >> 16}:{number & 0xFFFF}"


def _attribute(flags: int, kind: int, value: bytes) -> bytes:
    if len(value) > 0xFF:
        return struct.pack("!BBH", flags | _EXTENDED, kind, len(value)) + value
    return struct.pack("!BBB", flags, kind, len(value)) + value


def _split(attribute: bytes) -> tuple[int, bytes]:
    if len(attribute) < 3:
        raise ValueError(f"not a path attribute: {attribute.hex()}")
    start = 4 if attribute[0] & _EXTENDED else 3
    length = int.from_bytes(attribute[2:start], "big")
    if len(attribute) != start + length:
        raise ValueError(f"path attribute of {len(attribute)} bytes says {start + length}")
    return attribute[1], attribute[start:]


def _next_hop(found: dict[int, bytes]) -> str:
    reach = found.get(_MP_REACH)
    if reach is not None:
        length = reach[3]
        # An IPv6 next hop may be followed by its link-local address (RFC 2545 3): the first 16 bytes count.
        packed = reach[4 : 4 + min(length, 16)]
    else:
        packed = found.get(_NEXT_HOP, b"")
    return str(ip_address(packed)) if len(packed) in {4, 16} else ""


def _segments(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    # GoBGP gives AS numbers in four bytes whatever the session used.
    offset = 0
    while offset < len(data):
        kind, count = data[offset], data[offset + 1]
        yield kind, struct.unpack_from(f"!{count}I", data, offset + 2)
        offset += 2 + 4 * count


def _communities(data: bytes) -> Iterator[str]:
    for (number,) in struct.iter_unpack("!I", data):
        yield community_text(number)


def _number(data: bytes | None) -> int:
    return 0 if data is None else int(struct.unpack("!I", data)[0])
