"""The tables of behaviours name tests that exist, leave out no row, and agree with one another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
README, COMPARE = TESTS / "e2e" / "README.md", TESTS.parent / "docs" / "compare.md"
COUNTS = {"A": 36, "B": 8, "C": 5, "D": 18, "E": 5, "F": 10, "G": 2, "I": 7, "J": 4, "K": 18}
ROWS = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
ROWS.insert(ROWS.index("I1"), "H")
_ROW = re.compile(r"^\| ([A-K]\d*) \|")
_TEST = re.compile(r"`(?:([\w/.]+)::)?(test_\w+)`")


def table(document: Path) -> dict[str, list[str]]:
    """Return the cells of every row, by row; the same row twice is an error."""
    lines = [line for line in document.read_text().splitlines() if _ROW.match(line)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows}


def named(cell: str) -> set[str]:
    """Return the tests that a cell names."""
    return {name for _, name in _TEST.findall(cell)}


def defined(path: Path) -> set[str]:
    """Return the tests of a file."""
    return set(re.findall(r"^\s*def (test_\w+)", path.read_text(), re.MULTILINE))


def lab_tests() -> Iterator[tuple[str, list[str]]]:
    """Yield every test of the cluster whose name begins with rows, and the rows."""
    for path in (TESTS / "e2e").glob("test_*.py"):
        for name in defined(path):
            words = name.removeprefix("test_").split("_")
            rows = [word for word in words[: _first_plain(words)] if word in ROWS]
            if rows:
                yield name, rows


def _first_plain(words: list[str]) -> int:
    return next((index for index, word in enumerate(words) if not re.fullmatch(r"[A-Z]\d+", word)), len(words))


@pytest.mark.parametrize("document", [README, COMPARE], ids=lambda path: path.name)
def test_every_row_is_there_once_in_order(document: Path) -> None:
    assert list(table(document)) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_tests_that_exist_or_a_reason(row: str) -> None:
    _, tests, where = table(README)[row]
    found = _TEST.findall(tests)
    for file, name in found:
        assert name in defined(TESTS / file), (file, name)
    assert (where in {"lab", "kernel", "host"}) if found else len(where) > 20


def test_a_test_that_names_a_row_stands_in_it() -> None:
    rows = table(README)
    wrong = [(name, row) for name, its in lab_tests() for row in its if name not in named(rows[row][1])]
    assert wrong == []
    assert len(dict(lab_tests())) > 50


def test_the_comparison_claims_what_is_tested_and_no_more() -> None:
    ours, theirs = table(README), table(COMPARE)
    for row, (behaviour, *others, claim) in theirs.items():
        assert behaviour == ours[row][0]
        assert named(claim) == named(ours[row][1]), row
        assert claim.startswith(("yes: ", "partly: ")) == bool(named(claim)), row
        for word in others:
            assert re.match(r"(yes|no|partly|unknown|its CI)\b", word), (row, word)
