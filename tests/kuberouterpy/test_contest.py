"""Fights with another hand end: three times in ten minutes, then the thing is left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.cluster import BestPath, Link, Replace, Upsert
from kuberouterpy.contest import FIGHTS, WINDOW_S, Contest
from kuberouterpy.controller import Controller, Desired
from kuberouterpy.dataplane import LinkKey, NextHop, Owner, Route, RouteKey, Verb, VirtualServer
from kuberouterpy.family import FAMILIES
from kuberouterpy.loop import AUDIT_S
from kuberouterpy.tracker import Tracker
from tests.kuberouterpy.test_guard import World, services

KEYS = (RouteKey(254, "10.1.1.0/24"), RouteKey(254, "fd00:10:1:1::/64"))
ROUTES = (Route(KEYS[0], (NextHop("10.0.0.2"),)), Route(KEYS[1], (NextHop("fd00::2"),)))
OWNER = Owner("routing", "prefix", "both")


def test_the_fourth_time_in_ten_minutes_is_left_and_told_once() -> None:
    contest = Contest()
    assert [contest.fought(KEYS[0], at) for at in (0, 10, 20)] == [False, False, False]
    assert contest.fought(KEYS[0], 30)
    assert not contest.fought(KEYS[0], 40)
    assert contest.leaves(KEYS[0], 629)
    assert not contest.leaves(KEYS[0], 630)
    assert not contest.leaves(KEYS[1], 40)


def test_slow_fights_go_on() -> None:
    contest = Contest()
    assert not any(contest.fought(KEYS[0], at) for at in range(0, 100_000, 201))


def test_another_wanted_value_is_a_new_beginning() -> None:
    contest = Contest()
    for at in range(4):
        contest.fought(LinkKey("x"), at)
    contest.forgive(LinkKey("x"))
    assert not contest.leaves(LinkKey("x"), 5)
    assert not contest.fought(LinkKey("x"), 6)


@given(st.lists(st.tuples(st.floats(0.1, 400), st.sets(st.sampled_from(KEYS))), max_size=40))
def test_no_object_is_put_right_more_than_three_times_in_ten_minutes_and_all_are_in_the_end(
    attacks: list[tuple[float, set[RouteKey]]],
) -> None:
    """Another hand removes objects at random times; each time we look, and put back what may be put back."""
    tracker = Tracker(((Route,),))
    tracker.replace(OWNER, ROUTES)
    kernel: dict[RouteKey, Route] = {}
    repaired: dict[RouteKey, list[float]] = {key: [] for key in KEYS}

    def act(now: float) -> None:
        for batch in tracker.pending(now):
            for op in batch.ops:
                assert op.verb is Verb.CREATE
                kernel[op.key] = op.value  # type: ignore[index, assignment]
                repaired[op.key].append(now)  # type: ignore[index]
                tracker.record(op, None, now)

    now = 0.0
    act(now)
    for times in repaired.values():
        times.clear()  # the first is no repair
    for after, gone in attacks:
        now += after
        act(now)
        for key in gone:
            kernel.pop(key, None)
        tracker.observe((Route,), dict(kernel), lambda _: True, fought_at=now)
        act(now)
        for key, until in tracker.contested():
            assert key not in kernel
            assert until > now
    for times in repaired.values():
        # Each window holds the repairs of one fight; what is left for ten minutes is tried once when they are over.
        assert all(later - first > WINDOW_S for first, later in zip(times, times[FIGHTS + 1 :], strict=False))
    act(now + WINDOW_S)
    assert set(kernel) == set(KEYS)
    assert tracker.unfinished() == 0


def test_in_the_loop_a_fight_is_left_and_told_and_what_else_is_wanted_goes_on() -> None:
    """Over the fake kernel, both families: a foreign hand deletes virtual servers again and again."""
    world = World(1.0)
    world.replace(*services(1))
    objects = world.drivers["ipvs"].kernel.objects
    keys = sorted(objects[VirtualServer])
    assert [key.family for key in keys] == list(FAMILIES)

    def attack(after_s: float) -> None:
        for key in keys:
            objects[VirtualServer].pop(key, None)
        world.now += after_s
        world.step()

    for number in range(FIGHTS):
        # A resync finds the first; after it the place is looked at again soon.
        attack(AUDIT_S if number else 331.0)
        assert world.servers() == 2
    attack(AUDIT_S)
    assert world.servers() == 0
    assert [reason for reason, _ in world.told] == ["Drift"] * 3 + ["Contested"]
    assert (
        world.told[-1][1] == f"another hand changed virtual {keys[0]} (missing) and 1 more; left alone for ten minutes"
    )
    assert len(world.loop.status.contested) == world.loop.status.contested_total == 2
    world.loop.put(Upsert(services(2)[1]))
    world.step()
    assert world.servers() == 2  # those of the new Service
    world.now += WINDOW_S
    world.step()
    assert world.servers() == 4
    assert world.loop.status.contested == ()


def test_routes_that_go_with_a_flapping_link_are_no_contest() -> None:
    """The kernel takes them along and tells only of the link; ten minutes without them would be an outage of our own."""
    wanted = Controller("routing", lambda *_: (), lambda *_: (OWNER,), lambda *_: Desired(ROUTES), lambda _: True)
    world = World(1.0, wanted)
    world.loop.put(Replace(BestPath, ()))
    world.replace()
    world.loop.put(Upsert(Link("eth0", 2, up=True)))
    world.step()
    routes = world.drivers["routes"].kernel.objects[Route]
    for number in range(4 * FIGHTS):
        routes.clear()
        world.loop.put(Upsert(Link("eth0", 2, up=bool(number % 2))))
        world.step()
        assert set(routes) == set(KEYS)
    assert world.loop.status.contested == ()
    assert world.told == []
    assert world.loop.status.drift_repaired == {"route": 4 * FIGHTS * len(KEYS)}
