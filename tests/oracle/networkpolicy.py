"""What policies allow, by the words of the APIs alone: the judge of everything the firewall compiles.

Written from the evaluation semantics (networkpolicy.md sections 0 and 3), sharing nothing with ``firewall``: it matches labels
and addresses by itself, knows no set, no chain and no index, and walks everything for every question.

Beyond section 0 it holds the decisions that section 4 asks for, each named where it is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from kuberouterpy.cluster import (
    Anyone,
    ClusterNetworkPolicy,
    ClusterPeer,
    ClusterRule,
    IpBlock,
    Namespace,
    NetworkPolicy,
    Node,
    NodeSelector,
    Pod,
    PolicyPort,
    PolicyRule,
    Ref,
)
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

    def __init__(
        self,
        pods: Iterable[Pod],
        namespaces: Iterable[Namespace],
        policies: Iterable[NetworkPolicy],
        cluster_policies: Iterable[ClusterNetworkPolicy] = (),
        nodes: Iterable[Node] = (),
    ) -> None:
        self.pods = list(pods)
        self.labels: Mapping[str, Mapping[str, str]] = {one.ref.name: one.labels for one in namespaces}
        # An audited policy decides nothing.
        self.policies = [one for one in policies if one.annotations.get("kuberouterpy.io/policy-audit") != "true"]
        self.cluster_policies = list(cluster_policies)
        self.nodes = list(nodes)

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
        for tier in ("Admin", "Network", "Baseline"):
            verdict = (
                self._network_tier(pod, flow, peer_address, direction)
                if tier == "Network"
                else self._cluster_tier(tier, pod, flow, peer_address, direction)
            )
            if verdict is not None:
                return verdict
        return True

    def _network_tier(self, pod: Pod, flow: Flow, peer_address: str, direction: str) -> bool | None:
        """Return the verdict of the NetworkPolicies, final where any selects the pod."""
        isolated, allowed = False, False
        for policy in self.policies:
            rules = policy.ingress if direction == "ingress" else policy.egress
            own = policy.ref.namespace == pod.ref.namespace and labels_match(policy.pods, pod.labels)
            if own and rules is not None:
                isolated = True
                allowed = allowed or any(self._allows(policy, rule, flow, peer_address) for rule in rules)
        if not isolated:
            return None
        # A pod always reaches the node it runs on (row 41): only the cluster's policies can deny that.
        return allowed or (direction == "egress" and self.is_own_node(pod, peer_address))

    def is_own_node(self, pod: Pod, address: str) -> bool:
        """Return whether an address is one of the node a pod runs on."""
        return any(node.ref.name == pod.node and address in _addresses(node) for node in self.nodes)

    def _cluster_tier(self, tier: str, pod: Pod, flow: Flow, peer_address: str, direction: str) -> bool | None:
        """Return what the first matching rule says, lowest priority number first; ``None``: nothing, or to pass on."""
        labels = self.labels.get(pod.ref.namespace)
        for policy in sorted(self.cluster_policies, key=lambda one: (one.priority, one.ref.name)):
            subject = policy.subject
            if policy.tier.value != tier or labels is None or not labels_match(subject.namespaces, labels):
                continue
            if not labels_match(subject.pods, pod.labels):
                continue
            for rule in policy.ingress if direction == "ingress" else policy.egress:
                if self._rule_matches(rule, flow, peer_address):
                    return {"Accept": True, "Deny": False, "Pass": None}[rule.action.value]
        return None

    def _rule_matches(self, rule: ClusterRule, flow: Flow, peer_address: str) -> bool:
        port_ok = not rule.ports or any(self._is_port(port, flow) for port in rule.ports)
        return port_ok and any(self._is_peer(None, peer, peer_address) for peer in rule.peers)

    def _allows(self, policy: NetworkPolicy, rule: PolicyRule, flow: Flow, peer_address: str) -> bool:
        peer_ok = not rule.peers or any(self._is_peer(policy, peer, peer_address) for peer in rule.peers)
        port_ok = not rule.ports or any(self._is_port(port, flow) for port in rule.ports)
        return peer_ok and port_ok

    def _is_peer(self, policy: NetworkPolicy | None, peer: ClusterPeer, address: str) -> bool:
        if isinstance(peer, Anyone):
            return True
        if isinstance(peer, NodeSelector):
            return any(labels_match(peer.nodes, node.labels) and address in _addresses(node) for node in self.nodes)
        if isinstance(peer, IpBlock):
            return in_prefix(address, peer.cidr) and not any(in_prefix(address, one) for one in peer.excepts)
        pod = self.pod_at(address)
        if pod is None or not labels_match(peer.pods, pod.labels):
            return False
        if peer.namespaces is None:
            assert policy is not None
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


def _addresses(node: Node) -> set[str]:
    return {one.address for one in node.addresses}


def labels_match(selector: Selector | None, labels: Mapping[str, str]) -> bool:
    """Return whether every term of a selector holds; none selects nothing."""
    if selector is None:
        return False
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
