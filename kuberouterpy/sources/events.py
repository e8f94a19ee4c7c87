"""Kubernetes Events on Services, Nodes and NetworkPolicies: for what a person must know, and never more than that.

``record`` only puts on a bounded queue, so the loop never waits for the API. One thread posts: the same message again within
ten minutes is counted, not posted; each object has a budget, as client-go's spam filter gives it; what cannot be posted now
is dropped, because an Event that is late misleads.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from kuberouterpy.cluster import ClusterNetworkPolicy, Kind, NetworkPolicy, Node, Ref, Rejection, Service
from kuberouterpy.errors import SourceError
from kuberouterpy.names import digest
from kuberouterpy.sources.transport import ApiError, Reply

REJECTED: Final = "Rejected"
"""Reason of an Event about an object of the API that cannot be used, or not all of it."""
_QUEUE: Final = 256
_QUIET_S: Final = 600
"""How long the same message is counted only."""
_BURST: Final = 10
"""Events an object may have at once."""
_REFILL_S: Final = 300
"""Seconds until an object may have one more; client-go's spam filter has the same."""
_REMEMBERED: Final = 4096
_MESSAGE: Final = 1024
"""Longest message; the API refuses a longer one."""
_CONFLICT: Final = 409
_VERSIONS: Final[dict[Kind, str]] = {
    Service: "v1",
    Node: "v1",
    NetworkPolicy: "networking.k8s.io/v1",
    ClusterNetworkPolicy: "policy.networking.k8s.io/v1alpha2",
}


class EventType(StrEnum):
    """How grave it is."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Occurrence(Struct, frozen=True):
    """Something that happened to an object of the API."""

    kind: Kind
    """Service, Node, NetworkPolicy or ClusterNetworkPolicy."""
    ref: Ref
    """The object."""
    reason: str
    """One word in UpperCamelCase."""
    message: str
    """One sentence for people."""
    uid: str = ""
    """metadata.uid of the object, if known."""
    type: EventType = EventType.WARNING
    """Normal or Warning."""


class Reporter(Struct, frozen=True):
    """Who tells."""

    component: str
    """source.component."""
    host: str
    """Name of this node."""


class Poster(Protocol):
    """What posts; :class:`kuberouterpy.sources.transport.Transport` is one."""

    def post(self, path: str, body: object) -> Reply:
        """Create an object."""
        ...

    def patch(self, path: str, body: object, content_type: str = ...) -> Reply:
        """Change an object."""
        ...


class EventRecorder:
    """Posts occurrences in a thread of its own."""

    def __init__(
        self,
        poster: Poster,
        host: str,
        *,
        component: str = "kuberouterpy",
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``host``: name of this node. ``clock`` and ``now``: for tests."""
        self._poster: Final = poster
        self._reporter: Final = Reporter(component, host)
        self._clock: Final = clock
        self._now: Final = now
        self._queue: Final[queue.Queue[Occurrence | None]] = queue.Queue(_QUEUE)
        self._posted: Final[OrderedDict[Occurrence, tuple[float, int]]] = OrderedDict()
        self._budgets: Final[OrderedDict[tuple[Kind, Ref], tuple[float, float]]] = OrderedDict()
        self._thread: Final = threading.Thread(target=self.run, name="events", daemon=True)
        self.dropped = 0
        """Occurrences that were not posted: queue full, over budget, or the API away."""

    def start(self) -> None:
        """Begin to post."""
        self._thread.start()

    def stop(self) -> None:
        """Post no more."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return

    def record(self, occurrence: Occurrence) -> None:
        """Take an occurrence and return at once; kinds that have no Events are passed over."""
        if occurrence.kind not in _VERSIONS:
            return
        try:
            self._queue.put_nowait(occurrence)
        except queue.Full:
            self.dropped += 1

    def rejected(self, rejection: Rejection) -> None:
        """Tell that an object, or a part of it, cannot be used."""
        self.record(Occurrence(rejection.kind, rejection.ref, REJECTED, rejection.reason, rejection.uid))

    def run(self) -> None:
        """Post until stopped."""
        while (occurrence := self._queue.get()) is not None:
            self.handle(occurrence)

    def handle(self, occurrence: Occurrence) -> None:
        """Post one occurrence, or count it."""
        now = self._clock()
        posted_at, count = self._posted.get(occurrence, (float("-inf"), 0))
        if now - posted_at < _QUIET_S:
            self._remember(occurrence, posted_at, count + 1)
            return
        if not self._afford((occurrence.kind, occurrence.ref), now):
            self.dropped += 1
            return
        try:
            self._post(occurrence, count + 1)
        except SourceError:
            self.dropped += 1
            return
        self._remember(occurrence, now, count + 1)

    def _remember(self, occurrence: Occurrence, posted_at: float, count: int) -> None:
        self._posted[occurrence] = (posted_at, count)
        self._posted.move_to_end(occurrence)
        while len(self._posted) > _REMEMBERED:
            self._posted.popitem(last=False)

    def _afford(self, key: tuple[Kind, Ref], now: float) -> bool:
        tokens, since = self._budgets.get(key, (float(_BURST), now))
        tokens = min(float(_BURST), tokens + (now - since) / _REFILL_S)
        self._budgets[key] = (tokens - 1 if tokens >= 1 else tokens, now)
        self._budgets.move_to_end(key)
        while len(self._budgets) > _REMEMBERED:
            self._budgets.popitem(last=False)
        return tokens >= 1

    def _post(self, occurrence: Occurrence, count: int) -> None:
        body = manifest(occurrence, self._reporter, self._now(), count)
        namespace = occurrence.ref.namespace or "default"
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            self._poster.post(path, body)
        except ApiError as error:
            if error.status != _CONFLICT:
                raise
            # Ours from before, perhaps from before a restart: it happened again.
            change = {"count": max(2, count), "lastTimestamp": body["lastTimestamp"], "message": body["message"]}
            self._poster.patch(f"{path}/{name_of(occurrence, self._reporter)}", change)


def name_of(occurrence: Occurrence, reporter: Reporter) -> str:
    """Return the Event's name: of identity only, so that a restarted agent finds its own."""
    one = occurrence
    hashed = digest(one.kind.__name__, *one.ref, one.uid, one.reason, one.message, reporter.host).lower()
    return f"{one.ref.name[:200].rstrip('.-')}.{hashed}"


def manifest(occurrence: Occurrence, reporter: Reporter, now: datetime, count: int = 1) -> dict[str, object]:
    """Return the Event as the API takes it."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    one = occurrence
    namespace = one.ref.namespace or "default"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name_of(one, reporter), "namespace": namespace},
        "involvedObject": {
            "apiVersion": _VERSIONS[one.kind],
            "kind": one.kind.__name__,
            "namespace": one.ref.namespace,
            "name": one.ref.name,
            # kubelet puts the name where a Node's uid would stand, and kubectl describe node looks for that.
            "uid": one.ref.name if one.kind is Node else one.uid,
        },
        "type": one.type.value,
        "reason": one.reason,
        "message": one.message[:_MESSAGE],
        "count": count,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": reporter.component, "host": reporter.host},
        "reportingComponent": reporter.component,
        "reportingInstance": reporter.host,
    }
