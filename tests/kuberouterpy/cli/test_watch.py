"""``-w``: the table again and again, each whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kuberouterpy.cli import ExitCode, main
from kuberouterpy.cli.watch import EVERY_S, shown


def test_a_table_is_asked_for_again_after_every_pause(capsys: pytest.CaptureFixture[str]) -> None:
    screens: Iterator[list[str]] = iter([["one"], ["two", "lines"]])
    pauses: list[float] = []
    with pytest.raises(StopIteration):
        shown(lambda: next(screens), watch=True, wait=pauses.append)
    assert capsys.readouterr().out == "one\ntwo\nlines\n"
    assert pauses == [EVERY_S, EVERY_S]


def test_without_watching_it_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(lambda: ["one"], watch=False) == ExitCode.FINE
    assert capsys.readouterr().out == "one\n"


@pytest.mark.parametrize("words", [["-o", "json"], ["-f", "here.yaml", "--node", "n1"]])
def test_neighbors_are_watched_as_a_table_and_of_an_agent_only(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bgp", "neighbors", "-w", *words]) == ExitCode.USAGE
    assert "-w shows what an agent has" in capsys.readouterr().err


def test_an_agent_that_is_away_ends_the_watching(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bgp", "neighbors", "-w", "--agent-socket", f"{tmp_path}/none"]) == ExitCode.UNREACHABLE
    assert "no agent answers" in capsys.readouterr().err
