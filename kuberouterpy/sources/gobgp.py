"""Best paths and neighbors of the GoBGP sidecar as facts.

One thread follows the daemon's event stream. Events are taken as hints only - what they carry differs between versions and
with multipath - and the prefixes they name are read again from the global table, so what is told is always what is there.

**The first dump.** The stream is open when GoBGP has told every neighbor once (``END_OF_INIT``, in all versions); the table
is listed after that, so nothing falls between. Then ``Replace(BestPath)`` is put, and ``Upsert`` and ``Delete`` follow. Paths
that we originate are never told, and the next hops of equally good paths stand in one record.

**The daemon went away.** ``Unreachable`` at once; when it is back ``Restarted``, so that the loop gives it its configuration
again. Its table is then empty for seconds, and kernel routes must not follow it there: paths that are found are told at once,
but the ``Replace`` that lets missing ones go waits (:class:`Settling`) until every neighbor that was established before is
so again and has sent End-of-RIB, or the restart time has passed. A daemon that stops (SIGTERM) first withdraws everything:
by the time we read again it has no speaker, which counts as gone, so those withdrawals are never told. The same wait holds at
the first start with a fresh daemon, since kernel routes of our last life may stand.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from msgspec import Struct

from kuberouterpy.cluster import BestPath, Delete, Event, Reachable, Replace, Restarted, Unreachable, Upsert
from kuberouterpy.family import FAMILIES, Family, canonical_prefix, family_of
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp import wire
from kuberouterpy.gobgp.client import Fault, GobgpClient, GobgpError, Watch, originated_here
from kuberouterpy.gobgp.dialect import BFD_STATES, PEER_EVENT_END_OF_INIT, V4, Dialect, Session, Shifted
from kuberouterpy.log import event as log_event

NAME: Final = "gobgp"
"""What events and the driver call the sidecar."""
SETTLE_S: Final = 5.0
"""A session without graceful restart sends no End-of-RIB we could rely on: so long after it came up it has told its paths."""
HEARTBEAT_S: Final = 5.0
"""A daemon that hangs breaks no stream: it is asked so often."""
_HOLDING_S: Final = 0.5
"""Pace while a Replace waits."""
_BACKOFF_S: Final = (0.2, 3.0)
_AT_ONCE: Final = 200
"""More prefixes than this are read by listing their family."""
_SUBSCRIBE_S: Final = 10.0

_log = logging.getLogger(__name__)


class NeighborState(Struct, frozen=True):
    """A session as GoBGP sees it."""

    address: str
    """Canonical address."""
    state: str
    """idle, connect, active, opensent, openconfirm or established."""
    since: float = 0.0
    """Unix time of the last change between established and not; 0: never was."""
    received: int = 0
    """Prefixes it has told."""
    accepted: int = 0
    """Of them, those that are kept; GoBGP 3.10 counts what the import policy refuses, too."""
    error: str = ""
    """Why the last session ended, where the version tells it."""
    asn: int = 0
    """Its AS number."""
    told_all: bool = False
    """End-of-RIB has come for every family that sends one."""
    bfd: str = ""
    """State of BFD: up, down, ...; ``none``: this daemon has no BFD; empty: not asked for."""

    @property
    def established(self) -> bool:
        """Whether the session is up."""
        return self.state == "established"


class Settling:
    """Says when an empty place in the table means that a path is gone. Pure: time is an argument."""

    def __init__(self, awaited: frozenset[str] | None, *, began: float, limit_s: float) -> None:
        """``awaited``: neighbors that must have told all again; ``None``: every one that is configured."""
        self._awaited = awaited
        self._began = began
        self._limit_s = limit_s
        self._up_since: dict[str, float] = {}

    def over(self, neighbors: Sequence[NeighborState], now: float) -> bool:
        """Return whether the table can be trusted."""
        up = {one.address for one in neighbors if one.established}
        self._up_since = {address: self._up_since.get(address, now) for address in up}
        if now - self._began >= self._limit_s:
            return True
        settled = {
            one.address
            for one in neighbors
            if one.established and (one.told_all or now - self._up_since[one.address] >= SETTLE_S)
        }
        if self._awaited is not None:
            return self._awaited <= settled
        if not neighbors:
            # Nobody to wait for, unless the driver is only about to configure them.
            return now - self._began >= SETTLE_S
        return {one.address for one in neighbors} <= settled


class _Broken(NamedTuple):
    """The stream ended."""

    reason: str


_Item = pb.WatchEventResponse | _Broken


class GobgpSource:
    """Follows the daemon behind ``socket`` until stopped; ``put`` is called from its thread."""

    def __init__(
        self,
        socket: str,
        put: Callable[[Event], None],
        *,
        restart_s: float = 90.0,
        client: GobgpClient | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``restart_s``: how long missing paths are believed in after the daemon came back."""
        self._client = client or GobgpClient(socket)
        self._put = put
        self._restart_s = restart_s
        self._now = now
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-BestPath", daemon=True)
        self._stream: Watch | None = None
        self._known: dict[str, BestPath] = {}
        self._neighbors: tuple[NeighborState, ...] = ()
        self._awaited: frozenset[str] | None = None
        self._sessions = 0
        self._complaint = ""

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self, *, within_s: float = 2.0) -> None:
        """End; facts already told stay."""
        self._stop.set()
        if self._stream is not None:
            self._stream.cancel()
        if self._thread.is_alive():
            self._thread.join(within_s)
        self._client.close()

    def neighbors(self) -> tuple[NeighborState, ...]:
        """Return the sessions as last seen, by address; any thread may ask."""
        return self._neighbors

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait_s = _BACKOFF_S[0]
        while not self._stop.is_set():
            before = self._sessions
            try:
                self._session()
            except GobgpError as error:
                self._complain(str(error))
            if self._sessions > before:
                wait_s = _BACKOFF_S[0]
            self._stop.wait(wait_s)
            wait_s = min(2 * wait_s, _BACKOFF_S[1])

    def _complain(self, reason: str) -> None:
        if reason != self._complaint and not self._stop.is_set():
            self._complaint = reason
            self._put(Unreachable(NAME, reason))

    def _session(self) -> None:
        """Follow one life of the stream; it ends by GobgpError."""
        items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        stream = self._stream = self._client.watch(self._request())
        threading.Thread(target=_read, args=(stream, items), name="read-BestPath", daemon=True).start()
        try:
            self._await_subscription(items)
            self._sessions += 1
            if self._sessions > 1:
                self._put(Restarted(NAME))
            self._complaint = ""
            self._put(Reachable(NAME))
            self._follow(items)
        finally:
            stream.cancel()

    def _request(self) -> pb.WatchEventRequest:
        best = self._client.dialect.number(Shifted.FILTER_BEST)
        filters = [pb.WatchEventRequest.Table.Filter(type=best, init=False)]
        return pb.WatchEventRequest(peer=pb.WatchEventRequest.Peer(), table=pb.WatchEventRequest.Table(filters=filters))

    def _await_subscription(self, items: queue.SimpleQueue[_Item]) -> None:
        while not self._stop.is_set():
            try:
                item = items.get(timeout=_SUBSCRIBE_S)
            except queue.Empty:
                raise GobgpError(f"WatchEvent: nothing within {_SUBSCRIBE_S:g} s", Fault.HUNG) from None
            if isinstance(item, _Broken):
                raise GobgpError(f"WatchEvent: {item.reason}", Fault.ABSENT)
            if item.WhichOneof("event") == "peer" and item.peer.type == PEER_EVENT_END_OF_INIT:
                return

    def _follow(self, items: queue.SimpleQueue[_Item]) -> None:
        began = self._now()
        started = self._started()
        self._refresh_neighbors(started, holding=True)
        hold: Settling | None = Settling(self._whom_to_await(started), began=began, limit_s=self._restart_s)
        if started:
            self._tell(self._table(FAMILIES), holding=True)
        asked_at = began
        while not self._stop.is_set():
            pace = _HOLDING_S if hold else HEARTBEAT_S
            batch = _drain(items, max(0.0, asked_at + pace - self._now()), self._client.dialect)
            now = self._now()
            due = now - asked_at >= pace
            if due or not started:
                asked_at = now
                was, started = started, self._started()
                if was and not started:
                    raise GobgpError("its speaker was stopped", Fault.ABSENT)
                if started and not was:
                    self._tell(self._table(FAMILIES), holding=True)
            if started and batch.prefixes:
                self._reread(batch.prefixes)
            if due or batch.neighbors:
                self._refresh_neighbors(started, holding=hold is not None)
            if hold is not None and started and hold.over(self._neighbors, now):
                hold = None
                self._replace()
                self._refresh_neighbors(started, holding=False)

    def _whom_to_await(self, started: bool) -> frozenset[str] | None:
        if self._sessions > 1:
            return self._awaited
        # The agent is new. A daemon that has a speaker was configured in our last life and knows what its sessions told.
        return frozenset(one.address for one in self._neighbors if one.established) if started else None

    # --- telling ---------------------------------------------------------------------------------------------------

    def _tell(self, found: Mapping[str, BestPath], *, holding: bool, about: Iterable[str] = ()) -> None:
        for prefix, path in found.items():
            if self._known.get(prefix) != path:
                self._known[prefix] = path
                self._put(Upsert(path))
        if holding:
            return
        for prefix in about:
            if prefix not in found and prefix in self._known:
                gone = self._known.pop(prefix)
                self._put(Delete(BestPath, gone.ref))

    def _replace(self) -> None:
        self._known = dict(self._table(FAMILIES))
        self._put(Replace(BestPath, tuple(self._known.values())))

    def _reread(self, prefixes: frozenset[str]) -> None:
        for family in FAMILIES:
            touched = sorted(prefix for prefix in prefixes if family_of(prefix) is family)
            if touched:
                only = touched if len(touched) <= _AT_ONCE else ()
                self._tell(self._table((family,), only), holding=False, about=touched)

    # --- asking ----------------------------------------------------------------------------------------------------

    def _started(self) -> bool:
        answer = self._client.call("GetBgp", pb.GetBgpRequest(), pb.GetBgpResponse)
        return bool(getattr(answer, "global").asn)

    def _table(self, families: Iterable[Family], prefixes: Sequence[str] = ()) -> dict[str, BestPath]:
        """Return the best paths others told, of whole families or of some prefixes.

        Errors: GobgpError, also when the speaker is gone.
        """
        found: dict[str, BestPath] = {}
        number = self._client.dialect.number
        for family in families:
            request = pb.ListPathRequest(
                table_type=number(Shifted.TABLE_GLOBAL),
                family=pb.Family(afi=wire.AFI[family], safi=wire.UNICAST),
                prefixes=[pb.TableLookupPrefix(prefix=one, type=number(Shifted.LOOKUP_EXACT)) for one in prefixes],
                enable_only_binary=True,
                enable_nlri_binary=True,
                enable_attribute_binary=True,
            )
            try:
                answers = self._client.collect("ListPath", request, pb.ListPathResponse)
            except GobgpError as error:
                if error.fault is Fault.REFUSED and "not supported" in str(error):
                    continue  # a speaker of one family has no table of the other
                raise
            for answer in answers:
                path = best_path(answer.destination.paths, family)
                if path is not None:
                    found[path.prefix] = path
        return found

    def _refresh_neighbors(self, started: bool, *, holding: bool) -> None:
        answers = self._client.collect("ListPeer", pb.ListPeerRequest(), pb.ListPeerResponse) if started else []
        before = {one.address: one for one in self._neighbors}
        self._neighbors = tuple(
            sorted(
                (read_neighbor(one.peer, before, self._client.dialect) for one in answers),
                key=lambda one: ip_address(one.address).packed,
            )
        )
        for one in self._neighbors:
            known = before.get(one.address)
            if known is None or known.established != one.established:
                log_event(_log, logging.INFO, "neighbor", key=one.address, reason=one.state, error=one.error or None)
        # Only a daemon that can be trusted and still has its speaker says who is up: one that is going down, or has just
        # come up, has none of them.
        if started and not holding and self._started():
            self._awaited = frozenset(one.address for one in self._neighbors if one.established)


