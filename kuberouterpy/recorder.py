"""The flight recorder: a ring of files on disk, written by a thread of its own, that holds what the agent knew and did lately.

Cost: the loop hands over references, and only when something happened; encoding, compression and writing are this thread's.
When it cannot keep up, steps are dropped and a new snapshot makes the recording whole again. Size: at most ``limit_bytes``,
of which the oldest part is let go when the ring is full; a snapshot that does not fit into a part switches the recorder off,
and says so. A kill loses the frame that was being written; nothing written before it is touched again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kuberouterpy.cluster import Kind, Record
from kuberouterpy.dataplane import Op
from kuberouterpy.log import event as log_event
from kuberouterpy.record import (
    GONE,
    KINDS,
    Deed,
    FactChange,
    Frame,
    Seen,
    Step,
    encode,
    frame,
    frames,
    intact,
    snapshot,
)
from kuberouterpy.store import Change, Store
from kuberouterpy.text import op_line

SUFFIX: Final = ".rec"
PARTS: Final = 8
"""Files in the ring."""
_QUEUE: Final = 256
_log = logging.getLogger("kuberouterpy.recorder")


class _Facts(NamedTuple):
    """References to every fact, for the thread to encode."""

    tables: Mapping[Kind, Sequence[Record]]


class _Events(NamedTuple):
    """References to what a step brought."""

    changes: Sequence[Change]
    deeds: Sequence[tuple[Op, str, str]]
    seen: Sequence[Seen]


class Recorder:
    """Writes the ring. The loop calls everything above the line; the thread does the rest."""

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int,
        node: str,
        version: str,
        config: object,
        neighbors: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """``neighbors`` tells each BGP session's state in words, by address."""
        self._folder = folder
        self._limit = limit_bytes
        self._who = (node, version, config)
        self._neighbors = neighbors
        self._known_neighbors: dict[str, str] = {}
        self._queue: queue.Queue[tuple[float, _Facts | _Events] | None] = queue.Queue(_QUEUE)
        self._changes: list[Change] = []
        self._deeds: list[tuple[Op, str, str]] = []
        self._seen: list[Seen] = []
        self._file: int | None = None
        self._written = 0
        self.hungry = True
        """Needs a snapshot: at the start, when a file is full, after steps were dropped."""
        self.off = False
        """Cannot record; said why."""
        self.dropped = 0
        """Steps not recorded."""
        self._thread = threading.Thread(target=self.run, name="recorder", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what was handed over, then no more."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=1.0)
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def change(self, change: Change) -> None:
        """Take in a changed fact."""
        if not self.hungry and change.kind.__name__ in KINDS:
            self._changes.append(change)

    def deed(self, op: Op, owner: str, error: str) -> None:
        """Take in an operation and its outcome."""
        self._deeds.append((op, owner, error))

    def saw(self, what: str, text: str) -> None:
        """Take in something else that happened."""
        self._seen.append(Seen(what, text))

    def flush(self, store: Store, wall: float) -> None:
        """Hand over what a step brought; a snapshot before it where one is due and facts are complete."""
        for address, state in self._neighbors().items():
            if self._known_neighbors.get(address, "") != state:
                self._known_neighbors[address] = state
                self.saw("neighbor", f"{address} {state}")
        if self.off or not store.synced:
            self._changes, self._deeds, self._seen = [], [], []
            return
        if self.hungry:
            self._changes = []  # the snapshot has them
            if self._put(wall, _Facts({kind: tuple(store.table(kind)) for kind in KINDS.values()})):
                self.hungry = False
        if self._changes or self._deeds or self._seen:
            events = _Events(self._changes, self._deeds, self._seen)
            self._changes, self._deeds, self._seen = [], [], []
            if not self._put(wall, events):
                self.hungry = True

    def _put(self, wall: float, item: _Facts | _Events) -> bool:
        try:
            self._queue.put_nowait((wall, item))
        except queue.Full:
            self.dropped += 1
            return False
        return True

    # --- the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Write until stopped."""
        while (taken := self._queue.get()) is not None:
            try:
                self._write(*taken)
            except OSError as error:
                self._close()
                self.off = True
                log_event(_log, logging.ERROR, "recorder-off", key=self._folder, error=error)
        self._close()

    def _write(self, wall: float, item: _Facts | _Events) -> None:
        if self.off:
            return
        if isinstance(item, _Facts):
            self._begin(frame(snapshot(*self._who, item.tables), wall))
        elif self._file is not None:
            self._append(frame(_step(item), wall))
            if self._written >= self._limit // PARTS:
                self.hungry = True

    def _begin(self, first: bytes) -> None:
        """Begin a new file with a snapshot, and let the oldest go."""
        if len(first) > self._limit // PARTS:
            raise OSError(f"a snapshot of {len(first)} bytes does not fit; raise --record-size")
        self._close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = parts(self._folder)
        number = int(there[-1].stem) + 1 if there else 1
        path = self._folder / f"{number:08d}{SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._written = 0
        self._append(first)
        self._let_go(there)

    def _let_go(self, there: Sequence[Path]) -> None:
        room = self._limit - 2 * (self._limit // PARTS)  # the current file grows to two parts at most
        for path in reversed(there):
            room -= _size(path)
            if room < 0:
                path.unlink(missing_ok=True)

    def _append(self, raw: bytes) -> None:
        assert self._file is not None
        if self._written and self._written + len(raw) > 2 * (self._limit // PARTS):
            self.dropped += 1  # a snapshot is due and has not come: nothing more fits
            self.hungry = True
            return
        view = memoryview(raw)
        while view:
            view = view[os.write(self._file, view) :]
        self._written += len(raw)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _step(events: _Events) -> Step:
    return Step(
        tuple(_fact(change) for change in events.changes),
        tuple(Deed(op_line(op), owner, error) for op, owner, error in events.deeds),
        tuple(events.seen),
    )


def _fact(change: Change) -> FactChange:
    namespace, name = change.ref
    return FactChange(change.kind.__name__, namespace, name, GONE if change.after is None else encode(change.after))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# --- reading ----------------------------------------------------------------------------------------------------------


def parts(folder: Path) -> list[Path]:
    """Return the files of a ring, oldest first."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


def exported(folder: Path) -> bytes:
    """Return a whole ring as one recording: of each file, the frames that are whole. Errors: OSError."""
    raws = [path.read_bytes() for path in parts(folder)]
    return b"".join(raw[: intact(raw)] for raw in raws)


def read(path: Path) -> Iterable[Frame]:
    """Return the frames of a ring's folder or of an exported file. Errors: OSError."""
    return frames(exported(path) if path.is_dir() else path.read_bytes())
