"""Boot a guest and be its terminal: streams, signals, window size and exit code pass through.

A guest that panics, hangs or goes away is one LabError with the last lines of its kernel's log. Kernel messages never mix
with the command's output: they go to a file of their own.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine.choose import Engine
from kuberouterpy.lab.engine.frames import WINDOW, Kind, Parser, Writer
from kuberouterpy.lab.engine.plan import GuestPlan

_HELLO_S: Final = 300.0
_SILENCE_S: Final = 60.0
_GRACE_S: Final = 10.0
_TICK_S: Final = 0.5
_TAIL_LINES: Final = 15
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminal(msgspec.Struct, frozen=True):
    """Where the command's streams end, outside."""

    stdin: int | None = 0
    """Descriptor to read from, or nothing: the command then reads an end of file."""
    stdout: int = 1
    """Descriptor for output."""
    stderr: int = 2
    """Descriptor for errors."""

    @property
    def interactive(self) -> bool:
        """Whether a person sits there: the command then gets a terminal of its own."""
        return self.stdin is not None and os.isatty(self.stdin) and os.isatty(self.stdout)


def boot(
    engine: Engine,
    plan: GuestPlan,
    *,
    terminal: Terminal | None = None,
    note: Callable[[str], None] | None = None,
) -> int:
    """Boot a guest, run its command and return the command's exit code.

    ``plan.results`` and ``plan.engine`` are filled in here. Signals to this process go to the command; a second one, or ten
    seconds without an end, halts the guest.
    Errors: LabError when the guest did not start, went away or fell silent, and when the lab in it could not be built.
    """
    terminal = terminal or Terminal()
    folder = Path(tempfile.mkdtemp(prefix="kuberouterpy-lab-"))
    try:
        return _Session(engine, plan, terminal, note or _ignore, folder).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Session:
    """One guest from its start to its end."""

    def __init__(
        self, engine: Engine, plan: GuestPlan, terminal: Terminal, note: Callable[[str], None], folder: Path
    ) -> None:
        self._terminal = terminal
        self._note = note
        self._folder = folder
        self._ours, theirs = socket.socketpair()
        columns, rows = _size(terminal)
        plan = msgspec.structs.replace(
            plan, results=str(folder), terminal=terminal.interactive, rows=rows, columns=columns
        )
        self._process = engine.start(plan, folder, theirs)
        theirs.close()
        self._writer = Writer(self._ours.fileno())
        self._parser = Parser()
        self._selector = selectors.DefaultSelector()
        self._credit = WINDOW
        self._code: int | None = None
        self._deadline = time.monotonic() + _HELLO_S
        self._hello = False
        self._typed_on: tuple[int, list[int | list[bytes | int]]] | None = None
        self._pending: list[int] = []
        self._signals: list[int] = []
        self._reading = False

    def run(self) -> int:
        """Pump until the guest says its exit code."""
        try:
            with self._handlers():
                self._selector.register(self._ours, selectors.EVENT_READ)
                while self._code is None:
                    self._step()
        finally:
            self._end()
        assert self._code is not None
        return self._code

    def _step(self) -> None:
        for key, _ in self._selector.select(_TICK_S):
            if key.fileobj is self._ours:
                self._receive()
            elif isinstance(key.data, str) and key.data == "stdin":
                self._read_input()
            else:
                self._take_signals()
        if self._code is None and time.monotonic() > self._deadline:
            if self._signals:
                self._code = 128 + self._signals[0]
                return
            raise self._lost("the guest does not answer")
        if self._code is None and self._process.poll() is not None:
            self._receive()
            if self._code is None:
                raise self._lost("the guest ended by itself")

    def _receive(self) -> None:
        try:
            # Never wait: of a guest that died, a process that was its memory may still hold the other end.
            data = self._ours.recv(1 << 18, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            data = b""
        if not data:
            if self._signals:
                self._code = 128 + self._signals[0]
            if self._code is None:
                raise self._lost("the guest ended by itself")
            return
        if not self._signals:  # once asked to leave, the guest has its grace and no more
            self._deadline = time.monotonic() + (_SILENCE_S if self._hello else _HELLO_S)
        try:
            for kind, body in self._parser.feed(data):
                self._take(kind, body)
        except ValueError as error:
            raise self._lost(f"the guest's answer is garbled: {error}") from error

    def _take(self, kind: Kind, body: bytes) -> None:
        match kind:
            case Kind.STDOUT:
                _write(self._terminal.stdout, body)
            case Kind.STDERR:
                _write(self._terminal.stderr, body)
            case Kind.CREDIT:
                self._credit += int(body)
                self._listen()
            case Kind.NOTE:
                self._note(body.decode(errors="replace"))
            case Kind.STARTED:
                self._started()
            case Kind.EXIT:
                self._code = int(body)
            case Kind.FAILED:
                raise LabError(body.decode(errors="replace"))
            case Kind.HELLO:
                self._hello = True
                self._note(f"kernel {body.decode()} booted")
            case _:
                return

    def _started(self) -> None:
        if self._terminal.stdin is None:
            self._writer.send(Kind.STDIN)
            return
        if self._terminal.interactive:
            self._typed_on = self._terminal.stdin, termios.tcgetattr(self._terminal.stdin)
            tty.setraw(self._terminal.stdin)
        self._listen()

    def _listen(self) -> None:
        """Read standard input exactly while the guest has room for it."""
        wanted = self._credit > 0 and self._terminal.stdin is not None
        if wanted and not self._reading:
            try:
                self._selector.register(self._terminal.stdin or 0, selectors.EVENT_READ, "stdin")
            except PermissionError:  # a regular file: epoll refuses it, it is always readable
                while self._credit > 0 and self._terminal.stdin is not None:
                    self._read_input()
                return
        elif self._reading and not wanted:
            self._selector.unregister(self._terminal.stdin or 0)
        self._reading = wanted

    def _read_input(self) -> None:
        assert self._terminal.stdin is not None
        try:
            data = os.read(self._terminal.stdin, min(self._credit, WINDOW))
        except OSError:
            data = b""
        self._credit -= len(data)
        self._writer.send(Kind.STDIN, data)
        if not data:
            if self._reading:
                self._selector.unregister(self._terminal.stdin)
                self._reading = False
            self._terminal = msgspec.structs.replace(self._terminal, stdin=None)
        elif self._reading:
            self._listen()

    def _take_signals(self) -> None:
        self._wake.recv(1024)
        pending, self._pending = self._pending, []
        for number in pending:
            if number == signal.SIGWINCH:
                columns, rows = _size(self._terminal)
                self._writer.send(Kind.SIZE, f"{rows} {columns}".encode())
                continue
            self._signals.append(number)
            if len(self._signals) > 1 or not self._hello:
                self._code = 128 + number
                return
            self._writer.send(Kind.SIGNAL, str(number).encode())
            self._deadline = time.monotonic() + _GRACE_S

    @contextmanager
    def _handlers(self) -> Iterator[None]:
        """Turn signals into bytes on a socket, so that they are taken between frames, never inside one."""
        self._wake, waker = socket.socketpair()
        waker.setblocking(False)

        def _on_signal(number: int, frame: FrameType | None) -> None:
            self._pending.append(number)
            waker.send(b"!")

        before = {number: signal.signal(number, _on_signal) for number in (*_SIGNALS, signal.SIGWINCH)}
        self._selector.register(self._wake, selectors.EVENT_READ)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._wake.close()
            waker.close()

    def _end(self) -> None:
        """Take the guest down and give the terminal back.

        Killing is right: a guest keeps nothing but the folders it may write, and those were written through.
        """
        if self._typed_on is not None:
            termios.tcsetattr(self._typed_on[0], termios.TCSADRAIN, self._typed_on[1])
        self._selector.close()
        self._ours.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _lost(self, what: str) -> LabError:
        lines = (self._folder / "kernel.log").read_text(errors="replace").splitlines()
        told = [line.rstrip() for line in lines if line.strip()]
        panics = [number for number, line in enumerate(told) if "Kernel panic" in line]
        start = panics[0] if panics else max(len(told) - _TAIL_LINES, 0)
        tail = told[start : start + _TAIL_LINES]
        return LabError("\n".join([f"{what}; the last lines of its kernel:", *(f"  {line}" for line in tail)]))


def _write(descriptor: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]


def _size(terminal: Terminal) -> tuple[int, int]:
    try:
        return os.get_terminal_size(terminal.stdout)
    except OSError:
        return 80, 24


def _ignore(text: str) -> None:
    return None
