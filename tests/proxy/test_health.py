"""Health-check node ports: which Services have one, what counts, and who may ask."""

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
from kuberouterpy.dataplane import Entry, HealthCheck, HealthCheckKey, Jump, Set
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol
from proxy import health
from proxy.services import desired

HOST = Host("node-1", families=FAMILIES, node_addresses=("10.0.0.1", "fd00::1"))
WEB = Service(
    Ref("default", "web"),
    ServiceType.LOAD_BALANCER,
    ("10.96.0.10", "fd00:10:96::10"),
    (ServicePort("http", Protocol.TCP, 80, 30080), ServicePort("admin", Protocol.TCP, 81, 30081)),
    families=FAMILIES,
    external_policy=TrafficPolicy.LOCAL,
    health_check_node_port=31000,
)
POD = {IPV4: "10.1.4.", IPV6: "fd00:1:4::"}


def pods(family: Family, *endpoints: Endpoint) -> EndpointSlice:
    ports = (EndpointPort("http", Protocol.TCP, 8080), EndpointPort("admin", Protocol.TCP, 8081))
    numbered = (replace(one, address=f"{POD[family]}{index + 2}") for index, one in enumerate(endpoints))
    return EndpointSlice(Ref("default", f"web-{family}"), WEB.ref, family, ports, tuple(numbered))


HERE = Endpoint("", "node-1")
THERE = Endpoint("", "node-2")
UNREADY = Endpoint("", "node-1", ready=False, serving=False)
DYING = Endpoint("", "node-1", ready=False, serving=True, terminating=True)


def checks(service: Service, *slices: EndpointSlice, host: Host = HOST) -> list[HealthCheck]:
    objects = desired(service, slices, host, Config(node_name="node-1")).objects
    return [value for value in objects if isinstance(value, HealthCheck)]


@pytest.mark.parametrize(
    ("endpoints", "count"),
    [
        ((), 0),
        ((HERE,), 1),
        ((HERE, HERE, THERE), 2),
        ((THERE,), 0),
        ((UNREADY,), 0),
        ((DYING,), 0),
        ((DYING, HERE), 1),
        ((Endpoint("", None),), 0),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_ready_endpoints_of_this_node_count_once_whatever_their_ports(
    family: Family, endpoints: tuple[Endpoint, ...], count: int
) -> None:
    assert checks(WEB, pods(family, *endpoints)) == [HealthCheck(HealthCheckKey(31000), "default", "web", count)]


def test_a_dual_stack_pod_counts_once() -> None:
    (check,) = checks(WEB, pods(IPV4, HERE, HERE), pods(IPV6, HERE, HERE))
    assert check.endpoints == 2


@pytest.mark.parametrize(
    "service",
    [
        replace(WEB, type=ServiceType.NODE_PORT),
        replace(WEB, type=ServiceType.CLUSTER_IP),
        replace(WEB, external_policy=TrafficPolicy.CLUSTER),
        replace(WEB, health_check_node_port=0),
        replace(WEB, proxy_name="other"),
        replace(WEB, cluster_ips=()),
    ],
)
def test_no_other_service_has_one(service: Service) -> None:
    assert checks(service, pods(IPV4, HERE)) == []


def test_load_balancers_may_ask_on_every_node_address_and_on_no_vip() -> None:
    objects = desired(WEB, (pods(IPV4, HERE),), HOST, Config(node_name="node-1")).objects
    members = {
        (one.key.set, one.key.member) for one in objects if isinstance(one, Entry) and ":31000" in one.key.member
    }
    assert members == {
        ("kube-router-health", "10.0.0.1,tcp:31000"),
        ("inet6:kube-router-health", "fd00::1,tcp:31000"),
    }


@pytest.mark.parametrize("families", [(IPV4,), (IPV6,), FAMILIES])
def test_there_is_one_static_rule_a_family(families: tuple[Family, ...]) -> None:
    base = list(health.base(replace(HOST, families=families)))
    assert {one.key.name for one in base if isinstance(one, Set)} <= health.SETS
    assert [one.key.parent for one in base if isinstance(one, Jump)] == ["INPUT"] * len(families)
    assert len(base) == 3 * len(families)
