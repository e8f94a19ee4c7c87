"""JSON of the API to records: pure, and the one place where absent, null and absurd fields get their meaning.

What is wrong is named by field. A bad part is left out where the rest is safe without it (an endpoint's address, one port,
an external IP). The whole object is refused where leaving a part out would open or close something nobody asked for: a
policy, a source range, a traffic policy. A refused object's last good record stays in force (the store's rule).

Nothing here raises but :class:`Garbage`, for what has no identity.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network
from socket import AF_INET, inet_pton
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from kuberouterpy.cluster import (
    ContainerPort,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    IpBlock,
    Kind,
    LoadBalancerIngress,
    Namespace,
    NetworkPolicy,
    Node,
    NodeAddress,
    Pod,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Record,
    Ref,
    Rejection,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
)
from kuberouterpy.errors import SourceError
from kuberouterpy.family import IPV4, IPV6, Family, canonical_address, canonical_prefix, family_of
from kuberouterpy.labels import EVERYTHING, PodSelector, Selector, selector, term
from kuberouterpy.protocol import Protocol
from kuberouterpy.sources import wire

PREFIX: Final = "kube-router.io/"
"""Annotations of ours begin with it; no other is kept."""

_SERVICE_NAME: Final = "kubernetes.io/service-name"
_PROXY_NAME: Final = "service.kubernetes.io/service-proxy-name"
_HEADLESS: Final = "service.kubernetes.io/headless"
_ZONE: Final = "topology.kubernetes.io/zone"
_TRIGGERED: Final = "endpoints.kubernetes.io/last-change-trigger-time"
_AFFINITY_S: Final = 10_800
"""The API's default of sessionAffinityConfig.clientIP.timeoutSeconds."""
_MAX_AFFINITY_S: Final = 86_400
_SPECIAL_OCTETS: Final = frozenset({"0", "127", "169", *map(str, range(224, 240))})
"""First octets under which some address is unspecified, loopback, link-local or multicast."""
_MAX_PORT: Final = 65_535
_PROTOCOLS: Final = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
_FAMILIES: Final = {"IPv4": IPV4, "IPv6": IPV6}
_CLUSTER_WIDE: Final[frozenset[Kind]] = frozenset({Namespace, Node})
_FINISHED: Final = frozenset({"Succeeded", "Failed"})

T = TypeVar("T")


class Garbage(SourceError):
    """What came is not an object of the API: nothing can be concluded from it, least of all that something is gone."""


class Refused(Exception):
    """The object cannot be used; the text names the field."""


class Decoded(NamedTuple):
    """One object, read. Without record and without problems it is not for us, as if it were not there."""

    kind: Kind
    """Kind of the record."""
    ref: Ref
    """Identity."""
    uid: str
    """metadata.uid."""
    record: Record | None
    """The record, or ``None``."""
    problems: tuple[str, ...] = ()
    """What was left out, or why there is no record."""
    isolating: NetworkPolicy | None = None
    """Of a refused policy: what isolates its pods, for when no good version is known."""

    @property
    def rejection(self) -> Rejection | None:
        """What is to be told, or ``None``."""
        return Rejection(self.kind, self.ref, "; ".join(self.problems), self.uid) if self.problems else None


