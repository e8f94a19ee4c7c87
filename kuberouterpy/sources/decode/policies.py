"""NetworkPolicies as records: whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from kuberouterpy.cluster import IpBlock, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule, Ref
from kuberouterpy.labels import EVERYTHING, PodSelector, Selector, selector, term
from kuberouterpy.sources import wire
from kuberouterpy.sources.decode.reading import (
    MAX_PORT,
    Decoded,
    Problems,
    annotations_of,
    read_port,
    read_prefix,
    read_protocol,
    reason,
)

T = TypeVar("T")


def policy(one: wire.NetworkPolicy, ref: Ref, uid: str) -> Decoded:
    """Return the policy whole or not at all; refused, it still isolates the pods it names where those can be read."""
    spec, problems = one.spec or wire.PolicySpec(), Problems()
    pods = problems.attempt("spec.podSelector", _pod_selector, spec)
    types = problems.attempt("spec.policyTypes", _types, spec, problems) or _default_types(spec)
    parts: dict[str, tuple[PolicyRule, ...] | None] = {}
    for name, raw in (("Ingress", spec.ingress), ("Egress", spec.egress)):
        if name in types:
            parts[name] = problems.attempt(f"spec.{name.lower()}", _rules, raw, name, ref)
    annotations = annotations_of(one.metadata)
    if problems.texts or pods is None:
        closed: dict[str, tuple[PolicyRule, ...] | None] = dict.fromkeys(types, ())
        isolating = pods if pods is None else _made(ref, pods, closed, annotations, uid)
        return Decoded(NetworkPolicy, ref, uid, None, tuple(problems.texts), isolating)
    return Decoded(NetworkPolicy, ref, uid, _made(ref, pods, parts, annotations, uid))


def _made(
    ref: Ref,
    pods: Selector,
    parts: Mapping[str, tuple[PolicyRule, ...] | None],
    annotations: dict[str, str],
    uid: str,
) -> NetworkPolicy:
    return NetworkPolicy(ref, pods, parts.get("Ingress"), parts.get("Egress"), annotations, uid)


def _read(decoder: msgspec.json.Decoder[T], raw: Raw) -> T | None:
    try:
        return decoder.decode(raw) if bytes(raw) else None
    except RecursionError:
        raise ValueError("nested too deep") from None
    except msgspec.DecodeError as error:
        raise ValueError(reason(error)) from None


def _pod_selector(spec: wire.PolicySpec) -> Selector:
    # Absent means the empty selector, as Go reads it: every pod of the namespace.
    found = _read(_SELECTOR, spec.pod_selector)
    return EVERYTHING if found is None else label_selector(found)


def label_selector(one: wire.LabelSelector) -> Selector:
    """Return a selector. Errors: ValueError for an operator or a key that is none."""
    expressions = (term(each.key, each.operator, tuple(each.values or ())) for each in one.match_expressions or ())
    if any(not key for key in one.match_labels or ()):
        raise ValueError("matchLabels has an empty key")
    return selector(one.match_labels, tuple(expressions))


def _types(spec: wire.PolicySpec, problems: Problems) -> frozenset[str]:
    stated = frozenset(_read(_TYPES, spec.policy_types) or ())
    unknown = stated - {"Ingress", "Egress"}
    if unknown:
        problems.texts.append(f"spec.policyTypes: {', '.join(map(repr, sorted(unknown)))} is not Ingress or Egress")
    return stated - unknown


def _default_types(spec: wire.PolicySpec) -> frozenset[str]:
    """Ingress always, Egress where there is an egress rule; a list that cannot be read counts as one that has rules."""
    try:
        rules = _read(_RAWS, spec.egress)
    except ValueError:
        return frozenset({"Ingress", "Egress"})
    return frozenset({"Ingress", "Egress"} if rules else {"Ingress"})


def _rules(raw: Raw, direction: str, ref: Ref) -> tuple[PolicyRule, ...]:
    found = []
    for index, rule in enumerate(_read(_RULES, raw) or ()):
        word, peers, other = (
            ("from", rule.sources, rule.targets) if direction == "Ingress" else ("to", rule.targets, rule.sources)
        )
        if other is not None:
            raise ValueError(f"[{index}] has the other direction's peers")
        found.append(
            PolicyRule(
                each(f"[{index}].{word}", peers, lambda peer: _peer(peer, ref.namespace)),
                each(f"[{index}].ports", rule.ports, _policy_port),
            )
        )
    return tuple(found)


def each(field: str, items: list[Any] | None, read: Callable[[Any], T]) -> tuple[T, ...]:
    """Return every item, read. Errors: ValueError that names the first that cannot be."""
    found = []
    for index, item in enumerate(items or ()):
        try:
            found.append(read(item))
        except ValueError as error:
            raise ValueError(f"{field}[{index}]: {error}") from None
    return tuple(found)


def _peer(peer: wire.Peer, namespace: str) -> PolicyPeer:
    if peer.ip_block is not None:
        if peer.pod_selector is not None or peer.namespace_selector is not None:
            raise ValueError("ipBlock stands beside a selector")
        return _ip_block(peer.ip_block)
    if peer.pod_selector is None and peer.namespace_selector is None:
        raise ValueError("neither podSelector nor namespaceSelector nor ipBlock")
    pods = EVERYTHING if peer.pod_selector is None else label_selector(peer.pod_selector)
    if peer.namespace_selector is None:
        return PodSelector(pods, namespace)
    return PodSelector(pods, "", label_selector(peer.namespace_selector))


def _ip_block(block: wire.IpBlock) -> IpBlock:
    cidr = read_prefix(block.cidr)
    network = ip_network(cidr)
    excepts = each("ipBlock.except", block.excepts, read_prefix)
    for one in excepts:
        inner = ip_network(one)
        if inner.version != network.version or not inner.subnet_of(network) or inner == network:  # type: ignore[arg-type]
            raise ValueError(f"ipBlock.except: {one} is not inside {cidr}")
    return IpBlock(cidr, excepts)


def _policy_port(port: wire.PolicyPort) -> PolicyPort:
    protocol = read_protocol(port.protocol)
    match port.port:
        case None:
            if port.end_port is not None:
                raise ValueError("endPort without port")
            return PolicyPort(protocol)
        case int() as number:
            first = read_port(number)
        case name:
            if port.end_port is not None:
                raise ValueError(f"endPort beside the named port {name!r}")
            if not any("a" <= letter <= "z" for letter in name):
                # IANA_SVC_NAME wants a letter; "80" as text would silently match no port.
                raise ValueError(f"{name!r} is not the name of a port")
            return PolicyPort(protocol, sys.intern(name))
    if port.end_port is not None and not first <= port.end_port <= MAX_PORT:
        raise ValueError(f"endPort {port.end_port} is not {first}-{MAX_PORT}")
    return PolicyPort(protocol, first, port.end_port)


_SELECTOR: Final = msgspec.json.Decoder(wire.LabelSelector | None)
_TYPES: Final = msgspec.json.Decoder(list[str] | None)
_RULES: Final = msgspec.json.Decoder(list[wire.Rule] | None)
_RAWS: Final = msgspec.json.Decoder(list[Raw] | None)
