"""External neighbors: the routers that flags name, else those that this node's annotations name.

As in kube-router, flags that name any leave the annotations without effect, which a note tells. A password comes from
``--peer-router-passwords-file`` or, with a warning, from an annotation. While that file has never been readable, the
neighbors of the flags have no session: one without its password would be open, or never come up without a word why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kuberouterpy.annotations import Peer
from kuberouterpy.cluster import Ref
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Bfd, Neighbor, NeighborKey, Note
from kuberouterpy.family import family_of
from kuberouterpy.host import Host, addresses_of
from kuberouterpy.store import Store
from routing.neighbors import asn_of, restart_s

DESCRIPTION: Final = "external"
"""What these neighbors are called in the daemon."""
_SECRETS: Final = Ref("", "passwords")


def peers(host: Host, config: Config) -> tuple[Peer, ...]:
    """Return the external neighbors asked for, of the families in use, in their order; without the file's passwords."""
    found = _of_flags(config) or host.bgp.peers
    return tuple(one for one in found if family_of(one.address) in host.families)


def addresses(store: Store, host: Host, config: Config) -> tuple[str, ...]:
    """Return the address of every external neighbor there can be a session with, sorted; policies name them."""
    return tuple(sorted(one.address for one in peers(host, config) if not _impossible(one, store, host)))


def wanted(address: str, store: Store, host: Host, config: Config) -> Iterator[Neighbor | Note]:
    """Yield the external neighbor at an address, or why there is none; nothing where none is asked for."""
    peer = next((one for one in peers(host, config) if one.address == address), None)
    if peer is None:
        return
    why_not = _impossible(peer, store, host) or _unsecured(peer, store, config)
    if why_not:
        yield Note(address, why_not, event=True)
        return
    if peer.password:
        yield Note(
            address,
            "password-in-annotation: everyone who reads Nodes can read it; use --peer-router-passwords-file",
            event=True,
        )
    if _bfd(peer, config) and _multihop(peer, host, config):
        yield Note(address, "bfd-single-hop: GoBGP has no multihop BFD; over a router its packets may be refused")
    if peer.asn != asn_of(host.bgp, config) and not _ttl(config) and host.on_link(address) is None:
        yield Note(address, "off-subnet: an eBGP session over a router needs --peer-router-multihop-ttl")
    yield _neighbor(peer, store, host, config)


def notes(host: Host, config: Config) -> Iterator[Note]:
    """Yield what a person should know of the ways to name external neighbors."""
    if host.bgp.peers and config.peer_router_ips:
        yield Note("kube-router.io/peers", "flags-count: --peer-router-ips is given, so annotations name no neighbors")


def _neighbor(peer: Peer, store: Store, host: Host, config: Config) -> Neighbor:
    return Neighbor(
        NeighborKey(peer.address),
        asn=peer.asn,
        local_address=_local(peer, host),
        port=peer.port,
        families=host.families,
        description=DESCRIPTION,
        hold_time_s=int(config.bgp_holdtime_s),
        multihop_ttl=_ttl(config) if _multihop(peer, host, config) else 0,
        graceful_restart_s=restart_s(config),
        password=peer.password or _password(peer, store, config),
        max_prefixes=config.peer_max_prefixes,
        bfd=_bfd(peer, config),
    )


def _bfd(peer: Peer, config: Config) -> Bfd | None:
    """Return what is asked for: what the neighbor's own settings leave out is the flags'."""
    wish = peer.bfd
    if not (config.enable_bfd if wish.enabled is None else wish.enabled):
        return None
    return Bfd(
        port=wish.port or config.bfd_port,
        multiplier=wish.multiplier or config.bfd_detection_multiplier,
        tx_ms=wish.tx_ms or config.bfd_desired_min_tx_interval_ms,
        rx_ms=wish.rx_ms or config.bfd_required_min_rx_interval_ms,
    )


def _of_flags(config: Config) -> tuple[Peer, ...]:
    ports = config.peer_router_ports or (179,) * len(config.peer_router_ips)
    rows = zip(config.peer_router_ips, config.peer_router_asns, ports, strict=True)
    return tuple(Peer(address, asn, port) for address, asn, port in rows)


def _impossible(peer: Peer, store: Store, host: Host) -> str:
    if peer.address in host.node_addresses or peer.address in host.addresses:
        return "own-address: it is an address of this node"
    node = next((one for one in store.nodes.by("address", peer.address) if peer.address in addresses_of(one)), None)
    if node is not None:
        return f"is-a-node: {node.ref.name} has this address"
    local = _local(peer, host)
    if not local:
        return "no-common-family: this node has no address of its family"
    if family_of(local) is not family_of(peer.address):
        return f"other-family: localip {local} is of another family"
    return ""


def _unsecured(peer: Peer, store: Store, config: Config) -> str:
    if peer.address in config.peer_router_ips and config.peer_router_passwords_file:
        known = store.passwords.get(_SECRETS)
        if known is None or len(known.values) != len(config.peer_router_ips):
            return f"password-unknown: {config.peer_router_passwords_file} has not been readable yet"
    return ""


def _local(peer: Peer, host: Host) -> str:
    return peer.local_address or host.primary(family_of(peer.address))


def _password(peer: Peer, store: Store, config: Config) -> str:
    known = store.passwords.get(_SECRETS)
    if known is None or peer.address not in config.peer_router_ips:
        return ""
    return known.values[config.peer_router_ips.index(peer.address)]


def _multihop(peer: Peer, host: Host, config: Config) -> bool:
    return _ttl(config) > 0 and peer.asn != asn_of(host.bgp, config)


def _ttl(config: Config) -> int:
    return config.peer_router_multihop_ttl if config.peer_router_multihop_ttl >= 2 else 0
