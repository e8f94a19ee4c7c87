"""Watches: a thread that sleeps until something changes, and writes what its client selected.

An idle watch costs nothing: it waits on a condition and wakes for changes of its own resource, for a bookmark each minute (when
asked for) and at its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from kuberouterpy.lab.api import tables
from kuberouterpy.lab.api.errors import JsonObject, StatusError, bad_request, expired, invalid
from kuberouterpy.lab.api.faults import Faults, Sight
from kuberouterpy.lab.api.reading import Form, parse_version, presenter
from kuberouterpy.lab.api.resources import Resource
from kuberouterpy.lab.api.routes import Target
from kuberouterpy.lab.api.selectors import Predicate, selection
from kuberouterpy.lab.api.storage import Compacted, Entry, Event, EventType, Storage, encode
from kuberouterpy.lab.api.wire import chunk

BOOKMARK_S: Final = 60.0
"""How often an idle watch is told the current version."""
DEFAULT_TIMEOUT_S: Final = 3600.0
"""How long a watch lives that does not say."""
INITIAL_END: Final = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends the initial events."""

Send = Callable[[bytes], None]


class Request(msgspec.Struct, frozen=True):
    """What a client wants to watch."""

    target: Target
    """Resource and namespace."""
    chosen: Predicate | None
    """Selectors; None selects all."""
    shape: Form
    """Representation."""
    start: int
    """Version to begin after; 0 for now, with everything there is as ADDED first."""
    initial: bool
    """Whether to begin with everything there is."""
    bookmarks: bool
    """Whether bookmarks are understood."""
    mark_initial: bool
    """Whether a bookmark ends the initial events."""
    timeout_s: float
    """How long the watch lives."""


def parse(target: Target, query: dict[str, str], shape: Form) -> Request:
    """Return the watch a query asks for. Errors: 400, 422."""
    version = query.get("resourceVersion", "")
    streaming = query.get("sendInitialEvents", "")
    if streaming and query.get("resourceVersionMatch") != "NotOlderThan":
        text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        raise invalid("meta.k8s.io", "ListOptions", "", [("FieldValueForbidden", "resourceVersionMatch", text)])
    field = query.get("fieldSelector", "")
    if target.name:
        field = f"metadata.name={target.name}" + (f",{field}" if field else "")
    timeout = query.get("timeoutSeconds", "")
    if timeout and not timeout.isdigit():
        raise bad_request(f'strconv.ParseInt: parsing "{timeout}": invalid syntax')
    start = parse_version(version)
    bookmarks = query.get("allowWatchBookmarks", "") in {"true", "1"}
    return Request(
        target,
        selection(query.get("labelSelector", ""), field, target.resource.key, custom=target.resource.custom),
        shape,
        start,
        streaming in {"true", "1"} or (not streaming and start == 0),
        bookmarks,
        streaming in {"true", "1"} and bookmarks,
        float(timeout) if timeout and timeout != "0" else DEFAULT_TIMEOUT_S,
    )


