"""The loop: one thread takes events in, recomputes the owners they touch, and applies what differs.

``step(now)`` is the whole of it: drain the inbox, recompute, apply, say when to come back. Sources are threads that only
put events here. Drivers block the loop, and that blocking *is* the batching: whatever arrives meanwhile is taken in at once
by the next step, and an owner named by fifty events is computed once. One exception: a driver with a *lane* (GoBGP) runs
in a thread of its own and answers by an event, so that a hung sidecar never delays the kernel.

Nothing is listed or written before every expected kind of fact has been listed once. Nothing is deleted on incomplete
knowledge: :data:`NEEDS` names the facts without which a kind is never deleted.

The file is long because one class holds all that outlives a step, and each of its parts (in, recompute, out, tell) reads and
writes it. What can be said without that state is a function elsewhere: :mod:`kuberouterpy.losses`, ``guard``, ``summary``.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from msgspec.structs import replace

from kuberouterpy import __version__, guard, losses, summary
from kuberouterpy.cluster import (
    BestPath,
    Delete,
    EndpointSlice,
    Event,
    Kind,
    Link,
    Node,
    Passwords,
    Reachable,
    Ref,
    Rejection,
    Replace,
    Restarted,
    Unreachable,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller
from kuberouterpy.dataplane import (
    KIND_OF_KEY,
    KINDS,
    FarEndKey,
    HealthCheck,
    Key,
    LocalAddressKey,
    Neighbor,
    Note,
    ObjectKind,
    Op,
    Owner,
    Path,
    PodTunnel,
    RealServer,
    Route,
    RouteKey,
    RoutePolicy,
    Speaker,
    VirtualServer,
)
from kuberouterpy.drain import Departure, Drain
from kuberouterpy.drivers import Expecting
from kuberouterpy.errors import DriverError, MissingModule
from kuberouterpy.host import Host, describe
from kuberouterpy.lane import LaneResult
from kuberouterpy.log import event as log_event
from kuberouterpy.programmed import Programmed
from kuberouterpy.recorder import Recorder
from kuberouterpy.status import SourceStatus, Status
from kuberouterpy.store import Change, Store
from kuberouterpy.tally import Figures, Latency, Tally
from kuberouterpy.text import kind_of, name_of
from kuberouterpy.tracker import Batch, Drift, Group, Tracker

NEEDS: Final[Mapping[ObjectKind, Kind]] = {Route: BestPath, Neighbor: Passwords}
"""Objects of the first kind are never deleted before the second kind of fact has been listed: at start the kernel still
holds the routes of our last life, and GoBGP may come later; and it holds sessions whose password we cannot read yet."""

TOLD: Final[tuple[ObjectKind, ...]] = (HealthCheck, PodTunnel)
"""Objects whose failure is told to their owner by a note: whoever wrote the Service chose the port that is taken, or asked for
tunnels into pods."""

AUDIT_S: Final = 30.0
"""After another hand was seen, its place is looked at again so soon."""
PROGRAMS: Final[tuple[ObjectKind, ...]] = (VirtualServer, RealServer)
"""What must stand for a change of endpoints to count as programmed."""
_log = logging.getLogger("kuberouterpy.loop")


class Ask(NamedTuple):
    """A question to the loop from another thread: ``answer`` runs on the loop's thread, its result goes to ``reply``."""

    answer: Callable[[Loop], object]
    reply: queue.SimpleQueue[object]


Message = Event | LaneResult | Ask | None


