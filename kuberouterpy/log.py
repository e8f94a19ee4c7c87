"""Log lines as data: one event name, then fields, in logfmt. The last lines are kept, and the level may change at run time.

The same fact is logged in one place. Names of the fixed fields and their order are in STYLE: event controller owner kind key
family verb reason error errno attempt retry_in_s ops took_ms.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from typing import Final, TextIO

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@,+<>[]*~%")


def event(log: logging.Logger, level: int, name: str, **fields: object) -> None:
    """Log one event with its fields; fields that are ``None`` are left out."""
    if log.isEnabledFor(level):
        log.log(level, name, extra={"fields": fields})


def configure(verbosity: int = 0, *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send every log line of this process to ``stream`` (stderr): INFO, or DEBUG where ``verbosity`` is 1 or more."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else LogfmtFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler, RECENT]
    root.setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    # Libraries tell of their own affairs; ours are told by our own events.
    for library in ("urllib3", "kubernetes", "asyncio", "pyroute2", "grpc"):
        logging.getLogger(library).setLevel(logging.ERROR)


class Recent(logging.Handler):
    """Keeps the last lines, for whoever asks later; they are written out only then."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._records: deque[logging.LogRecord] = deque(maxlen=most)
        self.setFormatter(LogfmtFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self._records.append(record)

    def lines(self) -> list[str]:
        """Return the lines, oldest first, in logfmt."""
        return [self.format(record) for record in list(self._records)]


class LogfmtFormatter(logging.Formatter):
    """``time=... level=info event=applied ops=3``; values are quoted where a space or a quote stands in them."""

    def format(self, record: logging.LogRecord) -> str:
        text = " ".join(f"{key}={_quoted(value)}" for key, value in _pairs(record))
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the same fields."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in _pairs(record)}
        if record.exc_info:
            pairs["traceback"] = self.formatException(record.exc_info)
        return json.dumps(pairs)


RECENT: Final = Recent(2000)
"""The last lines of this process."""


class Level:
    """The level of every line of this process; a change at run time takes itself back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: int | None = None
        self._until = 0.0
        self._timer: threading.Timer | None = None

    def now(self) -> tuple[str, float]:
        """Return the level by name, and for how many seconds more it holds; 0: until the process ends."""
        with self._lock:
            left = max(0.0, self._until - time.monotonic()) if self._before is not None else 0.0
            return logging.getLevelName(logging.getLogger().level).lower(), left

    def change(self, name: str, for_s: float) -> None:
        """Set the level for a time; a change before the time is over counts from then, and still ends at the first level."""
        root = logging.getLogger()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._before = root.level if self._before is None else self._before
            self._until = time.monotonic() + for_s
            self._timer = threading.Timer(for_s, self.revert)
            self._timer.daemon = True
            self._timer.start()
            root.setLevel(LEVELS[name])
        event(_log, logging.WARNING, "log-level", verb=name, retry_in_s=for_s, reason="asked for on the socket")

    def revert(self) -> None:
        """Go back to the level of before; nothing to do where nothing was changed."""
        with self._lock:
            before, self._before, self._timer = self._before, None, None
            if before is not None:
                logging.getLogger().setLevel(before)
        if before is not None:
            event(_log, logging.WARNING, "log-level", verb=logging.getLevelName(before).lower(), reason="time is over")


LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
"""Levels by the name a person gives."""
LEVEL: Final = Level()
"""Of this process."""
_log = logging.getLogger("kuberouterpy.log")


def _pairs(record: logging.LogRecord) -> list[tuple[str, object]]:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
    fields: dict[str, object] = getattr(record, "fields", {})
    pairs: list[tuple[str, object]] = [
        ("time", stamp),
        ("level", record.levelname.lower()),
        ("event", record.getMessage()),
    ]
    return pairs + [(key, value) for key, value in fields.items() if value is not None]


def _quoted(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)
