"""A blocking netlink socket of our own: many messages in one send, an error for exactly the one that failed.

pyroute2 asks and waits once per object (360 operations a second where this does 40,000, in one kernel), and its batches lose
the errors of messages that did not ask for an acknowledgement. Here only the last message of a send asks for one. That is
safe: the kernel handles the messages of one send in order inside ``sendmsg``, answers every *failing* message with its
sequence number whether it asked or not, and the answer to the last one is the end of the answers
(net/netlink/af_netlink.c: netlink_rcv_skb).

A reply that does not fit the receive buffer is dropped by the kernel and the socket says ENOBUFS: then nothing is known about
that send, and :class:`OSError` tells the driver so.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from itertools import count
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Final, NamedTuple

from kuberouterpy.errors import DriverError, MissingCapability

ROUTE: Final = 0
"""NETLINK_ROUTE."""
GENERIC: Final = 16
"""NETLINK_GENERIC."""

REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
REPLACE: Final = 0x100
EXCLUSIVE: Final = 0x200
CREATE: Final = 0x400
APPEND: Final = 0x800

Payload = bytes | memoryview

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_DUMP_INTERRUPTED: Final = 0x10
_CAPPED: Final = 0x100
_ACK_TLVS: Final = 0x200

_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_GET_STRICT_CHK: Final = 12
_SO_RCVBUFFORCE: Final = 33
_RECEIVE_BYTES: Final = 4 * 1024 * 1024
_READ_BYTES: Final = 64 * 1024
_TIMEOUT_S: Final = 10
_DUMP_ATTEMPTS: Final = 5

_CTRL_ID: Final = 0x10
_CTRL_GETFAMILY: Final = 3
_CTRL_FAMILY_ID: Final = 1
_CTRL_FAMILY_NAME: Final = 2


class Message(NamedTuple):
    """A request without its sequence number."""

    type: int
    """nlmsg_type: RTM_* or the id of a generic family."""
    flags: int
    """NLM_F_*; REQUEST and ACK are added when sending."""
    body: bytes
    """Everything after the netlink header."""


class Refusal(NamedTuple):
    """The kernel's answer to a message it did not carry out."""

    errno: int
    """Positive."""
    text: str
    """What the kernel says beyond the number (extended acknowledgement), often empty."""

    def __str__(self) -> str:
        said = os.strerror(self.errno).lower()
        return f"{said}: {self.text}" if self.text else said


class Netlink:
    """A netlink socket of the network namespace it was first used in. Not for two threads at once."""

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._socket: socket.socket | None = None
        self._sequence = count(1)
        self._buffer = bytearray(_READ_BYTES)

    def transact(self, messages: Sequence[Message]) -> dict[int, Refusal]:
        """Carry out ``messages`` in order in one send; return what was refused, by position.

        Shapes: about a hundred messages are best (:mod:`kuberouterpy.drivers.batches`).
        Errors: OSError (ENOBUFS, EAGAIN) when answers were lost: some or all may have been carried out.
        """
        if not messages:
            return {}
        first = next(self._sequence)
        last = first
        parts: list[bytes] = []
        for position, (kind, flags, body) in enumerate(messages):
            last = first + position
            wanted = flags | REQUEST | (ACK if position == len(messages) - 1 else 0)
            parts += (_HEADER.pack(_HEADER.size + len(body), kind, wanted, last, 0), body, _padding(len(body)))
        self._sequence = count(last + 1)
        self._send(b"".join(parts))
        return self._refusals(first, last)

    def dump(self, message: Message) -> Iterator[memoryview]:
        """Return an iterator over the bodies of every reply to a dump request, from one consistent run.

        Errors: OSError with the kernel's number; EINTR when the table kept changing under the dump.
        """
        for _ in range(_DUMP_ATTEMPTS):
            sequence = next(self._sequence)
            header = _HEADER.pack(
                _HEADER.size + len(message.body), message.type, message.flags | REQUEST | DUMP, sequence, 0
            )
            self._send(header + message.body)
            replies, consistent = self._replies(sequence)
            if consistent:
                return iter(replies)
        raise InterruptedError(errno.EINTR, "the table kept changing while it was read")

    def request(self, message: Message) -> memoryview:
        """Return the body of the one reply to ``message``.

        Errors: OSError with the kernel's number.
        """
        sequence = next(self._sequence)
        length = _HEADER.size + len(message.body)
        self._send(_HEADER.pack(length, message.type, message.flags | REQUEST | ACK, sequence, 0) + message.body)
        replies, _ = self._replies(sequence)
        if not replies:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return replies[0]

    def family(self, name: str) -> int:
        """Return the id of a generic netlink family; the kernel loads its module where it can.

        Errors: OSError ENOENT when the kernel has no such family.
        """
        body = struct.pack("=BBH", _CTRL_GETFAMILY, 1, 0) + attribute(_CTRL_FAMILY_NAME, name.encode() + b"\0")
        for kind, value in attributes(self.request(Message(_CTRL_ID, 0, body))[4:]):
            if kind == _CTRL_FAMILY_ID:
                return int.from_bytes(value[:2], sys.byteorder)
        raise OSError(errno.ENOENT, f"generic netlink family {name}")

    def close(self) -> None:
        """Close the socket; the next use opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = open_socket(self._protocol, timeout_s=_TIMEOUT_S)
        return self._socket

    def _send(self, request: bytes) -> None:
        try:
            self._open().send(request)
        except OSError:
            self.close()
            raise

    def _receive(self) -> Iterator[tuple[int, int, int, memoryview]]:
        """Yield (type, flags, sequence, body) of everything in one datagram."""
        try:
            # Into one buffer: a new object of 64 KB for each read made a listing twice as slow, in page faults.
            length = self._open().recv_into(self._buffer)
        except OSError:
            self.close()  # an answer was lost: whatever still sits in it must not answer the next question
            raise
        yield from parse(bytes(memoryview(self._buffer)[:length]))

    def _refusals(self, first: int, last: int) -> dict[int, Refusal]:
        refused: dict[int, Refusal] = {}
        while True:
            for kind, flags, sequence, body in self._receive():
                if kind != _NLMSG_ERROR or not first <= sequence <= last:
                    continue
                refusal = _refusal(flags, body)
                if refusal.errno:
                    refused[sequence - first] = refusal
                if sequence == last:
                    return refused

    def _replies(self, wanted: int) -> tuple[list[memoryview], bool]:
        replies: list[memoryview] = []
        consistent = True
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != wanted:
                    continue
                consistent = consistent and not flags & _DUMP_INTERRUPTED
                if kind == _NLMSG_ERROR:
                    refusal = _refusal(flags, body)
                    if refusal.errno:
                        raise OSError(refusal.errno, str(refusal))
                    return replies, consistent
                if kind == _NLMSG_DONE:
                    _raise_of_done(body)
                    return replies, consistent
                replies.append(body)


def open_socket(protocol: int, *, groups: int = 0, timeout_s: int = 0) -> socket.socket:
    """Return a netlink socket with a large receive buffer, bound to ``groups`` of multicast; 0 seconds: wait for ever."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        opened.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        opened.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        if protocol == ROUTE:
            with suppress(OSError):  # Linux before 4.20: then it filters nothing, and every reader filters again
                opened.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        if timeout_s:
            # The answer stands in the buffer when send() returns, so this fires only where one was lost.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", timeout_s, 0))
        opened.bind((0, groups))
    except BaseException:
        opened.close()
        raise
    return opened


