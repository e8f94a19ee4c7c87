"""No history shows one address in two Services' status: allocators that all believe to lead, lost requests, lost answers.

Requests of two or three allocators are let in one at a time, in an order drawn by a seed: every interleaving that a cluster can
make is possible here, and a failure is repeated by its seed. The server's own history is judged, version by version.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from random import Random

import pytest

from kuberouterpy.balancer.allocator import Allocator, Changed
from kuberouterpy.balancer.claims import Claim
from kuberouterpy.cluster import Ref, Service
from kuberouterpy.config import Config
from kuberouterpy.sources.transport import ApiError
from tests.kuberouterpy.balancer.world import NAMESPACE, Door, Server, World

SMALL = Config(run_loadbalancer=True, loadbalancer_ip_range=("198.51.100.0/30",))
OTHER = Config(run_loadbalancer=True, loadbalancer_ip_range=("198.51.100.4/30", "198.51.100.0/30"))
"""Some agents are rolled out with other ranges: what one gives, another may not know."""
NAMES = ("a", "b", "c")
STEPS = 260


class Blind(Allocator):
    """It does not look at what other Services show, which mostly keeps it out of trouble: claims alone must do."""

    def _know(self, ref: Ref, service: Service | None) -> None:
        super()._know(ref, service)
        self._shown = defaultdict(set)


class Careless(Allocator):
    """A planted fault, and kube-router's way: it relies on the election, and claims nothing."""

    def _hold(self, address: str, service: Service) -> bool:
        return True


class Hasty(Blind):
    """A planted fault: it gives an address back without a new version of the Service that had it."""

    def _let_go(self, ref: Ref, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._forget(claim)
        raise Changed("look again")


def play(seed: int, *, make: type[Allocator] = Allocator, steps: int = STEPS) -> Server:
    """Return a server after a history drawn by ``seed``."""
    random = Random(seed)
    server = Server()
    door = Door(server, random, faults=random.choice((0.0, 0.02, 0.1)))
    clock = [0.0]
    names = [f"allocator-{number}" for number in range(random.choice((2, 3)))]
    allocators: dict[str, Allocator] = {}
    threads: dict[str, threading.Thread] = {}
    stubborn = random.random() < 0.5

    def born(name: str) -> Allocator:
        config = random.choice((SMALL, SMALL, OTHER))
        one = make(door.client(name), config, namespace=NAMESPACE, identity=f"{name}-{seed}", clock=lambda: clock[0])
        if stubborn:  # every one believes to lead, as a process that was stopped and goes on may
            one.election.tick = lambda now: True  # type: ignore[method-assign]
        return one

    for step in range(steps):
        if random.random() < 0.25:
            act(server, random)
        clock[0] += random.choice((0.0, 0.1, 1.0, 1.0, 20.0)) if random.random() < 0.3 else 0.0
        for name in names:
            if door.busy(name):
                continue
            if name not in allocators or random.random() < 0.05:
                allocators[name] = born(name)  # a restart: nothing is remembered
            if random.random() < 0.7:
                allocators[name].put(server.listing())  # else it goes on with what it saw before
            threads[name] = door.begin(name, allocators[name].turn)
        door.let_in()
        assert server.violations == [], f"seed {seed} step {step}: {server.violations[0]}"
    while door.let_in():
        assert server.violations == [], f"seed {seed} at the end: {server.violations[0]}"
    for thread in threads.values():
        thread.join(10)
    return server


def act(server: Server, random: Random) -> None:
    """Do what a person does: create, delete, change the type, ask for an address."""
    name = random.choice(NAMES)
    asked = f"198.51.100.{random.randrange(0, 4)}"
    deeds: list[Callable[[], object]] = [
        lambda: server.create(name),
        lambda: server.create(name, annotations={"kube-router.io/loadbalancer-ips": asked}),
        lambda: server.remove(name),
        lambda: server.patch(name, {"spec": {"type": "ClusterIP", "allocateLoadBalancerNodePorts": None}}),
        lambda: server.patch(name, {"spec": {"type": "LoadBalancer"}}),
        lambda: server.patch(name, {"metadata": {"annotations": {"kube-router.io/loadbalancer-ips": asked}}}),
        lambda: server.patch(name, {"metadata": {"annotations": {"kube-router.io/loadbalancer-ips": None}}}),
    ]
    try:
        random.choice(deeds)()
    except ApiError as error:
        if error.status not in {404, 409, 422}:
            raise


@pytest.mark.parametrize("make", [Allocator, Blind])
@pytest.mark.parametrize("seed", range(16))
def test_no_address_is_ever_in_the_status_of_two_services(seed: int, make: type[Allocator]) -> None:
    server = play(seed, make=make)
    assert server.versions > 20, "a history in which nothing happens proves nothing"


@pytest.mark.parametrize("seed", range(6))
def test_after_any_history_one_that_works_alone_puts_everything_right(seed: int) -> None:
    server = play(1000 + seed, steps=150)
    world = World(SMALL, server)
    for _ in range(12):
        world.turn(after_s=61.0)
    shown = {address: ref for ref, held in server.shown.items() for address in held}
    assert server.claims() == shown, "a claim for each address that is shown, and no other"
    assert server.violations == []


@pytest.mark.parametrize("make", [Careless, Hasty])
def test_the_judge_sees_a_planted_fault(make: type[Allocator]) -> None:
    """An oracle that cannot fail would prove nothing."""

    def fails(seed: int) -> bool:
        try:
            play(seed, make=make)
        except AssertionError as error:
            return "is in the status of" in str(error)
        return False

    assert any(fails(seed) for seed in (1, 14, *range(16)))
