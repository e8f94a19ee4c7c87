"""The host as one value: what is in it, and what must not change it."""

from __future__ import annotations

from msgspec.structs import replace

from kuberouterpy.annotations import read_bgp
from kuberouterpy.cluster import Link, Node, NodeAddress, Ref, Replace, Upsert
from kuberouterpy.config import Config
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.host import Host, Subnet, describe
from kuberouterpy.store import Store

CONFIG = Config(node_name="node-1", enable_ipv6=True)
NODE = Node(
    Ref("", "node-1"),
    (
        NodeAddress("ExternalIP", "192.0.2.1"),
        NodeAddress("InternalIP", "10.0.0.1"),
        NodeAddress("InternalIP", "fd00::1"),
    ),
    ("10.1.4.0/24", "fd00:1:4::/64"),
    zone="a",
)
ETH0 = Link("eth0", 2, mtu=1400, up=True, addresses=("10.0.0.1/24", "fd00::1/64"))


def host(*links: Link, node: Node | None = NODE, config: Config = CONFIG) -> Host:
    store = Store()
    store.apply(Replace(Link, links))
    if node is not None:
        store.apply(Upsert(node))
    return describe(store, config)


def test_it_knows_its_addresses_subnets_and_pod_cidrs() -> None:
    found = host(ETH0)
    assert found.node_addresses == ("10.0.0.1", "fd00::1", "192.0.2.1")
    assert found.subnets == (Subnet("10.0.0.0/24", "10.0.0.1", "eth0"), Subnet("fd00::/64", "fd00::1", "eth0"))
    assert (found.primary(IPV4), found.primary(IPV6)) == ("10.0.0.1", "fd00::1")
    assert (found.cidrs(IPV4), found.cidrs(IPV6)) == (("10.1.4.0/24",), ("fd00:1:4::/64",))
    assert found.mtu == 1400


def test_links_that_agent_and_pods_make_do_not_change_it() -> None:
    made = (
        Link("lo", 1, addresses=("127.0.0.1/8", "::1/128")),
        Link("kube-dummy-if", 5, "dummy", addresses=("10.96.0.1/32",)),
        Link("kube-bridge", 6, "bridge", addresses=("10.1.4.1/24",)),
        Link("tun-0123456789a", 7, "ipip", addresses=("10.0.0.1/32",)),
        Link("veth1234", 8, "veth"),
    )
    assert host(ETH0, *made) == host(ETH0)


def test_a_veth_with_an_address_is_the_uplink_of_a_node_in_a_namespace() -> None:
    uplink = Link("eth0", 2, "veth", mtu=1500, up=True, addresses=("10.0.0.1/24",))
    assert host(uplink).addresses == ("10.0.0.1",)


def test_a_family_that_is_off_is_nowhere_in_it() -> None:
    found = host(ETH0, config=Config(node_name="node-1"))
    assert found.families == (IPV4,)
    assert not any(":" in text for text in (*found.node_addresses, *found.addresses, *found.pod_cidrs))


def test_a_node_that_has_not_arrived_leaves_its_parts_empty() -> None:
    found = host(ETH0, node=None)
    assert (found.node_addresses, found.pod_cidrs, found.zone) == ((), (), "")
    assert found.primary(IPV4) == ""


def test_the_annotation_overrides_the_pod_cidrs_and_an_unreadable_one_does_not() -> None:
    annotated = replace(NODE, bgp=read_bgp({"kube-router.io/pod-cidrs": "10.9.0.0/24, 10.9.1.0/24"}))
    assert host(ETH0, node=annotated).pod_cidrs == ("10.9.0.0/24", "10.9.1.0/24")
    broken = replace(NODE, bgp=read_bgp({"kube-router.io/pod-cidrs": "10.9.0.0/24, x"}))
    assert host(ETH0, node=broken).pod_cidrs == NODE.pod_cidrs


def test_on_link_tells_neighbors_from_those_behind_a_gateway() -> None:
    found = host(ETH0)
    near = found.on_link("10.0.0.77")
    assert near is not None
    assert near.link == "eth0"
    assert found.on_link("10.0.1.1") is None
    assert found.on_link("fd00::9") is not None
    assert found.on_link("fd01::9") is None
