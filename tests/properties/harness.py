"""Incremental against from scratch: the oracle for every controller's ``affected``.

A history is a list of events. After each one the owners that ``affected`` names (all of them when the host changed, as the
loop does) are computed again, and what every owner wants must equal what a computation of all owners from nothing gives. An
owner that ``affected`` forgot keeps an old answer, and is named.

A property test makes histories over a *small* universe, so that objects meet often::

    @given(st.lists(events(), max_size=20))
    def test_incremental_equals_from_scratch(history):
        check_history(CONTROLLER, history, CONFIG)

    @given(st.lists(events(), max_size=12), st.randoms(use_true_random=False))
    def test_any_order_converges(history, random):
        check_orders(CONTROLLER, history, CONFIG, random)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from kuberouterpy.cluster import Delete, Event, Kind, Link, Node, Ref, Rejection, Replace, Upsert
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller, Desired
from kuberouterpy.dataplane import Owner
from kuberouterpy.host import Host, describe
from kuberouterpy.store import Store

NOTHING = Desired()


class Machine:
    """A store, a host and what every owner wants, kept up to date as the loop does, by one controller."""

    def __init__(self, controller: Controller, config: Config) -> None:
        self.controller = controller
        self.config = config
        self.store = Store()
        self.host: Host = describe(self.store, config)
        self.wanted: dict[Owner, Desired] = {}
        self._compute(self._every_owner())

    def take(self, event: Event) -> None:
        """Take one event in and compute what it touches."""
        changes = self.store.apply(event)
        host = self.host
        if any(change.kind in {Link, Node} for change in changes):
            self.host = describe(self.store, self.config)
        if self.host != host:
            self._compute(self._every_owner())
            return
        touched: dict[Owner, None] = {}
        for change in changes:
            touched.update(dict.fromkeys(self.controller.affected(change, self.store, self.host, self.config)))
        self._compute(touched)

    def from_scratch(self) -> dict[Owner, Desired]:
        """Return what every owner wants, computed from nothing."""
        return {owner: wants for owner in self._owners() if (wants := self._desired(owner)) != NOTHING}

    def check(self) -> None:
        """Fail where an owner's answer is old, or an owner breaks a rule of its own."""
        scratch = self.from_scratch()
        stale = sorted(str(owner) for owner in {*scratch, *self.wanted} if scratch.get(owner) != self.wanted.get(owner))
        assert not stale, f"affected() forgot {', '.join(stale)}"
        for owner, wants in scratch.items():
            keys = [one.key for one in wants.objects]
            assert len(keys) == len(set(keys)), f"{owner} wants a key twice"
            assert owner.controller == self.controller.name

    def _every_owner(self) -> list[Owner]:
        return list(dict.fromkeys((*self.wanted, *self._owners())))

    def _owners(self) -> Iterable[Owner]:
        return dict.fromkeys(self.controller.owners(self.store, self.host, self.config))

    def _compute(self, owners: Iterable[Owner]) -> None:
        for owner in owners:
            wants = self._desired(owner)
            if wants == NOTHING:
                self.wanted.pop(owner, None)
            else:
                self.wanted[owner] = wants

    def _desired(self, owner: Owner) -> Desired:
        return self.controller.desired(owner, self.store, self.host, self.config)


def check_history(controller: Controller, events: Iterable[Event], config: Config) -> None:
    """Fail unless, after every event, what was kept up to date equals what is computed from scratch."""
    machine = Machine(controller, config)
    machine.check()
    for event in events:
        machine.take(event)
        machine.check()


def check_orders(controller: Controller, events: Sequence[Event], config: Config, random: Random) -> None:
    """Fail unless the events in another order, those about one record kept in theirs, end in the same objects and notes."""
    first, second = Machine(controller, config), Machine(controller, config)
    for event in events:
        first.take(event)
    for event in shuffled(events, random):
        second.take(event)
    assert second.wanted == first.wanted


def shuffled(events: Sequence[Event], random: Random) -> list[Event]:
    """Return events in a random order in which those about one record keep theirs.

    ``Replace`` speaks of every record of its kind: the kind's other events keep their place around it.
    """
    replaced = {event.kind for event in events if isinstance(event, Replace)}
    queues: dict[object, list[Event]] = {}
    for event in events:
        kind, ref = _subject(event)
        queues.setdefault(kind if kind in replaced else (kind, ref), []).append(event)
    waiting = [list(reversed(queue)) for queue in queues.values()]
    result: list[Event] = []
    while waiting:
        queue = random.choice(waiting)
        result.append(queue.pop())
        if not queue:
            waiting.remove(queue)
    return result


def _subject(event: Event) -> tuple[Kind | None, Ref | None]:
    match event:
        case Upsert(record):
            return type(record), record.ref
        case Delete(kind, ref) | Rejection(kind, ref):
            return kind, ref
        case Replace(kind):
            return kind, None
        case _:
            return None, None
