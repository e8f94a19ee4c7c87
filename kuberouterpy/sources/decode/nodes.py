"""Nodes, pods and namespaces as records."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Final

from kuberouterpy.annotations import read_bgp, without_bgp
from kuberouterpy.cluster import ContainerPort, Namespace, Node, NodeAddress, Pod, Ref
from kuberouterpy.drain import DRAINED, DRAINING
from kuberouterpy.sources import wire
from kuberouterpy.sources.decode.reading import (
    Problems,
    Refused,
    annotations_of,
    labels_of,
    read_address,
    read_port,
    read_prefix,
    read_protocol,
)

_ZONE: Final = "topology.kubernetes.io/zone"
_FINISHED: Final = frozenset({"Succeeded", "Failed"})


def pod(one: wire.Pod, ref: Ref, problems: Problems, node_name: str) -> Pod:
    """Return a pod; one of another node than ``node_name`` keeps only what policy needs."""
    spec, status, meta = one.spec or wire.PodSpec(), one.status or wire.PodStatus(), one.metadata
    node = sys.intern(spec.node_name or "")
    here = bool(node) and node == node_name
    texts = [entry.ip for entry in status.pod_ips or () if entry.ip] or ([status.pod_ip] if status.pod_ip else [])
    return Pod(
        ref=ref,
        node=node,
        addresses=problems.each("status.podIPs", texts, read_address),
        labels=labels_of(meta),
        ports=tuple(_container_ports(spec, problems)),
        host_network=bool(spec.host_network),
        finished=status.phase in _FINISHED,
        created=sys.intern(meta.creation_timestamp or ""),
        annotations=annotations_of(meta) if here else {},
        uid=meta.uid if here else "",
    )


def _container_ports(spec: wire.PodSpec, problems: Problems) -> Iterator[ContainerPort]:
    sidecars = [one for one in spec.init_containers or () if one.restart_policy == "Always"]
    for container in (*(spec.containers or ()), *sidecars):
        for port in container.ports or ():
            if not port.name:
                continue
            number = problems.attempt(f"containerPort of {port.name!r}", read_port, port.container_port)
            protocol = problems.attempt(f"protocol of {port.name!r}", read_protocol, port.protocol)
            if number is not None and protocol is not None:
                yield ContainerPort(sys.intern(port.name), protocol, number)


def namespace(one: wire.Namespace, ref: Ref, _problems: Problems, _node_name: str) -> Namespace:
    """Return a namespace."""
    return Namespace(ref, labels_of(one.metadata))


def node(one: wire.Node, ref: Ref, problems: Problems, node_name: str) -> Node:
    """Return a node. Errors: Refused where its pod ranges cannot be read."""
    spec, status, meta = one.spec or wire.NodeSpec(), one.status or wire.NodeStatus(), one.metadata
    ours = annotations_of(meta)
    return Node(
        ref=ref,
        addresses=tuple(_node_addresses(status, problems)),
        pod_cidrs=_pod_cidrs(spec),
        zone=sys.intern((meta.labels or {}).get(_ZONE, "")),
        labels=labels_of(meta),
        annotations=without_bgp(ours),
        bgp=read_bgp(ours, own=ref.name == node_name),
        unschedulable=bool(spec.unschedulable),
        taints=tuple(sorted({taint.key for taint in spec.taints or ()})),
        deleting=meta.deletion_timestamp is not None,
        uid=meta.uid,
        draining_since=_draining_since(status) if ref.name == node_name else 0.0,
    )


def _draining_since(status: wire.NodeStatus) -> float:
    for one in status.conditions or ():
        if one.type == DRAINED and one.reason == DRAINING:
            with suppress(ValueError):  # a time of somebody else's writing is none
                return datetime.fromisoformat(one.last_transition_time or "").timestamp()
    return 0.0


def _pod_cidrs(spec: wire.NodeSpec) -> tuple[str, ...]:
    # A range left out would be one withdrawn, with all its pods; refused, the node stays as it was.
    problems = Problems()
    texts = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    cidrs = problems.each("spec.podCIDRs", texts, read_prefix)
    if problems.texts:
        raise Refused("; ".join(problems.texts))
    return cidrs


def _node_addresses(status: wire.NodeStatus, problems: Problems) -> Iterator[NodeAddress]:
    for index, one in enumerate(status.addresses or ()):
        if one.type not in {"InternalIP", "ExternalIP"}:
            continue
        address = problems.attempt(f"status.addresses[{index}].address", read_address, one.address)
        if address:
            yield NodeAddress(sys.intern(one.type), address)
