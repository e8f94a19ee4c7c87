"""Services and EndpointSlices as records."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from kuberouterpy.cluster import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIngress,
    Ref,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
)
from kuberouterpy.family import Family, family_of
from kuberouterpy.sources import wire
from kuberouterpy.sources.decode.reading import (
    FAMILIES,
    Problems,
    Refused,
    annotations_of,
    read_port,
    read_prefix,
    read_protocol,
    read_shared_address,
)

_SERVICE_NAME: Final = "kubernetes.io/service-name"
_PROXY_NAME: Final = "service.kubernetes.io/service-proxy-name"
_HEADLESS: Final = "service.kubernetes.io/headless"
_TRIGGERED: Final = "endpoints.kubernetes.io/last-change-trigger-time"
_AFFINITY_S: Final = 10_800
"""The API's default of sessionAffinityConfig.clientIP.timeoutSeconds."""
_MAX_AFFINITY_S: Final = 86_400

T = TypeVar("T")


def service(one: wire.Service, ref: Ref, problems: Problems, _node_name: str) -> Service:
    """Return a Service. Errors: Refused for what cannot be left out."""
    spec, labels = one.spec, one.metadata.labels or {}
    kind = _choice("spec.type", spec.type or "ClusterIP", ServiceType)
    cluster_ips = () if kind is ServiceType.EXTERNAL_NAME else _cluster_ips(spec, problems)
    return Service(
        ref=ref,
        type=kind,
        cluster_ips=cluster_ips,
        ports=tuple(_service_ports(spec.ports or (), problems)),
        external_ips=problems.each("spec.externalIPs", spec.external_ips, read_shared_address),
        load_balancer=tuple(_ingress(one.status, problems)),
        families=_ip_families(spec, cluster_ips, problems),
        internal_policy=_choice("spec.internalTrafficPolicy", spec.internal_traffic_policy or "Cluster", TrafficPolicy),
        external_policy=_choice("spec.externalTrafficPolicy", spec.external_traffic_policy or "Cluster", TrafficPolicy),
        affinity_s=_affinity_s(spec, problems),
        health_check_node_port=_optional_port("spec.healthCheckNodePort", spec.health_check_node_port, problems),
        source_ranges=_source_ranges(spec),
        load_balancer_class=spec.load_balancer_class or "",
        load_balancer_ip=spec.load_balancer_ip or "",
        require_dual_stack=spec.ip_family_policy == "RequireDualStack",
        deleting=one.metadata.deletion_timestamp is not None,
        proxy_name=labels.get(_PROXY_NAME),
        headless_label=_HEADLESS in labels,
        annotations=annotations_of(one.metadata),
        uid=one.metadata.uid,
        created=sys.intern(one.metadata.creation_timestamp or ""),
    )


def _choice(field: str, text: str, choices: type[T]) -> T:
    try:
        return choices(text)  # type: ignore[call-arg]
    except ValueError:
        raise Refused(f"{field}: {text!r} is unknown") from None


def _cluster_ips(spec: wire.ServiceSpec, problems: Problems) -> tuple[str, ...]:
    texts = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    return problems.each("spec.clusterIPs", [text for text in texts if text not in {"", "None"}], read_shared_address)


def _service_ports(ports: Iterable[wire.ServicePort], problems: Problems) -> Iterator[ServicePort]:
    for index, port in enumerate(ports):
        number = problems.attempt(f"spec.ports[{index}].port", read_port, port.port)
        protocol = problems.attempt(f"spec.ports[{index}].protocol", read_protocol, port.protocol)
        if number is None or protocol is None:
            continue
        node_port = _optional_port(f"spec.ports[{index}].nodePort", port.node_port, problems)
        yield ServicePort(sys.intern(port.name or ""), protocol, number, node_port)


def _optional_port(field: str, number: int | None, problems: Problems) -> int:
    if not number:
        return 0
    return problems.attempt(field, read_port, number) or 0


def _ingress(status: wire.ServiceStatus | None, problems: Problems) -> Iterator[LoadBalancerIngress]:
    entries = status.load_balancer.ingress if status and status.load_balancer else None
    seen: set[str] = set()
    for index, entry in enumerate(entries or ()):
        if not entry.ip:
            continue
        address = problems.attempt(f"status.loadBalancer.ingress[{index}].ip", read_shared_address, entry.ip)
        if address and address not in seen:
            seen.add(address)
            yield LoadBalancerIngress(address, proxy=entry.ip_mode == "Proxy")


def _ip_families(spec: wire.ServiceSpec, cluster_ips: tuple[str, ...], problems: Problems) -> tuple[Family, ...]:
    stated = problems.each("spec.ipFamilies", spec.ip_families, _family)
    return stated or tuple(dict.fromkeys(map(family_of, cluster_ips)))


def _family(text: str) -> Family:
    try:
        return FAMILIES[text]
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
    ranges = problems.each("spec.loadBalancerSourceRanges", spec.load_balancer_source_ranges, read_prefix)
    if problems.texts:
        raise Refused("; ".join(problems.texts))
    return ranges


def endpoint_slice(one: wire.EndpointSlice, ref: Ref, problems: Problems, _node_name: str) -> EndpointSlice | None:
    """Return a slice; headless ones and those of host names are not for us. Errors: Refused for an unknown family."""
    labels = one.metadata.labels or {}
    if one.address_type == "FQDN" or _HEADLESS in labels:
        return None
    family = FAMILIES.get(one.address_type)
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
        number = problems.attempt(f"ports[{index}].port", read_port, port.port)
        protocol = problems.attempt(f"ports[{index}].protocol", read_protocol, port.protocol)
        if number is not None and protocol is not None:
            yield EndpointPort(sys.intern(port.name or ""), protocol, number)


def _endpoints(
    endpoints: Iterable[wire.Endpoint], family: Family, namespace: str, problems: Problems
) -> Iterator[Endpoint]:
    for index, one in enumerate(endpoints):
        try:
            address = read_shared_address(one.addresses[0] if one.addresses else "")
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
