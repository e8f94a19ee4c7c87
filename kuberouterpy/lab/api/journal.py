"""The journal: every write as one line of JSON, so that a killed API server comes back with its objects and versions.

A line is handed to the kernel before the request is answered; that outlives a SIGKILL of the process, not a crash of the
kernel. When a server starts and finds more dead lines than live objects it begins a fresh file with the objects as they are::

    {"f":120}                                  floor: what follows up to version 120 is state, not history
    {"r":"pods","o":{...}}                     an object was stored
    {"r":"pods","d":["default","a"],"v":121}   an object was removed
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from kuberouterpy.lab.api.errors import JsonObject

_SLACK: Final = 5_000  # lines more than objects before a start rewrites the file


class Journal:
    """One journal file. ``read`` what is there, ``begin``, then ``put`` and ``remove``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._lines, self.floor = _lines(path)
        """``floor``: versions up to here are state without history."""

    def read(self) -> Iterator[tuple[str, tuple[str, str], JsonObject | None, int]]:
        """Yield ``(resource, key, object or None, version)`` in the order of writing."""
        for line in self._lines:
            obj = line.get("o")
            if obj is not None:
                meta = obj["metadata"]
                yield line["r"], (meta.get("namespace", ""), meta["name"]), obj, int(meta["resourceVersion"])
            elif "d" in line:
                namespace, name = line["d"]
                yield line["r"], (namespace, name), None, int(line["v"])

    def begin(self, version: int, live: list[tuple[str, bytes]]) -> None:
        """Open for writing; start over with only the live objects where the file is mostly history."""
        if len(self._lines) > len(live) + _SLACK:
            fresh = self._path.with_name(self._path.name + ".new")
            with fresh.open("wb") as file:
                file.write(msgspec.json.encode({"f": version}) + b"\n")
                file.writelines(_line(resource, raw) for resource, raw in live)
            fresh.replace(self._path)
        self._lines = []
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def put(self, resource: str, raw: bytes) -> None:
        """Note that an object was stored."""
        self._write(_line(resource, raw))

    def remove(self, resource: str, key: tuple[str, str], version: int) -> None:
        """Note that an object was removed."""
        self._write(msgspec.json.encode({"r": resource, "d": key, "v": version}) + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(self._fd, view) :]


def _line(resource: str, raw: bytes) -> bytes:
    return b'{"r":"' + resource.encode() + b'","o":' + raw + b"}\n"


def _lines(path: Path) -> tuple[list[JsonObject], int]:
    """Return the whole lines of the file and its floor; a torn last line (killed while writing) is cut off."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    lines = [msgspec.json.decode(line) for line in data[:whole].splitlines()]
    floor = int(lines[0]["f"]) if lines and "f" in lines[0] else 0
    return lines, floor
