"""What a host wants whatever the cluster: bridge, CNI, sets and chains, tunnels, and what is ours to delete."""

from __future__ import annotations

import pytest

from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    CniConfig,
    CniConfigKey,
    Entry,
    EntryKey,
    Jump,
    JumpKey,
    Key,
    Link,
    LinkKey,
    LocalAddress,
    LocalAddressKey,
    NextHop,
    Object,
    Route,
    RouteKey,
    RoutingRule,
    RoutingRuleKey,
    SetKey,
    SpeakerKey,
    Sysctl,
    Table,
    requires,
)
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.names import LINK_LIMIT
from routing import CONTROLLER, overlay
from tests.routing.world import FAR, MINE, PODS, World, config, node


def base(world: World) -> dict[Key, Object]:
    return {one.key: one for one in world.wants("base").objects}


def test_the_bridge_stands_with_its_gateways_before_the_first_pod() -> None:
    found = base(World(config(enable_overlay=False)))
    assert found[LinkKey("kube-bridge")] == Link(LinkKey("kube-bridge"), "bridge", mtu=1500)
    assert {key for key in found if isinstance(key, LocalAddressKey)} == {
        LocalAddressKey("kube-bridge", "10.1.1.1", 24),
        LocalAddressKey("kube-bridge", "fd00:1:1::1", 64),
    }
    key = CniConfigKey("/etc/cni/net.d/10-kuberouter.conflist")
    assert found[key] == CniConfig(key, "kube-bridge", ("10.1.1.0/24", "fd00:1:1::/64"), mtu=1500)


@pytest.mark.parametrize(
    ("families", "fields", "mtu"),
    [
        ((IPV4,), {}, 1480),
        ((IPV6,), {}, 1460),
        ((IPV4, IPV6), {}, 1460),
        ((IPV4, IPV6), {"enable_overlay": False}, 1500),
        ((IPV4,), {"auto_mtu": False}, 0),
    ],
)
def test_the_mtu_of_pods_leaves_room_for_the_tunnel(
    families: tuple[Family, ...], fields: dict[str, object], mtu: int
) -> None:
    found = base(World(config(*families, **fields)))
    assert {one.mtu for one in found.values() if isinstance(one, CniConfig | Link)} == {mtu}


