"""What this node's Node object tells of its network: conditions that follow the agent's status, and an Event for each turn.

``NetworkUnavailable`` becomes False when the network of pods is up, so that the scheduler may use the node (clouds taint a new
node until somebody says so). It is never set True: an agent that cannot judge would take its node out of the cluster.
``kube-router.io/Drained`` is True once a draining node has withdrawn its VIPs: a script may wait for it with ``kubectl wait``.

Conditions are state, not news: the last word counts, and it is tried until it is written. What already stands is not written
again, so the time of ``Draining`` outlives a restart of the agent, which waits on from there. Needs the right to get nodes and
to patch ``nodes/status``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from kuberouterpy.cluster import Node, Ref
from kuberouterpy.drain import DRAINED, DRAINING, Drain
from kuberouterpy.errors import SourceError
from kuberouterpy.sources.events import EventType, Occurrence
from kuberouterpy.sources.transport import Query, Reply
from kuberouterpy.status import Status

NETWORK: Final = "NetworkUnavailable"
_STRATEGIC: Final = "application/strategic-merge-patch+json"
"""Lists are merged by key: conditions of others stay."""
_BACKOFF_S: Final = (1.0, 60.0)


class Condition(Struct, frozen=True):
    """One condition of a Node."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class _NodeStatus(Struct):
    conditions: list[Condition] | None = None


class _Node(Struct):
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class Api(Protocol):
    """What writes; :class:`kuberouterpy.sources.transport.Transport` is one."""

    def get(self, path: str, query: Query | None = None) -> Reply:
        """Return an object."""
        ...

    def patch(self, path: str, body: object, content_type: str = ...) -> Reply:
        """Change an object."""
        ...


class NodeReporter:
    """Turns the statuses of the loop into conditions and Events of one Node, in a thread of its own."""

    def __init__(
        self,
        api: Api,
        node: str,
        record: Callable[[Occurrence], None],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``record`` takes an Event; ``now`` is for tests."""
        self._api: Final = api
        self._node: Final = node
        self._record: Final = record
        self._now: Final = now
        self._lock: Final = threading.Lock()
        self._wanted: dict[str, Condition] = {}
        self._seen: tuple[bool, str] | None = None
        self._wake: Final = threading.Event()
        self._stopped = False
        self._thread: Final = threading.Thread(target=self.run, name="conditions", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write no more; conditions stay as they are."""
        self._stopped = True
        self._wake.set()

    def see(self, status: Status) -> None:
        """Take a status and return at once."""
        if not status.settled:
            return  # of a drain that was before us, or of a network that will be, nothing is known yet
        before, self._seen = self._seen, (status.network_up, status.drain)
        if before == self._seen:
            return
        with self._lock:
            self._wanted |= {one.type: one for one in conditions(status)}
        self._wake.set()
        if before is not None and before[1] != status.drain:
            reason, message = _TURNS[status.drain]
            self._record(Occurrence(Node, Ref("", self._node), reason, message, type=EventType.NORMAL))

    def run(self) -> None:
        """Write until stopped."""
        wait_s = _BACKOFF_S[0]
        while True:
            self._wake.wait()
            if self._stopped:
                return
            self._wake.clear()
            if self.write():
                wait_s = _BACKOFF_S[0]
                continue
            self._wake.wait(wait_s)
            self._wake.set()
            wait_s = min(2 * wait_s, _BACKOFF_S[1])

    def write(self) -> bool:
        """Write what is wanted and does not stand; return whether it stands now."""
        with self._lock:
            wanted = dict(self._wanted)
        try:
            answer = self._api.get(f"/api/v1/nodes/{self._node}").body
            found = msgspec.json.decode(answer, type=_Node).status.conditions or ()
            missing = [*_missing(wanted, {one.type: one for one in found})]
            if missing:
                body = {"status": {"conditions": [self._manifest(one) for one in missing]}}
                self._api.patch(f"/api/v1/nodes/{self._node}/status", body, _STRATEGIC)
        except (SourceError, msgspec.DecodeError):
            return False
        with self._lock:
            self._wanted = {kind: one for kind, one in self._wanted.items() if one != wanted.get(kind)}
        return True

    def _manifest(self, condition: Condition) -> dict[str, str]:
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        return {**msgspec.structs.asdict(condition), "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}


def conditions(status: Status) -> Iterator[Condition]:
    """Yield the conditions a status means."""
    if status.network_up:
        yield Condition(NETWORK, "False", "NetworkIsUp", "bridge, CNI configuration, BGP and routes are in place")
    reason, message = _TURNS[status.drain]
    yield Condition(DRAINED, str(status.drain == Drain.GONE), reason, message)


def _missing(wanted: dict[str, Condition], found: dict[str, Condition]) -> Iterator[Condition]:
    for kind, condition in wanted.items():
        # A node that never drained needs no condition that says so.
        if kind in found or condition.reason != _TURNS[Drain.SERVING][0]:
            stands = found.get(kind)
            if stands is None or (stands.status, stands.reason) != (condition.status, condition.reason):
                yield condition


_TURNS: Final[dict[str, tuple[str, str]]] = {
    Drain.SERVING: ("Serving", "this node announces its VIPs"),
    Drain.LEAVING: (
        DRAINING,
        "neighbors were told by GRACEFUL_SHUTDOWN (RFC 8326); VIPs are withdrawn after --drain-wait",
    ),
    Drain.GONE: ("Drained", "VIPs are withdrawn; pods keep their routes"),
}