class Loop:
    """State that outlives a step. Only the thread that calls :meth:`step` touches it."""

    def __init__(
        self,
        *,
        config: Config,
        controllers: Sequence[Controller],
        drivers: Sequence[Programmed],
        expected: Collection[Kind],
        on_rejection: Callable[[Rejection], None] = lambda _: None,
        on_note: Callable[[Owner, Note], None] = lambda *_: None,
        on_trouble: Callable[[str, str], None] = lambda *_: None,
        on_status: Callable[[Status], None] = lambda _: None,
        wall: Callable[[], float] = time.time,
        recorder: Recorder | None = None,
    ) -> None:
        """``on_note`` hears each note that a person must know, once when it appears and again when it changes; ``on_trouble``
        what concerns this node, as reason and message; ``on_status`` the status after every step, quickly, on the loop's
        thread. ``wall`` tells Unix time, for figures and for the rest of a drain that an agent before this one began."""
        self.config = config
        self.controllers = {controller.name: controller for controller in controllers}
        self.drivers = tuple(drivers)
        self.store = Store(expected)
        self.host: Host = describe(self.store, config)
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._driver_of: dict[Group, Programmed] = {}
        self.tracker = Tracker(tuple(self._groups()), self._urgency)
        self.notes: dict[Owner, tuple[Note, ...]] = {}
        self._dirty: dict[Owner, None] = {}
        self._on_rejection = on_rejection
        self._on_note = on_note
        self._on_trouble = on_trouble
        self._wall = wall
        self._recorder = recorder
        self._tally = Tally()
        self._latency = Latency(wall())
        self._guarded = ""
        self._on_status = on_status
        self._missing_modules: frozenset[str] = frozenset()
        self._departure = Departure(config.drain_wait_s)
        self._host_dirty = False
        self._all_dirty = True
        self._heard: set[Kind] = set()
        self._sources: dict[str, tuple[bool, str, float]] = {}
        self._bugs: dict[Owner, str] = {}
        self._drift: dict[str, int] = {}
        self._started: float | None = None
        self._last_change: tuple[float, float] | None = None
        self._failing_steps = 0
        self.status = Status(node=config.node_name, version=__version__)
        self.figures = Figures()

    def _groups(self) -> Iterable[Group]:
        """Cut KINDS into runs that belong to one driver: each run is one call of it."""
        kinds = {kind: programmed for programmed in self.drivers for kind in programmed.driver.kinds}
        run: list[ObjectKind] = []
        for kind in KINDS:
            if run and kinds.get(kind) is not kinds.get(run[0]):
                yield self._group(run, kinds)
                run = []
            if kind in kinds:
                run.append(kind)
        if run:
            yield self._group(run, kinds)

    def _urgency(self, owner: Owner) -> int:
        controller = self.controllers.get(owner.controller)
        return controller.urgency(owner, self.store) if controller else 0

    def _group(self, run: list[ObjectKind], kinds: Mapping[ObjectKind, Programmed]) -> Group:
        group = tuple(run)
        self._driver_of[group] = kinds[run[0]]
        return group

    # --- the thread ------------------------------------------------------------------------------------------------

    def put(self, message: Message) -> None:
        """Hand an event to the loop, from any thread. ``None`` only wakes it."""
        self.inbox.put(message)

    def run(self, stop: threading.Event) -> None:
        """Step until ``stop`` is set; the caller wakes the loop with ``put(None)``."""
        deadline = 0.0
        while not stop.is_set():
            first: list[Message] = []
            with contextlib.suppress(queue.Empty):
                first.append(self.inbox.get(timeout=max(0.0, deadline - time.monotonic())))
            if not stop.is_set():
                deadline = self.step(time.monotonic(), first)

    def step(self, now: float, first: Sequence[Message] = ()) -> float:
        """Take everything in, recompute, apply; return when to come back at the latest (monotonic seconds)."""
        began = time.monotonic()
        self._started = now if self._started is None else self._started
        asked = self._drain(first, now)
        applied = 0
        if self.store.synced:
            self._recompute()
            self._list_due(now)
            applied = self._apply(now)
        if applied:
            took_ms = (time.monotonic() - began) * 1000
            self._last_change = (now, took_ms)
            self._tally.step(took_ms / 1000)
            log_event(_log, logging.INFO, "applied", ops=applied, took_ms=round(took_ms, 1))
        self._count_failing(applied)
        self._measure()
        self._publish(now)
        self._on_status(self.status)
        if self._recorder is not None:
            self._recorder.flush(self.store, self._wall())
        for ask in asked:
            self._answer(ask)
        return self._next(now)

    # --- in --------------------------------------------------------------------------------------------------------

    def _drain(self, first: Sequence[Message], now: float) -> list[Ask]:
        asked: list[Ask] = []
        messages = list(first)
        while not self.inbox.empty():
            messages.append(self.inbox.get_nowait())
        for message in messages:
            match message:
                case None:
                    pass
                case Ask():
                    asked.append(message)
                case LaneResult():
                    self._land(message, now)
                case _:
                    self._take(message, now)
        leaves_at = self._departure.deadline()
        if self._host_dirty or (leaves_at is not None and leaves_at <= now):
            self._describe_host(now)
        return asked

    def _take(self, event: Event, now: float) -> None:
        match event:
            case Restarted(name):
                self._restart(name, now)
            case Unreachable(source, reason):
                self._source(source, ok=False, reason=reason, now=now)
            case Reachable(source):
                self._source(source, ok=True, reason="", now=now)
            case Rejection():
                self._reject(event)
            case Replace(kind, rejected=rejected):
                self._heard.add(kind)
                for rejection in rejected:
                    self._reject(rejection)
        if isinstance(event, Upsert | Delete | Replace):
            kind = type(event.record) if isinstance(event, Upsert) else event.kind
            self._tally.took_in(kind.__name__)
        for change in self.store.apply(event):
            self._touch(change)

    def _reject(self, rejection: Rejection) -> None:
        if self.store.rejections.get((rejection.kind, rejection.ref)) == rejection:
            return
        log_event(
            _log,
            logging.WARNING,
            "object-rejected",
            kind=rejection.kind.__name__,
            key=rejection.ref,
            reason=rejection.reason,
        )
        self._on_rejection(rejection)

    def _touch(self, change: Change) -> None:
        if self._recorder is not None:
            self._recorder.change(change)
        if change.kind is Link and losses.took_something(change, self.tracker):
            # Addresses, far ends and routes went with it, and the kernel tells of none of them.
            for key in (LocalAddressKey, FarEndKey, RouteKey):
                self._restart_listing(key)
        elif change.kind is Link and losses.went_up_or_down(change):
            self._restart_listing(RouteKey)
        if change.kind is Link or (change.kind is Node and change.ref == Ref("", self.config.node_name)):
            self._host_dirty = True
        counted = isinstance(change.after, EndpointSlice) and self._latency.counts(change.after)
        if self._all_dirty and not counted:
            return
        owners = [
            owner
            for controller in self.controllers.values()
            for owner in controller.affected(change, self.store, self.host, self.config)
        ]
        self._dirty.update(dict.fromkeys(owners))
        if change.kind is EndpointSlice:
            self._time(change, owners)

    def _time(self, change: Change, owners: Iterable[Owner]) -> None:
        """Let a changed slice wait for its programming, if what changed it is told and new."""
        before, after = change.before, change.after
        if not isinstance(after, EndpointSlice):
            self._latency.gone(change.ref)
        elif not isinstance(before, EndpointSlice) or before.triggered != after.triggered:
            self._latency.changed(after, owners)

    def _restart_listing(self, key: type) -> None:
        """List the driver of a kind of key in this step: the kernel has told of a change we did not make."""
        for programmed in self.drivers:
            if KIND_OF_KEY[key] in programmed.driver.kinds:
                programmed.list_at = 0.0
                programmed.excused = key is RouteKey

    def _describe_host(self, now: float) -> None:
        self._host_dirty = False
        stage = self._departure.advance(self.store.nodes.get(Ref("", self.config.node_name)), now, self._wall())
        host = replace(describe(self.store, self.config), missing_modules=self._missing_modules, drain=stage)
        if host != self.host:
            self.host = host
            self._all_dirty = True

    def _source(self, name: str, *, ok: bool, reason: str, now: float) -> None:
        known = self._sources.get(name)
        if known is None or known[0] != ok:
            level = logging.INFO if ok else logging.WARNING
            log_event(_log, level, "source-reachable" if ok else "source-unreachable", kind=name, reason=reason or None)
            self._sources[name] = (ok, reason, now)
            if self._recorder is not None:
                self._recorder.saw("source", f"{name} {'answers' if ok else f'cannot be reached: {reason}'}")

    def _restart(self, name: str, now: float) -> None:
        log_event(_log, logging.INFO, "driver-restarted", kind=name)
        for programmed in self.drivers:
            if programmed.name == name:
                programmed.listed = False
                programmed.list_at = now
                programmed.failures = 0

    # --- recompute -------------------------------------------------------------------------------------------------

    def _recompute(self) -> None:
        if self._all_dirty:
            self._all_dirty = False
            self._dirty = dict.fromkeys(self._every_owner())
        # Rebinding, not draining: a set that once held everything stays slow to walk (ARCHITECTURE 11.5).
        dirty, self._dirty = self._dirty, {}
        for owner in dirty:
            self._compute(owner)

    def _every_owner(self) -> Iterable[Owner]:
        yield from list(self.tracker.owners())
        for controller in self.controllers.values():
            yield from controller.owners(self.store, self.host, self.config)

    def _compute(self, owner: Owner) -> None:
        controller = self.controllers.get(owner.controller)
        if controller is None:
            return
        try:
            desired = controller.desired(owner, self.store, self.host, self.config)
        except Exception as bug:  # the one place: a bug in one owner must not stop the node
            if self._bugs.get(owner) != repr(bug):
                self._bugs[owner] = repr(bug)
                _log.exception("compute-failed", extra={"fields": {"owner": owner, "reason": "keeps its last objects"}})
            return
        self._bugs.pop(owner, None)
        self.tracker.replace(owner, desired.objects)
        for note in desired.notes:
            if note.event and note not in self.notes.get(owner, ()):
                self._on_note(owner, note)
        if desired.notes:
            self.notes[owner] = desired.notes
        else:
            self.notes.pop(owner, None)

    # --- out -------------------------------------------------------------------------------------------------------

    def _list_due(self, now: float) -> None:
        for programmed in self.drivers:
            if programmed.list_at > now or programmed.busy:
                continue
            if isinstance(programmed.driver, Expecting):
                programmed.driver.expect(self.tracker.wanted_of(programmed.driver.kinds))
            if programmed.lane is not None:
                programmed.busy += 1
                programmed.lane.list()
                continue
            began = time.monotonic()
            try:
                listing = programmed.driver.list()
            except DriverError as error:
                self._tally.call(programmed.name, "list", time.monotonic() - began, failed=True)
                self._listing_failed(programmed, error, now)
            else:
                self._tally.call(programmed.name, "list", time.monotonic() - began)
                self._listed(programmed, listing, now)

    def _listing_failed(self, programmed: Programmed, error: DriverError, now: float) -> None:
        programmed.relist_soon(now)
        self._source(programmed.name, ok=False, reason=str(error), now=now)

    def _listed(self, programmed: Programmed, listing: Mapping[Key, object], now: float) -> None:
        first, excused = not programmed.listed, programmed.excused
        programmed.listed, programmed.excused = True, False
        programmed.resync_in(now)
        self._source(programmed.name, ok=True, reason="", now=now)
        drifts = self.tracker.observe(
            programmed.driver.kinds,
            listing,  # type: ignore[arg-type]
            self._claimed,
            fought_at=None if first or excused else now,
        )
        if drifts and not first:
            # Who changed one thing may change the next: look again before the period is over.
            programmed.list_at = min(programmed.list_at, now + AUDIT_S)
            self._report(drifts, blame=not excused)

    def _claimed(self, key: Key) -> bool:
        return any(controller.claims(key) for controller in self.controllers.values())

    def _report(self, drifts: Sequence[Drift], *, blame: bool) -> None:
        """Count and log drift; ``blame``: as another hand's, not a link's that took it along."""
        for drift in drifts:
            kind = kind_of(drift.key)
            self._drift[kind] = self._drift.get(kind, 0) + 1
            self._tally.drifted(kind, drift.what)
            # Another hand that does not stop is a person's to stop.
            what, level = ("contested", logging.ERROR) if drift.left else ("drift", logging.WARNING)
            log_event(_log, level, what, kind=kind, key=name_of(drift.key), reason=drift.what)
            if self._recorder is not None:
                self._recorder.saw(what, f"{drift.what} {kind} {name_of(drift.key)}")
        for reason, message in summary.drift_told(drifts) if blame else ():
            self._on_trouble(reason, message)

    def _apply(self, now: float) -> int:
        """Apply what differs; return how many operations succeeded or were handed to a lane."""
        closed = [group for group, programmed in self._driver_of.items() if not programmed.listed or programmed.busy]
        # Without the router nobody tells of paths, and all routes of ours are others' than BGP's.
        needs = NEEDS if self.config.run_router else {}
        hold: list[ObjectKind] = [kind for kind, needed in needs.items() if needed not in self._heard]
        if self.store.nodes.get(Ref("", self.config.node_name)) is None:
            # Our own Node cannot be read: what it says of our ranges and addresses may still be so.
            hold += [Speaker, RoutePolicy, Neighbor, Path]
        leaving = {Path} if self.host.drain is Drain.GONE else set()
        self._watch_deletes(closed, {*hold, *leaving})
        if self._guarded:
            hold += [kind for kind in KINDS if kind not in leaving]  # a node that was told to leave may
        done = 0
        for batch in self.tracker.pending(now, busy=closed, hold_deletes=hold):
            programmed = self._driver_of[batch.group]
            if programmed.lane is not None:
                programmed.busy += 1
                self.tracker.launch(batch.ops)
                programmed.lane.apply(batch.ops)
            else:
                done += self._carry_out(programmed, batch, now)
        return done

    def _watch_deletes(self, closed: Collection[Group], hold: Collection[ObjectKind]) -> None:
        """Refuse to delete where that would be too much at once; tell when that begins."""
        shut = {*hold, *(kind for group in closed for kind in group)}
        doomed = (key for key in self.tracker.doomed() if KIND_OF_KEY[type(key)] not in shut)
        ratio = self.config.max_delete_ratio
        too_much = guard.excess(doomed, self.tracker.counts(), self._driver_of, ratio) if ratio < 1 else ""
        if too_much and not self._guarded:
            log_event(_log, logging.ERROR, "deletes-refused", reason=too_much)
            self._on_trouble("DeletesRefused", f"{too_much}; see kuberouterpy plan, raise the ratio if they are meant")
        elif self._guarded and not too_much:
            log_event(_log, logging.INFO, "deletes-allowed", reason="what would be deleted is within the ratio again")
        self._guarded = too_much

    def _carry_out(self, programmed: Programmed, batch: Batch, now: float) -> int:
        left = {op.key: op for op in batch.ops}
        done = 0
        began = time.monotonic()
        try:
            for op, error in programmed.driver.apply(batch.ops):
                left.pop(op.key, None)
                done += self._outcome(programmed, op, error, now)
        except DriverError as error:
            for op in left.values():
                self._outcome(programmed, op, error, now)
        self._tally.call(programmed.name, "apply", time.monotonic() - began, failed=bool(left))
        return done

    def _outcome(self, programmed: Programmed, op: Op, error: DriverError | None, now: float) -> int:
        failure = self.tracker.record(op, error, now)
        self._tally.op(kind_of(op.key), op.verb, failed=error is not None)
        log_event(_log, logging.DEBUG, op.verb, kind=kind_of(op.key), key=name_of(op.key), error=error)
        if self._recorder is not None:
            wanted_by = self.tracker.explain(op.key).wanted_by
            self._recorder.deed(op, str(wanted_by[0][0]) if wanted_by else "", str(error) if error else "")
        if failure is None:
            return 1
        owners = self.tracker.explain(op.key).wanted_by
        log_event(
            _log,
            logging.WARNING,
            "apply-failed",
            owner=owners[0][0] if owners else None,
            kind=kind_of(op.key),
            key=name_of(op.key),
            verb=op.verb,
            error=failure.error,
            attempt=failure.attempt,
            retry_in_s=round(failure.retry_at - now, 1),
        )
        if isinstance(error, MissingModule):
            self._missing_modules |= {error.module}
            self._host_dirty = True
        if owners and failure.attempt == 1 and isinstance(op.value, TOLD):
            self._on_note(owners[0][0], Note(name_of(op.key), f"not-programmed: {failure.error}", event=True))
        # What we believe may be wrong, or the kernel was: look again before long.
        programmed.relist_soon(now)
        return 0

    def _land(self, result: LaneResult, now: float) -> None:
        """Take the answer of a lane in."""
        programmed = next(one for one in self.drivers if one.name == result.name)
        programmed.busy -= 1
        call = "apply" if result.outcomes else "list"
        self._tally.call(result.name, call, result.took_ms / 1000, failed=result.error is not None)
        done = sum(self._outcome(programmed, op, error, now) for op, error in result.outcomes)
        if result.error is not None:
            self._listing_failed(programmed, result.error, now)
        elif result.listing is not None:
            self._listed(programmed, result.listing, now)
        if done:
            self._last_change = (now, result.took_ms)
            log_event(_log, logging.INFO, "applied", kind=result.name, ops=done, took_ms=round(result.took_ms, 1))

    # --- tell ------------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Count what is programmed by now, and when all was."""
        if not self.store.synced:
            return
        wall = self._wall()
        for family, took_s in self._latency.done(lambda owner: self.tracker.stands(owner, PROGRAMS), wall):
            self._tally.programmed(family, took_s)
        if not self.tracker.unfinished():
            self._tally.last_step_wall = wall

    def _count_failing(self, applied: int) -> None:
        if not self.tracker.failures():
            self._failing_steps = 0
        elif applied or self._failing_steps == 0:
            self._failing_steps += 1

    def _answer(self, ask: Ask) -> None:
        try:
            ask.reply.put(ask.answer(self))
        except Exception as bug:  # the one who asked gets the error; the loop goes on
            ask.reply.put(bug)

    def _publish(self, now: float) -> None:
        settled = self.store.synced and all(one.listed or one.lane is not None for one in self.drivers)
        busy = sum(one.busy for one in self.drivers)
        failures = self.tracker.failures()
        contested = [f"{kind_of(key)} {name_of(key)}" for key, _ in self.tracker.contested()]
        self.figures = self._tally.frozen()
        self.status = Status(
            node=self.config.node_name,
            version=__version__,
            up_s=now - (self._started or now),
            heartbeat=now,
            synced=self.store.synced,
            waiting_for=self.store.waiting_for,
            settled=settled,
            pending=self.tracker.unfinished() + busy + (0 if settled else 1),
            failing=tuple(summary.failing(self.tracker, now)),
            failing_total=len(failures),
            failing_steps=self._failing_steps,
            objects=self.tracker.counts() if settled else {},
            records={kind.__name__: len(self.store.table(kind)) for kind in self._heard},
            sources=tuple(
                SourceStatus(name, ok, reason, now - since)
                for name, (ok, reason, since) in sorted(self._sources.items())
            ),
            rejected=tuple(
                f"{kind.__name__} {ref}: {one.reason}" for (kind, ref), one in list(self.store.rejections.items())[:20]
            ),
            rejected_total=len(self.store.rejections),
            drift_repaired=dict(self._drift),
            last_change_s=now - self._last_change[0] if self._last_change else None,
            last_took_ms=self._last_change[1] if self._last_change else 0.0,
            bugs=tuple(f"{owner}: {bug}" for owner, bug in islice(self._bugs.items(), summary.MOST)),
            contested=tuple(contested[: summary.MOST]),
            contested_total=len(contested),
            guard=self._guarded,
            node_eligible=summary.is_eligible(self.store.nodes.get(Ref("", self.config.node_name))),
            settled_at=self.figures.last_step_wall,
            network_up=settled and self._hears_routes() and summary.network_stands(self.tracker),
            drain=summary.drain_word(self.host.drain, self.tracker, busy=busy > 0),
        )

    def _hears_routes(self) -> bool:
        """Return whether the speaker has answered, and what others announce is known."""
        return BestPath in self._heard and all(one.listed for one in self.drivers if Speaker in one.driver.kinds)

    def _next(self, now: float) -> float:
        if self._host_dirty:  # a driver told something new about the host
            return now
        deadlines = [now + 10.0]  # a heartbeat for liveness, no work
        if self.store.synced:
            deadlines += [one.list_at for one in self.drivers if not one.busy]
            others = (self.tracker.next_deadline(), self._departure.deadline())
            deadlines += [one for one in others if one is not None]
        return min(deadlines)
