"""What the policies say of a connection, from the facts alone, and why: for people, and to hold against the kernel.

No set and no chain is looked at: labels and addresses are compared one by one, so that a mistake in what was compiled shows as
a difference. A denial tells what came near to allow it: the rule with the fewest conditions that do not hold, and which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Struct

from firewall import cluster_policies, policies
from firewall.cluster_policies import title
from firewall.facts import Judges, holder, judges
from firewall.policies import Direction
from kuberouterpy.cluster import (
    Action,
    Anyone,
    ClusterNetworkPolicy,
    ClusterPeer,
    IpBlock,
    NetworkPolicy,
    NodeSelector,
    Pod,
    PolicyPort,
    Ref,
)
from kuberouterpy.labels import PodSelector, Selector
from kuberouterpy.store import Store

MOST_MISSES: Final = 3
"""Near misses that are told."""


class Flow(Struct, frozen=True):
    """The first packet of a connection, behind any VIP: the client's own address, and the endpoint's."""

    source: str
    destination: str
    protocol: str
    """tcp, udp, sctp, or one without ports: icmp."""
    port: int = 0
    """Destination port; 0: the protocol has none."""


class Judgement(Struct, frozen=True):
    """What one end's policies say in one direction."""

    direction: Direction
    pod: str = ""
    """The pod that is judged, ``namespace/name``; empty: no pod, nobody judges it."""
    node: str = ""
    """Where it runs, and where it is judged."""
    allowed: bool = True
    by: str = ""
    """The rule that decided, or why nothing did."""
    near: tuple[str, ...] = ()
    """Of a denial: what came near to allow it."""
    audit: str = ""
    """Policies under audit that would deny it."""


class Miss(Struct, frozen=True, order=True):
    """What does not hold of one rule."""

    failed: int
    """Conditions that do not hold."""
    text: str


def judge(flow: Flow, direction: Direction, store: Store) -> Judgement:
    """Return what is said of a connection at its end that ``direction`` is about."""
    address = flow.destination if direction is Direction.INGRESS else flow.source
    pod = pod_at(address, store)
    if pod is None:
        return Judgement(direction, by=f"{address} is no pod's: no policy is about it")
    where = Judgement(direction, str(pod.ref), pod.node)
    peer = flow.source if direction is Direction.INGRESS else flow.destination
    own_node = any(node.ref.name == pod.node for node in store.nodes.by("address", peer))
    if own_node and direction is Direction.INGRESS:
        return _allowed(where, "a node always reaches its own pods")
    asked = judges(pod, direction, store)
    return _judged(Question(flow, direction, store), asked, where, own_node=own_node)


def pod_at(address: str, store: Store) -> Pod | None:
    """Return the pod that policies mean by an address."""
    ref = holder(address, store)
    return None if ref is None else store.pods.get(ref)


def _judged(question: Question, asked: Judges, where: Judgement, *, own_node: bool) -> Judgement:
    decided = question.tier(asked.admin, where)
    if decided is not None:
        return decided
    if asked.policies:
        if own_node:
            return _allowed(where, "a pod always reaches its own node, unless a ClusterNetworkPolicy denies it")
        return question.isolation(asked.policies, where)
    audit = ""
    if asked.audited and not own_node and not question.isolation(asked.audited, where).allowed:
        audit = ", ".join(str(policy.ref) for policy in asked.audited)
    decided = question.tier(asked.baseline, where) or _allowed(where, "no policy isolates it in this direction")
    return Judgement(where.direction, where.pod, where.node, decided.allowed, decided.by, decided.near, audit)


def _allowed(where: Judgement, by: str) -> Judgement:
    return Judgement(where.direction, where.pod, where.node, True, by)


