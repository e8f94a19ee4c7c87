"""The API's objects as JSON has them, with the fields we use and no others; msgspec skips the rest without making objects.

Every field may be absent or null, as Go's clients may send it; meaning is given in :mod:`kuberouterpy.sources.decode`.
"""

from __future__ import annotations

from msgspec import Raw, Struct, field


class Wire(Struct, rename="camel", gc=False):
    """What all wire structs share: camel case names, no cycle collection (they are trees that live for a moment)."""


class Meta(Wire):
    """metadata of an object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Identity(Wire):
    """metadata.name and .namespace, all that a deletion or a refusal needs."""

    name: str = ""
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None


class Identified(Wire):
    """Any object, by its identity."""

    metadata: Identity


class ListMeta(Wire):
    """metadata of a list."""

    resource_version: str = ""
    cont: str | None = field(default=None, name="continue")


class List(Wire):
    """One page of a list. ``items`` may be null, as Go writes an empty slice, but not absent."""

    kind: str
    metadata: ListMeta
    items: list[Raw] | None


class Event(Wire):
    """One line of a watch."""

    type: str
    object: Raw


class StatusDetails(Wire):
    """details of a Status."""

    retry_after_seconds: int | None = None


class Status(Wire):
    """The API's error object."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: StatusDetails | None = None


# --- Service ----------------------------------------------------------------------------------------------------------


class ServicePort(Wire):
    """spec.ports[]"""

    port: int
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None


class ClientIp(Wire):
    """spec.sessionAffinityConfig.clientIP"""

    timeout_seconds: int | None = None


class AffinityConfig(Wire):
    """spec.sessionAffinityConfig"""

    client_ip: ClientIp | None = field(default=None, name="clientIP")


class ServiceSpec(Wire):
    """spec of a Service"""

    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    external_ips: list[str] | None = field(default=None, name="externalIPs")
    ports: list[ServicePort] | None = None
    ip_families: list[str] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    health_check_node_port: int | None = None
    load_balancer_source_ranges: list[str] | None = None
    load_balancer_class: str | None = None
    load_balancer_ip: str | None = field(default=None, name="loadBalancerIP")
    ip_family_policy: str | None = None


class Ingress(Wire):
    """status.loadBalancer.ingress[]"""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(Wire):
    """status.loadBalancer"""

    ingress: list[Ingress] | None = None


class ServiceStatus(Wire):
    """status of a Service"""

    load_balancer: LoadBalancer | None = None


class Service(Wire):
    """v1 Service"""

    metadata: Meta
    spec: ServiceSpec
    status: ServiceStatus | None = None


# --- EndpointSlice ----------------------------------------------------------------------------------------------------


class EndpointPort(Wire):
    """ports[]"""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class Conditions(Wire):
    """endpoints[].conditions"""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Named(Wire):
    """hints.forZones[] and .forNodes[]"""

    name: str


class Hints(Wire):
    """endpoints[].hints"""

    for_zones: list[Named] | None = None
    for_nodes: list[Named] | None = None


class TargetRef(Wire):
    """endpoints[].targetRef"""

    kind: str | None = None
    name: str | None = None
    namespace: str | None = None


class Endpoint(Wire):
    """endpoints[]"""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None
    target_ref: TargetRef | None = None


class EndpointSlice(Wire):
    """discovery.k8s.io/v1 EndpointSlice"""

    metadata: Meta
    address_type: str
    ports: list[EndpointPort] | None = None
    endpoints: list[Endpoint] | None = None


# --- Pod, Namespace, Node ---------------------------------------------------------------------------------------------


class ContainerPort(Wire):
    """containers[].ports[]"""

    container_port: int
    name: str | None = None
    protocol: str | None = None


class Container(Wire):
    """containers[] and initContainers[]"""

    ports: list[ContainerPort] | None = None
    restart_policy: str | None = None


class PodSpec(Wire):
    """spec of a Pod"""

    node_name: str | None = None
    host_network: bool | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodIp(Wire):
    """status.podIPs[]"""

    ip: str | None = None


class PodStatus(Wire):
    """status of a Pod"""

    phase: str | None = None
    pod_ip: str | None = field(default=None, name="podIP")
    pod_ips: list[PodIp] | None = field(default=None, name="podIPs")


class Pod(Wire):
    """v1 Pod"""

    metadata: Meta
    spec: PodSpec | None = None
    status: PodStatus | None = None


class Namespace(Wire):
    """v1 Namespace"""

    metadata: Meta


class Taint(Wire):
    """spec.taints[]"""

    key: str


class NodeSpec(Wire):
    """spec of a Node"""

    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")
    unschedulable: bool | None = None
    taints: list[Taint] | None = None


class NodeAddress(Wire):
    """status.addresses[]"""

    type: str
    address: str


class NodeCondition(Wire):
    """status.conditions[]"""

    type: str
    reason: str | None = None
    last_transition_time: str | None = None


class NodeStatus(Wire):
    """status of a Node"""

    addresses: list[NodeAddress] | None = None
    conditions: list[NodeCondition] | None = None


class Node(Wire):
    """v1 Node"""

    metadata: Meta
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


# --- NetworkPolicy ----------------------------------------------------------------------------------------------------


class Expression(Wire):
    """matchExpressions[]"""

    key: str
    operator: str
    values: list[str] | None = None


class LabelSelector(Wire):
    """A label selector; absent and empty differ, so users of this write ``LabelSelector | None``."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


class IpBlock(Wire):
    """from[].ipBlock"""

    cidr: str
    excepts: list[str] | None = field(default=None, name="except")


class Peer(Wire):
    """from[] and to[]"""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IpBlock | None = None


class PolicyPort(Wire):
    """ports[]"""

    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class Rule(Wire):
    """ingress[] and egress[]: only one of ``sources`` and ``targets`` may be there."""

    sources: list[Peer] | None = field(default=None, name="from")
    targets: list[Peer] | None = field(default=None, name="to")
    ports: list[PolicyPort] | None = None


class PolicySpec(Wire):
    """spec of a NetworkPolicy; each part is read by itself, so that one unreadable part names itself."""

    pod_selector: Raw = field(default_factory=Raw)
    policy_types: Raw = field(default_factory=Raw)
    ingress: Raw = field(default_factory=Raw)
    egress: Raw = field(default_factory=Raw)


class ClusterSubject(Wire):
    """spec.subject of a ClusterNetworkPolicy"""

    namespaces: LabelSelector | None = None
    pods: NamespacedPods | None = None


class NamespacedPods(Wire):
    """pods of a subject and of a peer: both are required"""

    namespace_selector: LabelSelector
    pod_selector: LabelSelector


class PortRange(Wire):
    """tcp.destinationPort.range and its like"""

    start: int
    end: int


class ClusterPolicySpec(Wire):
    """spec of a ClusterNetworkPolicy; rules are read one by one, field by field: what is unknown must not be passed over."""

    tier: str
    priority: int
    subject: ClusterSubject
    ingress: list[dict[str, Raw]] | None = None
    egress: list[dict[str, Raw]] | None = None


class ClusterNetworkPolicy(Wire):
    """policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy"""

    metadata: Meta
    spec: ClusterPolicySpec


class NetworkPolicy(Wire):
    """networking.k8s.io/v1 NetworkPolicy"""

    metadata: Meta
    spec: PolicySpec | None = None
