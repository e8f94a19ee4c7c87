"""Objects of the tests, as the API takes them: short to write, complete where it matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kuberouterpy.lab.client import Object, Resource

NAMESPACE = "e2e"
OTHER_NAMESPACE = "e2e-other"
NETWORK_POLICIES = Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
DEFINITIONS = Resource(
    "CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False
)
EVENTS = Resource("Event", "v1", "events")

HTTP, DNS, SIGNAL = 8080, 8053, 9132
"""Ports every shared pod serves: TCP, UDP and SCTP."""


def meta(name: str, namespace: str = NAMESPACE, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return an object's metadata."""
    return {"name": name, "namespace": namespace, "labels": dict(labels or {})}


def port(number: int, target: int | str, *, name: str = "", protocol: str = "TCP", node_port: int = 0) -> Object:
    """Return a service port."""
    found: Object = {"port": number, "targetPort": target, "protocol": protocol}
    found |= {"name": name} if name else {}
    return found | ({"nodePort": node_port} if node_port else {})


def service(
    name: str,
    ports: Sequence[Object],
    selector: Mapping[str, str] | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """Return a dual-stack Service; without a selector its slices are written by hand."""
    body = {"ipFamilyPolicy": "PreferDualStack", "ports": list(ports), **spec}
    body |= {"selector": dict(selector)} if selector else {}
    return {"metadata": meta(name, labels=labels), "spec": body}


def endpoint_slice(
    name: str, owner: str, addresses: Sequence[str], ports: Sequence[Object], **conditions: bool
) -> Object:
    """Return a hand-made slice of one endpoint: no node name, no target, a manager of its own."""
    labels = {"kubernetes.io/service-name": owner, "endpointslice.kubernetes.io/managed-by": "e2e"}
    return {
        "metadata": meta(name, labels=labels),
        "addressType": "IPv6" if ":" in addresses[0] else "IPv4",
        "endpoints": [{"addresses": list(addresses), "conditions": conditions or {"ready": True}}],
        "ports": list(ports),
    }


def pod(
    name: str,
    node: str,
    *,
    namespace: str = NAMESPACE,
    labels: Mapping[str, str] | None = None,
    ports: Sequence[Object] = (),
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """Return a pod of the built-in responder, on a node."""
    return {
        "metadata": meta(name, namespace, labels) | {"annotations": dict(annotations or {})},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "responder", "ports": list(ports)}], **spec},
    }


def container_port(number: int, name: str, protocol: str = "TCP") -> Object:
    """Return a port of a container."""
    return {"containerPort": number, "name": name, "protocol": protocol}


SHARED_PORTS = (
    container_port(HTTP, "http"),
    container_port(DNS, "dns", "UDP"),
    container_port(SIGNAL, "signal", "SCTP"),
)


def policy(
    name: str,
    selector: Mapping[str, str] | None = None,
    *,
    namespace: str = NAMESPACE,
    ingress: Sequence[Object] | None = None,
    egress: Sequence[Object] | None = None,
) -> Object:
    """Return a NetworkPolicy; a direction that is given is isolated, with these rules."""
    spec: Object = {"podSelector": {"matchLabels": dict(selector or {})}, "policyTypes": []}
    for direction, rules in (("ingress", ingress), ("egress", egress)):
        if rules is not None:
            spec["policyTypes"].append(direction.capitalize())
            spec[direction] = list(rules)
    return {"metadata": meta(name, namespace), "spec": spec}


def by_pod(**labels: str) -> Object:
    """Return a peer: pods of the policy's namespace with these labels."""
    return {"podSelector": {"matchLabels": labels}}


def by_namespace(**labels: str) -> Object:
    """Return a peer: all pods of the namespaces with these labels."""
    return {"namespaceSelector": {"matchLabels": labels}}


def by_block(cidr: str, *excluded: str) -> Object:
    """Return a peer: a block of addresses, without some."""
    return {"ipBlock": {"cidr": cidr} | ({"except": list(excluded)} if excluded else {})}
