"""Answers a scrape: reads what the kernel counts, names it, writes it. On the thread of the one who asks.

The loop is asked only for names, and waits for nobody: while it is busy the names of the last scrape serve. A scrape therefore
answers within a second of what reading the kernel takes, whatever state the agent is in.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Final

from kuberouterpy.config import Config
from kuberouterpy.drivers import readings
from kuberouterpy.exposition import CONTENT_TYPE, text
from kuberouterpy.loop import Ask, Loop
from kuberouterpy.metrics import Names, Scrape, compat, metrics, names
from kuberouterpy.sources.gobgp import NeighborState
from kuberouterpy.sources.http import Page

_NAMES_S: Final = 1.0
"""So long a scrape waits for names."""


class Scraper:
    """Makes the page of metrics."""

    def __init__(
        self,
        loop: Loop,
        *,
        neighbors: Callable[[], tuple[NeighborState, ...]] = lambda: (),
        events_dropped: Callable[[], int] = lambda: 0,
        read: Callable[[Config], readings.Readings] | None = None,
    ) -> None:
        self._loop = loop
        self._neighbors = neighbors
        self._events_dropped = events_dropped
        self._read = read or _read
        self._names = Names()

    def page(self, path: str) -> Page | None:
        """Return the metrics, where that is the path."""
        if path != self._loop.config.metrics_path:
            return None
        return Page(self.text().encode(), CONTENT_TYPE)

    def text(self) -> str:
        """Return all metrics as text."""
        scrape = self.scrape()
        return text((*metrics(scrape), *compat.metrics(scrape, self._loop.config.metrics_compat)))

    def scrape(self) -> Scrape:
        """Return all that the metrics are made of."""
        loop = self._loop
        return Scrape(
            status=loop.status,
            figures=loop.figures,
            readings=self._read(loop.config),
            names=self._current_names(),
            neighbors=self._neighbors(),
            events_dropped=self._events_dropped(),
            now=time.monotonic(),
        )

    def _current_names(self) -> Names:
        reply: queue.SimpleQueue[object] = queue.SimpleQueue()
        before = self._names
        self._loop.put(Ask(lambda loop: names(loop, before), reply))
        try:
            told = reply.get(timeout=_NAMES_S)
        except queue.Empty:
            told = None
        if isinstance(told, Names):
            self._names = told
        return self._names


def _read(config: Config) -> readings.Readings:
    return readings.read(
        ipvs=config.run_service_proxy,
        reals=config.metrics_real_servers,
        families=config.families,
        denied=config.run_firewall,
    )
