"""ClusterNetworkPolicies as records: a rule that cannot be read whole fails closed, by itself.

A newer version of the API may have peers, protocols and fields that are unknown here, and its server may have left them out
already (then nothing is set). An Accept rule with such a part matches nothing. A Deny or Pass rule becomes a denial of
everything that its other parts could mean. Tier, priority and subject have no such reading: without them the policy is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, Final

import msgspec
from msgspec import Raw

from kuberouterpy.cluster import (
    Action,
    Anyone,
    ClusterNetworkPolicy,
    ClusterPeer,
    ClusterRule,
    IpBlock,
    NodeSelector,
    PolicyPort,
    Ref,
    Tier,
)
from kuberouterpy.labels import EVERYTHING, PodSelector
from kuberouterpy.protocol import Protocol
from kuberouterpy.sources import wire
from kuberouterpy.sources.decode.policies import each, label_selector
from kuberouterpy.sources.decode.reading import Problems, Refused, annotations_of, read_port, read_prefix, reason

_MAX_PRIORITY: Final = 1000
_RULE_FIELDS: Final = frozenset({"name", "action", "protocols"})
_PROTOCOLS: Final = {"tcp": Protocol.TCP, "udp": Protocol.UDP, "sctp": Protocol.SCTP}
_NAMED_PORT: Final = "destinationNamedPort"
_PROTOCOL_FIELDS: Final = frozenset({*_PROTOCOLS, _NAMED_PORT})
_INGRESS_PEERS: Final = frozenset({"namespaces", "pods"})
_EGRESS_PEERS: Final = frozenset({"namespaces", "pods", "nodes", "networks"})
"""Of the API's own, ``domainNames`` is unknown here: no name is ever resolved."""

Fields = dict[str, Raw]


def cluster_policy(
    one: wire.ClusterNetworkPolicy, ref: Ref, problems: Problems, _node_name: str
) -> ClusterNetworkPolicy:
    """Return the policy; rules that fail closed are told. Errors: Refused, ValueError for what the whole hangs on."""
    spec = one.spec
    if spec.tier not in set(Tier):
        raise Refused(f"spec.tier: {spec.tier!r} is not Admin or Baseline")
    if not 0 <= spec.priority <= _MAX_PRIORITY:
        raise Refused(f"spec.priority: {spec.priority} is not 0-{_MAX_PRIORITY}")
    return ClusterNetworkPolicy(
        ref,
        Tier(spec.tier),
        spec.priority,
        _subject(spec.subject),
        _rules(spec.ingress, "ingress", problems),
        _rules(spec.egress, "egress", problems),
        annotations_of(one.metadata),
        one.metadata.uid,
    )


def _subject(subject: wire.ClusterSubject) -> PodSelector:
    try:
        match subject:
            case wire.ClusterSubject(wire.LabelSelector() as namespaces, None):
                return PodSelector(EVERYTHING, namespaces=label_selector(namespaces))
            case wire.ClusterSubject(None, wire.NamespacedPods() as pods):
                return _namespaced(pods)
    except ValueError as error:
        raise Refused(f"spec.subject: {error}") from None
    raise Refused("spec.subject: exactly one of namespaces and pods must be set")


def _namespaced(pods: wire.NamespacedPods) -> PodSelector:
    return PodSelector(label_selector(pods.pod_selector), namespaces=label_selector(pods.namespace_selector))


# --- rules ------------------------------------------------------------------------------------------------------------


def _rules(rules: Iterable[Fields] | None, direction: str, problems: Problems) -> tuple[ClusterRule, ...]:
    return tuple(_rule(rule, direction, f"spec.{direction}[{n}]", problems) for n, rule in enumerate(rules or ()))


