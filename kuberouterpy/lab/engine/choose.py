"""Which engine to take, and the sentence that says why."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine import native, qemu, uml
from kuberouterpy.lab.engine.plan import GuestPlan


class Engine(Protocol):
    """One way to have a kernel."""

    @property
    def name(self) -> str:
        """Word of ``--engine``."""

    def missing(self) -> str:
        """Return why it cannot be used here, or nothing."""

    def version(self) -> str:
        """Return what will run, for a person."""

    def start(self, plan: GuestPlan, folder: Path, channel: socket.socket) -> subprocess.Popen[bytes]:
        """Start the guest; frames go over ``channel``, kernel messages to ``folder/kernel.log``."""


class Choice(NamedTuple):
    """An engine and why it was taken."""

    engine: Engine
    """What to boot."""
    reason: str
    """One clause: why this one."""


ENGINES: Final[dict[str, Engine]] = {engine.name: engine for engine in (native.Native(), uml.Uml(), qemu.Qemu())}
"""In the order ``auto`` asks them: fastest first."""

_INSTALL: Final = "run .ci/install, or: apt-get install user-mode-linux kmod"


def choose(wanted: str = "auto", engines: Mapping[str, Engine] = ENGINES) -> Choice:
    """Return the wanted engine, or the first that can run here.

    Errors: LabError names what each engine lacks and the mend.
    """
    if wanted != "auto":
        if wanted not in engines:
            raise LabError(f"--engine: no engine {wanted!r}; choose from auto, {', '.join(engines)}")
        if lack := engines[wanted].missing():
            raise LabError(f"engine {wanted} cannot run here: {lack}; --engine auto takes one that can")
        return Choice(engines[wanted], "asked for")
    lacks: list[str] = []
    for engine in engines.values():
        lack = engine.missing()
        if not lack:
            return Choice(engine, "; ".join(lacks) or "this kernel has ip_vs and we are root")
        lacks.append(f"no {engine.name}: {lack}")
    raise LabError(f"no engine can run here ({'; '.join(lacks)}); {_INSTALL}")
