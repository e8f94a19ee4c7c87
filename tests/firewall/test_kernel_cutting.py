"""``--netpol-cut-flows`` with real connections: what a new policy denies ends, what it allows goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from kuberouterpy.cluster import PolicyRule, Record
from kuberouterpy.cutting import Cutter
from kuberouterpy.dataplane import ChainKey, Op, Table, Verb
from kuberouterpy.drivers.tracked import ConnectionTable
from kuberouterpy.family import IPV4
from kuberouterpy.labels import PodSelector, selector
from tests.firewall.test_kernel import PLACES, Agent, Network, _socket, _write
from tests.firewall.test_kernel_denied import answering
from tests.firewall.world import namespace, pod, policy

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns"), pytest.mark.timeout(200)]

BASE: tuple[Record, ...] = (
    namespace("x"),
    *(pod(f"x/{name}", addresses=PLACES[name], labels={"app": name}) for name in ("a", "b", "c")),
)
ONLY_B = policy("x/a", selector({"app": "a"}), ingress=(PolicyRule((PodSelector(selector({"app": "b"}), "x"),)),))
OURS = Op(Verb.UPDATE, ChainKey(IPV4, Table.FILTER, "KUBE-POD-FW-X"), None)
FOREIGN = Op(Verb.UPDATE, ChainKey(IPV4, Table.NAT, "KUBE-ROUTER-X"), None)


def connected(
    network: Network, server: socket.socket, source: str, version: int
) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection from a place to a."""
    with network._inside(source):
        client = _socket(PLACES[source][version], "tcp")
    client.settimeout(2)
    client.bind((PLACES[source][version], 0))
    client.connect(server.getsockname()[:2])
    accepted, _ = server.accept()
    accepted.settimeout(2)
    return client, accepted


def talks(client: socket.socket, server: socket.socket, *, owed: bool = True) -> tuple[bool, bool]:
    """Return whether what the client says arrives, and what the server says. ``owed``: it must, and is waited for."""
    found = []
    for one, other in ((client, server), (server, client)):
        other.settimeout(5 if owed else 0.3)  # a segment sent again after 0.2 s would be seen
        with suppress(OSError):
            one.send(b"x")
        try:
            found.append(other.recv(10) == b"x")
        except TimeoutError:
            found.append(False)
    return found[0], found[1]


@pytest.fixture
def table() -> Iterator[ConnectionTable]:
    with closing(ConnectionTable()) as made:
        yield made


def test_what_a_new_policy_denies_ends_and_what_it_allows_goes_on(table: ConnectionTable) -> None:
    network, agent = Network(), Agent()
    agent.program(BASE)
    _write("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0")  # as firewall/base wants it with the flag
    with ExitStack() as stack:
        pairs = {}
        for version in (0, 1):
            with network._inside("a"):
                server = stack.enter_context(_socket(PLACES["a"][version], "tcp"))
            server.bind((PLACES["a"][version], 9000))
            server.listen(5)
            for source in ("b", "c"):
                pairs[source, version] = connected(network, server, source, version)
                for one in pairs[source, version]:
                    stack.enter_context(one)
        assert {talks(*both) for both in pairs.values()} == {(True, True)}
        agent.program((*BASE, ONLY_B))
        assert {talks(*both) for both in pairs.values()} == {(True, True)}, "without the flag connections live on"
        loop = answering((*BASE, ONLY_B))
        cutter = Cutter(table)
        assert cutter.review(loop, [FOREIGN]) == 0
        assert cutter.review(loop, [OURS]) == 2
        for (source, _), both in pairs.items():
            assert talks(*both, owed=source == "b") == ((True, True) if source == "b" else (False, False)), source
