"""What the agent is told: records of Kubernetes, BGP and the host's links, and the events that carry them.

Records are immutable and compare by value, so a heartbeat that changes nothing we use ends in the Store. Addresses are in
the one spelling of :func:`kuberouterpy.family.canonical_address`; sources do that once. A record holds what a controller
reads and nothing else: unknown fields of the API never get here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

from kuberouterpy.annotations import NodeBgp
from kuberouterpy.family import Family
from kuberouterpy.labels import PodSelector, Selector
from kuberouterpy.protocol import Protocol


class Ref(NamedTuple):
    """Identity of an object of the API; ``namespace`` is empty for nodes and namespaces."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


# --- Services ---------------------------------------------------------------------------------------------------------


class TrafficPolicy(StrEnum):
    """internalTrafficPolicy and externalTrafficPolicy."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class ServiceType(StrEnum):
    """spec.type of a Service."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class ServicePort(Struct, frozen=True):
    """One item of spec.ports."""

    name: str
    """Port name; empty where the Service has one unnamed port."""
    protocol: Protocol
    """Protocol of this port."""
    port: int
    """Port the VIPs listen on, 1-65535."""
    node_port: int = 0
    """Port the node's own addresses listen on; 0: none."""


class LoadBalancerIngress(Struct, frozen=True):
    """One address of status.loadBalancer.ingress; entries with only a hostname never get here."""

    address: str
    """Canonical address."""
    proxy: bool = False
    """ipMode is Proxy: nodes must not bind it (KEP-1860)."""


class Service(Struct, frozen=True):
    """A Service, with what a proxy or a speaker reads of it. Headless ones and ExternalName have no ``cluster_ips``."""

    ref: Ref
    """Namespace and name."""
    type: ServiceType
    """spec.type."""
    cluster_ips: tuple[str, ...] = ()
    """spec.clusterIPs, at most one a family; empty for headless and ExternalName."""
    ports: tuple[ServicePort, ...] = ()
    """spec.ports in order."""
    external_ips: tuple[str, ...] = ()
    """spec.externalIPs."""
    load_balancer: tuple[LoadBalancerIngress, ...] = ()
    """status.loadBalancer.ingress with an address."""
    families: tuple[Family, ...] = ()
    """spec.ipFamilies; the families of NodePort too."""
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    """Rules the cluster IPs only."""
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    """Rules node ports, external IPs and load-balancer IPs only."""
    affinity_s: int = 0
    """Seconds of ClientIP session affinity; 0: none."""
    health_check_node_port: int = 0
    """spec.healthCheckNodePort; 0: none."""
    source_ranges: tuple[str, ...] = ()
    """spec.loadBalancerSourceRanges."""
    load_balancer_class: str = ""
    """spec.loadBalancerClass; empty: none."""
    load_balancer_ip: str = ""
    """spec.loadBalancerIP as written; empty: none."""
    require_dual_stack: bool = False
    """spec.ipFamilyPolicy is RequireDualStack."""
    deleting: bool = False
    """Has a deletionTimestamp."""
    proxy_name: str | None = None
    """Label service.kubernetes.io/service-proxy-name; ``None``: absent."""
    headless_label: bool = False
    """Label service.kubernetes.io/headless is present."""
    annotations: dict[str, str] = {}
    """Annotations under kube-router.io/ only, by their full key."""
    uid: str = ""
    """metadata.uid, for Events."""
    created: str = ""
    """metadata.creationTimestamp (RFC 3339 text sorts by time): who came first has a contested address."""


class EndpointPort(Struct, frozen=True):
    """One port of an EndpointSlice; ports without a number never get here."""

    name: str
    """Matches :attr:`ServicePort.name`; a missing name is empty."""
    protocol: Protocol
    """A missing protocol is TCP."""
    port: int
    """The number real servers listen on."""


class Endpoint(Struct, frozen=True):
    """One address of an EndpointSlice. Missing conditions are already read as the API says (services.md 0.2)."""

    address: str
    """Canonical address of the slice's family."""
    node: str | None = None
    """Node it runs on; ``None``: unknown, local to nobody."""
    ready: bool = True
    """Takes new connections."""
    serving: bool = True
    """Would answer, ready or terminating."""
    terminating: bool = False
    """Has been asked to stop."""
    for_nodes: frozenset[str] = frozenset()
    """hints.forNodes."""
    for_zones: frozenset[str] = frozenset()
    """hints.forZones."""
    pod: Ref | None = None
    """The pod behind it (targetRef), for people."""


class EndpointSlice(Struct, frozen=True):
    """Some of a Service's endpoints, of one family. FQDN slices and headless ones never get here."""

    ref: Ref
    """Namespace and name of the slice."""
    service: Ref | None
    """The Service it belongs to, by label kubernetes.io/service-name; ``None``: to none."""
    family: Family
    """addressType."""
    ports: tuple[EndpointPort, ...] = ()
    """Ports every endpoint of this slice has."""
    endpoints: tuple[Endpoint, ...] = ()
    """In the slice's own order."""
    triggered: str = ""
    """Annotation endpoints.kubernetes.io/last-change-trigger-time, for the network programming latency."""


