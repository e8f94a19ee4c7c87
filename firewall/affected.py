"""What a change of the facts touches: which owners must be computed again, and what owners are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from firewall import chains, policies
from firewall.facts import (
    is_active,
    policies_about,
    selector_of,
    selects,
    subjects,
    users,
    wide_sets,
)
from kuberouterpy.cluster import ClusterNetworkPolicy, Namespace, NetworkPolicy, Node, NodeSelector, Pod, Ref
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Owner
from kuberouterpy.host import Host
from kuberouterpy.labels import PodSelector
from kuberouterpy.store import Change, PodSet, Policy, Store, node_sets_of, pod_sets_of

NAME: Final = "firewall"
BASE: Final = Owner(NAME, "base")


def owner_of(ref: Ref, kind: str) -> Owner:
    """Return the owner of a pod's or a policy's objects."""
    return Owner(NAME, kind, str(ref))


def policy_owner(policy: Policy) -> Owner:
    """Return the owner of a policy's chains."""
    return owner_of(policy.ref, "policy" if isinstance(policy, NetworkPolicy) else "cnp")


def selector_owner(pods: PodSet) -> Owner:
    """Return the owner of a set of pods. Its name is the selector as people read it; the store finds it again by that."""
    return Owner(NAME, "selector", str(pods))


def nodes_owner(nodes: NodeSelector) -> Owner:
    """Return the owner of a set of nodes."""
    return Owner(NAME, "nodes", str(nodes))


def dispatch_owner(address: str) -> Owner:
    """Return the owner of the branch that an address belongs to."""
    return Owner(NAME, "dispatch", f"{chains.slot_of(address):X}")


# --- changes ------------------------------------------------------------------------------------------------------------


def affected(change: Change, store: Store, host: Host, config: Config) -> Iterator[Owner]:
    """Yield the owners whose objects a change may touch.

    The store already holds the new state, and the new state of every other change of the same event: what *was* is known
    of the changed record only.
    """
    match change:
        case Change(before=Pod() | None as before, after=Pod() as after):
            yield from _pod_affected(before, after, store, host)
        case Change(before=Pod() as before):
            yield from _pod_affected(before, None, store, host)
        case Change(before=NetworkPolicy() | None as before, after=NetworkPolicy() as after):
            yield from _policy_affected(before, after, store, host)
        case Change(before=NetworkPolicy() as before):
            yield from _policy_affected(before, None, store, host)
        case Change(before=ClusterNetworkPolicy() | None as before, after=ClusterNetworkPolicy() as after):
            yield from _cluster_policy_affected(before, after, store, host)
        case Change(before=ClusterNetworkPolicy() as before):
            yield from _cluster_policy_affected(before, None, store, host)
        case Change(before=Namespace() | None as before, after=Namespace() as after):
            yield from _namespace_affected(before, after, store, host)
        case Change(before=Namespace() as before):
            yield from _namespace_affected(before, None, store, host)
        case Change(before=Node() | None as before, after=Node() | None as after):
            yield from _node_affected(before, after, store)


def _pod_affected(before: Pod | None, after: Pod | None, store: Store, host: Host) -> Iterator[Owner]:
    known = [pod for pod in (before, after) if pod is not None]
    ref = known[0].ref
    yield owner_of(ref, "pod")
    for address in dict.fromkeys(address for pod in known for address in pod.addresses):
        sharing = [pod for pod in store.pods.by("address", address) if pod.ref != ref]
        for other in sharing:
            yield owner_of(other.ref, "pod")
        if any(pod.node == host.name for pod in (*known, *sharing)):
            yield dispatch_owner(address)
    for policy in policies_about(known[0], store):
        was, now = (
            pod is not None and pod.node == host.name and selects(policy, pod, store) for pod in (before, after)
        )
        if was != now and _turns(ref, (pod.ref for pod in subjects(policy, store, host)), gained=now):
            yield from _active_affected(policy, store, host)


def _active_affected(policy: Policy, store: Store, host: Host) -> Iterator[Owner]:
    """Yield what hangs on whether a policy is active."""
    yield policy_owner(policy)
    if isinstance(policy, ClusterNetworkPolicy):
        yield from (nodes_owner(one) for one in node_sets_of(policy))
    for pods in pod_sets_of(policy):
        if _turns(policy.ref, (user.ref for user in users(pods, store, host)), gained=is_active(policy, store, host)):
            yield from _used_affected(pods, store)


def _used_affected(pods: PodSet, store: Store) -> Iterator[Owner]:
    """Yield what hangs on whether a set is used."""
    yield selector_owner(pods)
    for pod in store.pods_matching(selector_of(pods)):
        yield owner_of(pod.ref, "pod")


