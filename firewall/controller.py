"""The firewall as a controller: who owns which object, and what a change touches.

| owner | contributes |
|---|---|
| ``firewall/base`` | sysctls, fixed chains, jumps, the set of local pods |
| ``firewall/policy/NS/NAME`` | the policy's chains and block sets, while it selects a pod of this host |
| ``firewall/selector/TEXT`` | the set of a selector or named port, while such a policy uses it |
| ``firewall/pod/NS/NAME`` | the pod's entries; its chains, where it is of this host and isolated |
| ``firewall/dispatch/N`` | the branch of the tree for isolated pods whose address ends in N |

A policy is *active* where it selects a pod of this host, a set is *used* where an active policy needs it: a node carries
what its own pods need, not the whole cluster's policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from firewall import chains, policies
from firewall.chains import Isolated
from firewall.peers import (
    LOCAL_PODS,
    SET_PREFIXES,
    local_pod_entry,
    pod_entries,
    pod_set,
    without_family,
)
from firewall.policies import Direction
from kuberouterpy.cluster import Namespace, NetworkPolicy, Pod, Ref
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller, Desired
from kuberouterpy.dataplane import (
    ChainKey,
    EntryKey,
    JumpKey,
    Key,
    Note,
    Object,
    Owner,
    SetKey,
    Sysctl,
    SysctlKey,
    Table,
)
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import Host
from kuberouterpy.labels import PodSelector
from kuberouterpy.store import Change, NamedPort, PodSet, Store, is_wide, pod_sets_of

NAME: Final = "firewall"
BASE: Final = Owner(NAME, "base")

_BRIDGED: Final = "traffic between two pods of one bridge meets the firewall"
_SYSCTLS: Final = {
    Family.IPV4: "net/bridge/bridge-nf-call-iptables",
    Family.IPV6: "net/bridge/bridge-nf-call-ip6tables",
}
_CHAINS: Final = frozenset({"KUBE-ROUTER-INPUT", chains.FORWARD, chains.OUTPUT, chains.ICMP, chains.UNSEEN})
"""KUBE-ROUTER-INPUT is kube-router's, which we replace; we have none of it."""
_CHAIN_PREFIXES: Final = ("KUBE-POD-FW-", "KUBE-NWPLCY-", *chains.TREES.values())


def owner_of(ref: Ref, kind: str) -> Owner:
    """Return the owner of a pod's or a policy's objects."""
    return Owner(NAME, kind, str(ref))


def selector_owner(pods: PodSet) -> Owner:
    """Return the owner of a set of pods. Its name is the selector as people read it; the store finds it again by that."""
    return Owner(NAME, "selector", str(pods))


def dispatch_owner(address: str) -> Owner:
    """Return the owner of the branch that an address belongs to."""
    return Owner(NAME, "dispatch", f"{chains.slot_of(address):X}")


# --- facts ------------------------------------------------------------------------------------------------------------


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


def selects(policy: NetworkPolicy, pod: Pod) -> bool:
    """Return whether a policy is about a pod."""
    return policy.ref.namespace == pod.ref.namespace and is_policed(pod) and policy.pods.matches(pod.labels)


def isolating(pod: Pod, direction: Direction, store: Store) -> tuple[NetworkPolicy, ...]:
    """Return the policies that isolate a pod in a direction."""
    return tuple(
        policy
        for policy in store.policies_in(pod.ref.namespace)
        if policies.items(policy, direction) is not None and selects(policy, pod)
    )


def subjects(policy: NetworkPolicy, store: Store, host: Host) -> Iterator[Pod]:
    """Yield the pods of this host that a policy is about."""
    return (pod for pod in store.pods.by("node_namespace", (host.name, policy.ref.namespace)) if selects(policy, pod))


def is_active(policy: NetworkPolicy, store: Store, host: Host) -> bool:
    """Return whether a policy is about any pod of this host."""
    return any(True for _ in subjects(policy, store, host))


def users(pods: PodSet, store: Store, host: Host) -> Iterator[NetworkPolicy]:
    """Yield the active policies that need a set of pods."""
    return (policy for policy in store.policies.by("pod_set", pods) if is_active(policy, store, host))


