"""The external router: a namespace that forwards between the lab's subnets and speaks BGP with BIRD, not with GoBGP.

Every node may open a session to it, from any address of the fabric, and is taken as an eBGP neighbor of the cluster's AS. What
nodes announce goes into the router's kernel, so that the client beyond it reaches announced prefixes.
"""

from __future__ import annotations

import shutil
from typing import Final

from kuberouterpy.family import IPV4, Family
from kuberouterpy.lab.topology import CLUSTER_ASN, FABRIC, ROUTER_ASN, Topology

DIRECTORY: Final = "/run/lab/router"
CONTROL: Final = f"{DIRECTORY}/bird.ctl"


def program() -> str:
    """Return BIRD's path, or nothing where it is not installed."""
    return shutil.which("bird", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or ""


def configuration(topology: Topology) -> str:
    """Return BIRD's configuration for a lab."""
    identity = FABRIC[0].address(IPV4, 1).address
    blocks = [f"router id {identity};", "protocol device { scan time 5; }"]
    blocks += [_kernel(family) for family in topology.families]
    blocks += [
        _neighbors(family, subnet.name, subnet.prefix(family)) for family in topology.families for subnet in FABRIC
    ]
    return "\n".join(blocks) + "\n"


def _kernel(family: Family) -> str:
    return f"""
protocol kernel kernel{family.value} {{
  merge paths on;
  ipv{family.value} {{ import none; export where source = RTS_BGP; }};
}}"""


def _neighbors(family: Family, subnet: str, prefix: str) -> str:
    name = f"{subnet.replace('-', '_')}_v{family.value}"
    return f"""
protocol bgp {name} {{
  description "nodes on {subnet}";
  local as {ROUTER_ASN};
  neighbor range {prefix} as {CLUSTER_ASN};
  dynamic name "{name}_";
  passive on;
  graceful restart aware;
  ipv{family.value} {{ import all; export none; }};
}}"""
