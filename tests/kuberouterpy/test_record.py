"""The flight recorder: what is written is read back, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    Action,
    Anyone,
    BestPath,
    ClusterNetworkPolicy,
    ClusterRule,
    ContainerPort,
    Delete,
    Event,
    IpBlock,
    Kind,
    LoadBalancerIngress,
    Namespace,
    NetworkPolicy,
    Node,
    NodeAddress,
    NodeSelector,
    Pod,
    PolicyPort,
    PolicyRule,
    Record,
    Ref,
    Replace,
    Service,
    Tier,
    Upsert,
)
from kuberouterpy.cluster import Link as LinkFact
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Neighbor, NeighborKey, Op, Verb
from kuberouterpy.family import FAMILIES, IPV4, IPV6
from kuberouterpy.labels import EVERYTHING, PodSelector, selector, term
from kuberouterpy.protocol import Protocol
from kuberouterpy.record import (
    KINDS,
    Deed,
    Frame,
    RecordError,
    Seen,
    Snapshot,
    Step,
    facts_at,
    frame,
    frames,
    intact,
    lines,
    snapshot,
)
from kuberouterpy.recorder import PARTS, Recorder, exported, parts, read
from kuberouterpy.store import Store
from tests.kuberouterpy.test_tally import WEB, slice_of

CONFIG = Config(node_name="n1", enable_ipv6=True)
POLICY = NetworkPolicy(
    Ref("default", "p"),
    selector({"app": "web"}),
    ingress=(
        PolicyRule(
            (IpBlock("10.0.0.0/8", ("10.1.0.0/16",)), IpBlock("fd00::/8"), PodSelector(EVERYTHING, "", EVERYTHING)),
            (PolicyPort(Protocol.TCP, "http"), PolicyPort(Protocol.UDP, 1000, 2000), PolicyPort(Protocol.SCTP)),
        ),
        PolicyRule((PodSelector(selector(None, (term("a", "NotIn", ("x", "y")),)), "default"),)),
    ),
    egress=(),
)
PEERS = (PodSelector(EVERYTHING, "", EVERYTHING), IpBlock("fd00::/8"), NodeSelector(selector({"zone": "a"})), Anyone())
TIERED = ClusterNetworkPolicy(
    Ref("", "tiered"),
    Tier.BASELINE,
    7,
    PodSelector(EVERYTHING, "", EVERYTHING),
    (ClusterRule(Action.DENY, PEERS, (PolicyPort(Protocol.TCP, 80),), "no"),),
    (ClusterRule(Action.PASS, PEERS[:1]),),
)
RECORDS: tuple[Record, ...] = (
    replace(WEB, load_balancer=(LoadBalancerIngress("203.0.113.1", proxy=True),)),
    *(slice_of(family, "2023-11-14T22:13:20Z") for family in FAMILIES),
    Pod(
        Ref("default", "web-1"),
        "n1",
        ("10.1.0.1", "fd00:10:1::1"),
        {"app": "web"},
        (ContainerPort("http", Protocol.TCP, 8080),),
    ),
    Namespace(Ref("", "default"), {"team": "own"}),
    Node(Ref("", "n1"), (NodeAddress("InternalIP", "10.0.0.1"),), ("10.1.0.0/24",), taints=("x",)),
    POLICY,
    TIERED,
    BestPath("10.1.1.0/24", ("10.0.0.2",), "10.0.0.2"),
    LinkFact("eth0", 2, mtu=1500, up=True, addresses=("10.0.0.1/24", "fd00::1/64")),
)


def store_of(records: Iterable[Record]) -> Store:
    store = Store()
    for one in records:
        store.apply(Upsert(one))
    return store


def everything(store: Store) -> dict[Kind, dict[Ref, Record]]:
    return {kind: {one.ref: one for one in store.table(kind)} for kind in KINDS.values()}


def whole(records: Iterable[Record] = RECORDS) -> Snapshot:
    return snapshot("n1", "0.1.0", CONFIG, {kind: tuple(table) for kind, table in store_of(records).tables()})


def test_every_kind_of_fact_comes_back_as_it_was() -> None:
    known = facts_at(frames(frame(whole(), 5.0)), 5.0)
    assert known.tables == everything(store_of(RECORDS))
    assert {type(one) for one in RECORDS} == set(KINDS.values()), "a new kind of fact belongs into this test"
    assert (known.node, known.config["enable_ipv6"]) == ("n1", True)


def test_passwords_in_annotations_are_never_written() -> None:
    node = Node(
        Ref("", "n1"), annotations={"kube-router.io/peer.passwords": "aHVudGVyMg==", "kube-router.io/node.asn": "1"}
    )
    raw = frame(whole((node,)), 1.0)
    known = facts_at(frames(raw), 1.0).tables[Node][node.ref]
    assert isinstance(known, Node)
    assert known.annotations == {"kube-router.io/peer.passwords": "(hidden)", "kube-router.io/node.asn": "1"}


class Ring:
    """A recorder without its thread, a store, and a clock."""

    def __init__(self, folder: Path, limit_bytes: int = 1 << 20) -> None:
        self.recorder = Recorder(folder, limit_bytes=limit_bytes, node="n1", version="0", config=CONFIG)
        self.store = Store((Pod,))
        self.store.apply(Replace(Pod, ()))
        self.wall = 1_700_000_000.0

    def step(self, *events: Event) -> None:
        self.wall += 1
        for event in events:
            for change in self.store.apply(event):
                self.recorder.change(change)
        self.recorder.flush(self.store, self.wall)
        self.write()

    def write(self) -> None:
        self.recorder._queue.put(None)
        self.recorder.run()
        # What run() closed goes on in a new file, as after a restart: a snapshot is due.
        self.recorder.hungry = True


EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda name, labels: Upsert(Pod(Ref("default", name), labels=labels)),
            st.sampled_from("abc"),
            st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
        ),
        st.builds(lambda name: Delete(Pod, Ref("default", name)), st.sampled_from("abc")),
    ),
    max_size=4,
)


@settings(max_examples=60)
@given(steps=st.lists(st.tuples(st.booleans(), EVENTS), min_size=1, max_size=8), cut=st.data())
def test_cut_off_anywhere_a_recording_holds_all_but_the_frame_that_was_cut(
    steps: list[tuple[bool, list[Event]]], cut: st.DataObject
) -> None:
    """Snapshots and steps in any order; a kill while any byte was written. What stands before it is as it was then."""
    store = Store()
    raw = b""
    truth: list[tuple[float, int, dict[Ref, Record]]] = []
    for number, (snapshots, events) in enumerate(steps):
        changes = [change for event in events for change in store.apply(event)]
        from kuberouterpy.recorder import _Events, _step

        body = (
            snapshot("n1", "0", CONFIG, {Pod: tuple(store.pods)})
            if snapshots or number == 0
            else _step(_Events(changes, (), ()))
        )
        raw += frame(body, float(number))
        truth.append((float(number), len(raw), {one.ref: one for one in store.pods}))
    end = cut.draw(st.integers(0, len(raw)))
    survived = [(at, facts) for at, size, facts in truth if size <= end]
    assert intact(raw[:end]) == max([size for _, size, _ in truth if size <= end], default=0)
    found = list(frames(raw[:end]))
    assert [one.at for one in found] == [at for at, _ in survived]
    for at, facts in survived:
        assert facts_at(found, at).tables[Pod] == facts


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_damage_in_the_middle_costs_nothing_before_it_and_nothing_from_the_next_snapshot_on(
    place: float, flip: int
) -> None:
    bodies: list[Step | Snapshot] = [
        whole(),
        Step(seen=(Seen("drift", "x"),)),
        whole(RECORDS[:3]),
        Step(),
        whole(RECORDS[:1]),
    ]
    pieces = [frame(body, float(at)) for at, body in enumerate(bodies)]
    raw = bytearray(b"".join(pieces))
    index = int(place * len(raw))
    raw[index] ^= flip
    hit = next(number for number in range(5) if index < sum(map(len, pieces[: number + 1])))
    again = next((number for number in range(hit + 1, 5) if isinstance(bodies[number], Snapshot)), 5)
    assert [one.at for one in frames(bytes(raw))] == [*map(float, range(hit)), *map(float, range(again, 5))]


def test_a_ring_is_replayed_at_any_time(tmp_path: Path) -> None:
    ring = Ring(tmp_path)
    first, second = (Pod(Ref("default", "a"), labels={"v": v}) for v in "12")
    ring.step(Upsert(first))
    ring.step(Upsert(second))
    ring.step(Delete(Pod, first.ref))
    row = list(read(tmp_path))
    for after_s, wanted in ((1, first), (2, second), (3, None)):
        assert facts_at(row, 1_700_000_000.0 + after_s).tables[Pod].get(first.ref) == wanted
    with pytest.raises(RecordError, match=r"begins later, at 2023-11-14T22:13:21\.000Z"):
        facts_at(row, 1_700_000_000.0)


def test_a_ring_never_holds_more_than_its_limit_and_always_the_newest(tmp_path: Path) -> None:
    limit = 64 << 10
    ring = Ring(tmp_path, limit)
    for number in range(400):
        noise = {
            f"{number * 7919 % 10007:05d}{key}": f"{(number * 31 + key) * 2654435761 % 2**32:x}" for key in range(8)
        }
        ring.wall += 1
        for change in ring.store.apply(Upsert(Pod(Ref("default", f"p{number % 5}"), labels=noise))):
            ring.recorder.change(change)
        ring.recorder.flush(ring.store, ring.wall)
        while not ring.recorder._queue.empty():
            taken = ring.recorder._queue.get_nowait()
            assert taken is not None
            ring.recorder._write(*taken)
        assert sum(path.stat().st_size for path in parts(tmp_path)) <= limit
    row = list(read(tmp_path))
    assert row[-1].at == ring.wall
    assert row[0].at > 1_700_000_001.0
    assert facts_at(row, ring.wall).tables[Pod] == {one.ref: one for one in ring.store.pods}
    assert len(parts(tmp_path)) >= PARTS // 2


def test_a_snapshot_that_does_not_fit_switches_the_recorder_off_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = Ring(tmp_path, 1 << 10)
    pods = [Upsert(Pod(Ref("default", f"{number * 2654435761 % 2**32:x}"))) for number in range(200)]
    ring.step(*pods)
    assert ring.recorder.off
    assert parts(tmp_path) == []
    assert "recorder-off" in caplog.text


def test_a_folder_that_cannot_be_written_stops_the_recorder_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ring = Ring(tmp_path / "file" / "below")
    ring.step(Upsert(Pod(Ref("default", "a"))))
    ring.step(Upsert(Pod(Ref("default", "b"))))
    assert ring.recorder.off


def test_steps_that_the_disk_could_not_take_are_followed_by_a_snapshot(tmp_path: Path) -> None:
    ring = Ring(tmp_path)
    for number in range(300):  # nobody writes: the queue is full
        for change in ring.store.apply(Upsert(Pod(Ref("default", f"p{number}")))):
            ring.recorder.change(change)
        ring.recorder.flush(ring.store, ring.wall)
    assert ring.recorder.dropped
    assert ring.recorder.hungry
    while not ring.recorder._queue.empty():
        taken = ring.recorder._queue.get_nowait()
        assert taken is not None
        ring.recorder._write(*taken)
    ring.recorder.flush(ring.store, ring.wall)
    ring.write()
    assert len(facts_at(read(tmp_path), ring.wall).tables[Pod]) == 300


def test_nothing_is_recorded_before_facts_are_complete(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, limit_bytes=1 << 20, node="n", version="0", config=CONFIG)
    store = Store(KUBERNETES_KINDS)
    for change in store.apply(Replace(Service, (WEB,))):
        recorder.change(change)
    recorder.flush(store, 1.0)
    assert recorder._queue.empty()


def test_neighbors_are_told_when_they_change(tmp_path: Path) -> None:
    states = {"10.0.0.9": "active", "fd00::9": "established"}
    recorder = Recorder(
        tmp_path, limit_bytes=1 << 20, node="n", version="0", config=CONFIG, neighbors=lambda: dict(states)
    )
    store = Store()
    recorder.flush(store, 1.0)
    recorder.flush(store, 2.0)
    states["10.0.0.9"] = "established"
    recorder.flush(store, 3.0)
    recorder._queue.put(None)
    recorder.run()
    told = [line.split(maxsplit=1)[1] for line in lines(read(tmp_path)) if "neighbor" in line]
    assert told == ["neighbor  10.0.0.9 active", "neighbor  fd00::9 established", "neighbor  10.0.0.9 established"]


def test_a_password_of_a_neighbor_is_in_no_line(tmp_path: Path) -> None:
    ring = Ring(tmp_path)
    neighbor = Neighbor(NeighborKey("10.0.0.9"), 64512, password="hunter2")
    ring.recorder.deed(Op(Verb.CREATE, neighbor.key, neighbor), "routing/peer/10.0.0.9", "refused")
    ring.step()
    assert exported(tmp_path) != b""
    shown = "\n".join(lines(read(tmp_path)))
    assert "FAILED    create neighbor 10.0.0.9 asn 64512 # routing/peer/10.0.0.9: refused" in shown
    assert b"hunter2" not in b"".join(repr(one).encode() for one in read(tmp_path))


def test_lines_say_what_happened_in_order() -> None:
    row = [
        Frame(0.0, whole(RECORDS[:1])),
        Frame(
            61.5,
            Step(
                deeds=(Deed("create virtual tcp 10.96.0.10:80 rr", "proxy/service/default/web"),),
                seen=(Seen("drift", "missing x"),),
            ),
        ),
    ]
    assert list(lines(row)) == [
        "1970-01-01T00:00:00.000Z snapshot  n1, agent 0.1.0: 1 Service",
        "1970-01-01T00:01:01.500Z did       create virtual tcp 10.96.0.10:80 rr # proxy/service/default/web",
        "1970-01-01T00:01:01.500Z drift     missing x",
    ]


def test_an_empty_recording_says_so() -> None:
    with pytest.raises(RecordError, match="is empty"):
        facts_at(frames(b""), 1.0)
    assert list(frames(b"kRf1 no frame at all")) == []
    assert {IPV4, IPV6} == set(FAMILIES)
