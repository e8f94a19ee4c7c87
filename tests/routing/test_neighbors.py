"""Sessions: whom, from where, and who dials."""

from __future__ import annotations

import pytest

from kuberouterpy.dataplane import Neighbor, NeighborKey, Speaker, SpeakerKey
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from routing import neighbors
from tests.routing.world import FAR, MINE, NEAR, World, config, node, reasons


def the_neighbor(world: World, name: str) -> Neighbor:
    return next(one for one in world.wants("node", name).objects if isinstance(one, Neighbor))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_other_node_is_a_neighbor(family: Family) -> None:
    world = World(config(family, bgp_port=1790, bgp_graceful_restart=True))
    for name, address in (("node-2", NEAR[family]), ("node-3", FAR[family])):
        assert the_neighbor(world, name) == Neighbor(
            NeighborKey(address),
            asn=64512,
            local_address=MINE[family],
            port=1790,
            families=(family,),
            description=name,
            hold_time_s=90,
            graceful_restart_s=90,
        )
    assert not any(isinstance(one, Neighbor) for one in world.wants("node", "node-1").objects)


def test_a_dual_stack_session_runs_over_ipv4_and_carries_both() -> None:
    found = the_neighbor(World(config()), "node-2")
    assert (found.key.address, found.families) == (NEAR[IPV4], (IPV4, IPV6))


@pytest.mark.parametrize("order", [(IPV4, IPV6), (IPV6, IPV4)])
def test_both_ends_choose_the_same_addresses_and_one_dials(order: tuple[Family, Family]) -> None:
    """Whatever order the nodes' addresses have: an asymmetric choice would never meet."""
    mixed = node("node-2", (NEAR[family] for family in order))
    here = World(config(), mixed)
    there = World(config(node_name="node-2"), mixed)
    ours, theirs = the_neighbor(here, "node-2"), the_neighbor(there, "node-1")
    assert (ours.local_address, ours.key.address) == (theirs.key.address, theirs.local_address)
    assert {ours.passive, theirs.passive} == {True, False}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"enable_ibgp": False}, "ibgp-off"), ({"nodes_full_mesh": False}, "no-full-mesh")],
)
def test_without_a_mesh_nodes_are_no_neighbors_and_a_note_says_why(fields: dict[str, object], reason: str) -> None:
    wants = World(config(**fields)).wants("node", "node-2")
    assert not any(isinstance(one, Neighbor) for one in wants.objects)
    assert reasons(wants) == [reason]


def test_a_node_of_another_family_is_noted() -> None:
    world = World(config(IPV4), node("node-4", ("fd00::4",)))
    assert reasons(world.wants("node", "node-4")) == ["no-common-family"]


@pytest.mark.parametrize(
    ("families", "given", "expected"),
    [
        ((IPV4,), "", "10.0.0.1"),
        ((IPV4, IPV6), "", "10.0.0.1"),
        ((IPV4,), "192.0.2.9", "192.0.2.9"),
        ((IPV6,), "", "153.84.88.10"),
        ((IPV6,), "generate", "153.84.88.10"),
    ],
)
def test_the_router_id_is_stable_and_never_missing(families: tuple[Family, ...], given: str, expected: str) -> None:
    """An IPv6-only node has no IPv4 address to take: a hash of its own stands in."""
    world = World(config(*families, router_id=given))
    assert neighbors.router_id(world.host, world.config) == expected


def test_the_hash_is_fnv_1a() -> None:
    """Vectors of the algorithm's authors."""
    assert (neighbors.fnv1a("a"), neighbors.fnv1a("foobar")) == (0xE40C292C, 0xBF9CF968)


def test_the_speaker_listens_on_the_primary_addresses_only() -> None:
    world = World(config(bgp_graceful_restart=True))
    assert neighbors.speaker(world.host, world.config) == Speaker(
        SpeakerKey(),
        asn=64512,
        router_id="10.0.0.1",
        listen_port=179,
        listen_addresses=("10.0.0.1", "fd00::1"),
        families=(IPV4, IPV6),
        graceful_restart_s=90,
        deferral_s=1,
    )


def test_external_neighbors_come_from_aligned_flags() -> None:
    world = World(
        config(
            peer_router_ips=("10.0.0.254", "fd00::fe"),
            peer_router_asns=(65001, 65002),
            peer_router_ports=(179, 1790),
            peer_router_multihop_ttl=4,
        )
    )
    (found,) = world.wants("peer", "fd00::fe").objects
    assert found == Neighbor(
        NeighborKey("fd00::fe"),
        asn=65002,
        local_address="fd00::1",
        port=1790,
        families=(IPV4, IPV6),
        description="external",
        multihop_ttl=4,
    )
    assert world.wants("peer", "10.0.0.99").objects == ()


def test_a_password_file_that_is_not_read_opens_no_session_without_password() -> None:
    world = World(
        config(peer_router_ips=("10.0.0.254",), peer_router_asns=(65001,), peer_router_passwords_file="/etc/bgp")
    )
    wants = world.wants("peer", "10.0.0.254")
    assert (wants.objects, reasons(wants)) == ((), ["passwords-not-built"])
