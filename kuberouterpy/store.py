"""Facts, held once for all controllers, with the indexes they ask by.

``apply(event)`` returns what really changed: equal records give no Change, so heartbeats end here. Only the loop's thread
calls it. An index is a name and a function from a record to its values; tables keep them current.

Cost: an event costs its own record and its index values, never the table.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from kuberouterpy.annotations import settled
from kuberouterpy.cluster import (
    BestPath,
    ClusterNetworkPolicy,
    Delete,
    EndpointSlice,
    Event,
    Kind,
    Link,
    Namespace,
    NetworkPolicy,
    Node,
    NodeSelector,
    Passwords,
    Pod,
    Record,
    Ref,
    Rejection,
    Replace,
    Service,
    Upsert,
)
from kuberouterpy.labels import EVERYTHING, Operator, PodSelector, Selector
from kuberouterpy.protocol import Protocol

R = TypeVar("R", bound=Record)


class Change(Struct, frozen=True):
    """One record before and after; exactly one of them may be ``None``."""

    before: Record | None
    after: Record | None

    @property
    def record(self) -> Record:
        """The newer of the two."""
        record = self.after if self.after is not None else self.before
        assert record is not None
        return record

    @property
    def kind(self) -> Kind:
        """Kind of the record."""
        return type(self.record)

    @property
    def ref(self) -> Ref:
        """Identity of the record."""
        return self.record.ref


class NamedPort(Struct, frozen=True):
    """A port by name on the pods of a selector: pairs of address and number, which differ from pod to pod."""

    pods: PodSelector
    """Destination pods among which the name is looked up."""
    protocol: Protocol
    """Must be the container port's own."""
    name: str
    """Name of the container port."""

    def __str__(self) -> str:
        return f"port {self.name}/{self.protocol} of {self.pods}"


PodSet: TypeAlias = PodSelector | NamedPort
"""What policies need a set of pods for."""

Policy: TypeAlias = NetworkPolicy | ClusterNetworkPolicy
"""What has rules about pods."""

EVERY_POD: Final = PodSelector(EVERYTHING, namespaces=EVERYTHING)
"""All pods of all namespaces."""


class Table(Generic[R]):
    """Records of one kind by identity, and by every declared index."""

    def __init__(self, indexes: Mapping[str, Callable[[R], Iterable[Hashable]]] | None = None) -> None:
        self._records: dict[Ref, R] = {}
        self._values = dict(indexes or {})
        self._indexes: dict[str, dict[Hashable, dict[Ref, R]]] = {name: {} for name in self._values}

    def get(self, ref: Ref) -> R | None:
        """Return the record, or ``None``."""
        return self._records.get(ref)

    def __iter__(self) -> Iterator[R]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def refs(self) -> Iterable[Ref]:
        """Return the identities of all records."""
        return self._records.keys()

    def by(self, index: str, value: Hashable) -> Iterable[R]:
        """Return the records that an index lists under ``value``."""
        return self._indexes[index].get(value, {}).values()

    def values(self, index: str) -> Iterable[Hashable]:
        """Return every value an index knows."""
        return self._indexes[index].keys()

    def count(self, index: str, value: Hashable) -> int:
        """Return how many records an index lists under ``value``."""
        return len(self._indexes[index].get(value, ()))

    def put(self, record: R) -> Change | None:
        """Keep ``record``; return the change, or ``None`` where it equals what is known."""
        before = self._records.get(record.ref)
        if before == record:
            return None
        if before is not None:
            self._forget(before)
        self._records[record.ref] = record
        for name, values in self._values.items():
            for value in values(record):
                self._indexes[name].setdefault(value, {})[record.ref] = record
        return Change(before, record)

    def drop(self, ref: Ref) -> Change | None:
        """Forget a record; return the change, or ``None`` where it is not known."""
        before = self._records.pop(ref, None)
        if before is None:
            return None
        self._forget(before)
        return Change(before, None)

    def _forget(self, record: R) -> None:
        for name, values in self._values.items():
            index = self._indexes[name]
            for value in values(record):
                bucket = index.get(value)
                if bucket is not None:
                    bucket.pop(record.ref, None)
                    if not bucket:
                        del index[value]