def is_used(pods: PodSet, store: Store, host: Host) -> bool:
    """Return whether any active policy needs a set of pods."""
    return any(True for _ in users(pods, store, host))


def selector_of(pods: PodSet) -> PodSelector:
    """Return which pods a set is about."""
    return pods.pods if isinstance(pods, NamedPort) else pods


# --- what a change touches --------------------------------------------------------------------------------------------


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
        case Change(before=Namespace() | None as before, after=Namespace() as after):
            yield from _namespace_affected(before, after, store)
        case Change(before=Namespace() as before):
            yield from _namespace_affected(before, None, store)


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
    for policy in store.policies_in(ref.namespace):
        was, now = (pod is not None and pod.node == host.name and selects(policy, pod) for pod in (before, after))
        if was != now and _turns(ref, (pod.ref for pod in subjects(policy, store, host)), gained=now):
            yield from _active_affected(policy, store, host)


def _active_affected(policy: NetworkPolicy, store: Store, host: Host) -> Iterator[Owner]:
    """Yield what hangs on whether a policy is active."""
    yield owner_of(policy.ref, "policy")
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
    ref = known[0].ref
    yield owner_of(ref, "policy")
    isolates = {(policy.pods, policy.ingress is None, policy.egress is None) for policy in known}
    # Pods' chains name their policies and nothing of the rules: an edit of rules touches no pod.
    for policy in known if len(isolates) > 1 or len(known) == 1 else ():
        for pod in subjects(policy, store, host):
            yield owner_of(pod.ref, "pod")
            for address in pod.addresses:
                yield dispatch_owner(address)
    needed_before, needed_now = (
        pod_sets_of(policy) if policy is not None and is_active(policy, store, host) else frozenset[PodSet]()
        for policy in (before, after)
    )
    for pods in needed_before ^ needed_now:
        gained = pods in needed_now
        if _turns(ref, (user.ref for user in users(pods, store, host)), gained=gained):
            yield from _used_affected(pods, store)


def _namespace_affected(before: Namespace | None, after: Namespace | None, store: Store) -> Iterator[Owner]:
    """Yield the pods of a namespace that a selector of namespaces begins or ceases to mean."""
    turned: set[PodSelector] = set()
    for selector in set(map(selector_of, _wide_sets(store))):
        assert selector.namespaces is not None
        was, now = (one is not None and selector.namespaces.matches(one.labels) for one in (before, after))
        if was != now:
            turned.add(selector)
    ref = after.ref if after is not None else before.ref if before is not None else Ref("", "")
    for pod in store.pods_in(ref.name) if turned else ():
        if any(selector.pods.matches(pod.labels) for selector in turned):
            yield owner_of(pod.ref, "pod")


def owners(store: Store, host: Host, config: Config) -> Iterator[Owner]:
    """Yield every owner there is."""
    yield BASE
    yield from (Owner(NAME, "dispatch", f"{slot:X}") for slot in chains.SLOTS)
    yield from (owner_of(policy.ref, "policy") for policy in store.policies)
    yield from (Owner(NAME, "selector", str(text)) for text in store.policies.values("pod_set_text"))
    yield from (owner_of(pod.ref, "pod") for pod in store.pods)


# --- what an owner wants ----------------------------------------------------------------------------------------------


def desired(owner: Owner, store: Store, host: Host, config: Config) -> Desired:
    """Return what an owner wants; one that is gone wants nothing."""
    match owner.kind:
        case "base":
            return Desired(tuple(_base(host, config)))
        case "dispatch":
            return Desired(tuple(_dispatch(int(owner.name, 16), store, host)))
        case "selector":
            return Desired(tuple(_selector(owner.name, store, host)))
    namespace, _, name = owner.name.partition("/")
    ref = Ref(namespace, name)
    if owner.kind == "policy":
        policy = store.policies.get(ref)
        return Desired() if policy is None else _policy(policy, store, host)
    pod = store.pods.get(ref)
    return Desired() if pod is None else _pod(pod, store, host)


def _base(host: Host, config: Config) -> Iterator[Object]:
    for family in host.families:
        yield Sysctl(SysctlKey(_SYSCTLS[family]), "1", _BRIDGED)
    yield from chains.base(host, config)