def parse(datagram: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """Yield (type, flags, sequence, body) of every message in a datagram."""
    view = memoryview(datagram)
    offset = 0
    while offset + _HEADER.size <= len(view):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(view, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, view[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """Return one netlink attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + _padding(len(value))


def nested(kind: int, *values: bytes) -> bytes:
    """Return an attribute that holds other attributes."""
    return attribute(kind | _NESTED, b"".join(values))


def attributes(view: Payload) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, value) of each attribute; a malformed rest is left out."""
    view = memoryview(view)
    offset = 0
    while offset + 4 <= len(view):
        length, kind = _ATTRIBUTE.unpack_from(view, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, view[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def address_text(packed: bytes) -> str:
    """Return the canonical text of 4 or 16 bytes: what ``str(ip_address())`` gives, which keys use.

    inet_ntop is four times faster, but writes the last 32 bits of ``::102:304`` as ``::1.2.3.4``.
    """
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed)
    text = inet_ntop(AF_INET6, packed)
    return str(IPv6Address(packed)) if "." in text else text


def failure(attempted: str, refusal: Refusal) -> DriverError:
    """Return the error of an operation the kernel refused: what was attempted, then what the kernel said."""
    if refusal.errno == errno.EPERM:
        return MissingCapability(f"{attempted}: not permitted: run as root or with CAP_NET_ADMIN", refusal.errno)
    return DriverError(f"{attempted}: {refusal}", refusal.errno)


def unanswered(attempted: str, error: OSError) -> DriverError:
    """Return the error of an operation whose answer was lost or that could not be sent."""
    if error.errno == errno.EPERM:
        return MissingCapability(f"{attempted}: not permitted: run as root or with CAP_NET_ADMIN", error.errno)
    return DriverError(f"{attempted}: {(error.strerror or str(error)).lower()}", error.errno or 0)


def _padding(length: int) -> bytes:
    return bytes(-length & 3)


def _refusal(flags: int, body: memoryview) -> Refusal:
    (number,) = _ERROR.unpack_from(body)
    if not number or not flags & _ACK_TLVS:
        return Refusal(-number, "")
    (original,) = struct.unpack_from("=I", body, 4)
    start = 4 + (_HEADER.size if flags & _CAPPED else (original + 3) & ~3)
    text = next((bytes(value).rstrip(b"\0").decode() for kind, value in attributes(body[start:]) if kind == 1), "")
    return Refusal(-number, text)


def _raise_of_done(body: memoryview) -> None:
    number = _ERROR.unpack_from(body)[0] if len(body) >= 4 else 0
    if number:
        raise OSError(-number, os.strerror(-number))
