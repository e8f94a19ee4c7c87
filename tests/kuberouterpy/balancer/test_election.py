"""One candidate leads at a time, by clocks that are never compared."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kuberouterpy.balancer.election import Election
from kuberouterpy.errors import SourceError
from kuberouterpy.sources.transport import Reply
from tests.kuberouterpy.balancer.world import LEASES, NAMESPACE, Server

LEASE = f"{LEASES}/kube-router-lballoc"


class Flaky(Server):
    """A server that is away while told so."""

    away = False

    def ask(self, method: str, target: str, body: object = None, content_type: str = "application/json") -> Reply:
        if self.away:
            raise SourceError("away")
        reply: Reply = super().ask(method, target, body, content_type)
        return reply


@pytest.fixture
def server() -> Flaky:
    return Flaky()


def spec(server: Server) -> dict[str, object]:
    found: dict[str, object] = json.loads(server.get(LEASE).body)["spec"]
    return found


def test_the_first_leads_and_the_second_follows_until_the_lease_is_old(server: Flaky) -> None:
    first, second = Election(server, NAMESPACE, "first"), Election(server, NAMESPACE, "second")
    assert first.tick(0.0)
    assert (spec(server)["holderIdentity"], spec(server)["leaseDurationSeconds"]) == ("first", 15)
    # The clock of the second is another, and it counts from when it saw the Lease.
    assert not second.tick(5000.0)
    assert not second.tick(5014.9)
    assert second.tick(5017.0)
    assert (spec(server)["holderIdentity"], spec(server)["leaseTransitions"]) == ("second", 1)
    assert not first.tick(2.0)


def test_a_leader_that_renews_stays_and_one_that_cannot_stops_before_another_begins(server: Flaky) -> None:
    first, second = Election(server, NAMESPACE, "first"), Election(server, NAMESPACE, "second")
    for now in range(0, 60, 2):
        assert first.tick(float(now))
        assert not second.tick(float(now) + 1)
    server.away = True
    assert first.tick(60.0)
    assert first.trouble == "away"
    assert first.leads(67.9)
    assert not first.tick(68.0), "ten seconds after the last renewal"
    server.away = False
    assert second.tick(74.1)
    assert not first.tick(74.2)


def test_a_leader_that_resigns_is_followed_at_once(server: Flaky) -> None:
    first, second = Election(server, NAMESPACE, "first"), Election(server, NAMESPACE, "second")
    assert first.tick(0.0)
    second.tick(0.5)
    first.resign()
    assert not first.leads(0.6)
    assert second.tick(2.6)


def test_a_restarted_leader_waits_for_its_own_former_life(server: Flaky) -> None:
    """Its identity is new: it may not be the only process that thinks to be it."""
    assert Election(server, NAMESPACE, "node-1_a").tick(0.0)
    again = Election(server, NAMESPACE, "node-1_b")
    assert not again.tick(1.0)
    assert again.tick(16.1)


def test_a_lease_that_a_person_emptied_or_broke_is_taken(server: Flaky) -> None:
    server.post(LEASES, {"metadata": {"name": "kube-router-lballoc"}, "spec": {}})
    assert Election(server, NAMESPACE, "first").tick(0.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.floats(0, 9), st.booleans()), max_size=40))
def test_no_two_lead_at_once_whatever_fails(history: list[tuple[int, float, bool]]) -> None:
    """With clocks that run alike; a process that stands still is what the claims are for."""
    server = Flaky()
    candidates = [Election(server, NAMESPACE, f"n{number}") for number in range(3)]
    now = 0.0
    for number, after_s, away in history:
        now += after_s
        server.away = away
        candidates[number].tick(now)
        assert sum(one.leads(now) for one in candidates) <= 1
