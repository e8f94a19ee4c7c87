"""Stable names of kernel objects: a function of identity only, never of time or of a counter.

Parts are joined by NUL before hashing, so that ``("a", "bc")`` and ``("ab", "c")`` never meet (a fault of kube-router).
"""

from __future__ import annotations

from base64 import b32encode
from hashlib import sha256
from typing import Final

CHAIN_LIMIT: Final = 28
"""Longest chain name iptables takes (XT_EXTENSION_MAXNAMELEN - 1)."""
SET_LIMIT: Final = 31
"""Longest set name ipset takes (IPSET_MAXNAMELEN - 1)."""
LINK_LIMIT: Final = 15
"""Longest link name the kernel takes (IFNAMSIZ - 1)."""


def digest(*parts: str, length: int = 16) -> str:
    """Return ``length`` characters of base32(sha256(parts joined by NUL)), upper case."""
    return b32encode(sha256("\0".join(parts).encode()).digest()).decode()[:length]


def hashed(prefix: str, *parts: str, length: int = 16) -> str:
    """Return ``prefix`` followed by the digest of ``parts``."""
    return prefix + digest(*parts, length=length)
