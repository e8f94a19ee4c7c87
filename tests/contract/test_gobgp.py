"""The GoBGP driver against real daemons; the daemon's own listing and a second daemon are the judges."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path as File

import grpc
import msgspec
import pytest

from kuberouterpy.cluster import (
    BestPath,
    Delete,
    Event,
    NodeAddress,
    Ref,
    Replace,
    Restarted,
    Service,
    ServiceType,
    Unreachable,
    Upsert,
)
from kuberouterpy.cluster import Node as ClusterNode
from kuberouterpy.config import Config
from kuberouterpy.dataplane import (
    Bfd,
    Key,
    Neighbor,
    NeighborKey,
    Object,
    Path,
    PathKey,
    PolicyStatement,
    PrefixMatch,
    RoutePolicy,
    RoutePolicyKey,
    Speaker,
    SpeakerKey,
)
from kuberouterpy.drivers import Driver
from kuberouterpy.drivers.gobgp import GobgpDriver
from kuberouterpy.errors import DriverError
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp.dialect import DIRECTIONS, V3, Session, Shifted
from kuberouterpy.host import describe
from kuberouterpy.sources.gobgp import GobgpSource, NeighborState
from kuberouterpy.store import Store
from routing import CONTROLLER
from tests.contract import gobgpd, suite

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
    pytest.mark.skipif(not gobgpd.BINARIES, reason="needs gobgpd (Debian package gobgpd)"),
]

SPEAKER = Speaker(
    SpeakerKey(),
    asn=64512,
    router_id="10.99.0.1",
    listen_port=1790,
    listen_addresses=("10.99.0.1", "fd00:99::1"),
    families=(IPV4, IPV6),
    graceful_restart_s=90,
    deferral_s=1,
)


def neighbor(address: str = "10.99.0.2", **fields: object) -> Neighbor:
    values: dict[str, object] = {
        "asn": 64512,
        "local_address": "10.99.0.1",
        "port": 1790,
        "families": (IPV4, IPV6),
        "description": "node-2",
        "connect_retry_s": 1,
        "graceful_restart_s": 90,
    }
    return Neighbor(NeighborKey(address), **(values | fields))  # type: ignore[arg-type]


def path(prefix: str, next_hop: str = "", **fields: object) -> Path:
    hop = next_hop or ("fd00:99::1" if ":" in prefix else "10.99.0.1")
    return Path(PathKey(prefix), hop, **fields)  # type: ignore[arg-type]


EXPORT = RoutePolicy(
    RoutePolicyKey("export"),
    (
        PolicyStatement(
            accept=True,
            neighbors=("10.99.0.2/32", "fd00:99::2/128"),
            prefixes=(PrefixMatch("10.1.0.0/24", 24, 24), PrefixMatch("fd00:1::/64", 64, 64)),
            originated_here=True,
        ),
        PolicyStatement(
            accept=True,
            neighbors=("10.99.0.3/32",),
            prefixes=(PrefixMatch("10.96.0.0/12", 32, 32),),
            communities=("64512:100", "65535:65281"),
            prepend_asn=64512,
            prepend_count=2,
            next_hop_self=True,
            originated_here=True,
        ),
        PolicyStatement(
            accept=True,
            neighbors=("10.99.0.3/32",),
            prefixes=(PrefixMatch("10.1.0.0/16", 16, 24),),
            learned_inside=True,
        ),
    ),
)
OWN = PolicyStatement(accept=True, originated_here=True)
IMPORT = RoutePolicy(
    RoutePolicyKey("import"),
    (
        PolicyStatement(accept=False, prefixes=(PrefixMatch("0.0.0.0/0", 0, 0), PrefixMatch("::/0", 0, 0))),
        PolicyStatement(accept=False, neighbors=("10.99.0.3/32",)),
    ),
    accept_by_default=True,
)

SAMPLES: tuple[Object, ...] = (
    SPEAKER,
    EXPORT,
    IMPORT,
    neighbor(),
    neighbor(
        "fd00:99::2",
        local_address="fd00:99::1",
        asn=64999,
        multihop_ttl=4,
        password="secret",
        description="",
        max_prefixes=50,
    ),
    neighbor("10.99.0.3", reflector_client=True, reflector_cluster="0.0.0.42"),
    path("10.1.0.0/24"),
    path("10.96.0.10/32", communities=("64512:100",), local_preference=200),
    path("fd00:1::/64", communities=("64512:100", "65535:65281")),
)
WITH_BFD = neighbor("fd00:99::3", local_address="fd00:99::1", bfd=Bfd(3784, 3, 300, 400))
"""For daemons that have BFD."""
CHANGES = {
    EXPORT.key: RoutePolicy(EXPORT.key, EXPORT.statements[:1]),
    IMPORT.key: RoutePolicy(IMPORT.key, (OWN,), accept_by_default=False),
    NeighborKey("10.99.0.2"): neighbor(hold_time_s=30, passive=True),
    PathKey("10.1.0.0/24"): path("10.1.0.0/24", "10.99.0.3"),
    PathKey("fd00:1::/64"): path("fd00:1::/64", "fd00:99::3"),
}


def told(daemon: gobgpd.Daemon) -> list[str]:
    """Return all the daemon says of itself, as its own messages, without what only time changes."""
    client = daemon.client
    speaker = getattr(client.call("GetBgp", pb.GetBgpRequest(), pb.GetBgpResponse), "global")
    if not speaker.asn:
        return []
    lines = [str(speaker)]
    for answer in client.collect("ListPeer", pb.ListPeerRequest(), pb.ListPeerResponse):
        for part in ("state", "afi_safis"):
            answer.peer.ClearField(part)
        answer.peer.timers.ClearField("state")
        lines.append(f"{answer.peer}")
    for family in ((1, 1), (2, 1)):
        request = pb.ListPathRequest(
            table_type=client.dialect.number(Shifted.TABLE_GLOBAL), family=pb.Family(afi=family[0], safi=family[1])
        )
        for found in client.collect("ListPath", request, pb.ListPathResponse):
            for one in found.destination.paths:
                one.ClearField("best")
            lines.append(f"{found.destination.prefix}")
            lines += [str(one.nlri) + str(one.pattrs) for one in found.destination.paths]
    for direction in DIRECTIONS.values():
        asked = pb.ListPolicyAssignmentRequest(name="global", direction=direction)
        for held in client.collect("ListPolicyAssignment", asked, pb.ListPolicyAssignmentResponse):
            # A table nobody assigned anything to says so in more than one way.
            if held.assignment.policies:
                lines.append(f"{held.assignment}")
    for kind in (Shifted.SET_PREFIX, Shifted.SET_NEIGHBOR):
        asked_sets = pb.ListDefinedSetRequest(defined_type=client.dialect.number(kind))
        lines += [str(one) for one in client.collect("ListDefinedSet", asked_sets, pb.ListDefinedSetResponse)]
    return sorted(lines)


class Spoken(GobgpDriver):
    """The driver without the speaker, for daemons that cannot stop it: there it belongs to the place."""

    kinds = (RoutePolicy, Neighbor, Path)

    def list(self) -> Mapping[Key, Object]:
        """Return all but the speaker."""
        return {key: value for key, value in super().list().items() if not isinstance(key, SpeakerKey)}


@pytest.fixture(params=gobgpd.BINARIES, ids=gobgpd.version)
def subject(request: pytest.FixtureRequest, tmp_path: File) -> Iterator[suite.Subject]:
    with gobgpd.daemons([request.param], tmp_path) as (daemon,), ExitStack() as drivers:
        stoppable = daemon.client.dialect is V3

        def restart(wanted: Sequence[Object]) -> Driver:
            driver = (GobgpDriver if stoppable else Spoken)(daemon.socket)
            drivers.callback(driver.close)
            return driver

        if not stoppable:
            suite.applied(restart(()), [suite.create(SPEAKER)])
        yield suite.Subject(
            restart=restart,
            samples=SAMPLES if stoppable else (*SAMPLES[1:], WITH_BFD),
            around=() if stoppable else (SPEAKER,),
            changes=CHANGES,
            outside=lambda: told(daemon),
            examples=6,
        )


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


# --- Two daemons that talk to each other ------------------------------------------------------------------------------


class Told:
    """An inbox that keeps what a source put, and the paths a loop would know from it."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def paths(self) -> dict[str, tuple[str, ...]]:
        """Return next hops by prefix, as a store would have them."""
        known: dict[str, tuple[str, ...]] = {}
        for event in list(self.events):
            match event:
                case Upsert(BestPath() as one):
                    known[one.prefix] = one.next_hops
                case Delete(kind, ref) if kind is BestPath:
                    known.pop(ref.name, None)
                case Replace(kind, records) if kind is BestPath:
                    known = {one.prefix: one.next_hops for one in records if isinstance(one, BestPath)}
        return known

    def count(self, kind: type) -> int:
        """Return how many events of a kind came."""
        return sum(isinstance(event, kind) for event in self.events)


