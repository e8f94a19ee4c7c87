"""Who owns what, what a change touches, and what it leaves alone."""

from __future__ import annotations

from msgspec.structs import replace

from firewall import CONTROLLER
from firewall.affected import owner_of, selector_owner
from kuberouterpy.cluster import Delete, Event, NetworkPolicy, Pod, PolicyPort, PolicyRule, Record, Ref, Replace, Upsert
from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    Entry,
    EntryKey,
    JumpKey,
    Key,
    Owner,
    SetKey,
    SysctlKey,
    Table,
)
from kuberouterpy.family import IPV4
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import Store
from tests.firewall.world import CONFIG, by_owner, filled, host, merged, namespace, pod, policy

HERE = host("node-0")
DB = PodSelector(selector({"app": "db"}), "x")
A = pod("x/a", addresses=("10.1.0.5", "fd00:1::5"), labels={"app": "web"})
FAR_DB = pod("x/db", node="node-1", addresses=("10.1.1.5",), labels={"app": "db"})
FROM_DB = policy("x/p", selector({"app": "web"}), ingress=(PolicyRule((DB,)),))
BASE = (namespace("x"), A, FAR_DB)


def touched(store: Store, event: Event) -> set[str]:
    """Return the owners that an event touches, as people read them."""
    changes = store.apply(event)
    return {str(owner) for change in changes for owner in CONTROLLER.affected(change, store, HERE, CONFIG)}


def wanted(*records: Record) -> dict[Key, object]:
    """Return everything wanted on node-0."""
    return dict(merged(by_owner(filled(records), HERE)))


def entries(*records: Record) -> set[str]:
    """Return the members of all sets but the local pods'."""
    return {key.member for key in wanted(*records) if isinstance(key, EntryKey) and "local-pods" not in key.set}


def test_a_policy_touches_its_pods_its_sets_and_their_pods() -> None:
    store = filled(BASE)
    assert touched(store, Upsert(FROM_DB)) == {
        "firewall/policy/x/p",
        "firewall/pod/x/a",
        "firewall/dispatch/5",
        "firewall/selector/pods app=db in namespace x",
        "firewall/pod/x/db",
    }


def test_an_edit_of_rules_touches_only_the_policy() -> None:
    store = filled((*BASE, FROM_DB))
    edited = replace(FROM_DB, ingress=(PolicyRule((DB,), (PolicyPort(Protocol.TCP, 80),)),))
    assert touched(store, Upsert(edited)) == {"firewall/policy/x/p"}


def test_a_pod_of_another_node_touches_only_itself() -> None:
    store = filled((*BASE, FROM_DB))
    assert touched(store, Upsert(replace(FAR_DB, labels={"app": "old"}))) == {"firewall/pod/x/db"}


def test_a_second_pod_under_the_same_policy_touches_no_other_pod() -> None:
    store = filled((*BASE, FROM_DB))
    second = pod("x/b", addresses=("10.1.0.6",), labels={"app": "web"})
    assert touched(store, Upsert(second)) == {"firewall/pod/x/b", "firewall/dispatch/6"}


def test_a_list_that_brings_two_pods_at_once_makes_their_policy_active() -> None:
    """Each of the two finds the other already there; one must answer for both."""
    store = filled((namespace("x"), FAR_DB, FROM_DB))
    second = pod("x/b", addresses=("10.1.0.6",), labels={"app": "web"})
    both = touched(store, Replace(Pod, (A, second, FAR_DB)))
    assert {"firewall/policy/x/p", str(selector_owner(DB)), "firewall/pod/x/db"} <= both


def test_a_list_that_brings_two_policies_at_once_fills_the_set_they_share() -> None:
    store = filled(BASE)
    both = touched(store, Replace(NetworkPolicy, (FROM_DB, replace(FROM_DB, ref=Ref("x", "q")))))
    assert {str(selector_owner(DB)), "firewall/pod/x/db"} <= both


def test_a_label_of_a_namespace_touches_only_pods_that_a_selector_gains_or_loses() -> None:
    where = PodSelector(selector({"app": "db"}), "", selector({"team": "red"}))
    store = filled((*BASE, namespace("y"), policy("x/p", EVERYTHING, ingress=(PolicyRule((where,)),))))
    assert touched(store, Upsert(namespace("x", other="label"))) == set()
    assert touched(store, Upsert(namespace("x", team="red"))) == {"firewall/pod/x/db"}


def test_facts_the_firewall_does_not_read_touch_nothing() -> None:
    from kuberouterpy.cluster import Node, Service, ServiceType

    store = filled(BASE)
    assert touched(store, Upsert(Service(Ref("x", "s"), ServiceType.CLUSTER_IP))) == set()
    assert touched(store, Upsert(Node(Ref("", "node-1")))) == set()


