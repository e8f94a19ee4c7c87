"""A driver as the loop sees it: when to list it next, whether it has answered, and its lane where it has one."""

from __future__ import annotations

import random
from typing import Final

from kuberouterpy.drivers import Driver
from kuberouterpy.lane import Lane

RELIST_S: Final = 1.0
"""Wait before a driver is listed again after a failure; it doubles up to the resync period."""
JITTER: Final = 0.1
"""Part of a resync period that is random, so that nodes and drivers do not list in step."""


class Programmed:
    """One driver with its place in the order, when to list it, and its lane if it has one."""

    def __init__(self, driver: Driver, *, period_s: float, lane: Lane | None = None) -> None:
        self.driver = driver
        self.period_s = period_s
        self.lane = lane
        self.listed = False
        """Has answered a listing since it (re)started; before that nothing is applied."""
        self.list_at = 0.0
        self.failures = 0
        self.busy = 0
        """Calls of the lane that have not come back."""
        self.excused = False
        """What the next listing lacks went with a link: the kernel's doing, no other hand's."""

    @property
    def name(self) -> str:
        """The driver's name."""
        return self.driver.name

    def resync_in(self, now: float) -> None:
        """Set the time of the next listing after one that worked."""
        self.failures = 0
        self.list_at = now + self.period_s * (1 + JITTER * random.random())

    def relist_soon(self, now: float) -> None:
        """List again soon after something failed; each further failure waits longer."""
        wait = min(RELIST_S * 2.0**self.failures, self.period_s)
        self.failures += 1
        self.list_at = min(self.list_at, now + wait) if self.listed else now + wait
