"""What the agent says of itself without asking its loop, so that it can be asked even when the loop is stuck."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from kuberouterpy import __version__, redact
from kuberouterpy.errors import KubeRouterError
from kuberouterpy.flags import duration, duration_text
from kuberouterpy.log import LEVEL, LEVELS, RECENT

LONGEST_S: Final = 86_400.0
"""A changed level goes back within a day."""
_DEFAULT: Final = "10m"


class BadWord(KubeRouterError):
    """A word of a question or a verb cannot be used; the message says what can."""


class Version(Struct, frozen=True):
    """Answer to /v1/version."""

    version: str
    """Of the agent."""
    api: str
    """Of this socket: what its paths begin with."""
    python: str
    kernel: str
    pid: int


class Logs(Struct, frozen=True):
    """Answer to /v1/logs."""

    lines: tuple[str, ...]
    """The last lines of the log, oldest first, in logfmt, without secrets."""


class LogLevel(Struct, frozen=True):
    """Answer to /v1/log-level."""

    level: str
    """debug, info, warning or error."""
    for_s: float
    """Seconds until the level goes back; 0: it stays."""


Words = Mapping[str, Sequence[str]]


def version(_: Words) -> Version:
    """Return who answers."""
    return Version(__version__, "v1", platform.python_version(), platform.release(), os.getpid())


def logs(_: Words) -> Logs:
    """Return the last lines of the log."""
    return Logs(tuple(map(redact.text, RECENT.lines())))


def log_level(words: Words) -> LogLevel:
    """Return the level in force, after changing it where a level is given. Errors: BadWord."""
    level = next(iter(words.get("level", ())), "")
    if level:
        if level not in LEVELS:
            raise BadWord(f"log level {level!r} is unknown; write {', '.join(LEVELS)}")
        LEVEL.change(level, _span(next(iter(words.get("for", ())), _DEFAULT)))
    now, for_s = LEVEL.now()
    return LogLevel(now, round(for_s, 1))


def _span(text: str) -> float:
    try:
        span = duration(text)
    except ValueError as error:
        raise BadWord(f"for {text!r} {error}") from None
    if not 1 <= span <= LONGEST_S:
        raise BadWord(f"for {text!r} is out of range; write 1s to {duration_text(LONGEST_S)}")
    return span


OWN: Final[Mapping[str, Callable[[Words], object]]] = {"version": version, "logs": logs, "log-level": log_level}
"""Questions and verbs that are answered here."""
