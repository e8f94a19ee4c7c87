"""The guard against deleting too much, alone and in the loop."""

from __future__ import annotations

from kuberouterpy.cluster import KUBERNETES_KINDS, Delete, Link, Ref, Replace, Service, ServicePort, ServiceType, Upsert
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller
from kuberouterpy.dataplane import Flows, LocalAddress, LocalAddressKey, RealServer, VirtualServer, VirtualServerKey
from kuberouterpy.drivers import fake
from kuberouterpy.family import FAMILIES, IPV4
from kuberouterpy.guard import excess
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from proxy import CONTROLLER as PROXY

GROUPS = ((LocalAddress,), (VirtualServer, RealServer), (Flows,))


def servers(count: int) -> list[VirtualServerKey]:
    return [VirtualServerKey(IPV4, Protocol.TCP, "10.96.0.1", port) for port in range(1, count + 1)]


def test_what_is_too_much_is_said_in_figures() -> None:
    standing = {"VirtualServer": 20, "RealServer": 20, "LocalAddress": 1000}
    assert excess(servers(20), standing, GROUPS, 0.5) == ""
    assert excess(servers(21), standing, GROUPS, 0.5) == (
        "21 of 40 objects (VirtualServer) would be deleted, more than --max-delete-ratio 0.5 allows"
    )
    assert excess(servers(21), standing, GROUPS, 1.0) == ""


def test_a_few_deletes_are_never_too_many() -> None:
    assert excess(servers(10), {"VirtualServer": 10}, GROUPS, 0.0) == ""
    assert excess(servers(11), {"VirtualServer": 11}, GROUPS, 0.0) != ""


def services(count: int) -> tuple[Service, ...]:
    ports = (ServicePort("", Protocol.TCP, 80),)
    return tuple(
        Service(
            Ref("default", f"s{n}"),
            ServiceType.CLUSTER_IP,
            (f"10.96.1.{n}", f"fd00:10:96::{n}"),
            ports,
            families=FAMILIES,
        )
        for n in range(1, count + 1)
    )


class World:
    """A loop over fake drivers, and what it told of its node."""

    def __init__(self, ratio: float, controller: Controller = PROXY) -> None:
        self.told: list[tuple[str, str]] = []
        self.drivers = {driver.name: driver for driver in fake.kernel()}
        config = Config(node_name="n", enable_ipv6=True, max_delete_ratio=ratio)
        self.loop = Loop(
            config=config,
            controllers=(controller,),
            drivers=tuple(Programmed(driver, period_s=300) for driver in self.drivers.values()),
            expected=(*KUBERNETES_KINDS, Link),
            on_trouble=lambda reason, message: self.told.append((reason, message)),
        )
        self.now = 0.0

    def replace(self, *records: Service) -> None:
        for kind in KUBERNETES_KINDS:
            self.loop.put(Replace(kind, records if kind is Service else ()))
        self.loop.put(Replace(Link, ()))
        self.step()

    def step(self) -> None:
        self.now += 1
        self.loop.step(self.now)

    def servers(self) -> int:
        return sum(isinstance(key, VirtualServerKey) for key in self.drivers["ipvs"].list())


def test_an_api_that_lost_everything_empties_no_kernel() -> None:
    world = World(0.5)
    world.replace(*services(10))
    assert world.servers() == 20
    world.replace()
    assert world.servers() == 20
    assert world.loop.status.guard.startswith("40 of ")
    assert "objects (Entry) would be deleted" in world.loop.status.guard
    assert [reason for reason, _ in world.told] == ["DeletesRefused"]
    world.step()
    assert len(world.told) == 1
    # What is new is still made, and what comes back lifts the guard by itself.
    world.loop.put(Upsert(services(11)[-1]))
    world.step()
    assert world.servers() == 22
    world.replace(*services(8))
    assert world.loop.status.guard == ""
    assert world.servers() == 16


def test_deletes_within_the_ratio_and_without_a_guard_are_done() -> None:
    for ratio, gone in ((0.5, 4), (1.0, 10)):
        world = World(ratio)
        world.replace(*services(10))
        for one in services(gone):
            world.loop.put(Delete(Service, one.ref))
        world.step()
        assert world.servers() == 20 - 2 * gone
        assert world.told == []


def test_the_guard_holds_addresses_as_well_as_servers() -> None:
    world = World(0.5)
    world.replace(*services(10))
    world.replace()
    assert LocalAddressKey("kube-dummy-if", "10.96.1.1", 32) in world.drivers["links"].list()
