"""What can be chosen about a lab: one value from the command line to the guest."""

from __future__ import annotations

import msgspec


class LabOptions(msgspec.Struct, frozen=True):
    """The cluster a guest builds before it runs its command."""

    nodes: int = 3
    """Number of nodes, 1 to 9."""
    families: str = "dual"
    """``ipv4``, ``ipv6`` or ``dual``."""
    subnets: int = 2
    """Subnets of the fabric the nodes are spread over, 1 or 2."""
    agents: bool = True
    """Whether an agent runs on every node."""
    agent_args: tuple[str, ...] = ()
    """Further arguments of every agent."""
    rights: str = ""
    """Manifest whose ServiceAccount's rights the agents have; empty: the administrator's."""
    apply: tuple[str, ...] = ()
    """Files with objects to apply before the command runs."""
    wait_s: float = 120.0
    """How long nodes, pods and agents may take to be ready."""
    assets: str = ""
    """Folder with a real ``kube-apiserver`` and ``etcd``; empty for the lab's own API server."""
    verbose: bool = False
    """Whether every step of the start is told, not only the slow ones."""
