"""What nobody should send, and somebody will: ten thousand endpoints, a Service that flaps, slices without ports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    Delete,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Event,
    Link,
    Node,
    NodeAddress,
    Ref,
    Replace,
    Service,
    ServicePort,
    ServiceType,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.cri.client import Runtime
from kuberouterpy.dataplane import Note, Owner, RealServer, VirtualServerKey
from kuberouterpy.drivers import Driver, fake
from kuberouterpy.drivers.pods import PodsDriver
from kuberouterpy.family import FAMILIES, IPV4, Family
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from kuberouterpy.sources.decode import decode
from proxy import CONTROLLER
from proxy.dsr import ANNOTATION, TUNNEL

VIP = {4: "10.96.0.10", 6: "fd00:96::10"}
POD = {4: "10.1.{}.{}", 6: "fd00:1::{:x}:{:x}"}
WEB = Service(
    Ref("default", "web"),
    ServiceType.CLUSTER_IP,
    tuple(VIP.values()),
    (ServicePort("", Protocol.TCP, 80),),
    families=FAMILIES,
)


class World:
    """A proxy over a fake kernel, with another driver of pods where one is given."""

    def __init__(self, pods: Driver | None = None) -> None:
        self.drivers = fake.kernel()
        self.told: list[tuple[Owner, Note]] = []
        drivers = [pods if pods and driver.name == "pods" else driver for driver in self.drivers]
        self.loop = Loop(
            config=Config(node_name="node-1", enable_ipv6=True),
            controllers=(CONTROLLER,),
            drivers=tuple(Programmed(driver, period_s=1e9) for driver in drivers),
            expected=(*KUBERNETES_KINDS, Link),
            on_note=lambda owner, note: self.told.append((owner, note)),
        )
        self.take(*(Replace(kind, ()) for kind in (*KUBERNETES_KINDS, Link)))

    def take(self, *events: Event) -> int:
        """Take events in at once; return how many operations that made."""
        before = sum(len(driver.log) for driver in self.drivers)
        for event in events:
            self.loop.put(event)
        self.loop.step(1.0)
        assert self.loop.status.bugs == ()
        return sum(len(driver.log) for driver in self.drivers) - before

    def endpoints(self, family: Family) -> set[str]:
        """Who serves the Service's cluster IP."""
        key = VirtualServerKey(family, Protocol.TCP, VIP[family], 80)
        held = (value for driver in self.drivers for value in driver.list().values())
        return {one.key.address for one in held if isinstance(one, RealServer) and one.key.server == key}


