"""What a person must know: which notes the loop tells, how often, and what it makes of missing modules and taken ports."""

from __future__ import annotations

import errno

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    Delete,
    Link,
    Node,
    NodeAddress,
    Record,
    Ref,
    Replace,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import HealthCheck, HealthCheckKey, Note, Op, Owner, VirtualServer, VirtualServerKey
from kuberouterpy.drivers import fake
from kuberouterpy.errors import DriverError, MissingModule
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from proxy import CONTROLLER as PROXY

VIP = {IPV4: "10.96.0.10", IPV6: "fd00:10:96::10"}
OUTSIDE = {IPV4: "192.0.2.9", IPV6: "2001:db8::9"}
NODE = Node(
    Ref("", "node-1"), (NodeAddress("InternalIP", "10.0.0.1"), NodeAddress("InternalIP", "fd00::1")), ("10.1.4.0/24",)
)
OWNER = Owner("proxy", "service", "default/web")


def web(family: Family, **fields: object) -> Service:
    ports = (ServicePort("", Protocol.TCP, 80),)
    service = Service(Ref("default", "web"), ServiceType.CLUSTER_IP, (VIP[family],), ports, families=(family,))
    return replace(service, **fields)


class Poor(fake.FakeDriver):
    """A kernel without some schedulers."""

    lacks: frozenset[str] = frozenset({"mh", "nq"})

    def _attempt(self, op: Op) -> DriverError | None:
        if isinstance(op.value, VirtualServer) and op.value.scheduler in self.lacks:
            self.attempts.append(op)
            return MissingModule(f"{op.verb} {op.key}: no scheduler", errno.ENOENT, f"ip_vs_{op.value.scheduler}")
        return super()._attempt(op)


class World:
    """A loop of the proxy over fakes, and what it told."""

    def __init__(self) -> None:
        shared = fake.FakeKernel()
        self.drivers = {driver.name: driver for driver in fake.kernel(shared)}
        self.drivers["ipvs"] = Poor(self.drivers["ipvs"].kinds, name="ipvs", kernel=shared)
        self.now = 0.0
        self.told: list[tuple[Owner, Note]] = []
        self.loop = Loop(
            config=Config(node_name="node-1", enable_ipv6=True, service_external_ip_range=("203.0.113.0/24",)),
            controllers=(PROXY,),
            drivers=tuple(Programmed(driver, period_s=300) for driver in self.drivers.values()),
            expected=(*KUBERNETES_KINDS, Link),
            on_note=lambda owner, note: self.told.append((owner, note)),
        )

    def sync(self, *records: Record) -> None:
        for kind in KUBERNETES_KINDS:
            self.loop.put(Replace(kind, tuple(one for one in (NODE, *records) if type(one) is kind)))
        self.loop.put(Replace(Link, ()))
        self.step()

    def put(self, event: Upsert | Delete) -> None:
        self.loop.put(event)
        self.step()

    def step(self, after_s: float = 1.0) -> float:
        self.now += after_s
        return self.loop.step(self.now)

    def words(self) -> list[str]:
        return [note.reason.split(":")[0] for _, note in self.told]

    def server(self, family: Family) -> VirtualServer | None:
        found = self.drivers["ipvs"].list().get(VirtualServerKey(family, Protocol.TCP, VIP[family], 80))
        assert found is None or isinstance(found, VirtualServer)
        return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_refusal_is_told_once_until_it_changes(family: Family) -> None:
    world = World()
    world.sync(web(family, external_ips=(OUTSIDE[family],)))
    ((owner, note),) = world.told
    assert owner == OWNER
    assert note.subject == OUTSIDE[family]
    assert note.reason == (
        "external-ip-refused: outside --service-external-ip-range 203.0.113.0/24: "
        f"add {OUTSIDE[family]}/{family.host_prefix} or a range around it"
    )
    world.put(Upsert(web(family, external_ips=(OUTSIDE[family],), affinity_s=0, uid="again")))
    assert len(world.told) == 1
    world.put(Upsert(web(family)))
    world.put(Upsert(web(family, external_ips=(OUTSIDE[family],))))
    assert world.words() == ["external-ip-refused"] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_what_nobody_must_act_on_is_not_told(family: Family) -> None:
    world = World()
    world.sync(web(family))
    assert [note.reason for note in world.loop.notes[OWNER]] == ["no-endpoints"]
    assert world.told == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loser_of_a_contest_is_told(family: Family) -> None:
    world = World()
    later = replace(web(family), ref=Ref("default", "zeta"))
    world.sync(web(family), later)
    ((owner, note),) = world.told
    assert owner.name == "default/zeta"
    assert note.reason == "contested: default/web has it"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_scheduler_and_unknown_flags_are_told(family: Family) -> None:
    world = World()
    annotations = {"kube-router.io/service.scheduler": "fastest", "kube-router.io/service.schedflags": "flag-9"}
    world.sync(web(family, annotations=annotations))
    assert world.words() == ["unknown-scheduler", "unknown-scheduler-flag"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scheduler_the_kernel_cannot_load_gives_way_to_the_default_at_once(family: Family) -> None:
    world = World()
    asked = web(family, annotations={"kube-router.io/service.scheduler": "mh"})
    world.loop.put(Upsert(asked))
    world.sync(asked)
    assert world.server(family) is None
    assert world.step(after_s=0.0) > world.now
    served = world.server(family)
    assert served is not None
    assert served.scheduler == "rr"
    assert world.words() == ["missing-scheduler"]
    assert "ip_vs_mh on node-1" in world.told[0][1].reason
    assert world.loop.status.failing == ()
    # Known now: the next Service that wants it does not fail first.
    attempts = len(world.drivers["ipvs"].attempts)
    other = replace(asked, ref=Ref("default", "zeta"), cluster_ips=(VIP[family] + "9",))
    world.put(Upsert(other))
    assert len(world.drivers["ipvs"].attempts) == attempts + 1
    assert world.words() == ["missing-scheduler"] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_service_that_changes_to_a_missing_scheduler_keeps_its_virtual_server(family: Family) -> None:
    world = World()
    world.sync(web(family))
    before = world.server(family)
    world.put(Upsert(web(family, annotations={"kube-router.io/service.scheduler": "nq"})))
    assert world.server(family) == before
    world.step(after_s=0.0)
    assert world.server(family) == before
    assert world.loop.status.failing == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_taken_health_check_port_is_told_once_and_opened_when_it_is_free(family: Family) -> None:
    world = World()
    world.drivers["health"].fail(HealthCheckKey(31000), errno.EADDRINUSE, times=2)
    local = {"type": ServiceType.LOAD_BALANCER, "external_policy": TrafficPolicy.LOCAL, "health_check_node_port": 31000}
    world.sync(web(family, **local))
    ((owner, note),) = world.told
    assert owner == OWNER
    assert note.reason.startswith("not-programmed: ")
    assert "EADDRINUSE" in note.reason
    for _ in range(3):
        world.step(after_s=5.0)
    assert len(world.told) == 1
    wanted = HealthCheck(HealthCheckKey(31000), "default", "web", 0)
    assert world.drivers["health"].list() == {wanted.key: wanted}
    world.put(Delete(Service, Ref("default", "web")))
    assert world.drivers["health"].list() == {}
