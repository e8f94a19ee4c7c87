"""A plan against this kernel: the agent's own drivers, which here only list. Needs root.

Apart from :mod:`kuberouterpy.offline` because these drivers bring pyroute2 and grpc along, which a plan from YAML alone does
without.
"""

from __future__ import annotations

from pathlib import Path

from kuberouterpy.config import Config
from kuberouterpy.cri.client import Runtime
from kuberouterpy.drivers import Driver
from kuberouterpy.drivers.cni import CniDriver
from kuberouterpy.drivers.fou import FouDriver
from kuberouterpy.drivers.gobgp import GobgpDriver
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.drivers.links import LinksDriver
from kuberouterpy.drivers.pods import PodsDriver
from kuberouterpy.drivers.routes import RoutesDriver
from kuberouterpy.drivers.sysctl import SysctlDriver
from kuberouterpy.drivers.vxlan import VxlanDriver
from kuberouterpy.offline import Facts, PlanningLoop, events, idle, links_here
from kuberouterpy.wiring import is_ours


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
        drivers += [
            IpvsDriver(lambda key: is_ours(loops[0], key)),
            PodsDriver(Runtime(config.runtime_endpoint), Path(config.sysctl_root)),
        ]
    if config.run_service_proxy or config.run_router:
        drivers.append(RoutesDriver())
    if config.run_router:
        drivers += [FouDriver(), VxlanDriver(), GobgpDriver(config.gobgp_socket, lost=lambda: None)]
        drivers += [CniDriver()] if config.enable_cni else []
    loop = idle(config, drivers)
    loops.append(loop)
    for event in events(facts, links_here()):
        loop.put(event)
    loop.step(0.0)
    return loop