def _dispatch(slot: int, store: Store, host: Host) -> Iterator[Object]:
    here = [
        (address, pod)
        for pod in store.pods_on(host.name)
        if is_policed(pod)
        for address in pod.addresses
        if chains.slot_of(address) == slot
    ]
    held = [(address, pod) for address, pod in here if holder(address, store) == pod.ref]
    for direction in Direction:
        isolated = [Isolated(address, pod.ref) for address, pod in held if isolating(pod, direction, store)]
        for family in host.families:
            own = (one for one in isolated if family_of(one.address) is family)
            yield from chains.branch(slot, own, direction, family)


def _selector(text: str, store: Store, host: Host) -> Iterator[Object]:
    named = {
        pods for policy in store.policies.by("pod_set_text", text) for pods in pod_sets_of(policy) if str(pods) == text
    }
    for pods in named:
        if is_used(pods, store, host):
            yield from (pod_set(pods, family) for family in host.families)


def _policy(policy: NetworkPolicy, store: Store, host: Host) -> Desired:
    if not is_active(policy, store, host):
        return Desired(notes=(Note(str(policy.ref), "selects-no-pod-of-this-host"),))
    objects: dict[Key, Object] = {}
    for direction in Direction:
        if policies.items(policy, direction) is None:
            continue
        for family in host.families:
            for one in policies.sets(policy, direction, family):
                objects[one.key] = one
            rules = policies.rules(policy, direction, family)
            chain = chains.policy_chain(policy, rules, direction, family)
            objects[chain.key] = chain
    return Desired(tuple(objects.values()))


def _pod(pod: Pod, store: Store, host: Host) -> Desired:
    addresses = addresses_of(pod, store, host)
    if not addresses:
        return Desired(notes=tuple(_pod_notes(pod, store)))
    objects: list[Object] = []
    for pods in _sets_with(pod, store, host):
        for address in addresses:
            objects += pod_entries(pods, pod, address)
    if pod.node == host.name:
        objects += (local_pod_entry(pod, address) for address in addresses)
        families = dict.fromkeys(map(family_of, addresses))
        for direction in Direction:
            if isolated_by := isolating(pod, direction, store):
                objects += (chains.pod_chain(pod, isolated_by, direction, family) for family in families)
    return Desired(tuple(objects))


def _sets_with(pod: Pod, store: Store, host: Host) -> Iterator[PodSet]:
    """Yield the used sets that mean a pod: out of its namespace's policies, and of those that choose namespaces."""
    policies_near = store.policies_in(pod.ref.namespace)
    near = {pods for policy in policies_near for pods in pod_sets_of(policy) if not is_wide(pods)}
    for pods in (*near, *_wide_sets(store)):
        if store.matches(selector_of(pods), pod) and is_used(pods, store, host):
            yield pods


def _wide_sets(store: Store) -> Iterator[PodSet]:
    """Yield the sets that choose namespaces by their labels."""
    for pods in store.policies.values("wide_pod_set"):
        assert isinstance(pods, PodSelector | NamedPort)
        yield pods


def _pod_notes(pod: Pod, store: Store) -> Iterator[Note]:
    if pod.host_network:
        yield Note(str(pod.ref), "on-host-network")
    elif pod.finished:
        yield Note(str(pod.ref), "finished")
    elif not pod.addresses:
        yield Note(str(pod.ref), "no-address-yet")
    for address in pod.addresses if is_policed(pod) else ():
        held_by = holder(address, store)
        if held_by is not None and held_by != pod.ref:
            yield Note(str(pod.ref), f"address-taken {address} by {held_by}")


def claims(key: Key) -> bool:
    """Return whether a listed object is the firewall's to delete."""
    match key:
        case SetKey(name) | EntryKey(name):
            name = without_family(name)
            return name == LOCAL_PODS or name.startswith(SET_PREFIXES)
        case ChainKey(table=Table.FILTER, name=name) | JumpKey(table=Table.FILTER, chain=name):
            return name in _CHAINS or name.startswith(_CHAIN_PREFIXES)
        case _:
            return False


CONTROLLER: Final = Controller(name=NAME, affected=affected, owners=owners, desired=desired, claims=claims)