class Node:
    """A daemon with its driver and its source; node N has the Nth address of each family."""

    def __init__(self, index: int, daemon: gobgpd.Daemon) -> None:
        self.daemon = daemon
        self.v4, self.v6 = f"10.99.0.{index}", f"fd00:99::{index}"
        self.driver = GobgpDriver(daemon.socket)
        self.told = Told()
        self.source = GobgpSource(daemon.socket, self.told, restart_s=60)
        self.speaker = msgspec.structs.replace(
            SPEAKER, router_id=self.v4, listen_addresses=(self.v4, self.v6), graceful_restart_s=60
        )

    def neighbor(self, other: Node, **fields: object) -> Neighbor:
        # As routing does: one end dials.
        values = {"local_address": self.v4, "hold_time_s": 9, "graceful_restart_s": 60, "passive": self.v4 > other.v4}
        values |= fields
        return neighbor(other.v4, **values)

    def put(self, *values: Object) -> None:
        suite.applied(self.driver, [suite.create(value) for value in values])

    def path(self, prefix: str) -> Path:
        return path(prefix, self.v6 if ":" in prefix else self.v4)

    def state(self, other: Node) -> NeighborState | None:
        return next((one for one in self.source.neighbors() if one.address == other.v4), None)

    def up(self, *others: Node) -> bool:
        states = [self.state(other) for other in others]
        return all(state is not None and state.established for state in states)


