"""User-Mode Linux: Debian's kernel as a program. No root, no KVM, no network needed.

The guest's root is the host's own file system through hostfs, read-only, under an overlay in the guest's memory: everything
is where it is outside, everything can be written, and nothing of it reaches the host.

Where the package is not installed, an unpacked one does as well (``apt-get download user-mode-linux && dpkg -x``): in the
folder that ``KUBEROUTERPY_UML`` names, or in ``.lab`` here.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine import kernel as kernel_calls
from kuberouterpy.lab.engine.plan import GuestPlan

_DEFAULT_MEM_MIB: Final = 3072
_LEAST_MEM_MIB: Final = 512
_MIB: Final = 1 << 20


class Uml:
    """The engine ``uml``."""

    name = "uml"

    def missing(self) -> str:
        """Return why it cannot be used here, or nothing."""
        if sys.platform != "linux":
            return "User-Mode Linux runs on Linux only"
        if not _kernel():
            return "no linux.uml (package user-mode-linux) on PATH, in $KUBEROUTERPY_UML or in .lab"
        if not _modules():
            return "linux.uml is there, but its modules (usr/lib/uml/modules) are not"
        return ""

    def version(self) -> str:
        """Return the kernel's version, from its modules' folder: asking the kernel costs a process."""
        modules = _modules()
        return f"User-Mode Linux {', '.join(sorted(os.listdir(modules)))}" if modules else "User-Mode Linux"

    def start(self, plan: GuestPlan, folder: Path, channel: socket.socket) -> subprocess.Popen[bytes]:
        """Start the guest; frames go over ``channel``, kernel messages to ``folder/kernel.log``."""
        kernel, modules = _kernel(), _modules()
        if not kernel or not modules:
            raise LabError(f"engine uml cannot run here: {self.missing()}")
        room, size_mib = memory()
        plan = msgspec.structs.replace(plan, engine=self.name, modules=str(modules))
        init = write_init(plan, folder)
        arguments = [
            str(kernel),
            f"mem={size_mib}M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            f"init={init}",
            "con=null",
            "con0=fd:0,fd:1",
            "ssl=null",
            f"ssl0=fd:{channel.fileno()}",
            f"uml_dir={folder}",
            "quiet",
        ]
        with open(folder / "kernel.log", "wb") as log:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"TMPDIR": str(room), "HOME": str(folder), "PATH": os.environ.get("PATH", os.defpath)},
                pass_fds=(channel.fileno(),),
                start_new_session=True,
                preexec_fn=kernel_calls.die_with_parent,  # noqa: PLW1509 (nothing has threads yet)
            )


def write_init(plan: GuestPlan, folder: Path) -> Path:
    """Write the plan and a program that runs it as init; return the program.

    A kernel starts init with an argument list and an environment of its own, so all it needs is written here.
    """
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    root = Path(__file__).resolve().parents[3]
    init = folder / "init"
    init.write_text(
        "#!/bin/sh\n"
        f"export PYTHONPATH={_quoted(str(root))} PATH={_quoted(plan.environment.get('PATH', os.defpath))}\n"
        f"exec {_quoted(sys.executable)} -m kuberouterpy.lab.engine.init {_quoted(str(folder / 'plan.json'))}\n"
    )
    init.chmod(0o755)
    return init


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _roots() -> Iterator[Path]:
    named = os.environ.get("KUBEROUTERPY_UML")
    if named:
        yield Path(named)
    yield Path.cwd() / ".lab"
    yield Path(__file__).resolve().parents[3] / ".lab"
    yield Path("/")


def _kernel() -> Path | None:
    for root in _roots():
        if os.access(root / "usr/bin/linux.uml", os.X_OK):
            return root / "usr/bin/linux.uml"
    found = shutil.which("linux.uml")
    return Path(found) if found else None


def _modules() -> Path | None:
    for root in _roots():
        if (folder := root / "usr/lib/uml/modules").is_dir() and os.listdir(folder):
            return folder
    return None


def memory() -> tuple[Path, int]:
    """Return where the guest's memory file goes and its size in MiB.

    A file on a full tmpfs kills the guest with SIGBUS when it touches the page, and containers have a /dev/shm of 64 MiB:
    so the first place with room for all of it is taken, else the roomiest with less.
    """
    text = os.environ.get("KUBEROUTERPY_UML_MEM_MIB", str(_DEFAULT_MEM_MIB))
    if not text.isdigit() or int(text) < _LEAST_MEM_MIB:
        raise LabError(f"KUBEROUTERPY_UML_MEM_MIB={text}: not a number of MiB from {_LEAST_MEM_MIB}")
    wanted = int(text)
    places = [Path(place) for place in (os.environ.get("TMPDIR", ""), "/dev/shm", "/tmp", "/var/tmp") if place]
    rooms = {place: _room_mib(place) for place in places}
    for place, room in rooms.items():
        if room >= wanted:
            return place, wanted
    place = max(rooms, key=lambda candidate: rooms[candidate])
    if rooms[place] < _LEAST_MEM_MIB:
        told = ", ".join(f"{each} has {room} MiB" for each, room in rooms.items())
        raise LabError(f"no room for the guest's memory ({told}); set TMPDIR to a folder with {wanted} MiB free")
    return place, int(rooms[place] * 0.8)


def _room_mib(place: Path) -> int:
    if not os.access(place, os.W_OK | os.X_OK):
        return 0
    facts = os.statvfs(place)
    if facts.f_flag & os.ST_NOEXEC:
        return 0
    return facts.f_bavail * facts.f_frsize // _MIB
