"""What may pass a session, judged as GoBGP judges: the first statement whose conditions all hold."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from kuberouterpy.annotations import read_bgp
from kuberouterpy.config import Config
from kuberouterpy.dataplane import PolicyStatement, RoutePolicy
from kuberouterpy.family import FAMILIES
from routing import policies
from routing.verdicts import judge
from tests.routing.world import MINE, PODS, World, config, node

NODE, ROUTER, STRANGER = "10.0.0.2", "10.0.0.254", "10.0.0.77"


def passes(policy: RoutePolicy, prefix: str, neighbor: str, *, own: bool = False, inside: bool = False) -> bool:
    """Return whether a path passes; what ``bgp why`` says of it must agree."""
    held = next((one for one in policy.statements if _holds(one, prefix, neighbor, own, inside)), None)
    accepted = policy.accept_by_default if held is None else held.accept
    verdict = judge(policy, prefix, neighbor, originated_here=own, learned_inside=inside)
    assert verdict.accepted is accepted
    assert ("accepts" if accepted else "refuses") in verdict.because
    return accepted


def _holds(statement: PolicyStatement, prefix: str, neighbor: str, own: bool, inside: bool) -> bool:
    network = ip_network(prefix)
    if (statement.originated_here and not own) or (statement.learned_inside and not inside):
        return False
    if statement.neighbors is not None and not any(
        ip_address(neighbor) in ip_network(one) for one in statement.neighbors
    ):
        return False
    return statement.prefixes is None or any(
        network.version == ip_network(one.prefix).version
        and network.subnet_of(ip_network(one.prefix))  # type: ignore[arg-type]
        and one.low <= network.prefixlen <= one.high
        for one in statement.prefixes
    )


def routers(**fields: object) -> Config:
    values: dict[str, object] = {"peer_router_ips": (ROUTER,), "peer_router_asns": (65001,)}
    return config(**(values | fields))


@pytest.mark.parametrize(
    ("prefix", "neighbor", "accepted"),
    [
        ("10.1.2.0/24", NODE, True),
        ("fd00:1:2::/64", NODE, True),
        ("0.0.0.0/0", NODE, False),
        ("::/0", NODE, False),
        ("10.1.1.0/24", NODE, False),
        ("10.1.1.128/25", NODE, False),
        ("fd00:1:1::7/128", NODE, False),
        ("10.96.0.10/32", NODE, False),
        ("fd00:96::10/128", NODE, False),
        ("203.0.113.7/32", NODE, False),
        ("10.0.0.0/24", NODE, False),
        ("10.0.0.128/25", NODE, False),
        ("192.168.7.0/24", ROUTER, True),
        ("172.16.0.0/12", ROUTER, False),
        ("10.1.2.0/24", ROUTER, False),
        ("0.0.0.0/0", ROUTER, False),
        ("10.1.2.0/24", STRANGER, False),
    ],
)
def test_import(prefix: str, neighbor: str, accepted: bool) -> None:
    world = World(routers(peer_import_cidrs=("192.168.0.0/16",), service_external_ip_range=("203.0.113.0/24",)))
    policy = policies.import_policy(world.store, world.host, world.config)
    assert passes(policy, prefix, neighbor) is accepted
    assert not policy.accept_by_default


def test_nothing_comes_from_external_neighbors_unless_allowed() -> None:
    world = World(routers())
    policy = policies.import_policy(world.store, world.host, world.config)
    assert not any(passes(policy, prefix, ROUTER) for prefix in ("192.168.7.0/24", "10.1.2.0/24", "2001:db8::/32"))


def test_own_paths_pass_the_import_policy() -> None:
    """GoBGP applies it to them as well: without this nothing would be announced."""
    world = World(routers())
    policy = policies.import_policy(world.store, world.host, world.config)
    assert all(passes(policy, prefix, "127.0.0.1", own=True) for prefix in ("10.1.1.0/24", "10.96.0.10/32"))


@pytest.mark.parametrize(
    ("prefix", "neighbor", "own", "accepted"),
    [
        ("10.1.1.0/24", NODE, True, True),
        ("fd00:1:1::/64", NODE, True, True),
        ("10.1.2.0/24", NODE, False, False),
        ("10.96.0.10/32", NODE, True, False),
        ("10.1.1.0/24", ROUTER, True, True),
        ("10.96.0.10/32", ROUTER, True, True),
        ("10.96.0.0/24", ROUTER, True, False),
        ("192.168.7.0/24", ROUTER, False, False),
        ("10.1.1.0/24", STRANGER, True, False),
    ],
)
def test_export(prefix: str, neighbor: str, own: bool, accepted: bool) -> None:
    world = World(routers())
    policy = policies.export_policy(world.store, world.host, world.config)
    assert passes(policy, prefix, neighbor, own=own) is accepted


def test_pod_cidrs_stay_inside_when_told_so() -> None:
    world = World(routers(advertise_pod_cidr=False))
    policy = policies.export_policy(world.store, world.host, world.config)
    assert not passes(policy, "10.1.1.0/24", ROUTER, own=True)
    assert passes(policy, "10.1.1.0/24", NODE, own=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_statement_has_an_empty_set(family: object) -> None:
    """GoBGP reads an empty set as anything (kube-router.md 6.4 row 16)."""
    world = World(config(family))  # type: ignore[arg-type]
    lonely = World(config(family, node_name="node-9"), node("node-9", ()))  # type: ignore[arg-type]
    for one in (world, lonely):
        for policy in (policies.import_policy, policies.export_policy):
            for statement in policy(one.store, one.host, one.config).statements:
                assert statement.neighbors != ()
                assert statement.prefixes != ()


def annotated(settings: Config, **texts: str) -> World:
    """Return a world whose own node has annotations; ``_`` in a name is ``.``."""
    found = read_bgp({f"kube-router.io/{key.replace('_', '.')}": text for key, text in texts.items()})
    return World(settings, node("node-1", MINE.values(), PODS[1].values(), bgp=found))


def test_a_reflector_passes_on_pod_cidrs_of_nodes_to_nodes_and_nothing_else() -> None:
    """kube-router's reflectors have no policy at all and leak everything they know (kube-router.md 6.4 row 20)."""
    world = annotated(routers(peer_import_cidrs=("192.168.0.0/16",)), rr_server="42")
    export = policies.export_policy(world.store, world.host, world.config)
    for prefix in ("10.1.2.0/24", "fd00:1:2::/64"):
        assert passes(export, prefix, NODE, inside=True)
        assert not passes(export, prefix, NODE)
        assert not passes(export, prefix, ROUTER, inside=True)
    assert not passes(export, "192.168.7.0/24", NODE, inside=True)
    assert not passes(export, "10.1.2.128/25", NODE, inside=True)
    assert not passes(export, "0.0.0.0/0", NODE, inside=True)
    plain = World(routers())
    assert not passes(policies.export_policy(plain.store, plain.host, plain.config), "10.1.2.0/24", NODE, inside=True)
    learned = policies.import_policy(world.store, world.host, world.config)
    assert not passes(learned, "0.0.0.0/0", NODE, inside=True)


