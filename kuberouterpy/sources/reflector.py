"""One kind of the API, mirrored: list, watch, and start over where the watch is lost. Facts stay while the API is away.

A reflector owns what it has put: it lists in pages, resumes a watch by resourceVersion, moves on with bookmarks, lists again
after 410 and after three failures in one place, waits with jitter between attempts and as long as a 429 asks for. It never
gives up and never concludes a deletion from something it could not read: garbage ends the watch, not the record.

Source: apimachinery ``client-go/tools/cache/reflector.go`` for the contract; KEP-365 paging, KEP-956 bookmarks.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from kuberouterpy import cluster
from kuberouterpy.cluster import Delete, Kind, NetworkPolicy, Record, Ref, Rejection, Replace, Upsert
from kuberouterpy.errors import SourceError
from kuberouterpy.sources import wire
from kuberouterpy.sources.decode import Decoded, Garbage, decode, identity
from kuberouterpy.sources.transport import ApiError, Lines, Query, Reply, refusal

PAGE: Final = 500
"""Objects a page; kube-apiserver's own clients use the same."""
WATCH_S: Final = (300, 600)
"""A watch is asked to end at a random moment between these, so that watches of many nodes spread over servers."""
SILENCE_S: Final = 30
"""How much longer than the watch itself a connection may be silent."""
BACKOFF_S: Final = (0.8, 30.0)
"""First and longest pause, doubling."""
_PAUSE_S: Final = 0.1
"""Between a watch that ended well and the next."""
_LASTED_S: Final = 30
"""A watch that lasted so long was a good one, even if nothing happened."""
_BOOKMARKED_S: Final = 180
"""Silence after a first bookmark: kube-apiserver sends one a minute, so that three missing mean a dead connection."""
_STUCK: Final = 3
"""Failures at one resourceVersion until it is given up: the server may have been restored from a backup."""
_GONE: Final = 410
_ABSENT: Final = 404
ABSENT_S: Final = 12.0
"""An optional kind that is not served is asked for again after once to twice this."""
_ABSENT_TIMES: Final = 3
"""An API server that starts may not serve yet what it knows: so often it must deny a kind before its objects are gone."""


class Resource(Struct, frozen=True):
    """A kind and where the API serves it."""

    kind: Kind
    """Kind of the records."""
    path: str
    """Collection over all namespaces."""
    optional: bool = False
    """Whether a CRD defines it, which a cluster may lack."""

    @property
    def list_kind(self) -> str:
        """Kind of the list object."""
        return f"{self.kind.__name__}List"


class Source(Protocol):
    """What a reflector asks; :class:`kuberouterpy.sources.transport.Transport` is one."""

    def get(self, path: str, query: Query | None = None) -> Reply:
        """Return a whole answer."""
        ...

    def stream_lines(self, path: str, query: Query, *, read_s: float) -> AbstractContextManager[Lines]:
        """Yield an open watch."""
        ...


class Gone(SourceError):
    """The server no longer has the history we would resume from."""


