"""A plan against this kernel: the agent's own drivers, which here only list. Needs root.

Apart from :mod:`kuberouterpy.offline` because these drivers bring pyroute2 and grpc along, which a plan from YAML alone does
without.
"""

from __future__ import annotations

import queue
from typing import Final, cast

from kuberouterpy.cluster import Event, Link, Replace
from kuberouterpy.config import Config
from kuberouterpy.drivers import Driver
from kuberouterpy.drivers.cni import CniDriver
from kuberouterpy.drivers.gobgp import GobgpDriver
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.drivers.links import LinksDriver
from kuberouterpy.drivers.routes import RoutesDriver
from kuberouterpy.drivers.sysctl import SysctlDriver
from kuberouterpy.errors import SourceError
from kuberouterpy.offline import Facts, PlanningLoop, events, idle
from kuberouterpy.sources.netlink import NetlinkSource
from kuberouterpy.wiring import is_ours

_LISTING_S: Final = 5.0


def build(config: Config, facts: Facts) -> PlanningLoop:
    """Return a loop that has compared the facts with kernel, files and GoBGP of this node.

    A driver that cannot list is told in the plan, not raised.
    """
    loops: list[PlanningLoop] = []
    drivers: list[Driver] = [
        SysctlDriver(),
        LinksDriver(dummy=config.run_service_proxy, tunnels=config.run_router),
        IpsetDriver(),
        IptablesDriver(config.families),
    ]
    if config.run_service_proxy:
        drivers.append(IpvsDriver(lambda key: is_ours(loops[0], key)))
    if config.run_router:
        drivers += [RoutesDriver(), GobgpDriver(config.gobgp_socket, lost=lambda: None)]
        drivers += [CniDriver()] if config.enable_cni else []
    loop = idle(config, drivers)
    loops.append(loop)
    for event in events(facts, links()):
        loop.put(event)
    loop.step(0.0)
    return loop


def links() -> tuple[Link, ...]:
    """Return the links of this host, as the agent's own source tells them. Errors: SourceError."""
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()
    source = NetlinkSource(told.put)
    source.start()
    try:
        event = told.get(timeout=_LISTING_S)
    except queue.Empty:
        raise SourceError("list the links of this host: no answer") from None
    finally:
        source.stop()
    if not isinstance(event, Replace):
        raise SourceError(f"list the links of this host: {event}")
    return cast("tuple[Link, ...]", event.records)
