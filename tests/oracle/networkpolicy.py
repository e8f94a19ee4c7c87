"""What NetworkPolicies allow, by the words of the API alone: the judge of everything the firewall compiles.

Written from the evaluation semantics (networkpolicy.md section 0), sharing nothing with ``firewall``: it matches labels and
addresses by itself, knows no set, no chain and no index, and walks everything for every question.

Beyond section 0 it holds the decisions that section 4 asks for, each named where it is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from kuberouterpy.cluster import IpBlock, Namespace, NetworkPolicy, Pod, PolicyPeer, PolicyPort, PolicyRule, Ref
from kuberouterpy.labels import Selector


@dataclass(frozen=True)
class Flow:
    """The first packet of a connection after DNAT: original client, final endpoint."""

    source: str
    destination: str
    protocol: str
    """tcp, udp, sctp, or anything else (icmp, gre): what has no ports."""
    port: int = 0
    """Destination port; 0 where the protocol has none."""


class Oracle:
    """A cluster at one moment."""

    def __init__(self, pods: Iterable[Pod], namespaces: Iterable[Namespace], policies: Iterable[NetworkPolicy]) -> None:
        self.pods = list(pods)
        self.labels: Mapping[str, Mapping[str, str]] = {one.ref.name: one.labels for one in namespaces}
        self.policies = list(policies)

    def allowed(self, flow: Flow) -> bool:
        """Return whether both ends' policies let a connection begin."""
        return self.ingress_ok(flow) and self.egress_ok(flow)

    def ingress_ok(self, flow: Flow) -> bool:
        """Return whether the destination's policies let it in."""
        return self._ok(flow, flow.destination, flow.source, "ingress")

    def egress_ok(self, flow: Flow) -> bool:
        """Return whether the source's policies let it out."""
        return self._ok(flow, flow.source, flow.destination, "egress")

    def pod_at(self, address: str) -> Pod | None:
        """Return the pod that policy sees at an address.

        Ended pods and pods of the host network are none (rows 4, 5, 26); of two with one address the newer one is it.
        """
        here = [pod for pod in self.pods if address in pod.addresses and not pod.host_network and not pod.finished]
        return sorted(here, key=lambda pod: (pod.created, pod.ref))[-1] if here else None

    def _ok(self, flow: Flow, address: str, peer_address: str, direction: str) -> bool:
        pod = self.pod_at(address)
        if pod is None:
            return True
        isolated, allowed = False, False
        for policy in self.policies:
            rules = policy.ingress if direction == "ingress" else policy.egress
            own = policy.ref.namespace == pod.ref.namespace and labels_match(policy.pods, pod.labels)
            if own and rules is not None:
                isolated = True
                allowed = allowed or any(self._allows(policy, rule, flow, peer_address) for rule in rules)
        return allowed or not isolated

    def _allows(self, policy: NetworkPolicy, rule: PolicyRule, flow: Flow, peer_address: str) -> bool:
        peer_ok = not rule.peers or any(self._is_peer(policy, peer, peer_address) for peer in rule.peers)
        port_ok = not rule.ports or any(self._is_port(port, flow) for port in rule.ports)
        return peer_ok and port_ok

    def _is_peer(self, policy: NetworkPolicy, peer: PolicyPeer, address: str) -> bool:
        if isinstance(peer, IpBlock):
            return in_prefix(address, peer.cidr) and not any(in_prefix(address, one) for one in peer.excepts)
        pod = self.pod_at(address)
        if pod is None or not labels_match(peer.pods, pod.labels):
            return False
        if peer.namespaces is None:
            assert peer.namespace == policy.ref.namespace
            return pod.ref.namespace == policy.ref.namespace
        # A pod whose namespace is not known has no labels to match yet, and is not let in for want of them (row 49).
        known = self.labels.get(pod.ref.namespace)
        return known is not None and labels_match(peer.namespaces, known)

    def _is_port(self, port: PolicyPort, flow: Flow) -> bool:
        if flow.protocol != port.protocol.value:
            return False
        if port.port is None:
            return True
        if isinstance(port.port, str):
            pod = self.pod_at(flow.destination)
            return pod is not None and any(
                (one.name, one.protocol.value, one.port) == (port.port, flow.protocol, flow.port) for one in pod.ports
            )
        last = port.end_port if port.end_port is not None else port.port
        return port.port <= flow.port <= last


def labels_match(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Return whether every term of a selector holds."""
    for term in selector.terms:
        has, value = term.key in labels, labels.get(term.key)
        holds = {
            "In": has and value in term.values,
            "NotIn": not has or value not in term.values,
            "Exists": has,
            "DoesNotExist": not has,
        }[term.operator.value]
        if not holds:
            return False
    return True


def in_prefix(address: str, prefix: str) -> bool:
    """Return whether an address is in a prefix of its own family."""
    one, network = ip_address(address), ip_network(prefix)
    return one.version == network.version and one in network


def namespace(name: str, **labels: str) -> Namespace:
    """Return a namespace with the label every namespace has."""
    return Namespace(Ref("", name), {"kubernetes.io/metadata.name": name, **labels})