class Store:
    """All facts. Attributes are tables; methods are the questions controllers ask."""

    def __init__(self, expected: Iterable[Kind] = ()) -> None:
        """``expected``: kinds that must have been listed once before anything may be written."""
        self._missing: set[Kind] = set(expected)
        self.rejections: dict[tuple[Kind, Ref], Rejection] = {}
        """Objects of the API that could not be used, until a good one replaces them."""
        self.services: Final = Table[Service](
            {
                "address": lambda one: (
                    *one.cluster_ips,
                    *one.external_ips,
                    *(ingress.address for ingress in one.load_balancer),
                ),
                "node_port": lambda one: (port.node_port for port in one.ports if port.node_port),
                "annotation": lambda one: one.annotations.keys(),
            }
        )
        self.slices: Final = Table[EndpointSlice]({"service": lambda one: (one.service,) if one.service else ()})
        self.pods: Final = Table[Pod](
            {
                "namespace": lambda pod: (pod.ref.namespace,),
                "node": lambda pod: (pod.node,),
                "address": lambda pod: () if pod.host_network else pod.addresses,
                "label": lambda pod: pod.labels.items(),
                "node_namespace": lambda pod: ((pod.node, pod.ref.namespace),),
            }
        )
        self.namespaces: Final = Table[Namespace]({"label": lambda one: one.labels.items()})
        self.nodes: Final = Table[Node]({"address": lambda node: (one.address for one in node.addresses)})
        self.policies: Final = Table[NetworkPolicy](
            {
                "namespace": lambda policy: (policy.ref.namespace,),
                "selector": selectors_of,
                **_POD_SET_INDEXES,
            }
        )
        self.cluster_policies: Final = Table[ClusterNetworkPolicy](
            {
                "node_set": node_sets_of,
                "node_set_text": lambda policy: set(map(str, node_sets_of(policy))),
                **_POD_SET_INDEXES,
            }
        )
        self.paths: Final = Table[BestPath]({"next_hop": lambda path: path.next_hops})
        self.links: Final = Table[Link]()
        self.passwords: Final = Table[Passwords]()
        self._tables: Final[dict[Kind, Table[Any]]] = {
            Service: self.services,
            EndpointSlice: self.slices,
            Pod: self.pods,
            Namespace: self.namespaces,
            Node: self.nodes,
            NetworkPolicy: self.policies,
            ClusterNetworkPolicy: self.cluster_policies,
            BestPath: self.paths,
            Link: self.links,
            Passwords: self.passwords,
        }

    @property
    def synced(self) -> bool:
        """Whether every expected kind has been listed once."""
        return not self._missing

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Names of the kinds not yet listed."""
        return tuple(sorted(kind.__name__ for kind in self._missing))

    def table(self, kind: Kind) -> Table[Any]:
        """Return the table of a kind."""
        return self._tables[kind]

    def tables(self) -> Iterable[tuple[Kind, Table[Any]]]:
        """Return every table with its kind."""
        return self._tables.items()

    def apply(self, event: Event) -> list[Change]:
        """Take an event in; return what really changed."""
        match event:
            case Upsert(record):
                self.rejections.pop((type(record), record.ref), None)
                return _some(self._put(record))
            case Delete(kind, ref):
                self.rejections.pop((kind, ref), None)
                return _some(self._tables[kind].drop(ref))
            case Rejection(kind, ref):
                self.rejections[kind, ref] = event
                return []
            case Replace():
                return self._replace(event)
            case _:
                return []

    def _replace(self, event: Replace) -> list[Change]:
        table = self._tables[event.kind]
        self._missing.discard(event.kind)
        for known in [key for key in self.rejections if key[0] is event.kind]:
            del self.rejections[known]
        for rejection in event.rejected:
            self.rejections[event.kind, rejection.ref] = rejection
        kept = {record.ref for record in event.records} | {rejection.ref for rejection in event.rejected}
        dropped = [table.drop(ref) for ref in [ref for ref in table.refs() if ref not in kept]]
        return _some(*dropped, *map(self._put, event.records))

    def _put(self, record: Record) -> Change | None:
        if isinstance(record, Node) and record.bgp.malformed:
            record = self._settled(record)
        return self._tables[type(record)].put(record)

    def _settled(self, node: Node) -> Node:
        """Return a node with the last good value of every annotation that cannot be read."""
        before = self.nodes.get(node.ref)
        return node if before is None else replace(node, bgp=settled(node.bgp, before.bgp))

    # --- questions -----------------------------------------------------------------------------------------------

    def slices_of(self, service: Ref) -> Iterable[EndpointSlice]:
        """Return the slices of a Service, of both families."""
        return self.slices.by("service", service)

    def pods_in(self, namespace: str) -> Iterable[Pod]:
        """Return the pods of a namespace."""
        return self.pods.by("namespace", namespace)

    def pods_on(self, node: str) -> Iterable[Pod]:
        """Return the pods of a node."""
        return self.pods.by("node", node)

    def pods_matching(self, selector: PodSelector) -> Iterator[Pod]:
        """Yield the pods a selector means now, whatever their address or phase."""
        if selector.namespaces is None:
            yield from self._matching_in(selector.namespace, selector.pods)
            return
        if selector.namespaces.terms:
            for namespace in self.namespaces_matching(selector.namespaces):
                yield from self._matching_in(namespace.ref.name, selector.pods)
            return
        for pod in self._candidates(selector.pods, self.pods):
            # A pod whose namespace has not arrived would match NotIn for want of labels: it waits for it (row 49).
            if self.namespaces.get(Ref("", pod.ref.namespace)) is not None and selector.pods.matches(pod.labels):
                yield pod

    def namespaces_matching(self, selector: Selector) -> Iterator[Namespace]:
        """Yield the namespaces whose labels match."""
        return (one for one in self._candidates(selector, self.namespaces) if selector.matches(one.labels))

    def matches(self, selector: PodSelector, pod: Pod) -> bool:
        """Return whether ``selector`` means ``pod`` now."""
        if selector.namespaces is None:
            return selector.namespace == pod.ref.namespace and selector.pods.matches(pod.labels)
        namespace = self.namespaces.get(Ref("", pod.ref.namespace))
        return (
            namespace is not None
            and selector.namespaces.matches(namespace.labels)
            and selector.pods.matches(pod.labels)
        )

    def policies_in(self, namespace: str) -> Iterable[NetworkPolicy]:
        """Return the policies of a namespace."""
        return self.policies.by("namespace", namespace)

    def policies_using(self, selector: PodSelector) -> Iterable[NetworkPolicy]:
        """Return the policies that have ``selector`` among their peers."""
        return self.policies.by("selector", selector)

    def _matching_in(self, namespace: str, selector: Selector) -> Iterator[Pod]:
        # The smaller of two buckets: a label can be rarer than a namespace, or the other way round.
        inside = self.pods.by("namespace", namespace)
        bucket = self._narrowest(selector, self.pods)
        if bucket is None or self.pods.count("label", bucket) > self.pods.count("namespace", namespace):
            return (pod for pod in inside if selector.matches(pod.labels))
        pods = self.pods.by("label", bucket)
        return (pod for pod in pods if pod.ref.namespace == namespace and selector.matches(pod.labels))

    def _candidates(self, selector: Selector, table: Table[R]) -> Iterable[R]:
        value = self._narrowest(selector, table)
        return table if value is None else table.by("label", value)

    @staticmethod
    def _narrowest(selector: Selector, table: Table[Any]) -> tuple[str, str] | None:
        equals = [
            (one.key, one.values[0]) for one in selector.terms if one.operator is Operator.IN and len(one.values) == 1
        ]
        return min(equals, key=lambda value: table.count("label", value), default=None)


def subject_of(policy: Policy) -> PodSelector:
    """Return which pods a policy is about."""
    match policy:
        case NetworkPolicy(ref, pods):
            return PodSelector(pods, ref.namespace)
        case ClusterNetworkPolicy(subject=subject):
            return subject


def node_sets_of(policy: ClusterNetworkPolicy) -> frozenset[NodeSelector]:
    """Return every selector of nodes among a policy's peers."""
    return frozenset(peer for rule in policy.egress for peer in rule.peers if isinstance(peer, NodeSelector))


