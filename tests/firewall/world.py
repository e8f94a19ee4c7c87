"""A small cluster for tests: facts in, every node's compiled rules out, and connections through them as packets take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property

from firewall import CONTROLLER
from kuberouterpy.cluster import (
    ClusterNetworkPolicy,
    ContainerPort,
    Namespace,
    NetworkPolicy,
    Node,
    NodeAddress,
    Pod,
    Record,
    Ref,
    Tier,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Key, Object, Owner, requires
from kuberouterpy.family import FAMILIES, Family, family_of
from kuberouterpy.host import Host
from kuberouterpy.labels import PodSelector
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import Store
from tests.oracle.netfilter import Netfilter, Packet, Verdict, to_node
from tests.oracle.networkpolicy import Flow, Oracle

CONFIG = Config(enable_ipv6=True)
NODES = ("node-0", "node-1", "node-2")


def host(name: str, families: tuple[Family, ...] = FAMILIES) -> Host:
    """Return a host with nothing but what the firewall reads."""
    index = NODES.index(name)
    return Host(name, families=families, pod_cidrs=(f"10.1.{index}.0/24", f"fd00:1:{index}::/64"))


def filled(records: Iterable[Record]) -> Store:
    """Return a store that knows ``records``."""
    store = Store()
    for record in records:
        store.apply(Upsert(record))
    return store


def desired(owner: Owner, store: Store, here: Host, config: Config = CONFIG) -> tuple[Object, ...]:
    """Return what an owner wants, in the order of keys: an owner's objects have none of their own."""
    return tuple(sorted(CONTROLLER.desired(owner, store, here, config).objects, key=lambda one: repr(one.key)))


def by_owner(store: Store, here: Host, config: Config = CONFIG) -> dict[Owner, tuple[Object, ...]]:
    """Return what every owner wants, computed from nothing."""
    wanted = {owner: desired(owner, store, here, config) for owner in CONTROLLER.owners(store, here, config)}
    return {owner: objects for owner, objects in wanted.items() if objects}


def merged(wanted: Mapping[Owner, tuple[Object, ...]]) -> dict[Key, Object]:
    """Return all objects; owners that want one key must want the same."""
    objects: dict[Key, Object] = {}
    for owner, some in wanted.items():
        assert len({one.key for one in some}) == len(some), f"{owner} wants a key twice"
        for one in some:
            assert objects.setdefault(one.key, one) == one, f"{one.key} is wanted in two ways, by {owner}"
    for one in objects.values():
        assert all(key in objects for key in requires(one)), f"{one} lacks what it requires"
        assert CONTROLLER.claims(one.key) or type(one).__name__ == "Sysctl", f"{one.key} would never be swept"
    return objects


def oracle(store: Store) -> Oracle:
    """Return the judge of what a store knows now."""
    return Oracle(
        list(store.pods),
        list(store.namespaces),
        list(store.policies),
        list(store.cluster_policies),
        list(store.nodes),
    )


class Cluster:
    """Facts as every node's agent sees them."""

    def __init__(self, records: Iterable[Record], config: Config = CONFIG) -> None:
        self.records = tuple(records)
        self.config = config
        self.store = filled(self.records)

    @cached_property
    def oracle(self) -> Oracle:
        """The judge."""
        return oracle(self.store)

    @cached_property
    def nodes(self) -> dict[str, Netfilter]:
        """Every node's filter table, compiled from nothing."""
        return {name: Netfilter(merged(by_owner(self.store, host(name), self.config)).values()) for name in NODES}

    def node_of(self, address: str) -> str | None:
        """Return the node whose pod has an address, or ``None`` for the world outside."""
        pod = self.oracle.pod_at(address)
        return pod.node if pod is not None else None

    def connect(self, flow: Flow, *, through_vip: bool = False) -> tuple[bool, list[Verdict]]:
        """Send the first packet of a connection over the nodes on its way; return whether it arrives.

        Directly it is forwarded by the source's node and by the destination's, once where they are one. Through a VIP the
        source's node proxies it: there it meets OUTPUT with the endpoint as destination and the client as source.
        """
        here, there = self.node_of(flow.source), self.node_of(flow.destination)
        source = self.oracle.pod_at(flow.source)
        if source is not None and self.oracle.is_own_node(source, flow.destination):
            packet = replace(
                to_node(flow.source, flow.destination, flow.protocol, flow.port), icmp_type=_echo_type(flow)
            )
            verdict = self.nodes[source.node].send(packet)
            return verdict.accepted, [verdict]
        ways = [(here, "OUTPUT" if through_vip else "FORWARD")] if here else []
        if there and there != here:
            ways.append((there, "FORWARD"))
        verdicts: list[Verdict] = []
        for node, hook in ways:
            packet = Packet(hook, flow.source, flow.destination, flow.protocol, flow.port, icmp_type=_echo_type(flow))
            verdicts.append(self.nodes[node].send(packet))
            if not verdicts[-1].accepted:
                break
        return all(verdict.accepted for verdict in verdicts), verdicts


def _echo_type(flow: Flow) -> int:
    """The ICMP type of an echo request."""
    return (8 if family_of(flow.source) is Family.IPV4 else 128) if flow.protocol == "icmp" else 0


def pod(
    where: str,
    *,
    node: str = "node-0",
    addresses: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
    ports: tuple[tuple[str, str, int], ...] = (),
    **more: object,
) -> Pod:
    """Return a pod ``namespace/name``; ports are (name, protocol, number)."""
    namespace, _, name = where.partition("/")
    named = tuple(ContainerPort(port, Protocol(protocol), number) for port, protocol, number in ports)
    return Pod(Ref(namespace, name), node, addresses, dict(labels or {}), named, **more)  # type: ignore[arg-type]


def namespace(name: str, **labels: str) -> Namespace:
    """Return a namespace with the label every namespace has."""
    return Namespace(Ref("", name), {"kubernetes.io/metadata.name": name, **labels})


def node(name: str, *addresses: str, **labels: str) -> Node:
    """Return a node."""
    return Node(Ref("", name), tuple(NodeAddress("InternalIP", one) for one in addresses), labels=labels)


def cluster_policy(
    name: str, subject: PodSelector, *, tier: str = "Admin", priority: int = 10, **more: object
) -> ClusterNetworkPolicy:
    """Return a ClusterNetworkPolicy."""
    return ClusterNetworkPolicy(Ref("", name), Tier(tier), priority, subject, **more)  # type: ignore[arg-type]


def replaced(records: Iterable[Record], *new: Record) -> tuple[Record, ...]:
    """Return ``records`` with some put in the place of those of the same identity, or added."""
    known = {(type(one), one.ref): one for one in (*records, *new)}
    return tuple(known.values())


def policy(where: str, pods: object, **more: object) -> NetworkPolicy:
    """Return a policy ``namespace/name``."""
    namespace, _, name = where.partition("/")
    return NetworkPolicy(Ref(namespace, name), pods, **more)  # type: ignore[arg-type]
