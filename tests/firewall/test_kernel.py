"""Real packets through what the real drivers programmed, judged by the oracle.

Three pods on a bridge and a host outside, each a network namespace; between them the kernel's own filter table with our
chains and sets. Every ordered pair tries TCP, UDP and SCTP in both families at once; what arrives must be what the
oracle allows.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from firewall import CONTROLLER
from kuberouterpy.cluster import Namespace, Pod, Record, Ref
from kuberouterpy.controller import Controller
from kuberouterpy.dataplane import Chain, Entry, Jump, Set
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.tracker import Tracker
from tests.firewall.world import CONFIG, filled, host, oracle
from tests.oracle.networkpolicy import Flow, Oracle
from tests.properties.test_firewall import LABELS, NAMESPACES, cluster_policies, pods, policies

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns"), pytest.mark.timeout(400)]

PLACES = {
    "a": ("10.1.0.5", "fd00:1::5"),
    "b": ("10.1.0.6", "fd00:1::6"),
    "c": ("10.1.0.21", "fd00:1::15"),
    "world": ("192.0.2.1", "2001:db8::1"),
}
GATEWAYS = {"bridge": ("10.1.0.1/24", "fd00:1::1/64"), "world": ("192.0.2.254/24", "2001:db8::fe/64")}
PORTS = (80, 81, 443, 8080)
_CLONE_NEWNET = 0x40000000
_SCTP = 132
_WAIT_S = 1.0
_OWED_S = 10.0
"""Longest wait for what must come; a machine under load is slow, not wrong."""
_MOMENT_S = 0.2
"""For what must not come, after the last that must."""
_LIBC = ctypes.CDLL(None, use_errno=True)


class Network:
    """The namespaces, with a server on every port of every address."""

    def __init__(self) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._places: dict[str, int] = {}
        self._servers: list[socket.socket] = []
        # A source port used once only: a connection tracked in an earlier round would carry a new one through.
        self._fresh = itertools.count(10_000)
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            _write(f"/proc/sys/net/{path}", "1")
        _ip("link", "add", "kube-bridge", "type", "bridge", "forward_delay", "0")
        self._gateway("kube-bridge", GATEWAYS["bridge"])
        for name, addresses in PLACES.items():
            self._join(name, addresses)
        self.apply_bridge_sysctls()
        self.serve_also(())

    def serve_also(self, servers: Iterable[socket.socket]) -> None:
        """Answer on more sockets as well."""
        self._servers += servers
        threading.Thread(target=self._serve, args=(self._servers,), daemon=True).start()
        self._servers = []

    def apply_bridge_sysctls(self) -> None:
        """Set what ``firewall/base`` wants set."""
        for name in ("iptables", "ip6tables"):
            _write(f"/proc/sys/net/bridge/bridge-nf-call-{name}", "1")

    def arrived(self, flows: Sequence[Flow], owed: Collection[Flow]) -> set[Flow]:
        """Start every flow at once; return those that were answered. ``owed``: those waited for."""
        return answered({self._start(flow): flow for flow in flows}, owed)

    def _start(self, flow: Flow) -> socket.socket:
        place = next((name for name, addresses in PLACES.items() if flow.source in addresses), "")
        with self._inside(place):
            one = _socket(flow.source, flow.protocol)
        one.setblocking(False)
        one.bind((flow.source, next(self._fresh)))
        one.connect_ex((flow.destination, flow.port))
        if flow.protocol == "udp":
            one.send(b"x")
        return one

    @contextmanager
    def _inside(self, place: str) -> Iterator[None]:
        _setns(self._places[place] if place else self._home)
        try:
            yield
        finally:
            _setns(self._home)

    def _join(self, name: str, addresses: tuple[str, str]) -> None:
        assert _LIBC.unshare(_CLONE_NEWNET) == 0
        self._places[name] = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _setns(self._home)
        there = f"/proc/{os.getpid()}/fd/{self._places[name]}"
        _ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", there)
        if name == "world":
            self._gateway("vworld", GATEWAYS["world"])
        else:
            _ip("link", "set", f"v{name}", "master", "kube-bridge", "up")
        with self._inside(name):
            _ip("link", "set", "lo", "up")
            _ip("link", "set", "eth0", "up")
            gateways = GATEWAYS["world" if name == "world" else "bridge"]
            for address, gateway in zip(addresses, gateways, strict=True):
                via, _, length = gateway.partition("/")
                _ip("addr", "add", f"{address}/{length}", "dev", "eth0", *_nodad(address))
                _ip("route", "add", "default", "via", via)
            for address in addresses:
                self._servers += _listen(address)

    @staticmethod
    def _gateway(link: str, addresses: tuple[str, str]) -> None:
        _ip("link", "set", link, "up")
        for address in addresses:
            _ip("addr", "add", address, "dev", link, *_nodad(address))

    @staticmethod
    def _serve(servers: Sequence[socket.socket]) -> None:
        while True:
            for one in select.select(servers, [], [])[0]:
                if one.type == socket.SOCK_DGRAM:
                    data, peer = one.recvfrom(100)
                    one.sendto(data, peer)
                else:
                    one.accept()[0].close()


def answered(waiting: Mapping[socket.socket, Flow], owed: Collection[Flow]) -> set[Flow]:
    """Return the flows that were answered, and close all.

    What is owed is waited for long. What is not has been sent with it, and packets go from hand to hand between namespaces: a
    leak has arrived when the last that is owed has, and its answer is given a moment more.
    """
    found: set[Flow] = set()
    missing = set(owed)
    poll = select.poll()
    by_number = {one.fileno(): one for one in waiting}
    for one in waiting:
        poll.register(one, select.POLLIN if one.type == socket.SOCK_DGRAM else select.POLLOUT)
    deadline = time.monotonic() + _OWED_S
    moment = False
    while by_number and (left := deadline - time.monotonic()) > 0:
        if not missing and not moment:
            deadline, moment = time.monotonic() + _MOMENT_S, True
            left = _MOMENT_S
        for number, _ in poll.poll(left * 1000):
            one = by_number.pop(number)
            poll.unregister(number)
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, f"{waiting[one]} was refused, not dropped"
            found.add(waiting[one])
            missing.discard(waiting[one])
    for one in waiting:
        one.close()
    return found


def _listen(address: str) -> Iterator[socket.socket]:
    for port, protocol in itertools.product(PORTS, ("tcp", "udp", "sctp")):
        one = _socket(address, protocol)
        one.bind((address, port))
        if protocol != "udp":
            one.listen(64)
        yield one


def _socket(address: str, protocol: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    return socket.socket(family, kind, _SCTP if protocol == "sctp" else 0)


def _setns(where: int) -> None:
    assert _LIBC.setns(where, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def _ip(*arguments: str) -> None:
    family = "-6" if any(":" in word for word in arguments) else "-4"
    subprocess.run(["ip", family, *arguments], check=True)


def _nodad(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


class Agent:
    """Controllers over the real drivers."""

    controllers: tuple[Controller, ...] = (CONTROLLER,)

    def __init__(self, name: str = "node-0") -> None:
        self.here = host(name)
        self.drivers: dict[tuple[Any, ...], Any] = {(Set, Entry): IpsetDriver(), (Chain, Jump): IptablesDriver()}
        self.tracker = Tracker(tuple(self.drivers))

    def program(self, records: Iterable[Record]) -> Oracle:
        """Make the kernel agree with some facts; return who judges them."""
        store = filled(records)
        owners = {owner: one for one in self.controllers for owner in one.owners(store, self.here, CONFIG)}
        for owner in {*self.tracker.owners(), *owners}:
            objects = owners[owner].desired(owner, store, self.here, CONFIG).objects if owner in owners else ()
            self.tracker.replace(owner, objects)
        self.repair()
        return oracle(store)

    def repair(self) -> None:
        """Apply whatever differs."""
        for batch in self.tracker.pending(0.0):
            for op, error in self.drivers[batch.group].apply(batch.ops):
                assert error is None, (op, error)
                self.tracker.record(op, None, 0.0)

    def drift(self) -> list[object]:
        """Return how the kernel differs from what was programmed."""
        return [
            one
            for kinds, driver in self.drivers.items()
            for one in self.tracker.observe(kinds, driver.list(), CONTROLLER.claims)
        ]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Record, ...]:
    """Return facts of a cluster whose pods stand at our places."""
    spaces = [Namespace(Ref("", name), draw(LABELS)) for name in NAMESPACES]
    some = []
    for name in ("a", "b", "c"):
        one = draw(pods())
        some.append(Pod(Ref(one.ref.namespace, name), "node-0", PLACES[name], one.labels, one.ports))
    cluster = draw(st.lists(cluster_policies(), max_size=2))
    return (*spaces, *some, *cluster, *draw(st.lists(policies(), min_size=2, max_size=5)))


def flows(round_: int) -> list[Flow]:
    """Return every ordered pair in both families, each protocol on one port that changes with the round."""
    pairs = [
        (one, other, version)
        for one in PLACES.values()
        for other in PLACES.values()
        if one is not other
        for version in (0, 1)
    ]
    return [
        Flow(one[version], other[version], protocol, PORTS[(round_ + index) % len(PORTS)])
        for index, ((one, other, version), protocol) in enumerate(itertools.product(pairs, ("tcp", "udp", "sctp")))
    ]


def test_packets_arrive_where_the_oracle_allows_it() -> None:
    network, agent = Network(), Agent()
    everything = flows(0)
    assert network.arrived(everything, everything) == set(everything), "without rules everything must arrive"
    seen = {True: 0, False: 0}
    rounds = itertools.count()

    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(clusters())
    def judge(records: tuple[Record, ...]) -> None:
        oracle = agent.program(records)
        some = flows(next(rounds))
        allowed = {flow for flow in some if oracle.allowed(flow)}
        assert network.arrived(some, allowed) == allowed
        seen[True] += len(allowed)
        seen[False] += len(some) - len(allowed)

    judge()
    assert min(seen.values()) > 50, f"the random policies prove little: {seen}"
    assert agent.drift() == []


def test_the_kernel_takes_addresses_as_we_write_them() -> None:
    """Members and masks are compared as text: what ``ipset save`` prints must be what we asked for."""
    assert all(str(ip_address(address)) == address for both in PLACES.values() for address in both)
    agent = Agent()
    agent.program((*_one_of_each(),))
    assert agent.drift() == []


def test_fragments_are_judged_by_the_port_of_the_whole() -> None:
    """Only the first of them has a port; conntrack puts them together before any rule looks."""
    from kuberouterpy.cluster import PolicyPort, PolicyRule
    from kuberouterpy.labels import EVERYTHING
    from kuberouterpy.protocol import Protocol
    from tests.firewall.world import namespace, pod, policy

    network, agent = Network(), Agent()
    only_443 = policy("x/p", EVERYTHING, ingress=(PolicyRule((), (PolicyPort(Protocol.UDP, 443),)),))
    agent.program((namespace("x"), *(pod(f"x/{name}", addresses=PLACES[name]) for name in ("a", "b")), only_443))
    answered = set()
    for version, port in itertools.product((0, 1), (443, 80)):
        with network._inside("b"), _socket(PLACES["b"][version], "udp") as one:
            one.settimeout(_WAIT_S)
            one.sendto(bytes(5000), (PLACES["a"][version], port))
            with suppress(TimeoutError):
                one.recv(100)
                answered.add((version, port))
    assert answered == {(0, 443), (1, 443)}


def _one_of_each() -> Iterator[Record]:
    from kuberouterpy.cluster import IpBlock, PolicyPort, PolicyRule
    from kuberouterpy.labels import EVERYTHING
    from kuberouterpy.protocol import Protocol
    from tests.firewall.world import namespace, pod, policy

    blocks = (
        IpBlock("0.0.0.0/0", ("10.0.0.0/8", "192.0.2.1/32")),
        IpBlock("::/0", ("fc00::/7", "2001:db8::1/128")),
        IpBlock("::/0", ("64:ff9b::/96", "1::/16", "fe80::/10")),
        IpBlock("10.0.0.0/8", ("10.0.0.0/8",)),
        IpBlock("192.0.2.7/32"),
        IpBlock("2001:db8:0:0:1::/80"),
    )
    ports = tuple(PolicyPort(protocol, "web") for protocol in Protocol)
    yield namespace("x")
    yield pod(
        "x/a",
        addresses=("10.1.0.5", "fd00:0:0:1::"),
        ports=tuple(("web", protocol.value, 80) for protocol in Protocol),
    )
    yield policy(
        "x/p", EVERYTHING, ingress=(PolicyRule(blocks, ports), PolicyRule(blocks)), egress=(PolicyRule((), ports),)
    )
