"""Log lines, the last of them kept, and a level that takes itself back."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from kuberouterpy import log as logs
from kuberouterpy.answers.own import BadWord, log_level
from kuberouterpy.answers.own import logs as told


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logs.LEVEL.revert()
    root.handlers[:] = handlers
    root.setLevel(level)


def configured(*, as_json: bool = False, verbosity: int = 0) -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    logs.configure(verbosity, as_json=as_json, stream=stream)
    return logging.getLogger("kuberouterpy.test"), stream


def test_a_line_is_time_level_event_then_fields_in_utc() -> None:
    log, stream = configured()
    logs.event(log, logging.INFO, "applied", ops=3, key="tcp 10.0.0.1:80", error=None)
    stamp, rest = stream.getvalue().split(maxsplit=1)
    assert stamp.startswith("time=")
    assert stamp.endswith("Z")
    assert rest == 'level=info event=applied ops=3 key="tcp 10.0.0.1:80"\n'


def test_json_has_the_same_fields() -> None:
    log, stream = configured(as_json=True)
    logs.event(log, logging.WARNING, "drift", kind="chain", ops=1)
    line = json.loads(stream.getvalue())
    assert {key: line[key] for key in ("level", "event", "kind", "ops")} == {
        "level": "warning",
        "event": "drift",
        "kind": "chain",
        "ops": 1,
    }


@pytest.mark.parametrize(("verbosity", "seen"), [(0, False), (1, True), (4, True)])
def test_operations_are_told_from_the_first_level_on(verbosity: int, seen: bool) -> None:
    log, stream = configured(verbosity=verbosity)
    logs.event(log, logging.DEBUG, "create")
    assert ("event=create" in stream.getvalue()) is seen


def test_the_last_lines_are_kept_without_secrets() -> None:
    log, _ = configured()
    logs.event(log, logging.ERROR, "request-failed", error="Authorization: Bearer abc.def.ghi")
    (line,) = [line for line in told({}).lines if "request-failed" in line][-1:]
    assert "abc.def" not in line
    assert "(hidden)" in line


def test_a_changed_level_goes_back_by_itself() -> None:
    log, stream = configured()
    logs.LEVEL.change("debug", 3600)
    logs.event(log, logging.DEBUG, "create")
    timer = logs.LEVEL._timer
    assert timer is not None
    timer.cancel()
    timer.function()  # what the timer does when its time has come
    logs.event(log, logging.DEBUG, "delete")
    shown = stream.getvalue()
    assert "event=create" in shown
    assert "event=delete" not in shown
    assert 'event=log-level verb=info reason="time is over"' in shown


def test_a_second_change_counts_from_then_and_still_ends_at_the_first_level() -> None:
    configured()
    assert log_level({}) == log_level({})
    assert log_level({"level": ["debug"], "for": ["1h"]}).for_s == pytest.approx(3600, abs=5)
    changed = log_level({"level": ["error"], "for": ["2m"]})
    assert (changed.level, round(changed.for_s, -1)) == ("error", 120)
    logs.LEVEL.revert()
    assert (log_level({}).level, log_level({}).for_s) == ("info", 0.0)


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ({"level": ["loud"]}, "write debug, info, warning, error"),
        ({"level": ["debug"], "for": ["soon"]}, "write it as 90s"),
        ({"level": ["debug"], "for": ["2d"]}, "write it as 90s"),
        ({"level": ["debug"], "for": ["48h"]}, "write 1s to 24h0m0s"),
        ({"level": ["debug"], "for": ["0"]}, "write 1s to 24h0m0s"),
    ],
)
def test_words_that_mean_nothing_are_refused_with_a_mend(words: dict[str, list[str]], mend: str) -> None:
    before = logging.getLogger().level
    with pytest.raises(BadWord, match=mend):
        log_level(words)
    assert logging.getLogger().level == before
