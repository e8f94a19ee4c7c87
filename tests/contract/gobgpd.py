"""Real GoBGP daemons in a network namespace of their own, for tests.

``gobgpd`` of the PATH is used, and every binary that ``KUBEROUTERPY_GOBGPD`` names (colons between them), so that one run can
cover several versions. Addresses are on ``lo``: GoBGP 3.10 drops paths whose next hop is in 127/8.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kuberouterpy.gobgp.client import GobgpClient, GobgpError
from tests.contract import suite

ADDRESSES: Final = ("10.99.0.1", "10.99.0.2", "10.99.0.3", "fd00:99::1", "fd00:99::2", "fd00:99::3")
"""Addresses of the namespace; node N has the Nth of each family."""

BINARIES: Final = tuple(
    dict.fromkeys(
        found
        for found in (shutil.which("gobgpd"), *os.environ.get("KUBEROUTERPY_GOBGPD", "").split(":"))
        if found and os.access(found, os.X_OK)
    )
)


def version(binary: str) -> str:
    """Return what the binary calls itself, for test ids."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return text.split()[-1]


class Daemon:
    """One gobgpd on a unix socket."""

    def __init__(self, binary: str, socket: Path) -> None:
        self.binary = binary
        self.socket = str(socket)
        self._program: subprocess.Popen[bytes] | None = None
        self.client = GobgpClient(self.socket)

    def start(self) -> None:
        """Start it and wait until it answers."""
        Path(self.socket).unlink(missing_ok=True)
        self._program = subprocess.Popen(
            [self.binary, "--api-hosts", f"unix://{self.socket}", "--pprof-disable", "-l", "error", "-p"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._answers, within_s=20)

    @property
    def pid(self) -> int:
        """Its process, while it runs."""
        assert self._program is not None
        return self._program.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._program is not None
        self._program.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it."""
        self.client.close()
        if self._program is not None:
            self._program.send_signal(signal.SIGCONT)
            self._program.send_signal(number)
            self._program.wait(timeout=20)
            self._program = None

    def _answers(self) -> bool:
        assert self._program is not None
        assert self._program.poll() is None, f"{self.binary} ended with {self._program.returncode}"
        try:
            return bool(self.client.dialect)
        except GobgpError:
            return False


@contextmanager
def daemons(binaries: Sequence[str], folder: Path) -> Iterator[list[Daemon]]:
    """Run one daemon a binary, all in one new namespace; all end with the block."""
    with suite.own_namespace():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in ADDRESSES:
            length = "128" if ":" in address else "32"
            subprocess.run(["ip", "address", "add", f"{address}/{length}", "dev", "lo"], check=True)
        made = [Daemon(binary, folder / f"gobgp-{index}.sock") for index, binary in enumerate(binaries)]
        try:
            for daemon in made:
                daemon.start()
            yield made
        finally:
            for daemon in made:
                daemon.stop()


def eventually(holds: Callable[[], object], *, within_s: float = 30) -> None:
    """Wait until ``holds`` is true; fail after ``within_s``."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)
