"""A best path becomes a kernel route: straight to a next hop on our subnets, through the tunnel of the node elsewhere.

What a kernel route could do harm with is refused here too, whatever the import policy let in: policies are the daemon's to
enforce, the kernel is ours.
"""

from __future__ import annotations

from typing import Final

from kuberouterpy.cluster import BestPath, Node
from kuberouterpy.config import Config
from kuberouterpy.controller import Desired
from kuberouterpy.dataplane import NextHop, Note, Route, RouteKey
from kuberouterpy.family import family_of
from kuberouterpy.host import Host
from kuberouterpy.store import Store
from routing import overlay
from routing.prefixes import inside, length

MAIN: Final = 254
"""Table ``main``."""


def routes(path: BestPath, store: Store, host: Host, config: Config) -> Desired:
    """Return the route for a best path, or why there is none; several next hops are ECMP.

    Shapes: at most one object; a note for the prefix or for each next hop that cannot be used.
    """
    refused = _refused(path.prefix, host, config)
    if refused:
        return Desired(notes=(Note(path.prefix, refused),))
    hops: set[NextHop] = set()
    notes: list[Note] = []
    for address in path.next_hops:
        hop = _next_hop(path.prefix, address, store, host, config)
        if isinstance(hop, NextHop):
            hops.add(hop)
        else:
            notes.append(hop)
    if not hops:
        return Desired(notes=tuple(notes))
    # Replies of the node itself through a tunnel must come from the address the tunnel starts at.
    source = host.primary(family_of(path.prefix)) if any(hop.link for hop in hops) else ""
    return Desired((Route(RouteKey(MAIN, path.prefix), tuple(sorted(hops)), source=source),), tuple(notes))


def _refused(prefix: str, host: Host, config: Config) -> str:
    family = family_of(prefix)
    if family not in host.families:
        return f"family-off: IPv{family:d} is not enabled"
    if length(prefix) == 0:
        return "default-route: never taken from BGP"
    ranges = (*config.service_cluster_ip_range, *config.service_external_ip_range, *config.loadbalancer_ip_range)
    for why, ours in (
        ("own-pod-cidr", host.pod_cidrs),
        ("service-range", ranges),
        ("own-subnet", tuple(subnet.prefix for subnet in host.subnets)),
    ):
        found = inside(prefix, ours)
        if found:
            return f"{why}: inside {found}"
    return ""


def _next_hop(prefix: str, address: str, store: Store, host: Host, config: Config) -> NextHop | Note:
    if family_of(address) is not family_of(prefix):
        return Note(prefix, f"other-family: next hop {address}")
    if address in host.node_addresses or address in host.addresses:
        return Note(prefix, f"own-address: next hop {address} is this node")
    node = node_of(address, store)
    if node is not None:
        remotes = overlay.remote_addresses(node, host)
        remote = next((one for one in remotes if family_of(one) is family_of(address)), "")
        if remote and overlay.tunnelled(remote, host, config):
            return overlay.next_hop(remote, config)
    if host.on_link(address) is not None:
        return NextHop(gateway=address)
    return Note(prefix, f"off-subnet: next hop {address} is not on a subnet of this node, let the fabric route")


def node_of(address: str, store: Store) -> Node | None:
    """Return the node that has an address; of several the first by name, since two may claim one."""
    return min(store.nodes.by("address", address), key=lambda node: node.ref, default=None)
