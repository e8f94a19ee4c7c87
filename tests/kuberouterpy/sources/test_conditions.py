"""Conditions of the Node follow the agent's status, are written once, and are tried until they stand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from kuberouterpy.cluster import Node, Ref
from kuberouterpy.errors import SourceError
from kuberouterpy.sources.conditions import NodeReporter
from kuberouterpy.sources.events import EventType, Occurrence
from kuberouterpy.sources.transport import Reply
from kuberouterpy.status import Status

STAMP = "2026-01-02T03:04:05Z"


class World:
    """A reporter, and an API server with one Node whose conditions another keeps, too."""

    def __init__(self) -> None:
        self.conditions: dict[str, dict[str, str]] = {
            "Ready": {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        }
        self.patches: list[Any] = []
        self.events: list[Occurrence] = []
        self.away = False
        stamp = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.reporter = NodeReporter(self, "node-1", self.events.append, now=lambda: stamp)

    def get(self, path: str, query: object = None) -> Reply:
        assert path == "/api/v1/nodes/node-1"
        if self.away:
            raise SourceError("away")
        return Reply(200, json.dumps({"status": {"conditions": [*self.conditions.values()]}}).encode())

    def patch(self, path: str, body: Any, content_type: str = "") -> Reply:
        assert (path, content_type) == ("/api/v1/nodes/node-1/status", "application/strategic-merge-patch+json")
        self.patches.append(body)
        self.conditions |= {one["type"]: one for one in body["status"]["conditions"]}
        return Reply(200, b"{}")

    def see(self, drain: str = "serving", *, network_up: bool = True, settled: bool = True) -> None:
        self.reporter.see(Status("node-1", "0", settled=settled, network_up=network_up, drain=drain))

    def stands(self, kind: str) -> tuple[str, str] | None:
        found = self.conditions.get(kind)
        return (found["status"], found["reason"]) if found else None


@pytest.fixture
def world() -> World:
    return World()


def test_the_network_is_told_to_be_up_once_it_is_and_only_once(world: World) -> None:
    world.see(settled=False)
    world.see(network_up=False)
    assert world.reporter.write()
    assert world.patches == []
    world.see()
    assert world.reporter.write()
    ((told,),) = [body["status"]["conditions"] for body in world.patches]
    assert told == {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "NetworkIsUp",
        "message": "bridge, CNI configuration, BGP and routes are in place",
        "lastHeartbeatTime": STAMP,
        "lastTransitionTime": STAMP,
    }
    again = NodeReporter(world, "node-1", world.events.append)
    again.see(Status("node-1", "0", settled=True, network_up=True))
    assert again.write()
    assert len(world.patches) == 1
    assert world.events == []


def test_a_network_that_is_in_doubt_later_is_not_told_to_be_down(world: World) -> None:
    world.see()
    world.reporter.write()
    world.see(network_up=False)
    world.reporter.write()
    assert world.stands("NetworkUnavailable") == ("False", "NetworkIsUp")


def test_a_drain_is_a_condition_and_an_event_at_each_turn(world: World) -> None:
    for turn, stands in (
        ("serving", None),
        ("leaving", ("False", "Draining")),
        ("gone", ("True", "Drained")),
        ("serving", ("False", "Serving")),
    ):
        world.see(turn)
        assert world.reporter.write()
        assert world.stands("kube-router.io/Drained") == stands
    assert world.stands("Ready") == ("True", "KubeletReady")
    assert [(one.kind, one.ref, one.reason, one.type) for one in world.events] == [
        (Node, Ref("", "node-1"), reason, EventType.NORMAL) for reason in ("Draining", "Drained", "Serving")
    ]


def test_a_restart_under_a_cordon_tells_no_event_and_an_uncordon_in_between_is_put_right(world: World) -> None:
    world.conditions["kube-router.io/Drained"] = {
        "type": "kube-router.io/Drained",
        "status": "True",
        "reason": "Drained",
    }
    world.see("serving")
    world.reporter.write()
    assert world.stands("kube-router.io/Drained") == ("False", "Serving")
    assert world.events == []


def test_a_restart_during_the_wait_leaves_the_time_it_began(world: World) -> None:
    began = {"type": "kube-router.io/Drained", "status": "False", "reason": "Draining", "lastTransitionTime": "2026"}
    world.conditions["kube-router.io/Drained"] = dict(began)
    world.see("leaving")
    world.reporter.write()
    assert world.conditions["kube-router.io/Drained"] == began


def test_the_last_word_is_written_when_the_api_is_back(world: World) -> None:
    world.away = True
    world.see()
    for turn in ("leaving", "gone"):
        world.see(turn)
        assert not world.reporter.write()
    world.away = False
    assert world.reporter.write()
    assert world.stands("kube-router.io/Drained") == ("True", "Drained")
    assert world.stands("NetworkUnavailable") == ("False", "NetworkIsUp")
    assert len(world.patches) == 1
