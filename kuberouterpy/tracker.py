"""What every owner wants against what stands: the one structure behind O(delta), conflicts, retries and explanations.

Pure: the clock is an argument, and drivers are the caller's affair. Replacing an owner's objects costs that owner's old and
new objects. A key wanted by several owners has one winner, the smallest owner; the others are remembered and named by
:meth:`Tracker.explain`, which replaces reference counts. A failing key backs off alone, until its wanted value changes.

Order: groups of kinds in the order given (creates and updates), then the reverse (deletes). A group is what one driver
takes in one call. :meth:`Tracker.pending` is a generator so that a batch is made only after the results of the one before
it are recorded: what needs a thing that failed is put off, not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from kuberouterpy.contest import Contest
from kuberouterpy.dataplane import KIND_OF_KEY, Key, Object, ObjectKind, Op, Owner, Verb, requires
from kuberouterpy.errors import DriverError
from kuberouterpy.order import in_order

FIRST_RETRY_S: Final = 0.5
"""Wait after a first failure; it doubles with each further one."""
LAST_RETRY_S: Final = 60.0
"""Longest wait between tries."""

Group = tuple[ObjectKind, ...]


class Batch(NamedTuple):
    """Operations for one call of one driver."""

    group: Group
    ops: tuple[Op, ...]


class Failure(NamedTuple):
    """A key that failed."""

    error: str
    attempt: int
    retry_at: float


class Drift(NamedTuple):
    """A difference that another hand made since we last looked."""

    key: Key
    what: str
    """``missing``, ``extra`` or ``changed``."""
    left: bool = False
    """From now on it is left as it is: it was fought over too often."""


class Explanation(Struct, frozen=True):
    """All that is known about one key."""

    key: Key
    wanted_by: tuple[tuple[Owner, Object], ...]
    """Winner first."""
    actual: Object | None
    """What stands, as last listed or applied."""
    failure: Failure | None
    """Last error, if it has not succeeded since."""


class Tracker:
    """Desired by owner against actual."""

    def __init__(self, groups: Sequence[Group], urgency: Callable[[Owner], int] = lambda _: 0) -> None:
        """``urgency``: whose objects come first inside a batch; smaller is sooner."""
        self._groups: Final = tuple(groups)
        self._group_of: Final = {kind: group for group in groups for kind in group}
        self._urgency: Final = urgency
        self._by_owner: dict[Owner, dict[Key, Object]] = {}
        self._winner: dict[Key, tuple[Owner, Object]] = {}
        self._rivals: dict[Key, dict[Owner, Object]] = {}
        """Every owner of the keys that have more than one."""
        self._actual: dict[Key, Object] = {}
        self._dirty: dict[Group, set[Key]] = {group: set() for group in groups}
        self._failed: dict[Key, Failure] = {}
        self._in_flight: dict[Key, Op] = {}
        self._counts: dict[ObjectKind, int] = {}
        self._revisions: dict[ObjectKind, int] = {}
        self.contest: Final = Contest()
        """What another hand changes again and again."""

    # --- what is wanted --------------------------------------------------------------------------------------------

    def owners(self) -> Collection[Owner]:
        """Return every owner that wants something."""
        return self._by_owner.keys()

    def replace(self, owner: Owner, objects: Iterable[Object]) -> None:
        """Let ``owner`` want exactly ``objects``. Objects of kinds no driver programs here are passed over."""
        new = {value.key: value for value in objects if type(value) in self._group_of}
        old = self._by_owner.get(owner, {})
        for key in old.keys() - new.keys():
            self._withdraw(owner, key)
        for key, value in new.items():
            if old.get(key) != value:
                self._want(owner, key, value)
        if new:
            self._by_owner[owner] = new
        else:
            self._by_owner.pop(owner, None)

    def wanted(self, key: Key) -> Object | None:
        """Return the winning value of a key."""
        winner = self._winner.get(key)
        return winner[1] if winner else None

    def winners(self) -> Iterator[tuple[Owner, Object]]:
        """Yield every wanted object with the owner that decides its value."""
        yield from self._winner.values()

    def wanted_of(self, kinds: Collection[ObjectKind]) -> Iterator[Object]:
        """Yield every wanted object of some kinds."""
        return (value for _, value in self._winner.values() if type(value) in kinds)

    def _want(self, owner: Owner, key: Key, value: Object) -> None:
        holder = self._winner.get(key)
        if holder is None or (holder[0] == owner and key not in self._rivals):
            self._win(key, (owner, value))
            return
        rivals = self._rivals.setdefault(key, {holder[0]: holder[1]})
        rivals[owner] = value
        self._win(key, min(rivals.items(), key=lambda rival: rival[0]))

    def _withdraw(self, owner: Owner, key: Key) -> None:
        rivals = self._rivals.get(key)
        if rivals is None:
            del self._winner[key]
            self._touch(key)
            return
        del rivals[owner]
        self._win(key, min(rivals.items(), key=lambda rival: rival[0]))
        if len(rivals) == 1:
            del self._rivals[key]

    def _win(self, key: Key, winner: tuple[Owner, Object]) -> None:
        before = self._winner.get(key)
        self._winner[key] = winner
        if before is None or before[1] != winner[1]:
            self._touch(key)
        elif before[0] != winner[0]:
            self._revise(key)

    def _touch(self, key: Key) -> None:
        # A new wanted value deserves a fresh try at once: its old failure says nothing about it.
        self._failed.pop(key, None)
        self.contest.forgive(key)
        self._revise(key)
        self._dirty[self._group_of[KIND_OF_KEY[type(key)]]].add(key)

    def _revise(self, key: Key) -> None:
        kind = KIND_OF_KEY[type(key)]
        self._revisions[kind] = self._revisions.get(kind, 0) + 1

    def revision(self, *kinds: ObjectKind) -> tuple[int, ...]:
        """Return a value that stays the same while wanted objects of some kinds and their winners do."""
        return tuple(self._revisions.get(kind, 0) for kind in kinds)

    # --- what stands -----------------------------------------------------------------------------------------------

    def observe(
        self,
        kinds: Collection[ObjectKind],
        listing: Mapping[Key, Object],
        claims: Callable[[Key], bool],
        *,
        fought_at: float | None = None,
    ) -> list[Drift]:
        """Take a fresh listing of ``kinds`` in; return how it differs from what was believed.

        Listed keys that nobody wants are kept only where ``claims`` says they are ours to delete. Keys in flight are
        passed over: their result is on its way. ``fought_at``: the time, where what differs is another hand's doing.
        """
        drifts: list[Drift] = []
        for key in [key for key in self._actual if KIND_OF_KEY[type(key)] in kinds and key not in listing]:
            if key not in self._in_flight:
                self._see(key, None)
                drifts.append(self._drift(key, "missing", fought_at))
        for key, value in listing.items():
            if key in self._in_flight or not (key in self._winner or key in self._actual or claims(key)):
                continue
            before = self._actual.get(key)
            if before != value:
                self._see(key, value)
                drifts.append(self._drift(key, "extra" if before is None else "changed", fought_at))
            elif key in self._winner and self._winner[key][1] != value:
                self._mark(key)
        return drifts

    def _see(self, key: Key, value: Object | None) -> None:
        self._believe(key, value)
        self._mark(key)
        if not self._differs(key):
            # What failed came about without us: a real server went with its virtual server, say. Nothing is left to try.
            self._failed.pop(key, None)

    def _drift(self, key: Key, what: str, now: float | None) -> Drift:
        # What now is as we want it is no fight: an operation whose answer was lost, say.
        left = now is not None and self._differs(key) and self.contest.fought(key, now)
        return Drift(key, what, left)

    def forget(self, kinds: Collection[ObjectKind]) -> None:
        """Drop every failure and operation in flight of ``kinds``: what programmed them started anew."""
        for book in (self._failed, self._in_flight):
            for key in [key for key in book if KIND_OF_KEY[type(key)] in kinds]:
                del book[key]

    def _believe(self, key: Key, value: Object | None) -> None:
        before = self._actual.pop(key, None) if value is None else self._actual.get(key)
        if value is not None:
            self._actual[key] = value
        kind = KIND_OF_KEY[type(key)]
        self._counts[kind] = self._counts.get(kind, 0) + (value is not None) - (before is not None)

    def actual(self, key: Key) -> Object | None:
        """Return what stands under a key."""
        return self._actual.get(key)

    def _mark(self, key: Key) -> None:
        self._dirty[self._group_of[KIND_OF_KEY[type(key)]]].add(key)

    # --- what to do about it ---------------------------------------------------------------------------------------

    def pending(
        self, now: float, *, busy: Collection[Group] = (), hold_deletes: Collection[ObjectKind] = ()
    ) -> Iterator[Batch]:
        """Yield batches in order; the caller records the results of each (or marks it in flight) before the next.

        ``busy`` groups are left alone. Deletes of ``hold_deletes`` wait, because the facts that would want them are
        not complete yet.
        """
        self.contest.expire(now)
        for group in self._groups:
            if group not in busy and (ops := self._puts(group, now)):
                yield Batch(group, ops)
        for group in reversed(self._groups):
            if group not in busy and (ops := self._deletes(group, now, hold_deletes)):
                yield Batch(group, ops)
            self._settle(group)

    def plan(self) -> list[Op]:
        """Return every operation that is due, whatever its backoff, in the order it would be applied."""
        puts = [op for group in self._groups for op in self._puts(group, None)]
        return puts + [op for group in reversed(self._groups) for op in self._deletes(group, None, ())]

    def _puts(self, group: Group, now: float | None) -> tuple[Op, ...]:
        ready: dict[Key, Op] = {}
        for key in self._dirty[group]:
            winner = self._winner.get(key)
            if winner is not None and self._actual.get(key) != winner[1] and self._due(key, now):
                ready[key] = Op(Verb.UPDATE if key in self._actual else Verb.CREATE, key, winner[1])
        if now is not None:
            self._put_off(ready)
        return in_order(ready.values(), group, self._rank)

    def _rank(self, key: Key) -> int:
        # The most urgent of all who want it: who wants a real server wants its virtual server, which thus never comes later.
        return min(map(self._urgency, self._rivals.get(key, (self._winner[key][0],))))

    def _put_off(self, ready: dict[Key, Op]) -> None:
        """Take out of ``ready`` what needs a thing that neither stands nor is among them; repeat until none is left."""
        while True:
            blocked = [key for key, op in ready.items() if op.value and not self._possible(op.value, ready)]
            if not blocked:
                return
            for key in blocked:
                del ready[key]

    def _possible(self, value: Object, ready: Mapping[Key, Op]) -> bool:
        return all(need in self._actual or need in ready for need in requires(value))

    def _deletes(self, group: Group, now: float | None, hold: Collection[ObjectKind]) -> tuple[Op, ...]:
        gone = [
            key
            for key in self._dirty[group]
            if key not in self._winner
            and key in self._actual
            and self._due(key, now)
            and KIND_OF_KEY[type(key)] not in hold
        ]
        order = {kind: index for index, kind in enumerate(group)}
        gone.sort(key=lambda key: (order[KIND_OF_KEY[type(key)]], key), reverse=True)
        return tuple(Op(Verb.DELETE, key, None) for key in gone)

    def _due(self, key: Key, now: float | None) -> bool:
        if key in self._in_flight:
            return False
        failure = self._failed.get(key)
        if now is None:
            return True
        return (failure is None or failure.retry_at <= now) and not self.contest.leaves(key, now)

    def _settle(self, group: Group) -> None:
        """Keep only keys that still differ. The set is made anew: CPython sets never shrink, and draining the one of a
        cold start left every later step 70 times slower (*measured*, ARCHITECTURE 11.5)."""
        if self._dirty[group]:
            self._dirty[group] = {key for key in self._dirty[group] if self._differs(key)}

    def contested(self) -> Iterator[tuple[Key, float]]:
        """Yield every key that differs and is left alone, and until when."""
        return ((key, until) for key, until in self.contest.left() if self._differs(key))

    def _differs(self, key: Key) -> bool:
        winner = self._winner.get(key)
        return self._actual.get(key) != (winner[1] if winner else None)

    # --- what came of it -------------------------------------------------------------------------------------------

    def launch(self, ops: Iterable[Op]) -> None:
        """Mark operations as under way in a lane of their own; they are left alone until recorded."""
        self._in_flight.update((op.key, op) for op in ops)

    def record(self, op: Op, error: DriverError | None, now: float) -> Failure | None:
        """Take the outcome of one operation in; return its failure, if it failed."""
        self._in_flight.pop(op.key, None)
        if error is None:
            self._failed.pop(op.key, None)
            self._believe(op.key, op.value)
            if self._differs(op.key):
                self._mark(op.key)
            return None
        attempt = self._failed[op.key].attempt + 1 if op.key in self._failed else 1
        wait = min(FIRST_RETRY_S * 2.0 ** (attempt - 1), LAST_RETRY_S)
        failure = Failure(str(error), attempt, now + wait)
        self._failed[op.key] = failure
        self._mark(op.key)
        return failure

    # --- what to tell ----------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when the next retry is due, or ``None``."""
        retries = [failure.retry_at for failure in self._failed.values()]
        return min((*retries, *(until for _, until in self.contest.left())), default=None)

    def unfinished(self, kinds: Collection[ObjectKind] = ()) -> int:
        """Return how many keys, of some kinds or of all, differ from what is wanted, backing off ones included; what is left
        alone is not."""
        left = {key for key, _ in self.contest.left()}
        keys = (key for dirty in self._dirty.values() for key in dirty if key not in left)
        return sum(self._differs(key) for key in keys if not kinds or KIND_OF_KEY[type(key)] in kinds)

    def stands(self, owner: Owner, kinds: Collection[ObjectKind]) -> bool:
        """Return whether all that an owner wants of some kinds stands as it wants it."""
        wanted = self._by_owner.get(owner, {})
        return not any(type(value) in kinds and self._differs(key) for key, value in wanted.items())

    def doomed(self) -> Iterator[Key]:
        """Yield every key that stands and that nobody wants."""
        for dirty in self._dirty.values():
            yield from (key for key in dirty if key not in self._winner and key in self._actual)

    def failures(self) -> Mapping[Key, Failure]:
        """Return every failing key."""
        return self._failed

    def known(self) -> Iterator[Key]:
        """Yield every key that is wanted or stands, in no order."""
        yield from self._winner
        yield from (key for key in self._actual if key not in self._winner)

    def counts(self) -> dict[str, int]:
        """Return how many objects of each kind stand, by kind name."""
        return {kind.__name__: count for kind, count in self._counts.items() if count}

    def explain(self, key: Key) -> Explanation:
        """Return who wants a key, what stands and what went wrong."""
        winner = self._winner.get(key)
        rivals = self._rivals.get(key, {winner[0]: winner[1]} if winner else {})
        return Explanation(key, tuple(sorted(rivals.items())), self._actual.get(key), self._failed.get(key))