# --- Pods, namespaces, nodes ------------------------------------------------------------------------------------------


class ContainerPort(Struct, frozen=True):
    """A named port of a container, what a named port of a policy resolves to."""

    name: str
    """Never empty."""
    protocol: Protocol
    """TCP, UDP or SCTP."""
    port: int
    """1-65535."""


class Pod(Struct, frozen=True):
    """A pod, as far as policy needs it."""

    ref: Ref
    """Namespace and name."""
    node: str = ""
    """spec.nodeName; empty: not scheduled."""
    addresses: tuple[str, ...] = ()
    """status.podIPs, canonical."""
    labels: dict[str, str] = {}
    """metadata.labels."""
    ports: tuple[ContainerPort, ...] = ()
    """Named container ports, restartable init containers included."""
    host_network: bool = False
    """Shares the node's addresses: neither subject nor selector peer of a policy."""
    finished: bool = False
    """Phase Succeeded or Failed: its address may already belong to another pod."""
    created: str = ""
    """metadata.creationTimestamp (RFC 3339 text sorts by time): of two pods with one address, the newer one holds it."""
    annotations: dict[str, str] = {}
    """Annotations under kube-router.io/ only."""
    uid: str = ""
    """metadata.uid."""


class Namespace(Struct, frozen=True):
    """A namespace; selectors read its labels."""

    ref: Ref
    """``Ref("", name)``."""
    labels: dict[str, str] = {}
    """metadata.labels."""


class NodeAddress(Struct, frozen=True):
    """One item of status.addresses that is an IP address."""

    type: str
    """InternalIP or ExternalIP."""
    address: str
    """Canonical address."""


class Node(Struct, frozen=True):
    """A node. Heartbeats and conditions never get here, but for what an earlier agent of ours noted there."""

    ref: Ref
    """``Ref("", name)``."""
    addresses: tuple[NodeAddress, ...] = ()
    """status.addresses in order, host names left out."""
    pod_cidrs: tuple[str, ...] = ()
    """spec.podCIDRs, canonical prefixes."""
    zone: str = ""
    """Label topology.kubernetes.io/zone."""
    labels: dict[str, str] = {}
    """metadata.labels."""
    annotations: dict[str, str] = {}
    """Annotations under kube-router.io/ only, without those that ``bgp`` is read from."""
    bgp: NodeBgp = NodeBgp()
    """What the other annotations say; the store keeps the last good value of a malformed one."""
    unschedulable: bool = False
    """Cordoned."""
    taints: tuple[str, ...] = ()
    """Keys of spec.taints."""
    deleting: bool = False
    """Has a deletionTimestamp."""
    uid: str = ""
    """metadata.uid, for Events."""
    draining_since: float = 0.0
    """Unix time at which an agent of this node began to leave and was not done yet, as its condition says; 0 for none."""


# --- NetworkPolicies --------------------------------------------------------------------------------------------------


class IpBlock(Struct, frozen=True, tag="block"):
    """An ipBlock peer; its exceptions take from this block only, never from another (networkpolicy.md row 15)."""

    cidr: str
    """Canonical prefix."""
    excepts: tuple[str, ...] = ()
    """Canonical prefixes inside ``cidr``."""


PolicyPeer: TypeAlias = IpBlock | PodSelector


class PolicyPort(Struct, frozen=True):
    """One item of ``ports``."""

    protocol: Protocol
    """A missing protocol is TCP."""
    port: int | str | None = None
    """Number, container port name, or ``None``: every port of the protocol."""
    end_port: int | None = None
    """Inclusive end of a range that starts at a number."""


class PolicyRule(Struct, frozen=True):
    """One item of ``ingress`` or ``egress``."""

    peers: tuple[PolicyPeer, ...] = ()
    """``from`` or ``to``; empty: anybody, external addresses included."""
    ports: tuple[PolicyPort, ...] = ()
    """Empty: every protocol and port."""


class NetworkPolicy(Struct, frozen=True):
    """A NetworkPolicy; ``None`` for a direction means that direction is not isolated, ``()`` means nothing is allowed."""

    ref: Ref
    """Namespace and name."""
    pods: Selector
    """The pods of the namespace it isolates."""
    ingress: tuple[PolicyRule, ...] | None = None
    """Rules for traffic to those pods."""
    egress: tuple[PolicyRule, ...] | None = None
    """Rules for traffic from those pods."""
    annotations: dict[str, str] = {}
    """Annotations under kube-router.io/ only."""
    uid: str = ""
    """metadata.uid, for Events."""


# --- ClusterNetworkPolicies ------------------------------------------------------------------------------------------


class Tier(StrEnum):
    """Where a ClusterNetworkPolicy stands: before the NetworkPolicies, or behind them."""

    ADMIN = "Admin"
    BASELINE = "Baseline"


