"""Best paths as kernel routes."""

from __future__ import annotations

import pytest

from kuberouterpy.dataplane import NextHop, Route, RouteKey
from kuberouterpy.family import FAMILIES, Family
from routing.overlay import tunnel_name
from tests.routing.world import FAR, MINE, NEAR, PODS, World, config, reasons


@pytest.mark.parametrize("family", FAMILIES)
def test_a_next_hop_on_our_subnet_is_a_gateway(family: Family) -> None:
    wants = World(config(family)).route(PODS[2][family], NEAR[family])
    assert wants.objects == (Route(RouteKey(254, PODS[2][family]), (NextHop(gateway=NEAR[family]),)),)
    assert wants.notes == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_node_of_another_subnet_is_reached_through_its_tunnel(family: Family) -> None:
    prefix = PODS[2][family]
    wants = World(config(family)).route(prefix, FAR[family])
    hop = NextHop(link=tunnel_name(FAR[family], config(family)))
    assert wants.objects == (Route(RouteKey(254, prefix), (hop,), source=MINE[family]),)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_full_overlay_near_nodes_are_tunnelled_and_routers_are_not(family: Family) -> None:
    world = World(config(family, overlay_type="full"))
    router = {Family.IPV4: "10.0.0.254", Family.IPV6: "fd00::fe"}[family]
    assert world.route(PODS[2][family], NEAR[family]).objects[0].next_hops == (  # type: ignore[union-attr]
        NextHop(link=tunnel_name(NEAR[family], world.config)),
    )
    outside = {Family.IPV4: "192.168.0.0/16", Family.IPV6: "2001:db8::/32"}[family]
    assert world.route(outside, router).objects[0].next_hops == (NextHop(gateway=router),)  # type: ignore[union-attr]


def test_several_next_hops_are_one_route() -> None:
    wants = World(config()).route("192.168.0.0/16", "10.0.0.2", "10.0.0.254")
    assert wants.objects == (
        Route(RouteKey(254, "192.168.0.0/16"), (NextHop(gateway="10.0.0.2"), NextHop(gateway="10.0.0.254"))),
    )


@pytest.mark.parametrize(
    ("prefix", "next_hops", "reason"),
    [
        ("0.0.0.0/0", ("10.0.0.2",), "default-route"),
        ("::/0", ("fd00::2",), "default-route"),
        ("10.1.1.0/24", ("10.0.0.2",), "own-pod-cidr"),
        ("10.1.1.7/32", ("10.0.0.2",), "own-pod-cidr"),
        ("fd00:1:1::/64", ("fd00::2",), "own-pod-cidr"),
        ("10.96.0.10/32", ("10.0.0.2",), "service-range"),
        ("10.96.0.0/12", ("10.0.0.2",), "service-range"),
        ("10.0.0.0/24", ("10.0.0.2",), "own-subnet"),
        ("10.0.0.254/32", ("10.0.0.2",), "own-subnet"),
        ("10.1.9.0/24", ("10.0.0.1",), "own-address"),
        ("10.1.9.0/24", ("fd00::2",), "other-family"),
        ("10.1.9.0/24", ("172.31.0.1",), "off-subnet"),
    ],
)
def test_what_could_do_harm_is_refused_with_a_reason(prefix: str, next_hops: tuple[str, ...], reason: str) -> None:
    wants = World(config()).route(prefix, *next_hops)
    assert wants.objects == ()
    assert reasons(wants) == [reason]


def test_one_next_hop_that_cannot_be_used_leaves_the_others() -> None:
    wants = World(config()).route("10.1.9.0/24", "10.0.0.1", "10.0.0.2")
    assert wants.objects == (Route(RouteKey(254, "10.1.9.0/24"), (NextHop(gateway="10.0.0.2"),)),)
    assert reasons(wants) == ["own-address"]


def test_without_an_overlay_the_fabric_routes_to_other_subnets() -> None:
    wants = World(config(enable_overlay=False)).route("10.1.3.0/24", "10.9.0.3")
    assert (wants.objects, reasons(wants)) == ((), ["off-subnet"])


def test_a_family_that_is_off_gets_no_route() -> None:
    wants = World(config(Family.IPV4)).route("fd00:1:2::/64", "fd00::2")
    assert (wants.objects, reasons(wants)) == ((), ["family-off"])
