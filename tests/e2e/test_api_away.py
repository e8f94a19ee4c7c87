"""An API server that is away, answers rubbish or stores absurd objects: nothing is deleted, and everything converges."""

# ruff: noqa: N802  (rows are A1, B2, ...)

from __future__ import annotations

import json
import signal

import pytest

from kuberouterpy.lab.client import SERVICES
from tests.cluster import Lab, Steady, eventually
from tests.e2e.conftest import Dataplane, Make, Pods, Serve, back, remove, same, vip, vip_urls
from tests.e2e.objects import EVENTS, NAMESPACE, NETWORK_POLICIES, by_block, policy, port, service
from tests.e2e.test_agents import snapshot
from tests.e2e.test_services import EVERYONE, WEB, covers, unreached

AGENT = "^kuberouterpy/"
"""User-Agent of agents, not of the lab's own parts."""


@pytest.fixture
def standing(lab: Lab, shared: Pods, serve: Serve, make: Make) -> list[tuple[str, int]]:
    """A Service and a policy in force; returns where the Service listens."""
    web = serve(service("standing", [port(80, "http")], WEB))
    make(NETWORK_POLICIES, policy("standing", {"name": "stranger"}, ingress=[]))
    eventually(covers, shared["guest"], vip_urls(lab, web), EVERYONE)
    return [(vip(web, family), 80) for family in lab.families]


def test_A11_everything_stands_while_the_api_is_away_and_goes_on_when_it_is_back(
    lab: Lab, shared: Pods, standing: list[tuple[str, int]], serve: Serve
) -> None:
    """Also for an agent that starts meanwhile: what it cannot read it does not delete."""
    before = snapshot(lab)
    with Steady(shared["guest"], standing) as flow:
        lab.kill_api()
        try:
            lab.stop_agent("node-1", signal.SIGKILL)
            lab.start_agent("node-1")
            eventually(_waits, lab, "node-1")
            same(lab, before)
        finally:
            lab.start_api()
        new = serve(service("new", [port(80, "http")], {"name": "green"}))
        for place in (shared["guest"], lab.node("node-2")):
            eventually(covers, place, vip_urls(lab, new), {"green"})
    assert flow.lost == []
    remove(lab, SERVICES, "new")
    back(lab, before)


def _waits(lab: Lab, node: str) -> None:
    """Assert that a node's agent runs and has not been told everything yet."""
    told = json.loads(lab.node(node).sh("curl -s -m 5 localhost:20244/status.json").text or "{}")
    assert told.get("waiting_for"), told


@pytest.mark.parametrize(
    "faults",
    [
        [{"kind": "cut", "after": 0, "count": 6}, {"kind": "status", "status": 500, "count": 12}],
        [{"kind": "cut", "after": 0, "count": 6}, {"kind": "garbage", "count": 12}],
        [{"kind": "cut", "after": 0, "count": 6}, {"kind": "truncate", "count": 12}],
        [{"kind": "cut", "after": 0, "count": 6}, {"kind": "status", "status": 429, "retry_after": 1, "count": 6}],
    ],
    ids=["errors", "garbage", "truncated", "too-many-requests"],
)
def test_an_api_that_misbehaves_is_asked_again_until_all_is_known(
    lab: Lab, shared: Pods, standing: list[tuple[str, int]], serve: Serve, faults: list[dict[str, object]]
) -> None:
    with Steady(shared["guest"], standing) as flow:
        lab.fault(*({**fault, "agent": AGENT} for fault in faults))
        try:
            item = serve(service("meanwhile", [port(80, "http")], {"name": "red"}))
            eventually(covers, shared["guest"], vip_urls(lab, item), {"red"})
            remove(lab, SERVICES, "meanwhile")
            eventually(unreached, shared["guest"], vip_urls(lab, item))
        finally:
            lab.fault()
    assert flow.lost == []


def test_K15_a_history_that_is_gone_is_listed_again_also_for_what_was_deleted(
    lab: Lab, shared: Pods, standing: list[tuple[str, int]], serve: Serve
) -> None:
    """Watches are cut, things change, the history is compacted: the next watch gets 410."""
    gone = serve(service("gone", [port(80, "http")], {"name": "red"}))
    eventually(covers, shared["guest"], vip_urls(lab, gone), {"red"})
    lab.fault({"kind": "cut", "after": 0, "agent": AGENT}, {"kind": "status", "status": 503, "agent": AGENT})
    try:
        remove(lab, SERVICES, "gone")
        new = serve(service("new", [port(80, "http")], {"name": "blue"}))
        lab.api.request("POST", "/lab/compact", {})
    finally:
        lab.fault()
    eventually(covers, shared["guest"], vip_urls(lab, new), {"blue"})
    eventually(unreached, shared["guest"], vip_urls(lab, gone))


def test_absurd_objects_are_told_as_events_and_harm_nobody_else(
    lab: Lab, shared: Pods, make: Make, serve: Serve, unchanged: Dataplane
) -> None:
    """An API server would refuse them; one that is broken, old or bypassed does not."""
    lab.api.request("POST", "/lab/validation", {"enabled": False})
    try:
        absurd = policy(
            "absurd", {"name": "guest"}, ingress=[{"from": [by_block("300.1.2.3/99")], "ports": [{"port": 99999}]}]
        )
        make(NETWORK_POLICIES, absurd)
        strange = service("strange", [{"port": "eighty", "protocol": "CARRIER-PIGEON"}], {"name": "red"})
        make(SERVICES, strange)
    finally:
        lab.api.request("POST", "/lab/validation", {"enabled": True})
    for kind, name in (("NetworkPolicy", "absurd"), ("Service", "strange")):
        eventually(_told, lab, kind, name)
    fine = serve(service("fine", [port(80, "http")], {"name": "red"}))
    eventually(covers, shared["guest"], vip_urls(lab, fine), {"red"})


def _told(lab: Lab, kind: str, name: str) -> None:
    found, _ = lab.api.list(EVENTS, NAMESPACE)
    about = [one for one in found if (one["involvedObject"]["kind"], one["involvedObject"]["name"]) == (kind, name)]
    assert {one["type"] for one in about} == {"Warning"}, about
    assert all(one["reason"] == "Rejected" and one["message"] for one in about)
