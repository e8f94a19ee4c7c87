"""What a host wants whatever the cluster: bridge, CNI, sets and chains, tunnels, and what is ours to delete."""

from __future__ import annotations

import msgspec
import pytest

from kuberouterpy.cluster import Link as ClusterLink
from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    CniConfig,
    CniConfigKey,
    Entry,
    EntryKey,
    FarEnd,
    FarEndKey,
    FouPort,
    FouPortKey,
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
from tests.routing.world import FAR, MINE, NEAR, PODS, World, config, node


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


BOTH = (IPV4, IPV6)


@pytest.mark.parametrize(
    ("families", "fields", "mtu"),
    [
        ((IPV4,), {}, 1480),
        ((IPV6,), {}, 1460),
        (BOTH, {}, 1460),
        ((IPV4,), {"overlay_encap": "fou"}, 1468),
        (BOTH, {"overlay_encap": "fou"}, 1448),
        ((IPV4,), {"overlay_encap": "vxlan"}, 1450),
        (BOTH, {"overlay_encap": "vxlan", "overlay_type": "full"}, 1430),
        (BOTH, {"enable_overlay": False, "overlay_encap": "vxlan"}, 1500),
        ((IPV4,), {"auto_mtu": False}, 0),
    ],
)
def test_the_mtu_of_pods_leaves_room_for_the_tunnel(
    families: tuple[Family, ...], fields: dict[str, object], mtu: int
) -> None:
    found = base(World(config(*families, **fields)))
    assert {one.mtu for one in found.values() if isinstance(one, CniConfig) or one.key == LinkKey("kube-bridge")} == {
        mtu
    }


@pytest.mark.parametrize("encapsulation", overlay.ENCAPSULATIONS)
def test_a_tunnel_is_as_wide_as_its_own_family_leaves_it_and_never_too_narrow_for_the_family(
    encapsulation: str,
) -> None:
    """A v4 tunnel of a dual-stack node loses nothing to the v6 header; IPv6 stops on a link of less than 1280 bytes."""
    settings = config(overlay_encap=encapsulation)
    overhead = {family: overlay.overhead_bytes(family, settings) for family in FAMILIES}
    assert overhead[IPV6] - overhead[IPV4] == 20
    world = World(settings)
    for family in FAMILIES:
        assert overlay.mtu(family, world.host, settings) == 1500 - overhead[family]
    narrow = World(settings, ClusterLink("eth0", 2, mtu=1280, up=True, addresses=("10.0.0.1/24", "fd00::1/64")))
    assert overlay.mtu(IPV4, narrow.host, settings) == 1280 - overhead[IPV4]
    assert overlay.mtu(IPV6, narrow.host, settings) == 1280


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
    name = overlay.tunnel_name(FAR[family], world.config)
    kind, mtu = {IPV4: ("ipip", 1480), IPV6: ("ip6tnl", 1460)}[family]
    assert far[LinkKey(name)] == Link(LinkKey(name), kind, mtu, MINE[family], FAR[family])
    route = RouteKey(77, f"{FAR[family]}/{family.host_prefix}")
    assert far[route] == Route(route, (NextHop(link=name),), source=MINE[family])
    near = world.wants("node", "node-2").objects
    assert not any(isinstance(one, Link | Route) for one in near)
    rule = RoutingRuleKey(family, overlay.PRIORITY, source=PODS[1][family])
    assert base(world)[rule] == RoutingRule(rule, 77)


@pytest.mark.parametrize("family", FAMILIES)
def test_fou_wraps_the_same_tunnel_in_udp_and_opens_the_port(family: Family) -> None:
    world = World(config(family, overlay_encap="fou", overlay_encap_port=6000))
    far = {one.key: one for one in world.wants("node", "node-3").objects}
    (link,) = (one for one in far.values() if isinstance(one, Link))
    kind, mtu = {IPV4: ("ipip", 1468), IPV6: ("ip6tnl", 1448)}[family]
    assert link == Link(link.key, kind, mtu, MINE[family], FAR[family], 6000)
    assert base(world)[FouPortKey(family, 6000)] == FouPort(FouPortKey(family, 6000))
    usual = {one.key for one in World(config(family, overlay_encap="fou")).wants("base").objects}
    assert FouPortKey(family, 5555) in usual


@pytest.mark.parametrize("family", FAMILIES)
def test_vxlan_has_one_link_a_family_on_which_each_node_is_a_far_end(family: Family) -> None:
    """The kernel takes one vxlan link a port and identifier only; what a node's far end is follows from its address."""
    settings = config(family, overlay_encap="vxlan", overlay_type="full")
    world = World(settings)
    shared = base(world)
    (link,) = (one for one in shared.values() if isinstance(one, Link) and one.kind == "vxlan")
    assert (link.local, link.remote, link.port, link.vni) == (MINE[family], "", 4789, overlay.VNI)
    assert link.hardware == overlay.hardware_address(MINE[family])
    for name, address in (("node-2", NEAR[family]), ("node-3", FAR[family])):
        wants = world.wants("node", name).objects
        (end,) = (one for one in wants if isinstance(one, FarEnd))
        assert end.key == FarEndKey(link.key.name, address)
        assert end.hardware == overlay.hardware_address(address)
        (route,) = (one for one in wants if isinstance(one, Route))
        assert route.next_hops == (NextHop(end.gateway, link.key.name, on_link=family is IPV4),)
        assert world.route(PODS[2][family], address).objects == (
            Route(RouteKey(254, PODS[2][family]), route.next_hops, source=MINE[family]),
        )
        # The other side sees itself as we see it, whatever it knows of us.
        theirs = World(msgspec.structs.replace(settings, node_name=name))
        (own,) = (one for one in base(theirs).values() if isinstance(one, Link) and one.kind == "vxlan")
        assert own.hardware == end.hardware


def test_another_encapsulation_is_another_link_so_that_it_stands_before_the_old_one_goes() -> None:
    ways = [
        config(overlay_encap="ipip"),
        config(overlay_encap="fou"),
        config(overlay_encap="fou", overlay_encap_port=6000),
        config(overlay_encap="vxlan"),
        config(overlay_encap="vxlan", overlay_encap_port=6000),
    ]
    names = [overlay.tunnel_name(FAR[family], way) for family in FAMILIES for way in ways]
    assert len({*names}) == len(names)
    assert overlay.tunnel_name("10.9.0.3", ways[0]) == overlay.tunnel_name("10.9.0.3", config(overlay_encap_port=6000))


def test_no_tunnel_is_made_before_the_hosts_links_are_known() -> None:
    world = World(config(IPV4))
    blind = type(world.host)(world.host.name, world.host.families, world.host.node_addresses)
    assert not overlay.tunnelled("10.9.0.3", blind, world.config)


def test_tunnel_names_do_not_collide_where_digits_do() -> None:
    """Dots stripped, both were 111234 (kube-router.md 6.4 row 21)."""
    nodes = ("1.11.2.34", "11.1.2.34", "1.1.12.34", "fd00::1:1", "fd00::11")
    names = {overlay.tunnel_name(one, config()) for one in nodes}
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


@pytest.mark.parametrize("encapsulation", overlay.ENCAPSULATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_node_that_claims_our_own_address_gets_no_tunnel(family: Family, encapsulation: str) -> None:
    """Two Nodes with one address are a mistake of theirs; a tunnel to ourselves would be a loop."""
    settings = config(family, overlay_type="full", overlay_encap=encapsulation)
    world = World(settings, node("node-4", (MINE[family], FAR[family])))
    assert not any(isinstance(one, Link | FarEnd | Route) for one in world.wants("node", "node-4").objects)
