"""What one event costs the whole agent, from the event in to the operations out, at two sizes of cluster.

Run: ``python tests/bench/loop.py``. Prints figures; asserts nothing. The reference of each line is the same event in the small
cluster, and the last lines the dumb version: everything computed again, everything compared with a fresh listing. Drivers here
cost nothing, so that only the agent is measured.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from firewall import CONTROLLER as FIREWALL
from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Link,
    Namespace,
    NetworkPolicy,
    Node,
    NodeAddress,
    Pod,
    PolicyPort,
    PolicyRule,
    Record,
    Ref,
    Replace,
    Service,
    ServicePort,
    ServiceType,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import KINDS, Key, Object, Op
from kuberouterpy.errors import DriverError
from kuberouterpy.family import IPV4
from kuberouterpy.labels import Operator, PodSelector, Selector, Term
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from proxy import CONTROLLER as PROXY
from routing import CONTROLLER as ROUTING

ROUNDS = 200
NODE = "node-1"


class Size(NamedTuple):
    """A cluster."""

    services: int
    pods: int
    policies: int


SMALL, LARGE = Size(100, 100, 10), Size(10_000, 10_000, 1_000)
ENDPOINTS = 5
NAMESPACES = 50


class Sink:
    """A driver of every kind that succeeds at once and remembers."""

    name = "sink"
    kinds = KINDS

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}

    def list(self) -> Mapping[Key, Object]:
        """Return what was applied."""
        return dict(self.objects)

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Remember."""
        for op in ops:
            if op.value is None:
                self.objects.pop(op.key, None)
            else:
                self.objects[op.key] = op.value
            yield op, None


def address(number: int) -> str:
    """Return a pod's address."""
    return f"10.{244 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def pod(number: int) -> Pod:
    """Return a pod; one in a hundred is on this node."""
    ref = Ref(f"team-{number % NAMESPACES}", f"web-{number}")
    node = NODE if number % 100 == 0 else f"node-{number % 100 + 1}"
    return Pod(ref, node, (address(number),), {"app": f"app-{number % 200}", "name": ref.name})


def slice_of(number: int, size: Size, *, ready: int = ENDPOINTS) -> EndpointSlice:
    """Return a service's slice, in which the first ``ready`` endpoints are ready."""
    endpoints = tuple(
        Endpoint(
            address((number * ENDPOINTS + one) % size.pods),
            NODE,
            one < ready,
            one < ready,
            False,
            frozenset(),
            frozenset(),
        )
        for one in range(ENDPOINTS)
    )
    ref = Ref(f"team-{number % NAMESPACES}", f"svc-{number}-x")
    return EndpointSlice(
        ref, Ref(ref.namespace, f"svc-{number}"), IPV4, (EndpointPort("", Protocol.TCP, 8080),), endpoints
    )


def service(number: int) -> Service:
    """Return a ClusterIP service."""
    vip = f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    ref = Ref(f"team-{number % NAMESPACES}", f"svc-{number}")
    return Service(ref, ServiceType.CLUSTER_IP, (vip,), (ServicePort("", Protocol.TCP, 80),), families=(IPV4,))


def app(number: int) -> Selector:
    """Return the selector of one app's pods."""
    return Selector((Term("app", Operator.IN, (f"app-{number % 200}",)),))


def policy(number: int, *, port: int = 80) -> NetworkPolicy:
    """Return a policy that lets one app in to another."""
    ref = Ref(f"team-{number % NAMESPACES}", f"policy-{number}")
    rule = PolicyRule((PodSelector(app(number * 7), ref.namespace),), (PolicyPort(Protocol.TCP, port),))
    return NetworkPolicy(ref, app(number), ingress=(rule,))


def facts(size: Size) -> list[Record]:
    """Return a cluster."""
    return [
        *(Node(Ref("", NODE), (NodeAddress("InternalIP", "172.30.1.11"),), ("10.244.0.0/24",)),),
        *(Namespace(Ref("", f"team-{one}"), {"team": str(one)}) for one in range(NAMESPACES)),
        *(service(one) for one in range(size.services)),
        *(slice_of(one, size) for one in range(size.services)),
        *(pod(one) for one in range(size.pods)),
        *(policy(one) for one in range(size.policies)),
    ]


class Bench:
    """A loop over a cluster that has settled."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.now = 0.0
        self.sink = Sink()
        self.programmed = Programmed(self.sink, period_s=1e9)
        self.loop = Loop(
            config=Config(node_name=NODE),
            controllers=(PROXY, ROUTING, FIREWALL),
            drivers=(self.programmed,),
            expected=(*KUBERNETES_KINDS, Link),
        )
        records = facts(size)
        for kind in KUBERNETES_KINDS:
            self.loop.put(Replace(kind, tuple(one for one in records if type(one) is kind)))
        self.loop.put(Replace(Link, (Link("eth0", 2, mtu=1500, up=True, addresses=("172.30.1.11/24",)),)))
        self.cold_s = self.step()

    def step(self) -> float:
        """Take one step; return its seconds."""
        self.now += 1
        begun = time.perf_counter()
        self.loop.step(self.now)
        return time.perf_counter() - begun

    def event(self, make: Callable[[int], Record]) -> list[float]:
        """Return the seconds of a step for each of many events, the first few left out."""
        took = []
        for number in range(ROUNDS + 10):
            self.loop.put(Upsert(make(number)))
            took.append(self.step())
        return took[10:]

    def compare(self) -> float:
        """Return the seconds of comparing everything with a fresh listing."""
        self.programmed.list_at = 0.0
        return self.step()


def events(size: Size) -> dict[str, Callable[[int], Record]]:
    """Return what changes, by its name; every call changes something."""
    return {
        "an endpoint's readiness": lambda one: slice_of(7, size, ready=ENDPOINTS - one % 2),
        "a pod's label": lambda one: replace(pod(42), labels={"app": f"app-{42 + one % 2}", "name": "web-42"}),
        "a policy's port": lambda one: policy(0, port=80 + one % 2),
        "a service's port": lambda one: replace(service(7), ports=(ServicePort("", Protocol.TCP, 80 + one % 2),)),
        "nothing (an equal record)": lambda one: service(7),
    }


def main() -> None:
    """Print the table."""
    logging.disable(logging.CRITICAL)
    small, large = Bench(SMALL), Bench(LARGE)
    print(
        f"{'one event, event in to operations out':40} {SMALL.services:>8} {LARGE.services:>10}      ratio   p99 large"
    )
    for name, change in events(SMALL).items():
        few, many = small.event(change), large.event(events(LARGE)[name])
        a_us, b_us = statistics.median(few) * 1e6, statistics.median(many) * 1e6
        print(f"{name:40} {a_us:5.0f} us {b_us:7.0f} us {b_us / a_us:9.2f}x {sorted(many)[-2] * 1e6:8.0f} us")
    for name, few_s, many_s in (
        ("everything, from nothing", small.cold_s, large.cold_s),
        ("everything compared with a listing", small.compare(), large.compare()),
    ):
        count = len(large.sink.objects)
        each_us = many_s / count * 1e6
        print(f"{name:40} {few_s * 1e3:5.0f} ms {many_s * 1e3:7.0f} ms   {each_us:.1f} us an object ({count} objects)")


if __name__ == "__main__":
    main()
