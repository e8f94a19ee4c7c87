"""What to announce: this node's pod CIDRs, and the VIPs of Services that flags or annotations ask for.

Whom a path reaches is not decided here but by the export policy: pod CIDRs go to nodes and, with ``--advertise-pod-cidr``, to
external neighbors, VIPs to external ones only. A VIP is announced by every node for ``Cluster`` traffic policy, and for
``Local`` by those with a *ready* endpoint. What is not announced has a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kuberouterpy.cluster import Ref, Service, ServiceType, TrafficPolicy
from kuberouterpy.config import Config
from kuberouterpy.controller import Desired
from kuberouterpy.dataplane import Note, Object, Path, PathKey
from kuberouterpy.drain import GRACEFUL_SHUTDOWN, Drain
from kuberouterpy.family import family_of
from kuberouterpy.host import Host
from kuberouterpy.store import Store
from routing.prefixes import host_prefix, inside

_ANNOTATION: Final = "kube-router.io/service.advertise."
_SKIP_LB_IPS: Final = "kube-router.io/service.skiplbips"
_LOCAL: Final = "kube-router.io/service.local"
_PROXY_NAMES: Final = frozenset({"", "kube-router", "kuberouterpy"})


def pod_cidrs(host: Host, config: Config) -> Iterator[Path | Note]:
    """Yield a path for each of this node's pod CIDRs, by way of its address of that family."""
    for cidr in host.pod_cidrs:
        next_hop = host.primary(family_of(cidr))
        if next_hop:
            yield _path(cidr, next_hop, host, config)
        else:
            yield Note(cidr, "no-node-address: this node has no address of its family")


def announced(service: Service, store: Store, host: Host, config: Config) -> Desired:
    """Return the paths of a Service's VIPs, and a note for each that is not announced."""
    notes: list[Note] = []
    reason = _ignored(service)
    if reason:
        return Desired(notes=(Note(str(service.ref), reason),))
    paths: dict[str, Object] = {}
    for kind, address in _vips(service):
        why_not = _why_not(kind, address, service, host, config)
        if not why_not and _policy(kind, service) is TrafficPolicy.LOCAL:
            ready = _local_ready(service.ref, address, store, host)
            why_not = "" if ready else "no-local-endpoint: traffic policy Local, and no ready endpoint on this node"
        if why_not:
            notes.append(Note(address, why_not))
        elif address not in paths:
            paths[address] = _path(host_prefix(address), host.primary(family_of(address)), host, config)
    notes.extend(_annotation_notes(service))
    return Desired(tuple(paths.values()), tuple(notes))


def _path(prefix: str, next_hop: str, host: Host, config: Config) -> Path:
    preference = host.bgp.local_preference or config.advertise_local_preference
    return Path(PathKey(prefix), next_hop, communities=_leaving(host), local_preference=preference)


def vip_ranges(config: Config) -> tuple[str, ...]:
    """Return the prefixes in which VIPs that we announce can lie; everything, where external IPs are not validated."""
    ranges: tuple[str, ...] = (
        *config.service_cluster_ip_range,
        *config.service_external_ip_range,
        *config.loadbalancer_ip_range,
    )
    if not config.strict_external_ip_validation:
        ranges = tuple(family.everything for family in config.families)
    return tuple(dict.fromkeys(one for one in ranges if family_of(one) in config.families))


def _ignored(service: Service) -> str:
    if service.type is ServiceType.EXTERNAL_NAME:
        return "external-name"
    if not service.cluster_ips or service.headless_label:
        return "headless"
    if service.proxy_name is not None and service.proxy_name not in _PROXY_NAMES:
        return f"another-proxy: {service.proxy_name}"
    return ""


def _vips(service: Service) -> Iterator[tuple[str, str]]:
    yield from (("cluster", address) for address in service.cluster_ips)
    yield from (("external", address) for address in service.external_ips)
    if service.type is ServiceType.LOAD_BALANCER:  # else a status that outlived a change of type: nodes do not serve it
        yield from (("loadbalancer", one.address) for one in service.load_balancer)


def _why_not(kind: str, address: str, service: Service, host: Host, config: Config) -> str:
    """Return why no node like this one announces a VIP, or an empty string."""
    family = family_of(address)
    if family not in host.families:
        return f"family-off: IPv{family:d} is not enabled"
    if not _wanted(kind, service, config):
        return f"not-advertised: neither --advertise-{_FLAGS[kind]} nor annotation {_ANNOTATION}{_WORDS[kind]}"
    if kind == "loadbalancer" and service.annotations.get(_SKIP_LB_IPS) == "true":
        return f"skipped: annotation {_SKIP_LB_IPS}"
    if kind == "loadbalancer" and any(one.proxy for one in service.load_balancer if one.address == address):
        return "ip-mode-proxy: nodes leave it to the load balancer"
    refused = "" if kind == "cluster" else _refused(kind, address, config)
    if refused:
        return refused
    if host.drain is Drain.GONE:
        return "drained: this node is cordoned, being deleted, or told to leave"
    return "" if host.primary(family) else "no-node-address: this node has no address of its family"


def _leaving(host: Host) -> tuple[str, ...]:
    """Return the community that asks neighbors for another way, while the node leaves and after."""
    return () if host.drain is Drain.SERVING else (GRACEFUL_SHUTDOWN,)


def _wanted(kind: str, service: Service, config: Config) -> bool:
    text = service.annotations.get(_ANNOTATION + _WORDS[kind], "").lower()
    if text in {"true", "false"}:
        return text == "true"
    match kind:
        case "cluster":
            return config.advertise_cluster_ip
        case "external":
            return config.advertise_external_ip
        case _:
            return config.advertise_loadbalancer_ip


def _refused(kind: str, address: str, config: Config) -> str:
    if inside(address, config.service_cluster_ip_range):
        return "refused: inside --service-cluster-ip-range"
    if not config.strict_external_ip_validation:
        return ""
    flag, ranges = "--service-external-ip-range", config.service_external_ip_range
    if kind == "loadbalancer":
        flag, ranges = "--loadbalancer-ip-range", config.loadbalancer_ip_range
    return "" if inside(address, ranges) else f"refused: outside {flag} {','.join(ranges) or '(not set)'}"


def _policy(kind: str, service: Service) -> TrafficPolicy:
    local = service.annotations.get(_LOCAL) == "true"
    if kind == "cluster":
        return TrafficPolicy.CLUSTER if local else service.internal_policy
    return TrafficPolicy.LOCAL if local else service.external_policy


def _local_ready(service: Ref, address: str, store: Store, host: Host) -> bool:
    return any(
        endpoint.ready and endpoint.node == host.name
        for one in store.slices_of(service)
        if one.family is family_of(address)
        for endpoint in one.endpoints
    )


def _annotation_notes(service: Service) -> Iterator[Note]:
    for word in _WORDS.values():
        text = service.annotations.get(_ANNOTATION + word)
        if text is not None and text.lower() not in {"true", "false"}:
            yield Note(str(service.ref), f"invalid-annotation: {_ANNOTATION}{word} {text!r} is neither true nor false")


_WORDS: Final = {"cluster": "clusterip", "external": "externalip", "loadbalancer": "loadbalancerip"}
_FLAGS: Final = {"cluster": "cluster-ip", "external": "external-ip", "loadbalancer": "loadbalancer-ip"}
