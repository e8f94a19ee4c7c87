"""A warmed process that forks the cluster's parts, so that each starts in milliseconds instead of seconds.

Under User-Mode Linux the agent's imports take five seconds. The zygote imports them once; every agent, the API server and
the kubelets are forks of it, put into their network namespace and given their log. It has one thread, because a fork of a
process with threads may inherit a held lock.

The owner talks to it over a socket: one JSON line asks for a process and is answered by its number; a line comes by itself
when one of them ends.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine import kernel

_ANSWER_S: Final = 300.0
WARM: Final = (
    "kuberouterpy.lab.parts",
    "kuberouterpy.lab.api.server",
    "kuberouterpy.lab.controllers",
    "kuberouterpy.lab.kubelet",
    "grpc",
    "kubernetes.client",
    "kubernetes.config",
    "pyroute2",
    "kuberouterpy.cli.run",
    "kuberouterpy.agent",
)
"""Modules every part needs; what cannot be imported fails again, with its own words, in the part that needs it."""


class Order(msgspec.Struct, frozen=True):
    """One process to start."""

    name: str
    """Its name in ``ps`` and in messages."""
    log: str
    """File that gets its standard streams, appended."""
    function: str = ""
    """``module:function`` to call in a fork, which returns an exit code; or nothing."""
    arguments: tuple[str, ...] = ()
    """Arguments of the function, or program and arguments to execute."""
    netns: str = ""
    """Path of the network namespace; the guest's own where empty."""
    environment: dict[str, str] = {}
    """Variables to add."""


class _Started(msgspec.Struct, tag="started"):
    pid: int


class _Ended(msgspec.Struct, tag="ended"):
    pid: int
    code: int


class Child(msgspec.Struct):
    """A process the zygote started."""

    order: Order
    """What was asked for."""
    pid: int
    """Its number."""
    code: int | None = None
    """Its exit code, once it has ended."""


class Zygote:
    """The owner's side. Threads may share it."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._asking = threading.Lock()
        self._changed = threading.Condition()
        self._answer: int | None = None
        self._children: dict[int, Child] = {}
        self._early: dict[int, int] = {}
        self._reader: threading.Thread | None = None

    @classmethod
    def start(cls) -> Zygote:
        """Fork the zygote; call this before the process has threads."""
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            try:
                _Server(theirs).serve()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        theirs.close()
        return cls(ours)

    def run(self, order: Order) -> Child:
        """Start a process. Errors: LabError when the zygote is gone."""
        with self._asking:
            if self._reader is None:
                self._reader = threading.Thread(target=self._read, daemon=True)
                self._reader.start()
            self._answer = None
            self._link.sendall(msgspec.json.encode(order) + b"\n")
            with self._changed:
                if not self._changed.wait_for(lambda: self._answer is not None, _ANSWER_S):
                    raise LabError(f"start {order.name}: the lab's zygote does not answer")
                pid = self._answer
            if not pid:
                raise LabError(f"start {order.name}: the lab's zygote has ended")
            with self._changed:
                child = self._children[pid] = Child(order, pid, self._early.pop(pid, None))
            return child

    def wait(self, child: Child, timeout_s: float) -> int | None:
        """Return the exit code of a process, or nothing when it lives on."""
        with self._changed:
            self._changed.wait_for(lambda: child.code is not None, timeout_s)
            return child.code

    def _read(self) -> None:
        for line in self._link.makefile("rb"):
            message = msgspec.json.decode(line, type=_Started | _Ended)
            with self._changed:
                match message:
                    case _Started(pid=pid):
                        self._answer = pid
                    case _Ended(pid=pid, code=code):
                        child = self._children.pop(pid, None)
                        if child is None:
                            self._early[pid] = code
                        else:
                            child.code = code
                self._changed.notify_all()
        with self._changed:
            self._answer = 0
            self._changed.notify_all()


class _Server:
    """The zygote itself."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _wake_up)

    def serve(self) -> None:
        """Fork what is asked for until the owner is gone; then end everything."""
        _name("lab-zygote")
        for module in WARM:
            with suppress(ImportError):
                importlib.import_module(module)
        gc.collect()
        gc.freeze()  # else the first collection of every fork would copy every page: ten times dearer in a guest
        lines = self._link.makefile("rb")
        selector = selectors.DefaultSelector()
        selector.register(self._link, selectors.EVENT_READ)
        selector.register(self._wake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._wake:
                    self._reap()
                    continue
                line = lines.readline()  # orders come one at a time: the next waits for this one's answer
                if not line:
                    return
                self._start(msgspec.json.decode(line, type=Order))

    def _start(self, order: Order) -> None:
        pid = os.fork()
        if pid == 0:
            self._become(order)
        self._tell(_Started(pid))

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._tell(_Ended(pid, os.waitstatus_to_exitcode(status)))

    def _tell(self, message: _Started | _Ended) -> None:
        self._link.sendall(msgspec.json.encode(message) + b"\n")

    def _become(self, order: Order) -> None:
        """Be the process that was asked for; never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._link.close()
            self._wake.close()
            os.setsid()
            _name(order.name)
            _redirect(order.log)
            os.environ.update(order.environment)
            if order.netns:
                enter_namespace(order.netns)
            if not order.function:
                os.execvp(order.arguments[0], order.arguments)  # noqa: S606 (programs of the lab)
            code = _function(order.function)(*order.arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def enter_namespace(netns: str) -> None:
    """Put this process into a network namespace and give it the /sys that belongs to it, as ``ip netns exec`` does."""
    kernel.enter(netns)
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
    kernel.mount("sysfs", "/sys", "sysfs")


def _function(text: str) -> Callable[..., int]:
    module, _, name = text.partition(":")
    function: Callable[..., int] = getattr(importlib.import_module(module), name)
    return function


def _redirect(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, number)
    os.close(log)
    os.close(nothing)


def _name(name: str) -> None:
    """Set the name ``ps`` and ``pkill`` see; 15 bytes at most."""
    ctypes.CDLL(None).prctl(15, name.encode()[:15], 0, 0, 0)


def _wake_up(number: int, frame: FrameType | None) -> None:
    """Nothing to do: the signal has put a byte on the socket."""
