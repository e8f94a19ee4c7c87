"""Network namespaces without helper programs: under User-Mode Linux every process start costs tens of milliseconds.

A namespace belongs to a thread. A thread that enters one opens sockets and starts processes there, while every other
thread of the process stays where it is. Namespaces are pinned as files in /run/netns, so that ``ip netns exec`` and
``kuberouterpy lab exec pod/NS/NAME`` find them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path("/run/netns")
_OWN: Final = "/proc/thread-self/ns/net"
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWNS: Final = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 0x40000, 0x100000, 2
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_NAME_MAX: Final = 255

_libc = ctypes.CDLL(None, use_errno=True)
_sharing = threading.Lock()


def pod_netns(namespace: str, name: str, uid: str) -> str:
    """Return the path of a pod's network namespace: /run/netns/pod-NAMESPACE-NAME-UID8.

    A name too long for a file is cut and carries a hash of the whole. Pods with hostNetwork have none of their own.
    """
    short = uid.replace("-", "")[:8]
    text = f"pod-{namespace}-{name}-{short}"
    if len(text) > _NAME_MAX:
        text = f"{text[:220]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}-{short}"
    return str(DIRECTORY / text)


def create(path: str) -> None:
    """Make a namespace pinned at ``path``, with ``lo`` up and no waiting for duplicate IPv6 addresses."""
    with suppress(OSError):
        # Loads the module where IPv6 is one: a namespace made before that starts with other defaults than ours.
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    share_directory(Path(path).parent)
    Path(path).touch(exist_ok=False)
    before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare network namespace")
        _check(_libc.mount(_OWN.encode(), path.encode(), b"none", _MS_BIND, None), f"pin {path}")
        _set_up()
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        _check(_libc.setns(before, _CLONE_NEWNET), "return to own network namespace")
        os.close(before)


def remove(path: str) -> None:
    """Unpin a namespace; its links go with the last process or socket in it. One that is not there is fine."""
    _libc.umount2(path.encode(), _MNT_DETACH)
    with suppress(FileNotFoundError):
        os.unlink(path)


@contextmanager
def entered(path: str) -> Iterator[None]:
    """Have this thread in the namespace at ``path`` for the time of a block.

    Errors: OSError where the namespace is gone.
    """
    before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(path)
        try:
            yield
        finally:
            _check(_libc.setns(before, _CLONE_NEWNET), "return to own network namespace")
    finally:
        os.close(before)


def enter(path: str) -> None:
    """Move this thread into the namespace at ``path`` for good."""
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(there, _CLONE_NEWNET), f"enter {path}")
    finally:
        os.close(there)


def own_mounts() -> None:
    """Give this thread, for good, a copy of the mounts that nothing is passed on from or to.

    The copy holds no pinned network namespaces: it would keep those of other pods alive.
    """
    _check(_libc.unshare(_CLONE_NEWNS), "unshare mounts")
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "make mounts private")
    while _libc.umount2(str(DIRECTORY).encode(), _MNT_DETACH) == 0:
        continue


def mount(kind: str, source: str, target: str, options: str = "") -> None:
    """Mount a file system. Errors: OSError."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode() or None)
    _check(result, f"mount {kind} on {target}")


def processes(path: str) -> list[int]:
    """Return the processes that live in the namespace at ``path``."""
    wanted = os.stat(path).st_ino
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                if os.stat(f"/proc/{entry.name}/ns/net").st_ino == wanted:
                    found.append(int(entry.name))
    return found


def share_directory(directory: Path) -> None:
    """Make mounts below ``directory`` reach every mount namespace, as ``ip netns add`` does.

    One thread at a time: a folder bound onto itself twice would hold every namespace twice, and the second for ever.
    """
    with _sharing:
        directory.mkdir(parents=True, exist_ok=True)
        target = str(directory).encode()
        if _libc.mount(b"", target, b"none", _MS_SHARED | _MS_REC, None) == 0:
            return
        if ctypes.get_errno() == errno.EINVAL:  # no mount point yet
            _check(_libc.mount(target, target, b"none", _MS_BIND | _MS_REC, None), f"bind {directory}")
            _check(_libc.mount(b"", target, b"none", _MS_SHARED | _MS_REC, None), f"share {directory}")


def _set_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
    for scope in ("default", "all"):
        with suppress(OSError):  # a kernel without IPv6
            Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad").write_text("0")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
