"""Numbers of firewall-mark virtual servers: 27 bits for us inside a range that tells ours from others' after a restart.

The kernel compares a packet's whole mark (services.md V11), and others use single bits of it: 14 and 15 the kubelet, 16 our own
firewall. Those stay zero in every number, so that nobody's rule takes a mark of ours for its own::

    bit   31 30 29 28          17 16 15 14 13                    0
          0  1  k  payload high   0  0  0  payload low            k: 1 a digest; 0 and bit 28 zero: a node port
          0  1  0  1              0  0  0                         direct server return: a digest of 25 bits

A service port that has a node port takes its number from it, which the API server keeps unique in the cluster. Without a node
port, and for affinity, the number is a digest of 26 bits: among a hundred such marks, two meet once in 13,000 clusters.
Those of direct server return are apart, so that one routing rule with a mask knows them all.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from kuberouterpy.protocol import Protocol

_PREFIX: Final = 0x40000000
_FIXED: Final = 0xC001C000
"""Bits that are the same in every number of ours."""
_LOW_BITS: Final = 14
_HIGH_SHIFT: Final = 17
_DIGEST_BITS: Final = 26
_DIRECT_BITS: Final = 25
_PROTOCOLS: Final = {Protocol.TCP: 0, Protocol.UDP: 1, Protocol.SCTP: 2}

DIRECT: Final = 0x50000000
DIRECT_MASK: Final = 0xF001C000
"""A mark is of direct server return if ``mark & DIRECT_MASK == DIRECT``."""


def of_node_port(protocol: Protocol, node_port: int) -> int:
    """Return the mark of a service port that has a node port."""
    return _spread(_PROTOCOLS[protocol] << 16 | node_port)


def of_name(*parts: str) -> int:
    """Return the mark of what has only a name."""
    return _spread(1 << _DIGEST_BITS | _digest(_DIGEST_BITS, *parts))


def of_direct(*parts: str) -> int:
    """Return the mark of an address that endpoints answer from directly: one that :data:`DIRECT` tells from all others."""
    return _spread(1 << _DIRECT_BITS | _digest(_DIRECT_BITS, *parts))


def is_ours(mark: int) -> bool:
    """Return whether a mark is in our range."""
    return mark & _FIXED == _PREFIX


def _digest(bits: int, *parts: str) -> int:
    return int.from_bytes(sha256("\0".join(parts).encode()).digest()[:4], "big") >> (32 - bits)


def _spread(payload: int) -> int:
    low = payload & ((1 << _LOW_BITS) - 1)
    return _PREFIX | payload >> _LOW_BITS << _HIGH_SHIFT | low