@pytest.fixture(params=gobgpd.BINARIES, ids=gobgpd.version)
def nodes(request: pytest.FixtureRequest, tmp_path: File) -> Iterator[list[Node]]:
    """Three nodes whose daemons run but have no configuration; their sources follow."""
    with gobgpd.daemons([request.param] * 3, tmp_path) as running:
        made = [Node(index, daemon) for index, daemon in enumerate(running, 1)]
        for node in made:
            node.source.start()
        yield made
        for node in made:
            node.source.stop()
            node.driver.close()


def mesh(*nodes: Node) -> None:
    """Configure a full mesh and wait until all of it is up."""
    for node in nodes:
        node.put(node.speaker, *(node.neighbor(other) for other in nodes if other is not node))
    for node in nodes:
        gobgpd.eventually(lambda node=node: node.up(*(other for other in nodes if other is not node)))


def test_paths_are_told_withdrawn_and_tied(nodes: list[Node]) -> None:
    """Both families over one IPv4 session; equally good next hops stand in one record; our own paths are never told."""
    one, two, three = nodes
    mesh(one, two, three)
    two.put(two.path("10.1.2.0/24"), two.path("fd00:1:2::/64"), two.path("10.96.0.10/32"))
    three.put(three.path("10.96.0.10/32"))
    one.put(one.path("10.1.1.0/24"))
    expected = {
        "10.1.2.0/24": ("10.99.0.2",),
        "fd00:1:2::/64": ("fd00:99::2",),
        "10.96.0.10/32": ("10.99.0.2", "10.99.0.3"),
    }
    gobgpd.eventually(lambda: one.told.paths() == expected)
    gobgpd.eventually(lambda: one.told.count(Replace) == 1)
    assert one.told.paths() == expected
    state = one.state(two)
    assert state is not None
    suite.applied(three.driver, [suite.delete(three.path("10.96.0.10/32"))])
    gobgpd.eventually(lambda: one.told.paths()["10.96.0.10/32"] == ("10.99.0.2",))
    suite.applied(two.driver, [suite.delete(two.path("fd00:1:2::/64"))])
    gobgpd.eventually(lambda: "fd00:1:2::/64" not in one.told.paths())
    assert "10.1.1.0/24" not in one.told.paths()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_daemon_withdraws_nothing_until_its_neighbors_have_told_all(
    nodes: list[Node], number: signal.Signals
) -> None:
    """Kernel routes follow what is told here: at no moment may a path that comes back be missing."""
    one, two, _ = nodes
    mesh(one, two)
    two.put(two.path("10.1.2.0/24"), two.path("10.1.3.0/24"))
    gobgpd.eventually(lambda: len(one.told.paths()) == 2 and one.told.count(Replace) == 1)
    one.daemon.stop(number)
    # What goes while the daemon is away must go in the end.
    suite.applied(two.driver, [suite.delete(two.path("10.1.3.0/24"))])
    gobgpd.eventually(lambda: one.told.count(Unreachable) == 1)
    one.daemon.start()
    gobgpd.eventually(lambda: one.told.count(Restarted) == 1)
    assert set(one.told.paths()) == {"10.1.2.0/24", "10.1.3.0/24"}
    assert dict(one.driver.list()) == {}
    one.put(one.speaker, one.neighbor(two))
    seen = set()

    def replaced() -> bool:
        seen.add("10.1.2.0/24" in one.told.paths())
        return one.told.count(Replace) == 2

    gobgpd.eventually(replaced, within_s=60)
    assert seen == {True}
    assert set(one.told.paths()) == {"10.1.2.0/24"}


