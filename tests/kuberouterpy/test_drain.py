"""A node leaves in stages, and the loop brings the stages to the paths; an agent's own end or start is no drain."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.cluster import KUBERNETES_KINDS, Link, Node, NodeAddress, Ref, Replace, Service, ServiceType, Upsert
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Path
from kuberouterpy.drain import GRACEFUL_SHUTDOWN, Departure, Drain, asked_to_leave
from kuberouterpy.drivers import fake
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.status import Status
from routing import CONTROLLER

ADDRESSES = (NodeAddress("InternalIP", "10.0.0.1"), NodeAddress("InternalIP", "fd00::1"))
NODE = Node(Ref("", "node-1"), ADDRESSES, ("10.1.4.0/24", "fd00:1:4::/64"))
WEB = Service(Ref("default", "web"), ServiceType.CLUSTER_IP, ("10.96.0.10", "fd00:96::10"))
PODS = {"10.1.4.0/24", "fd00:1:4::/64"}
WALL = 1_700_000_000.0
VIPS = {"10.96.0.10/32", "fd00:96::10/128"}
CONFIG = Config(
    node_name="node-1",
    enable_ipv6=True,
    service_cluster_ip_range=("10.96.0.0/12", "fd00:96::/112"),
    advertise_cluster_ip=True,
    drain_wait_s=20.0,
)


def node(**fields: object) -> Node:
    return msgspec.structs.replace(NODE, **fields)


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, False),
        ({"unschedulable": True}, True),
        ({"deleting": True}, True),
        ({"taints": ("ToBeDeletedByClusterAutoscaler",)}, True),
        ({"taints": ("node.kubernetes.io/unschedulable",)}, True),
        ({"taints": ("node-role.kubernetes.io/control-plane", "node.kubernetes.io/not-ready")}, False),
        ({"annotations": {"kube-router.io/drain": "true"}}, True),
        ({"annotations": {"kube-router.io/drain": "false"}, "unschedulable": True}, False),
        ({"annotations": {"kube-router.io/drain": "yes please"}}, False),
        ({"annotations": {"kube-router.io/drain": ""}, "unschedulable": True}, True),
    ],
)
def test_what_asks_a_node_to_leave(fields: dict[str, object], asked: bool) -> None:
    assert asked_to_leave(node(**fields)) is asked


def test_a_node_that_was_cordoned_before_the_agent_started_is_gone_already() -> None:
    """A reboot under a cordon must not announce VIPs for a moment."""
    departure = Departure(20.0)
    assert departure.advance(None, 0.0, 0.0) is Drain.SERVING
    assert departure.advance(node(unschedulable=True), 1.0, 1.0) is Drain.GONE
    assert departure.advance(node(), 2.0, 2.0) is Drain.SERVING
    assert departure.advance(node(unschedulable=True), 3.0, 3.0) is Drain.LEAVING
    assert departure.deadline() == 23.0


@given(st.floats(0, 60), st.floats(-1e6, 1e6))
def test_a_restart_during_the_wait_goes_on_from_where_it_began(after_s: float, jump_s: float) -> None:
    """Whatever the clock does meanwhile, the rest is between nothing and a whole wait."""
    began = 1e9
    leaving = node(unschedulable=True, draining_since=began)
    departure = Departure(20.0)
    stage = departure.advance(leaving, 5.0, began + after_s)
    assert stage is (Drain.LEAVING if began + after_s < began + 20.0 else Drain.GONE)
    if stage is Drain.LEAVING:
        assert departure.deadline() == pytest.approx(5.0 + 20.0 - after_s)
    departure = Departure(20.0)
    departure.advance(leaving, 5.0, began + jump_s)
    assert (departure.deadline() or 5.0) <= 25.0


def test_what_an_earlier_drain_left_on_the_node_hinders_no_later_one() -> None:
    departure = Departure(20.0)
    assert departure.advance(node(draining_since=1e9), 0.0, 1e9 + 1.0) is Drain.SERVING
    assert departure.advance(node(draining_since=1e9, unschedulable=True), 3.0, 1e9 + 4.0) is Drain.LEAVING
    assert departure.deadline() == 23.0


def test_a_node_that_cannot_be_read_goes_on_leaving() -> None:
    departure = Departure(20.0)
    departure.advance(node(), 0.0, 0.0)
    assert departure.advance(node(deleting=True), 1.0, 1.0) is Drain.LEAVING
    assert departure.advance(None, 20.9, 20.9) is Drain.LEAVING
    assert departure.advance(None, 21.0, 21.0) is Drain.GONE
    assert departure.deadline() is None


@given(st.lists(st.tuples(st.sampled_from([None, False, True]), st.floats(0, 30)), max_size=30))
def test_no_history_leaves_sooner_than_the_wait_or_stays_gone_when_asked_back(
    history: list[tuple[bool | None, float]],
) -> None:
    departure, now = Departure(20.0), 0.0
    departure.advance(node(), now, now)
    since: float | None = None
    for asked, after_s in history:
        now += after_s
        if asked is False:
            since = None
        elif asked and since is None:
            since = now
        stage = departure.advance(None if asked is None else node(unschedulable=asked), now, now)
        expected = Drain.SERVING if since is None else Drain.LEAVING if now < since + 20.0 else Drain.GONE
        assert stage is expected


class World:
    """A loop that routes, over fake drivers, with a clock of its own."""

    def __init__(self, config: Config = CONFIG) -> None:
        self.drivers = {driver.name: driver for driver in fake.kernel()}
        self.now = 0.0
        self.told: list[Status] = []
        self.loop = Loop(
            config=config,
            controllers=(CONTROLLER,),
            drivers=tuple(Programmed(driver, period_s=300) for driver in self.drivers.values()),
            expected=(*KUBERNETES_KINDS, Link),
            on_status=self.told.append,
            wall=lambda: WALL + self.now,
        )

    def start(self, first: Node) -> None:
        """Give the first facts."""
        for kind in KUBERNETES_KINDS:
            self.loop.put(Replace(kind, tuple(one for one in (first, WEB) if type(one) is kind)))
        self.loop.put(Replace(Link, ()))
        self.step()

    def step(self, after_s: float = 0.0) -> float:
        """Let time pass."""
        self.now += after_s
        return self.loop.step(self.now)

    def paths(self) -> dict[str, tuple[str, ...]]:
        """Return what is announced, with communities."""
        found = self.drivers["gobgp"].list().values()
        return {one.key.prefix: one.communities for one in found if isinstance(one, Path)}


def test_a_cordon_is_told_then_vips_go_then_an_uncordon_brings_all_back() -> None:
    world = World()
    world.start(NODE)
    assert world.paths() == dict.fromkeys(PODS | VIPS, ())
    world.loop.put(Upsert(node(unschedulable=True)))
    assert world.step() == world.now + 10.0
    assert world.paths() == dict.fromkeys(PODS | VIPS, (GRACEFUL_SHUTDOWN,))
    assert world.loop.status.drain == "leaving"
    assert world.step(19.0) == 20.0, "the loop comes back when the wait is over, whatever else happens"
    assert set(world.paths()) == PODS | VIPS
    world.step(1.0)
    assert world.paths() == dict.fromkeys(PODS, (GRACEFUL_SHUTDOWN,))
    assert world.loop.status.drain == "gone"
    world.loop.put(Upsert(NODE))
    world.step()
    assert world.paths() == dict.fromkeys(PODS | VIPS, ())
    words = [status.drain for status in world.told]
    assert [word for word, before in zip(words, ["", *words], strict=False) if word != before] == [
        "serving",
        "leaving",
        "gone",
        "serving",
    ]


def test_an_agent_that_starts_during_the_wait_of_the_one_before_withdraws_at_its_end() -> None:
    world = World()
    world.start(node(unschedulable=True, draining_since=WALL - 12.0))
    assert world.paths() == dict.fromkeys(PODS | VIPS, (GRACEFUL_SHUTDOWN,))
    assert world.loop.status.drain == "leaving"
    world.step(7.0)
    assert set(world.paths()) == PODS | VIPS
    world.step(1.0)
    assert world.paths() == dict.fromkeys(PODS, (GRACEFUL_SHUTDOWN,))


def test_the_guard_against_deletes_lets_a_node_leave_that_was_told_to() -> None:
    many = tuple(
        Service(Ref("default", f"s{n}"), ServiceType.CLUSTER_IP, (f"10.96.1.{n}", f"fd00:96::1:{n}"))
        for n in range(1, 11)
    )
    world = World(msgspec.structs.replace(CONFIG, drain_wait_s=0.0, max_delete_ratio=0.1))
    world.start(NODE)
    for one in many:
        world.loop.put(Upsert(one))
    world.step()
    assert len(world.paths()) == 24
    world.loop.put(Replace(Service, ()))
    world.step()
    assert len(world.paths()) == 24, "an API that lost its Services withdraws nothing"
    assert world.loop.status.guard
    world.loop.put(Upsert(node(unschedulable=True)))
    world.step()
    assert set(world.paths()) == PODS
    assert world.loop.status.drain == "gone"


def test_a_drain_is_not_done_before_the_withdrawals_are() -> None:
    world = World(msgspec.structs.replace(CONFIG, drain_wait_s=0.0))
    world.start(NODE)
    for one in world.drivers["gobgp"].list().values():
        if isinstance(one, Path) and one.key.prefix == "10.96.0.10/32":
            world.drivers["gobgp"].fail(one.key, 5)
    world.loop.put(Upsert(node(unschedulable=True)))
    world.step()
    assert world.loop.host.drain is Drain.GONE
    assert world.loop.status.drain == "leaving"
    world.step(5.0)
    assert world.loop.status.drain == "gone"


def test_why_a_vip_is_not_announced_is_told() -> None:
    world = World()
    world.start(node(unschedulable=True))
    assert set(world.paths()) == PODS
    reasons = {note.subject: note.reason for notes in world.loop.notes.values() for note in notes}
    assert reasons["10.96.0.10"] == "drained: this node is cordoned, being deleted, or told to leave"
