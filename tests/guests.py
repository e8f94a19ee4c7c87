"""Guests that run tests, side by side with one another and with the tests of the host.

Each guest is booted by a process of its own (``python -m tests.guests FOLDER``): a boot is its process's terminal and takes
its signals, and a guest ends with whoever booted it. Everything a guest says lies in its folder: ``reports`` grows line by
line, ``output`` is what pytest printed in it, ``failure`` why it was lost.

Guests that share tests take them file by file from a folder of *claims*: whoever makes the folder named after a file runs
it. So none waits while another still has files to run, and what is slow today need not be known.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine import Terminal, boot, choose, kernel
from kuberouterpy.lab.engine.plan import GuestPlan

_POLL_S: Final = 0.05
_END_S: Final = 15.0
_ROOM_MIB: Final = 2048
"""Memory for one guest: a lab of three nodes came to 0.6 GB, and what is left is room for its tests."""


class Order(NamedTuple):
    """What one guest is to do."""

    what: str
    """What it is, for people."""
    tests: Sequence[str]
    """Node ids of the tests it may run."""
    plan: GuestPlan
    """How it is booted; its folder is added."""


class Guest:
    """One guest: what it has told so far."""

    def __init__(self, order: Order, engine: str) -> None:
        self.order = order
        self.folder = tempfile.TemporaryDirectory(prefix="kuberouterpy-tests-")
        self._engine = engine
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0

    def start(self) -> None:
        """Boot it."""
        here = Path(self.folder.name)
        (here / "tests").write_text("".join(f"{name}\n" for name in self.order.tests))
        command = (*self.order.plan.command, f"--guest-reports={here / 'reports'}", f"@{here / 'tests'}")
        writable = (*self.order.plan.writable, str(here))
        plan = msgspec.structs.replace(self.order.plan, command=command, writable=writable, engine=self._engine)
        (here / "plan").write_bytes(msgspec.json.encode(plan))
        self._process = subprocess.Popen(
            (sys.executable, "-m", "tests.guests", str(here)),
            cwd=self.order.plan.directory,
            preexec_fn=kernel.die_with_parent,  # noqa: PLW1509 (pytest has one thread here)
        )

    @property
    def started(self) -> bool:
        """Whether it was ever booted."""
        return self._process is not None

    @property
    def ended(self) -> bool:
        """Whether it has ended; whatever it told is in its folder then."""
        return self._process is not None and self._process.poll() is not None

    def reports(self) -> Iterator[Any]:
        """Return the reports that came since the last call."""
        path = Path(self.folder.name, "reports")
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):  # the rest comes, or the guest died in the middle of it
                    return
                self._read += len(line)
                yield json.loads(line)

    def failure(self) -> str:
        """Return why tests of it have no report, once it has ended."""
        told, printed = (Path(self.folder.name, name) for name in ("failure", "output"))
        if told.exists():
            return told.read_text(errors="replace")
        said = printed.read_text(errors="replace") if printed.exists() else ""
        return f"pytest in the guest ({self.order.what}) did not report it; it said:\n{said}"

    def stop(self) -> None:
        """End it, wherever it stands, and forget what it told."""
        if self._process is not None:
            for _ in range(2):  # the second one tells the session not to wait for the command
                if self._process.poll() is None:
                    self._process.terminate()
                    time.sleep(_POLL_S)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            self._process.kill()
            self._process.wait()
        self.folder.cleanup()


class Guests:
    """All guests of a session, of which no more run at once than the machine has room for."""

    def __init__(self, orders: Sequence[Order], engine: str) -> None:
        self._all = [Guest(order, engine) for order in orders]
        self._room = room()

    def tend(self) -> Iterator[Any]:
        """Boot what there is room for; return what was reported since the last call."""
        running = sum(guest.started and not guest.ended for guest in self._all)
        for guest in [one for one in self._all if not one.started][: max(self._room - running, 0)]:
            guest.start()
        for guest in self._all:
            yield from guest.reports()

    def wait(self, name: str) -> bool:
        """Wait a moment; return whether a report of a test may still come."""
        mine = [guest for guest in self._all if name in guest.order.tests]
        if all(guest.ended for guest in mine):
            return False
        time.sleep(_POLL_S)
        return True

    def failure(self, name: str) -> str:
        """Return why a test has no report."""
        return "\n".join(guest.failure() for guest in self._all if name in guest.order.tests)

    def stop(self) -> None:
        """End all of them."""
        for guest in self._all:
            guest.stop()


def room() -> int:
    """Return how many guests may run at once: a processor and some memory each."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available_mib = int(facts["MemAvailable"].split()[0]) // 1024
    return max(1, min(len(os.sched_getaffinity(0)), available_mib // _ROOM_MIB))


def claim(folder: Path, name: str) -> bool:
    """Return whether a file of tests is ours to run, and make it ours if it was nobody's."""
    try:
        (folder / name.replace("/", ".")).mkdir()
    except FileExistsError:
        return False
    return True


def main(folder: Path) -> int:
    """Boot the guest of a folder and be there until it ends."""
    plan = msgspec.json.decode((folder / "plan").read_bytes(), type=GuestPlan)
    with (folder / "output").open("wb") as output:
        try:
            return boot(choose(plan.engine).engine, plan, terminal=Terminal(None, output.fileno(), output.fileno()))
        except LabError as error:
            (folder / "failure").write_text(str(error))
            return 1


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(Path(sys.argv[1])))
