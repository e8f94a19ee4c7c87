"""Which policies judge which pods: the questions that the controller asks of the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from msgspec import Struct

from firewall import cluster_policies, policies
from firewall.policies import Direction
from kuberouterpy.cluster import ClusterNetworkPolicy, NetworkPolicy, Pod, Ref, Tier
from kuberouterpy.family import family_of
from kuberouterpy.host import Host
from kuberouterpy.labels import PodSelector
from kuberouterpy.store import NamedPort, PodSet, Policy, Store, subject_of


def is_policed(pod: Pod) -> bool:
    """Return whether policy can mean this pod: not one that has ended, nor one that shares the node's addresses."""
    return not (pod.host_network or pod.finished)


def addresses_of(pod: Pod, store: Store, host: Host) -> tuple[str, ...]:
    """Return the addresses a pod holds now, of the families in use: of two pods with one address the newer holds it."""
    if not is_policed(pod):
        return ()
    return tuple(
        address
        for address in dict.fromkeys(pod.addresses)
        if family_of(address) in host.families and holder(address, store) == pod.ref
    )


def holder(address: str, store: Store) -> Ref | None:
    """Return the pod that holds an address."""
    rivals = [pod for pod in store.pods.by("address", address) if is_policed(pod)]
    return max(rivals, key=lambda pod: (pod.created, pod.ref)).ref if rivals else None


def selects(policy: Policy, pod: Pod, store: Store) -> bool:
    """Return whether a policy is about a pod."""
    return is_policed(pod) and store.matches(subject_of(policy), pod)


def policies_about(pod: Pod, store: Store) -> Iterator[Policy]:
    """Yield the policies that may be about a pod: its namespace's, and the cluster's."""
    return chain(store.policies_in(pod.ref.namespace), store.cluster_policies)


class Judges(Struct, frozen=True):
    """Who judges a pod in one direction, each tier in its order."""

    admin: tuple[ClusterNetworkPolicy, ...] = ()
    policies: tuple[NetworkPolicy, ...] = ()
    """They isolate the pod."""
    audited: tuple[NetworkPolicy, ...] = ()
    """They would, if they were not only audited; empty where others isolate it: then they take nothing away."""
    baseline: tuple[ClusterNetworkPolicy, ...] = ()
    """Empty where a policy isolates the pod: its verdict is final."""

    def __bool__(self) -> bool:
        return bool(self.admin or self.policies or self.audited or self.baseline)


def judges(pod: Pod, direction: Direction, store: Store) -> Judges:
    """Return who judges a pod in a direction."""
    own = [
        policy
        for policy in sorted(store.policies_in(pod.ref.namespace), key=lambda policy: policy.ref)
        if policies.items(policy, direction) is not None and selects(policy, pod, store)
    ]
    cluster = [
        policy
        for policy in sorted(store.cluster_policies, key=cluster_policies.order)
        if cluster_policies.items(policy, direction) and selects(policy, pod, store)
    ]
    isolating = tuple(policy for policy in own if not policies.is_audited(policy))
    return Judges(
        tuple(policy for policy in cluster if policy.tier is Tier.ADMIN),
        isolating,
        () if isolating else tuple(own),
        () if isolating else tuple(policy for policy in cluster if policy.tier is Tier.BASELINE),
    )


def subjects(policy: Policy, store: Store, host: Host) -> Iterator[Pod]:
    """Yield the pods of this host that a policy is about."""
    near = (
        store.pods.by("node_namespace", (host.name, policy.ref.namespace))
        if isinstance(policy, NetworkPolicy)
        else store.pods_on(host.name)
    )
    return (pod for pod in near if selects(policy, pod, store))


def is_active(policy: Policy, store: Store, host: Host) -> bool:
    """Return whether a policy is about any pod of this host."""
    return any(True for _ in subjects(policy, store, host))


def users(pods: PodSet, store: Store, host: Host) -> Iterator[Policy]:
    """Yield the active policies that need a set of pods."""
    every: Iterable[Policy] = chain(store.policies.by("pod_set", pods), store.cluster_policies.by("pod_set", pods))
    return (policy for policy in every if is_active(policy, store, host))


def is_used(pods: PodSet, store: Store, host: Host) -> bool:
    """Return whether any active policy needs a set of pods."""
    return any(True for _ in users(pods, store, host))


def selector_of(pods: PodSet) -> PodSelector:
    """Return which pods a set is about."""
    return pods.pods if isinstance(pods, NamedPort) else pods


def wide_sets(store: Store) -> Iterator[PodSet]:
    """Yield the sets that choose namespaces by their labels."""
    for pods in dict.fromkeys((*store.policies.values("wide_pod_set"), *store.cluster_policies.values("wide_pod_set"))):
        assert isinstance(pods, PodSelector | NamedPort)
        yield pods
