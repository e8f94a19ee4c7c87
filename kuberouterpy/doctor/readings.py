"""What is known of a host, as one frozen value. What could not be read is empty or ``None``, and no check guesses."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from kuberouterpy.cluster import Link
from kuberouterpy.dataplane import Sysctl


class Rules(Struct, frozen=True):
    """What one variant of iptables holds, both families."""

    ours: int = 0
    """Chains with our prefixes."""
    kube_proxy: int = 0
    """Chains of kube-proxy."""
    total: int = 0
    """Rules."""


class Listener(Struct, frozen=True):
    """A process that listens on a TCP port."""

    port: int
    address: str
    process: str = ""
    """Its name; empty where it lives in another PID namespace."""


class Agent(Struct, frozen=True):
    """The agent of this host, where one answers."""

    version: str
    ready: bool
    failing: tuple[str, ...] = ()
    """Objects that could not be programmed, with the error."""
    unreachable: tuple[str, ...] = ()
    """Sources that do not answer, with the reason."""


class Readings(Struct, frozen=True):
    """One host at one moment."""

    root: bool = True
    version: str = ""
    """Ours."""
    kernel: tuple[int, int] = (6, 1)
    capabilities: frozenset[str] = frozenset()
    """Effective ones, of those the agent needs."""
    modules: frozenset[str] = frozenset()
    """Loaded or built in."""
    loadable: frozenset[str] = frozenset()
    """Known to modprobe."""
    programs: frozenset[str] = frozenset()
    """Found on PATH."""
    wanted: tuple[Sysctl, ...] = ()
    """Settings that the agent's controllers ask for under this configuration."""
    sysctls: Mapping[str, str] = {}
    """Those that exist, of the ones that any check asks for."""
    writable_sysctls: bool = True
    links: tuple[Link, ...] = ()
    default_link: str = ""
    """Link of the default route."""
    iptables: str = ""
    """``legacy`` or ``nft``: what the plain name is."""
    rules: Mapping[str, Rules] = {}
    """By variant."""
    conntrack: tuple[int, int] = (0, 0)
    """Entries and their maximum; zero: unknown."""
    clock_synchronized: bool | None = None
    now: float = 0.0
    """Seconds since 1970."""
    listeners: tuple[Listener, ...] = ()
    """On the ports that the agent and its sidecar use."""
    health_port: int = 20244
    bgp_port: int = 179
    run_router: bool = True
    gobgpd: str = ""
    """Version of the program or dialect of the sidecar: ``3.10.0``, ``4``; empty: neither found."""
    gobgp_error: str = ""
    """Why the sidecar does not answer."""
    cni_plugins: frozenset[str] | None = None
    """In the folder of CNI plugins; ``None``: the agent writes no CNI file."""
    agent: Agent | None = None
