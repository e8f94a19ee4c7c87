"""Make a plan real: namespaces, bridges, links, addresses, routes and the sysctls a Kubernetes host has.

Everything goes through a few ``ip -batch`` runs, one per namespace: under User-Mode Linux a process costs as much as a
hundred netlink messages. Names of stations are made here only, so the text needs no quoting.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine import kernel
from kuberouterpy.lab.kubelet.netns import share_directory
from kuberouterpy.lab.topology import MANAGEMENT, ROUTER, SUBNETS, Address, Station, Subnet, Topology

NETNS: Final = Path("/run/netns")
_HOST_PATH: Final = "/proc/self/ns/net"

QUIET: Final = {
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    # Duplicate address detection holds every new IPv6 address back for a second or two.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
}
"""Settings of every namespace: the lab's addresses are planned."""

FORWARDING: Final = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/forwarding": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/bridge/bridge-nf-call-ip6tables": "1",
}
"""Settings of nodes, as hosts of Kubernetes have them, and of the router."""


def build(topology: Topology) -> None:
    """Build the whole fabric; the guest's own namespace holds the bridges and the API server's address.

    Errors: LabError with what ``ip`` said.
    """
    stations = (*topology.nodes, topology.client)
    _settle(QUIET)
    # order matters: agents have mounts of their own, and must see what kubelets pin later.
    share_directory(NETNS)
    for name in (*(station.name for station in stations), ROUTER):
        _make(name)
        within(str(NETNS / name), lambda: _settle(QUIET | FORWARDING))  # order matters: links take over the defaults
    _batch(_wires(topology, stations))
    for station in stations:
        _batch(_inside(station), station.name)
    _batch(_router(topology), ROUTER)
    _batch(_api(topology))


def within(path: str, call: Callable[[], None]) -> None:
    """Run something in another network namespace, in this thread, and come back."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.enter(path)
        call()
    finally:
        kernel.enter(f"/proc/self/fd/{before}")
        os.close(before)


def _make(name: str) -> None:
    """Make a namespace pinned in /run/netns, as ``ip netns add`` does."""
    NETNS.mkdir(parents=True, exist_ok=True)
    path = NETNS / name
    path.touch(exist_ok=False)

    def pin() -> None:
        kernel.unshare(kernel.CLONE_NEWNET)
        kernel.bind("/proc/thread-self/ns/net", str(path))

    within(_HOST_PATH, pin)


def _settle(settings: Mapping[str, str]) -> None:
    """Set sysctls of the namespace the thread is in; those this kernel lacks are passed over."""
    for name, value in settings.items():
        path = Path("/proc/sys", name)
        if path.exists():
            path.write_text(value)


def _wires(topology: Topology, stations: Iterable[Station]) -> list[str]:
    """Bridges here, a pair of links from each to the router and to each station on it."""
    lines: list[str] = []
    for subnet in SUBNETS:
        lines.append(f"link add {subnet.name} type bridge")
        lines.append(f"link set {subnet.name} up")
        lines += _wire(subnet, f"r-{subnet.name}", ROUTER, subnet.name)
    for station in stations:
        lines += _wire(station.subnet, f"s-{station.name}", station.name, "eth0")
    lines.append("link add eth0 type veth peer name s-api")
    lines.append(f"link set s-api master {MANAGEMENT.name} up")
    return lines


def _wire(subnet: Subnet, here: str, station: str, there: str) -> list[str]:
    return [
        f"link add {here} type veth peer name {there} netns {station}",
        f"link set {here} master {subnet.name} up",
    ]


def _inside(station: Station) -> list[str]:
    return [*_up("lo", ()), *_up("eth0", station.addresses), *_default("eth0", station.gateways)]


def _router(topology: Topology) -> list[str]:
    links = (line for subnet in SUBNETS for line in _up(subnet.name, topology.gateways(subnet)))
    return [*_up("lo", ()), *links]


def _api(topology: Topology) -> list[str]:
    return [*_up("lo", ()), *_up("eth0", topology.api), *_default("eth0", topology.gateways(MANAGEMENT))]


def _up(link: str, addresses: Iterable[Address]) -> list[str]:
    lines = [f"address add {address.text} dev {link}{_nodad(address)}" for address in addresses]
    return [f"link set {link} up", *lines]


def _nodad(address: Address) -> str:
    return " nodad" if ":" in address.address else ""


def _default(link: str, gateways: Iterable[Address]) -> list[str]:
    return [f"route add default via {gateway.address} dev {link}" for gateway in gateways]


def _batch(lines: list[str], netns: str = "") -> None:
    arguments = ["ip", *(["-netns", netns] if netns else []), "-batch", "-"]
    done = subprocess.run(arguments, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"build the fabric{f' of {netns}' if netns else ''}: {done.stderr.strip()}")
