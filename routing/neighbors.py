"""Whom to peer with: every other node (iBGP full mesh) and the external routers that flags name.

The address of a session must be the same choice on both ends, or each would dial an address the other does not expect: IPv4
where both nodes have it, else IPv6. Both address families are negotiated on it, whatever its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from typing import Final

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


def speaker(host: Host, config: Config) -> Speaker | None:
    """Return the speaker of this host; ``None`` while it has no address."""
    addresses = tuple(sorted(address for family in host.families if (address := host.primary(family))))
    if not addresses:
        return None
    return Speaker(
        SpeakerKey(),
        asn=config.cluster_asn,
        router_id=router_id(host, config),
        listen_port=config.bgp_port,
        listen_addresses=addresses,
        families=host.families,
        graceful_restart_s=_restart_s(config),
        deferral_s=_DEFERRAL_S if config.bgp_graceful_restart else 0,
    )


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


def session_addresses(node: Node, host: Host) -> tuple[str, str] | None:
    """Return our and their address of the session with a node; ``None`` where no family is common."""
    theirs = addresses_of(node)
    for family in sorted(host.families):
        ours = host.primary(family)
        other = next((address for address in theirs if family_of(address) is family), "")
        if ours and other:
            return ours, other
    return None


def of_node(node: Node, host: Host, config: Config) -> Neighbor | Note | None:
    """Return the neighbor that a node is, or why it is none; ``None`` for ourselves."""
    name = node.ref.name
    if name == host.name:
        return None
    if not config.enable_ibgp:
        return Note(name, "ibgp-off: --enable-ibgp=false")
    if not config.nodes_full_mesh:
        return Note(name, "no-full-mesh: --nodes-full-mesh=false, and route reflectors are not built yet")
    addresses = session_addresses(node, host)
    if addresses is None:
        return Note(name, "no-common-family: no address of a family that both nodes have")
    ours, theirs = addresses
    return Neighbor(
        NeighborKey(theirs),
        asn=config.cluster_asn,
        local_address=ours,
        port=config.bgp_port,
        families=host.families,
        description=name,
        hold_time_s=int(config.bgp_holdtime_s),
        # One end dials: two connections at once are a collision, which GoBGP resolves by idling both for seconds.
        passive=ip_address(ours).packed > ip_address(theirs).packed,
        graceful_restart_s=_restart_s(config),
    )


def of_nodes(store: Store, host: Host, config: Config) -> Iterator[str]:
    """Yield the address of every neighbor that is a node, sorted."""
    found = (of_node(node, host, config) for node in store.nodes)
    yield from sorted({one.key.address for one in found if isinstance(one, Neighbor)})


def external_addresses(config: Config) -> tuple[str, ...]:
    """Return the addresses of external neighbors, in the order of their flag."""
    return tuple(one for one in config.peer_router_ips if family_of(one) in config.families)


def external(address: str, host: Host, config: Config) -> Neighbor | Note:
    """Return the external neighbor at an address, or why there is none. The flags' lists are aligned."""
    if config.peer_router_passwords_file:
        # A session without its password would be open, or never come up without a word why.
        return Note(address, "passwords-not-built: --peer-router-passwords-file is not read yet")
    index = config.peer_router_ips.index(address)
    local = host.primary(family_of(address))
    if not local:
        return Note(address, "no-common-family: this node has no address of its family")
    return Neighbor(
        NeighborKey(address),
        asn=config.peer_router_asns[index],
        local_address=local,
        port=config.peer_router_ports[index] if config.peer_router_ports else 179,
        families=host.families,
        description="external",
        hold_time_s=int(config.bgp_holdtime_s),
        multihop_ttl=config.peer_router_multihop_ttl if config.peer_router_multihop_ttl >= 2 else 0,
        graceful_restart_s=_restart_s(config),
    )


def _restart_s(config: Config) -> int:
    return int(config.bgp_graceful_restart_time_s) if config.bgp_graceful_restart else 0


def fnv1a(text: str) -> int:
    """Return the 32-bit FNV-1a hash of a text."""
    value = _FNV_OFFSET
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value
