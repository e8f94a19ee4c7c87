"""What a person sees of the demo: steps with a tick and a time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable
from typing import Final

_GREEN, _RED, _DIM, _BOLD = "32", "31", "2", "1"
_INDENT: Final = "      "


class Screen:
    """Prints steps; colour on a terminal only, and never where NO_COLOR is set."""

    def __init__(self, *, began: float | None = None) -> None:
        self._began = time.time() if began is None else began
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0

    def head(self, text: str) -> None:
        """Print a title."""
        self._print(self._paint(text, _BOLD))

    def held(self, text: str, took_s: float) -> None:
        """Print a step that held."""
        self._print(f"{self._paint('✓' if self._width else 'ok', _GREEN)}  {text}  {self._time(took_s)}")

    def failed(self, text: str, reason: str, took_s: float) -> None:
        """Print a step that did not hold, and why."""
        self._print(f"{self._paint('✗' if self._width else 'FAILED', _RED)}  {text}  {self._time(took_s)}")
        self.lines(reason.splitlines())

    def command(self, words: str) -> None:
        """Print a command that was run, as a person would type it."""
        self._print(f"{_INDENT}{self._paint('$ ' + words, _DIM)}")

    def lines(self, lines: Iterable[str]) -> None:
        """Print what a command said; on a terminal a long line is cut, in a pipe nothing is."""
        for line in lines:
            text = _INDENT + line.rstrip()
            self._print(text if not self._width or len(text) <= self._width else text[: self._width - 1] + "…")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began, the boot included."""
        return time.time() - self._began

    def _time(self, took_s: float) -> str:
        return self._paint(f"{took_s:.1f} s", _DIM)

    def _paint(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def _print(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
