"""The firewall as a controller: who owns which object, and what a change touches.

| owner | contributes |
|---|---|
| ``firewall/base`` | sysctls, fixed chains, jumps, the set of local pods |
| ``firewall/policy/NS/NAME``, ``firewall/cnp/NAME`` | the policy's chains and block sets, while it selects a pod of this host |
| ``firewall/selector/TEXT`` | the set of a selector or named port, while such a policy uses it |
| ``firewall/nodes/TEXT`` | the set of a selector of nodes with its entries, while such a policy uses it |
| ``firewall/pod/NS/NAME`` | the pod's entries; its chains, where it is of this host and isolated |
| ``firewall/dispatch/N`` | the branch of the tree for isolated pods whose address ends in N |

A policy is *active* where it selects a pod of this host, a set is *used* where an active policy needs it: a node carries
what its own pods need, not the whole cluster's policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from firewall import chains, cluster_policies, pod_chains, policies
from firewall.chains import Isolated
from firewall.facts import (
    addresses_of,
    holder,
    is_active,
    is_policed,
    is_used,
    judges,
    policies_about,
    selector_of,
    selects,
    subjects,
    users,
)
from firewall.peers import (
    LOCAL_PODS,
    SET_PREFIXES,
    local_pod_entry,
    node_set,
    pod_entries,
    pod_set,
    without_family,
)
from firewall.policies import Direction
from kuberouterpy.cluster import ClusterNetworkPolicy, Namespace, NetworkPolicy, Node, NodeSelector, Pod, Ref
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
from kuberouterpy.store import (
    Change,
    NamedPort,
    PodSet,
    Policy,
    Store,
    is_wide,
    node_sets_of,
    pod_sets_of,
)

NAME: Final = "firewall"
BASE: Final = Owner(NAME, "base")

_BRIDGED: Final = "traffic between two pods of one bridge meets the firewall"
_LOOSE: Final = "a connection that was cut is not taken up again from its middle"
_SYSCTLS: Final = {
    Family.IPV4: "net/bridge/bridge-nf-call-iptables",
    Family.IPV6: "net/bridge/bridge-nf-call-ip6tables",
}
_CHAINS: Final = frozenset({chains.INPUT, chains.TO_HOST, chains.FORWARD, chains.OUTPUT, chains.ICMP, chains.UNSEEN})
_CHAIN_PREFIXES: Final = ("KUBE-POD-FW-", "KUBE-NWPLCY-", *chains.TREES.values())


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
    for selector in set(map(selector_of, _wide_sets(store))):
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


def owners(store: Store, host: Host, config: Config) -> Iterator[Owner]:
    """Yield every owner there is."""
    yield BASE
    yield from (Owner(NAME, "dispatch", f"{slot:X}") for slot in chains.SLOTS)
    yield from map(policy_owner, store.policies)
    yield from map(policy_owner, store.cluster_policies)
    texts = (*store.policies.values("pod_set_text"), *store.cluster_policies.values("pod_set_text"))
    yield from (Owner(NAME, "selector", str(text)) for text in dict.fromkeys(texts))
    yield from (Owner(NAME, "nodes", str(text)) for text in store.cluster_policies.values("node_set_text"))
    yield from (owner_of(pod.ref, "pod") for pod in store.pods)


# --- what an owner wants ----------------------------------------------------------------------------------------------


def desired(owner: Owner, store: Store, host: Host, config: Config) -> Desired:
    """Return what an owner wants; one that is gone wants nothing."""
    match owner.kind:
        case "base":
            return Desired(tuple(_base(store, host, config)))
        case "dispatch":
            return Desired(tuple(_dispatch(int(owner.name, 16), store, host)))
        case "selector":
            return Desired(tuple(_selector(owner.name, store, host)))
        case "nodes":
            return Desired(tuple(_nodes(owner.name, store, host)))
        case "cnp":
            cluster = store.cluster_policies.get(Ref("", owner.name))
            return Desired() if cluster is None else _cluster_policy(cluster, store, host)
    namespace, _, name = owner.name.partition("/")
    ref = Ref(namespace, name)
    if owner.kind == "policy":
        policy = store.policies.get(ref)
        return Desired() if policy is None else _policy(policy, store, host)
    pod = store.pods.get(ref)
    return Desired() if pod is None else _pod(pod, store, host)


def _base(store: Store, host: Host, config: Config) -> Iterator[Object]:
    if config.netpol_cut_flows:
        yield Sysctl(SysctlKey("net/netfilter/nf_conntrack_tcp_loose"), "0", _LOOSE)
    for family in host.families:
        yield Sysctl(SysctlKey(_SYSCTLS[family]), "1", _BRIDGED)
    yield from chains.base(host, config, egress_to_host=any(policy.egress for policy in store.cluster_policies))


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
        isolated = [Isolated(address, pod.ref) for address, pod in held if judges(pod, direction, store)]
        for family in host.families:
            own = (one for one in isolated if family_of(one.address) is family)
            yield from chains.branch(slot, own, direction, family)


def _selector(text: str, store: Store, host: Host) -> Iterator[Object]:
    named = {
        pods
        for table in (store.policies, store.cluster_policies)
        for policy in table.by("pod_set_text", text)
        for pods in pod_sets_of(policy)
        if str(pods) == text
    }
    for pods in named:
        if is_used(pods, store, host):
            yield from (pod_set(pods, family) for family in host.families)


def _nodes(text: str, store: Store, host: Host) -> Iterator[Object]:
    users_of = [one for one in store.cluster_policies.by("node_set_text", text) if is_active(one, store, host)]
    for nodes in {one for policy in users_of for one in node_sets_of(policy) if str(one) == text}:
        for family in host.families:
            yield from node_set(nodes, store.nodes, family)


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
            chain = pod_chains.policy_chain(policy, rules, direction, family)
            objects[chain.key] = chain
    return Desired(tuple(objects.values()))


def _cluster_policy(policy: ClusterNetworkPolicy, store: Store, host: Host) -> Desired:
    if not is_active(policy, store, host):
        return Desired(notes=(Note(cluster_policies.title(policy), "selects-no-pod-of-this-host"),))
    objects: dict[Key, Object] = {}
    for direction in Direction:
        if not cluster_policies.items(policy, direction):
            continue
        for family in host.families:
            for one in cluster_policies.sets(policy, direction, family):
                objects[one.key] = one
            rules = cluster_policies.rules(policy, direction, family)
            chain = pod_chains.policy_chain(policy, rules, direction, family)
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
            if judged_by := judges(pod, direction, store):
                objects += (pod_chains.pod_chain(pod, judged_by, direction, family) for family in families)
    return Desired(tuple(objects))


def _sets_with(pod: Pod, store: Store, host: Host) -> Iterator[PodSet]:
    """Yield the used sets that mean a pod: out of its namespace's policies, and of those that choose namespaces."""
    policies_near = store.policies_in(pod.ref.namespace)  # the cluster's policies choose namespaces by labels
    near = {pods for policy in policies_near for pods in pod_sets_of(policy) if not is_wide(pods)}
    for pods in (*near, *_wide_sets(store)):
        if store.matches(selector_of(pods), pod) and is_used(pods, store, host):
            yield pods


def _wide_sets(store: Store) -> Iterator[PodSet]:
    """Yield the sets that choose namespaces by their labels."""
    for pods in dict.fromkeys((*store.policies.values("wide_pod_set"), *store.cluster_policies.values("wide_pod_set"))):
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
