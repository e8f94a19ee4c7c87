"""What the tests' own guests promise: files are run once, reports come whole, a lost guest says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuberouterpy.lab.engine.plan import GuestPlan
from tests.guest import replayed
from tests.guests import Guest, Order, claim, room

PLAN = GuestPlan(command=(), directory="", environment={}, engine="", results="")


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest(Order("kernel", ["tests/test_a.py::test_one"], PLAN), "uml")
    yield made
    made.stop()


def put(guest: Guest, name: str, text: str) -> None:
    with Path(guest.folder.name, name).open("a") as file:
        file.write(text)


def test_a_file_of_tests_has_one_guest(tmp_path: Path) -> None:
    assert claim(tmp_path, "tests/e2e/test_a.py")
    assert not claim(tmp_path, "tests/e2e/test_a.py")
    assert claim(tmp_path, "tests/e2e/test_b.py")


def test_reports_come_once_and_whole(guest: Guest) -> None:
    assert list(guest.reports()) == []
    put(guest, "reports", '{"when": "setup"}\n{"when": "ca')
    assert list(guest.reports()) == [{"when": "setup"}]
    assert list(guest.reports()) == []
    put(guest, "reports", 'll"}\n')
    assert list(guest.reports()) == [{"when": "call"}]


def test_a_lost_guest_says_what_it_said_last(guest: Guest) -> None:
    put(guest, "output", "ImportError: no such thing\n")
    assert "ImportError" in guest.failure()
    put(guest, "failure", "the guest ended by itself")
    assert guest.failure() == "the guest ended by itself"


def test_a_guest_that_was_never_booted_leaves_nothing(guest: Guest) -> None:
    assert not guest.started
    assert not guest.ended
    guest.stop()
    assert not Path(guest.folder.name).exists()


def test_there_is_always_room_for_one() -> None:
    assert room() >= 1


def test_a_skip_and_a_figure_survive_the_way_from_the_guest(pytestconfig: pytest.Config) -> None:
    where = ("tests/test_a.py", 3, "Skipped: no vxlan here")
    for outcome, longrepr in (("skipped", where), ("passed", None)):
        report = pytest.TestReport("tests/test_a.py::test_one", where, {}, outcome, longrepr, "call")  # type: ignore[arg-type]
        report.user_properties = [("figure", "12 asked, none lost")]
        told = pytestconfig.hook.pytest_report_to_serializable(config=pytestconfig, report=report)
        found = replayed(pytestconfig, json.loads(json.dumps(told, default=str)))
        assert (found.outcome, found.longrepr, found.user_properties) == (outcome, longrepr, report.user_properties)
