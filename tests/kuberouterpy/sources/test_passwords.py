"""The passwords' file: read, followed, and the last good content kept."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from kuberouterpy.cluster import Event, Passwords, Reachable, Replace, Unreachable
from kuberouterpy.sources.passwords import PasswordSource


def encoded(*passwords: str) -> str:
    return ",".join(base64.b64encode(one.encode()).decode() for one in passwords)


def source(path: Path, count: int = 2) -> tuple[PasswordSource, list[Event]]:
    told: list[Event] = []
    return PasswordSource(str(path), count, told.append), told


def values(told: list[Event]) -> list[tuple[str, ...]]:
    return [one.records[0].values for one in told if isinstance(one, Replace)]  # type: ignore[union-attr]


def test_without_a_file_there_are_no_passwords() -> None:
    told: list[Event] = []
    PasswordSource("", 0, told.append).start()
    assert told == [Replace(Passwords, ())]


def test_it_is_read_as_kube_router_reads_it_and_told_once(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text(encoded("one", "") + "\n")
    subject, told = source(file)
    subject.look()
    subject.look()
    assert told == [Reachable("passwords"), Replace(Passwords, (Passwords(str(file), ("one", "")),))]


def test_a_change_is_told(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text(encoded("one", "two"))
    subject, told = source(file)
    subject.look()
    file.write_text(encoded("one", "three"))
    subject.look()
    assert values(told) == [("one", "two"), ("one", "three")]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.unlink(), "no such file"),
        (lambda file: file.write_text("!!!secret!!!,"), "item 1 is not text in base64"),
        (lambda file: file.write_text(encoded("one")), "has 1 items for 2"),
        (lambda file: file.write_bytes(b"\xff\xfe,\x00"), "item 1 is not text in base64"),
        (lambda file: file.write_text(encoded("x" * 81, "")), "item 1 is not 1 to 80 bytes long"),
    ],
)
def test_a_file_that_is_spoilt_changes_nothing_and_is_told_once(tmp_path: Path, spoil: object, reason: str) -> None:
    file = tmp_path / "passwords"
    file.write_text(encoded("one", "two"))
    subject, told = source(file)
    subject.look()
    spoil(file)  # type: ignore[operator]
    subject.look()
    subject.look()
    (trouble,) = [one for one in told if isinstance(one, Unreachable)]
    assert reason in trouble.reason
    assert "secret" not in trouble.reason
    assert values(told) == [("one", "two")]
    file.write_text(encoded("one", "two"))
    subject.look()
    assert told[-1] == Reachable("passwords")


def test_a_file_that_was_never_there_leaves_everything_unknown(tmp_path: Path) -> None:
    """Then no external session is opened, and none that stands is ended."""
    subject, told = source(tmp_path / "absent")
    subject.look()
    assert [type(one) for one in told] == [Unreachable]


def test_passwords_do_not_show(tmp_path: Path) -> None:
    assert "two" not in repr(Passwords("/x", ("one", "two")))
