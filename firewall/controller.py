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

from collections.abc import Iterator
from typing import Final

from firewall import chains, cluster_policies, pod_chains, policies
from firewall.affected import BASE, NAME, affected, owner_of, policy_owner
from firewall.chains import Isolated
from firewall.facts import (
    addresses_of,
    holder,
    is_active,
    is_policed,
    is_used,
    judges,
    selector_of,
    wide_sets,
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
from kuberouterpy import sysctls
from kuberouterpy.cluster import ClusterNetworkPolicy, NetworkPolicy, Pod, Ref
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
    Table,
)
from kuberouterpy.family import family_of
from kuberouterpy.host import Host
from kuberouterpy.store import (
    PodSet,
    Store,
    is_wide,
    node_sets_of,
    pod_sets_of,
)

_CHAINS: Final = frozenset({chains.INPUT, chains.TO_HOST, chains.FORWARD, chains.OUTPUT, chains.ICMP, chains.UNSEEN})
_CHAIN_PREFIXES: Final = ("KUBE-POD-FW-", "KUBE-NWPLCY-", *chains.TREES.values())


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
        yield sysctls.TCP_LOOSE.sysctl()
    yield from sysctls.always(NAME, host.families)
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
    for pods in (*near, *wide_sets(store)):
        if store.matches(selector_of(pods), pod) and is_used(pods, store, host):
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
