"""External neighbors: by flags, by annotations, with passwords, and why not."""

from __future__ import annotations

import base64

from kuberouterpy.annotations import read_bgp
from kuberouterpy.cluster import Passwords
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Bfd, Neighbor, NeighborKey
from kuberouterpy.family import IPV4, IPV6
from tests.routing.world import MINE, PODS, World, config, node, reasons

ENCODED = base64.b64encode(b"secret").decode()


def annotated(settings: Config, *extra: object, **texts: str) -> World:
    """Return a world whose own node has annotations; ``_`` in a name is ``.``."""
    found = read_bgp({f"kube-router.io/{key.replace('_', '.')}": text for key, text in texts.items()})
    mine = node(
        "node-1", (MINE[one] for one in settings.families), (PODS[1][one] for one in settings.families), bgp=found
    )
    return World(settings, mine, *extra)  # type: ignore[arg-type]


def flags(**fields: object) -> Config:
    values: dict[str, object] = {"peer_router_ips": ("10.0.0.254", "fd00::fe"), "peer_router_asns": (65001, 65002)}
    return config(**(values | fields))


def test_external_neighbors_come_from_aligned_flags() -> None:
    world = World(flags(peer_router_ports=(179, 1790), peer_router_multihop_ttl=4, peer_max_prefixes=50))
    (found,) = world.wants("peer", "fd00::fe").objects
    assert found == Neighbor(
        NeighborKey("fd00::fe"),
        asn=65002,
        local_address="fd00::1",
        port=1790,
        families=(IPV4, IPV6),
        description="external",
        multihop_ttl=4,
        graceful_restart_s=90,
        max_prefixes=50,
    )
    assert world.wants("peer", "10.0.0.99").objects == ()


def test_annotations_name_neighbors_with_everything_kube_router_knows() -> None:
    text = f"[{{remoteip: 10.0.0.253, remoteasn: 65003, localip: 10.0.0.9, port: 1790, password: {ENCODED}}}]"
    world = annotated(config(), peers=text)
    wants = world.wants("peer", "10.0.0.253")
    assert wants.objects == (
        Neighbor(
            NeighborKey("10.0.0.253"),
            asn=65003,
            local_address="10.0.0.9",
            port=1790,
            families=(IPV4, IPV6),
            description="external",
            graceful_restart_s=90,
            password="secret",
            max_prefixes=10_000,
        ),
    )
    (note,) = wants.notes
    assert note.event
    assert note.reason.startswith("password-in-annotation")
    assert "secret" not in repr(wants)


def test_flags_leave_annotations_without_effect_and_a_note_says_so() -> None:
    world = annotated(flags(), peers="[{remoteip: 10.0.0.253, remoteasn: 65003}]")
    assert world.wants("peer", "10.0.0.253").objects == ()
    assert "flags-count" in reasons(world.wants("node", "node-1"))


def test_a_password_file_that_was_never_readable_opens_no_session_without_password() -> None:
    """The policies name the neighbor all the same: a session that stands must not lose what it was told."""
    settings = flags(peer_router_passwords_file="/etc/bgp")
    world = World(settings)
    wants = world.wants("peer", "10.0.0.254")
    assert (wants.objects, reasons(wants)) == ((), ["password-unknown"])
    assert world.wants("base").objects[-2:] == World(flags()).wants("base").objects[-2:]


def test_passwords_of_the_file_go_to_the_neighbors_in_order() -> None:
    world = World(flags(peer_router_passwords_file="/etc/bgp"), Passwords("/etc/bgp", ("one", "")))
    found = [world.wants("peer", address).objects[0] for address in ("10.0.0.254", "fd00::fe")]
    assert [one.password for one in found if isinstance(one, Neighbor)] == ["one", ""]


def test_a_neighbor_that_is_a_node_or_ourselves_or_of_no_family_of_ours_is_noted() -> None:
    peers = (
        "[" + ",".join(f"{{remoteip: {one}, remoteasn: 65009}}" for one in ("10.0.0.2", "10.0.0.1", "fd00::9")) + "]"
    )
    world = annotated(config(IPV4), peers=peers)
    assert reasons(world.wants("peer", "10.0.0.2")) == ["is-a-node"]
    assert reasons(world.wants("peer", "10.0.0.1")) == ["own-address"]
    assert world.wants("peer", "fd00::9").objects == ()


def test_multihop_is_for_other_as_numbers_and_missed_where_it_is_needed() -> None:
    far = "[{remoteip: 192.0.2.1, remoteasn: 65001}, {remoteip: 192.0.2.2, remoteasn: 64512}]"
    assert reasons(annotated(config(), peers=far).wants("peer", "192.0.2.1")) == ["off-subnet"]
    world = annotated(config(peer_router_multihop_ttl=3), peers=far)
    found = [world.wants("peer", address).objects[0] for address in ("192.0.2.1", "192.0.2.2")]
    assert [one.multihop_ttl for one in found if isinstance(one, Neighbor)] == [3, 0]
    assert reasons(world.wants("peer", "192.0.2.1")) == []


def test_a_malformed_annotation_is_an_event_that_names_it() -> None:
    world = annotated(config(), peers="[{remoteip: 192.0.2.1}]")
    (note,) = world.wants("node", "node-1").notes
    assert note.event
    assert note.subject == "kube-router.io/peers"
    assert note.reason.startswith("invalid-annotation: [0].remoteasn: is missing")


def test_bfd_is_the_flags_but_for_what_a_neighbor_says_itself() -> None:
    """Of every field: its own value, else the flag's; ``enabled: false`` switches it off for one."""
    peers = (
        "[{remoteip: 10.0.0.253, remoteasn: 65003, bfd: {port: 4000, required_min_rx_interval: 200}},"
        " {remoteip: fd00::fd, remoteasn: 65003, bfd: {enabled: false}},"
        " {remoteip: fd00::fc, remoteasn: 65003, bfd: {enabled: true}}]"
    )
    every = {
        "bfd_detection_multiplier": 4,
        "bfd_desired_min_tx_interval_ms": 300,
        "bfd_required_min_rx_interval_ms": 500,
    }

    def found(enabled: bool) -> list[Bfd | None]:
        world = annotated(config(enable_bfd=enabled, **every), peers=peers)  # type: ignore[arg-type]
        objects = [world.wants("peer", one).objects[0] for one in ("10.0.0.253", "fd00::fd", "fd00::fc")]
        return [one.bfd for one in objects if isinstance(one, Neighbor)]

    assert found(True) == [Bfd(4000, 4, 300, 200), None, Bfd(3784, 4, 300, 500)]
    assert found(False) == [None, None, Bfd(3784, 4, 300, 500)]


def test_bfd_over_a_router_is_noted() -> None:
    far = "[{remoteip: 192.0.2.1, remoteasn: 65001, bfd: {enabled: true}}]"
    world = annotated(config(peer_router_multihop_ttl=3), peers=far)
    assert reasons(world.wants("peer", "192.0.2.1")) == ["bfd-single-hop"]
