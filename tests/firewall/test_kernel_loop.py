"""A packet loop through edits and restarts: what old and new policies both deny never passes, what both allow always does."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from kuberouterpy.cluster import Action, ClusterRule, IpBlock, PolicyPort, PolicyRule, Record
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from kuberouterpy.protocol import Protocol
from tests.firewall.test_kernel import PLACES, Agent, Network, _socket
from tests.firewall.world import cluster_policy, namespace, pod, policy

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns"), pytest.mark.timeout(200)]

BASE: tuple[Record, ...] = (
    namespace("x"),
    *(pod(f"x/{name}", addresses=PLACES[name], labels={"app": name}) for name in ("a", "b", "c")),
)
A, B, C = (PodSelector(selector({"app": name}), "x") for name in ("a", "b", "c"))
EVERY = PodSelector(EVERYTHING, namespaces=EVERYTHING)
UDP_443, UDP_80 = ((PolicyPort(Protocol.UDP, number),) for number in (443, 80))
B_AS_BLOCK = tuple(IpBlock(f"{one}/{128 if ':' in one else 32}") for one in PLACES["b"])


def only(*rules: PolicyRule) -> Record:
    return policy("x/a", A.pods, ingress=rules)


# Every one lets b reach a on 443, and not c; the way they say so differs in sets, ports, order, chains and tiers.
STEPS: tuple[tuple[Record, ...], ...] = (
    (only(PolicyRule((B,), UDP_443), PolicyRule((C,), UDP_80)),),
    (only(PolicyRule((C,), UDP_80), PolicyRule((B,), UDP_443)),),
    (only(PolicyRule(B_AS_BLOCK)),),
    (only(PolicyRule((B,))), policy("x/more", A.pods, ingress=(PolicyRule((C,), UDP_80),))),
    (
        only(),
        cluster_policy(
            "guard",
            EVERY,
            ingress=(ClusterRule(Action.ACCEPT, (PodSelector(B.pods, namespaces=EVERYTHING),), UDP_443),),
        ),
    ),
    (
        cluster_policy(
            "guard",
            EVERY,
            ingress=(ClusterRule(Action.DENY, (PodSelector(C.pods, namespaces=EVERYTHING),)),),
        ),
    ),
    (
        cluster_policy(
            "guard",
            EVERY,
            tier="Baseline",
            ingress=(ClusterRule(Action.DENY, (PodSelector(C.pods, namespaces=EVERYTHING),)),),
        ),
    ),
)


class Loop:
    """Datagrams from b and c to a, one connection each, as fast as they go."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._stopped = threading.Event()
        self.sent = {"b": 0, "c": 0}
        self.answered = {"b": 0, "c": 0}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send while the block runs."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _run(self) -> None:
        ports = itertools.count(20_000)
        while not self._stopped.is_set():
            for source, version in itertools.product(("c", "b"), (0, 1)):
                self._ask(source, version, next(ports))

    def _ask(self, source: str, version: int, port: int) -> None:
        with self._network._inside(source):
            one = _socket(PLACES[source][version], "udp")
        with one:
            one.bind((PLACES[source][version], port))
            # Long for b: its answer is owed. Short for c: nobody waits for what must not come, but a late one would be seen.
            one.settimeout(2 if source == "b" else 0.02)
            one.sendto(b"x", (PLACES["a"][version], 443))
            self.sent[source] += 1
            try:
                one.recv(10)
            except TimeoutError:
                return
            self.answered[source] += 1


def restarted(records: Sequence[Record]) -> Agent:
    """Return a new agent that has found what the one before it left, and made it right."""
    agent = Agent()
    agent.drift()  # the first listing
    agent.program(records)
    return agent


def test_no_packet_passes_that_old_and_new_deny_and_none_is_lost_that_both_allow() -> None:
    network, agent = Network(), Agent()
    agent.program((*BASE, *STEPS[0]))
    loop = Loop(network)
    with ExitStack() as stack:
        stack.enter_context(loop.running())
        for step in (*STEPS, *reversed(STEPS)):
            before = loop.sent["b"]
            agent.program((*BASE, *step))
            agent = restarted((*BASE, *step))
            deadline = time.monotonic() + 10
            while loop.sent["b"] < before + 4 and time.monotonic() < deadline:
                time.sleep(0.01)
    assert loop.answered["c"] == 0, f"{loop.answered['c']} of {loop.sent['c']} datagrams passed that nobody allows"
    assert loop.answered["b"] == loop.sent["b"], loop.sent["b"] - loop.answered["b"]
    assert min(loop.sent.values()) > 50
