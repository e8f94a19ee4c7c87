"""The truth table on real kernels' rules: every upstream case, every pair, probed with real packets over three nodes.

Three network namespaces are nodes, each with its own filter table and our drivers in it; each holds three of the nine upstream
pods behind a bridge. A tenth place is the world outside. Every pair of pods, every node and the world against every pod, both
families, every port and protocol of the case at once; what arrives must be what the oracle allows, where a node always reaches
its own pods and another node is an address like any.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import select
import socket
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest

from kuberouterpy.cluster import Record
from tests.firewall.test_kernel import Agent, _ip, _nodad, _setns, _socket, _write, answered
from tests.firewall.test_upstream import CASES, NAMES, NAMESPACES, PODS, Case, address, base
from tests.firewall.world import NODES, node, replaced
from tests.oracle.networkpolicy import Flow, Oracle

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns"), pytest.mark.timeout(600)]

WORLD = ("192.0.2.1", "2001:db8::1")
NODE_ADDRESSES = {name: (f"10.0.0.{n}", f"fd00::{n}") for n, name in enumerate(NODES, 1)}
PORTS, PROTOCOLS = (80, 81), ("tcp", "udp", "sctp")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Fabric:
    """The places: three nodes on one network, three pods behind each, and the world behind the router between them."""

    def __init__(self) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._places: dict[str, int] = {}
        self._at: dict[str, str] = {}
        self._servers: list[socket.socket] = []
        self._fresh = itertools.count(10_000)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a thousand sockets at once
        _forward()
        _ip("link", "add", "fabric", "type", "bridge", "forward_delay", "0")
        _ip("link", "set", "fabric", "up")
        for one in ("10.0.0.254/24", "fd00::fe/64", f"{WORLD[0]}/32", f"{WORLD[1]}/128"):
            _ip("addr", "add", one, "dev", "fabric", *_nodad(one))
        self._at |= dict.fromkeys(WORLD, "")
        for number, name in enumerate(NODES):
            self._node(number, name)
        threading.Thread(target=self._serve, daemon=True).start()

    @contextmanager
    def inside(self, place: str) -> Iterator[None]:
        """Do something in a place's network."""
        _setns(self._places[place] if place else self._home)
        try:
            yield
        finally:
            _setns(self._home)

    def arrived(self, flows: Sequence[Flow], owed: Collection[Flow]) -> set[Flow]:
        """Start every flow at once; return those that were answered. ``owed``: those waited for."""
        return answered({self._start(flow): flow for flow in flows}, owed)

    def _start(self, flow: Flow) -> socket.socket:
        with self.inside(self._at[flow.source]):
            one = _socket(flow.source, flow.protocol)
        one.setblocking(False)
        one.bind((flow.source, self._port()))
        one.connect_ex((flow.destination, flow.port))
        if flow.protocol == "udp":
            one.send(b"x")
        return one

    def _port(self) -> int:
        """Return a source port that no tracked connection has: they are used in turn."""
        return 10_000 + next(self._fresh) % 50_000

    # --- making it -------------------------------------------------------------------------------------------------

    def _node(self, number: int, name: str) -> None:
        self._join(name, "fabric", NODE_ADDRESSES[name], ("24", "64"), ("10.0.0.254", "fd00::fe"))
        ranges = (f"10.1.{number}.0/24", f"fd00:1:{number}::/64")
        for prefix, via in zip(ranges, NODE_ADDRESSES[name], strict=True):
            _ip("route", "add", prefix, "via", via)
        with self.inside(name):
            _forward()
            _ip("link", "add", "kube-bridge", "type", "bridge", "forward_delay", "0")
            _ip("link", "set", "kube-bridge", "up")
            gateways = (f"10.1.{number}.1", f"fd00:1:{number}::1")
            for one, length in zip(gateways, ("24", "64"), strict=True):
                _ip("addr", "add", f"{one}/{length}", "dev", "kube-bridge", *_nodad(one))
            for path in ("iptables", "ip6tables"):
                _write(f"/proc/sys/net/bridge/bridge-nf-call-{path}", "1")
        for space in NAMESPACES:
            where = f"{space}/{NAMES[number]}"
            both = (address(where, 4), address(where, 6))
            self._join(where, "kube-bridge", both, ("24", "64"), gateways, parent=name)
            with self.inside(where):
                for one in both:
                    self._servers += _listen(one)

    def _join(
        self,
        name: str,
        bridge: str,
        both: tuple[str, str],
        lengths: tuple[str, str],
        via: tuple[str, str],
        parent: str = "",
    ) -> None:
        assert _LIBC.unshare(_CLONE_NEWNET) == 0
        self._places[name] = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _setns(self._home)
        there = f"/proc/{os.getpid()}/fd/{self._places[name]}"
        link = f"v{name.replace('/', '-')}"
        with self.inside(parent):
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", there)
            _ip("link", "set", link, "master", bridge, "up")
        with self.inside(name):
            _ip("link", "set", "lo", "up")
            _ip("link", "set", "eth0", "up")
            for one, length, gateway in zip(both, lengths, via, strict=True):
                _ip("addr", "add", f"{one}/{length}", "dev", "eth0", *_nodad(one))
                _ip("route", "add", "default", "via", gateway)
                self._at[one] = name

    def _serve(self) -> None:
        poll = select.poll()
        servers = {one.fileno(): one for one in self._servers}
        for number in servers:
            poll.register(number, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                one = servers[number]
                if one.type == socket.SOCK_DGRAM:
                    text, peer = one.recvfrom(100)
                    one.sendto(text, peer)
                else:
                    one.accept()[0].close()


def _listen(where: str) -> Iterator[socket.socket]:
    for port, protocol in itertools.product(PORTS, PROTOCOLS):
        one = _socket(where, protocol)
        one.bind((where, port))
        if protocol != "udp":
            one.listen(64)
        yield one


def _forward() -> None:
    for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        _write(f"/proc/sys/net/{path}", "1")


# --- the table --------------------------------------------------------------------------------------------------------


def flows_of(case: Case) -> list[Flow]:
    """Return every pair of a case's ports: pods, nodes and the world to pods, and pods to the world's side."""
    found = []
    for index, version in ((0, 4), (1, 6)):
        sources = [address(one, version) for one in PODS]
        sources += [WORLD[index], *(both[index] for both in NODE_ADDRESSES.values())]
        for protocol, port, _ in case.denied:
            found += [
                Flow(source, address(other, version), protocol, port)
                for source in sources
                for other in PODS
                if source != address(other, version)
            ]
    return found


def expected(oracle: Oracle, flow: Flow) -> bool:
    """Return what must come of a flow: a node always reaches its own pods, and is no pod itself."""
    there = oracle.pod_at(flow.destination)
    if there is not None and oracle.is_own_node(there, flow.source):
        return True
    return oracle.allowed(flow)


def test_every_pair_of_every_upstream_case_gets_what_the_oracle_says() -> None:
    fabric = Fabric()
    agents = {name: Agent(name) for name in NODES}
    world: tuple[Record, ...] = (*base(), *(node(name, *both) for name, both in NODE_ADDRESSES.items()))
    every = flows_of(Case("none", (), (("tcp", 80, 0), ("udp", 81, 0), ("sctp", 80, 0))))
    assert fabric.arrived(every, every) == set(every), "without rules everything must arrive"
    seen = {True: 0, False: 0}
    wrong: dict[str, list[tuple[Flow, bool]]] = {}
    for case in CASES:
        for name, agent in agents.items():
            with fabric.inside(name):
                oracle = agent.program(replaced(world, *case.records))
        some = flows_of(case)
        allowed = {flow for flow in some if expected(oracle, flow)}
        arrived = fabric.arrived(some, allowed)
        if arrived != allowed:
            wrong[case.name] = [(flow, flow in arrived) for flow in sorted(arrived ^ allowed, key=str)][:5]
        seen[True] += len(allowed)
        seen[False] += len(some) - len(allowed)
    assert not wrong, wrong
    assert min(seen.values()) > 1000, seen
