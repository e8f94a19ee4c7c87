"""The transport protocols that Services and NetworkPolicies name."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Protocol(StrEnum):
    """TCP, UDP or SCTP; the value is the word iptables, ipset and ``explain`` use."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"

    @property
    def number(self) -> int:
        """IANA protocol number, as netlink wants it."""
        return _NUMBER[self]


_NUMBER: Final = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
BY_NUMBER: Final = {number: protocol for protocol, number in _NUMBER.items()}
