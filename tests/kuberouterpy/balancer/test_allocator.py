"""What an allocator does for a person: addresses, claims, conditions, Events, and back."""

from __future__ import annotations

import pytest

from kuberouterpy.balancer.claims import Claims
from kuberouterpy.balancer.pools import ADDRESSES
from kuberouterpy.cluster import Service
from kuberouterpy.config import Config
from tests.kuberouterpy.balancer.world import NAMESPACE, World, ref

CONFIG = Config(enable_ipv6=True, run_loadbalancer=True, loadbalancer_ip_range=("198.51.100.0/30", "2001:db8:1b::/126"))


@pytest.fixture
def world() -> World:
    return World(CONFIG)


def told(world: World) -> list[tuple[str, str, str]]:
    return [(one.ref.name, one.reason, one.message) for one in world.events]


def test_a_service_gets_an_address_a_claim_a_condition_and_an_event(world: World) -> None:
    world.server.create("web")
    world.turn()
    assert world.server.addresses("web") == ["198.51.100.1"]
    assert world.server.claims() == {"198.51.100.1": "default/web"}
    assert world.server.condition("web") == ("True", "Allocated", "198.51.100.1")
    assert told(world) == [("web", "AddressAllocated", "198.51.100.1")]
    assert (world.events[0].kind, world.events[0].ref) == (Service, ref("web"))


def test_nothing_is_written_again_while_nothing_changes(world: World) -> None:
    world.server.create("web")
    world.turn()
    before = world.server.service("web")["metadata"]["resourceVersion"]
    for _ in range(5):
        world.turn(after_s=61.0)
    assert world.server.service("web")["metadata"]["resourceVersion"] == before


def test_an_address_comes_back_when_its_service_is_deleted_or_changes_its_type(world: World) -> None:
    for name in ("a", "b", "c"):
        world.server.create(name)
    world.turn()
    assert [world.server.addresses(name) for name in ("a", "b", "c")] == [["198.51.100.1"], ["198.51.100.2"], []]
    reason = "no address is free in 198.51.100.0/30; add a range to --loadbalancer-ip-range"
    assert world.server.condition("c") == ("False", "AddressExhausted", reason)
    assert told(world)[-1] == ("c", "AddressExhausted", reason)
    world.server.remove("a")
    world.turn()
    assert world.server.addresses("c") == ["198.51.100.1"]
    world.server.patch("b", {"spec": {"type": "ClusterIP", "allocateLoadBalancerNodePorts": None}})
    world.turn()
    assert world.server.addresses("b") == []
    assert world.server.claims() == {"198.51.100.1": "default/c"}
    assert world.server.condition("b") == ("False", "Released", "gave back 198.51.100.2")


def test_a_service_moves_to_the_address_that_it_asks_for(world: World) -> None:
    world.server.create("web")
    world.turn()
    world.server.patch("web", {"metadata": {"annotations": {ADDRESSES: "198.51.100.2"}}})
    world.turn()
    assert world.server.addresses("web") == ["198.51.100.2"]
    assert world.server.claims() == {"198.51.100.2": "default/web"}
    world.server.patch("web", {"metadata": {"annotations": {ADDRESSES: "198.51.100.3"}}})
    world.turn()
    assert world.server.addresses("web") == ["198.51.100.2"], "the last good address stays"
    assert told(world)[-1][:2] == ("web", "AddressRefused")


def test_addresses_of_an_allocator_before_us_are_kept_and_claimed(world: World) -> None:
    world.server.create("old")
    world.server.patch(
        "old", {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}}, subresource="/status"
    )
    world.server.create("new")
    world.turn()
    assert world.server.addresses("old") == ["198.51.100.1"]
    assert world.server.addresses("new") == ["198.51.100.2"]
    assert world.server.claims() == {"198.51.100.1": "default/old", "198.51.100.2": "default/new"}


def test_an_address_that_is_an_external_ip_of_another_is_not_given(world: World) -> None:
    world.server.create("other", type="ClusterIP", externalIPs=["198.51.100.1"])
    world.server.create("web")
    world.turn()
    assert world.server.addresses("web") == ["198.51.100.2"]


def test_services_of_another_class_are_left_alone(world: World) -> None:
    world.server.create("theirs", loadBalancerClass="example.com/other")
    world.turn()
    assert world.server.addresses("theirs") == []
    assert "conditions" not in world.server.service("theirs")["status"]


def test_a_restart_in_the_middle_goes_on_where_it_was(world: World) -> None:
    """A claim without an address in the status is taken up, one without a Service goes."""
    world.server.create("web")
    world.turn()
    world.server.patch("web", {"status": {"loadBalancer": {"ingress": None}}}, subresource="/status")
    assert Claims(world.server, NAMESPACE).make("198.51.100.2", ref("gone"), "a uid that was") is not None
    again = World(CONFIG, world.server, identity="two")
    again.turn()
    assert world.server.addresses("web") == [], "the Lease is another's yet"
    again.turn(after_s=16.0)
    assert world.server.addresses("web") == ["198.51.100.1"]
    assert world.server.claims() == {"198.51.100.1": "default/web"}


def test_only_the_leader_works_and_the_next_one_goes_on(world: World) -> None:
    world.turn()
    other = World(CONFIG, world.server, identity="two")
    world.server.create("web")
    other.turn()
    assert world.server.addresses("web") == []
    world.allocator.election.resign()
    other.turn(after_s=3.0)
    assert world.server.addresses("web") == ["198.51.100.1"]
