"""The tracker alone: pure, so every case is a few lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.dataplane import (
    Entry,
    EntryKey,
    Key,
    Link,
    LinkKey,
    LocalAddress,
    LocalAddressKey,
    Object,
    Op,
    Owner,
    RealServer,
    RealServerKey,
    Set,
    SetKey,
    Verb,
    VirtualServer,
    VirtualServerKey,
)
from kuberouterpy.errors import DriverError
from kuberouterpy.family import IPV4, IPV6, Family
from kuberouterpy.protocol import Protocol
from kuberouterpy.tracker import FIRST_RETRY_S, LAST_RETRY_S, Tracker

GROUPS = ((Link,), (Set, Entry), (LocalAddress,), (VirtualServer, RealServer))
ALL = tuple(kind for group in GROUPS for kind in group)
WEB = Owner("proxy", "service", "default/web")
API = Owner("proxy", "service", "default/api")


def server(address: str = "10.96.0.10", scheduler: str = "rr") -> VirtualServer:
    family = Family.IPV6 if ":" in address else Family.IPV4
    return VirtualServer(VirtualServerKey(family, Protocol.TCP, address, 80), scheduler)


def real(virtual: VirtualServer, address: str, weight: int = 1) -> RealServer:
    return RealServer(RealServerKey(virtual.key, address, 8080), weight)


def drain(tracker: Tracker, *, now: float = 0.0, fail: frozenset[Key] = frozenset()) -> list[Op]:
    """Carry out everything pending; operations on keys in ``fail`` fail."""
    done: list[Op] = []
    for batch in tracker.pending(now):
        for op in batch.ops:
            tracker.record(op, DriverError("refused") if op.key in fail else None, now)
            done.append(op)
    return done


def verbs(ops: list[Op]) -> list[tuple[str, type]]:
    return [(op.verb.value, type(op.key)) for op in ops]


@pytest.mark.parametrize("address", ["10.96.0.10", "fd00::10"])
def test_what_is_wanted_is_created_once_in_order_of_kinds(address: str) -> None:
    tracker, virtual = Tracker(GROUPS), server(address)
    bound = LocalAddress(LocalAddressKey("d", address, virtual.key.family.host_prefix))
    tracker.replace(WEB, [real(virtual, address + "1"), virtual, bound, Link(LinkKey("d"), "dummy")])
    assert verbs(drain(tracker)) == [
        ("create", LinkKey),
        ("create", LocalAddressKey),
        ("create", VirtualServerKey),
        ("create", RealServerKey),
    ]
    assert drain(tracker) == []
    assert tracker.unfinished() == 0


def test_what_nobody_wants_any_more_is_deleted_in_reverse_order() -> None:
    tracker, virtual = Tracker(GROUPS), server()
    tracker.replace(
        WEB, [virtual, real(virtual, "10.1.0.1"), Set(SetKey("s"), IPV4, "hash:ip"), Entry(EntryKey("s", "10.0.0.1"))]
    )
    drain(tracker)
    tracker.replace(WEB, [])
    assert verbs(drain(tracker)) == [
        ("delete", RealServerKey),
        ("delete", VirtualServerKey),
        ("delete", EntryKey),
        ("delete", SetKey),
    ]
    assert tracker.counts() == {}


def test_a_change_of_value_is_an_update_and_an_equal_value_is_nothing() -> None:
    tracker = Tracker(GROUPS)
    tracker.replace(WEB, [server()])
    drain(tracker)
    tracker.replace(WEB, [server()])
    assert drain(tracker) == []
    tracker.replace(WEB, [server(scheduler="sh")])
    assert drain(tracker) == [Op(Verb.UPDATE, server().key, server(scheduler="sh"))]


def test_the_smallest_owner_of_a_contested_key_wins_and_the_other_inherits() -> None:
    tracker = Tracker(GROUPS)
    tracker.replace(WEB, [server(scheduler="rr")])
    tracker.replace(API, [server(scheduler="sh")])
    assert tracker.wanted(server().key) == server(scheduler="sh")
    assert [owner for owner, _ in tracker.explain(server().key).wanted_by] == [API, WEB]
    drain(tracker)
    tracker.replace(API, [])
    assert drain(tracker) == [Op(Verb.UPDATE, server().key, server(scheduler="rr"))]


def test_a_failing_key_backs_off_alone_doubling_to_a_limit() -> None:
    tracker, other = Tracker(GROUPS), server("fd00::10")
    tracker.replace(WEB, [server(), other])
    refused = frozenset({server().key})
    drain(tracker, now=0.0, fail=refused)
    assert tracker.actual(other.key) == other
    assert tracker.next_deadline() == FIRST_RETRY_S
    assert drain(tracker, now=FIRST_RETRY_S / 2) == []
    now = 0.0
    for _ in range(12):
        deadline = tracker.next_deadline()
        assert deadline is not None
        wait, now = deadline - now, deadline
        drain(tracker, now=now, fail=refused)
    assert wait == LAST_RETRY_S
    assert drain(tracker, now=now + LAST_RETRY_S) == [Op(Verb.CREATE, server().key, server())]
    assert tracker.next_deadline() is None


def test_a_new_wanted_value_is_tried_at_once() -> None:
    tracker = Tracker(GROUPS)
    tracker.replace(WEB, [server()])
    drain(tracker, fail=frozenset({server().key}))
    tracker.replace(WEB, [server(scheduler="lc")])
    assert drain(tracker) == [Op(Verb.CREATE, server().key, server(scheduler="lc"))]


def test_what_needs_a_thing_that_failed_is_put_off_and_is_no_error() -> None:
    tracker, virtual = Tracker(GROUPS), server()
    entry = Entry(EntryKey("s", "10.0.0.1"))
    tracker.replace(WEB, [virtual, real(virtual, "10.1.0.1"), Set(SetKey("s"), IPV4, "hash:ip"), entry])
    drain(tracker, now=0.0, fail=frozenset({SetKey("s"), virtual.key, entry.key, real(virtual, "10.1.0.1").key}))
    assert drain(tracker, now=0.1) == []
    assert {op.key for op in drain(tracker, now=1.0)} == {
        SetKey("s"),
        entry.key,
        virtual.key,
        real(virtual, "10.1.0.1").key,
    }


def test_a_listing_restores_what_vanished_and_removes_only_what_is_claimed() -> None:
    tracker, mine, foreign = Tracker(GROUPS), server("10.96.0.66"), server("192.0.2.1")
    tracker.replace(WEB, [server()])
    drain(tracker)
    drifts = tracker.observe(ALL, {mine.key: mine, foreign.key: foreign}, lambda key: key == mine.key)
    assert [(drift.key, drift.what) for drift in drifts] == [(server().key, "missing"), (mine.key, "extra")]
    assert drain(tracker) == [Op(Verb.CREATE, server().key, server()), Op(Verb.DELETE, mine.key, None)]


def test_deletes_of_a_kind_wait_while_its_facts_are_incomplete() -> None:
    tracker = Tracker(GROUPS)
    tracker.observe(ALL, {server().key: server()}, lambda _: True)
    assert list(tracker.pending(0.0, hold_deletes=[VirtualServer])) == []
    assert drain(tracker) == [Op(Verb.DELETE, server().key, None)]


def test_a_key_in_flight_is_left_alone_until_its_result_is_known() -> None:
    tracker = Tracker(GROUPS)
    tracker.replace(WEB, [server()])
    (batch,) = tracker.pending(0.0)
    tracker.launch(batch.ops)
    assert list(tracker.pending(0.0)) == []
    tracker.replace(WEB, [server(scheduler="mh")])
    assert list(tracker.pending(0.0)) == []
    tracker.record(batch.ops[0], None, 0.0)
    assert drain(tracker) == [Op(Verb.UPDATE, server().key, server(scheduler="mh"))]


def test_a_busy_group_waits_and_the_others_go_on() -> None:
    tracker = Tracker(GROUPS)
    tracker.replace(WEB, [server(), Set(SetKey("s"), IPV6, "hash:ip")])
    batches = list(tracker.pending(0.0, busy=[(VirtualServer, RealServer)]))
    assert [op.key for batch in batches for op in batch.ops] == [SetKey("s")]


def test_a_plan_lists_what_is_due_without_doing_it() -> None:
    tracker, old = Tracker(GROUPS), server("fd00::99")
    tracker.replace(WEB, [server()])
    tracker.observe(ALL, {old.key: old}, lambda _: True)
    assert tracker.plan() == [Op(Verb.CREATE, server().key, server()), Op(Verb.DELETE, old.key, None)]
    assert tracker.plan() == tracker.plan()


_addresses = st.sampled_from(["10.96.0.1", "10.96.0.2", "fd00::1"])
_servers = st.builds(server, _addresses, st.sampled_from(["rr", "sh"]))
_objects = st.one_of(
    _servers,
    st.builds(real, _servers, st.sampled_from(["10.1.0.1", "10.1.0.2"]), st.integers(0, 1)),
    st.builds(lambda name: Set(SetKey(name), IPV4, "hash:ip"), st.sampled_from("ab")),
    st.builds(lambda name, member: Entry(EntryKey(name, member)), st.sampled_from("ab"), st.sampled_from("xy")),
)


def test_a_failure_is_forgotten_when_a_listing_shows_that_it_came_about_without_us() -> None:
    tracker, virtual = Tracker(GROUPS), server()
    gone, made = real(virtual, "10.1.0.1"), real(virtual, "10.1.0.2")
    tracker.replace(WEB, [virtual, gone])
    drain(tracker)
    tracker.replace(WEB, [virtual, made])
    drain(tracker, fail=frozenset({gone.key, made.key}))
    assert set(tracker.failures()) == {gone.key, made.key}
    tracker.observe((VirtualServer, RealServer), {virtual.key: virtual, made.key: made}, lambda _: True)
    assert tracker.failures() == {}
    assert tracker.next_deadline() is None  # a deadline in the past would never let the loop rest


_owners = st.sampled_from([WEB, API, Owner("proxy", "base")])


@given(
    steps=st.lists(st.tuples(_owners, st.lists(_objects, max_size=6), st.sets(_objects.map(lambda value: value.key)))),
    drift=st.lists(_objects, max_size=6),
)
def test_any_history_with_failures_and_drift_ends_where_its_last_wishes_say(
    steps: list[tuple[Owner, list[Object], set[Key]]], drift: list[Object]
) -> None:
    tracker = Tracker(GROUPS)
    wishes: dict[Owner, dict[Key, Object]] = {}
    now = 0.0
    for owner, objects, fail in steps:
        wanted = {value.key: value for value in objects}
        # Objects come with what they need, as controllers make them.
        wanted |= {need.key: need for value in objects for need in _needs(value) if need.key not in wanted}
        wishes[owner] = wanted
        tracker.replace(owner, wanted.values())
        drain(tracker, now=now, fail=frozenset(fail))
        now += 0.2
    tracker.observe(ALL, {value.key: value for value in drift}, lambda _: True)
    drain(tracker, now=now + 2 * LAST_RETRY_S)
    expected: dict[Key, Object] = {}
    for owner in sorted(wishes, reverse=True):
        expected |= wishes[owner]
    keys = {*expected, *(value.key for value in drift)}
    assert {key: actual for key in keys if (actual := tracker.actual(key)) is not None} == expected
    assert tracker.unfinished() == 0
    assert tracker.plan() == []


def _needs(value: Object) -> list[Object]:
    match value:
        case RealServer(key=key):
            return [VirtualServer(key.server)]
        case Entry(key=key):
            return [Set(SetKey(key.set), IPV4, "hash:ip")]
        case _:
            return []
