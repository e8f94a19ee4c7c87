"""Neighbors as GoBGP has them, and read back.

A neighbor carries a digest of all it was made from in its description (``node-2 kr:B5KQ7MZA``): one that has the wanted digest
is left alone, so that an equal neighbor never resets its session.
"""

from __future__ import annotations

from typing import Final

import msgspec

from kuberouterpy.dataplane import Bfd, Neighbor, NeighborKey
from kuberouterpy.family import FAMILIES, Family
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp import wire
from kuberouterpy.gobgp.client import GobgpClient
from kuberouterpy.names import digest

_MARK: Final = " kr:"
"""Before the digest in a description."""
_DIGEST: Final = 8
_LAYOUT: Final = "2"
"""Part of every digest: raise it when a neighbor is written in another way, so that old ones are replaced."""
_IDLE_HOLD_S: Final = 5
"""GoBGP's pause after a session was reset; its default of 30 s would keep a rebooted neighbor out for as long."""


def peers(client: GobgpClient) -> dict[str, pb.Peer]:
    """Return every neighbor the daemon has, by address. Errors: GobgpError."""
    answers = client.collect("ListPeer", pb.ListPeerRequest(), pb.ListPeerResponse)
    return {answer.peer.conf.neighbor_address: answer.peer for answer in answers}


def fingerprint(neighbor: Neighbor) -> str:
    """Return what stands in a neighbor's description for all that it was made from."""
    return digest(_LAYOUT, repr(msgspec.structs.astuple(neighbor)), length=_DIGEST)


def marked(peer: pb.Peer) -> str:
    """Return the digest in a neighbor's description; empty where there is none."""
    _, mark, text = peer.conf.description.rpartition(_MARK)
    return text if mark else ""


def as_peer(neighbor: Neighbor, deferral_s: int) -> pb.Peer:
    """Return a neighbor as it is told to GoBGP."""
    restart = neighbor.graceful_restart_s > 0
    return pb.Peer(
        conf=pb.PeerConf(
            neighbor_address=neighbor.key.address,
            peer_asn=neighbor.asn,
            auth_password=neighbor.password,
            description=f"{neighbor.description}{_MARK}{fingerprint(neighbor)}",
        ),
        ebgp_multihop=pb.EbgpMultihop(enabled=neighbor.multihop_ttl > 0, multihop_ttl=neighbor.multihop_ttl),
        route_reflector=pb.RouteReflector(
            route_reflector_client=neighbor.reflector_client,
            route_reflector_cluster_id=neighbor.reflector_cluster,
        ),
        timers=pb.Timers(
            config=pb.TimersConfig(
                connect_retry=neighbor.connect_retry_s,
                hold_time=neighbor.hold_time_s,
                keepalive_interval=max(1, neighbor.hold_time_s // 3),
                idle_hold_time_after_reset=_IDLE_HOLD_S,
            )
        ),
        transport=pb.Transport(
            local_address=neighbor.local_address,
            remote_port=neighbor.port,
            passive_mode=neighbor.passive,
        ),
        graceful_restart=pb.GracefulRestart(
            enabled=restart,
            restart_time=neighbor.graceful_restart_s,
            # Without it GoBGP does not claim to forward while it restarts, and helpers drop our routes at once.
            local_restarting=restart,
            deferral_time=deferral_s if restart else 0,
            # RFC 8538: a session that ends by an error, hold time included, keeps its routes at both ends. Without it a
            # daemon that hung for longer drops what its neighbors told as soon as it hears of their notification.
            notification_enabled=restart,
        ),
        afi_safis=[
            pb.AfiSafi(
                config=pb.AfiSafiConfig(family=pb.Family(afi=wire.AFI[family], safi=wire.UNICAST), enabled=True),
                mp_graceful_restart=pb.MpGracefulRestart(config=pb.MpGracefulRestartConfig(enabled=restart)),
                prefix_limits=_limit(neighbor, family),
            )
            for family in neighbor.families
        ],
        bfd=_bfd(neighbor.bfd),
    )


def _bfd(bfd: Bfd | None) -> pb.BfdPeerConfig | None:
    if bfd is None:
        return None
    return pb.BfdPeerConfig(
        enabled=True,
        port=bfd.port,
        detection_multiplier=bfd.multiplier,
        desired_minimum_tx_interval=1000 * bfd.tx_ms,
        required_minimum_receive=1000 * bfd.rx_ms,
    )


def _limit(neighbor: Neighbor, family: Family) -> pb.PrefixLimit | None:
    if not neighbor.max_prefixes:
        return None
    return pb.PrefixLimit(family=pb.Family(afi=wire.AFI[family], safi=wire.UNICAST), max_prefixes=neighbor.max_prefixes)


def read(address: str, peer: pb.Peer) -> Neighbor:
    """Return a neighbor as GoBGP tells it."""
    conf, timers, transport = peer.conf, peer.timers.config, peer.transport
    reflector = peer.route_reflector
    afis = {one.config.family.afi for one in peer.afi_safis}
    description = conf.description.rpartition(_MARK)[0] if marked(peer) else conf.description
    return Neighbor(
        NeighborKey(address),
        asn=conf.peer_asn,
        local_address=transport.local_address,
        port=transport.remote_port,
        families=tuple(family for family in FAMILIES if wire.AFI[family] in afis),
        description=description,
        hold_time_s=timers.hold_time,
        connect_retry_s=timers.connect_retry,
        passive=transport.passive_mode,
        multihop_ttl=peer.ebgp_multihop.multihop_ttl if peer.ebgp_multihop.enabled else 0,
        graceful_restart_s=peer.graceful_restart.restart_time if peer.graceful_restart.enabled else 0,
        reflector_client=reflector.route_reflector_client,
        # Without a client GoBGP 4 says "invalid IP" here.
        reflector_cluster=reflector.route_reflector_cluster_id if reflector.route_reflector_client else "",
        password=conf.auth_password,
        max_prefixes=max((one.prefix_limits.max_prefixes for one in peer.afi_safis), default=0),
        bfd=_read_bfd(peer.bfd),
    )


def _read_bfd(bfd: pb.BfdPeerConfig) -> Bfd | None:
    if not bfd.enabled:
        return None
    sends_ms, hears_ms = bfd.desired_minimum_tx_interval // 1000, bfd.required_minimum_receive // 1000
    return Bfd(bfd.port, bfd.detection_multiplier, sends_ms, hears_ms)