def test_paths_to_external_neighbors_carry_communities_and_prepends() -> None:
    world = annotated(routers(override_nexthop=True), node_bgp_communities="65000:1,no-export")
    bgp = read_bgp({"kube-router.io/path-prepend.as": "65100", "kube-router.io/path-prepend.repeat-n": "3"})
    prepending = World(routers(), node("node-1", MINE.values(), PODS[1].values(), bgp=bgp))
    told = policies.export_policy(world.store, world.host, world.config).statements
    assert {(one.communities, one.next_hop_self) for one in told if one.neighbors == (f"{ROUTER}/32",)} == {
        (("65000:1", "65535:65281"), True)
    }
    assert all(one.communities == () for one in told if one.neighbors != (f"{ROUTER}/32",))
    told = policies.export_policy(prepending.store, prepending.host, prepending.config).statements
    assert {(one.prepend_asn, one.prepend_count) for one in told if one.neighbors == (f"{ROUTER}/32",)} == {(65100, 3)}


@pytest.mark.parametrize(
    ("prefix", "neighbor", "accepted"),
    [
        ("10.7.0.0/16", NODE, False),
        ("10.7.7.0/24", NODE, False),
        ("10.7.7.0/24", ROUTER, False),
        ("10.1.2.0/24", NODE, True),
        ("10.1.2.0/24", ROUTER, False),
        ("10.1.2.128/25", ROUTER, False),
        ("10.9.0.3/32", ROUTER, False),
        ("fd00:1:2::/64", ROUTER, False),
        ("0.0.0.0/0", ROUTER, False),
        ("10.8.0.0/16", ROUTER, True),
    ],
)
def test_from_outside_nothing_of_the_cluster_is_believed_however_wide_the_door(
    prefix: str, neighbor: str, accepted: bool
) -> None:
    world = annotated(routers(peer_import_cidrs=("0.0.0.0/0", "::/0")), node_bgp_customimportreject="10.7.0.0/16")
    assert passes(policies.import_policy(world.store, world.host, world.config), prefix, neighbor) is accepted
