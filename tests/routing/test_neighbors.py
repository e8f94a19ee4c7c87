"""Sessions: whom, from where, and who dials."""

from __future__ import annotations

import pytest

from kuberouterpy.annotations import read_bgp
from kuberouterpy.dataplane import Neighbor, NeighborKey, Speaker, SpeakerKey
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from routing import neighbors
from tests.routing.world import FAR, MINE, NEAR, PODS, World, config, node, reasons


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


# --- reflectors and AS numbers ----------------------------------------------------------------------------------------

SERVER, CLIENT, OTHER_CLIENT, OTHER_SERVER, PLAIN = (
    {"rr.server": "42"},
    {"rr.client": "0.0.0.42"},
    {"rr.client": "43"},
    {"rr.server": "43"},
    dict[str, str](),
)
AS_1, AS_2 = {"node.asn": "65001"}, {"node.asn": "65002"}


def pair(ours: dict[str, str], theirs: dict[str, str], **fields: object) -> list[Neighbor | None]:
    """Return what each of two annotated nodes makes of the other."""
    texts = {"node-1": ours, "node-2": theirs}
    bgp = {name: read_bgp({f"kube-router.io/{key}": text for key, text in one.items()}) for name, one in texts.items()}
    nodes = [
        node("node-1", MINE.values(), PODS[1].values(), bgp=bgp["node-1"]),
        node("node-2", NEAR.values(), PODS[2].values(), bgp=bgp["node-2"]),
    ]
    found: list[Neighbor | None] = []
    for here, there in (("node-1", "node-2"), ("node-2", "node-1")):
        world = World(config(node_name=here, **fields), *nodes)
        wants = world.wants("node", there)
        found.append(next((one for one in wants.objects if isinstance(one, Neighbor)), None))
        assert (found[-1] is None) == any(note.subject == there for note in wants.notes)
    return found


@pytest.mark.parametrize("full_mesh", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs", "meet"),
    [
        (SERVER, CLIENT, True),
        (SERVER, OTHER_CLIENT, False),
        (SERVER, SERVER, True),
        (SERVER, OTHER_SERVER, True),
        (CLIENT, CLIENT, False),
        (CLIENT, PLAIN, False),
        (SERVER | CLIENT, CLIENT, True),
    ],
)
def test_reflectors_and_clients_meet_as_their_cluster_ids_say(
    ours: dict[str, str], theirs: dict[str, str], meet: bool, full_mesh: bool
) -> None:
    """The same on both ends: a session that one end alone wants never comes up."""
    ends = pair(ours, theirs, nodes_full_mesh=full_mesh)
    assert [one is not None for one in ends] == [meet, meet]
    for one, role in zip(ends, (ours, theirs), strict=True):
        if one is not None:
            reflects = role is ours and theirs is CLIENT
            assert (one.reflector_client, one.reflector_cluster) == (reflects, "0.0.0.42" if reflects else "")


@pytest.mark.parametrize(
    ("ours", "theirs", "full_mesh", "meet"),
    [
        (AS_1, AS_1, False, True),
        (AS_1, AS_2, False, False),
        (AS_1, PLAIN, False, False),
        (PLAIN, PLAIN, False, False),
        (AS_1, AS_2, True, True),
        (SERVER | AS_1, CLIENT | AS_1, False, True),
        (SERVER | AS_1, CLIENT | AS_2, False, False),
        (SERVER, PLAIN, True, True),
        (SERVER, PLAIN, False, False),
    ],
)
def test_as_numbers_count_without_the_full_mesh_only(
    ours: dict[str, str], theirs: dict[str, str], full_mesh: bool, meet: bool
) -> None:
    ends = pair(ours, theirs, nodes_full_mesh=full_mesh)
    assert [one is not None for one in ends] == [meet, meet]
    if meet:
        expected = 64512 if full_mesh or "node.asn" not in ours else 65001
        assert {one.asn for one in ends if one is not None} == {expected}


def test_the_speakers_as_number_and_addresses_come_from_annotations() -> None:
    bgp = read_bgp({"kube-router.io/node.asn": "65001", "kube-router.io/bgp-local-addresses": "10.0.0.9,fd00::9"})
    world = World(config(IPV4, nodes_full_mesh=False), node("node-1", (MINE[IPV4],), bgp=bgp))
    found = neighbors.speaker(world.host, world.config)
    assert found is not None
    assert (found.asn, found.listen_addresses) == (65001, ("10.0.0.9",))


def test_a_node_without_as_number_is_told_where_it_needs_one() -> None:
    wants = World(config(nodes_full_mesh=False)).wants("node", "node-1")
    assert [note.event for note in wants.notes if note.subject == "kube-router.io/node.asn"] == [True]


@pytest.mark.parametrize(
    ("families", "given", "twin"),
    [
        ((IPV4,), "10.0.0.2", "node-2"),
        ((IPV4, IPV6), "10.0.0.2", "node-2"),
        ((IPV4,), "10.0.0.9", ""),
        ((IPV4,), "", ""),
        ((IPV6,), "", ""),
        ((IPV4, IPV6), "generate", ""),
    ],
)
def test_a_router_id_that_is_another_nodes_is_an_event(families: tuple[Family, ...], given: str, twin: str) -> None:
    """One --router-id for all nodes of a DaemonSet: every node but one sees whose it is."""
    world = World(config(*families, router_id=given))
    notes = [note for name in ("node-1", "node-2", "node-3") for note in world.wants("node", name).notes]
    assert [(one.subject, one.event) for one in notes if "duplicate-router-id" in one.reason] == [(twin, True)] * bool(
        twin
    )


def test_hashes_that_collide_are_told_too() -> None:
    """Two addresses with the same FNV-1a, found by trying."""
    mine, theirs = node("node-1", ("fd00::7a9:17db:6690:58bf",)), node("node-4", ("fd00::2b56:b9f5:2daa:dcb3",))
    (note,) = World(config(IPV6), mine, theirs).wants("node", "node-4").notes
    assert note.reason.startswith("duplicate-router-id: 63.108.15.128 is that of node-4")
