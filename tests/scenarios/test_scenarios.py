"""Every scenario file: its operations are those written in it, and any order of its events ends the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.runner import play, squashed

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_does_what_it_says(path: Path, request: pytest.FixtureRequest) -> None:
    actual, _ = play(path)
    if request.config.getoption("--update"):
        path.write_text(actual)
    assert path.read_text() == actual


@pytest.mark.parametrize("backwards", [False, True], ids=["at-once", "objects-reversed"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_any_order_of_its_events_ends_the_same(path: Path, backwards: bool) -> None:
    _, world = play(path)
    assert squashed(path, backwards=backwards).stands() == world.stands()
