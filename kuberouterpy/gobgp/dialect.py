"""The two dialects of GoBGP's API: method paths, and the enums whose zero was a real value before GoBGP 4.

GoBGP 3 (tried: 3.10, 3.36) serves ``apipb.GobgpApi``, GoBGP 4 (tried: 4.8) ``api.GoBgpService``. In 4 every such enum has an
``UNSPECIFIED`` zero and all else is one higher; enums that always had one are equal in both.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from msgspec import Struct


class Shifted(IntEnum):
    """Values as GoBGP 3 numbers them; :meth:`Dialect.number` gives those of the daemon."""

    TABLE_GLOBAL = 0
    FILTER_BEST = 0
    SET_PREFIX = 0
    SET_NEIGHBOR = 1
    MATCH_ANY = 0
    COMMUNITY_ADD = 0
    RESET_IN = 0
    RESET_OUT = 1
    LOOKUP_EXACT = 0
    ADMIN_TOO_MANY_PREFIXES = 2


class Session(IntEnum):
    """PeerState.SessionState, the same in both; the states of RFC 4271 8.2.2."""

    UNKNOWN = 0
    IDLE = 1
    CONNECT = 2
    ACTIVE = 3
    OPENSENT = 4
    OPENCONFIRM = 5
    ESTABLISHED = 6


BFD_STATES: Final = {1: "up", 2: "down", 3: "admin-down", 4: "init"}
"""BfdSessionState, of GoBGP 4 only."""
ACCEPT: Final = 1
"""RouteAction."""
REJECT: Final = 2
"""RouteAction."""
DIRECTIONS: Final = {"import": 1, "export": 2}
"""PolicyDirection."""
ROUTE_TYPE_INTERNAL: Final = 1
"""Conditions.RouteType: told by a neighbor of the same AS."""
ROUTE_TYPE_LOCAL: Final = 3
"""Conditions.RouteType: originated by the speaker itself."""
PEER_EVENT_END_OF_INIT: Final = 2
"""WatchEventResponse.PeerEvent.Type: everything registered, every peer told once."""
GLOBAL_TABLE: Final = "global"
"""Name of the table that policies are assigned to."""


class Dialect(Struct, frozen=True):
    """How one major version is spoken to."""

    name: str
    """For people."""
    service: str
    """gRPC service."""
    offset: int
    """What is added to a :class:`Shifted` value."""

    def path(self, method: str) -> str:
        """Return the gRPC path of a method."""
        return f"/{self.service}/{method}"

    def number(self, value: Shifted) -> int:
        """Return the daemon's number for an enum value."""
        return int(value) + self.offset


V3: Final = Dialect("GoBGP 3", "apipb.GobgpApi", 0)
V4: Final = Dialect("GoBGP 4", "api.GoBgpService", 1)
DIALECTS: Final = (V4, V3)
"""In the order they are tried."""
