"""A BGP speaker of a hundred lines that sends whatever bytes it is told to: what no honest daemon would."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from kuberouterpy.gobgp import wire

OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
PORT: Final = 179
_MARKER: Final = b"\xff" * 16
_PER_UPDATE: Final = 800
"""Prefixes of at most five bytes: a message has 4096 (RFC 4271 4.1)."""
_HOLD_S: Final = 600
"""Longer than any test: nobody has to keep the session alive, if our end allows as much."""
ORIGIN: Final = b"\x40\x01\x01\x00"


class RawSpeaker:
    """Waits on an address for the one session that is dialled there; both families are offered on it."""

    def __init__(self, address: str, asn: int, *, router_id: str) -> None:
        self.address, self.asn, self._router_id = address, asn, router_id
        self._listening = socket.create_server(
            (address, PORT), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
        self._listening.settimeout(40)
        self._session: socket.socket | None = None

    def meet(self) -> None:
        """Take the next connection and bring the session up."""
        self._hang_up()
        self._session, _ = self._listening.accept()
        self._session.settimeout(40)
        self._send(OPEN, self._open())
        self._await(OPEN)
        self._send(KEEPALIVE)
        self._await(KEEPALIVE)

    def refused(self) -> tuple[int, int]:
        """Take the next connection, say OPEN, and return code and subcode of the answer that ends it."""
        self._hang_up()
        self._session, _ = self._listening.accept()
        self._session.settimeout(40)
        self._send(OPEN, self._open())
        code, subcode = self._await(NOTIFICATION)[:2]
        return code, subcode

    def update(self, attributes: bytes, nlri: bytes = b"") -> None:
        """Send an UPDATE that withdraws nothing."""
        self._send(UPDATE, struct.pack("!HH", 0, len(attributes)) + attributes + nlri)

    def announce(self, prefixes: Sequence[str]) -> bool:
        """Tell prefixes of IPv4 as an honest speaker would; return whether the session lasted for all of them."""
        attributes = ORIGIN + self.as_path() + next_hop("10.99.0.2")
        try:
            for start in range(0, len(prefixes), _PER_UPDATE):
                some = prefixes[start : start + _PER_UPDATE]
                self.update(attributes, b"".join(map(wire.encode_prefix, some)))
        except ConnectionError:
            return False
        return True

    def as_path(self) -> bytes:
        """Return the attribute with our own AS in it."""
        return b"\x40\x02\x06\x02\x01" + struct.pack("!I", self.asn)

    def ended(self) -> bool:
        """Return whether the other side has ended the session; what it said before is passed over."""
        assert self._session is not None
        self._session.settimeout(0.2)
        try:
            while self._session.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    def close(self) -> None:
        """End everything."""
        self._hang_up()
        self._listening.close()

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.close()

    def _open(self) -> bytes:
        capabilities = (
            b"\x01\x04\x00\x01\x00\x01" + b"\x01\x04\x00\x02\x00\x01" + b"\x41\x04" + struct.pack("!I", self.asn)
        )
        option = struct.pack("!BB", 2, len(capabilities)) + capabilities
        head = struct.pack("!BHH", 4, self.asn, _HOLD_S) + ip_address(self._router_id).packed
        return head + bytes([len(option)]) + option

    def _send(self, kind: int, body: bytes = b"") -> None:
        assert self._session is not None
        self._session.sendall(_MARKER + struct.pack("!HB", 19 + len(body), kind) + body)

    def _await(self, kind: int) -> bytes:
        """Return the body of the next message of a kind."""
        for found, body in self._messages():
            if found == kind:
                return body
        raise AssertionError(f"no message of type {kind}")

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        assert self._session is not None
        while head := self._session.recv(19, socket.MSG_WAITALL):
            length, kind = struct.unpack("!HB", head[16:])
            yield kind, self._session.recv(length - 19, socket.MSG_WAITALL) if length > 19 else b""


def next_hop(address: str) -> bytes:
    """Return the NEXT_HOP attribute."""
    return b"\x40\x03\x04" + ip_address(address).packed


def reach(prefix: str, hop: bytes) -> bytes:
    """Return an MP_REACH_NLRI for a prefix of IPv6; the next hop is any bytes."""
    value = struct.pack("!HBB", 2, 1, len(hop)) + hop + b"\0" + wire.encode_prefix(prefix)
    return struct.pack("!BBB", 0x80, 14, len(value)) + value