class Watcher:
    """One running watch."""

    def __init__(
        self, storage: Storage, faults: Faults, request: Request, sight: Sight, stopped: Callable[[], bool]
    ) -> None:
        self._storage = storage
        self._faults = faults
        self._request = request
        self._sight = sight
        self._stopped = stopped
        self._frames = _Frames(request.target.resource, request.shape)
        self._sent = 0

    def run(self, send: Send) -> bool:
        """Send events until the watch's time is up; return False where it was cut and must not end properly.

        Errors: OSError where the client is gone.
        """
        request = self._request
        deadline = time.monotonic() + request.timeout_s
        bookmark_at = time.monotonic() + BOOKMARK_S
        position = self._begin(send)
        table = self._storage.table(request.target.resource.key)
        while True:
            with self._storage.lock:
                # order matters: asked under the lock, so that a fault that comes now wakes the waiting below.
                if self._faults.cuts(self._sight, self._sent):
                    return False
                muted = self._faults.mutes(self._sight, self._sent)
                try:
                    events = self._storage.after(request.target.resource.key, position)
                except Compacted as error:
                    send(chunk(_error(expired(str(error)))))
                    return True
                version = self._storage.version
                now = time.monotonic()
                wake_at = min(deadline, bookmark_at) if request.bookmarks else deadline
                if (not events or muted) and not self._stopped() and now < wake_at:
                    table.changed.wait(wake_at - now)
                    continue
            if muted:
                if self._stopped() or now >= deadline:
                    return False
                bookmark_at = now + BOOKMARK_S
                continue
            if events:
                self._send(send, events)
                position = events[-1].version
                continue
            if request.bookmarks:
                send(chunk(self._frames.bookmark(version)))
                position, bookmark_at = version, now + BOOKMARK_S
            if self._stopped() or now >= deadline:
                return True

    def _begin(self, send: Send) -> int:
        """Send what is there already, if the client asked for it; return the version to go on from."""
        request = self._request
        if not request.initial:
            send(b"")  # the client learns at once that the watch is open
            return request.start or self._storage.version
        items, version = self._storage.items(request.target.resource.key, request.target.namespace)
        frames = [
            self._frames.of("ADDED", entry) for _, entry in items if request.chosen is None or request.chosen(entry.obj)
        ]
        if request.mark_initial:
            frames.append(self._frames.bookmark(version, initial=True))
        send(b"".join(map(chunk, frames)))
        self._sent += len(frames)
        return version

    def _send(self, send: Send, events: list[Event]) -> None:
        frames = [frame for event in events if (frame := self._frame(event)) is not None]
        room = self._faults.room(self._sight, self._sent)
        if room is not None:
            frames = frames[:room]
        if frames:
            send(b"".join(frames))
        self._sent += len(frames)

    def _frame(self, event: Event) -> bytes | None:
        """Return the chunk that this client sees of a change; None where it sees nothing."""
        request = self._request
        if request.target.namespace and event.key[0] != request.target.namespace:
            return None
        kind: EventType = event.type
        entry = event.after
        if request.chosen is not None:
            was = event.before is not None and request.chosen(event.before.obj)
            selected = event.type != "DELETED" and request.chosen(event.after.obj)
            if not was and not selected:
                return None
            kind = "MODIFIED" if was and selected else "ADDED" if selected else "DELETED"
        if not self._frames.plain:
            return chunk(self._frames.of(kind, entry))
        if kind not in event.frames:
            event.frames[kind] = chunk(self._frames.of(kind, entry))
        return event.frames[kind]


class _Frames:
    """Encodes events in the representation of one watch."""

    def __init__(self, resource: Resource, shape: Form) -> None:
        self._resource = resource
        self._shape = shape
        self._heads_sent = False
        self._present = presenter(resource, shape)
        self.plain = shape.name == "" and not resource.stored_as and not resource.custom
        """Whether frames are the same for all watches and may be shared."""

    def of(self, kind: str, entry: Entry) -> bytes:
        """Return one event line."""
        body = self._table(entry) if self._shape.name == "Table" else self._present(entry)
        return b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"

    def _table(self, entry: Entry) -> bytes:
        shown = tables.table(self._resource, [entry.obj], self._shape.include, version=str(entry.version))
        if self._heads_sent:
            shown["columnDefinitions"] = None
        self._heads_sent = True
        return encode(shown)

    def bookmark(self, version: int, *, initial: bool = False) -> bytes:
        """Return a bookmark line."""
        meta: JsonObject = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial:
            meta["annotations"] = {INITIAL_END: "true"}
        if self._shape.name == "Table":
            body: JsonObject = {
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": None, "rows": None,
            }  # fmt: skip
        else:
            body = {"kind": self._resource.kind, "apiVersion": self._resource.api_version, "metadata": meta}
        return encode({"type": "BOOKMARK", "object": body}) + b"\n"


def _error(error: StatusError) -> bytes:
    return encode({"type": "ERROR", "object": error.status()}) + b"\n"
