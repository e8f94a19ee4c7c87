"""Tunnels to nodes: who is reached through one, by what links, and the table that sends our pods' packets there.

A tunnel follows its node, never a prefix. Pods' packets *to the node itself* take it as well: table 77 has the nodes'
addresses, and a rule sends what comes from our pod CIDRs there first.

``ipip`` and ``fou`` have a link a node (``fou`` is ipip or ip6tnl in UDP, in its variant with a header, GUE, as kube-router has
it; the receiving port is one a family). The kernel takes only one vxlan link a port and identifier, so ``vxlan`` has one link a
family, and each node is a *far end* of it whose hardware address follows from its IP address: no node has to be asked.

A link's name is a hash of encapsulation, port and address, parts kept apart (kube-router strips the separators, and 1.12.3.4
meets 11.2.3.4: kube-router.md 6.4 row 21). So another encapsulation is another link: it stands, and routes have moved to it,
before the old one goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from kuberouterpy.cluster import Node
from kuberouterpy.config import Config
from kuberouterpy.dataplane import (
    FarEnd,
    FarEndKey,
    FouPort,
    FouPortKey,
    Link,
    LinkKey,
    NextHop,
    Object,
    Route,
    RouteKey,
    RoutingRule,
    RoutingRuleKey,
)
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import TUNNEL_PREFIX, Host, addresses_of
from routing.prefixes import host_prefix

TABLE: Final = 77
"""kube-router's routing table of that name."""
PRIORITY: Final = 32077
"""Before main (32766), behind what people and other agents put first."""
VNI: Final = 77
"""VXLAN network identifier of all our links; Flannel has 1, Calico 4096."""


class Encapsulation(NamedTuple):
    """What one value of ``--overlay-encap`` means."""

    kinds: dict[Family, str]
    """Kind of link."""
    header_bytes: int
    """What it takes of every packet beside the outer IP header."""
    port: int = 0
    """UDP port where ``--overlay-encap-port`` names none; 0: no UDP."""


_IPIP: Final = {Family.IPV4: "ipip", Family.IPV6: "ip6tnl"}
_VXLAN: Final = {Family.IPV4: "vxlan", Family.IPV6: "vxlan"}
ENCAPSULATIONS: Final = {
    "ipip": Encapsulation(_IPIP, 0),
    # UDP 8 (RFC 768), GUE without options 4 (draft-ietf-intarea-gue, 3.1); the port is kube-router's.
    "fou": Encapsulation(_IPIP, 12, port=5555),
    # UDP 8, VXLAN 8, the inner Ethernet header 14 (RFC 7348, 5).
    "vxlan": Encapsulation(_VXLAN, 30, port=4789),
}
"""``wireguard`` gets its row when it comes: its links have keys, which no other has."""
_OUTER_BYTES: Final = {Family.IPV4: 20, Family.IPV6: 40}
"""The outer header. ip6tnl's optional encapsulation limit is off."""
_LEAST_BYTES: Final = {Family.IPV4: 68, Family.IPV6: 1280}
"""Every link must carry so much (RFC 791, RFC 8200 5); an IPv6 packet in a tunnel over less is cut by the outer header."""
_HASH_LENGTH: Final = 11
"""15 bytes of link name less ``tun-``."""
_HARDWARE_LENGTH: Final = 6


def tunnel_name(address: str, config: Config) -> str:
    """Return the name of the link through which a node's address is reached."""
    shared = str(family_of(address).value) if config.overlay_encap == "vxlan" else address
    identity = "\0".join((config.overlay_encap, str(port(config)), shared))
    return TUNNEL_PREFIX + sha256(identity.encode()).hexdigest()[:_HASH_LENGTH]


def hardware_address(address: str) -> str:
    """Return the hardware address that a node's vxlan link has, a function of its IP address: unicast, locally administered."""
    first, *others = sha256(address.encode()).digest()[:_HARDWARE_LENGTH]
    return bytes((first & 0xFC | 0x02, *others)).hex(":")


def port(config: Config) -> int:
    """Return the UDP port of the encapsulation; 0 where it has none."""
    usual = ENCAPSULATIONS[config.overlay_encap].port
    return usual and (config.overlay_encap_port or usual)