def part(number: int, family: Family, count: int = 1000) -> EndpointSlice:
    found = (POD[family].format(number * 4 + at // 250, at % 250 + 1) for at in range(count))
    endpoints = tuple(Endpoint(one, "node-2") for one in found)
    return EndpointSlice(
        Ref("default", f"web-{family:d}-{number}"), WEB.ref, family, (EndpointPort("", Protocol.TCP, 8080),), endpoints
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_thousand_endpoints_and_one_change_costs_one_change(family: Family) -> None:
    world = World()
    slices = [part(number, family) for number in range(10)]
    world.take(Upsert(WEB), *map(Upsert, slices))
    assert len(world.endpoints(family)) == 10_000
    first = slices[0].endpoints[0]
    changed = replace(slices[0], endpoints=(replace(first, ready=False), *slices[0].endpoints[1:]))
    assert world.take(Upsert(changed)) == 1


def test_a_service_that_flaps_is_computed_once_a_step() -> None:
    world = World()
    world.take(Upsert(WEB), *(Upsert(part(0, family, 3)) for family in FAMILIES))
    assert world.take(*(event for _ in range(100) for event in (Delete(Service, WEB.ref), Upsert(WEB)))) == 0
    gone = world.take(*(event for _ in range(100) for event in (Upsert(WEB), Delete(Service, WEB.ref))))
    assert 0 < gone < 30
    assert not any(world.endpoints(family) for family in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_slices_in_any_order_before_and_after_their_service(family: Family) -> None:
    for events in ((Upsert(part(0, family, 2)), Upsert(WEB)), (Upsert(WEB), Upsert(part(0, family, 2)))):
        world = World()
        for event in events:
            world.take(event)
        assert len(world.endpoints(family)) == 2


@pytest.mark.parametrize("ports", [None, [], [{"name": "", "protocol": "TCP"}], [{"name": "", "port": 99999}]])
def test_a_slice_without_a_usable_port_serves_nothing_and_harms_nobody(ports: object) -> None:
    world = World()
    world.take(Upsert(WEB), Upsert(part(0, IPV4, 2)))
    labels = {"kubernetes.io/service-name": "web"}
    raw = {
        "metadata": {"namespace": "default", "name": "odd", "labels": labels},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": ["10.1.9.9"]}],
    }
    record = decode(EndpointSlice, json.dumps(raw).encode()).record
    world.take(*([Upsert(record)] if record else []))
    assert world.endpoints(IPV4) == {"10.1.0.1", "10.1.0.2"}


def test_addresses_in_old_spellings_are_one_endpoint() -> None:
    """Leading zeros are decimal, as the API reads them; an IPv4-mapped address in an IPv6 slice is no IPv6 endpoint."""
    world = World()
    labels = {"kubernetes.io/service-name": "web"}
    for name, kind, addresses in (
        ("old", "IPv4", ["010.001.000.001"]),
        ("same", "IPv4", ["10.1.0.1"]),
        ("mapped", "IPv6", ["::ffff:10.1.0.1"]),
        ("six", "IPv6", ["FD00:1:0::0:1"]),
    ):
        raw = {
            "metadata": {"namespace": "default", "name": name, "labels": labels},
            "addressType": kind,
            "ports": [{"name": "", "port": 8080}],
            "endpoints": [{"addresses": addresses}],
        }
        record = decode(EndpointSlice, json.dumps(raw).encode()).record
        world.take(*([Upsert(record)] if record else []))
    world.take(Upsert(WEB))
    assert world.endpoints(IPV4) == {"10.1.0.1"}
    assert world.endpoints(Family.IPV6) == {"fd00:1::1"}


@pytest.mark.parametrize("family", FAMILIES)
def test_K4_an_address_that_changes_hands_within_one_step_has_the_new_owners_endpoints(family: Family) -> None:  # noqa: N802
    world = World()
    world.take(Upsert(WEB), Upsert(part(0, family, 2)))
    heir = replace(WEB, ref=Ref("default", "heir"))
    theirs = replace(part(7, family, 1), ref=Ref("default", "heir-1"), service=heir.ref)
    world.take(Upsert(heir), Upsert(theirs), Delete(Service, WEB.ref), Delete(EndpointSlice, part(0, family).ref))
    assert world.endpoints(family) == {one.address for one in theirs.endpoints}


@pytest.mark.parametrize("family", FAMILIES)
def test_K14_the_own_nodes_zone_changes_and_so_do_the_endpoints_that_serve(family: Family) -> None:  # noqa: N802
    world = World()
    one, two = part(0, family, 2).endpoints
    hinted = (replace(one, for_zones=frozenset({"a"})), replace(two, for_zones=frozenset({"b"})))

    def moved(zone: str) -> set[str]:
        world.take(Upsert(Node(Ref("", "node-1"), zone=zone)))
        return world.endpoints(family)

    world.take(Upsert(WEB), Upsert(replace(part(0, family, 2), endpoints=hinted)))
    assert moved("a") == {one.address}
    assert moved("b") == {two.address}
    assert moved("") == {one.address, two.address}
    assert moved("c") == {one.address, two.address}
    assert moved("a") == {one.address}


def test_K13_a_node_that_moves_takes_its_node_ports_along() -> None:  # noqa: N802
    world = World()
    service = replace(WEB, type=ServiceType.NODE_PORT, ports=(ServicePort("", Protocol.TCP, 80, 30080),))

    def at(*addresses: str) -> Upsert:
        return Upsert(Node(Ref("", "node-1"), tuple(NodeAddress("InternalIP", one) for one in addresses)))

    def listens() -> set[str]:
        keys = (key for driver in world.drivers for key in driver.list())
        return {key.address for key in keys if isinstance(key, VirtualServerKey) and key.port == 30080}

    world.take(Upsert(service), at("10.0.0.1", "fd00::1"))
    assert listens() == {"10.0.0.1", "fd00::1"}
    world.take(at("10.0.0.2", "fd00::2"))
    assert listens() == {"10.0.0.2", "fd00::2"}


@pytest.mark.parametrize("family", FAMILIES)
def test_direct_server_return_without_a_container_runtime_is_an_event_on_the_service(
    family: Family, tmp_path: Path
) -> None:
    world = World(PodsDriver(Runtime(f"unix://{tmp_path}/none.sock")))
    outside = {4: "203.0.113.7", 6: "2001:db8::7"}[family]
    ports = (EndpointPort("", Protocol.TCP, 80),)
    here = replace(part(0, family, 1), ports=ports, endpoints=(Endpoint(POD[family].format(1, 5), "node-1"),))
    asking = replace(WEB, external_ips=(outside,), annotations={ANNOTATION: TUNNEL})
    world.loop.config = replace(world.loop.config, strict_external_ip_validation=False)
    world.take(Upsert(asking), Upsert(here))
    ((owner, note),) = world.told
    assert str(owner) == "proxy/service/default/web"
    assert note.event
    assert note.reason.startswith("not-programmed: ")
    assert f"no container runtime on {tmp_path}/none.sock; set dsr.enabled in the chart" in note.reason
    assert world.endpoints(family)  # the cluster IP is served all the same
