"""The loop over the fake kernel: gates, faults, restarts, questions."""

from __future__ import annotations

import errno
import queue
from collections.abc import Mapping, Sequence

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    BestPath,
    Delete,
    Link,
    Node,
    NodeAddress,
    Passwords,
    Reachable,
    Ref,
    Rejection,
    Replace,
    Restarted,
    Service,
    ServicePort,
    ServiceType,
    Unreachable,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller, Desired
from kuberouterpy.dataplane import (
    Key,
    LocalAddress,
    LocalAddressKey,
    Neighbor,
    NeighborKey,
    NextHop,
    Object,
    Op,
    Owner,
    Path,
    PathKey,
    Route,
    RouteKey,
    RoutePolicy,
    RoutePolicyKey,
    Speaker,
    SpeakerKey,
    Verb,
    VirtualServer,
    VirtualServerKey,
)
from kuberouterpy.dataplane import Link as LinkObject
from kuberouterpy.drivers import fake
from kuberouterpy.errors import DriverError
from kuberouterpy.family import IPV4
from kuberouterpy.host import Host
from kuberouterpy.lane import LaneResult
from kuberouterpy.loop import Ask, Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import Store
from proxy import CONTROLLER as PROXY

SERVERS = VirtualServerKey(IPV4, Protocol.TCP, "10.96.0.10", 80)
WEB = Service(Ref("default", "web"), ServiceType.CLUSTER_IP, ("10.96.0.10",), (ServicePort("", Protocol.TCP, 80),))
NODE = Node(Ref("", "node-1"), (NodeAddress("InternalIP", "10.0.0.1"),), ("10.1.4.0/24",))


class World:
    """A loop over fake drivers with a clock of its own."""

    def __init__(self, *controllers: Controller, config: Config | None = None) -> None:
        self.drivers = {driver.name: driver for driver in fake.kernel()}
        self.now = 0.0
        self.rejected: list[Rejection] = []
        self.loop = Loop(
            config=config or Config(node_name="node-1"),
            controllers=controllers or (PROXY,),
            drivers=tuple(Programmed(driver, period_s=300) for driver in self.drivers.values()),
            expected=(*KUBERNETES_KINDS, Link),
            on_rejection=self.rejected.append,
        )

    def sync(self, *records: object) -> None:
        for kind in KUBERNETES_KINDS:
            self.loop.put(Replace(kind, tuple(one for one in records if type(one) is kind)))
        self.loop.put(Replace(Link, ()))
        self.step()

    def step(self, after_s: float = 1.0) -> float:
        self.now += after_s
        return self.loop.step(self.now)

    def leave(self, *values: Object) -> None:
        """Put objects of ours into the kernel as a former life left them."""
        objects = self.drivers["ipvs"].kernel.objects
        for value in values:
            objects[type(value)][value.key] = value

    def ipvs(self) -> Mapping[Key, Object]:
        return self.drivers["ipvs"].list()


def test_nothing_is_listed_or_written_before_every_kind_was_listed() -> None:
    world = World()
    for kind in KUBERNETES_KINDS:
        world.loop.put(Replace(kind, (WEB,) if kind is Service else ()))
    world.step()
    assert world.loop.status.waiting_for == ("Link",)
    assert not world.loop.status.ready
    assert sum(driver.listings + len(driver.attempts) for driver in world.drivers.values()) == 0
    world.loop.put(Replace(Link, ()))
    world.step()
    assert SERVERS in world.ipvs()
    assert world.loop.status.ready
    assert world.loop.status.pending == 0


def test_a_second_step_without_news_does_nothing() -> None:
    world = World()
    world.sync(WEB, NODE)
    done = {name: len(driver.attempts) for name, driver in world.drivers.items()}
    world.step()
    assert done == {name: len(driver.attempts) for name, driver in world.drivers.items()}


def test_a_failing_driver_does_not_stop_the_others_and_is_tried_again() -> None:
    world = World()
    world.drivers["ipvs"].fail(SERVERS, errno.ENOMEM)
    world.sync(WEB)
    assert SERVERS not in world.ipvs()
    assert LocalAddressKey("kube-dummy-if", "10.96.0.10", 32) in world.drivers["links"].list()
    (failing,) = world.loop.status.failing
    assert failing.owners == ("proxy/service/default/web",)
    assert "ENOMEM" in failing.error
    world.step(after_s=5.0)
    assert SERVERS in world.ipvs()
    assert world.loop.status.failing == ()


def test_nothing_is_applied_through_a_driver_whose_listing_failed() -> None:
    world = World()
    world.drivers["ipvs"].fail_list(times=2)
    world.sync(WEB)
    assert world.drivers["ipvs"].attempts == []
    assert not world.loop.status.settled
    for _ in range(10):
        world.step()
    assert SERVERS in world.ipvs()


