"""A NetworkPolicy as rules: for each direction one chain that marks what the policy allows and decides nothing itself.

A policy only ever adds permission; what no policy of a pod marks is dropped by the pod's chain. Source: networkpolicy.md 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from firewall.peers import Blocks, block_objects, blocks_of, node_set_name, pod_set_name
from kuberouterpy.cluster import Anyone, ClusterPeer, IpBlock, NetworkPolicy, NodeSelector, PolicyPort, PolicyRule
from kuberouterpy.dataplane import Entry, Rule, Set
from kuberouterpy.family import Family
from kuberouterpy.labels import PodSelector
from kuberouterpy.names import hashed
from kuberouterpy.store import EVERY_POD, NamedPort, Policy, subject_of

MARK: Final = "0x10000"
"""Bit of the packet's mark: a policy allows this direction (kube-router's)."""
ALLOW: Final = ("MARK", "--set-xmark", f"{MARK}/{MARK}")
FORGET: Final = ("MARK", "--set-xmark", f"0x0/{MARK}")
ALLOWED: Final = ("-m", "mark", "--mark", f"{MARK}/{MARK}")
UNALLOWED: Final = ("-m", "mark", "--mark", f"0x0/{MARK}")

AUDIT: Final = "kuberouterpy.io/policy-audit"
"""Annotation of a NetworkPolicy: ``"true"`` has it log and count what it would drop, and drop nothing."""

_REASON_LIMIT: Final = 200
"""An xt comment takes 255 bytes, and the driver adds an id."""


class Direction(StrEnum):
    """The two directions; each is isolated and allowed by itself."""

    INGRESS = "ingress"
    EGRESS = "egress"

    @property
    def short(self) -> str:
        """Word for log prefixes: ``in`` or ``out``."""
        return "in" if self is Direction.INGRESS else "out"

    @property
    def peer(self) -> str:
        """Side of the packet that is the peer, in ipset's word."""
        return "src" if self is Direction.INGRESS else "dst"


class Match(Struct, frozen=True):
    """Part of a rule: arguments, and the same for people."""

    arguments: tuple[str, ...]
    text: str
    pods: PodSelector | None = None
    """The selector of a peer that is one."""


_ANYBODY: Final = Match((), "anybody")


def policy_chain_name(policy: Policy, direction: Direction) -> str:
    """Return the name of a policy's chain; a function of kind, namespace, name and direction only."""
    return hashed("KUBE-NWPLCY-", policy.ref.namespace, policy.ref.name, direction)


def items(policy: NetworkPolicy, direction: Direction) -> tuple[PolicyRule, ...] | None:
    """Return the policy's rules of a direction; ``None``: it does not isolate that direction."""
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def is_audited(policy: NetworkPolicy) -> bool:
    """Return whether a policy only tells what it would drop."""
    return policy.annotations.get(AUDIT, "").lower() == "true"


def rules(policy: NetworkPolicy, direction: Direction, family: Family) -> tuple[Rule, ...]:
    """Return the rules of the policy's chain: each marks what one peer may do on one port.

    Shapes: one family; no two rules with equal matches. A policy that allows nothing in this family has none.
    """
    found: dict[tuple[str, ...], Rule] = {}
    for index, item in enumerate(items(policy, direction) or ()):
        for arguments, text in matches(subject_of(policy), item.peers, item.ports, direction, family):
            reason = f"{policy.ref} {direction}[{index}] {text}"
            found.setdefault(arguments, Rule(arguments, ALLOW, shortened(reason)))
    return tuple(found.values())


def shortened(reason: str) -> str:
    """Return a reason that fits a rule's comment: names may have 253 characters each."""
    return reason[:_REASON_LIMIT]


def sets(policy: NetworkPolicy, direction: Direction, family: Family) -> Iterator[Set | Entry]:
    """Yield the sets of blocks, with their entries, that :func:`rules` match on."""
    for item in items(policy, direction) or ():
        yield from block_sets(item.peers, family)


def block_sets(peers: Iterable[ClusterPeer], family: Family) -> Iterator[Set | Entry]:
    """Yield the sets of the blocks among some peers, with their entries."""
    for blocks in blocks_of(_blocks_among(peers), family):
        yield from block_objects(blocks)


def matches(
    subject: PodSelector,
    peers: Sequence[ClusterPeer],
    ports: Sequence[PolicyPort],
    direction: Direction,
    family: Family,
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what one item of a policy matches, and the same for people. No peers are anybody, no ports every port."""
    word = "from" if direction is Direction.INGRESS else "to"
    found = tuple(_peers(peers, direction, family))
    for port in ports or (None,):
        for peer in found:
            match = Match(peer.arguments, "") if port is None else _on_port(subject, peer, port, direction, family)
            yield match.arguments, f"{word} {peer.text}{match.text}"


def _on_port(subject: PodSelector, peer: Match, port: PolicyPort, direction: Direction, family: Family) -> Match:
    """Return a peer and a port together."""
    protocol = ("-p", str(port.protocol))
    text = f" on {port.protocol}"
    match port.port:
        case None:
            return Match((*protocol, *peer.arguments), text)
        case int() as number:
            last = f":{port.end_port}" if port.end_port is not None and port.end_port != number else ""
            return Match((*protocol, "--dport", f"{number}{last}", *peer.arguments), f"{text}:{number}{last}")
        case name:
            text = f"{text}:{name}"
    # A name belongs to the destination pod: the policy's own on ingress, the peer on egress. Where the peer is a selector,
    # the set of its pods' ports is both the peer and the port.
    pods = subject if direction is Direction.INGRESS else peer.pods or EVERY_POD
    named = _in_set(pod_set_name(NamedPort(pods, port.protocol, name), family), "dst,dst")
    others = () if direction is Direction.EGRESS and peer.pods else peer.arguments
    return Match((*protocol, *others, *named), text)


def _peers(peers: Sequence[ClusterPeer], direction: Direction, family: Family) -> Iterator[Match]:
    """Yield what the peers of one rule match in a family; no peers at all match anybody."""
    if not peers or any(isinstance(peer, Anyone) for peer in peers):
        yield _ANYBODY
        return
    for blocks in blocks_of(_blocks_among(peers), family):
        yield _block_match(blocks, direction)
    for peer in dict.fromkeys(peers):
        match peer:
            case PodSelector():
                yield Match(_in_set(pod_set_name(peer, family), direction.peer), str(peer), peer)
            case NodeSelector():
                yield Match(_in_set(node_set_name(peer, family), direction.peer), str(peer))


def _block_match(blocks: Blocks, direction: Direction) -> Match:
    arguments = () if blocks.anyone else _in_set(blocks.name, direction.peer)
    return Match(arguments, str(blocks))


def _blocks_among(peers: Iterable[ClusterPeer]) -> Iterator[IpBlock]:
    return (peer for peer in peers if isinstance(peer, IpBlock))


def _in_set(name: str, sides: str) -> tuple[str, ...]:
    return ("-m", "set", "--match-set", name, sides)
