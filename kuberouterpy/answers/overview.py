"""The overview: what a person wants to know of a node at one glance, a line a controller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

from kuberouterpy.dataplane import Chain, Neighbor, RealServer, VirtualServer
from kuberouterpy.drivers import Sharing
from kuberouterpy.loop import Loop
from kuberouterpy.status import Status

_ESTABLISHED = "established"
_POD_CHAIN = "KUBE-POD-FW-"
_SHARED: Final = {"ipvs": "virtual servers", "iptables": "rules"}
"""What others have, by driver."""
_NAMED: Final = 3


class NeighborView(Struct, frozen=True):
    """A neighbor that is wanted."""

    address: str
    name: str
    """Node, or ``external``."""
    up: bool
    state: str
    """As GoBGP words it, with why the last session ended."""


class ForeignView(Struct, frozen=True):
    """What others have in a table that this agent shares with them."""

    kind: str
    """``virtual servers``, ``rules``."""
    count: int
    named: tuple[str, ...]
    """The first few: virtual servers, or the chains that hold the rules."""
    more: int = 0
    """How many more there are to name."""


class Overview(Struct, frozen=True, omit_defaults=True):
    """Answer to /v1/overview."""

    status: Status
    controllers: tuple[str, ...] = ()
    """proxy, routing, firewall: those that run."""
    services: int = 0
    real_servers: int = 0
    draining: int = 0
    """Real servers with weight 0."""
    schedulers: dict[str, int] = {}
    """Virtual servers by scheduler."""
    protected: int = 0
    """Pods of this node that some policy isolates."""
    waiting: int = 0
    """Pods of this node that have no address yet."""
    neighbors: tuple[NeighborView, ...] = ()
    drift: int = 0
    """Objects that differ now."""
    foreign: tuple[ForeignView, ...] = ()
    """As of the last listing of each table; left alone."""


def overview(loop: Loop, neighbors: Mapping[str, str]) -> Overview:
    """Return what there is; ``neighbors``: state by address, as the sidecar tells it."""
    tracker = loop.tracker
    reals = [one for one in tracker.wanted_of((RealServer,)) if isinstance(one, RealServer)]
    servers = [one for one in tracker.wanted_of((VirtualServer,)) if isinstance(one, VirtualServer)]
    chains = [one for one in tracker.wanted_of((Chain,)) if isinstance(one, Chain)]
    protected = {str(owner) for one in chains if one.key.name.startswith(_POD_CHAIN) for owner in _owners(loop, one)}
    wanted = [one for one in tracker.wanted_of((Neighbor,)) if isinstance(one, Neighbor)]
    here = [pod for pod in loop.store.pods if pod.node == loop.host.name and not pod.finished]
    return Overview(
        status=loop.status,
        controllers=tuple(loop.controllers),
        services=len({owner for one in servers for owner in _owners(loop, one)}),
        real_servers=len(reals),
        draining=sum(not one.weight for one in reals),
        schedulers=dict(Counter(one.scheduler for one in servers).most_common()),
        protected=len(protected),
        waiting=sum(not pod.addresses for pod in here),
        neighbors=tuple(_neighbor(one, neighbors) for one in sorted(wanted, key=lambda one: one.key)),
        drift=tracker.unfinished(),
        foreign=tuple(_foreign(loop)),
    )


def _foreign(loop: Loop) -> Iterator[ForeignView]:
    for driver in (programmed.driver for programmed in loop.drivers if programmed.listed):
        what = _SHARED.get(driver.name)
        if what and isinstance(driver, Sharing):
            names = sorted(driver.foreign)
            yield ForeignView(
                what, sum(driver.foreign.values()), tuple(names[:_NAMED]), more=max(0, len(names) - _NAMED)
            )


def _owners(loop: Loop, value: Chain | VirtualServer) -> list[object]:
    return [owner for owner, _ in loop.tracker.explain(value.key).wanted_by[:1]]


def _neighbor(wanted: Neighbor, states: Mapping[str, str]) -> NeighborView:
    state = states.get(wanted.key.address, "unknown")
    return NeighborView(wanted.key.address, wanted.description, state.split(" ")[0] == _ESTABLISHED, state)