class Problems:
    """Collects what is wrong with one object."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def attempt(self, field: str, read: Callable[..., T], *arguments: object) -> T | None:
        """Return what ``read`` returns; note the field and return ``None`` where it cannot be read."""
        try:
            return read(*arguments)
        except ValueError as error:
            text = str(error)
            self.texts.append(f"{field}{text}" if text.startswith("[") else f"{field}: {text}")
            return None

    def each(self, field: str, texts: Iterable[str] | None, read: Callable[[str], T]) -> tuple[T, ...]:
        """Return the readable ones, without repeats, in order."""
        found: dict[T, None] = {}
        for index, text in enumerate(texts or ()):
            try:
                found[read(text)] = None
            except ValueError as error:
                self.texts.append(f"{field}[{index}]: {error}")
        return tuple(found)


def decode(kind: Kind, raw: bytes | Raw, *, node_name: str = "") -> Decoded:
    """Return one object of the API as a record, or why it has none.

    Pods of other nodes than ``node_name`` keep only what policy needs.
    Errors: Garbage where not even the object's name can be read.
    """
    known = _identified(kind, raw)
    ref, uid = known.ref, known.uid
    problems = Problems()
    try:
        if kind is NetworkPolicy:
            return _policy(_WIRE_POLICY.decode(raw), ref, uid)
        decoder, convert = _KINDS[kind]
        record = convert(decoder.decode(raw), ref, problems, node_name)
    except (msgspec.DecodeError, RecursionError, Refused, ValueError) as error:
        return Decoded(kind, ref, uid, None, (*problems.texts, _reason(error)))
    return Decoded(kind, ref, uid, record, tuple(problems.texts))


class Identity(NamedTuple):
    """Which object it is, and in which version."""

    ref: Ref
    """Identity; a cluster-wide kind has no namespace, whatever the object says."""
    uid: str
    """metadata.uid."""
    version: str
    """metadata.resourceVersion."""


def identity(kind: Kind, raw: bytes | Raw) -> Identity:
    """Return who an object is; a bookmark has a version only.

    Errors: Garbage where that cannot be read.
    """
    try:
        known = _IDENTIFIED.decode(raw).metadata
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Garbage(f"an object has no readable metadata ({_reason(error)})") from None
    namespace = "" if kind in _CLUSTER_WIDE else known.namespace or ""
    return Identity(Ref(sys.intern(namespace), sys.intern(known.name)), known.uid or "", known.resource_version or "")


def _identified(kind: Kind, raw: bytes | Raw) -> Identity:
    known = identity(kind, raw)
    if not known.ref.name:
        raise Garbage("an object has no metadata.name")
    return known


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    # msgspec ends with "- at `$.spec.ports[0].port`": the field first reads as our own problems do.
    text, _, place = str(error).partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    text = text[:1].lower() + text[1:]
    return f"{place}: {text}" if place else text


# --- small readers, shared --------------------------------------------------------------------------------------------


# Cached: pods and slices name the same addresses, and ipaddress costs microseconds and a new string each time.
@lru_cache(maxsize=65_536)
def _address(text: str) -> str:
    if _plain_ipv4(text):
        return sys.intern(text)
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return sys.intern(canonical_address(text.strip()))


@lru_cache(maxsize=65_536)
def _shared_address(text: str) -> str:
    """Read an address that nodes may route to: an endpoint's or a VIP. A VIP 127.0.0.1 would take the node's own traffic."""
    canonical = _address(text)
    if ":" not in canonical and canonical.partition(".")[0] not in _SPECIAL_OCTETS:
        return canonical
    address = ip_address(canonical)
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
        raise ValueError(f"{text!r} is unspecified, loopback, link-local or multicast")
    return canonical


def _plain_ipv4(text: str) -> bool:
    """Return whether this is canonical IPv4: inet_pton refuses every other spelling, and takes a tenth of the time."""
    try:
        inet_pton(AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def _prefix(text: str) -> str:
    return canonical_prefix(text.strip())


def _port(number: int | None) -> int:
    if number is None or not 1 <= number <= _MAX_PORT:
        raise ValueError(f"{number} is not a port number")
    return number


def _protocol(text: str | None) -> Protocol:
    if not text:
        return Protocol.TCP
    try:
        return _PROTOCOLS[text]
    except KeyError:
        raise ValueError(f"{text!r} is not one of TCP, UDP, SCTP") from None


def _annotations(meta: wire.Meta) -> dict[str, str]:
    return {key: value for key, value in (meta.annotations or {}).items() if key.startswith(PREFIX)}


def _labels(meta: wire.Meta) -> dict[str, str]:
    intern = sys.intern
    return {intern(key): intern(value) for key, value in (meta.labels or {}).items()}


# --- Service ----------------------------------------------------------------------------------------------------------


def _service(one: wire.Service, ref: Ref, problems: Problems, _node_name: str) -> Service:
    spec, labels = one.spec, one.metadata.labels or {}
    kind = _choice("spec.type", spec.type or "ClusterIP", ServiceType)
    cluster_ips = () if kind is ServiceType.EXTERNAL_NAME else _cluster_ips(spec, problems)
    return Service(
        ref=ref,
        type=kind,
        cluster_ips=cluster_ips,
        ports=tuple(_service_ports(spec.ports or (), problems)),
        external_ips=problems.each("spec.externalIPs", spec.external_ips, _shared_address),
        load_balancer=tuple(_ingress(one.status, problems)),
        families=_ip_families(spec, cluster_ips, problems),
        internal_policy=_choice("spec.internalTrafficPolicy", spec.internal_traffic_policy or "Cluster", TrafficPolicy),
        external_policy=_choice("spec.externalTrafficPolicy", spec.external_traffic_policy or "Cluster", TrafficPolicy),
        affinity_s=_affinity_s(spec, problems),
        health_check_node_port=_optional_port("spec.healthCheckNodePort", spec.health_check_node_port, problems),
        source_ranges=_source_ranges(spec),
        proxy_name=labels.get(_PROXY_NAME),
        headless_label=_HEADLESS in labels,
        annotations=_annotations(one.metadata),
        uid=one.metadata.uid,
    )


def _choice(field: str, text: str, choices: type[T]) -> T:
    try:
        return choices(text)  # type: ignore[call-arg]
    except ValueError:
        raise Refused(f"{field}: {text!r} is unknown") from None


def _cluster_ips(spec: wire.ServiceSpec, problems: Problems) -> tuple[str, ...]:
    texts = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    return problems.each("spec.clusterIPs", [text for text in texts if text not in {"", "None"}], _shared_address)


def _service_ports(ports: Iterable[wire.ServicePort], problems: Problems) -> Iterator[ServicePort]:
    for index, port in enumerate(ports):
        number = problems.attempt(f"spec.ports[{index}].port", _port, port.port)
        protocol = problems.attempt(f"spec.ports[{index}].protocol", _protocol, port.protocol)
        if number is None or protocol is None:
            continue
        node_port = _optional_port(f"spec.ports[{index}].nodePort", port.node_port, problems)
        yield ServicePort(sys.intern(port.name or ""), protocol, number, node_port)


def _optional_port(field: str, number: int | None, problems: Problems) -> int:
    if not number:
        return 0
    return problems.attempt(field, _port, number) or 0


def _ingress(status: wire.ServiceStatus | None, problems: Problems) -> Iterator[LoadBalancerIngress]:
    entries = status.load_balancer.ingress if status and status.load_balancer else None
    seen: set[str] = set()
    for index, entry in enumerate(entries or ()):
        if not entry.ip:
            continue
        address = problems.attempt(f"status.loadBalancer.ingress[{index}].ip", _shared_address, entry.ip)
        if address and address not in seen:
            seen.add(address)
            yield LoadBalancerIngress(address, proxy=entry.ip_mode == "Proxy")


def _ip_families(spec: wire.ServiceSpec, cluster_ips: tuple[str, ...], problems: Problems) -> tuple[Family, ...]:
    stated = problems.each("spec.ipFamilies", spec.ip_families, _family)
    return stated or tuple(dict.fromkeys(map(family_of, cluster_ips)))


def _family(text: str) -> Family:
    try:
        return _FAMILIES[text]
    except KeyError:
        raise ValueError(f"{text!r} is not IPv4 or IPv6") from None


def _affinity_s(spec: wire.ServiceSpec, problems: Problems) -> int:
    match spec.session_affinity:
        case None | "" | "None":
            return 0
        case "ClientIP":
            config = spec.session_affinity_config
            seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
        case other:
            problems.texts.append(f"spec.sessionAffinity: {other!r} is unknown")
            return 0
    if seconds is None:
        return _AFFINITY_S
    if 1 <= seconds <= _MAX_AFFINITY_S:
        return seconds
    problems.texts.append(f"spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds} is not 1-{_MAX_AFFINITY_S}")
    return _AFFINITY_S


def _source_ranges(spec: wire.ServiceSpec) -> tuple[str, ...]:
    # One range left out of a list of one would leave the empty list, which allows everybody.
    problems = Problems()
    ranges = problems.each("spec.loadBalancerSourceRanges", spec.load_balancer_source_ranges, _prefix)
    if problems.texts:
        raise Refused("; ".join(problems.texts))
    return ranges


# --- EndpointSlice ----------------------------------------------------------------------------------------------------


def _slice(one: wire.EndpointSlice, ref: Ref, problems: Problems, _node_name: str) -> EndpointSlice | None:
    labels = one.metadata.labels or {}
    if one.address_type == "FQDN" or _HEADLESS in labels:
        return None
    family = _FAMILIES.get(one.address_type)
    if family is None:
        raise Refused(f"addressType: {one.address_type!r} is unknown")
    service = labels.get(_SERVICE_NAME)
    return EndpointSlice(
        ref=ref,
        service=Ref(ref.namespace, sys.intern(service)) if service else None,
        family=family,
        ports=tuple(_endpoint_ports(one.ports or (), problems)),
        endpoints=tuple(_endpoints(one.endpoints or (), family, ref.namespace, problems)),
        triggered=(one.metadata.annotations or {}).get(_TRIGGERED, ""),
    )


def _endpoint_ports(ports: Iterable[wire.EndpointPort], problems: Problems) -> Iterator[EndpointPort]:
    for index, port in enumerate(ports):
        if port.port is None:
            continue
        number = problems.attempt(f"ports[{index}].port", _port, port.port)
        protocol = problems.attempt(f"ports[{index}].protocol", _protocol, port.protocol)
        if number is not None and protocol is not None:
            yield EndpointPort(sys.intern(port.name or ""), protocol, number)


def _endpoints(
    endpoints: Iterable[wire.Endpoint], family: Family, namespace: str, problems: Problems
) -> Iterator[Endpoint]:
    for index, one in enumerate(endpoints):
        try:
            address = _shared_address(one.addresses[0] if one.addresses else "")
            if family_of(address) is not family:
                raise ValueError(f"{address!r} is not an IPv{family} address")
        except ValueError as error:
            problems.texts.append(f"endpoints[{index}].addresses: {error}")
            continue
        # services.md 0.2: nil ready is ready, nil serving is as ready, nil terminating is not terminating.
        known = one.conditions or _NO_CONDITIONS
        ready = known.ready is not False
        yield Endpoint(
            address=address,
            node=sys.intern(one.node_name) if one.node_name else None,
            ready=ready,
            serving=ready if known.serving is None else known.serving,
            terminating=bool(known.terminating),
            for_nodes=_names(one.hints.for_nodes) if one.hints else _NOBODY,
            for_zones=_names(one.hints.for_zones) if one.hints else _NOBODY,
            pod=_target(one.target_ref, namespace),
        )


_NO_CONDITIONS: Final = wire.Conditions()
_NOBODY: Final[frozenset[str]] = frozenset()


def _names(named: list[wire.Named] | None) -> frozenset[str]:
    return frozenset(sys.intern(one.name) for one in named) if named else _NOBODY


def _target(target: wire.TargetRef | None, namespace: str) -> Ref | None:
    if target is None or target.kind != "Pod" or not target.name:
        return None
    return Ref(sys.intern(target.namespace or namespace), sys.intern(target.name))


# --- Pod, Namespace, Node ---------------------------------------------------------------------------------------------


def _pod(one: wire.Pod, ref: Ref, problems: Problems, node_name: str) -> Pod:
    spec, status, meta = one.spec or wire.PodSpec(), one.status or wire.PodStatus(), one.metadata
    node = sys.intern(spec.node_name or "")
    here = bool(node) and node == node_name
    texts = [entry.ip for entry in status.pod_ips or () if entry.ip] or ([status.pod_ip] if status.pod_ip else [])
    return Pod(
        ref=ref,
        node=node,
        addresses=problems.each("status.podIPs", texts, _address),
        labels=_labels(meta),
        ports=tuple(_container_ports(spec, problems)),
        host_network=bool(spec.host_network),
        finished=status.phase in _FINISHED,
        created=sys.intern(meta.creation_timestamp or ""),
        annotations=_annotations(meta) if here else {},
        uid=meta.uid if here else "",
    )


def _container_ports(spec: wire.PodSpec, problems: Problems) -> Iterator[ContainerPort]:
    sidecars = [one for one in spec.init_containers or () if one.restart_policy == "Always"]
    for container in (*(spec.containers or ()), *sidecars):
        for port in container.ports or ():
            if not port.name:
                continue
            number = problems.attempt(f"containerPort of {port.name!r}", _port, port.container_port)
            protocol = problems.attempt(f"protocol of {port.name!r}", _protocol, port.protocol)
            if number is not None and protocol is not None:
                yield ContainerPort(sys.intern(port.name), protocol, number)


def _namespace(one: wire.Namespace, ref: Ref, _problems: Problems, _node_name: str) -> Namespace:
    return Namespace(ref, _labels(one.metadata))


def _node(one: wire.Node, ref: Ref, problems: Problems, _node_name: str) -> Node:
    spec, status, meta = one.spec or wire.NodeSpec(), one.status or wire.NodeStatus(), one.metadata
    return Node(
        ref=ref,
        addresses=tuple(_node_addresses(status, problems)),
        pod_cidrs=_pod_cidrs(spec),
        zone=sys.intern((meta.labels or {}).get(_ZONE, "")),
        annotations=_annotations(meta),
        unschedulable=bool(spec.unschedulable),
        taints=tuple(sorted({taint.key for taint in spec.taints or ()})),
        deleting=meta.deletion_timestamp is not None,
        uid=meta.uid,
    )


def _pod_cidrs(spec: wire.NodeSpec) -> tuple[str, ...]:
    # A range left out would be one withdrawn, with all its pods; refused, the node stays as it was.
    problems = Problems()
    texts = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    cidrs = problems.each("spec.podCIDRs", texts, _prefix)
    if problems.texts:
        raise Refused("; ".join(problems.texts))
    return cidrs


def _node_addresses(status: wire.NodeStatus, problems: Problems) -> Iterator[NodeAddress]:
    for index, one in enumerate(status.addresses or ()):
        if one.type not in {"InternalIP", "ExternalIP"}:
            continue
        address = problems.attempt(f"status.addresses[{index}].address", _address, one.address)
        if address:
            yield NodeAddress(sys.intern(one.type), address)


# --- NetworkPolicy ----------------------------------------------------------------------------------------------------


def _policy(one: wire.NetworkPolicy, ref: Ref, uid: str) -> Decoded:
    """Return the policy whole or not at all; refused, it still isolates the pods it names where those can be read."""
    spec, problems = one.spec or wire.PolicySpec(), Problems()
    pods = problems.attempt("spec.podSelector", _pod_selector, spec)
    types = problems.attempt("spec.policyTypes", _types, spec, problems) or _default_types(spec)
    parts: dict[str, tuple[PolicyRule, ...] | None] = {}
    for name, raw in (("Ingress", spec.ingress), ("Egress", spec.egress)):
        if name in types:
            parts[name] = problems.attempt(f"spec.{name.lower()}", _rules, raw, name, ref)
    annotations = _annotations(one.metadata)
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
        raise ValueError(_reason(error)) from None


def _pod_selector(spec: wire.PolicySpec) -> Selector:
    # Absent means the empty selector, as Go reads it: every pod of the namespace.
    found = _read(_SELECTOR, spec.pod_selector)
    return EVERYTHING if found is None else _selector(found)


def _selector(one: wire.LabelSelector) -> Selector:
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
                _each(f"[{index}].{word}", peers, lambda peer: _peer(peer, ref.namespace)),
                _each(f"[{index}].ports", rule.ports, _policy_port),
            )
        )
    return tuple(found)


def _each(field: str, items: list[Any] | None, read: Callable[[Any], T]) -> tuple[T, ...]:
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
    pods = EVERYTHING if peer.pod_selector is None else _selector(peer.pod_selector)
    if peer.namespace_selector is None:
        return PodSelector(pods, namespace)
    return PodSelector(pods, "", _selector(peer.namespace_selector))


def _ip_block(block: wire.IpBlock) -> IpBlock:
    cidr = _prefix(block.cidr)
    network = ip_network(cidr)
    excepts = _each("ipBlock.except", block.excepts, _prefix)
    for one in excepts:
        inner = ip_network(one)
        if inner.version != network.version or not inner.subnet_of(network) or inner == network:  # type: ignore[arg-type]
            raise ValueError(f"ipBlock.except: {one} is not inside {cidr}")
    return IpBlock(cidr, excepts)


def _policy_port(port: wire.PolicyPort) -> PolicyPort:
    protocol = _protocol(port.protocol)
    match port.port:
        case None:
            if port.end_port is not None:
                raise ValueError("endPort without port")
            return PolicyPort(protocol)
        case int() as number:
            first = _port(number)
        case name:
            if port.end_port is not None:
                raise ValueError(f"endPort beside the named port {name!r}")
            if not any("a" <= letter <= "z" for letter in name):
                # IANA_SVC_NAME wants a letter; "80" as text would silently match no port.
                raise ValueError(f"{name!r} is not the name of a port")
            return PolicyPort(protocol, sys.intern(name))
    if port.end_port is not None and not first <= port.end_port <= _MAX_PORT:
        raise ValueError(f"endPort {port.end_port} is not {first}-{_MAX_PORT}")
    return PolicyPort(protocol, first, port.end_port)


_IDENTIFIED: Final = msgspec.json.Decoder(wire.Identified)
_WIRE_POLICY: Final = msgspec.json.Decoder(wire.NetworkPolicy)
_SELECTOR: Final = msgspec.json.Decoder(wire.LabelSelector | None)
_TYPES: Final = msgspec.json.Decoder(list[str] | None)
_RULES: Final = msgspec.json.Decoder(list[wire.Rule] | None)
_RAWS: Final = msgspec.json.Decoder(list[Raw] | None)

_KINDS: Final[dict[Kind, tuple[msgspec.json.Decoder[Any], Callable[[Any, Ref, Problems, str], Record | None]]]] = {
    Service: (msgspec.json.Decoder(wire.Service), _service),
    EndpointSlice: (msgspec.json.Decoder(wire.EndpointSlice), _slice),
    Pod: (msgspec.json.Decoder(wire.Pod), _pod),
    Namespace: (msgspec.json.Decoder(wire.Namespace), _namespace),
    Node: (msgspec.json.Decoder(wire.Node), _node),
}