def test_a_policy_without_pods_here_costs_nothing_and_says_so() -> None:
    store = filled((namespace("x"), FAR_DB, FROM_DB))
    only_base = {owner.kind for owner in by_owner(store, HERE)}
    assert only_base == {"base", "dispatch"}
    notes = CONTROLLER.desired(owner_of(FROM_DB.ref, "policy"), store, HERE, CONFIG).notes
    assert [note.reason for note in notes] == ["selects-no-pod-of-this-host"]


def test_selectors_that_read_alike_share_one_set() -> None:
    again = replace(FROM_DB, ref=Ref("x", "q"), ingress=None, egress=(PolicyRule((DB,)),))
    sets = {key.name for key in wanted(*BASE, FROM_DB, again) if isinstance(key, SetKey)}
    assert len([name for name in sets if name.startswith("KUBE-SRC-")]) == 1


def test_pods_that_policy_cannot_mean_are_in_no_set() -> None:
    assert entries(*BASE, FROM_DB) == {"10.1.1.5"}
    for odd in ({"host_network": True}, {"finished": True}, {"addresses": ()}):
        assert entries(namespace("x"), A, replace(FAR_DB, **odd), FROM_DB) == set()  # type: ignore[arg-type]


def test_a_finished_pod_of_this_host_is_no_subject() -> None:
    objects = wanted(namespace("x"), replace(A, finished=True), FROM_DB)
    assert not [key for key in objects if isinstance(key, ChainKey) and key.name.startswith("KUBE-POD-FW-")]


def test_an_address_belongs_to_the_newer_of_two_pods() -> None:
    old = replace(FAR_DB, created="2026-01-01T00:00:00Z")
    new = pod("x/new", node="node-1", addresses=("10.1.1.5",), created="2026-01-02T00:00:00Z")
    assert entries(namespace("x"), A, old, new, FROM_DB) == set()
    assert entries(namespace("x"), A, old, replace(new, finished=True), FROM_DB) == {"10.1.1.5"}
    store = filled((namespace("x"), A, old, new, FROM_DB))
    assert "firewall/pod/x/db" in touched(store, Delete(Pod, new.ref))
    notes = CONTROLLER.desired(owner_of(old.ref, "pod"), filled((old, new)), HERE, CONFIG).notes
    assert [note.reason for note in notes] == ["address-taken 10.1.1.5 by x/new"]


def test_a_pod_with_a_named_port_brings_its_own_number() -> None:
    named = policy("x/p", EVERYTHING, egress=(PolicyRule((DB,), (PolicyPort(Protocol.TCP, "sql"),)),))
    db = pod("x/db", node="node-1", addresses=("10.1.1.5",), labels={"app": "db"}, ports=(("sql", "tcp", 5432),))
    assert "10.1.1.5,tcp:5432" in entries(namespace("x"), A, db, named)
    assert not [member for member in entries(namespace("x"), A, replace(db, ports=()), named) if "," in member]


def test_entries_say_whom_they_are_for() -> None:
    found = [one for one in wanted(*BASE, FROM_DB).values() if isinstance(one, Entry)]
    assert {one.comment for one in found} == {"x/a", "x/db"}


def test_an_unknown_owner_wants_nothing() -> None:
    store = filled(BASE)
    for kind in ("pod", "policy", "selector"):
        assert CONTROLLER.desired(Owner("firewall", kind, "no/body"), store, HERE, CONFIG).objects == ()


def test_it_claims_its_own_and_kube_routers_and_nothing_else() -> None:
    ours = (
        "KUBE-ROUTER-FORWARD",
        "KUBE-ROUTER-INPUT",
        "KUBE-POD-FW-X",
        "KUBE-NWPLCY-DEFAULT",
        "KUBE-ROUTER-TO-PODS-11",
    )
    others = ("KUBE-ROUTER-SERVICES", "KUBE-ROUTER-SERVICES-MASQ", "FORWARD", "KUBE-FORWARD", "DOCKER-USER")
    assert all(CONTROLLER.claims(ChainKey(IPV4, Table.FILTER, name)) for name in ours)
    assert not any(CONTROLLER.claims(ChainKey(IPV4, Table.FILTER, name)) for name in others)
    assert not CONTROLLER.claims(ChainKey(IPV4, Table.NAT, "KUBE-POD-FW-X"))
    assert CONTROLLER.claims(JumpKey(IPV4, Table.FILTER, "INPUT", "KUBE-ROUTER-INPUT"))
    assert CONTROLLER.claims(EntryKey("inet6:KUBE-SRC-X", "::1"))
    assert CONTROLLER.claims(SetKey("kube-router-local-pods"))
    assert not CONTROLLER.claims(SetKey("kube-router-svip"))
    assert not CONTROLLER.claims(SysctlKey("net/ipv4/ip_forward"))


def test_a_chain_of_a_policy_does_not_depend_on_pods() -> None:
    before, after = (
        [one for one in wanted(*some, FROM_DB).values() if isinstance(one, Chain) and "NWPLCY" in one.key.name]
        for some in (BASE, (*BASE, pod("x/b", addresses=("10.1.0.9",), labels={"app": "web"})))
    )
    assert before
    assert before == after
