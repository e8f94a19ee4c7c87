"""System calls that Python 3.11 has no name for: mounts, namespaces, modules, halting.

Everything here is a thin call of the C library; errors are OSError with the call and its subject in the text.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from pathlib import Path
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2

_POWER_OFF: Final = 0x4321FEDC
_PR_SET_PDEATHSIG: Final = 1
_FINIT_MODULE: Final = {"x86_64": 313, "aarch64": 273}
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount a file system, or change a mount as the flags say."""
    status = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(status, f"mount {kind or source} on {target}")


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """Detach a mount."""
    _check(_libc.umount2(target.encode(), flags), f"unmount {target}")


def bind(source: str, target: str) -> None:
    """Show one folder or file at another place."""
    mount(source, target, "", MS_BIND)


def pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root and show the old root at ``old``, below it."""
    _check(_libc.syscall(_number(_PIVOT_ROOT), new.encode(), old.encode()), f"pivot root to {new}")


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _check(_libc.unshare(flags), "unshare")


def enter(path: str, kind: int = CLONE_NEWNET) -> None:
    """Put the calling thread into the namespace that ``path`` names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, kind), f"enter namespace {path}")
    finally:
        os.close(descriptor)


def die_with_parent() -> None:
    """Have this process killed when its parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "set parent-death signal")


def power_off() -> None:
    """Halt the machine. Only where this process is init of a guest."""
    os.sync()
    _libc.reboot(_POWER_OFF)


def load_modules(folder: str, names: tuple[str, ...]) -> None:
    """Load modules of the running kernel with what they depend on; unknown names and loaded ones are passed over.

    This is insmod without a process per module: under User-Mode Linux a fork of modprobe costs as much as ten modules.
    """
    tree = Path(folder) / platform.release()
    try:
        lines = (tree / "modules.dep").read_text().splitlines()
    except OSError:
        return
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in lines)}
    paths = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    loaded = {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}
    for name in names:
        path = paths.get(name)
        if path:
            for step in [*reversed(needs[path]), path]:  # order matters: what is needed stands last in modules.dep
                _load(tree / step, loaded)


def _load(path: Path, loaded: set[str]) -> None:
    name = path.name.split(".")[0].replace("-", "_")
    if name in loaded:
        return
    loaded.add(name)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = _libc.syscall(_number(_FINIT_MODULE), descriptor, b"", 0)
    finally:
        os.close(descriptor)
    if status and ctypes.get_errno() != 17:  # EEXIST: somebody was faster
        _check(status, f"load module {name}")


def _number(numbers: dict[str, int]) -> int:
    machine = platform.machine()
    if machine not in numbers:
        raise OSError(38, f"no system call numbers for {machine}")
    return numbers[machine]


def _check(status: int, what: str) -> None:
    if status:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")
