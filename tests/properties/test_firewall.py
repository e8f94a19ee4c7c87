"""The firewall against its oracle, against itself from scratch, and every state in between two of its plans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from firewall import CONTROLLER
from firewall.policies import AUDIT
from kuberouterpy.cluster import (
    Action,
    Anyone,
    ClusterNetworkPolicy,
    ClusterRule,
    ContainerPort,
    Delete,
    Event,
    IpBlock,
    Kind,
    Namespace,
    NetworkPolicy,
    Node,
    NodeAddress,
    NodeSelector,
    Pod,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Record,
    Ref,
    Replace,
    Tier,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Chain, Entry, Jump, Key, Object, Op, Owner, Set, Sysctl, Verb
from kuberouterpy.family import FAMILIES
from kuberouterpy.labels import PodSelector, Selector, selector, term
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import Store
from kuberouterpy.tracker import Tracker
from tests.firewall import world
from tests.firewall.world import CONFIG, NODES, Cluster, by_owner, desired, filled, host, merged, oracle
from tests.oracle.netfilter import Netfilter, forwarded, to_node
from tests.oracle.networkpolicy import Flow, Oracle

HERE = host("node-0")
NAMESPACES, POD_NAMES, POLICY_NAMES = ("p", "q", "r"), ("a", "b", "c", "d"), ("one", "two")
PORT_NAMES, NUMBERS = ("web", "dns"), (80, 81, 443)
ADDRESSES = {
    4: ("10.1.0.5", "10.1.0.6", "10.1.0.21", "10.1.1.5", "10.1.1.6", "10.1.2.7"),
    6: ("fd00:1::5", "fd00:1::6", "fd00:1::15", "fd00:1:1::5", "fd00:1:1::6", "64:ff9b::7"),
}
NODE_ADDRESSES = {
    "node-0": ("10.0.0.1", "fd00::1"),
    "node-1": ("10.0.0.2", "fd00::2"),
    "node-2": ("10.0.0.3", "fd00::3"),
}
OUTSIDE = {4: ("192.0.2.1", "172.16.0.1"), 6: ("2001:db8::1", "fe80::1")}
PREFIXES = (
    ("0.0.0.0/0", ("0.0.0.0/1", "10.0.0.0/8", "10.1.0.0/24", "10.1.0.5/32", "192.0.2.0/24", "128.0.0.0/1")),
    ("10.0.0.0/8", ("10.1.0.0/16", "10.1.0.5/32", "10.1.1.0/24", "10.0.0.0/8")),
    ("10.1.0.0/16", ("10.1.0.0/28", "10.1.0.6/32")),
    ("10.1.0.4/30", ("10.1.0.5/32",)),
    ("10.1.0.5/32", ()),
    ("192.0.2.0/24", ("192.0.2.1/32",)),
    ("::/0", ("fd00::/8", "fd00:1::5/128", "8000::/1", "::/1", "fd00:1::/64")),
    ("fd00::/8", ("fd00:1::/64", "fd00:1::5/128")),
    ("fd00:1::/64", ("fd00:1::4/126", "fd00:1::/64")),
    ("64:ff9b::/96", ("64:ff9b::7/128",)),
)

# --- random facts -----------------------------------------------------------------------------------------------------

LABELS = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("x", "y")), max_size=2)
TERMS = st.one_of(
    st.builds(
        lambda key, operator, values: term(key, operator, tuple(values)),
        st.sampled_from(("app", "tier")),
        st.sampled_from(("In", "NotIn")),
        st.sets(st.sampled_from(("x", "y", "z")), min_size=1),
    ),
    st.builds(term, st.sampled_from(("app", "tier")), st.sampled_from(("Exists", "DoesNotExist"))),
)
SELECTORS = st.one_of(
    st.just(Selector()),
    st.builds(lambda one: selector({}, (one,)), TERMS),
    st.builds(selector, LABELS, st.lists(TERMS, max_size=1).map(tuple)),
)


@st.composite
def blocks(draw: st.DrawFn) -> IpBlock:
    """Return an ipBlock, with exceptions or without."""
    cidr, inner = draw(st.sampled_from(PREFIXES))
    excepts = draw(st.lists(st.sampled_from(inner), max_size=2, unique=True)) if inner else []
    return IpBlock(cidr, tuple(excepts))


PORTS = st.builds(
    lambda protocol, where: PolicyPort(protocol, *where),
    st.sampled_from(tuple(Protocol)),
    st.sampled_from(
        ((None, None), (80, None), (80, 81), (81, 443), (443, 443), ("web", None), ("dns", None), ("no", None))
    ),
)


@st.composite
def rules(draw: st.DrawFn, namespace: str) -> PolicyRule:
    """Return an item of a policy of ``namespace``."""
    pods = st.one_of(
        st.builds(lambda one: PodSelector(one, namespace), SELECTORS),
        st.builds(lambda one, where: PodSelector(one, "", where), SELECTORS, SELECTORS),
    )
    peers = draw(st.lists(st.one_of(pods, pods, blocks()), max_size=3))
    return PolicyRule(tuple(peers), tuple(draw(st.lists(PORTS, max_size=2))))


AUDITED = st.sampled_from(({}, {}, {}, {AUDIT: "true"}))
WIDE = st.builds(lambda one, where: PodSelector(one, "", where), SELECTORS, SELECTORS)
NODE_SETS = st.builds(NodeSelector, SELECTORS)
NETWORKS = st.builds(lambda one: IpBlock(one[0]), st.sampled_from(PREFIXES))


@st.composite
def cluster_rules(draw: st.DrawFn, direction: str) -> ClusterRule:
    """Return an item of a ClusterNetworkPolicy, perhaps one that could not be read."""
    wide = st.one_of(WIDE, WIDE, NETWORKS, NODE_SETS) if direction == "egress" else WIDE
    peers = draw(st.lists(wide, min_size=1, max_size=2).map(tuple))
    ports = draw(st.lists(PORTS, max_size=2).map(tuple))
    action = draw(st.sampled_from(tuple(Action)))
    if draw(st.integers(0, 9)) == 0:
        return ClusterRule(action) if action is Action.ACCEPT else ClusterRule(Action.DENY, (Anyone(),), ports)
    return ClusterRule(action, peers, ports)


@st.composite
def cluster_policies(draw: st.DrawFn) -> ClusterNetworkPolicy:
    """Return a policy of the cluster; priorities often meet."""
    return ClusterNetworkPolicy(
        Ref("", draw(st.sampled_from(("first", "second", "third")))),
        draw(st.sampled_from(tuple(Tier))),
        draw(st.sampled_from((0, 10, 10, 1000))),
        draw(WIDE),
        draw(st.lists(cluster_rules("ingress"), max_size=3).map(tuple)),
        draw(st.lists(cluster_rules("egress"), max_size=3).map(tuple)),
    )


@st.composite
def policies(draw: st.DrawFn) -> NetworkPolicy:
    """Return a policy that isolates one direction, both or none."""
    namespace = draw(st.sampled_from(NAMESPACES))
    directions = st.none() | st.lists(rules(namespace), max_size=2).map(tuple)
    return NetworkPolicy(
        Ref(namespace, draw(st.sampled_from(POLICY_NAMES))),
        draw(SELECTORS),
        draw(directions),
        draw(directions),
        draw(AUDITED),
    )


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    """Return a pod: addresses are few, so that pods share them, change them and lack them."""
    ports = draw(
        st.lists(
            st.builds(
                ContainerPort, st.sampled_from(PORT_NAMES), st.sampled_from(tuple(Protocol)), st.sampled_from(NUMBERS)
            ),
            max_size=3,
        )
    )
    addresses = tuple(
        one for version in (4, 6) for one in draw(st.lists(st.sampled_from(ADDRESSES[version]), max_size=1))
    )
    odd = draw(st.integers(0, 9))
    return Pod(
        Ref(draw(st.sampled_from(NAMESPACES)), draw(st.sampled_from(POD_NAMES))),
        node=draw(st.sampled_from(("node-0", "node-0", "node-1", "node-2", ""))),
        addresses=addresses,
        labels=draw(LABELS),
        ports=tuple(ports),
        host_network=odd == 0,
        finished=odd == 1,
        created=draw(st.sampled_from(("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"))),
    )


SPACES = st.builds(lambda name, labels: Namespace(Ref("", name), labels), st.sampled_from(NAMESPACES), LABELS)
RECORDS: st.SearchStrategy[Record] = st.one_of(pods(), pods(), policies(), policies(), cluster_policies(), SPACES)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Record, ...]:
    """Return facts of a cluster that mean something: namespaces, pods with different addresses, policies."""
    places = [(v4, v6) for v4, v6 in zip(ADDRESSES[4], ADDRESSES[6], strict=True)]
    spaces = [Namespace(Ref("", name), draw(LABELS)) for name in NAMESPACES]
    some = []
    for index, place in enumerate(draw(st.lists(st.sampled_from(places), min_size=2, max_size=5, unique=True))):
        one = draw(pods())
        node = draw(st.sampled_from(NODES))
        some.append(
            Pod(Ref(one.ref.namespace, f"n{index}"), node, place, one.labels, one.ports, one.host_network, one.finished)
        )
    machines = [world.node(name, *NODE_ADDRESSES[name], **draw(LABELS)) for name in NODES]
    cluster = draw(st.lists(cluster_policies(), max_size=3))
    return (*spaces, *machines, *some, *cluster, *draw(st.lists(policies(), min_size=1, max_size=4)))


FLOWS = [
    Flow(source, destination, protocol, port)
    for version in (4, 6)
    for source in (*ADDRESSES[version], OUTSIDE[version][0], OUTSIDE[version][1])
    for destination in (
        *ADDRESSES[version],
        OUTSIDE[version][0],
        *(one[version == 6] for one in NODE_ADDRESSES.values()),
    )
    for protocol, port in (("tcp", 80), ("tcp", 81), ("udp", 443), ("sctp", 80), ("icmp", 0), ("tcp", 8080))
]


# --- compiled == oracle -----------------------------------------------------------------------------------------------


# Two thousand sets of policies in all; ten tests, so that each stays short.
@pytest.mark.parametrize("batch", range(10))
@settings(max_examples=200, deadline=None)
@given(records=clusters(), data=st.data())
def test_compiled_rules_decide_as_the_oracle_does(batch: int, records: tuple[Record, ...], data: st.DataObject) -> None:
    cluster = Cluster(records)
    for flow in data.draw(st.lists(st.sampled_from(FLOWS), min_size=24, max_size=32)):
        through_vip = data.draw(st.booleans())
        expected, (actual, verdicts) = cluster.oracle.allowed(flow), cluster.connect(flow, through_vip=through_vip)
        if cluster.node_of(flow.source) is None and cluster.node_of(flow.destination) is None:
            continue
        assert expected == actual, (flow, through_vip, [verdict.path for verdict in verdicts])
        assert all(not verdict.mark for verdict in verdicts if verdict.accepted), "our mark stays on the packet"
        assert actual or verdicts[-1].logged, "a denied packet is logged"


# --- incremental == from scratch --------------------------------------------------------------------------------------


FEW = ("p", "q")
FEW_ADDRESSES = (("10.1.0.5", "fd00:1::5"), ("10.1.0.6",), ("10.1.1.5", "fd00:1:1::5"), ())
SIMPLE = st.sampled_from(
    (Selector(), selector({"app": "x"}), selector({"app": "y"}), selector({}, (term("app", "NotIn", ("x",)),)))
)
FIELDS: dict[Kind, dict[str, st.SearchStrategy[object]]] = {
    Namespace: {"labels": st.sampled_from(({}, {"app": "x"}, {"app": "y"}))},
    Node: {
        "labels": st.sampled_from(({}, {"app": "x"}, {"app": "y"})),
        "addresses": st.sampled_from(((), (NodeAddress("InternalIP", "10.0.0.1"),))),
    },
    Pod: {
        "labels": st.sampled_from(({}, {"app": "x"}, {"app": "y"})),
        "addresses": st.sampled_from(FEW_ADDRESSES),
        "node": st.sampled_from(("node-0", "node-1")),
        "finished": st.booleans(),
        "host_network": st.sampled_from((False, False, True)),
        "created": st.sampled_from(("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z")),
        "ports": st.sampled_from(
            ((), (ContainerPort("web", Protocol.TCP, 80),), (ContainerPort("web", Protocol.TCP, 81),))
        ),
    },
}
"""What an event may change of a record that is there, each alone: so that nothing else in the same change covers for it."""


@st.composite
def few_rules(draw: st.DrawFn, namespace: str) -> tuple[PolicyRule, ...] | None:
    """Return one direction of a policy, out of few that often need the same sets."""
    own, others = PodSelector(draw(SIMPLE), namespace), PodSelector(draw(SIMPLE), "", draw(SIMPLE))
    peers = draw(st.sampled_from(((), (own,), (others,), (own, others), (IpBlock("10.1.0.0/16"),))))
    ports = draw(st.sampled_from(((), (PolicyPort(Protocol.TCP, 80),), (PolicyPort(Protocol.TCP, "web"),))))
    return draw(st.sampled_from((None, (), (PolicyRule(peers, ports),), (PolicyRule(peers, ports),))))


@st.composite
def few_cluster_policies(draw: st.DrawFn, before: ClusterNetworkPolicy | None) -> ClusterNetworkPolicy:
    """Return a policy of the cluster that often needs the same sets as others; or ``before`` with one field changed."""
    wide = st.builds(lambda one, where: PodSelector(one, "", where), SIMPLE, SIMPLE)
    peer = st.one_of(wide, st.builds(NodeSelector, SIMPLE), st.just(IpBlock("10.1.0.0/16")))
    ports = st.sampled_from(((), (PolicyPort(Protocol.TCP, "web"),)))

    def rules_of(peers: st.SearchStrategy[PolicyPeer]) -> tuple[ClusterRule, ...]:
        one = st.builds(
            lambda action, who, what: ClusterRule(action, (who,), what), st.sampled_from(Action), peers, ports
        )
        return tuple(draw(st.lists(one, max_size=2)))

    made = ClusterNetworkPolicy(
        before.ref if before else Ref("", draw(st.sampled_from(("first", "second")))),
        draw(st.sampled_from(tuple(Tier))),
        draw(st.sampled_from((1, 2))),
        draw(wide),
        rules_of(wide),
        rules_of(peer),
    )
    field = draw(st.sampled_from(("tier", "priority", "subject", "ingress", "egress")))
    return replace(before, **{field: getattr(made, field)}) if before else made


@st.composite
def few(draw: st.DrawFn, kind: Kind, before: Record | None = None) -> Record:
    """Return a record of few possible ones; with ``before``, that one with a single field changed."""
    if kind is NetworkPolicy:
        known = before if isinstance(before, NetworkPolicy) else None
        ref = known.ref if known else Ref(draw(st.sampled_from(FEW)), draw(st.sampled_from(POLICY_NAMES)))
        made = NetworkPolicy(
            ref, draw(SIMPLE), draw(few_rules(ref.namespace)), draw(few_rules(ref.namespace)), draw(AUDITED)
        )
        field = draw(st.sampled_from(("pods", "ingress", "egress", "annotations")))
        return replace(known, **{field: getattr(made, field)}) if known else made
    if kind is ClusterNetworkPolicy:
        return draw(few_cluster_policies(before if isinstance(before, ClusterNetworkPolicy) else None))
    fields = FIELDS[kind]
    if before is not None:
        field = draw(st.sampled_from(tuple(fields)))
        return replace(before, **{field: draw(fields[field])})
    namespace = draw(st.sampled_from(FEW))
    names = {Namespace: namespace, Node: draw(st.sampled_from(("node-0", "node-1")))}
    ref = Ref("", names[kind]) if kind in names else Ref(namespace, draw(st.sampled_from(POD_NAMES)))
    made_of = {name: draw(value) for name, value in fields.items()}
    if kind is Pod:  # Mostly pods that policy can mean: the others are reached by single changes.
        made_of.update(finished=False, host_network=False)
    return kind(ref, **made_of)


KINDS_OF_EVENTS = (Pod, Pod, NetworkPolicy, NetworkPolicy, ClusterNetworkPolicy, ClusterNetworkPolicy, Namespace, Node)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Record], list[Event]]:
    """Return a cluster and what happens to it: single fields, whole records, and lists that replace a kind at once."""
    start: list[Record] = [draw(few(Namespace)) for _ in range(2)]
    start += [draw(few(Pod)) for _ in range(draw(st.integers(1, 4)))]
    start += [draw(few(Node)) for _ in range(draw(st.integers(0, 2)))]
    start += [draw(few(NetworkPolicy)) for _ in range(draw(st.integers(1, 3)))]
    start += [draw(few(ClusterNetworkPolicy)) for _ in range(draw(st.integers(0, 2)))]
    known = {(type(one), one.ref): one for one in start}
    events: list[Event] = []
    for _ in range(draw(st.integers(1, 6))):
        kind: Kind = draw(st.sampled_from(KINDS_OF_EVENTS))
        there = [one for (its, _), one in known.items() if its is kind]
        match draw(st.sampled_from(("edit", "edit", "edit", "put", "delete", "list"))):
            case "edit" if there:
                record = draw(few(kind, draw(st.sampled_from(there))))
                events.append(Upsert(record))
                known[kind, record.ref] = record
            case "delete" if there:
                gone = draw(st.sampled_from(there))
                events.append(Delete(kind, gone.ref))
                del known[kind, gone.ref]
            case "list":
                some = {
                    one.ref: one
                    for one in (
                        *draw(st.lists(st.sampled_from(there) if there else few(kind), max_size=2)),
                        *draw(st.lists(few(kind), max_size=3)),
                    )
                }
                events.append(Replace(kind, tuple(some.values())))
                known = {key: one for key, one in known.items() if key[0] is not kind}
                known.update({(kind, ref): one for ref, one in some.items()})
            case _:
                record = draw(few(kind))
                events.append(Upsert(record))
                known[kind, record.ref] = record
    return start, events


def follow(
    events: Sequence[Event], start: Iterable[Record] = (), config: Config = CONFIG
) -> Iterator[tuple[Store, dict[Owner, tuple[Object, ...]]]]:
    """Yield store and incrementally kept objects after each event."""
    store = filled(start)
    kept = by_owner(store, HERE, config)
    for event in events:
        # As the loop does: the store takes the whole event in, then each change is asked for.
        for change in store.apply(event):
            for owner in set(CONTROLLER.affected(change, store, HERE, config)):
                objects = desired(owner, store, HERE, config)
                kept.pop(owner, None)
                if objects:
                    kept[owner] = objects
        yield store, kept


@settings(max_examples=500, deadline=None)
@given(histories())
def test_incremental_equals_from_scratch_after_every_event(history: tuple[list[Record], list[Event]]) -> None:
    start, events = history
    for index, (store, kept) in enumerate(follow(events, start)):
        scratch = by_owner(store, HERE)
        if kept != scratch:
            for owner in {*kept, *scratch}:
                if kept.get(owner) != scratch.get(owner):
                    note(f"after event {index} {owner}: kept {kept.get(owner)}, from scratch {scratch.get(owner)}")
        assert scratch == kept
        merged(scratch)


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORDS, max_size=12), st.randoms(use_true_random=False))
def test_any_order_of_the_same_facts_converges(records: list[Record], random: object) -> None:
    latest = {(type(one), one.ref): one for one in records}
    ordered = list(latest.values())
    shuffled = list(ordered)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ends = [list(follow([Upsert(one) for one in some])) for some in (ordered, shuffled)]
    assert (ends[0][-1][1] if ends[0] else {}) == (ends[1][-1][1] if ends[1] else {})


# --- states in between ------------------------------------------------------------------------------------------------


def steps(tracker: Tracker, standing: dict[Key, Object]) -> Iterator[dict[Key, Object]]:
    """Apply what is pending as the drivers do; yield what stands after each step a packet can see.

    Each set and entry is a step of its own; all chains and jumps of a family are one ``iptables-restore``, thus one step.
    """
    for batch in tracker.pending(0.0):
        packed = [op for op in batch.ops if isinstance(op.value, Chain | Jump) or type(op.key).__name__ in _PACKED]
        for op in batch.ops:
            if op not in packed:
                _apply(op, standing)
                tracker.record(op, None, 0.0)
                yield standing
        for family in FAMILIES:
            for op in packed:
                if op.key.family is family:  # type: ignore[union-attr]
                    _apply(op, standing)
                    tracker.record(op, None, 0.0)
            yield standing


_PACKED = frozenset({"ChainKey", "JumpKey"})
GROUPS = ((Sysctl,), (Set, Entry), (Chain, Jump))
"""As the loop cuts KINDS into drivers."""


def _apply(op: Op, standing: dict[Key, Object]) -> None:
    if op.verb is Verb.DELETE:
        del standing[op.key]
    else:
        assert op.value is not None
        standing[op.key] = op.value


def judged(oracle: Oracle, flows: Iterable[Flow], here: frozenset[str]) -> dict[Flow, bool]:
    """Return what this node owes each flow: ingress of its own pods, egress of its own pods."""
    return {
        flow: (flow.destination not in here or oracle.ingress_ok(flow))
        and (flow.source not in here or oracle.egress_ok(flow))
        for flow in flows
    }


def local_addresses(oracle: Oracle) -> frozenset[str]:
    """Return the addresses that pods of this node hold."""
    every = {address for pod in oracle.pods for address in pod.addresses}
    return frozenset(one for one in every if (pod := oracle.pod_at(one)) is not None and pod.node == HERE.name)


def snapshot(store: Store) -> Oracle:
    """Return the oracle of this moment."""
    return oracle(store)


def at_home(rules: tuple[PolicyRule, ...] | None, namespace: str) -> tuple[PolicyRule, ...] | None:
    """Return rules as a policy of ``namespace`` has them: peers without a namespace selector are its own pods."""

    def moved(peer: PolicyPeer) -> PolicyPeer:
        own = isinstance(peer, PodSelector) and peer.namespaces is None
        return replace(peer, namespace=namespace) if own else peer

    return None if rules is None else tuple(replace(rule, peers=tuple(map(moved, rule.peers))) for rule in rules)


@st.composite
def edits(draw: st.DrawFn, records: tuple[Record, ...]) -> list[Event]:
    """Return what people do to policies: put rules in another order, replace some, add one, delete one."""
    known = {one.ref: one for one in records if isinstance(one, NetworkPolicy)}
    events: list[Event] = []
    for _ in range(draw(st.integers(1, 4))):
        old = draw(st.sampled_from(sorted(known.values(), key=lambda one: one.ref))) if known else None
        match draw(st.sampled_from(("reorder", "reorder", "replace", "replace", "add", "delete"))):
            case "reorder" if old is not None:
                new = replace(old, ingress=turned(old.ingress), egress=turned(old.egress))
            case "replace" if old is not None:
                egress = at_home(draw(policies()).egress, old.ref.namespace)
                new = NetworkPolicy(old.ref, old.pods, draw(two_rules(old.ref.namespace)), egress)
            case "delete" if old is not None:
                events.append(Delete(NetworkPolicy, old.ref))
                del known[old.ref]
                continue
            case _:
                new = draw(policies())
        events.append(Upsert(new))
        known[new.ref] = new
    return events


def turned(rules: tuple[PolicyRule, ...] | None) -> tuple[PolicyRule, ...] | None:
    """Return the same rules from last to first: they mean the same."""
    return rules and rules[::-1]


@st.composite
def two_rules(draw: st.DrawFn, namespace: str) -> tuple[PolicyRule, ...]:
    """Return two rules of one port each, whose peers differ."""
    one, other = draw(st.lists(blocks(), min_size=2, max_size=2)), draw(st.lists(rules(namespace), min_size=1))
    first = PolicyRule((one[0],), (PolicyPort(Protocol.TCP, 80),))
    second = PolicyRule((one[1], *other[0].peers), (PolicyPort(Protocol.TCP, 81),))
    return (first, second)


@settings(max_examples=150, deadline=None)
@given(clusters(), st.data())
def test_an_edit_never_opens_nor_closes_more_than_it_says(records: tuple[Record, ...], data: st.DataObject) -> None:
    """No packet that both the old and the new policies deny ever passes, and none that both allow is ever dropped."""
    flows = data.draw(st.lists(st.sampled_from(PORT_FLOWS), min_size=60, max_size=60, unique=True))
    store, tracker, standing = filled(records), Tracker(GROUPS), dict[Key, Object]()
    for owner in CONTROLLER.owners(store, HERE, CONFIG):
        tracker.replace(owner, CONTROLLER.desired(owner, store, HERE, CONFIG).objects)
    for _ in steps(tracker, standing):
        pass
    here = local_addresses(snapshot(store))
    old = judged(snapshot(store), flows, here)
    for event in data.draw(edits(records)):
        for change in store.apply(event):
            for owner in set(CONTROLLER.affected(change, store, HERE, CONFIG)):
                tracker.replace(owner, CONTROLLER.desired(owner, store, HERE, CONFIG).objects)
        new = judged(snapshot(store), flows, here)
        settled = {flow: verdict for flow, verdict in old.items() if new[flow] == verdict}
        for now in steps(tracker, standing):
            kernel = Netfilter(now.values())
            for flow, verdict in settled.items():
                if {flow.source, flow.destination} & here:
                    own_node = flow.destination in NODE_ADDRESSES[HERE.name]
                    make = to_node if own_node and flow.source in here else forwarded
                    packet = make(flow.source, flow.destination, flow.protocol, flow.port)
                    assert verdict == kernel.send(packet).accepted, (flow, event)
        old = new


PORT_FLOWS = [flow for flow in FLOWS if flow.protocol == "tcp" and flow.port in {80, 81}]


# --- the tests themselves are tested ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_random_clusters_contain_denied_and_allowed_flows(family: int) -> None:
    """A property over nothing but allowed flows would prove nothing."""
    seen: set[bool] = set()

    @settings(max_examples=50, deadline=None, database=None)
    @given(clusters())
    def gather(records: tuple[Record, ...]) -> None:
        oracle = Cluster(records).oracle
        seen.update(oracle.allowed(flow) for flow in FLOWS[::7] if (":" in flow.source) == (family == 6))

    gather()
    assert seen == {True, False}