class Reflector:
    """Mirrors one kind. ``run`` blocks its thread until ``stop``."""

    def __init__(
        self,
        resource: Resource,
        source: Source,
        put: Callable[[cluster.Event], None],
        *,
        node_name: str = "",
        healthy: Callable[[str], None] = lambda reason: None,
        wait: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``healthy(reason)``: told after every attempt, empty where it worked. ``wait``: a pause that ``stop`` ends."""
        self.resource: Final = resource
        self._source: Final = source
        self._put: Final = put
        self._node_name: Final = node_name
        self._healthy: Final = healthy
        self._stopped: Final = threading.Event()
        self._wait: Final = wait or self._stopped.wait
        self._chance: Final = chance
        self._clock: Final = clock
        self._lines: Lines | None = None
        self._version = ""
        self._failures = 0
        self._absent = 0
        self._good: set[Ref] = set()
        """Records put that came from a good object, and not dropped since."""

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """List and watch until stopped."""
        while not self._stopped.is_set():
            self._wait(self.attempt())

    def stop(self) -> None:
        """Make ``run`` return soon, from another thread."""
        self._stopped.set()
        lines = self._lines
        if lines is not None:
            lines.abort()

    def attempt(self) -> float:
        """List if needed and watch once; return the seconds to pause before the next attempt."""
        try:
            if not self._version:
                self._list()
                self._healthy("")
            progress = self._watch()
        except Gone:
            self._version = ""
            if self._failures:
                # Lists that are too old at once must not follow one another without pause.
                return self._backoff(None)
            self._failures = 1
            return self._pause()
        except SourceError as error:
            if self._stopped.is_set():
                return 0.0
            if self.resource.optional and isinstance(error, ApiError) and error.status == _ABSENT:
                return self._not_served()
            self._healthy(str(error))
            return self._backoff(error)
        if not progress:
            # A server that ends every watch at once must not be asked without pause.
            return self._backoff(None)
        self._failures = 0
        return self._pause()

    def _pause(self) -> float:
        return _PAUSE_S * (1 + self._chance())

    def _not_served(self) -> float:
        """Take it that nobody has defined the kind: there are no objects of it, and nothing is wrong."""
        self._version = ""
        self._absent += 1
        if not self._good or self._absent == _ABSENT_TIMES:
            self._good = set()
            self._put(Replace(self.resource.kind, ()))
        self._healthy("")
        return ABSENT_S * (1 + self._chance())

    def _backoff(self, error: SourceError | None) -> float:
        first, longest = BACKOFF_S
        pause: float = min(first * float(2**self._failures), longest)
        self._failures = min(self._failures + 1, 16)
        if error is not None and self._failures >= _STUCK:
            self._version = ""
        asked = error.retry_after_s if isinstance(error, ApiError) else 0.0
        # Half to whole: nodes that lost the API together do not come back together.
        return max(asked, pause * (0.5 + self._chance() / 2))

    # --- list ----------------------------------------------------------------------------------------------------

    def _list(self) -> None:
        try:
            objects, version = self._pages(PAGE)
        except ApiError as error:
            if error.status != _GONE:
                raise
            # The history behind the continue token was compacted between two pages: take it in one piece.
            objects, version = self._pages(0)
        records: dict[Ref, Record] = {}
        rejected: dict[Ref, Rejection] = {}
        good: set[Ref] = set()
        for one in objects:
            rejection = one.rejection
            if rejection:
                rejected[one.ref] = rejection
            if one.record is not None:
                records[one.ref] = one.record
                good.add(one.ref)
            elif rejection and one.ref in self._good:
                good.add(one.ref)
            elif one.isolating is not None:
                records[one.ref] = one.isolating
        self._good = good
        self._absent = 0
        self._put(Replace(self.resource.kind, tuple(records.values()), tuple(rejected.values())))
        self._version = version

    def _pages(self, limit: int) -> tuple[list[Decoded], str]:
        objects: list[Decoded] = []
        proceed: str | None = None
        while True:
            query: dict[str, str | int] = {"limit": limit} if limit else {}
            if proceed:
                query["continue"] = proceed
            page = self._page(self._source.get(self.resource.path, query).body)
            objects.extend(decode(self.resource.kind, raw, node_name=self._node_name) for raw in page.items or ())
            proceed = page.metadata.cont
            if not proceed:
                return objects, page.metadata.resource_version
            if self._stopped.is_set():
                raise SourceError("stopped in the middle of a list")

    def _page(self, body: bytes) -> wire.List:
        what = f"list {self.resource.path}"
        try:
            page = _PAGES.decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise Garbage(f"{what}: the answer is not a list ({error})") from None
        # An empty or foreign answer must never read as "there are none".
        if page.kind != self.resource.list_kind:
            raise Garbage(f"{what}: the answer is a {page.kind!r}, not a {self.resource.list_kind}")
        if not page.metadata.resource_version:
            raise Garbage(f"{what}: the list has no resourceVersion")
        return page

    # --- watch ---------------------------------------------------------------------------------------------------

    def _watch(self) -> bool:
        """Follow one watch to its end; return whether it brought anything or lasted."""
        begun = self._clock()
        low, high = WATCH_S
        seconds = int(low + self._chance() * (high - low))
        query: dict[str, str | int] = {
            "watch": 1,
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": seconds,
        }
        progress = False
        try:
            with self._source.stream_lines(self.resource.path, query, read_s=seconds + SILENCE_S) as lines:
                self._lines = lines
                # stop() may have come between the loop's test and this line.
                if self._stopped.is_set():
                    return True
                self._healthy("")
                for line in lines:
                    self._take(line)
                    progress = True
                    self._failures = 0
        except ApiError as error:
            if error.status in {_GONE, 400}:
                # 400: the server cannot even read our resourceVersion.
                raise Gone(str(error)) from None
            raise
        finally:
            self._lines = None
        return progress or self._stopped.is_set() or self._clock() - begun >= _LASTED_S

    def _take(self, line: bytes) -> None:
        what = f"watch {self.resource.path}"
        try:
            event = _EVENTS.decode(line)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise Garbage(f"{what}: a line is not an event ({error})") from None
        if event.type == "ERROR":
            raise self._error(event.object, what)
        if event.type not in {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}:
            raise Garbage(f"{what}: {event.type!r} is not a type of event")
        ref, _, version = identity(self.resource.kind, event.object)
        if version.isdigit() and self._version.isdigit() and int(version) < int(self._version):
            # Restored from a backup, or started empty: what we know may be in no history any more.
            raise Gone(f"{what}: the server went back from {self._version} to {version}")
        match event.type:
            case "BOOKMARK":
                if self._lines is not None:
                    self._lines.patience(_BOOKMARKED_S)
            case "DELETED":
                if not ref.name:
                    raise Garbage(f"{what}: a deletion names nothing")
                self._good.discard(ref)
                self._put(Delete(self.resource.kind, ref))
            case _:
                for out in self._changed(decode(self.resource.kind, event.object, node_name=self._node_name)):
                    self._put(out)
        # order matters: only what was read and put is not asked for again.
        self._version = version or self._version

    @staticmethod
    def _error(status: msgspec.Raw, what: str) -> SourceError:
        error = refusal(what, 0, bytes(status))
        try:
            code = msgspec.json.decode(status, type=wire.Status).code or 0
        except (msgspec.DecodeError, RecursionError, ValueError):
            code = 0
        if code == _GONE:
            return Gone(str(error))
        return ApiError(str(error), status=code, retry_after_s=error.retry_after_s)

    def _changed(self, one: Decoded) -> Iterator[cluster.Event]:
        """Yield the events that a new or changed object makes."""
        ref, rejection = one.ref, one.rejection
        if one.record is not None:
            self._good.add(ref)
            yield Upsert(one.record)
        elif rejection is None:
            # Not for us, or no longer: a label or the type took it away.
            self._good.discard(ref)
            yield Delete(one.kind, ref)
        elif ref not in self._good and isinstance(one.isolating, NetworkPolicy):
            yield Upsert(one.isolating)
        if rejection is not None:
            yield rejection


_PAGES: Final = msgspec.json.Decoder(wire.List)
_EVENTS: Final = msgspec.json.Decoder(wire.Event)
