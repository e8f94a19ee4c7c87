"""Starts processes and tells when they end, with one thread for all of a node's.

Every process leads a session of its own, so that what it started can be killed with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec


class Command(msgspec.Struct, frozen=True):
    """What to start."""

    argv: tuple[str, ...]
    """Program and arguments."""
    environment: Mapping[str, str]
    """The whole environment."""
    directory: str = "/"
    """Working directory."""
    log: str = os.devnull
    """File that output is appended to."""


class Reaper:
    """Waits for every process given to it; calls back from its own thread with the exit code (negative: a signal)."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._new: list[tuple[int, Process, Callable[[int], None]]] = []
        self._running = True
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self._thread.start()

    def watch(self, process: Process, ended: Callable[[int], None]) -> None:
        """Call ``ended`` once, when the process is over. Errors: OSError where no more files can be opened."""
        # Opened here, not by the thread: a signal sent meanwhile may find the process over and take its number away.
        self._new.append((os.pidfd_open(process.pid), process, ended))
        self._wake.send(b"!")

    def close(self) -> None:
        """End the thread; processes still running are no longer waited for."""
        self._running = False
        self._wake.send(b"!")
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while self._running:
            for key, _events in self._selector.select():
                if key.data is None:
                    self._woken.recv(4096)
                    while self._new:
                        file, process, ended = self._new.pop()
                        self._selector.register(file, selectors.EVENT_READ, (process, ended))
                else:
                    process, ended = key.data
                    self._selector.unregister(key.fd)
                    os.close(key.fd)
                    ended(process.wait())
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                os.close(key.fd)
        self._selector.close()
        self._wake.close()
        self._woken.close()


class Process:
    """One started process; it is a child until ``wait`` was called, so its number cannot be another's meanwhile."""

    def __init__(self, command: Command) -> None:
        """Start it in the calling thread's namespaces. Errors: OSError, as for a program that is not there."""
        Path(command.log).parent.mkdir(parents=True, exist_ok=True)
        with open(command.log, "ab") as output:
            # Without preexec_fn this is a vfork, which takes over the namespaces of this very thread.
            self._popen = subprocess.Popen(
                command.argv,
                env=dict(command.environment),
                cwd=command.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def wait(self) -> int:
        """Block until the end; return the exit code."""
        return self._popen.wait()

    def terminate(self) -> None:
        """Ask the process to end."""
        with suppress(OSError):
            self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started."""
        self.kill_group()
        with suppress(OSError):
            self._popen.kill()

    def kill_group(self) -> None:
        """End what it started and left behind in its process group."""
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
