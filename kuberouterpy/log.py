"""Log lines as data: one event name, then fields, in logfmt.

The same fact is logged in one place. Names of the fixed fields and their order are in STYLE: event controller owner kind key
family verb reason error errno attempt retry_in_s ops took_ms.
"""

from __future__ import annotations

import json
import logging
import sys
import time
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
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    # Libraries tell of their own affairs; ours are told by our own events.
    for library in ("urllib3", "kubernetes", "asyncio", "pyroute2", "grpc"):
        logging.getLogger(library).setLevel(logging.ERROR)


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