# --- reading ----------------------------------------------------------------------------------------------------------


class _Batch(NamedTuple):
    prefixes: frozenset[str]
    neighbors: bool


def _read(stream: Watch, items: queue.SimpleQueue[_Item]) -> None:
    try:
        for item in stream:
            items.put(item)
        items.put(_Broken("the stream ended"))
    except grpc.RpcError as error:
        items.put(_Broken(f"the stream broke: {error.details() or error.code()}"))


def _drain(items: queue.SimpleQueue[_Item], wait_s: float, dialect: Dialect) -> _Batch:
    """Return what came, after waiting for the first. Errors: GobgpError when the stream ended."""
    prefixes: set[str] = set()
    neighbors = False
    timeout = wait_s
    while True:
        try:
            item = items.get(timeout=timeout) if timeout > 0 else items.get_nowait()
        except queue.Empty:
            return _Batch(frozenset(prefixes), neighbors)
        timeout = 0.0
        if isinstance(item, _Broken):
            raise GobgpError(f"WatchEvent: {item.reason}", Fault.ABSENT)
        match item.WhichOneof("event"):
            case "peer":
                neighbors = True
            case "table":
                prefixes.update(prefix for path in item.table.paths if (prefix := event_prefix(path, dialect)))


def event_prefix(path: pb.Path, dialect: Dialect) -> str:
    """Return the prefix an event names, in either dialect; empty where it is of a kind we do not follow."""
    try:
        if dialect is V4:
            found = pb.OneofNlri.FromString(path.nlri).prefix
        else:
            found = pb.IPAddressPrefix.FromString(pb.AnyNlri.FromString(path.nlri).value)
        return canonical_prefix(f"{found.prefix}/{found.prefix_len}")
    except (DecodeError, ValueError):
        return ""


