"""Many clients in one thread: new connections at a steady pace beside old ones that stay open. Does anything get lost?"""

from __future__ import annotations

import errno
import itertools
import os
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from kuberouterpy.family import Family, family_of
from tests.cluster import Place

_EACH_S: Final = 5.0
"""Time within which a new connection must have its answer."""
_KEPT_S: Final = 30.0
"""Time within which an old connection must have its answer: what is sent again after an outage may come late."""


class Target(NamedTuple):
    """Where to connect to."""

    address: str
    port: int


class _Client(NamedTuple):
    """A new connection on its way."""

    sock: socket.socket
    target: Target
    began: float


class _Kept:
    """An old connection: every line it sends must be answered by one."""

    def __init__(self, target: Target, sock: socket.socket) -> None:
        self.target = target
        self._sock = sock
        self._sent = 0
        self._answered = 0
        sock.setblocking(False)

    def talk(self) -> None:
        """Send a line and read what is there; what is wrong is told by :meth:`end`."""
        with suppress(OSError):
            self._answered += self._sock.recv(65536).count(b"\n")
        with suppress(OSError):
            self._sent += self._sock.send(b"x\n") // 2

    def end(self) -> str:
        """Close; return what went wrong, or nothing: every line was answered."""
        with self._sock as sock:
            sock.settimeout(_KEPT_S)
            try:
                sock.shutdown(socket.SHUT_WR)
                while more := sock.recv(65536):
                    self._answered += more.count(b"\n")
            except OSError as error:
                return repr(error)
        return "" if self._answered == self._sent else f"{self._answered} answers to {self._sent} lines"


class Crowd:
    """Connections from one place: ``a_second`` new ones, each with one question, and ``kept`` old ones to each target.

    What is not answered is counted by target and error: new ones in ``lost``, old ones in ``broken``.
    """

    def __init__(self, place: Place, targets: Sequence[Target], *, a_second: float, kept: int) -> None:
        self.asked = 0
        self.answered: Counter[Target] = Counter()
        self.lost: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self._began = self._took_s = 0.0
        self.targets = targets
        self._pause_s = 1 / a_second
        self._old = [_Kept(one, place.connect(*one)) for one in targets for _ in range(kept)]
        self._new: dict[socket.socket, _Client] = {}
        self._stop = threading.Event()
        self._selector = selectors.EpollSelector()
        self._thread = threading.Thread(target=lambda: place.within(self._run), daemon=True)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End: every new connection has its answer or its time is over, and every old one has told."""
        self._stop.set()
        self._thread.join()
        self._selector.close()
        for one in self._old:
            if error := one.end():
                self.broken[_named(one.target, error)] += 1

    def __str__(self) -> str:
        pace = self.asked / max(self._took_s, 0.001)
        lost = "".join(f"; {count} x {what}" for what, count in (self.lost + self.broken).items())
        return (
            f"{self.asked} new connections in {self._took_s:.0f} s ({pace:.0f} a second), {self.lost.total()} lost; "
            f"{len(self._old)} established, {self.broken.total()} lost{lost}"
        )

    def _run(self) -> None:
        due, targets, old = time.monotonic(), itertools.cycle(self.targets), itertools.cycle(self._old)
        self._began = due
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= due:
                self._begin(next(targets), now)
                next(old).talk()
                due = max(due + self._pause_s, now - 1)  # a slow moment is made up for, a slow minute is not
            self._turn(max(due - time.monotonic(), 0))
        self._took_s = time.monotonic() - self._began
        while self._new:
            self._turn(0.1)

    def _begin(self, target: Target, now: float) -> None:
        family = socket.AF_INET if family_of(target.address) is Family.IPV4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        self.asked += 1
        client = self._new[sock] = _Client(sock, target, now)
        self._selector.register(sock, selectors.EVENT_WRITE, client)
        if (code := sock.connect_ex(target)) not in {0, errno.EINPROGRESS}:
            self._end(client, os.strerror(code))

    def _turn(self, wait_s: float) -> None:
        for key, events in self._selector.select(wait_s):
            self._serve(key.data, events)
        late = time.monotonic() - _EACH_S
        for client in [*itertools.takewhile(lambda one: one.began < late, self._new.values())]:  # oldest first
            self._end(client, "no answer")

    def _serve(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                client.sock.send(b"x\n")
                self._selector.modify(client.sock, selectors.EVENT_READ, client)
            elif client.sock.recv(4096):
                self._end(client)
            else:
                self._end(client, "closed")
        except OSError as error:
            self._end(client, str(error.strerror))

    def _end(self, client: _Client, error: str = "") -> None:
        self._selector.unregister(client.sock)
        del self._new[client.sock]
        client.sock.close()
        if error:
            self.lost[_named(client.target, error)] += 1
        else:
            self.answered[client.target] += 1


def _named(target: Target, error: str) -> str:
    return f"{target.address} port {target.port}: {error}"