def selectors_of(policy: Policy) -> frozenset[PodSelector]:
    """Return every pod selector among a policy's peers."""
    rules = (*(policy.ingress or ()), *(policy.egress or ()))
    return frozenset(peer for rule in rules for peer in rule.peers if isinstance(peer, PodSelector))


def named_ports_of(policy: Policy) -> frozenset[NamedPort]:
    """Return what a policy's named ports are looked up on: always the *destination* pods of a rule.

    Ingress: the policy's own pods. Egress: the pods of each peer; of an ipBlock or of no peers at all, every pod.
    """
    subject = subject_of(policy)
    ingress = ((rule, (subject,)) for rule in policy.ingress or ())
    egress = (
        (rule, {peer if isinstance(peer, PodSelector) else EVERY_POD for peer in rule.peers} or {EVERY_POD})
        for rule in policy.egress or ()
    )
    return frozenset(
        NamedPort(pods, port.protocol, port.port)
        for rule, destinations in (*ingress, *egress)
        for port in rule.ports
        if isinstance(port.port, str)
        for pods in destinations
    )


def pod_sets_of(policy: Policy) -> frozenset[PodSet]:
    """Return every set of pods a policy's rules may match on."""
    return selectors_of(policy) | named_ports_of(policy)


def is_wide(pods: PodSet) -> bool:
    """Return whether a set chooses namespaces by their labels; all others are of their policy's own namespace."""
    return (pods.pods if isinstance(pods, NamedPort) else pods).namespaces is not None


_POD_SET_INDEXES: Final[dict[str, Callable[[Policy], Iterable[Hashable]]]] = {
    "pod_set": pod_sets_of,
    "wide_pod_set": lambda policy: (one for one in pod_sets_of(policy) if is_wide(one)),
    "pod_set_text": lambda policy: set(map(str, pod_sets_of(policy))),
}


def _some(*changes: Change | None) -> list[Change]:
    return cast("list[Change]", [change for change in changes if change is not None])
