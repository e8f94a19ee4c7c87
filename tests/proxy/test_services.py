"""A Service on this host: where it listens, what it refuses, and why."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import LoadBalancerIngress, Ref, Service, ServicePort, ServiceType, TrafficPolicy
from kuberouterpy.config import Config
from kuberouterpy.dataplane import LocalAddress, VirtualServer
from kuberouterpy.family import FAMILIES, IPV4, IPV6
from kuberouterpy.flags import SCHEDULERS
from kuberouterpy.host import Host, Subnet
from kuberouterpy.protocol import Protocol
from proxy.frontends import Vip, ignored, listening, policy_of
from proxy.services import desired

HOST = Host(
    "node-1",
    families=FAMILIES,
    node_addresses=("10.0.0.1", "fd00::1", "192.0.2.1"),
    subnets=(Subnet("10.0.0.0/24", "10.0.0.1", "eth0"), Subnet("10.9.0.0/24", "10.9.0.1", "eth1")),
)
CONFIG = Config(
    node_name="node-1",
    enable_ipv6=True,
    service_cluster_ip_range=("10.96.0.0/12", "fd00:10:96::/112"),
    service_external_ip_range=("203.0.113.0/24", "2001:db8::/64"),
    loadbalancer_ip_range=("198.51.100.0/24", "2001:db8:1::/64"),
)
WEB = Service(
    Ref("default", "web"),
    ServiceType.NODE_PORT,
    ("10.96.0.10", "fd00:10:96::10"),
    (ServicePort("http", Protocol.TCP, 80, 30080), ServicePort("dns", Protocol.UDP, 53, 30053)),
    families=(IPV4, IPV6),
)


def addresses(service: Service, vip: Vip, config: Config = CONFIG, host: Host = HOST) -> list[tuple[str, int]]:
    frontends, _ = listening(service, host, config)
    return sorted((one.address, one.number) for one in frontends if one.vip is vip)


def reasons(service: Service, config: Config = CONFIG) -> dict[str, str]:
    return {note.subject: note.reason.split(":")[0] for note in desired(service, (), HOST, config).notes}


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        (replace(WEB, type=ServiceType.EXTERNAL_NAME), "external-name"),
        (replace(WEB, cluster_ips=()), "headless"),
        (replace(WEB, headless_label=True), "headless-label"),
        (replace(WEB, proxy_name="other"), "another-proxy: other"),
        (replace(WEB, proxy_name=""), "another-proxy: empty name"),
        (replace(WEB, proxy_name="kube-router"), ""),
        (WEB, ""),
    ],
)
def test_services_of_others_are_left_alone(service: Service, reason: str) -> None:
    assert ignored(service) == reason
    assert bool(desired(service, (), HOST, CONFIG).objects) == (not reason)


def test_cluster_ips_of_both_families_listen_on_every_port() -> None:
    assert addresses(WEB, Vip.CLUSTER_IP) == [
        ("10.96.0.10", 53),
        ("10.96.0.10", 80),
        ("fd00:10:96::10", 53),
        ("fd00:10:96::10", 80),
    ]


def test_a_family_that_is_off_has_no_frontends() -> None:
    only_v4 = replace(HOST, families=(IPV4,), node_addresses=("10.0.0.1",))
    assert addresses(WEB, Vip.CLUSTER_IP, host=only_v4) == [("10.96.0.10", 53), ("10.96.0.10", 80)]


def test_node_ports_listen_on_every_node_address_of_the_services_families() -> None:
    assert addresses(WEB, Vip.NODE_PORT) == [
        ("10.0.0.1", 30053),
        ("10.0.0.1", 30080),
        ("192.0.2.1", 30053),
        ("192.0.2.1", 30080),
        ("fd00::1", 30053),
        ("fd00::1", 30080),
    ]
    assert {address for address, _ in addresses(replace(WEB, families=(IPV6,)), Vip.NODE_PORT)} == {"fd00::1"}


def test_node_ports_may_listen_on_all_addresses_or_on_chosen_ones() -> None:
    every = replace_config(nodeport_bindon_all_ip=True)
    assert {address for address, _ in addresses(WEB, Vip.NODE_PORT, every)} == {
        "10.0.0.1",
        "10.9.0.1",
        "192.0.2.1",
        "fd00::1",
    }
    chosen = replace_config(nodeport_addresses=("10.9.0.0/16", "fd00::/16"))
    assert {address for address, _ in addresses(WEB, Vip.NODE_PORT, chosen)} == {"10.9.0.1", "fd00::1"}


@pytest.mark.parametrize(
    ("address", "vip", "reason"),
    [
        ("203.0.113.9", Vip.EXTERNAL_IP, None),
        ("2001:db8::9", Vip.EXTERNAL_IP, None),
        ("198.51.100.9", Vip.EXTERNAL_IP, "external-ip-refused"),
        ("10.96.0.99", Vip.EXTERNAL_IP, "external-ip-refused"),
        ("198.51.100.9", Vip.LOAD_BALANCER_IP, None),
        ("2001:db8:1::9", Vip.LOAD_BALANCER_IP, None),
        ("203.0.113.9", Vip.LOAD_BALANCER_IP, "load-balancer-ip-refused"),
    ],
)
def test_vips_outside_the_configured_ranges_are_refused_with_a_reason(
    address: str, vip: Vip, reason: str | None
) -> None:
    external = replace(WEB, external_ips=(address,))
    balanced = replace(WEB, type=ServiceType.LOAD_BALANCER, load_balancer=(LoadBalancerIngress(address),))
    service = external if vip is Vip.EXTERNAL_IP else balanced
    assert addresses(service, vip) == ([] if reason else [(address, 53), (address, 80)])
    assert reasons(service).get(address) == reason


def test_without_strict_validation_only_the_cluster_range_is_refused() -> None:
    loose = replace_config(strict_external_ip_validation=False)
    service = replace(WEB, external_ips=("192.0.2.77", "10.96.0.99"))
    assert addresses(service, Vip.EXTERNAL_IP, loose) == [("192.0.2.77", 53), ("192.0.2.77", 80)]


def test_an_address_the_load_balancer_keeps_for_itself_is_not_bound() -> None:
    ingress = (LoadBalancerIngress("198.51.100.9", proxy=True),)
    service = replace(WEB, type=ServiceType.LOAD_BALANCER, load_balancer=ingress)
    assert addresses(service, Vip.LOAD_BALANCER_IP) == []
    assert reasons(service)["198.51.100.9"] == "ip-mode-proxy"


def test_a_status_that_outlived_a_change_of_type_is_not_served() -> None:
    once = replace(WEB, load_balancer=(LoadBalancerIngress("198.51.100.9"), LoadBalancerIngress("2001:db8:1::9")))
    assert addresses(once, Vip.LOAD_BALANCER_IP) == []
    assert len(addresses(replace(once, type=ServiceType.LOAD_BALANCER), Vip.LOAD_BALANCER_IP)) == 4


def test_the_two_traffic_policies_are_independent() -> None:
    service = replace(WEB, internal_policy=TrafficPolicy.LOCAL)
    assert policy_of(service, Vip.CLUSTER_IP) is TrafficPolicy.LOCAL
    assert policy_of(service, Vip.NODE_PORT) is TrafficPolicy.CLUSTER
    forced = replace(service, annotations={"kube-router.io/service.local": "true"})
    assert policy_of(forced, Vip.CLUSTER_IP) is TrafficPolicy.CLUSTER
    assert policy_of(forced, Vip.NODE_PORT) is TrafficPolicy.LOCAL


def test_a_service_without_endpoints_keeps_its_virtual_servers_so_that_they_refuse() -> None:
    wanted = desired(WEB, (), HOST, CONFIG)
    assert sum(isinstance(value, VirtualServer) for value in wanted.objects) == 10
    assert {note.reason for note in wanted.notes} == {"no-endpoints"}


def test_node_addresses_are_never_bound() -> None:
    bound = {value.key.address for value in desired(WEB, (), HOST, CONFIG).objects if isinstance(value, LocalAddress)}
    assert bound == {"10.96.0.10", "fd00:10:96::10"}


@pytest.mark.parametrize(
    ("annotations", "scheduler", "flags", "reason"),
    [
        ({}, "rr", 0, None),
        ({"scheduler": "wlc"}, "wlc", 0, None),
        ({"scheduler": "fastest"}, "rr", 0, "unknown-scheduler"),
        (
            {"scheduler": "mh", "schedflags": "flag-1, flag-2"},
            "mh",
            0x18,
            None,
        ),
        ({"scheduler": "rr", "schedflags": "flag-1"}, "rr", 0, "unknown-scheduler-flag"),
        ({"scheduler": "sh", "schedflags": "sh-port"}, "sh", 0x10, None),
        ({"scheduler": "mh", "schedflags": "mh-fallback,,mh-port"}, "mh", 0x18, None),
        ({"scheduler": "mh", "schedflags": "sh-port"}, "mh", 0, "unknown-scheduler-flag"),
        (
            {"scheduler": "mh", "schedflags": "x"},
            "mh",
            0,
            "unknown-scheduler-flag",
        ),
    ],
)
def test_scheduler_annotations(annotations: dict[str, str], scheduler: str, flags: int, reason: str | None) -> None:
    service = replace(WEB, annotations={f"kube-router.io/service.{key}": value for key, value in annotations.items()})
    servers = [value for value in desired(service, (), HOST, CONFIG).objects if isinstance(value, VirtualServer)]
    assert {(server.scheduler, server.flags) for server in servers} == {(scheduler, flags)}
    assert reasons(service).get("default/web") == reason


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_may_be_the_clusters_or_a_services(scheduler: str) -> None:
    config = replace_config(ipvs_scheduler=scheduler)
    for service in (WEB, replace(WEB, annotations={"kube-router.io/service.scheduler": "fastest"})):
        found = [one for one in desired(service, (), HOST, config).objects if isinstance(one, VirtualServer)]
        assert {one.scheduler for one in found} == {scheduler}
    named = replace(WEB, annotations={"kube-router.io/service.scheduler": scheduler})
    found = [one for one in desired(named, (), HOST, CONFIG).objects if isinstance(one, VirtualServer)]
    assert {one.scheduler for one in found} == {scheduler}


def test_excluded_ranges_are_left_to_others_and_told() -> None:
    config = replace_config(excluded_cidrs=("10.96.0.10/32", "fd00::1/128"))
    frontends, notes = listening(WEB, HOST, config)
    assert {one.address for one in frontends} == {"fd00:10:96::10", "10.0.0.1", "192.0.2.1"}
    assert [note.subject for note in notes if note.event] == ["10.96.0.10"]


def test_a_node_that_tells_no_address_serves_node_ports_on_those_of_its_links() -> None:
    silent = replace(HOST, node_addresses=())
    assert addresses(WEB, Vip.NODE_PORT, host=silent) == [
        ("10.0.0.1", 30053),
        ("10.0.0.1", 30080),
        ("10.9.0.1", 30053),
        ("10.9.0.1", 30080),
    ]


def replace_config(**changes: object) -> Config:
    return replace(CONFIG, **changes)
