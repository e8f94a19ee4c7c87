"""A lane: a driver in a thread of its own, whose results come back to the loop as events.

A hung GoBGP sidecar must never delay the kernel; every other driver runs on the loop's thread, where blocking is the
batching.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from kuberouterpy.dataplane import Key, Object, Op
from kuberouterpy.drivers import Driver
from kuberouterpy.errors import DriverError


class LaneResult(NamedTuple):
    """What came of one call."""

    name: str
    """Driver name."""
    outcomes: tuple[tuple[Op, DriverError | None], ...] = ()
    """Every operation of an apply with its result."""
    listing: Mapping[Key, Object] | None = None
    """The listing, if that was the call and it worked."""
    error: DriverError | None = None
    """Why a listing failed."""
    took_ms: float = 0.0
    """Duration of the call."""


class Lane:
    """Calls one driver, one call after the other; ``put`` hands results to the loop."""

    def __init__(self, driver: Driver, put: Callable[[LaneResult], None]) -> None:
        self._driver = driver
        self._put = put
        self._calls: queue.SimpleQueue[Sequence[Op] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"lane-{driver.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def list(self) -> None:
        """Ask for a listing."""
        self._calls.put(None)

    def apply(self, ops: Sequence[Op]) -> None:
        """Ask for operations."""
        self._calls.put(ops)

    def _run(self) -> None:
        while True:
            ops = self._calls.get()
            began = time.monotonic()
            result = self._listing() if ops is None else self._outcomes(ops)
            self._put(result._replace(took_ms=(time.monotonic() - began) * 1000))

    def _listing(self) -> LaneResult:
        try:
            return LaneResult(self._driver.name, listing=self._driver.list())
        except DriverError as error:
            return LaneResult(self._driver.name, error=error)

    def _outcomes(self, ops: Sequence[Op]) -> LaneResult:
        outcomes: dict[Key, tuple[Op, DriverError | None]] = {}
        try:
            outcomes.update((op.key, (op, error)) for op, error in self._driver.apply(ops))
        except DriverError as error:
            outcomes.update((op.key, (op, error)) for op in ops if op.key not in outcomes)
        return LaneResult(self._driver.name, outcomes=tuple(outcomes.values()))
