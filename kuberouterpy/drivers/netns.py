"""Work in another network namespace of this host, by a thread that lives for it alone.

A namespace belongs to a thread: one that has entered another never comes back for certain, so it ends instead.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12


def within(path: str, action: Callable[[], T]) -> T:
    """Return what ``action`` returns when it is done in the network namespace at ``path``.

    Sockets opened there, and what is read below /proc/sys/net, are that namespace's.
    Errors: OSError where the namespace cannot be entered; whatever ``action`` raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def visit() -> None:
        try:
            _enter(path)
            results.append(action())
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=visit, name="netns", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)
