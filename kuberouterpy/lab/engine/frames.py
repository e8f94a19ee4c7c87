"""The one byte stream between a guest and the process that booted it: frames of ``kind, length, body``.

A guest has a single serial line (User-Mode Linux), a pair of pipes (QEMU) or a socket (native). Frames carry over any of
them what a local child process would have: three streams with their ends, signals, the terminal's size, an exit code.

Standard input is sent against credit: at most ``WINDOW`` bytes are on their way, so that a command that does not read
never stands in the way of a signal.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

_HEAD: Final = struct.Struct("!BI")
_CHUNK: Final = 65536
_LARGEST: Final = 1 << 24
WINDOW: Final = 2048
"""Bytes of standard input that may be unread in the guest.

Half of a terminal's buffer (N_TTY_BUF_SIZE): a serial line of User-Mode Linux that was throttled does not always wake again.
"""


class Kind(IntEnum):
    """What a frame's body is."""

    HELLO = 1
    """Guest: init runs; the body is the kernel's release."""
    STDIN = 2
    """To the guest: bytes; an empty body is the end."""
    CREDIT = 3
    """Guest: so many bytes of input were taken (decimal)."""
    STDOUT = 4
    """Guest: bytes the command printed."""
    STDERR = 5
    """Guest: bytes the command printed on standard error."""
    SIGNAL = 6
    """To the guest: signal number for the command (decimal)."""
    SIZE = 7
    """To the guest: ``rows columns`` of the terminal."""
    NOTE = 8
    """Guest: one line of progress for the person who waits."""
    ALIVE = 9
    """Guest: nothing to say, still there."""
    EXIT = 10
    """Guest: the command's exit code (decimal); the last frame."""
    STARTED = 12
    """Guest: the command runs; what is typed from now on is its own."""
    FAILED = 11
    """Guest: the lab could not be built; the body says why. The last frame."""


Frame = tuple[Kind, bytes]


def pack(kind: Kind, body: bytes = b"") -> bytes:
    """Return the bytes of one frame."""
    return _HEAD.pack(kind, len(body)) + body


class Parser:
    """Turns bytes as they come into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes in and yield the frames that are now whole.

        Errors: ValueError when the stream is no stream of frames; nothing after it can be trusted.
        """
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._buffer)
            if length > _LARGEST:
                raise ValueError(f"frame of {length} bytes")
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            yield Kind(kind), body


class Writer:
    """Writes frames to a descriptor; threads may share it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """Write one frame whole; a body longer than a chunk becomes several frames of its kind."""
        for start in range(0, max(len(body), 1), _CHUNK):
            view = memoryview(pack(kind, body[start : start + _CHUNK]))
            with self._lock:
                while view:
                    view = view[os.write(self._descriptor, view) :]