def test_without_cni_neither_bridge_nor_file_is_touched() -> None:
    found = base(World(config(enable_cni=False)))
    assert not any(isinstance(one, CniConfig | Link | LocalAddress) for one in found.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_pods_that_leave_the_cluster_get_the_nodes_address(family: Family) -> None:
    world = World(config(family))
    found = base(world)
    prefix = "inet6:" if family is IPV6 else ""
    pods, nodes = f"{prefix}kube-router-pod-subnets", f"{prefix}kube-router-node-ips"
    chain = found[ChainKey(family, Table.NAT, "KUBE-ROUTER-POD-EGRESS")]
    assert isinstance(chain, Chain)
    (rule,) = chain.rules
    assert " ".join((*rule.match, "-j", *rule.target)) == (
        f"-m set --match-set {pods} src -m set ! --match-set {pods} dst "
        f"-m set ! --match-set {nodes} dst -j MASQUERADE --random-fully"
    )
    entries = {one.key for name in ("node-1", "node-2", "node-3") for one in world.wants("node", name).objects}
    assert EntryKey(nodes, FAR[family]) in entries
    assert EntryKey(pods, PODS[2][family]) in entries


def test_pod_egress_can_be_off() -> None:
    found = base(World(config(enable_pod_egress=False)))
    assert not any(isinstance(key, ChainKey) and key.table is Table.NAT for key in found)


def test_forwarding_is_accepted_behind_the_firewall() -> None:
    found = base(World(config()))
    for family in FAMILIES:
        jump = found[JumpKey(family, Table.FILTER, "FORWARD", "KUBE-ROUTER-FORWARD-ACCEPT")]
        assert isinstance(jump, Jump)
        assert not jump.first


@pytest.mark.parametrize("family", FAMILIES)
def test_a_far_node_has_a_tunnel_a_route_to_itself_and_a_near_one_has_not(family: Family) -> None:
    world = World(config(family))
    far = {one.key: one for one in world.wants("node", "node-3").objects}
    name = overlay.tunnel_name(FAR[family])
    kind = {IPV4: "ipip", IPV6: "ip6tnl"}[family]
    assert far[LinkKey(name)] == Link(LinkKey(name), kind, local=MINE[family], remote=FAR[family])
    route = RouteKey(77, f"{FAR[family]}/{family.host_prefix}")
    assert far[route] == Route(route, (NextHop(link=name),), source=MINE[family])
    near = world.wants("node", "node-2").objects
    assert not any(isinstance(one, Link | Route) for one in near)
    rule = RoutingRuleKey(family, overlay.PRIORITY, source=PODS[1][family])
    assert base(world)[rule] == RoutingRule(rule, 77)


def test_no_tunnel_is_made_before_the_hosts_links_are_known() -> None:
    world = World(config(IPV4))
    blind = type(world.host)(world.host.name, world.host.families, world.host.node_addresses)
    assert not overlay.tunnelled("10.9.0.3", blind, world.config)


def test_tunnel_names_do_not_collide_where_digits_do() -> None:
    """Dots stripped, both were 111234 (kube-router.md 6.4 row 21)."""
    names = {overlay.tunnel_name(one) for one in ("1.11.2.34", "11.1.2.34", "1.1.12.34", "fd00::1:1", "fd00::11")}
    assert len(names) == 5
    assert all(len(name) == LINK_LIMIT for name in names)


def test_a_host_without_address_says_so_and_makes_no_speaker() -> None:
    world = World(config(node_name="node-9"), node("node-9", ()))
    wants = world.wants("base")
    assert not any(one.key == SpeakerKey() for one in wants.objects)
    assert [note.reason for note in wants.notes] == ["no-node-address: Node node-9 has none of a family in use"]


def test_settings_of_the_kernel_follow_the_families() -> None:
    found = base(World(config(IPV4)))
    assert {one.key.path for one in found.values() if isinstance(one, Sysctl)} == {
        "net/ipv4/ip_forward",
        "net/bridge/bridge-nf-call-iptables",
    }


def test_everything_required_is_wanted_too() -> None:
    world = World(config(peer_router_ips=("10.0.0.254",), peer_router_asns=(65001,)))
    wanted: dict[Key, Object] = {}
    for owner in CONTROLLER.owners(world.store, world.host, world.config):
        wants = CONTROLLER.desired(owner, world.store, world.host, world.config)
        wanted |= {one.key: one for one in wants.objects}
    assert {key for one in wanted.values() for key in requires(one)} <= set(wanted)
    assert any(isinstance(one, Entry) for one in wanted.values())


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        (LinkKey("tun-0123456789a"), True),
        (LinkKey("kube-bridge"), False),
        (LinkKey("kube-dummy-if"), False),
        (LocalAddressKey("kube-bridge", "10.1.1.1", 24), False),
        (CniConfigKey("/etc/cni/net.d/10-kuberouter.conflist"), False),
        (SpeakerKey(), False),
        (SetKey("inet6:kube-router-node-ips"), True),
        (SetKey("kube-router-svip"), False),
        (RouteKey(254, "10.1.2.0/24"), True),
        (RoutingRuleKey(IPV4, overlay.PRIORITY, source="10.1.1.0/24"), True),
        (RoutingRuleKey(IPV4, 32764, source="10.1.1.0/24"), True),
        (RoutingRuleKey(IPV4, 32764, fwmark=77), False),
        (RoutingRuleKey(IPV4, 100), False),
    ],
)
def test_what_the_router_may_delete(key: Key, ours: bool) -> None:
    assert CONTROLLER.claims(key) is ours
