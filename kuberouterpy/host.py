"""The host this agent runs on, as one value made from its Node record, its links and the Config.

Every owner is dirty when the Host changes, so it holds only what seldom does: pods' veths, dummy and bridge addresses
that the agent or the CNI make are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import Final

from msgspec import Struct

from kuberouterpy.annotations import NodeBgp
from kuberouterpy.cluster import Link, Node, Ref
from kuberouterpy.config import Config
from kuberouterpy.drain import Drain
from kuberouterpy.family import Family, family_of
from kuberouterpy.store import Store

DUMMY_LINK: Final = "kube-dummy-if"
"""Carries the VIPs; the name kube-router users know."""
BRIDGE_LINK: Final = "kube-bridge"
"""Connects the pods; the name kube-router users know."""
TUNNEL_PREFIX: Final = "tun-"
"""Begins the names of overlay tunnels."""

_OURS: Final = ("kube-", TUNNEL_PREFIX)
_POD_KINDS: Final = frozenset({"veth", "dummy", "ipip", "ip6tnl", "sit", "gre", "vxlan", "ifb"})


class Subnet(Struct, frozen=True):
    """An on-link prefix of the host."""

    prefix: str
    """Canonical prefix."""
    address: str
    """The host's own address in it."""
    link: str
    """Link it is on."""


class Host(Struct, frozen=True):
    """This node, as controllers see it."""

    name: str
    """Node name."""
    families: tuple[Family, ...] = ()
    """Families in use, IPv4 first."""
    node_addresses: tuple[str, ...] = ()
    """InternalIP then ExternalIP addresses of the Node, of the families in use."""
    subnets: tuple[Subnet, ...] = ()
    """On-link prefixes of real links, with the host's address in each; loopback left out."""
    pod_cidrs: tuple[str, ...] = ()
    """Pod CIDRs of this node of the families in use: annotation kube-router.io/pod-cidrs, else spec.podCIDRs."""
    zone: str = ""
    """Label topology.kubernetes.io/zone."""
    mtu: int = 0
    """MTU in bytes of the link that carries the primary address; 0: unknown."""
    annotations: dict[str, str] = {}
    """Annotations under kube-router.io/ of this node, without those that ``bgp`` is read from."""
    bgp: NodeBgp = NodeBgp()
    """What the other annotations of this node say."""
    drain: Drain = Drain.SERVING
    """How far it has left the cluster."""
    uid: str = ""
    """metadata.uid of the Node, for Events."""
    missing_modules: frozenset[str] = frozenset()
    """Kernel modules that a driver asked for in vain since the agent started: what needs one is not asked for again."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address of a real link, in kernel order."""
        return tuple(subnet.address for subnet in self.subnets)

    def primary(self, family: Family) -> str:
        """Return the first node address of a family, or an empty string."""
        return next((address for address in self.node_addresses if family_of(address) is family), "")

    def cidrs(self, family: Family) -> tuple[str, ...]:
        """Return this node's pod CIDRs of one family."""
        return tuple(cidr for cidr in self.pod_cidrs if family_of(cidr) is family)

    def on_link(self, address: str) -> Subnet | None:
        """Return the subnet of this host that holds ``address``, or ``None`` where a gateway is needed."""
        wanted = ip_address(address)
        for subnet in self.subnets:
            network = ip_network(subnet.prefix)
            if wanted.version == network.version and wanted in network:
                return subnet
        return None


def describe(store: Store, config: Config) -> Host:
    """Return the host from what is known now; a Node that has not arrived leaves its parts empty."""
    node = store.nodes.get(Ref("", config.node_name)) or Node(Ref("", config.node_name))
    families = config.families
    node_addresses = tuple(one for one in addresses_of(node) if family_of(one) in families)
    subnets = tuple(_subnets(store.links, families))
    return Host(
        name=config.node_name,
        families=families,
        node_addresses=node_addresses,
        subnets=subnets,
        pod_cidrs=tuple(cidr for cidr in pod_cidrs_of(node) if family_of(cidr) in families),
        zone=node.zone,
        mtu=_mtu(store.links, subnets, node_addresses),
        annotations=node.annotations,
        bgp=node.bgp,
        uid=node.uid,
    )


def addresses_of(node: Node) -> tuple[str, ...]:
    """Return a node's addresses, InternalIP before ExternalIP, without repeats."""
    internal = [one.address for one in node.addresses if one.type == "InternalIP"]
    external = [one.address for one in node.addresses if one.type == "ExternalIP"]
    return tuple(dict.fromkeys((*internal, *external)))


def pod_cidrs_of(node: Node) -> tuple[str, ...]:
    """Return a node's pod CIDRs; its annotation overrides the spec."""
    return node.bgp.pod_cidrs or node.pod_cidrs


def _subnets(links: Iterable[Link], families: tuple[Family, ...]) -> Iterator[Subnet]:
    for link in sorted(links, key=lambda one: one.index):
        if link.name == "lo" or link.name.startswith(_OURS) or (link.kind in _POD_KINDS and not _is_uplink(link)):
            continue
        for text in link.addresses:
            if family_of(text) in families:
                interface = ip_interface(text)
                yield Subnet(str(interface.network), str(interface.ip), link.name)


def _is_uplink(link: Link) -> bool:
    # A node that is a container or a namespace has a veth as its uplink: it carries an address, pods' host ends do not.
    return link.kind == "veth" and bool(link.addresses)


def _mtu(links: Iterable[Link], subnets: Iterable[Subnet], node_addresses: tuple[str, ...]) -> int:
    carrier = next((subnet.link for subnet in subnets if subnet.address in node_addresses), "")
    return next((link.mtu for link in links if link.name == carrier), 0)