class Action(StrEnum):
    """What a rule of a ClusterNetworkPolicy does with what it matches."""

    ACCEPT = "Accept"
    DENY = "Deny"
    PASS = "Pass"  # noqa: S105
    """Leave the tier: no further policy of it is asked."""


class NodeSelector(Struct, frozen=True, order=True, tag="nodes"):
    """Nodes as a peer of egress: their addresses, by their labels."""

    nodes: Selector

    def __str__(self) -> str:
        return f"nodes {self.nodes}"


class Anyone(Struct, frozen=True, order=True, tag="anyone"):
    """Every address there is: what a peer that cannot be read becomes in a rule that denies."""

    def __str__(self) -> str:
        return "anybody"


ClusterPeer: TypeAlias = PodSelector | IpBlock | NodeSelector | Anyone


class ClusterRule(Struct, frozen=True):
    """One item of ``ingress`` or ``egress`` of a ClusterNetworkPolicy; their order decides."""

    action: Action
    peers: tuple[ClusterPeer, ...] = ()
    """Never empty in a rule that matches anything: empty matches nobody."""
    ports: tuple[PolicyPort, ...] = ()
    """Empty: every protocol and port."""
    name: str = ""
    """For people."""


class ClusterNetworkPolicy(Struct, frozen=True):
    """A ClusterNetworkPolicy of policy.networking.k8s.io; it isolates nobody, its rules decide in order."""

    ref: Ref
    """``Ref("", name)``."""
    tier: Tier
    priority: int
    """0-1000, lower first; of equal ones the smaller name goes first."""
    subject: PodSelector
    """The pods it is about, of namespaces chosen by labels."""
    ingress: tuple[ClusterRule, ...] = ()
    """Rules for traffic to those pods, in order."""
    egress: tuple[ClusterRule, ...] = ()
    """Rules for traffic from those pods, in order."""
    annotations: dict[str, str] = {}
    """Annotations of ours only."""
    uid: str = ""
    """metadata.uid, for Events."""


# --- BGP and the host -------------------------------------------------------------------------------------------------


class BestPath(Struct, frozen=True):
    """The best path GoBGP has for a prefix that others announced; our own announcements never get here."""

    prefix: str
    """Canonical prefix."""
    next_hops: tuple[str, ...]
    """Canonical addresses, sorted; more than one with multipath."""
    neighbor: str = ""
    """Address of the neighbor that told us."""

    @property
    def ref(self) -> Ref:
        """Identity in the store: the prefix."""
        return Ref("", self.prefix)


class Link(Struct, frozen=True):
    """A link of this host with the addresses on it."""

    name: str
    """Link name."""
    index: int
    """Kernel index."""
    kind: str = ""
    """IFLA_INFO_KIND: dummy, bridge, veth, ...; empty: hardware or unknown."""
    mtu: int = 0
    """Bytes."""
    up: bool = False
    """Administratively up."""
    addresses: tuple[str, ...] = ()
    """``address/prefix length`` in kernel order, link-local ones left out."""

    @property
    def ref(self) -> Ref:
        """Identity in the store: the link name."""
        return Ref("", self.name)


class Passwords(Struct, frozen=True):
    """The passwords of external neighbors, as their file had them when it was last readable."""

    path: str
    """The file."""
    values: tuple[str, ...]
    """One a neighbor, in the order of their flag; empty: that one has none."""

    @property
    def ref(self) -> Ref:
        """Identity in the store: there is one file."""
        return Ref("", "passwords")

    def __repr__(self) -> str:
        return f"Passwords({self.path}, {len(self.values)} items)"


Record: TypeAlias = (
    Service
    | EndpointSlice
    | Pod
    | Namespace
    | Node
    | NetworkPolicy
    | ClusterNetworkPolicy
    | BestPath
    | Link
    | Passwords
)
Kind: TypeAlias = type[Record]

KUBERNETES_KINDS: Final[tuple[Kind, ...]] = (
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    NetworkPolicy,
    ClusterNetworkPolicy,
)
"""Kinds that come from the API server."""


# --- Events -----------------------------------------------------------------------------------------------------------


class Upsert(NamedTuple):
    """A record is there, new or changed."""

    record: Record


class Delete(NamedTuple):
    """A record is gone."""

    kind: Kind
    ref: Ref


class Rejection(NamedTuple):
    """An object of the API that cannot be used: its last good record stays, an Event and a log line tell."""

    kind: Kind
    ref: Ref
    reason: str
    uid: str = ""


class Replace(NamedTuple):
    """All records of a kind, after a list. ``rejected`` ones keep their last good record instead of vanishing."""

    kind: Kind
    records: tuple[Record, ...]
    rejected: tuple[Rejection, ...] = ()


class Restarted(NamedTuple):
    """Something we program lost its state (``gobgp``): list it again."""

    driver: str


class Unreachable(NamedTuple):
    """A source or a driver cannot be reached; facts stay, ``status`` tells since when."""

    source: str
    reason: str


class Reachable(NamedTuple):
    """The source answers again."""

    source: str


Event: TypeAlias = Upsert | Delete | Replace | Rejection | Restarted | Unreachable | Reachable
