"""The proxy under attack: killed between any two operations, refused by the kernel at random, sent what nobody means."""

from __future__ import annotations

import errno
import random
import re
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kuberouterpy.cluster import KUBERNETES_KINDS, Event, Link, Replace, Service, Upsert
from kuberouterpy.dataplane import Key, Object, Op, Sysctl
from kuberouterpy.drivers import fake
from kuberouterpy.family import FAMILIES, Family
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.text import name_of
from proxy import CONTROLLER
from tests.properties import test_proxy as universe

KINDS = (*KUBERNETES_KINDS, Link)


class Killed(BaseException):
    """As by ``kill -9``: nothing of the process runs any more."""


class World:
    """A kernel that outlives its agents."""

    def __init__(self, families: Iterable[Family] = FAMILIES) -> None:
        self.kernel = fake.FakeKernel()
        self.drivers = fake.kernel(self.kernel)
        ipv4, ipv6 = (family in families for family in (Family.IPV4, Family.IPV6))
        self.config = replace(universe.CONFIG, enable_ipv4=ipv4, enable_ipv6=ipv6)
        self.now = 0.0
        self.loop = self.start([Replace(kind, ()) for kind in KINDS])

    def start(self, facts: Iterable[Event]) -> Loop:
        """Start an agent that knows nothing but the facts; the drivers are new as well, the kernel is not."""
        self.drivers = fake.kernel(self.kernel)
        self.loop = Loop(
            config=self.config,
            controllers=(CONTROLLER,),
            drivers=tuple(Programmed(driver, period_s=60.0) for driver in self.drivers),
            expected=KINDS,
        )
        self.take(facts)
        return self.loop

    def take(self, events: Iterable[Event], after_s: float = 0.1) -> None:
        self.now += after_s
        for event in events:
            self.loop.put(event)
        self.loop.step(self.now)
        assert self.loop.status.bugs == ()

    def settle(self) -> None:
        """Let every wait between tries pass."""
        for _ in range(4):
            self.take((), after_s=120.0)

    def facts(self) -> list[Event]:
        return [Replace(kind, tuple(self.loop.store.table(kind))) for kind in KINDS]

    def stands(self) -> Mapping[Key, Object]:
        """Everything but settings, which stay when nobody wants them."""
        every = {key: value for driver in self.drivers for key, value in driver.list().items()}
        return {key: value for key, value in every.items() if not isinstance(value, Sysctl)}

    def fresh(self) -> Mapping[Key, Object]:
        """What an agent would make of the same facts on an empty kernel."""
        other = World(self.config.families)
        other.start(self.facts())
        return other.stands()


@settings(max_examples=30, deadline=None)
@given(universe.histories(), st.integers(0, 120), st.integers(0, 5))
def test_killed_between_any_two_operations_the_next_agent_makes_it_whole(
    events: list[Event], survives: int, again: int
) -> None:
    world = World()
    left = survives

    def fault(_: Op) -> int:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return 0

    for part in (events[: len(events) // 2], events[len(events) // 2 :]):
        for driver in world.drivers:
            driver.fault = fault
        try:
            world.take(part)
        except Killed:
            left = again  # the next life ends in its start, too, if it has that much to do
            facts = world.facts()
            world.drivers = fake.kernel(world.kernel)
            world.start(facts)
    for driver in world.drivers:
        driver.heal()
    world.settle()
    assert world.stands() == world.fresh()
    assert world.loop.status.failing_total == 0


@settings(max_examples=25, deadline=None)
@given(universe.histories(), st.integers(0, 1 << 32), st.sampled_from([0.1, 0.5, 0.95]))
def test_a_flood_of_changes_while_the_kernel_refuses_at_random_ends_as_if_it_had_not(
    events: list[Event], seed: int, part: float
) -> None:
    world, chance = World(), random.Random(seed)
    for driver in world.drivers:
        driver.fault = lambda _: chance.choice([errno.EIO, errno.ENOBUFS, errno.EBUSY]) if chance.random() < part else 0
    for event in events * 3:
        world.take([event])
    for driver in world.drivers:
        driver.heal()
    world.settle()
    assert world.stands() == world.fresh()
    assert world.loop.status.failing_total == 0


_V4 = re.compile(r"\d+\.\d+\.\d+\.\d+")


@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("family", FAMILIES)
@given(events=universe.histories())
def test_a_node_with_one_family_has_nothing_of_the_other(family: Family, events: list[Event]) -> None:
    world = World([family])
    world.take(events)
    others = _V4 if family is Family.IPV6 else re.compile(r"[0-9a-f]+::")
    assert [name for key in world.stands() if others.search(name := name_of(key))] == []
    assert {one.family for key in world.stands() if (one := key) and hasattr(one, "family")} <= {family}
    assert world.loop.status.failing_total == 0


_words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["tunnel", "tunnel\n", " rr", "mh", "mh-port,mh-fallback", "flag-1,flag-9", "-1", "\x00", "{}", "ťunnel"]
    ),
)
_names = ["dsr", "scheduler", "schedflags", "local", "hairpin", "hairpin.externalips", "nonesuch", ""]
_hostile = st.dictionaries(st.sampled_from([f"kube-router.io/service.{name}" for name in _names]), _words)


@settings(max_examples=25, deadline=None)
@given(universe.histories(), _hostile)
def test_whatever_annotations_say_nothing_breaks_and_the_service_stays_served(
    events: list[Event], annotations: dict[str, str]
) -> None:
    world = World()
    world.take(events)
    hostile = [Upsert(replace(one, annotations=annotations)) for one in world.loop.store.table(Service)]
    world.take(hostile)
    assert world.loop.status.failing_total == 0
    assert world.stands() == world.fresh()
    world.take([Upsert(replace(one, annotations={})) for one in world.loop.store.table(Service)])
    assert world.stands() == world.fresh()
