"""A reflector mirrors what the server has, through every fault a server or a wire can have, and never loses by not reading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kuberouterpy import cluster
from kuberouterpy.cluster import ClusterNetworkPolicy, Delete, NetworkPolicy, Ref, Rejection, Replace, Service, Upsert
from kuberouterpy.errors import SourceError
from kuberouterpy.sources.reflector import ABSENT_S, BACKOFF_S, Reflector, Resource
from kuberouterpy.sources.transport import ApiError, Query, Reply
from kuberouterpy.store import Store

SERVICES = Resource(Service, "/api/v1/services")
POLICIES = Resource(NetworkPolicy, "/apis/networking.k8s.io/v1/networkpolicies")


def service(name: str, port: int, **spec: Any) -> dict[str, Any]:
    """Return a Service as JSON has it."""
    return {
        "metadata": {"name": name, "namespace": "d"},
        "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"port": port}], **spec},
    }


class Server:
    """An API server of one kind, in memory: history, compaction, and one planned fault a request."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.version = 1
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.compacted = 0
        self.page_limit = 2
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.between_pages: list[Any] = []

    # --- what people do with it

    def put(self, item: dict[str, Any]) -> None:
        name = item["metadata"]["name"]
        self._happen("MODIFIED" if name in self.objects else "ADDED", item)
        self.objects[name] = self.history[-1][2]

    def delete(self, name: str) -> None:
        if name in self.objects:
            self._happen("DELETED", self.objects.pop(name))

    def compact(self) -> None:
        self.compacted = self.version
        self.history.clear()

    def _happen(self, type_: str, item: dict[str, Any]) -> None:
        self.version += 1
        stamped = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
        self.history.append((self.version, type_, stamped))

    # --- what a reflector sees

    def get(self, path: str, query: Query | None = None) -> Reply:
        self.requests.append("list")
        query = query or {}
        fault = self._fault()
        if fault == "garbage":
            return Reply(200, b"<html>502 Bad Gateway</html>")
        if fault == "empty":
            return Reply(200, b"{}")
        if fault == "other":
            return Reply(200, b'{"kind":"Status","metadata":{"resourceVersion":"9"},"items":null}')
        first = int(str(query.get("continue", "0")))
        if first and self.between_pages:
            self.between_pages.pop(0)()
        if first and self.compacted > first // 1000:
            raise ApiError("continue token expired", status=410)
        start, limit = first % 1000, int(query.get("limit", 0)) and self.page_limit
        items = [self.objects[name] for name in sorted(self.objects)]
        page = items[start : start + limit] if limit else items
        more = limit and start + limit < len(items)
        meta = {
            "resourceVersion": str(self.version),
            "continue": str(self.version * 1000 + start + limit) if more else "",
        }
        body = json.dumps({"kind": self.resource.list_kind, "metadata": meta, "items": page or None}).encode()
        return Reply(200, body[: len(body) // 2] if fault == "truncated" else body)

    @contextmanager
    def stream_lines(self, path: str, query: Query, *, read_s: float) -> Iterator[Any]:
        self.requests.append("watch")
        fault = self._fault()
        assert query["allowWatchBookmarks"] == "true"
        assert read_s > int(query["timeoutSeconds"])
        since = int(query["resourceVersion"])
        if since < self.compacted:
            raise ApiError("too old resource version", status=410)
        yield Watch(list(self._lines(since, fault)), cut=fault in {"cut", "truncated"})

    def _lines(self, since: int, fault: str) -> Iterator[bytes]:
        if fault == "expired":
            yield b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}'
            return
        if fault == "other":
            yield b'{"type":"SURPRISE","object":{"metadata":{"name":"x","resourceVersion":"999999"}}}'
        events = [one for one in self.history if one[0] > since]
        for index, (_, type_, item) in enumerate(events):
            line = json.dumps({"type": type_, "object": item}).encode()
            if fault == "cut" and index == len(events) // 2:
                return
            if fault in {"garbage", "truncated", "empty"} and index == len(events) // 2:
                yield {"garbage": b"<html>", "truncated": line[: len(line) // 2], "empty": b"{}"}[fault]
                return
            yield line
        bookmark = {
            "type": "BOOKMARK",
            "object": {"kind": "Service", "metadata": {"resourceVersion": str(self.version)}},
        }
        yield json.dumps(bookmark).encode()

    def _fault(self) -> str:
        fault = self.faults.pop(0) if self.faults else ""
        match fault:
            case "429":
                raise ApiError("too many requests", status=429, retry_after_s=7.0)
            case "500" | "410" | "401" | "504":
                raise ApiError(f"status {fault}", status=int(fault))
            case "refused":
                raise SourceError("connection refused")
        return fault


class Watch:
    """Lines, and an end that is clean or cut."""

    def __init__(self, lines: list[bytes], *, cut: bool) -> None:
        self.lines = lines
        self.cut = cut
        self.patient_s: list[float] = []

    def __iter__(self) -> Iterator[bytes]:
        yield from self.lines
        if self.cut:
            raise SourceError("connection reset by peer")

    def patience(self, seconds: float) -> None:
        self.patient_s.append(seconds)

    def abort(self) -> None:
        raise AssertionError("not stopped here")


class World:
    """A server, a reflector and a store; time passes only by pauses."""

    def __init__(self, resource: Resource = SERVICES) -> None:
        self.server = Server(resource)
        self.store = Store({resource.kind})
        self.events: list[cluster.Event] = []
        self.health: list[str] = []
        self.reflector = Reflector(
            resource, self.server, self._put, healthy=self.health.append, chance=lambda: 1.0, clock=lambda: 0.0
        )

    def _put(self, event: cluster.Event) -> None:
        self.events.append(event)
        self.store.apply(event)

    def attempts(self, count: int = 1) -> list[float]:
        return [self.reflector.attempt() for _ in range(count)]

    def names(self) -> set[str]:
        return {ref.name for ref in self.store.table(self.server.resource.kind).refs()}

    def ports(self) -> dict[str, tuple[int, ...]]:
        return {one.ref.name: tuple(port.port for port in one.ports) for one in self.store.services}

    def expected(self) -> dict[str, tuple[int, ...]]:
        return {
            name: tuple(port["port"] for port in item["spec"]["ports"]) for name, item in self.server.objects.items()
        }


@pytest.fixture
def world() -> World:
    return World()


def test_a_list_comes_in_pages_and_ends_in_one_replace(world: World) -> None:
    for number in range(5):
        world.server.put(service(f"s{number}", 80 + number))
    world.attempts()
    assert world.server.requests == ["list", "list", "list", "watch"]
    assert [type(event) for event in world.events] == [Replace]
    assert world.ports() == world.expected()
    assert world.store.synced


def test_an_empty_list_is_a_replace_too(world: World) -> None:
    world.attempts()
    assert world.events == [Replace(Service, ())]
    assert world.store.synced


def test_a_watch_goes_on_where_it_ended_without_listing_again(world: World) -> None:
    world.attempts()
    world.server.put(service("a", 80))
    world.attempts()
    world.server.put(service("a", 81))
    world.server.put(service("b", 82))
    world.attempts()
    world.server.delete("a")
    world.attempts()
    assert world.server.requests == ["list", "watch", "watch", "watch", "watch"]
    assert [type(event) for event in world.events] == [Replace, Upsert, Upsert, Upsert, Delete]
    assert world.ports() == {"b": (82,)}


def test_a_bookmark_moves_the_version_past_a_compaction(world: World) -> None:
    world.attempts()
    world.server.version += 50
    world.attempts()
    world.server.compact()
    world.attempts()
    assert world.server.requests.count("list") == 1


@pytest.mark.parametrize("fault", ["410", "expired"])
def test_a_lost_history_is_listed_again_and_what_vanished_meanwhile_goes(world: World, fault: str) -> None:
    world.server.put(service("a", 80))
    world.server.put(service("b", 80))
    world.attempts()
    world.server.delete("a")
    world.server.compact()
    world.server.faults = [fault]
    pauses = world.attempts(2)
    assert world.server.requests.count("list") == 2
    assert pauses[0] < BACKOFF_S[0]
    assert world.names() == {"b"}


def test_a_list_whose_continue_token_expired_is_taken_in_one_piece(world: World) -> None:
    for number in range(5):
        world.server.put(service(f"s{number}", 80))
    world.server.between_pages = [world.server.compact]
    world.attempts()
    assert world.ports() == world.expected()


@pytest.mark.parametrize("fault", ["garbage", "truncated", "empty", "other", "500", "refused", "401"])
def test_a_list_that_cannot_be_read_deletes_nothing(world: World, fault: str) -> None:
    world.server.put(service("a", 80))
    world.attempts()
    world.server.faults = ["410", fault, fault, fault]
    world.attempts(4)
    assert world.names() == {"a"}
    assert [type(event) for event in world.events] == [Replace]


@pytest.mark.parametrize("fault", ["garbage", "truncated", "empty", "cut"])
def test_a_watch_line_that_cannot_be_read_is_asked_for_again(world: World, fault: str) -> None:
    world.attempts()
    for number in range(4):
        world.server.put(service(f"s{number}", 80))
    world.server.faults = [fault]
    world.attempts(2)
    assert world.ports() == world.expected()
    assert world.server.requests.count("list") == 1


def test_a_line_that_stays_unreadable_is_passed_by_listing_again(world: World) -> None:
    world.attempts()
    world.server.put(service("a", 80))
    world.server.faults = ["garbage"] * 3
    world.attempts(4)
    assert world.server.requests.count("list") == 2
    assert world.names() == {"a"}


def test_pauses_double_to_their_limit_and_start_over(world: World) -> None:
    world.server.faults = ["refused"] * 8
    assert world.attempts(8) == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    world.attempts()
    world.server.faults = ["refused"]
    assert world.attempts() == [0.8]


def test_pauses_have_jitter_and_never_vanish() -> None:
    server = Server(SERVICES)
    server.faults = ["refused"] * 3
    reflector = Reflector(SERVICES, server, lambda event: None, chance=lambda: 0.0, clock=lambda: 0.0)
    assert [reflector.attempt() for _ in range(3)] == [0.4, 0.8, 1.6]


def test_a_server_that_asks_for_patience_gets_it(world: World) -> None:
    world.server.faults = ["429"]
    assert world.attempts() == [7.0]


def test_a_server_whose_history_is_always_too_old_is_not_asked_without_pause(world: World) -> None:
    world.server.faults = ["", "410"] * 6
    assert world.attempts(6)[1:] == [1.6, 3.2, 6.4, 12.8, 25.6]


def test_watches_that_end_at_once_are_not_repeated_without_pause(world: World) -> None:
    world.server._lines = lambda since, fault: iter(())  # type: ignore[method-assign]
    assert world.attempts(4) == [0.8, 1.6, 3.2, 6.4]


@pytest.mark.parametrize("with_event", [True, False])
def test_a_server_that_went_back_in_time_is_listed_again(world: World, with_event: bool) -> None:
    """An etcd restored from a backup, or a server that started empty, takes a version of its future without a word."""
    world.server.version = 500
    world.server.put(service("old", 80))
    world.attempts()
    world.server.version = 10
    world.server.objects.clear()
    world.server.history.clear()
    if with_event:
        world.server.history.append(
            (502, "ADDED", {**service("s", 80), "metadata": {"name": "s", "namespace": "d", "resourceVersion": "11"}})
        )
    world.server.objects["s"] = service("s", 80)
    world.attempts(2)
    assert world.server.requests.count("list") == 2
    assert world.ports() == world.expected()


def test_health_is_told_with_the_reason(world: World) -> None:
    world.server.faults = ["refused"]
    world.attempts(2)
    assert world.health[0] == "connection refused"
    assert set(world.health[1:]) == {""}


def test_silence_after_bookmarks_is_noticed_sooner(world: World) -> None:
    seen: list[Watch] = []
    original = world.server.stream_lines

    @contextmanager
    def stream_lines(path: str, query: Query, *, read_s: float) -> Iterator[Any]:
        with original(path, query, read_s=read_s) as watch:
            seen.append(watch)
            yield watch

    world.server.stream_lines = stream_lines  # type: ignore[method-assign]
    world.attempts()
    assert [watch.patient_s for watch in seen] == [[180]]


# --- objects that cannot be used --------------------------------------------------------------------------------------


def test_a_refused_object_keeps_its_last_good_record_through_watch_and_list(world: World) -> None:
    world.server.put(service("a", 80))
    world.attempts()
    world.server.put(service("a", 81, type="Absurd"))
    world.attempts()
    assert world.ports() == {"a": (80,)}
    world.server.compact()
    world.server.faults = ["410"]
    world.attempts(2)
    assert world.ports() == {"a": (80,)}
    assert [one.reason for one in world.store.rejections.values()] == ["spec.type: 'Absurd' is unknown"]
    world.server.put(service("a", 82))
    world.attempts()
    assert (world.ports(), world.store.rejections) == ({"a": (82,)}, {})


def test_one_absurd_object_does_not_hold_up_the_others(world: World) -> None:
    world.server.put(service("a", 80))
    world.server.put(service("b", 80, ports="all"))
    world.server.put(service("c", 80))
    world.attempts()
    assert world.names() == {"a", "c"}
    assert set(world.store.rejections) == {(Service, Ref("d", "b"))}


def test_a_bad_part_is_told_beside_the_record(world: World) -> None:
    world.server.put(service("a", 80, externalIPs=["nonsense"]))
    world.attempts()
    world.server.put(service("a", 81, externalIPs=["nonsense"]))
    world.attempts()
    assert world.ports() == {"a": (81,)}
    assert [type(event) for event in world.events] == [Replace, Upsert, Rejection]
    assert len(world.store.rejections) == 1


def policy(name: str, **spec: Any) -> dict[str, Any]:
    """Return a NetworkPolicy as JSON has it."""
    return {"metadata": {"name": name, "namespace": "d"}, "spec": {"podSelector": {}, **spec}}


BAD = [{"from": [{}]}]


@pytest.mark.parametrize("by_list", [True, False])
def test_a_new_policy_that_is_refused_isolates(by_list: bool) -> None:
    world = World(POLICIES)
    if not by_list:
        world.attempts()
    world.server.put(policy("p", ingress=BAD))
    world.attempts()
    record = world.store.policies.get(Ref("d", "p"))
    assert record is not None
    assert (record.ingress, record.egress) == ((), None)
    assert len(world.store.rejections) == 1


@pytest.mark.parametrize("by_list", [True, False])
def test_a_known_policy_that_is_refused_keeps_its_rules(by_list: bool) -> None:
    world = World(POLICIES)
    world.server.put(policy("p", ingress=[{}]))
    world.attempts()
    good = world.store.policies.get(Ref("d", "p"))
    world.server.put(policy("p", ingress=BAD))
    if by_list:
        world.server.compact()
        world.attempts()
    world.attempts()
    assert world.store.policies.get(Ref("d", "p")) == good
    assert len(world.store.rejections) == 1


def test_a_policy_that_was_deleted_and_comes_back_refused_isolates() -> None:
    world = World(POLICIES)
    world.server.put(policy("p", ingress=[{}]))
    world.attempts()
    world.server.delete("p")
    world.server.put(policy("p", ingress=BAD))
    world.attempts()
    record = world.store.policies.get(Ref("d", "p"))
    assert record is not None
    assert record.ingress == ()


def test_an_object_that_is_no_longer_for_us_goes() -> None:
    resource = Resource(cluster.EndpointSlice, "/apis/discovery.k8s.io/v1/endpointslices")
    world = World(resource)
    item: dict[str, Any] = {"metadata": {"name": "a", "namespace": "d"}, "addressType": "IPv4"}
    world.server.put(item)
    world.attempts()
    assert world.names() == {"a"}
    world.server.put({**item, "metadata": {**item["metadata"], "labels": {"service.kubernetes.io/headless": ""}}})
    world.attempts()
    assert world.names() == set()


# --- the property -----------------------------------------------------------------------------------------------------

FAULTS = ["", "410", "429", "500", "401", "504", "refused", "garbage", "truncated", "empty", "other", "cut", "expired"]
STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 4), st.integers(1, 3)),
    st.tuples(st.just("delete"), st.integers(0, 4)),
    st.tuples(st.just("compact")),
    st.tuples(st.just("fault"), st.sampled_from(FAULTS)),
    st.tuples(st.just("attempt")),
)