def test_what_another_hand_removed_is_put_back_at_the_resync_and_counted() -> None:
    world = World()
    world.sync(WEB)
    world.drivers["ipvs"].kernel.objects[VirtualServer].clear()
    world.step(after_s=400.0)
    assert SERVERS in world.ipvs()
    assert world.loop.status.drift_repaired == {"virtual": 1}


@pytest.mark.parametrize("gone", ["address", "link"])
def test_a_vip_that_the_kernel_says_is_gone_comes_back_without_waiting_for_a_resync(gone: str) -> None:
    world = World()
    world.sync(WEB)
    key = LocalAddressKey("kube-dummy-if", "10.96.0.10", 32)
    dummy = Link("kube-dummy-if", 5, "dummy", up=True, addresses=("10.96.0.10/32",))
    world.loop.put(Upsert(dummy))
    world.step()
    objects = world.drivers["links"].kernel.objects
    objects[LocalAddress].clear()
    if gone == "link":
        objects[LinkObject].clear()
    world.loop.put(Upsert(replace(dummy, addresses=())) if gone == "address" else Delete(Link, dummy.ref))
    world.step()
    assert key in world.drivers["links"].list()
    assert world.loop.status.drift_repaired["address"] == 1


def test_a_restart_deletes_leftovers_and_touches_nothing_that_is_right() -> None:
    first = World()
    first.sync(WEB, NODE)
    held = {value.key: value for driver in first.drivers.values() for value in driver.list().values()}
    second = World()
    leftover = VirtualServer(VirtualServerKey(IPV4, Protocol.TCP, "10.96.0.66", 80))
    second.leave(*held.values(), leftover)
    second.sync(WEB, NODE)
    assert [op for driver in second.drivers.values() for op in driver.log] == [Op(Verb.DELETE, leftover.key, None)]


def test_routes_of_a_former_life_stay_until_bgp_has_spoken() -> None:
    claims_all = Controller("routing", lambda *_: (), lambda *_: (), lambda *_: Desired(), lambda _: True)
    world = World(claims_all)
    route = Route(RouteKey(254, "10.1.7.0/24"), (NextHop("10.0.0.7"),))
    world.leave(route)
    world.sync()
    world.step(after_s=400.0)
    assert route.key in world.drivers["routes"].list()
    world.loop.put(Replace(BestPath, ()))
    world.step()
    assert route.key not in world.drivers["routes"].list()


def test_sessions_of_a_former_life_stay_until_the_passwords_were_readable() -> None:
    """A neighbor whose password nobody can read now is not wanted; ending its session would help nobody."""
    world = World(Controller("routing", lambda *_: (), lambda *_: (), lambda *_: Desired(), lambda _: True))
    neighbor = Neighbor(NeighborKey("10.0.0.254"), 65001)
    world.leave(Speaker(SpeakerKey(), 64512, "10.0.0.1"), neighbor)
    world.sync(NODE)
    world.step(after_s=400.0)
    assert neighbor.key in world.drivers["gobgp"].list()
    world.loop.put(Replace(Passwords, ()))
    world.step()
    assert neighbor.key not in world.drivers["gobgp"].list()


def test_paths_sessions_and_policies_of_a_former_life_stay_while_the_own_node_cannot_be_read() -> None:
    world = World(Controller("routing", lambda *_: (), lambda *_: (), lambda *_: Desired(), lambda _: True))
    left = (
        Speaker(SpeakerKey(), 64512, "10.0.0.1"),
        Path(PathKey("10.1.4.0/24"), "10.0.0.1"),
        Neighbor(NeighborKey("10.0.0.2"), 64512),
        RoutePolicy(RoutePolicyKey("import"), ()),
    )
    world.leave(*left)
    world.loop.put(Replace(Passwords, ()))
    world.sync()
    assert all(one.key in world.drivers["gobgp"].list() for one in left)
    world.loop.put(Upsert(NODE))
    world.step()
    assert not any(one.key in world.drivers["gobgp"].list() for one in left)


def test_leftovers_of_a_controller_that_is_not_run_stay() -> None:
    world = World(Controller("routing", lambda *_: (), lambda *_: (), lambda *_: Desired(), lambda _: False))
    world.leave(VirtualServer(SERVERS))
    world.sync()
    assert SERVERS in world.ipvs()


