"""Tables and colours for people: they fit the terminal, and nothing is cut in a pipe."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import click

_GAP: Final = "  "
_LEAST: Final = 8
"""No column is cut below so many characters."""


def width() -> int:
    """Return the terminal's columns; 0 in a pipe: nothing is cut there."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def height(rows: int) -> int:
    """Return how many of some rows a terminal shows below a head and above a prompt; all in a pipe."""
    return max(1, shutil.get_terminal_size().lines - 2) if sys.stdout.isatty() else rows


def coloured() -> bool:
    """Return whether colours are wanted: on a terminal, and NO_COLOR is not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(text: str, colour: str) -> str:
    """Return text in a colour, where colours are wanted."""
    return click.style(text, fg=colour) if coloured() else text


def lines(heads: Sequence[str], rows: Sequence[Sequence[str]], *, columns: int) -> Iterator[str]:
    """Yield a table; the widest columns give way until it fits ``columns`` (0: nothing gives way)."""
    if not rows:
        return
    widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads))]
    if columns:
        _shrink(widths, columns - len(_GAP) * (len(heads) - 1))
    for row in (heads, *rows):
        cells = [_cut(text, room) if columns else text for text, room in zip(row, widths, strict=True)]
        text = _GAP.join(f"{cell:{room}}" for cell, room in zip(cells, widths, strict=True)).rstrip()
        # A terminal too narrow for even the least widths: the end of the line gives way.
        yield _cut(text, columns) if columns else text


def _shrink(widths: list[int], room: int) -> None:
    """Make columns narrower until they fit: the widest first, the first column, which says what a row is, last."""
    for columns in (range(1, len(widths)), range(1)):
        while sum(widths) > room:
            widest = max(columns, key=lambda index: widths[index], default=0)
            if widths[widest] <= _LEAST:
                break
            widths[widest] -= 1


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(room - 1, 0)] + "…"