def best_path(paths: Sequence[pb.Path], family: Family) -> BestPath | None:
    """Return what the global table has for one prefix, best path first; ``None`` where the best is our own.

    Paths as good as the best in every step before the router ID (RFC 4271 9.1.2) give their next hops too. A path that cannot
    be read counts as absent.
    """
    candidates = [path for path in paths if not path.filtered and not path.is_nexthop_invalid]
    if not candidates or originated_here(candidates[0]):
        return None
    try:
        best = wire.decode(candidates[0].pattrs_binary)
        rank = _rank(candidates[0], best)
        hops = {best.next_hop}
        for path in candidates[1:]:
            attributes = wire.decode(path.pattrs_binary)
            if not originated_here(path) and _rank(path, attributes) == rank:
                hops.add(attributes.next_hop)
        prefix = wire.decode_prefix(candidates[0].nlri_binary, family)
    except ValueError as error:
        log_event(_log, logging.WARNING, "path-unreadable", key=candidates[0].neighbor_ip, reason=str(error))
        return None
    return BestPath(prefix, tuple(sorted(hop for hop in hops if hop)), candidates[0].neighbor_ip)


def _rank(path: pb.Path, attributes: wire.Attributes) -> tuple[object, ...]:
    # MED counts among paths of one neighboring AS only (9.1.2.2 c): the AS stands beside it.
    first = attributes.as_path[0] if attributes.as_path else 0
    return (
        path.stale,
        attributes.local_preference or 100,
        attributes.as_path_length,
        attributes.origin,
        (first, attributes.med),
        path.is_from_external,
    )