def test_a_bug_in_one_owner_keeps_its_last_objects_and_stops_nobody_else() -> None:
    def desired(owner: Owner, store: Store, host: Host, config: Config) -> Desired:
        if owner.name == "default/web" and len(store.services) > 1:
            raise KeyError("oops")
        return PROXY.desired(owner, store, host, config)

    world = World(Controller("proxy", lambda *_: PROXY.owners(*_[1:]), PROXY.owners, desired, PROXY.claims))
    world.sync(WEB)
    other = Service(Ref("default", "api"), ServiceType.CLUSTER_IP, ("10.96.0.11",), WEB.ports)
    world.loop.put(Upsert(other))
    world.step()
    assert {key.address for key in world.ipvs() if isinstance(key, VirtualServerKey)} == {"10.96.0.10", "10.96.0.11"}
    assert world.loop.status.bugs == ("proxy/service/default/web: KeyError('oops')",)


def test_a_lost_source_withdraws_nothing_and_is_told_since_when() -> None:
    world = World()
    world.sync(WEB)
    world.loop.put(Unreachable("kubernetes", "connection refused"))
    world.step(after_s=30.0)
    world.step(after_s=3600.0)
    assert SERVERS in world.ipvs()
    assert world.loop.status.ready
    (lost,) = [one for one in world.loop.status.sources if not one.ok]
    assert (lost.name, lost.reason, lost.since_s) == ("kubernetes", "connection refused", 3600.0)
    world.loop.put(Reachable("kubernetes"))
    world.step()
    assert all(one.ok for one in world.loop.status.sources)


def test_a_rejected_object_is_told_once() -> None:
    world = World()
    world.sync(WEB)
    rejection = Rejection(Service, WEB.ref, "spec.ports[0].port: 70000 is not a port")
    for _ in range(3):
        world.loop.put(rejection)
        world.step()
    assert world.rejected == [rejection]
    assert SERVERS in world.ipvs()
    assert world.loop.status.rejected == ("Service default/web: spec.ports[0].port: 70000 is not a port",)


def test_a_question_is_answered_on_the_loops_thread_and_its_error_goes_to_the_asker() -> None:
    world = World()
    replies: queue.SimpleQueue[object] = queue.SimpleQueue()
    world.loop.put(Ask(lambda loop: loop.config.node_name, replies))
    world.loop.put(Ask(lambda loop: 1 // 0, replies))
    world.step()
    assert replies.get_nowait() == "node-1"
    assert isinstance(replies.get_nowait(), ZeroDivisionError)


class HangingLane:
    """A lane whose answers come when the test says."""

    def __init__(self) -> None:
        self.calls: list[Sequence[Op] | None] = []

    def start(self) -> None: ...

    def list(self) -> None:
        self.calls.append(None)

    def apply(self, ops: Sequence[Op]) -> None:
        self.calls.append(ops)


@pytest.fixture
def laned() -> tuple[World, HangingLane]:
    world, lane = World(), HangingLane()
    for programmed in world.loop.drivers:
        if programmed.name == "ipvs":
            programmed.lane = lane  # type: ignore[assignment]
    return world, lane


def test_a_hung_lane_delays_nobody_and_is_asked_one_thing_at_a_time(laned: tuple[World, HangingLane]) -> None:
    world, lane = laned
    world.sync(WEB)
    for _ in range(5):
        world.step(after_s=400.0)
    assert lane.calls == [None]
    assert LocalAddressKey("kube-dummy-if", "10.96.0.10", 32) in world.drivers["links"].list()
    world.loop.put(LaneResult("ipvs", listing={}))
    world.step()
    (ops,) = [call for call in lane.calls if call is not None]
    assert {op.key for op in ops} == {SERVERS}
    world.step()
    assert len(lane.calls) == 2


def test_a_restarted_sidecar_is_listed_again_and_given_everything_anew(laned: tuple[World, HangingLane]) -> None:
    world, lane = laned
    world.sync(WEB)
    world.loop.put(LaneResult("ipvs", listing={}))
    world.step()
    assert lane.calls[1] is not None
    world.loop.put(LaneResult("ipvs", outcomes=tuple((op, None) for op in lane.calls[1])))
    world.step()
    world.loop.put(Restarted("ipvs"))
    world.step()
    assert lane.calls[2:] == [None]
    world.loop.put(LaneResult("ipvs", listing={}))
    world.step()
    assert lane.calls[3] is not None
    assert {op.key for op in lane.calls[3]} == {SERVERS}


def test_a_lane_that_fails_is_retried_later(laned: tuple[World, HangingLane]) -> None:
    world, lane = laned
    world.sync(WEB)
    world.loop.put(LaneResult("ipvs", error=DriverError("list gobgp: deadline exceeded")))
    world.step()
    assert lane.calls == [None]
    world.step(after_s=2.0)
    assert lane.calls == [None, None]