class Question:
    """One connection, one direction, held against rules."""

    def __init__(self, flow: Flow, direction: Direction, store: Store) -> None:
        self.flow = flow
        self.direction = direction
        self.store = store
        self.peer = flow.source if direction is Direction.INGRESS else flow.destination
        self.peer_pod = pod_at(self.peer, store)

    def tier(self, asked: Sequence[ClusterNetworkPolicy], where: Judgement) -> Judgement | None:
        """Return the verdict of a tier, or ``None`` where it has none or passes."""
        for policy in asked:
            for index, rule in enumerate(cluster_policies.items(policy, self.direction)):
                if not rule.peers or self.misses(rule.peers, rule.ports):
                    continue
                if rule.action is Action.PASS:
                    return None
                name = f" {rule.name!r}" if rule.name else ""
                by = f"{title(policy)} {self.direction}[{index}]{name}: {rule.action} ({policy.tier} tier)"
                return Judgement(where.direction, where.pod, where.node, rule.action is Action.ACCEPT, by)
        return None

    def isolation(self, asked: Sequence[NetworkPolicy], where: Judgement) -> Judgement:
        """Return the verdict of the policies that isolate the pod."""
        near: list[Miss] = []
        for policy in asked:
            for index, rule in enumerate(policies.items(policy, self.direction) or ()):
                name = f"policy {policy.ref} {self.direction}[{index}]"
                misses = self.misses(rule.peers or (Anyone(),), rule.ports)
                if not misses:
                    return _allowed(where, name)
                near.append(Miss(len(misses), f"{name}: {'; '.join(misses)}"))
        names = ", ".join(str(policy.ref) for policy in asked)
        told = tuple(miss.text for miss in sorted(near)[:MOST_MISSES])
        return Judgement(where.direction, where.pod, where.node, False, f"isolated by {names}, no rule allows it", told)

    def misses(self, peers: Iterable[ClusterPeer], ports: Sequence[PolicyPort]) -> list[str]:
        """Return what does not hold of a rule; nothing where it matches."""
        found = [shortest(self.peer_misses(peer) for peer in peers)]
        found.append(shortest(self.port_misses(port) for port in ports) if ports else [])
        return [text for texts in found for text in texts]

    # --- ports -----------------------------------------------------------------------------------------------------

    def port_misses(self, port: PolicyPort) -> list[str]:
        """Return why a port of a rule is not the one asked for."""
        asked = f"{self.flow.protocol}{f'/{self.flow.port}' if self.flow.port else ''}"
        if port.protocol.value != self.flow.protocol:
            return [f"only {_port_text(port)}, asked was {asked}"]
        match port.port:
            case None:
                return []
            case str() as name:
                return [] if self.flow.port in self._numbers(port, name) else [self._named_text(port, name, asked)]
            case number:
                last = port.end_port if port.end_port is not None else number
                return [] if number <= self.flow.port <= last else [f"only {_port_text(port)}, asked was {asked}"]

    def _numbers(self, port: PolicyPort, name: str) -> set[int]:
        pod = pod_at(self.flow.destination, self.store)
        every = () if pod is None else pod.ports
        return {one.port for one in every if (one.name, one.protocol) == (name, port.protocol)}

    def _named_text(self, port: PolicyPort, name: str, asked: str) -> str:
        pod = pod_at(self.flow.destination, self.store)
        numbers = ",".join(map(str, sorted(self._numbers(port, name))))
        where = str(pod.ref) if pod is not None else self.flow.destination
        return f"only port {name!r}, which on {where} is {numbers or 'none'}, asked was {asked}"

    # --- peers -----------------------------------------------------------------------------------------------------

    def peer_misses(self, peer: ClusterPeer) -> list[str]:
        """Return why the other end is not what a peer means."""
        match peer:
            case Anyone():
                return []
            case IpBlock():
                return list(_block_misses(self.peer, peer))
            case NodeSelector():
                nodes = list(self.store.nodes.by("address", self.peer))
                if not nodes:
                    return [f"only {peer}; {self.peer} is no node's"]
                return shortest(_label_misses(f"node {one.ref.name}", peer.nodes, one.labels) for one in nodes)
            case PodSelector():
                return list(self._selector_misses(peer))

    def _selector_misses(self, peer: PodSelector) -> Iterator[str]:
        pod = self.peer_pod
        if pod is None:
            yield f"only {peer}; {self.peer} is no pod's"
            return
        if peer.namespaces is None:
            if pod.ref.namespace != peer.namespace:
                yield f"only pods of namespace {peer.namespace}; {pod.ref} is not"
        else:
            namespace = self.store.namespaces.get(Ref("", pod.ref.namespace))
            if namespace is None:
                yield f"the namespace {pod.ref.namespace} is not known yet"
            else:
                yield from _label_misses(f"namespace {namespace.ref.name}", peer.namespaces, namespace.labels)
        yield from _label_misses(f"pod {pod.ref}", peer.pods, pod.labels)


def shortest(several: Iterable[list[str]]) -> list[str]:
    """Return the list with the fewest texts; of none, one that says so."""
    return min(several, key=len, default=["it matches nobody"])


def _label_misses(what: str, selector: Selector, labels: Mapping[str, str]) -> list[str]:
    return [
        f"{what} has {f'{term.key}={labels[term.key]}' if term.key in labels else f'no label {term.key}'}, not {one}"
        for term in selector.terms
        if not (one := Selector((term,))).matches(labels)
    ]


def _block_misses(address: str, block: IpBlock) -> Iterator[str]:
    if not _inside(address, block.cidr):
        yield f"only {block.cidr}; {address} is outside"
        return
    for one in block.excepts:
        if _inside(address, one):
            yield f"{block.cidr} excepts {one}, where {address} is"


def _inside(address: str, prefix: str) -> bool:
    one, network = ip_address(address), ip_network(prefix)
    return one.version == network.version and one in network


def _port_text(port: PolicyPort) -> str:
    if port.port is None:
        return f"{port.protocol}"
    last = f"-{port.end_port}" if port.end_port is not None else ""
    return f"{port.protocol}/{port.port}{last}"
