"""What the loop counts about its own work; published as one frozen value, read by whoever is asked for metrics.

Only the loop's thread counts. Times are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

from msgspec import Struct

from kuberouterpy.cluster import EndpointSlice, Ref
from kuberouterpy.dataplane import Owner
from kuberouterpy.exposition import Distribution, Histogram

K = TypeVar("K")

STEP_BOUNDS: Final = tuple(0.001 * 2**power for power in range(15))
"""Seconds; those of kube-proxy's sync duration."""
PROGRAMMING_BOUNDS: Final = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
"""Seconds; those of kube-proxy's network programming duration, so that quantiles of both can be put together."""


class Figures(Struct, frozen=True):
    """Everything counted since start."""

    ops: Mapping[tuple[str, str, str], int] = {}
    """Operations by kind, verb and result (``ok`` or ``failed``)."""
    calls: Mapping[tuple[str, str], Distribution] = {}
    """Seconds of each driver's calls, by driver and call (``list`` or ``apply``)."""
    call_failures: Mapping[tuple[str, str], int] = {}
    """Driver calls that failed as a whole."""
    steps: Distribution = Distribution(STEP_BOUNDS, (0,) * (len(STEP_BOUNDS) + 1))
    """Seconds of the steps that changed something."""
    drift: Mapping[tuple[str, str], int] = {}
    """Objects that another hand changed, by kind and what (``missing``, ``extra``, ``changed``)."""
    programming: Mapping[str, Distribution] = {}
    """Seconds from a change of endpoints until they were programmed, by family."""
    last_step_wall: float = 0.0
    """Unix time of the last step that left nothing undone."""
    events: Mapping[str, int] = {}
    """Facts taken in, by kind."""


class Tally:
    """Counts; :meth:`frozen` gives a :class:`Figures`."""

    def __init__(self) -> None:
        self._ops: dict[tuple[str, str, str], int] = {}
        self._calls: dict[tuple[str, str], Histogram] = {}
        self._call_failures: dict[tuple[str, str], int] = {}
        self._drift: dict[tuple[str, str], int] = {}
        self._events: dict[str, int] = {}
        self._programming: dict[str, Histogram] = {}
        self._steps = Histogram(STEP_BOUNDS)
        self.last_step_wall = 0.0

    def op(self, kind: str, verb: str, *, failed: bool) -> None:
        """Count one operation."""
        _add(self._ops, (kind, verb, "failed" if failed else "ok"))

    def call(self, driver: str, what: str, took_s: float, *, failed: bool = False) -> None:
        """Count one call of a driver."""
        self._calls.setdefault((driver, what), Histogram(STEP_BOUNDS)).observe(took_s)
        if failed:
            _add(self._call_failures, (driver, what))

    def step(self, took_s: float) -> None:
        """Count one step that changed something."""
        self._steps.observe(took_s)

    def drifted(self, kind: str, what: str) -> None:
        """Count one object that another hand changed."""
        _add(self._drift, (kind, what))

    def took_in(self, kind: str) -> None:
        """Count one fact."""
        _add(self._events, kind)

    def programmed(self, family: str, took_s: float) -> None:
        """Count one change of endpoints that is now programmed."""
        self._programming.setdefault(family, Histogram(PROGRAMMING_BOUNDS)).observe(took_s)

    def frozen(self) -> Figures:
        """Return everything counted up to now."""
        return Figures(
            dict(self._ops),
            {key: one.frozen() for key, one in self._calls.items()},
            dict(self._call_failures),
            self._steps.frozen(),
            dict(self._drift),
            {key: one.frozen() for key, one in self._programming.items()},
            self.last_step_wall,
            dict(self._events),
        )


def _add(counts: dict[K, int], key: K) -> None:
    counts[key] = counts.get(key, 0) + 1


def unix(text: str) -> float | None:
    """Return the Unix time of an RFC 3339 text, or ``None`` where it is none."""
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()


class Latency:
    """Which changes of endpoints wait to be programmed, and since when; kube-proxy's semantics.

    A slice tells by an annotation when what changed it happened. One sample is due for each annotated slice that changed, at
    the end of the step that programmed it. What happened before we started is not ours to answer for: a restart would look
    like an outage.
    """

    def __init__(self, started: float) -> None:
        """``started``: Unix time from which on changes count."""
        self._started = started
        self._waiting: dict[Ref, tuple[float, str, tuple[Owner, ...]]] = {}

    def counts(self, record: EndpointSlice) -> bool:
        """Return whether a slice tells of a change that is ours to answer for."""
        at = unix(record.triggered) if record.triggered else None
        return at is not None and at >= self._started

    def changed(self, record: EndpointSlice, owners: Iterable[Owner]) -> None:
        """Let a slice wait until all ``owners`` are programmed. Of two changes before that, the older one counts."""
        at = unix(record.triggered)
        if at is None or not self.counts(record):
            return
        first = min(at, self._waiting[record.ref][0]) if record.ref in self._waiting else at
        self._waiting[record.ref] = (first, f"IPv{record.family:d}", tuple(owners))

    def gone(self, slice_: Ref) -> None:
        """Forget a slice."""
        self._waiting.pop(slice_, None)

    def done(self, stands: Callable[[Owner], bool], now: float) -> list[tuple[str, float]]:
        """Return family and seconds of every slice all of whose owners stand, and forget them."""
        over = {
            slice_: (family, max(0.0, now - at))
            for slice_, (at, family, owners) in self._waiting.items()
            if all(map(stands, owners))
        }
        for slice_ in over:
            del self._waiting[slice_]
        return list(over.values())
