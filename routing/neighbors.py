"""Which nodes to peer with: all others (iBGP full mesh), or as route reflectors and node ASNs say.

=============  =============================================================================
roles          a session between two nodes
=============  =============================================================================
none, none     in the full mesh; without it where both have the same annotated ASN
server, none   likewise
server, server always: reflectors mesh with each other, whatever their clusters
server, client where their cluster ids are equal; the server reflects
client, other  never: a client hears everything from its reflectors
=============  =============================================================================

With ``--nodes-full-mesh=false`` the ASN of a node is its annotation, and nodes of another ASN are nobody's neighbors.

The address of a session must be the same choice on both ends, or each would dial an address the other does not expect: IPv4
where both nodes have it, else IPv6. Both address families are negotiated on it, whatever its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Final

from kuberouterpy.annotations import NodeBgp
from kuberouterpy.cluster import Node
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Neighbor, NeighborKey, Note, Speaker, SpeakerKey
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import Host, addresses_of
from kuberouterpy.store import Store

_DEFERRAL_S: Final = 1
"""We announce only what we originate: nothing of ours waits for what others still have to tell. kube-router's default of 360 s
made one dead neighbor delay every announcement by six minutes (kube-router #1323)."""
_FNV_OFFSET: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193


# --- this host --------------------------------------------------------------------------------------------------------


def speaker(host: Host, config: Config) -> Speaker | None:
    """Return the speaker of this host; ``None`` while it has no address."""
    primary = (address for family in host.families if (address := host.primary(family)))
    addresses = tuple(sorted(_listening(host) or primary))
    if not addresses:
        return None
    return Speaker(
        SpeakerKey(),
        asn=asn_of(host.bgp, config),
        router_id=router_id(host, config),
        listen_port=config.bgp_port,
        listen_addresses=addresses,
        families=host.families,
        graceful_restart_s=restart_s(config),
        deferral_s=_DEFERRAL_S if config.bgp_graceful_restart else 0,
    )


def notes(host: Host, config: Config) -> Iterator[Note]:
    """Yield what a person should know of this host's own annotations."""
    for one in host.bgp.malformed:
        yield Note(one.annotation, f"invalid-annotation: {one.reason}; the last good value stays", event=True)
    if host.bgp.asn and config.nodes_full_mesh and host.bgp.asn != config.cluster_asn:
        yield Note("kube-router.io/node.asn", "full-mesh: it counts only with --nodes-full-mesh=false")
    if not config.nodes_full_mesh and not host.bgp.asn:
        yield Note(
            "kube-router.io/node.asn",
            f"missing: --nodes-full-mesh=false wants it; --cluster-asn {config.cluster_asn} stands in",
            event=not (host.bgp.reflector or host.bgp.client_of),
        )
    if host.bgp.reflector and host.bgp.client_of:
        yield Note("kube-router.io/rr.client", "server-and-client: rr.server stands beside it and counts", event=True)


def asn_of(bgp: NodeBgp, config: Config) -> int:
    """Return the ASN of a node."""
    return config.cluster_asn if config.nodes_full_mesh else bgp.asn or config.cluster_asn


def router_id(host: Host, config: Config) -> str:
    """Return the BGP identifier: as given, else the primary IPv4 address, else a hash of the primary address.

    Source: kube-router generates by 32-bit FNV-1a only when asked to, and fails on IPv6-only nodes otherwise.
    """
    if config.router_id and config.router_id != "generate":
        return config.router_id
    primary = host.primary(Family.IPV4)
    if primary and config.router_id != "generate":
        return primary
    return str(IPv4Address(fnv1a(next(iter(host.node_addresses), ""))))


def shared_router_id(node: Node, host: Host, config: Config) -> Iterator[Note]:
    """Yield a note where a node that is a neighbor has our router ID, unless it was given one of its own.

    ``--router-id`` of one address in a DaemonSet gives it to all nodes; hashes may collide. Of other nodes only what follows
    from their addresses is known; what GoBGP hears of them is in its sessions' errors.
    """
    ours, name = router_id(host, config), node.ref.name
    if ours == _usual_id(addresses_of(node), config):
        reason = (
            f"duplicate-router-id: {ours} is that of {name}, too, and both refuse a session; give each its --router-id"
        )
        yield Note(name, reason, event=True)


def _usual_id(addresses: Sequence[str], config: Config) -> str:
    first = next((one for one in addresses if family_of(one) is Family.IPV4), "")
    if first and config.enable_ipv4 and config.router_id != "generate":
        return first
    return str(IPv4Address(fnv1a(addresses[0])))


def restart_s(config: Config) -> int:
    """Return the graceful-restart time; 0: off."""
    return int(config.bgp_graceful_restart_time_s) if config.bgp_graceful_restart else 0


def fnv1a(text: str) -> int:
    """Return the 32-bit FNV-1a hash of a text."""
    value = _FNV_OFFSET
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value


def _listening(host: Host) -> tuple[str, ...]:
    return tuple(one for one in host.bgp.listen if family_of(one) in host.families)


# --- other nodes ------------------------------------------------------------------------------------------------------


def of_node(node: Node, host: Host, config: Config) -> Neighbor | Note | None:
    """Return the neighbor that a node is, or why it is none; ``None`` for ourselves."""
    name = node.ref.name
    if name == host.name:
        return None
    why_not = "ibgp-off: --enable-ibgp=false" if not config.enable_ibgp else _apart(node.bgp, host.bgp, config)
    if why_not:
        return Note(name, why_not)
    addresses = session_addresses(node, host)
    if addresses is None:
        return Note(name, "no-common-family: no address of a family that both nodes have")
    ours, theirs = addresses
    reflects = bool(host.bgp.reflector and _client_of(node.bgp))
    return Neighbor(
        NeighborKey(theirs),
        asn=asn_of(node.bgp, config),
        local_address=ours,
        port=config.bgp_port,
        families=host.families,
        description=name,
        hold_time_s=int(config.bgp_holdtime_s),
        # One end dials: two connections at once are a collision, which GoBGP resolves by idling both for seconds.
        passive=ip_address(ours).packed > ip_address(theirs).packed,
        graceful_restart_s=restart_s(config),
        reflector_client=reflects,
        reflector_cluster=host.bgp.reflector if reflects else "",
    )


def of_nodes(store: Store, host: Host, config: Config) -> Iterator[str]:
    """Yield the address of every neighbor that is a node, sorted."""
    found = (of_node(node, host, config) for node in store.nodes)
    yield from sorted({one.key.address for one in found if isinstance(one, Neighbor)})


def session_addresses(node: Node, host: Host) -> tuple[str, str] | None:
    """Return our and their address of the session with a node; ``None`` where no family is common."""
    theirs = addresses_of(node)
    for family in sorted(host.families):
        ours = host.primary(family)
        other = next((address for address in theirs if family_of(address) is family), "")
        if ours and other:
            return ours, other
    return None


def _apart(theirs: NodeBgp, ours: NodeBgp, config: Config) -> str:
    """Return why two nodes have no session, or an empty string. Symmetric, or one end would dial in vain."""
    if asn_of(theirs, config) != asn_of(ours, config):
        return f"other-asn: it is of AS {asn_of(theirs, config)}, this node of AS {asn_of(ours, config)}"
    clients = tuple(filter(None, (_client_of(theirs), _client_of(ours))))
    servers = tuple(filter(None, (theirs.reflector, ours.reflector)))
    if clients:
        if not servers:
            return "reflected: a client of route reflectors has sessions with them only"
        return "" if servers == clients else f"other-cluster: a client of {clients[0]}, a reflector of {servers[0]}"
    if config.nodes_full_mesh or len(servers) == 2:
        return ""
    if theirs.asn and ours.asn:
        return ""
    return "no-full-mesh: --nodes-full-mesh=false, and not both nodes have annotation kube-router.io/node.asn"


def _client_of(bgp: NodeBgp) -> str:
    return "" if bgp.reflector else bgp.client_of
