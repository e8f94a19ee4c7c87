"""Moments as people write them, and what was known then: ``--at`` and ``--since`` of every command that reads a recording."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kuberouterpy.errors import ConfigError
from kuberouterpy.flags import duration

if TYPE_CHECKING:
    from kuberouterpy.offline import Facts
    from kuberouterpy.record import Frame, Replayed

FOLDER: Final = "/var/lib/kuberouterpy/record"
"""Where manifests put the ring."""


def moment(text: str, *, option: str, now: datetime) -> float:
    """Return the Unix time that a text means: ``2026-11-24T14:05:00Z``, ``14:05`` (UTC, the last such), ``10m`` (ago).

    Errors: ConfigError names the option and the forms.
    """
    try:
        return now.timestamp() - duration(text.removeprefix("-"))
    except ValueError:
        pass
    try:
        if "T" not in text and " " not in text and ":" in text:
            clock = datetime.fromisoformat(f"{now:%Y-%m-%d}T{text}")
            at = clock if clock.tzinfo else clock.replace(tzinfo=UTC)
            return (at - timedelta(days=1) if at > now else at).timestamp()
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        raise ConfigError(
            f"{option} {text!r} is no time; write 2026-11-24T14:05:00Z, 14:05 (today, UTC) or 10m (ago)"
        ) from None


def frames(path: str) -> Iterable[Frame]:
    """Return the frames of a recording: an exported file or a ring's folder. Errors: ConfigError names the path."""
    from kuberouterpy.recorder import read

    try:
        return read(Path(path))
    except PermissionError:
        raise ConfigError(f"{path}: permission denied; run as root") from None
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def replayed(path: str, at: str) -> Replayed:
    """Return the facts of a recording at a moment; without one, at its end. Errors: ConfigError, RecordError."""
    from kuberouterpy.record import facts_at

    when = moment(at, option="--at", now=datetime.now(UTC)) if at else float("inf")
    return facts_at(frames(path), when)


def facts_of(known: Replayed) -> Facts:
    """Return what was known as facts that a plan is made of."""
    from kuberouterpy.offline import Facts

    return Facts(node=known.node, records={kind: list(some.values()) for kind, some in known.tables.items() if some})
