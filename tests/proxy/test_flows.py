"""UDP flows: which addresses are looked after, and who may answer there."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Ref,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Flows, FlowsKey, VirtualServer, requires
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol
from proxy.services import desired

HOST = Host("node-1", families=FAMILIES, node_addresses=("10.0.0.1", "fd00::1"))
CONFIG = Config(node_name="node-1", service_external_ip_range=("203.0.113.0/24",))
DNS = Service(
    Ref("default", "dns"),
    ServiceType.NODE_PORT,
    ("10.96.0.10", "fd00:10:96::10"),
    (ServicePort("udp", Protocol.UDP, 53, 30053), ServicePort("tcp", Protocol.TCP, 53, 30053)),
    external_ips=("203.0.113.9",),
    families=FAMILIES,
)
POD = {IPV4: "10.1.4.", IPV6: "fd00:1:4::"}


def pods(family: Family) -> EndpointSlice:
    """Ready here and elsewhere, dying, not ready."""
    endpoints = (
        Endpoint(f"{POD[family]}2", "node-1"),
        Endpoint(f"{POD[family]}3", "node-2", for_zones=frozenset({"elsewhere"})),
        Endpoint(f"{POD[family]}4", "node-1", ready=False, serving=True, terminating=True),
        Endpoint(f"{POD[family]}5", "node-1", ready=False, serving=False),
    )
    ports = (EndpointPort("udp", Protocol.UDP, 5353), EndpointPort("tcp", Protocol.TCP, 5353))
    return EndpointSlice(Ref("default", f"dns-{family}"), DNS.ref, family, ports, endpoints)


def found(service: Service = DNS) -> dict[FlowsKey, Flows]:
    objects = desired(service, (pods(IPV4), pods(IPV6)), HOST, CONFIG).objects
    return {one.key: one for one in objects if isinstance(one, Flows)}


def test_every_udp_address_and_port_is_looked_after_and_no_tcp_one() -> None:
    assert {(one.protocol, one.address, one.port) for one in found()} == {
        (Protocol.UDP, "10.96.0.10", 53),
        (Protocol.UDP, "fd00:10:96::10", 53),
        (Protocol.UDP, "203.0.113.9", 53),
        (Protocol.UDP, "10.0.0.1", 30053),
        (Protocol.UDP, "fd00::1", 30053),
    }
    assert found(replace(DNS, ports=DNS.ports[1:])) == {}


@pytest.mark.parametrize("policy", TrafficPolicy)
def test_whoever_serves_may_answer_whatever_the_policy(policy: TrafficPolicy) -> None:
    service = replace(DNS, internal_policy=policy, external_policy=policy)
    for key, flows in found(service).items():
        assert flows.answering == tuple(f"{POD[key.family]}{number}" for number in (2, 3, 4))


def test_each_needs_its_virtual_server_first() -> None:
    servers = {one.key for one in desired(DNS, (pods(IPV4),), HOST, CONFIG).objects if isinstance(one, VirtualServer)}
    for flows in found().values():
        assert set(requires(flows)) <= servers


def test_with_direct_return_the_address_itself_answers() -> None:
    direct = found(replace(DNS, annotations={"kube-router.io/service.dsr": "tunnel"}))
    assert found().keys() - direct.keys() == {FlowsKey(IPV4, Protocol.UDP, "203.0.113.9", 53)}
