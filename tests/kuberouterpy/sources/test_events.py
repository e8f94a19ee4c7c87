"""Events: told once, within a budget, and never at the loop's cost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kuberouterpy.cluster import ClusterNetworkPolicy, Kind, NetworkPolicy, Node, Pod, Ref, Rejection, Service
from kuberouterpy.errors import SourceError
from kuberouterpy.sources.events import EventRecorder, Occurrence, Reporter, name_of
from kuberouterpy.sources.transport import ApiError, Reply

WEB = Occurrence(
    Service, Ref("default", "web"), "UnknownScheduler", "kube-router.io/service.scheduler 'x' is unknown", "u-1"
)


N1 = Reporter("kuberouterpy", "n1")


class Api:
    """Keeps what is posted; ``failure`` is raised instead while it is set."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Any]] = []
        self.patched: list[tuple[str, Any]] = []
        self.failure: SourceError | None = None

    def post(self, path: str, body: object) -> Reply:
        if self.failure:
            raise self.failure
        self.posted.append((path, body))
        return Reply(201, b"{}")

    def patch(self, path: str, body: object, content_type: str = "") -> Reply:
        self.patched.append((path, body))
        return Reply(200, b"{}")


class World:
    """A recorder whose clock stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0
        self.api = Api()
        stamp = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.recorder = EventRecorder(self.api, host="n1", clock=lambda: self.now, now=lambda: stamp)


@pytest.fixture
def world() -> World:
    return World()


def test_an_event_names_its_object(world: World) -> None:
    world.recorder.handle(WEB)
    [(path, body)] = world.api.posted
    assert path == "/api/v1/namespaces/default/events"
    assert body["metadata"] == {"name": name_of(WEB, N1), "namespace": "default"}
    assert body["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "default",
        "name": "web",
        "uid": "u-1",
    }
    assert (body["type"], body["reason"], body["message"]) == ("Warning", WEB.reason, WEB.message)
    assert (body["firstTimestamp"], body["source"]) == (
        "2026-01-02T03:04:05Z",
        {"component": "kuberouterpy", "host": "n1"},
    )


@pytest.mark.parametrize(
    ("kind", "ref", "version", "namespace", "uid"),
    [
        (Node, Ref("", "n1"), "v1", "default", "n1"),
        (NetworkPolicy, Ref("a", "p"), "networking.k8s.io/v1", "a", "u"),
        (ClusterNetworkPolicy, Ref("", "p"), "policy.networking.k8s.io/v1alpha2", "default", "u"),
    ],
)
def test_events_of_each_kind_stand_where_kubectl_looks(
    kind: Kind, ref: Ref, version: str, namespace: str, uid: str, world: World
) -> None:
    world.recorder.handle(Occurrence(kind, ref, "R", "m", "u"))
    [(path, body)] = world.api.posted
    assert path == f"/api/v1/namespaces/{namespace}/events"
    assert (body["involvedObject"]["apiVersion"], body["involvedObject"]["uid"]) == (version, uid)


def test_the_same_message_is_posted_once_in_ten_minutes(world: World) -> None:
    for world.now in (0.0, 1.0, 599.0, 600.0):
        world.recorder.handle(WEB)
    assert [body["count"] for _, body in world.api.posted] == [1, 4]


def test_an_object_that_keeps_failing_has_a_budget_and_others_have_theirs(world: World) -> None:
    for number in range(30):
        world.recorder.handle(Occurrence(Service, WEB.ref, "R", f"message {number}"))
    world.recorder.handle(Occurrence(Service, Ref("default", "other"), "R", "m"))
    assert len(world.api.posted) == 11
    assert world.recorder.dropped == 20
    world.now = 301.0
    world.recorder.handle(Occurrence(Service, WEB.ref, "R", "later"))
    assert len(world.api.posted) == 12


def test_an_event_from_before_a_restart_is_counted_up(world: World) -> None:
    world.api.failure = ApiError("exists", status=409)
    world.recorder.handle(WEB)
    [(path, body)] = world.api.patched
    assert path == f"/api/v1/namespaces/default/events/{name_of(WEB, N1)}"
    assert body["count"] == 2


def test_while_the_api_is_away_events_are_dropped_and_later_ones_posted(world: World) -> None:
    world.api.failure = SourceError("no route to host")
    world.recorder.handle(WEB)
    assert (world.api.posted, world.recorder.dropped) == ([], 1)
    world.api.failure = None
    world.recorder.handle(WEB)
    assert len(world.api.posted) == 1


def test_record_never_blocks_and_drops_what_is_too_much(world: World) -> None:
    for _ in range(1000):
        world.recorder.record(WEB)
    assert world.recorder.dropped == 1000 - 256


def test_kinds_without_events_are_passed_over(world: World) -> None:
    world.recorder.record(Occurrence(Pod, Ref("a", "b"), "R", "m"))
    world.recorder.stop()
    world.recorder.run()
    assert world.api.posted == []


def test_the_thread_posts_what_is_recorded(world: World) -> None:
    world.recorder.record(WEB)
    world.recorder.stop()
    world.recorder.run()
    assert len(world.api.posted) == 1


def test_names_and_messages_fit_the_api(world: World) -> None:
    long = Occurrence(Service, Ref("default", "a" * 253), "R", "x" * 5000)
    world.recorder.handle(long)
    [(_, body)] = world.api.posted
    assert len(body["metadata"]["name"]) <= 253
    assert len(body["message"]) <= 1024


def test_a_rejection_becomes_an_event_of_its_object(world: World) -> None:
    world.recorder.rejected(Rejection(NetworkPolicy, Ref("a", "p"), "spec.ingress[0]: bad", "u-2"))
    world.recorder.stop()
    world.recorder.run()
    [(_, body)] = world.api.posted
    assert (body["reason"], body["message"]) == ("Rejected", "spec.ingress[0]: bad")
    assert (body["involvedObject"]["kind"], body["involvedObject"]["uid"]) == ("NetworkPolicy", "u-2")
