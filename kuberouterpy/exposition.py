"""Prometheus' text format 0.0.4, written and nothing else.

A metric is a frozen value: whoever publishes one may forget it, whoever reads one takes no lock. Source: the format's page in
Prometheus' documentation (exposition_formats), whose own ``promtool check metrics`` judges this in the tests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What the answer is called."""

Labels = Mapping[str, str]


class Type(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Distribution(Struct, frozen=True):
    """How often a measured value fell into which bucket."""

    bounds: tuple[float, ...]
    """Upper bounds, ascending, without the infinite one."""
    counts: tuple[int, ...]
    """Of each bucket by itself; one more than ``bounds``."""
    total: float = 0.0
    """Sum of the values."""


class Sample(NamedTuple):
    """One value of a metric."""

    labels: Labels
    value: float | Distribution


class Metric(Struct, frozen=True):
    """A metric with its samples; without samples it is not written."""

    name: str
    type: Type
    help: str
    samples: tuple[Sample, ...]


class Histogram:
    """Counts values as they come; one thread observes, :meth:`frozen` is for all."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0
        self._frozen: Distribution | None = None

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value
        self._frozen = None

    def frozen(self) -> Distribution:
        """Return what was counted up to now; the same value until something more is."""
        if self._frozen is None:
            self._frozen = Distribution(self._bounds, tuple(self._counts), self._total)
        return self._frozen


def text(metrics: Iterable[Metric]) -> str:
    """Return metrics as the text format has them, in the order given; each name once."""
    return "".join(f"{line}\n" for metric in metrics if metric.samples for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {_escaped(metric.help)}"
    yield f"# TYPE {metric.name} {metric.type}"
    for labels, value in metric.samples:
        if isinstance(value, Distribution):
            yield from _buckets(metric.name, labels, value)
        else:
            yield f"{metric.name}{_labels(labels)} {_number(value)}"


def _buckets(name: str, labels: Labels, value: Distribution) -> Iterator[str]:
    below = 0
    for bound, count in zip((*map(_number, value.bounds), "+Inf"), value.counts, strict=True):
        below += count
        yield f"{name}_bucket{_labels({**labels, 'le': bound})} {below}"
    yield f"{name}_sum{_labels(labels)} {_number(value.total)}"
    yield f"{name}_count{_labels(labels)} {below}"


def _labels(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _quoted(value: str) -> str:
    return _escaped(value).replace('"', '\\"')


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
