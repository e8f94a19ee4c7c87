"""What the cluster says of a subject, as sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from kuberouterpy.answers.subjects import FACTS, Subject, inside
from kuberouterpy.cluster import Kind, NetworkPolicy, Node, Pod, Service
from kuberouterpy.loop import Loop


def facts_of(loop: Loop, asked: Subject) -> Iterator[str]:
    store = loop.store
    if asked.kind in FACTS:
        kind = FACTS[asked.kind]
        record = store.table(kind).get(asked.ref)
        if record is not None:
            yield from _TELL[kind](loop, record)
        rejection = store.rejections.get((kind, asked.ref))
        if rejection is not None:
            yield f"{kind.__name__} {asked.ref} cannot be used: {rejection.reason}"
    elif asked.address:
        for pod in store.pods.by("address", asked.address):
            yield from _tell_pod(loop, pod)
        for node in store.nodes.by("address", asked.address):
            yield from _tell_node(loop, node)
        for service in store.services:
            addresses = (*service.cluster_ips, *service.external_ips, *(one.address for one in service.load_balancer))
            if asked.address in addresses:
                yield from _tell_service(loop, service)
        for path in store.paths:
            if inside(asked.address, path.prefix):
                yield _tell_path(path.prefix, path.next_hops, path.neighbor)
    elif asked.prefix:
        for path in store.paths:
            if path.prefix == asked.prefix:
                yield _tell_path(path.prefix, path.next_hops, path.neighbor)


def _tell_path(prefix: str, next_hops: Iterable[str], neighbor: str) -> str:
    return f"best path {prefix} via {', '.join(next_hops)}" + (f" learned from {neighbor}" if neighbor else "")


def _tell_service(loop: Loop, record: Service) -> Iterator[str]:
    ports = ", ".join(
        f"{port.name + ' ' if port.name else ''}{port.port}/{port.protocol}"
        + (f" node port {port.node_port}" if port.node_port else "")
        for port in record.ports
    )
    yield f"Service {record.ref}: {record.type}, cluster IP {', '.join(record.cluster_ips) or 'none'}, ports {ports or 'none'}"
    others = [f"external IP {one}" for one in record.external_ips]
    others += [f"load-balancer IP {one.address}" for one in record.load_balancer]
    if others:
        yield ", ".join(others)
    yield f"traffic policy internal {record.internal_policy}, external {record.external_policy}" + (
        f", client affinity {record.affinity_s} s" if record.affinity_s else ""
    )
    every = [one for piece in loop.store.slices_of(record.ref) for one in piece.endpoints]
    ready = sum(one.ready for one in every)
    ending = sum(one.terminating for one in every)
    here = sum(one.node == loop.host.name for one in every)
    yield f"{len(every)} endpoints: {ready} ready, {ending} terminating, {here} on this node"


def _tell_pod(loop: Loop, record: Pod) -> Iterator[str]:
    where = "this node" if record.node == loop.host.name else record.node or "no node yet"
    extra = ", on the host network" if record.host_network else ""
    yield (
        f"Pod {record.ref}: {', '.join(record.addresses) or 'no address'} on {where}{extra}"
        + (", finished" if record.finished else "")
    )
    yield "labels " + (", ".join(f"{key}={value}" for key, value in sorted(record.labels.items())) or "none")
    policies = [one for one in loop.store.policies_in(record.ref.namespace) if one.pods.matches(record.labels)]
    names = sorted(f"policy/{one.ref}" for one in policies)
    names += sorted(
        f"cnp/{one.ref.name}" for one in loop.store.cluster_policies if loop.store.matches(one.subject, record)
    )
    yield "selected by " + (", ".join(names) or "no policy")


def _tell_node(loop: Loop, record: Node) -> Iterator[str]:
    this = " (this node)" if record.ref.name == loop.host.name else ""
    yield (
        f"Node {record.ref.name}{this}: {', '.join(one.address for one in record.addresses) or 'no address'}, "
        f"pod CIDRs {', '.join(record.pod_cidrs) or 'none'}"
    )


def _tell_policy(loop: Loop, record: NetworkPolicy) -> Iterator[str]:
    pods = [pod for pod in loop.store.pods_in(record.ref.namespace) if record.pods.matches(pod.labels)]
    here = sum(pod.node == loop.host.name for pod in pods)
    yield f"NetworkPolicy {record.ref}: selects {len(pods)} pods, {here} on this node"
    for direction, rules in (("ingress", record.ingress), ("egress", record.egress)):
        if rules is not None:
            yield f"{direction}: " + (f"{len(rules)} rules, the rest is denied" if rules else "all is denied")


_TELL: Final[dict[Kind, Callable[..., Iterator[str]]]] = {
    Service: _tell_service,
    Pod: _tell_pod,
    NetworkPolicy: _tell_policy,
    Node: _tell_node,
}