def remote_addresses(node: Node, host: Host) -> tuple[str, ...]:
    """Return the address of each common family that stands for a node: its first."""
    found = {family_of(address): address for address in reversed(addresses_of(node))}
    return tuple(found[family] for family in host.families if family in found and host.primary(family))


def tunnelled(address: str, host: Host, config: Config) -> bool:
    """Return whether packets to a node's address go through a tunnel."""
    # Another node may claim an address of ours: a tunnel to ourselves would be a loop.
    if not config.enable_overlay or address in host.node_addresses or address in host.addresses:
        return False
    # Without a subnet of its family nothing is known of what is near: links arrive with the first listing.
    if not any(family_of(subnet.prefix) is family_of(address) for subnet in host.subnets):
        return False
    return config.overlay_type == "full" or host.on_link(address) is None


def next_hop(address: str, config: Config) -> NextHop:
    """Return the way through the tunnel to a node's address."""
    name = tunnel_name(address, config)
    if config.overlay_encap != "vxlan":
        return NextHop(link=name)
    # A link-local gateway needs no mark: it is on every link.
    return NextHop(_gateway(address), name, on_link=family_of(address) is Family.IPV4)


def of_node(node: Node, host: Host, config: Config) -> Iterator[Object]:
    """Yield the tunnels to a node, and its addresses in the overlay's table."""
    if node.ref.name == host.name:
        return
    for address in remote_addresses(node, host):
        if tunnelled(address, host, config):
            family = family_of(address)
            key = LinkKey(tunnel_name(address, config))
            if config.overlay_encap == "vxlan":
                yield FarEnd(FarEndKey(key.name, address), hardware_address(address), _gateway(address))
            else:
                yield _link(key, family, host, config, remote=address)
            hop = next_hop(address, config)
            yield Route(RouteKey(TABLE, host_prefix(address)), (hop,), source=host.primary(family))


def base(host: Host, config: Config) -> Iterator[Object]:
    """Yield what tunnels to all nodes share, and what sends packets of our pods by the overlay's table."""
    if not config.enable_overlay:
        return
    for family in host.families:
        local = host.primary(family)
        if local and config.overlay_encap == "vxlan":
            yield _link(LinkKey(tunnel_name(local, config)), family, host, config)
        if local and config.overlay_encap == "fou":
            yield FouPort(FouPortKey(family, port(config)))
    for cidr in host.pod_cidrs:
        yield RoutingRule(RoutingRuleKey(family_of(cidr), PRIORITY, source=cidr), TABLE)


def mtu(family: Family, host: Host, config: Config) -> int:
    """Return the bytes that fit into a tunnel of a family; 0 while the uplink's are not known."""
    return max(host.mtu - overhead_bytes(family, config), _LEAST_BYTES[family]) if host.mtu else 0


def overhead_bytes(family: Family, config: Config) -> int:
    """Return what a tunnel takes of each packet: 20 and 40 for ipip, 32 and 52 for fou, 50 and 70 for vxlan."""
    return _OUTER_BYTES[family] + ENCAPSULATIONS[config.overlay_encap].header_bytes


def _link(key: LinkKey, family: Family, host: Host, config: Config, *, remote: str = "") -> Link:
    local = host.primary(family)
    return Link(
        key,
        ENCAPSULATIONS[config.overlay_encap].kinds[family],
        mtu=mtu(family, host, config),
        local=local,
        remote=remote,
        port=port(config),
        vni=0 if remote else VNI,
        hardware="" if remote else hardware_address(local),
    )


def _gateway(address: str) -> str:
    """Return the gateway that stands for a node on a vxlan link.

    The kernel refuses an IPv6 gateway that it would reach over another link, on-link or not (net/ipv6/route.c:
    ip6_route_check_nh_onlink), but not a link-local one: so it is the link-local address of the node's hardware address
    (RFC 4291 appendix A).
    """
    if family_of(address) is Family.IPV4:
        return address
    first, *others = bytes.fromhex(hardware_address(address).replace(":", ""))
    interface = bytes((first ^ 0x02, *others[:2], 0xFF, 0xFE, *others[2:]))
    return str(IPv6Address(bytes((0xFE, 0x80, *bytes(6))) + interface))