def _turns(changed: Ref, present: Iterable[Ref], *, gained: bool) -> bool:
    """Return whether a set of refs may have begun or ceased to be non-empty, when ``changed`` joined or left it.

    One that left is the turn where nobody is left. Of those that joined, perhaps several in one event, each finds the others
    already present: so the smallest present one answers for all.
    """
    present = set(present)
    return min(present, default=changed) == changed if gained else not present


def _policy_affected(
    before: NetworkPolicy | None, after: NetworkPolicy | None, store: Store, host: Host
) -> Iterator[Owner]:
    known = [policy for policy in (before, after) if policy is not None]
    yield policy_owner(known[0])
    isolates = {
        (policy.pods, policy.ingress is None, policy.egress is None, policies.is_audited(policy)) for policy in known
    }
    # Pods' chains name their policies and nothing of the rules: an edit of rules touches no pod.
    if len(isolates) > 1 or len(known) == 1:
        yield from _judged_affected(known, store, host)
    yield from _needs_affected(before, after, store, host)


def _cluster_policy_affected(
    before: ClusterNetworkPolicy | None, after: ClusterNetworkPolicy | None, store: Store, host: Host
) -> Iterator[Owner]:
    known = [policy for policy in (before, after) if policy is not None]
    yield policy_owner(known[0])
    places = {
        (policy.subject, policy.tier, policy.priority, bool(policy.ingress), bool(policy.egress)) for policy in known
    }
    if len(places) > 1 or len(known) == 1:
        yield BASE  # INPUT judges while there is any with egress
        yield from _judged_affected(known, store, host)
    yield from (nodes_owner(one) for policy in known for one in node_sets_of(policy))
    yield from _needs_affected(before, after, store, host)


def _judged_affected(known: Iterable[Policy], store: Store, host: Host) -> Iterator[Owner]:
    """Yield the pods whose chains name a policy, and the branches they stand in."""
    for policy in known:
        for pod in subjects(policy, store, host):
            yield owner_of(pod.ref, "pod")
            for address in pod.addresses:
                yield dispatch_owner(address)


def _needs_affected(before: Policy | None, after: Policy | None, store: Store, host: Host) -> Iterator[Owner]:
    """Yield the sets that begin or cease to be needed."""
    changed = after or before
    assert changed is not None
    needed_before, needed_now = (
        pod_sets_of(policy) if policy is not None and is_active(policy, store, host) else frozenset[PodSet]()
        for policy in (before, after)
    )
    for pods in needed_before ^ needed_now:
        gained = pods in needed_now
        if _turns(changed.ref, (user.ref for user in users(pods, store, host)), gained=gained):
            yield from _used_affected(pods, store)


def _namespace_affected(before: Namespace | None, after: Namespace | None, store: Store, host: Host) -> Iterator[Owner]:
    """Yield what changes where a selector of namespaces begins or ceases to mean a namespace: its pods, as peers of
    policies and as subjects of the cluster's."""
    turned: set[PodSelector] = set()
    for selector in set(map(selector_of, wide_sets(store))):
        assert selector.namespaces is not None
        was, now = (one is not None and selector.namespaces.matches(one.labels) for one in (before, after))
        if was != now:
            turned.add(selector)
    ref = after.ref if after is not None else before.ref if before is not None else Ref("", "")
    for pod in store.pods_in(ref.name) if turned else ():
        if any(selector.pods.matches(pod.labels) for selector in turned):
            yield owner_of(pod.ref, "pod")
    for policy in store.cluster_policies:
        where = policy.subject.namespaces
        assert where is not None
        was, now = (one is not None and where.matches(one.labels) for one in (before, after))
        if was != now:
            yield from _subjects_affected(policy, ref.name, store, host)


def _subjects_affected(policy: ClusterNetworkPolicy, namespace: str, store: Store, host: Host) -> Iterator[Owner]:
    """Yield what hangs on whether the pods of a namespace are subjects of a policy; rare, so it may say too much."""
    here = store.pods.by("node_namespace", (host.name, namespace))
    turning = [pod for pod in here if policy.subject.pods.matches(pod.labels)]
    for pod in turning:
        yield owner_of(pod.ref, "pod")
        for address in pod.addresses:
            yield dispatch_owner(address)
    if turning:
        yield policy_owner(policy)
        yield from (nodes_owner(one) for one in node_sets_of(policy))
        for pods in pod_sets_of(policy):
            yield from _used_affected(pods, store)


def _node_affected(before: Node | None, after: Node | None, store: Store) -> Iterator[Owner]:
    """Yield the sets of nodes whose entries a node may change."""
    if (
        before is not None
        and after is not None
        and (before.labels, before.addresses) == (after.labels, after.addresses)
    ):
        return
    yield from (Owner(NAME, "nodes", str(text)) for text in store.cluster_policies.values("node_set_text"))
