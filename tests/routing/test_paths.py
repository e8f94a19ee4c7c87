"""Announcements, and reasons for what is not announced."""

from __future__ import annotations

import pytest

from kuberouterpy.cluster import (
    Endpoint,
    EndpointSlice,
    LoadBalancerIngress,
    Ref,
    Service,
    ServiceType,
    TrafficPolicy,
)
from kuberouterpy.dataplane import Path, PathKey
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from tests.routing.world import MINE, PODS, World, config, reasons

WEB = Ref("default", "web")
VIP = {IPV4: "10.96.0.10", IPV6: "fd00:96::10"}
ADVERTISE = "kube-router.io/service.advertise."


def service(**fields: object) -> Service:
    values: dict[str, object] = {"type": ServiceType.CLUSTER_IP, "cluster_ips": (VIP[IPV4], VIP[IPV6])}
    return Service(WEB, **(values | fields))  # type: ignore[arg-type]


def endpoints(family: Family = IPV4, **fields: object) -> EndpointSlice:
    values: dict[str, object] = {"address": "10.1.1.5", "node": "node-1"}
    return EndpointSlice(Ref("default", "web-1"), WEB, family, (), (Endpoint(**(values | fields)),))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_this_nodes_pod_cidrs_are_announced_by_way_of_its_address(family: Family) -> None:
    paths = [one for one in World(config(family)).wants("node", "node-1").objects if isinstance(one, Path)]
    assert paths == [Path(PathKey(PODS[1][family]), MINE[family])]
    assert not any(isinstance(one, Path) for one in World(config(family)).wants("node", "node-2").objects)


def test_vips_are_announced_of_both_families_when_the_flag_says_so() -> None:
    wants = World(config(advertise_cluster_ip=True), service()).wants("service", "default/web")
    assert wants.objects == (
        Path(PathKey("10.96.0.10/32"), "10.0.0.1"),
        Path(PathKey("fd00:96::10/128"), "fd00::1"),
    )


@pytest.mark.parametrize(
    ("flag", "annotation", "announced"),
    [
        (False, None, 0),
        (False, "true", 2),
        (True, None, 2),
        (True, "false", 0),
        (True, "maybe", 2),
        (False, "maybe", 0),
    ],
)
def test_an_annotation_overrides_the_flag_and_an_unreadable_one_does_not(
    flag: bool, annotation: str | None, announced: int
) -> None:
    annotations = {} if annotation is None else {f"{ADVERTISE}clusterip": annotation}
    world = World(config(advertise_cluster_ip=flag), service(annotations=annotations))
    wants = world.wants("service", "default/web")
    assert len(wants.objects) == announced
    assert ("invalid-annotation" in reasons(wants)) is (annotation == "maybe")


@pytest.mark.parametrize(
    ("endpoint", "announced"),
    [
        ({}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"node": "node-2"}, False),
        ({"node": None}, False),
    ],
)
def test_local_traffic_policy_needs_a_ready_endpoint_here(endpoint: dict[str, object], announced: bool) -> None:
    """Announcing with an unready one draws traffic to a node that drops it (kube-router.md 6.4 row 14)."""
    local = service(external_policy=TrafficPolicy.LOCAL, external_ips=("203.0.113.1",))
    settings = config(advertise_external_ip=True, service_external_ip_range=("203.0.113.0/24",))
    wants = World(settings, local, endpoints(**endpoint)).wants("service", "default/web")
    assert bool(wants.objects) is announced
    assert ("no-local-endpoint" in reasons(wants)) is not announced


def test_a_service_without_slices_is_announced_under_cluster_policy() -> None:
    """One Service without any slice once withdrew the VIPs of all (kube-router #1917)."""
    wants = World(config(IPV4, advertise_cluster_ip=True), service()).wants("service", "default/web")
    assert [one.key for one in wants.objects] == [PathKey("10.96.0.10/32")]


@pytest.mark.parametrize(
    ("fields", "settings", "reason"),
    [
        ({"external_ips": ("203.0.113.1",)}, {}, "refused"),
        ({"external_ips": ("10.96.0.77",)}, {"service_external_ip_range": ("10.0.0.0/8",)}, "refused"),
        ({"type": ServiceType.LOAD_BALANCER, "load_balancer": (LoadBalancerIngress("203.0.113.1"),)}, {}, "refused"),
        (
            {
                "type": ServiceType.LOAD_BALANCER,
                "load_balancer": (LoadBalancerIngress("203.0.113.1", proxy=True),),
            },
            {"loadbalancer_ip_range": ("203.0.113.0/24",)},
            "ip-mode-proxy",
        ),
        (
            {
                "type": ServiceType.LOAD_BALANCER,
                "load_balancer": (LoadBalancerIngress("203.0.113.1"),),
                "annotations": {"kube-router.io/service.skiplbips": "true"},
            },
            {"loadbalancer_ip_range": ("203.0.113.0/24",)},
            "skipped",
        ),
    ],
)
def test_vips_that_must_not_be_announced_are_noted(
    fields: dict[str, object], settings: dict[str, object], reason: str
) -> None:
    flags = config(IPV4, advertise_external_ip=True, advertise_loadbalancer_ip=True, **settings)
    wants = World(flags, service(cluster_ips=("10.96.0.10",), **fields)).wants("service", "default/web")
    assert wants.objects == ()
    assert reason in reasons(wants)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"type": ServiceType.EXTERNAL_NAME, "cluster_ips": ()}, "external-name"),
        ({"cluster_ips": ()}, "headless"),
        ({"headless_label": True}, "headless"),
        ({"proxy_name": "cilium"}, "another-proxy"),
    ],
)
def test_services_that_are_none_of_ours_are_noted(fields: dict[str, object], reason: str) -> None:
    wants = World(config(advertise_cluster_ip=True), service(**fields)).wants("service", "default/web")
    assert (wants.objects, reasons(wants)) == ((), [reason])
