"""Tunnels to nodes that are not on our subnets, and the table that sends our pods' packets for those nodes through them.

A tunnel follows its node, never a prefix. Pods' packets *to the node itself* take it as well: table 77 has the nodes'
addresses, and a rule sends what comes from our pod CIDRs there first. Its name is a hash of the node's address, separators
included (without them 1.12.3.4 and 11.2.3.4 meet, kube-router.md 6.4 row 21).
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from kuberouterpy.cluster import Node
from kuberouterpy.config import Config
from kuberouterpy.dataplane import (
    Link,
    LinkKey,
    NextHop,
    Note,
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
ENCAPSULATION: Final = "ipip"

_KINDS: Final = {Family.IPV4: "ipip", Family.IPV6: "ip6tnl"}
_OVERHEAD_BYTES: Final = {Family.IPV4: 20, Family.IPV6: 40}
"""The outer header. ip6tnl's optional encapsulation limit is off."""
_HASH_LENGTH: Final = 11
"""15 bytes of link name less ``tun-``."""


def tunnel_name(address: str) -> str:
    """Return the name of the tunnel to a node's address."""
    return TUNNEL_PREFIX + sha256(address.encode()).hexdigest()[:_HASH_LENGTH]


def remote_addresses(node: Node, host: Host) -> tuple[str, ...]:
    """Return the address of each common family that stands for a node: its first."""
    found = {family_of(address): address for address in reversed(addresses_of(node))}
    return tuple(found[family] for family in host.families if family in found and host.primary(family))


def tunnelled(address: str, host: Host, config: Config) -> bool:
    """Return whether packets to a node's address go through a tunnel."""
    if not config.enable_overlay or config.overlay_encap != ENCAPSULATION:
        return False
    # Without a subnet of its family nothing is known of what is near: links arrive with the first listing.
    if not any(family_of(subnet.prefix) is family_of(address) for subnet in host.subnets):
        return False
    return config.overlay_type == "full" or host.on_link(address) is None


def of_node(node: Node, host: Host, config: Config) -> Iterator[Object | Note]:
    """Yield the tunnels to a node, and its addresses in the overlay's table."""
    if node.ref.name == host.name:
        return
    for address in remote_addresses(node, host):
        if tunnelled(address, host, config):
            family = family_of(address)
            name = tunnel_name(address)
            yield Link(LinkKey(name), _KINDS[family], local=host.primary(family), remote=address)
            yield Route(RouteKey(TABLE, host_prefix(address)), (NextHop(link=name),), source=host.primary(family))
        elif config.enable_overlay and config.overlay_encap != ENCAPSULATION:
            yield Note(address, f"encapsulation-not-built: --overlay-encap {config.overlay_encap}")


def rules(host: Host, config: Config) -> Iterator[RoutingRule]:
    """Yield what sends packets of our pods by the overlay's table."""
    if config.enable_overlay and config.overlay_encap == ENCAPSULATION:
        for cidr in host.pod_cidrs:
            yield RoutingRule(RoutingRuleKey(family_of(cidr), PRIORITY, source=cidr), TABLE)


def overhead_bytes(host: Host, config: Config) -> int:
    """Return what a tunnel takes of each packet, for the family that takes most; 0 without an overlay."""
    if not config.enable_overlay or config.overlay_encap != ENCAPSULATION:
        return 0
    return max((_OVERHEAD_BYTES[family] for family in host.families), default=0)
