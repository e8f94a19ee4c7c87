"""A small cluster for the router's tests: this node, one beside it, one in another subnet, of either family or both."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kuberouterpy.cluster import BestPath, Link, Node, NodeAddress, Record, Ref, Upsert
from kuberouterpy.config import Config
from kuberouterpy.controller import Desired
from kuberouterpy.dataplane import Owner
from kuberouterpy.family import IPV4, IPV6, Family
from kuberouterpy.host import Host, describe
from kuberouterpy.store import Store
from routing import CONTROLLER

MINE = {IPV4: "10.0.0.1", IPV6: "fd00::1"}
NEAR = {IPV4: "10.0.0.2", IPV6: "fd00::2"}
FAR = {IPV4: "10.9.0.3", IPV6: "fd09::3"}
SUBNET = {IPV4: "10.0.0.0/24", IPV6: "fd00::/64"}
PODS = {1: {IPV4: "10.1.1.0/24", IPV6: "fd00:1:1::/64"}, 2: {IPV4: "10.1.2.0/24", IPV6: "fd00:1:2::/64"}}
CONFIG = Config(node_name="node-1", service_cluster_ip_range=("10.96.0.0/12", "fd00:96::/112"))


def config(*families: Family, **fields: object) -> Config:
    """Return a configuration with these families, both when none is named."""
    used = families or (IPV4, IPV6)
    values: dict[str, object] = {"enable_ipv4": IPV4 in used, "enable_ipv6": IPV6 in used} | fields
    return msgspec.structs.replace(CONFIG, **values)


def node(name: str, addresses: Iterable[str], pod_cidrs: Iterable[str] = (), **fields: object) -> Node:
    """Return a node with internal addresses."""
    found = tuple(NodeAddress("InternalIP", address) for address in addresses)
    return Node(Ref("", name), found, tuple(pod_cidrs), **fields)  # type: ignore[arg-type]


class World:
    """Facts, and what the router wants of them."""

    def __init__(self, settings: Config, *extra: Record) -> None:
        families = settings.families
        self.config = settings
        self.store = Store()
        for record in (
            Link("eth0", 2, mtu=1500, up=True, addresses=tuple(_on_link(family) for family in families)),
            node("node-1", (MINE[one] for one in families), (PODS[1][one] for one in families)),
            node("node-2", (NEAR[one] for one in families), (PODS[2][one] for one in families)),
            node("node-3", (FAR[one] for one in families)),
            *extra,
        ):
            self.store.apply(Upsert(record))
        self.host: Host = describe(self.store, settings)

    def wants(self, kind: str, name: str = "") -> Desired:
        """Return what an owner wants."""
        return CONTROLLER.desired(Owner("routing", kind, name), self.store, self.host, self.config)

    def route(self, prefix: str, *next_hops: str) -> Desired:
        """Return what a best path becomes."""
        self.store.apply(Upsert(BestPath(prefix, tuple(sorted(next_hops)))))
        return self.wants("prefix", prefix)


def reasons(wants: Desired) -> list[str]:
    """Return the first words of the notes."""
    return [note.reason.partition(":")[0] for note in wants.notes]


def _on_link(family: Family) -> str:
    return f"{MINE[family]}/{SUBNET[family].partition('/')[2]}"
