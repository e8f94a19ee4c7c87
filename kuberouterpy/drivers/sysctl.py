"""Kernel settings below /proc/sys, written only where they differ.

Promises: a setting that already has its value is never written, so a read-only /proc/sys that somebody else prepared is
fine; the values found before the first write are kept, for :meth:`SysctlDriver.restore`, in a file where one is given: a
restarted agent finds its own values and must not take them for what stood before. Deleting a setting leaves its value.
Nothing marks a setting as ours, so only paths that were asked for are listed.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from kuberouterpy.dataplane import Key, Object, ObjectKind, Op, Sysctl, SysctlKey, Verb
from kuberouterpy.errors import DriverError
from kuberouterpy.log import event as log_event

_log = logging.getLogger("kuberouterpy.drivers.sysctl")


class SysctlDriver:
    """Reads and writes the settings of the network namespace of the calling thread."""

    name = "sysctl"
    kinds: tuple[ObjectKind, ...] = (Sysctl,)

    def __init__(self, root: Path = Path("/proc/sys"), memory: Path | None = None) -> None:
        """``memory``: file for the values found first; on a tmpfs, for a reboot forgets the settings too."""
        self._root = root
        self._memory = memory
        self._wanted: dict[SysctlKey, Sysctl] = {}
        self._applied: set[SysctlKey] = set()
        self.originals: dict[str, str] = _recall(memory)
        """Value of each path before this driver, or one before it with the same memory, first wrote it."""

    def expect(self, wanted: Iterable[Object]) -> None:
        """Tell what will be wanted, so that the first listing can say what is already so."""
        self._wanted |= {value.key: value for value in wanted if isinstance(value, Sysctl)}

    def list(self) -> Mapping[Key, Object]:
        """Return the settings applied so far with their values now, and the expected ones that have their value already.

        One that is absent and may be absent counts as satisfied.
        """
        found: dict[Key, Object] = {}
        for key, wanted in self._wanted.items():
            try:
                value = self._read(key.path)
            except FileNotFoundError:
                if wanted.optional:
                    found[key] = wanted
                continue
            except OSError as error:
                raise _error("read", key.path, error) from error
            if wanted.satisfied_by(value):
                found[key] = wanted
            elif key in self._applied:
                found[key] = Sysctl(key, value, wanted.reason, wanted.optional)
        return found

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Write what differs; deleting forgets and leaves the value."""
        for op in ops:
            match op:
                case Op(verb=Verb.DELETE, key=SysctlKey() as key):
                    self._wanted.pop(key, None)
                    self._applied.discard(key)
                    yield op, None
                case Op(value=Sysctl() as wanted):
                    self._wanted[wanted.key] = wanted
                    self._applied.add(wanted.key)
                    yield op, self._set(wanted)

    def restore(self) -> Iterator[DriverError]:
        """Write back every value found before the first write; yield what failed."""
        for path, value in self.originals.items():
            try:
                (self._root / path).write_text(value)
            except OSError as error:
                yield _error(f"restore {value!r} in", path, error)
        self.originals.clear()
        if self._memory is not None:
            self._memory.unlink(missing_ok=True)
        self._wanted.clear()
        self._applied.clear()

    def _set(self, wanted: Sysctl) -> DriverError | None:
        path = wanted.key.path
        try:
            before = self._read(path)
            if wanted.satisfied_by(before):
                return None
            if path not in self.originals:
                self.originals[path] = before
                self._remember()  # before the write: what stood there is lost with it
            (self._root / path).write_text(wanted.value)
        except FileNotFoundError as error:
            if wanted.optional:
                return None
            return _error(
                f"write {wanted.value!r} to", path, error, ": this kernel does not have it, or its module is not loaded"
            )
        except OSError as error:
            return _error(f"write {wanted.value!r} to", path, error)
        return None

    def _remember(self) -> None:
        if self._memory is None:
            return
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._memory.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode(self.originals))
            fresh.replace(self._memory)
        except OSError as error:
            # The setting matters more: without it traffic fails, without this only cleanup knows less.
            log_event(_log, logging.WARNING, "originals-not-kept", key=self._memory, error=error)

    def _read(self, path: str) -> str:
        return _words((self._root / path).read_text())


def _recall(memory: Path | None) -> dict[str, str]:
    try:
        return msgspec.json.decode(memory.read_bytes(), type=dict[str, str]) if memory else {}
    except (OSError, msgspec.DecodeError):
        return {}


def _words(value: str) -> str:
    """Return the value with single spaces: the kernel separates several numbers by tabs."""
    return " ".join(value.split())


def _error(attempted: str, path: str, error: OSError, hint: str = "") -> DriverError:
    number = error.errno or errno.EIO
    return DriverError(f"{attempted} sysctl {path}: {os.strerror(number).lower()}{hint}", number)
