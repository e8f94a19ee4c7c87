"""Policies and connections: which policies there are, and what they say of a packet from here to there.

Two voices answer about a connection. The *model* (``firewall.model``) reads the policies. The *rules* are walked as a packet
would meet them on this node: those that stand in the kernel, or those that are wanted. Where the two differ, one is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_address
from typing import Final

from msgspec import Struct

from firewall import cluster_policies, model, policies
from firewall.facts import is_policed, selects
from firewall.model import Flow, Judgement
from firewall.policies import Direction, policy_chain_name
from kuberouterpy.answers.subjects import UnknownSubject
from kuberouterpy.cluster import ClusterNetworkPolicy, NetworkPolicy, Pod, Ref
from kuberouterpy.dataplane import Rule, Table
from kuberouterpy.family import Family, family_of
from kuberouterpy.loop import Loop
from kuberouterpy.store import Policy, Store
from kuberouterpy.tracing.rules import Packet, judge
from kuberouterpy.tracing.world import World

_WITHOUT_PORTS: Final = frozenset({"icmp"})
_DENYING: Final = frozenset({"DROP", "REJECT"})
_POLICY_CHAIN: Final = "KUBE-NWPLCY-"
_PROTOCOLS: Final = ("tcp", "udp", "sctp", "icmp")


# --- the list ---------------------------------------------------------------------------------------------------------


class PolicyView(Struct, frozen=True):
    """One policy of the cluster."""

    name: str
    """``namespace/name``, or ``cnp/name``."""
    order: str
    """``policy``, or tier and priority of a ClusterNetworkPolicy."""
    directions: tuple[str, ...]
    """Those it is about."""
    rules: int
    pods: int
    """Pods it selects, everywhere."""
    here: int
    """Those of this node."""
    chains: dict[str, str]
    """Name of its chain by direction; empty where it selects no pod of this node."""
    audited: bool = False
    rejected: str = ""
    """Why it cannot be used as it is."""


class PolicyList(Struct, frozen=True):
    """Answer to /v1/policies."""

    node: str
    policies: tuple[PolicyView, ...]


def list_policies(loop: Loop) -> PolicyList:
    """Return every policy, those of the cluster in the order in which they are asked."""
    store = loop.store
    cluster = sorted(store.cluster_policies, key=lambda one: (one.tier, cluster_policies.order(one)))
    named = sorted(store.policies, key=lambda one: one.ref)
    every: tuple[Policy, ...] = (*cluster, *named)
    return PolicyList(loop.config.node_name, tuple(_view(one, loop) for one in every))


def _view(policy: Policy, loop: Loop) -> PolicyView:
    store = loop.store
    pods = [pod for pod in _pods_near(policy, store) if selects(policy, pod, store)]
    here = sum(pod.node == loop.host.name for pod in pods)
    parts = {direction: _items(policy, direction) for direction in Direction}
    directions = tuple(str(direction) for direction, items in parts.items() if items is not None)
    rejection = store.rejections.get((type(policy), policy.ref))
    return PolicyView(
        name_of_policy(policy),
        f"{policy.tier} {policy.priority}" if isinstance(policy, ClusterNetworkPolicy) else "policy",
        directions,
        sum(len(items or ()) for items in parts.values()),
        len(pods),
        here,
        {one: policy_chain_name(policy, Direction(one)) for one in directions} if here else {},
        isinstance(policy, NetworkPolicy) and policies.is_audited(policy),
        rejection.reason if rejection else "",
    )


def name_of_policy(policy: Policy) -> str:
    """Return what a policy is called on screens."""
    return cluster_policies.title(policy) if isinstance(policy, ClusterNetworkPolicy) else str(policy.ref)


def _items(policy: Policy, direction: Direction) -> Collection[object] | None:
    if isinstance(policy, NetworkPolicy):
        return policies.items(policy, direction)
    return cluster_policies.items(policy, direction) or None


def _pods_near(policy: Policy, store: Store) -> Iterable[Pod]:
    return store.pods_in(policy.ref.namespace) if isinstance(policy, NetworkPolicy) else store.pods


def names(loop: Loop) -> dict[str, str]:
    """Return who holds each address: nodes, and pods as policies mean them."""
    found = {one.address: f"node {node.ref.name}" for node in loop.store.nodes for one in node.addresses}
    for pod in loop.store.pods:
        if is_policed(pod):
            found |= {one: str(pod.ref) for one in pod.addresses if model.pod_at(one, loop.store) is pod}
    return found


# --- a connection -----------------------------------------------------------------------------------------------------


class End(Struct, frozen=True):
    """One end of a connection, as a person named it."""

    name: str
    """``pod default/web``, ``node node-1``, ``address 192.0.2.1``."""
    addresses: tuple[str, ...]
    node: str = ""
    """The node it is on or is; empty: outside."""
    is_node: bool = False
    """Whether the node itself, or a pod on its network."""


class Walked(Struct, frozen=True):
    """What the rules of this node do at one hook."""

    hook: str
    accepted: bool
    by: str
    """The rule that decided: its chain, number and comment."""
    doubts: tuple[str, ...] = ()


class Answer(Struct, frozen=True):
    """One connection of one family."""

    source: str
    destination: str
    allowed: bool
    """By the model, on every node on the way."""
    judgements: tuple[Judgement, ...]
    here: bool | None = None
    """What this node must decide: ``None`` where it judges neither end."""
    hooks: tuple[str, ...] = ()
    """Where this node meets the packet."""
    walked: tuple[Walked, ...] = ()
    """What the rules do; empty where none were looked at."""

    @property
    def differs(self) -> bool:
        """Whether rules and model disagree."""
        return any(one.accepted != self.here for one in self.walked)


class Connection(Struct, frozen=True):
    """Answer to /v1/connection: one for each family that both ends have."""

    node: str
    source: str
    destination: str
    protocol: str
    port: int
    answers: tuple[Answer, ...]


def connection(loop: Loop, source: str, destination: str, port: str) -> Connection:
    """Return what the policies say of a connection. Errors: UnknownSubject names the end or the port that is none."""
    store, here = loop.store, loop.host.name
    protocol, number = read_port(port)
    one, other = find(source, store), find(destination, store)
    answers = tuple(
        _answer(Flow(*pair, protocol, number), store, here, (one, other))
        for pair in _pairs(one, other, loop.host.families)
    )
    if not answers:
        raise UnknownSubject(f"{one.name} and {other.name} have no address family in common that this node uses")
    return Connection(here, one.name, other.name, protocol, number, answers)


def read_port(text: str) -> tuple[str, int]:
    """Return protocol and number of ``80/tcp``, ``tcp/80``, ``80`` or ``icmp``. Errors: UnknownSubject."""
    words = text.lower().replace(":", "/").split("/")
    protocol = next((word for word in words if word in _PROTOCOLS), "tcp")
    numbers = [word for word in words if word.isdigit()]
    good = len(words) <= 2 and len(words) == len(numbers) + (protocol in words)
    if good and protocol in _WITHOUT_PORTS and not numbers:
        return protocol, 0
    if not good or len(numbers) != 1 or not 0 < int(numbers[0]) <= 65535 or protocol in _WITHOUT_PORTS:
        raise UnknownSubject(f"--port {text}: write 80/tcp, 53/udp, 9003/sctp or icmp")
    return protocol, int(numbers[0])


def find(text: str, store: Store) -> End:
    """Return the end of a connection that a person means. Errors: UnknownSubject says what else there is."""
    try:
        address = str(ip_address(text))
    except ValueError:
        address = ""
    if address:
        return _by_address(address, store)
    kind, _, rest = text.partition("/")
    if kind == "node" or "/" not in text:
        return _by_node(rest if kind == "node" else text, store)
    ref = Ref(*rest.split("/", 1)) if kind in {"pod", "pods", "po"} and "/" in rest else Ref(kind, rest)
    pod = store.pods.get(ref)
    if pod is None:
        same = sorted(str(one.ref) for one in store.pods if one.ref.name == ref.name)[:3]
        hint = f"; did you mean {' or '.join(same)}?" if same else "; name it NAMESPACE/NAME, or give an address"
        raise UnknownSubject(f"no pod {ref}{hint}")
    if not pod.addresses or pod.finished:
        raise UnknownSubject(f"pod {ref} has {'finished' if pod.finished else 'no address yet'}")
    return End(f"pod {ref}", pod.addresses, pod.node, not is_policed(pod))


def _by_node(name: str, store: Store) -> End:
    node = store.nodes.get(Ref("", name))
    if node is None:
        known = ", ".join(sorted(one.ref.name for one in store.nodes)[:5])
        raise UnknownSubject(f"no node {name}; there are {known or 'none'}; a pod is named NAMESPACE/NAME")
    return End(f"node {name}", tuple(one.address for one in node.addresses), name, is_node=True)


def _by_address(address: str, store: Store) -> End:
    for service in store.services.by("address", address):
        behind = [one.address for piece in store.slices_of(service.ref) for one in piece.endpoints][:3]
        raise UnknownSubject(
            f"{address} is a VIP of Service {service.ref}: policies judge its endpoints, "
            f"so ask for one of them ({', '.join(behind) or 'it has none'})"
        )
    pod = model.pod_at(address, store)
    if pod is not None:
        return End(f"pod {pod.ref}", (address,), pod.node)
    for node in store.nodes.by("address", address):
        return End(f"node {node.ref.name}", (address,), node.ref.name, is_node=True)
    return End(f"address {address}", (address,))


def _pairs(one: End, other: End, families: Iterable[Family]) -> Iterator[tuple[str, str]]:
    for family in families:
        sources, destinations = ([a for a in end.addresses if family_of(a) is family] for end in (one, other))
        if sources and destinations:
            yield sources[0], destinations[0]


def _answer(flow: Flow, store: Store, here: str, ends: tuple[End, End]) -> Answer:
    found = tuple(model.judge(flow, direction, store) for direction in (Direction.EGRESS, Direction.INGRESS))
    own = [one.allowed for one in found if one.pod and one.node == here]
    return Answer(
        flow.source,
        flow.destination,
        all(one.allowed for one in found),
        found,
        all(own) if own else None,
        tuple(_hooks(*ends, here)) if own else (),
    )


def _hooks(source: End, destination: End, here: str) -> Iterator[str]:
    """Yield where this node meets the packet, directly and through a VIP."""
    if source.is_node and source.node == here:
        yield "OUTPUT"
    elif destination.is_node and destination.node == here:
        yield "INPUT"
    else:
        yield "FORWARD"
        if source.node == here:
            yield "OUTPUT"


# --- the rules --------------------------------------------------------------------------------------------------------


def walked(answer: Answer, about: Connection, world: World) -> tuple[Walked, ...]:
    """Return what the rules of a world do with a connection, at every hook where this node meets it."""
    return tuple(_walk(answer, about, world, hook) for hook in answer.hooks)


def _walk(answer: Answer, about: Connection, world: World, hook: str) -> Walked:
    packet = Packet(
        answer.source,
        answer.destination,
        about.protocol,
        about.port,
        source_is_local=hook == "OUTPUT" and answer.hooks == ("OUTPUT",),
        destination_is_local=hook == "INPUT",
    )
    verdict = judge(world, packet, Table.FILTER, hook)
    accepted = verdict.target not in _DENYING
    # What allowed it is the last mark of a policy; what accepts in the end says nothing.
    allowing = [one for one in verdict.met if one.chain.startswith(_POLICY_CHAIN)] if accepted else []
    last = next(iter(allowing[-1:] or verdict.path[-1:]), None)
    by = f"{last.chain}[{last.number}] {_text(last.rule)}" if last else f"no rule of {hook}"
    return Walked(hook, accepted, by, tuple(verdict.doubts))


def _text(rule: Rule) -> str:
    return rule.reason or " ".join((*rule.match, "-j", *rule.target))