def _rule(rule: Fields, direction: str, place: str, problems: Problems) -> ClusterRule:
    """Return a rule as it is meant; where a part of it cannot be read, closed."""
    word, known = ("from", _INGRESS_PEERS) if direction == "ingress" else ("to", _EGRESS_PEERS)
    good = problems.attempt(place, _check_fields, rule, _RULE_FIELDS | {word}) is not None
    name = problems.attempt(f"{place}.name", _decoded, rule.get("name"), str | None)
    action = problems.attempt(f"{place}.action", _action, rule.get("action"))
    peers = problems.attempt(f"{place}.{word}", _peers, rule.get(word), known)
    ports = problems.attempt(f"{place}.protocols", _ports, rule.get("protocols"))
    if good and action is not None and peers is not None and ports is not None:
        return ClusterRule(action, peers, ports, name or "")
    if action is Action.ACCEPT:
        return ClusterRule(action, name=name or "")
    return ClusterRule(Action.DENY, (Anyone(),) if peers is None else peers, ports or (), name or "")


def _check_fields(fields: Mapping[str, Raw], known: Set[str]) -> Fields:
    """Return the fields that are set. Errors: ValueError names those that are unknown."""
    present = {key: raw for key, raw in fields.items() if bytes(raw) != b"null"}
    if unknown := sorted(present.keys() - known):
        raise ValueError(f"{', '.join(map(repr, unknown))} is unknown here")
    return present


def _only_field(fields: Fields, known: Set[str]) -> tuple[str, Raw]:
    """Return the one field that is set and its value. Errors: ValueError."""
    found = _check_fields(fields, known)
    if len(found) != 1:
        raise ValueError(f"exactly one of {', '.join(sorted(known))} must be set")
    return next(iter(found.items()))


def _decoded(raw: Raw | None, kind: Any) -> Any:
    """Return JSON of a kind. Errors: ValueError."""
    try:
        return msgspec.json.decode(raw if raw is not None else b"null", type=kind)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except msgspec.DecodeError as error:
        raise ValueError(reason(error)) from None


def _action(raw: Raw | None) -> Action:
    text = _decoded(raw, str)
    if text not in set(Action):
        raise ValueError(f"{text!r} is not Accept, Deny or Pass")
    return Action(text)


def _peers(raw: Raw | None, known: Set[str]) -> tuple[ClusterPeer, ...]:
    items = _decoded(raw, list[Fields] | None)
    if not items:
        raise ValueError("at least one peer must be named")
    return tuple(peer for several in each("", items, lambda one: tuple(_peer(one, known))) for peer in several)


def _peer(fields: Fields, known: Set[str]) -> Iterator[ClusterPeer]:
    word, raw = _only_field(fields, known)
    match word:
        case "namespaces":
            yield PodSelector(EVERYTHING, namespaces=label_selector(_decoded(raw, wire.LabelSelector)))
        case "pods":
            yield _namespaced(_decoded(raw, wire.NamespacedPods))
        case "nodes":
            yield NodeSelector(label_selector(_decoded(raw, wire.LabelSelector)))
        case _:
            networks = each("networks", _decoded(raw, list[str]), read_prefix)
            if not networks:
                raise ValueError("networks: at least one must be named")
            yield from map(IpBlock, networks)


# --- protocols --------------------------------------------------------------------------------------------------------


def _ports(raw: Raw | None) -> tuple[PolicyPort, ...]:
    items = _decoded(raw, list[Fields] | None)
    return tuple(port for several in each("", items, lambda one: tuple(_protocol(one))) for port in several)


def _protocol(fields: Fields) -> Iterator[PolicyPort]:
    word, raw = _only_field(fields, _PROTOCOL_FIELDS)
    if word == _NAMED_PORT:
        name = _decoded(raw, str)
        if not name:
            raise ValueError(f"{_NAMED_PORT} is empty")
        # The name alone says the port: whatever protocol the container port has.
        yield from (PolicyPort(protocol, sys.intern(name)) for protocol in Protocol)
        return
    _, port = _only_field(_decoded(raw, Fields), frozenset({"destinationPort"}))
    kind, number = _only_field(_decoded(port, Fields), frozenset({"number", "range"}))
    if kind == "number":
        yield PolicyPort(_PROTOCOLS[word], read_port(_decoded(number, int)))
        return
    limits = _decoded(number, wire.PortRange)
    first, last = read_port(limits.start), read_port(limits.end)
    if first > last:
        raise ValueError(f"range {first}-{last} ends before it starts")
    yield PolicyPort(_PROTOCOLS[word], first, last)
