"""Objects that another hand changes again and again: put right three times, then left alone for a while and told.

Two programs that each put back what the other changed do harm without end. Pure; the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kuberouterpy.dataplane import Key

FIGHTS: Final = 3
"""So often within :data:`WINDOW_S` an object is put right; the next time it is left."""
WINDOW_S: Final = 600.0
"""Seconds that a fight counts, and that a contested object is left alone."""


class Contest:
    """Remembers fights by key. Costs nothing for an object that nobody else touches."""

    def __init__(self) -> None:
        self._fights: dict[Key, tuple[float, ...]] = {}
        self._left: dict[Key, float] = {}

    def fought(self, key: Key, now: float) -> bool:
        """Take in that another hand changed ``key``; return whether that makes it one to leave, from now on."""
        if self.leaves(key, now):
            return False
        recent = (*(at for at in self._fights.get(key, ()) if now - at < WINDOW_S), now)
        self._forget_old(now)
        if len(recent) <= FIGHTS:
            self._fights[key] = recent
            return False
        self._fights.pop(key, None)
        self._left[key] = now + WINDOW_S
        return True

    def leaves(self, key: Key, now: float) -> bool:
        """Return whether ``key`` is to be left as it is."""
        return self._left.get(key, now) > now

    def expire(self, now: float) -> None:
        """Forget whatever has been left alone for long enough."""
        for key in [key for key, until in self._left.items() if until <= now]:
            del self._left[key]

    def forgive(self, key: Key) -> None:
        """Forget what was: something else is wanted now."""
        self._left.pop(key, None)
        self._fights.pop(key, None)

    def left(self) -> Iterator[tuple[Key, float]]:
        """Yield every key that is left alone, and until when."""
        yield from self._left.items()

    def _forget_old(self, now: float) -> None:
        if len(self._fights) >= _MANY:
            self._fights = {key: times for key, times in self._fights.items() if now - times[-1] < WINDOW_S}


_MANY: Final = 1024
"""A flush of everything makes many fights at once; old ones are swept when there are so many."""
