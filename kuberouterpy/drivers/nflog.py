"""Packets that a rule sends to an NFLOG group, read from the kernel one by one: what the firewall denied, as it happens.

A group has one reader at a time. Nothing is kept while nobody reads: the kernel drops it.

Kernel: net/netfilter/nfnetlink_log.c; the wire is nfnetlink with ``struct nfulnl_msg_packet_hdr`` and attributes NFULA_*.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from msgspec import Struct

from kuberouterpy.drivers.netlink import (
    ACK,
    REQUEST,
    Payload,
    address_text,
    attribute,
    attributes,
    open_socket,
    parse,
    unanswered,
)
from kuberouterpy.errors import DriverError

NETFILTER: Final = 12
_PACKET: Final = 0x400
_CONFIG: Final = 0x401
"""NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_*."""
_COMMAND, _MODE, _QUEUE = 1, 2, 5
"""NFULA_CFG_*."""
_BIND: Final = 1
_COPY_PACKET: Final = 2
_COPIED_BYTES: Final = 128
"""Of a packet: headers of any family, extension headers included."""
_PAYLOAD, _PREFIX = 9, 10
"""NFULA_*."""
_HEADER: Final = struct.Struct("=IHHII")
_ERROR: Final = 2
_HELD: Final = frozenset({errno.EBUSY, errno.EPERM})
"""What the kernel says where another socket has bound the group; EPERM also to who has no CAP_NET_ADMIN."""

_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
_WITH_PORTS: Final = frozenset({"tcp", "udp", "sctp"})
_EXTENSIONS: Final = frozenset({0, 43, 60})
"""IPv6 extension headers that say their length and what follows: hop-by-hop, routing, destination options."""
_FRAGMENT: Final = 44


class Logged(Struct, frozen=True):
    """One packet."""

    prefix: str
    """The rule's ``--nflog-prefix``."""
    source: str
    destination: str
    protocol: str
    """tcp, udp, sctp, icmp, or its number."""
    source_port: int = 0
    port: int = 0
    """Destination port; 0: the protocol has none, or this fragment does not say."""


class NflogReader:
    """Reads one group, in the network namespace in which it is opened."""

    def __init__(self, group: int) -> None:
        """Errors: DriverError names the group, and who may hold it."""
        self._attempt = f"read NFLOG group {group}"
        try:
            self._socket = open_socket(NETFILTER)
        except OSError as error:
            raise unanswered(self._attempt, error) from error
        try:
            self._configure(group)
        except OSError as error:
            self._socket.close()
            if error.errno in _HELD:
                raise DriverError(
                    f"{self._attempt}: another program reads it (ulogd?), or this one is not root", error.errno
                ) from None
            raise unanswered(self._attempt, error) from error

    def packets(self, *, timeout_s: float | None = None) -> Iterator[Logged]:
        """Yield packets as they come; without any for ``timeout_s``, end. What cannot be read is left out."""
        while select.select([self._socket], [], [], timeout_s)[0]:
            # ENOBUFS: more came than was read; the rules limit their rate, so this is a storm, and the rest goes on.
            with suppress(OSError):
                yield from decode(self._socket.recv(1 << 16))

    def close(self) -> None:
        """Let the group go."""
        self._socket.close()

    def _configure(self, group: int) -> None:
        for body in (
            attribute(_COMMAND, bytes([_BIND])),
            attribute(_MODE, struct.pack(">IBB", _COPIED_BYTES, _COPY_PACKET, 0)),
            attribute(_QUEUE, struct.pack(">I", 1)),
        ):
            head = struct.pack(">BBH", socket.AF_UNSPEC, 0, group)
            message = _HEADER.pack(_HEADER.size + len(head) + len(body), _CONFIG, REQUEST | ACK, 1, 0) + head + body
            self._socket.send(message)
            for kind, _, _, answer in parse(self._socket.recv(1 << 16)):
                number = struct.unpack_from("=i", answer)[0] if kind == _ERROR else 0
                if number:
                    raise OSError(-number, self._attempt)


def decode(datagram: bytes) -> Iterator[Logged]:
    """Yield the packets in what a netlink socket of NFLOG received."""
    for kind, _, _, body in parse(datagram):
        if kind == _PACKET:
            parts = dict(attributes(body[4:]))
            prefix = bytes(parts.get(_PREFIX, b"")).rstrip(b"\0").decode(errors="replace")
            packet = read_packet(prefix, bytes(parts.get(_PAYLOAD, b"")))
            if packet is not None:
                yield packet


def read_packet(prefix: str, packet: Payload) -> Logged | None:
    """Return what an IP packet's headers say; ``None`` for what is no IP packet."""
    view = memoryview(packet)
    version = view[0] >> 4 if view else 0
    if version == 4 and len(view) >= 20:
        first = struct.unpack_from(">H", view, 6)[0] & 0x1FFF == 0
        upper = view[(view[0] & 0xF) * 4 :] if first else memoryview(b"")
        return _logged(prefix, view[9], (bytes(view[12:16]), bytes(view[16:20])), upper)
    if version == 6 and len(view) >= 40:
        number, upper = _upper(view[6], view[40:])
        return _logged(prefix, number, (bytes(view[8:24]), bytes(view[24:40])), upper)
    return None


def _upper(number: int, view: memoryview) -> tuple[int, memoryview]:
    """Return the protocol behind IPv6 extension headers, and its own part of the packet."""
    while len(view) >= 8 and (number in _EXTENSIONS or number == _FRAGMENT):
        if number == _FRAGMENT and struct.unpack_from(">H", view, 2)[0] & 0xFFF8:
            return view[0], memoryview(b"")
        length = 8 if number == _FRAGMENT else (view[1] + 1) * 8
        number, view = view[0], view[length:]
    return number, view


def _logged(prefix: str, number: int, addresses: tuple[bytes, bytes], upper: memoryview) -> Logged:
    protocol = _PROTOCOLS.get(number, str(number))
    source, destination = map(address_text, addresses)
    if protocol not in _WITH_PORTS or len(upper) < 4:
        return Logged(prefix, source, destination, protocol)
    return Logged(prefix, source, destination, protocol, *struct.unpack_from(">HH", upper))
