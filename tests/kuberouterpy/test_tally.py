"""Network programming latency with kube-proxy's meaning, and what the loop counts."""

from __future__ import annotations

import errno

import pytest

from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    Delete,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Link,
    Ref,
    Replace,
    Service,
    ServicePort,
    ServiceType,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import RealServerKey, VirtualServerKey
from kuberouterpy.drivers import fake
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from kuberouterpy.tally import PROGRAMMING_BOUNDS, unix
from proxy import CONTROLLER as PROXY

STARTED = 1_700_000_000.0  # 2023-11-14T22:13:20Z
WEB = Service(
    Ref("default", "web"),
    ServiceType.CLUSTER_IP,
    ("10.96.0.10", "fd00:10:96::a"),
    (ServicePort("", Protocol.TCP, 80),),
    families=FAMILIES,
)
ADDRESS = {IPV4: "10.1.0.1", IPV6: "fd00:10:1::1"}
VIP = {IPV4: "10.96.0.10", IPV6: "fd00:10:96::a"}


def slice_of(family: Family, triggered: str, *, ready: bool = True) -> EndpointSlice:
    return EndpointSlice(
        Ref("default", f"web-{family:d}"),
        WEB.ref,
        family,
        (EndpointPort("", Protocol.TCP, 8080),),
        (Endpoint(ADDRESS[family], ready=ready, serving=ready),),
        triggered,
    )


class World:
    """A loop over fake drivers whose Unix clock stands where a test puts it."""

    def __init__(self) -> None:
        self.wall = STARTED
        self.now = 0.0
        self.drivers = {driver.name: driver for driver in fake.kernel()}
        self.loop = Loop(
            config=Config(node_name="n", enable_ipv6=True),
            controllers=(PROXY,),
            drivers=tuple(Programmed(driver, period_s=300) for driver in self.drivers.values()),
            expected=(*KUBERNETES_KINDS, Link),
            wall=lambda: self.wall,
        )

    def sync(self, *slices: EndpointSlice) -> None:
        for kind in KUBERNETES_KINDS:
            self.loop.put(Replace(kind, {Service: (WEB,), EndpointSlice: slices}.get(kind, ())))  # type: ignore[arg-type]
        self.loop.put(Replace(Link, ()))
        self.step()

    def step(self, after_s: float = 1.0) -> None:
        self.now += after_s
        self.wall += after_s
        self.loop.step(self.now)

    def samples(self) -> dict[str, tuple[int, float]]:
        return {family: (sum(one.counts), one.total) for family, one in self.loop.figures.programming.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_counts_from_its_cause_until_it_is_programmed(family: Family) -> None:
    world = World()
    world.sync()
    world.loop.put(Upsert(slice_of(family, "2023-11-14T22:13:22.5Z")))
    world.step(4.0)
    assert world.samples() == {f"IPv{family:d}": (1, 2.5)}
    world.step()
    assert world.samples() == {f"IPv{family:d}": (1, 2.5)}


def test_what_happened_before_the_agent_started_is_not_its_delay() -> None:
    world = World()
    world.sync(slice_of(IPV4, "2023-11-14T22:13:19.999Z"), slice_of(IPV6, "2023-11-14T22:13:20Z"))
    assert list(world.samples()) == ["IPv6"]


def test_a_slice_without_the_annotation_or_with_an_unreadable_one_gives_no_sample() -> None:
    world = World()
    world.sync(slice_of(IPV4, ""), slice_of(IPV6, "yesterday"))
    world.loop.put(Upsert(slice_of(IPV4, "", ready=False)))
    world.step()
    assert world.samples() == {}


def test_two_changes_in_one_step_are_one_sample_counted_from_the_first() -> None:
    world = World()
    world.sync()
    world.loop.put(Upsert(slice_of(IPV4, "2023-11-14T22:13:21Z", ready=False)))
    world.loop.put(Upsert(slice_of(IPV4, "2023-11-14T22:13:24Z")))
    world.step(5.0)
    assert world.samples() == {"IPv4": (1, 5.0)}


def test_a_change_that_cannot_be_programmed_counts_when_it_is() -> None:
    world = World()
    world.sync()
    key = RealServerKey(VirtualServerKey(IPV4, Protocol.TCP, VIP[IPV4], 80), ADDRESS[IPV4], 8080)
    world.drivers["ipvs"].fail(key, errno.ENOMEM)
    world.loop.put(Upsert(slice_of(IPV4, "2023-11-14T22:13:21Z")))
    world.step()
    assert world.samples() == {}
    world.step(7.0)
    assert world.samples() == {"IPv4": (1, 8.0)}
    figures = world.loop.figures
    assert (figures.ops["real", "create", "failed"], figures.ops["real", "create", "ok"]) == (1, 1)


def test_a_slice_that_goes_before_it_is_programmed_gives_no_sample() -> None:
    world = World()
    world.sync()
    world.loop.put(Upsert(slice_of(IPV4, "2023-11-14T22:13:21Z")))
    world.loop.put(Delete(EndpointSlice, Ref("default", "web-4")))
    world.step()
    assert world.samples() == {}


def test_the_buckets_are_kube_proxys() -> None:
    assert len(PROGRAMMING_BOUNDS) == 2 + 59 + 12 + 7
    assert (PROGRAMMING_BOUNDS[:3], PROGRAMMING_BOUNDS[-1]) == ((0.25, 0.5, 1), 300)
    assert sorted(set(PROGRAMMING_BOUNDS)) == list(PROGRAMMING_BOUNDS)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2023-11-14T22:13:20Z", STARTED),
        ("2023-11-14T22:13:20.123456789Z", STARTED + 0.123456),
        ("2023-11-14T23:13:20+01:00", STARTED),
        ("", None),
        ("soon", None),
    ],
)
def test_times_are_read_as_the_api_writes_them(text: str, seconds: float | None) -> None:
    assert unix(text) == pytest.approx(seconds)
