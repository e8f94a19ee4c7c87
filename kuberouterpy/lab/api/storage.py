"""Objects and their history: one counter of versions, a bounded window of changes per resource, waiting without polling.

Objects are values: nobody changes a stored dictionary, a writer stores a new one. Each version is encoded once, and those bytes
serve every get, list and watch of it. A list of the past (a ``continue`` token, an exact resourceVersion) is the present with
the later changes taken back, so no copies are kept.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.journal import Journal

Key = tuple[str, str]
"""Namespace (empty for cluster-wide resources) and name."""
EventType = Literal["ADDED", "MODIFIED", "DELETED"]

WINDOW: Final = 10_000
"""Changes remembered for each resource before a watcher that fell behind is sent away with 410."""

encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder().decode


class Compacted(Exception):
    """The version asked for is older than what is remembered."""


class Entry:
    """One version of one object."""

    __slots__ = ("obj", "raw", "version")

    def __init__(self, obj: JsonObject, raw: bytes, version: int) -> None:
        self.obj = obj
        """The object; never to be changed."""
        self.raw = raw
        """The object as JSON."""
        self.version = version
        """Its resourceVersion."""

    def copy(self) -> JsonObject:
        """Return the object for changing. Decoding is faster than a deep copy."""
        copied: JsonObject = decode(self.raw)
        return copied


class Event:
    """One change: what was, and what is (for a deletion: the last state with the version of the deletion)."""

    __slots__ = ("after", "before", "frames", "key", "type", "version")

    def __init__(self, kind: EventType, key: Key, before: Entry | None, after: Entry) -> None:
        self.type = kind
        """ADDED, MODIFIED or DELETED."""
        self.key = key
        """Which object."""
        self.before = before
        """The version before; None where there was none."""
        self.after = after
        """The version after."""
        self.version = after.version
        """Version of the change."""
        self.frames: dict[str, bytes] = {}
        """Encoded watch frames by event type, made once for all watchers."""


class Table:
    """The objects of one resource and the window of their changes."""

    def __init__(self, lock: threading.RLock, floor: int) -> None:
        self.entries: dict[Key, Entry] = {}
        """Objects by key."""
        self.events: list[Event] = []
        """Remembered changes, oldest first."""
        self.versions: list[int] = []
        """Their versions, for searching."""
        self.floor = floor
        """A watch may begin at this version or later."""
        self.changed = threading.Condition(lock)
        """Notified after every change."""


class Storage:
    """All objects. Every method takes the one lock; ``subscribe``d functions run under it and must be quick."""

    def __init__(self, *, window: int = WINDOW, journal: Journal | None = None) -> None:
        self.lock = threading.RLock()
        """Held while objects or versions are looked at or changed."""
        self.version = 0
        """Version of the newest change."""
        self.uids: dict[str, tuple[str, Key]] = {}
        """Where the object of a uid is."""
        self._tables: dict[str, Table] = {}
        self._window = window
        self._floor = 0
        self._subscribers: list[Callable[[str, Event], None]] = []
        self._journal: Journal | None = None
        if journal is not None:
            with self.lock:
                self._load(journal)

    def subscribe(self, function: Callable[[str, Event], None]) -> None:
        """Call ``function(resource_key, event)`` after each change from now on."""
        self._subscribers.append(function)

    def table(self, resource: str) -> Table:
        """Return the table of a resource, made when first asked for."""
        with self.lock:
            table = self._tables.get(resource)
            if table is None:
                table = self._tables[resource] = Table(self.lock, self._floor)
            return table

    def resources(self) -> list[str]:
        """Return the keys of resources that were ever asked for."""
        with self.lock:
            return list(self._tables)

    def get(self, resource: str, key: Key) -> Entry | None:
        """Return the object, if it exists."""
        with self.lock:
            return self.table(resource).entries.get(key)

    def items(self, resource: str, namespace: str = "") -> tuple[list[tuple[Key, Entry]], int]:
        """Return the objects (of one namespace) in the order of their keys, and the version of this state."""
        with self.lock:
            return _ordered(self.table(resource).entries, namespace), self.version

    def items_at(self, resource: str, namespace: str, version: int) -> list[tuple[Key, Entry]]:
        """Return the objects as they were at a version. Errors: Compacted."""
        with self.lock:
            entries = dict(self.table(resource).entries)
            for event in reversed(self.after(resource, version)):
                if event.before is None:
                    entries.pop(event.key, None)
                else:
                    entries[event.key] = event.before
            return _ordered(entries, namespace)

    def after(self, resource: str, version: int) -> list[Event]:
        """Return the changes later than a version, oldest first. Errors: Compacted."""
        with self.lock:
            table = self.table(resource)
            if version < table.floor:
                raise Compacted(f"too old resource version: {version} ({table.floor})")
            return table.events[bisect_right(table.versions, version) :]

    def put(self, resource: str, key: Key, obj: JsonObject) -> Entry:
        """Store a new version of an object; storing what is there already makes no version and no event.

        ``obj`` is the storage's from now on; its resourceVersion is set here.
        """
        with self.lock:
            before = self.table(resource).entries.get(key)
            meta = obj["metadata"]
            if before is not None:
                meta["resourceVersion"] = str(before.version)
                if obj == before.obj:
                    return before
            version = self.version + 1
            meta["resourceVersion"] = str(version)
            entry = Entry(obj, encode(obj), version)
            if self._journal:
                self._journal.put(resource, entry.raw)
            self._apply(resource, Event("MODIFIED" if before else "ADDED", key, before, entry))
            return entry

    def remove(self, resource: str, key: Key) -> Entry | None:
        """Remove an object; return its last state, with the version of the removal."""
        with self.lock:
            before = self.table(resource).entries.get(key)
            if before is None:
                return None
            version = self.version + 1
            obj = {**before.obj, "metadata": {**before.obj["metadata"], "resourceVersion": str(version)}}
            last = Entry(obj, encode(obj), version)
            if self._journal:
                self._journal.remove(resource, key, version)
            self._apply(resource, Event("DELETED", key, before, last))
            return last

    def compact(self) -> None:
        """Forget every change: whoever watches or pages from before now is told 410."""
        with self.lock:
            self._floor = self.version
            for table in self._tables.values():
                table.events.clear()
                table.versions.clear()
                table.floor = self.version
                table.changed.notify_all()

    def wake(self) -> None:
        """Make every waiting watcher look around (faults changed, server stops)."""
        with self.lock:
            for table in self._tables.values():
                table.changed.notify_all()

    def close(self) -> None:
        """Close the journal."""
        with self.lock:
            if self._journal:
                self._journal.close()
                self._journal = None

    def _apply(self, resource: str, event: Event) -> None:
        table = self.table(resource)
        uid = event.after.obj["metadata"].get("uid", "")
        if event.type == "DELETED":
            table.entries.pop(event.key, None)
            self.uids.pop(uid, None)
        else:
            table.entries[event.key] = event.after
            self.uids[uid] = (resource, event.key)
        self.version = event.version
        table.events.append(event)
        table.versions.append(event.version)
        if len(table.events) > 2 * self._window:  # trimmed in large steps: each costs a copy of the list
            table.floor = table.versions[-self._window - 1]
            del table.events[: -self._window]
            del table.versions[: -self._window]
        for subscriber in self._subscribers:
            subscriber(resource, event)
        table.changed.notify_all()

    def _load(self, journal: Journal) -> None:
        """Take in what an earlier process wrote, its changes included, so that watchers resume where they were."""
        self._floor = self.version = journal.floor
        for resource, key, obj, version in journal.read():
            table = self.table(resource)
            before = table.entries.get(key)
            if obj is not None:
                self._apply(
                    resource, Event("MODIFIED" if before else "ADDED", key, before, Entry(obj, encode(obj), version))
                )
            elif before is not None:
                last = {**before.obj, "metadata": {**before.obj["metadata"], "resourceVersion": str(version)}}
                self._apply(resource, Event("DELETED", key, before, Entry(last, encode(last), version)))
        for table in self._tables.values():
            # invariant: what the snapshot part of the journal holds is state, not history.
            cut = bisect_right(table.versions, journal.floor)
            del table.events[:cut]
            del table.versions[:cut]
            table.floor = max(table.floor, journal.floor)
        self.version = max(self.version, journal.floor)
        journal.begin(self.version, [(resource, entry.raw) for resource, entry in self._everything()])
        self._journal = journal

    def _everything(self) -> list[tuple[str, Entry]]:
        found = [(name, entry) for name, table in self._tables.items() for entry in table.entries.values()]
        return sorted(found, key=lambda pair: pair[1].version)


def _ordered(entries: dict[Key, Entry], namespace: str) -> list[tuple[Key, Entry]]:
    if namespace:
        return sorted((item for item in entries.items() if item[0][0] == namespace), key=_by_key)
    return sorted(entries.items(), key=_by_key)


def _by_key(item: tuple[Key, Entry]) -> Key:
    return item[0]