def test_a_hung_daemon_is_an_error_in_seconds_and_loses_nothing(nodes: list[Node]) -> None:
    """SIGSTOP breaks no connection: only deadlines tell."""
    one, two, _ = nodes
    mesh(one, two)
    two.put(two.path("10.1.2.0/24"))
    gobgpd.eventually(lambda: one.told.paths() and one.told.count(Replace) == 1)
    one.daemon.send(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(DriverError, match="no answer from gobgpd within 2 s"):
        one.driver.list()
    assert time.monotonic() - began < 30  # the deadlines of a few calls, also where the machine is busy
    gobgpd.eventually(lambda: one.told.count(Unreachable) == 1)
    one.daemon.send(signal.SIGCONT)
    gobgpd.eventually(lambda: one.told.count(Restarted) == 1)
    assert one.told.paths() == {"10.1.2.0/24": ("10.99.0.2",)}
    assert one.driver.list()[NeighborKey(two.v4)] == one.neighbor(two)


def test_a_daemon_that_hangs_for_longer_than_the_hold_time_costs_neither_end_a_path(nodes: list[Node]) -> None:
    """RFC 8538: the session ends by a notification, and still both keep what the other told until it is back."""
    one, two, _ = nodes
    for node, other in ((one, two), (two, one)):
        node.put(node.speaker, node.neighbor(other, hold_time_s=3))
    gobgpd.eventually(lambda: one.up(two) and two.up(one))
    one.put(one.path("10.1.1.0/24"), one.path("fd00:1:1::/64"))
    two.put(two.path("10.1.2.0/24"), two.path("fd00:1:2::/64"))
    mine, theirs = {"10.1.1.0/24", "fd00:1:1::/64"}, {"10.1.2.0/24", "fd00:1:2::/64"}
    gobgpd.eventually(lambda: _table(one) == _table(two) == mine | theirs)
    begun = _sessions_begun(two, one)
    one.daemon.send(signal.SIGSTOP)
    gobgpd.eventually(lambda: not _established(two, one))
    assert _table(two) == mine | theirs
    one.daemon.send(signal.SIGCONT)
    missing: set[str] = set()

    def back() -> bool:
        for node in (one, two):
            missing.update((mine | theirs) - _table(node))
        return _established(one, two) and _established(two, one) and _sessions_begun(two, one) != begun

    gobgpd.eventually(back)
    assert missing == set()


def test_a_neighbor_keeps_its_session_until_it_changes_itself(nodes: list[Node]) -> None:
    """Neither a new agent that sends it again nor a change of another neighbor resets it."""
    one, two, three = nodes
    mesh(one, two, three)
    flops = _sessions_begun(one, two)
    again = GobgpDriver(one.daemon.socket)
    suite.applied(again, [suite.update(one.neighbor(two)), suite.create(one.speaker)])
    suite.applied(again, [suite.update(one.neighbor(three, hold_time_s=12))])
    again.close()
    gobgpd.eventually(lambda: _hold_time(one, three) == 12)
    gobgpd.eventually(lambda: one.up(two, three))
    assert _sessions_begun(one, two) == flops


def test_policies_are_enforced_and_replaced_without_a_reset(nodes: list[Node]) -> None:
    """Default reject: what no statement accepts does not pass, and a widened policy takes effect at once."""
    one, two, _ = nodes
    two.put(two.speaker, _exports("10.1.2.0/24", to=one))
    one.put(one.speaker, _imports("10.1.0.0/16", "fd00:1::/32"))
    mesh(one, two)
    two.put(two.path("10.1.2.0/24"), two.path("10.1.3.0/24"), two.path("fd00:1:2::/64"), two.path("172.16.0.0/16"))
    gobgpd.eventually(lambda: set(one.told.paths()) == {"10.1.2.0/24"})
    begun = _sessions_begun(two, one)
    suite.applied(two.driver, [suite.update(_exports("10.1.3.0/24", "fd00:1:2::/64", "172.16.0.0/16", to=one))])
    # GoBGP 3 does not withdraw what a narrower policy no longer lets out (its soft reset only sends): 4 does.
    left = {"10.1.2.0/24"} if two.daemon.client.dialect is V3 else set()
    gobgpd.eventually(lambda: set(one.told.paths()) == {"10.1.3.0/24", "fd00:1:2::/64", *left})
    suite.applied(one.driver, [suite.update(_imports("172.16.0.0/12"))])
    gobgpd.eventually(lambda: set(one.told.paths()) == {"172.16.0.0/16"})
    assert _sessions_begun(two, one) == begun
    assert set(two.driver.list()) >= {PathKey("10.1.2.0/24"), PathKey("fd00:1:2::/64")}


def test_what_the_router_wants_makes_routes_on_both_nodes(nodes: list[Node]) -> None:
    """The controller's own objects on two real daemons: each learns the other's pod CIDRs, VIPs stay where they are."""
    one, two, _ = nodes
    settings = Config(
        node_name="node-1",
        enable_ipv6=True,
        bgp_port=1790,
        bgp_graceful_restart=True,
        advertise_cluster_ip=True,
        service_cluster_ip_range=("10.96.0.0/12", "fd00:96::/112"),
    )
    facts = [
        Upsert(ClusterNode(Ref("", f"node-{index}"), addresses(node), (f"10.1.{index}.0/24", f"fd00:1:{index}::/64")))
        for index, node in enumerate((one, two), 1)
    ]
    facts.append(Upsert(Service(Ref("default", "web"), ServiceType.CLUSTER_IP, cluster_ips=("10.96.0.10",))))
    for index, node in enumerate((one, two), 1):
        store = Store()
        for fact in facts:
            store.apply(fact)
        mine = msgspec.structs.replace(settings, node_name=f"node-{index}")
        host = describe(store, mine)
        wanted = {
            value.key: value
            for owner in CONTROLLER.owners(store, host, mine)
            for value in CONTROLLER.desired(owner, store, host, mine).objects
            if type(value) in GobgpDriver.kinds
        }
        ordered = sorted(wanted.values(), key=lambda value: GobgpDriver.kinds.index(type(value)))
        suite.applied(node.driver, [suite.create(value) for value in ordered])
        assert dict(node.driver.list()) == wanted
        assert dict(GobgpDriver(node.daemon.socket).list()) == wanted
    gobgpd.eventually(
        lambda: (
            one.told.paths() == {"10.1.2.0/24": ("10.99.0.2",), "fd00:1:2::/64": ("fd00:99::2",)}
            and two.told.paths() == {"10.1.1.0/24": ("10.99.0.1",), "fd00:1:1::/64": ("fd00:99::1",)}
        )
    )


def addresses(node: Node) -> tuple[NodeAddress, ...]:
    return NodeAddress("InternalIP", node.v4), NodeAddress("InternalIP", node.v6)


def test_many_paths_go_in_one_stream_and_a_bad_one_fails_alone(nodes: list[Node]) -> None:
    one, *_ = nodes
    one.put(one.speaker)
    many = [one.path(f"10.{high}.{low}.0/24") for high in range(1, 9) for low in range(250)]
    began = time.monotonic()
    suite.applied(one.driver, [suite.create(value) for value in many])
    assert time.monotonic() - began < 30  # the deadlines of a few calls, also where the machine is busy
    assert sum(isinstance(key, PathKey) for key in one.driver.list()) == len(many)
    bad = path("10.77.0.0/16", communities=("nonsense",))
    answers = suite.outcomes(one.driver, [suite.create(bad), suite.create(one.path("10.78.0.0/16"))])
    assert "nonsense" in str(answers[bad.key])
    assert answers[PathKey("10.78.0.0/16")] is None


def test_a_password_that_differs_keeps_the_session_down(nodes: list[Node]) -> None:
    """And it stands in no error."""
    one, two, _ = nodes
    one.put(one.speaker, one.neighbor(two, password="right", asn=64512))
    two.put(two.speaker, two.neighbor(one, password="wrong", asn=64512))
    gobgpd.eventually(lambda: one.state(two) is not None)
    suite.applied(two.driver, [suite.update(two.neighbor(one, password="right"))])
    gobgpd.eventually(lambda: one.up(two))
    one.daemon.stop()
    answers = suite.outcomes(one.driver, [suite.update(one.neighbor(two, password="other"))])
    assert "other" not in str(answers[NeighborKey(two.v4)])


def test_a_daemon_of_another_kind_gets_one_clear_error(tmp_path: File) -> None:
    socket = str(tmp_path / "other.sock")
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        with pytest.raises(DriverError, match=r"serves neither api\.GoBgpService nor apipb\.GobgpApi"):
            GobgpDriver(socket).list()
    finally:
        server.stop(None)


def test_no_daemon_is_an_error_that_names_the_socket(tmp_path: File) -> None:
    with pytest.raises(DriverError, match="no socket at"):
        GobgpDriver(str(tmp_path / "absent.sock")).list()


def _imports(*prefixes: str) -> RoutePolicy:
    return RoutePolicy(IMPORT.key, (OWN, PolicyStatement(accept=True, prefixes=_exactly_inside(*prefixes))))


def _exports(*prefixes: str, to: Node) -> RoutePolicy:
    statement = PolicyStatement(
        accept=True, neighbors=(f"{to.v4}/32",), prefixes=_exactly_inside(*prefixes), originated_here=True
    )
    return RoutePolicy(EXPORT.key, (statement,))


def _exactly_inside(*prefixes: str) -> tuple[PrefixMatch, ...]:
    made = (PrefixMatch(one, int(one.partition("/")[2]), 64 if ":" in one else 24) for one in prefixes)
    return tuple(sorted(made))


def _peer(node: Node, other: Node) -> pb.Peer:
    answers = node.daemon.client.collect("ListPeer", pb.ListPeerRequest(), pb.ListPeerResponse)
    return next(answer.peer for answer in answers if answer.peer.conf.neighbor_address == other.v4)


def _sessions_begun(node: Node, other: Node) -> tuple[int, int]:
    peer = _peer(node, other)
    return peer.state.messages.sent.open, peer.timers.state.uptime.seconds


def _established(node: Node, other: Node) -> bool:
    return _peer(node, other).state.session_state == Session.ESTABLISHED


def _table(node: Node) -> set[str]:
    """Return the prefixes that the daemon itself has a valid path for."""
    found: set[str] = set()
    for afi in (1, 2):
        request = pb.ListPathRequest(
            table_type=node.daemon.client.dialect.number(Shifted.TABLE_GLOBAL), family=pb.Family(afi=afi, safi=1)
        )
        answers = node.daemon.client.collect("ListPath", request, pb.ListPathResponse)
        found.update(answer.destination.prefix for answer in answers)
    return found


def _hold_time(node: Node, other: Node) -> int:
    return _peer(node, other).timers.config.hold_time