def read_neighbor(peer: pb.Peer, before: Mapping[str, NeighborState], dialect: Dialect = V4) -> NeighborState:
    """Return a session as GoBGP tells it."""
    address = str(ip_address(peer.conf.neighbor_address))
    state = Session(peer.state.session_state).name.lower()
    times = peer.timers.state
    known = before.get(address)
    error = peer.state.disconnect_message or (known.error if known is not None else "")
    if known is not None and known.established and state != "established" and not peer.state.disconnect_message:
        error = "the session was lost"
    error = _refused_open(peer) or error
    if peer.state.admin_state == dialect.number(Shifted.ADMIN_TOO_MANY_PREFIXES):
        error = "it announced too many prefixes: GoBGP ended the session"
    told = [one.mp_graceful_restart.state for one in peer.afi_safis if one.mp_graceful_restart.state.enabled]
    return NeighborState(
        address=address,
        state=state,
        since=float((times.uptime if state == "established" else times.downtime).seconds),
        received=sum(one.state.received for one in peer.afi_safis),
        accepted=sum(one.state.accepted for one in peer.afi_safis),
        error=error,
        asn=peer.state.peer_asn or peer.conf.peer_asn,
        told_all=bool(told) and all(one.end_of_rib_received for one in told),
        bfd=_bfd(peer, dialect),
    )


def _refused_open(peer: pb.Peer) -> str:
    """Return who refused whom where a session never came up though the two have talked; no version says why."""
    messages = peer.state.messages
    if peer.timers.state.uptime.seconds or peer.state.session_state == Session.ESTABLISHED:
        return ""
    if messages.sent.notification:
        return f"this node refused its OPEN: its AS number is not {peer.conf.peer_asn}, or it has our router ID"
    if messages.received.notification:
        return "it refused our OPEN: it expects another AS number, or has our router ID"
    return ""


def _bfd(peer: pb.Peer, dialect: Dialect) -> str:
    if dialect is not V4:
        return "none"
    return BFD_STATES.get(peer.state.bfd_state.session_state, "unknown") if peer.bfd.enabled else ""