@settings(max_examples=250, deadline=None)
@given(steps=st.lists(STEPS, max_size=40))
def test_after_any_faults_the_records_are_the_servers(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    known: set[str] = set()
    deleted: set[str] = set()
    for step in steps:
        match step:
            case ("put", number, port):
                world.server.put(service(f"s{number}", port))
                known.add(f"s{number}")
            case ("delete", number):
                world.server.delete(f"s{number}")
                deleted.add(f"s{number}")
            case ("compact",):
                world.server.compact()
            case ("fault", fault):
                world.server.faults.append(fault)
            case _:
                before = world.names()
                world.attempts()
                # Whatever went wrong: what nobody ever deleted and we knew is still known.
                assert before - deleted <= world.names()
    world.attempts(len(world.server.faults) + 3)
    assert world.ports() == world.expected()
    assert world.names() <= known


# --- a kind that a CRD defines ----------------------------------------------------------------------------------------


class Undefined(Server):
    """A server without the CRD, until ``defined``."""

    defined = False

    def get(self, path: str, query: Query | None = None) -> Reply:
        if not self.defined:
            raise ApiError("404 page not found", status=404)
        return super().get(path, query)


GUARDS = Resource(ClusterNetworkPolicy, "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies", optional=True)
GUARD = {
    "metadata": {"name": "guard"},
    "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
}


def optional(server: Undefined) -> tuple[Reflector, list[cluster.Event], list[str]]:
    events: list[cluster.Event] = []
    told: list[str] = []
    made = Reflector(
        GUARDS, server, events.append, healthy=told.append, wait=lambda _: None, chance=lambda: 0.0, clock=lambda: 0.0
    )
    return made, events, told


def test_a_kind_that_nobody_has_defined_has_no_objects_and_nothing_is_wrong() -> None:
    server = Undefined(GUARDS)
    reflector, events, told = optional(server)
    assert reflector.attempt() == ABSENT_S
    assert events == [Replace(ClusterNetworkPolicy, ())]
    assert told == [""]


def test_a_kind_that_is_defined_later_is_found() -> None:
    server = Undefined(GUARDS)
    server.put(GUARD)
    reflector, events, _ = optional(server)
    reflector.attempt()
    server.defined = True
    reflector.attempt()
    last = events[-1]
    assert isinstance(last, Replace)
    assert [one.ref.name for one in last.records] == ["guard"]


def test_objects_are_gone_only_when_the_server_denies_their_kind_again_and_again() -> None:
    server = Undefined(GUARDS)
    server.put(GUARD)
    server.defined = True
    reflector, events, _ = optional(server)
    reflector.attempt()
    server.defined = False
    server.put(GUARD)
    server.compact()
    seen = len(events)
    for _ in range(20):
        reflector.attempt()
        if len(events) > seen:
            break
    assert events[seen:] == [Replace(ClusterNetworkPolicy, ())]
    assert server.requests.count("list") == 1, "only the first list was answered"


def test_a_required_kind_that_is_not_served_is_an_error() -> None:
    events: list[cluster.Event] = []
    told: list[str] = []
    server = Undefined(SERVICES)
    reflector = Reflector(SERVICES, server, events.append, healthy=told.append, wait=lambda _: None)
    reflector.attempt()
    assert events == []
    assert "404" in told[0]
