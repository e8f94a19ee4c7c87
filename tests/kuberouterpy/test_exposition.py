"""The text format, judged by Prometheus' own promtool."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from kuberouterpy.exposition import Histogram, Metric, Sample, Type, text


def lint(exposed: str) -> list[str]:
    """Return what ``promtool check metrics`` has to say; nothing where all is well."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.fail("promtool is missing; .ci/install brings Debian's package prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=exposed, text=True, capture_output=True, check=False)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def test_labels_and_help_are_escaped_as_the_format_says() -> None:
    metric = Metric("kuberouterpy_x", Type.GAUGE, "One\nand \\ two.", (Sample({"a": 'q"\\\n'}, 1.5), Sample({}, 2)))
    shown = text([metric])
    assert shown.splitlines() == [
        "# HELP kuberouterpy_x One\\nand \\\\ two.",
        "# TYPE kuberouterpy_x gauge",
        'kuberouterpy_x{a="q\\"\\\\\\n"} 1.5',
        "kuberouterpy_x 2",
    ]
    assert lint(shown) == []


def test_a_histogram_counts_each_value_once_in_every_bucket_that_holds_it() -> None:
    histogram = Histogram((0.1, 1, 10))
    for value in (0.05, 0.1, 0.5, 100):
        histogram.observe(value)
    shown = text([Metric("x_seconds", Type.HISTOGRAM, "H.", (Sample({"k": "v"}, histogram.frozen()),))])
    assert shown.splitlines()[2:] == [
        'x_seconds_bucket{k="v",le="0.1"} 2',
        'x_seconds_bucket{k="v",le="1"} 3',
        'x_seconds_bucket{k="v",le="10"} 3',
        'x_seconds_bucket{k="v",le="+Inf"} 4',
        'x_seconds_sum{k="v"} 100.65',
        'x_seconds_count{k="v"} 4',
    ]
    assert lint(shown) == []


def test_what_was_published_never_changes() -> None:
    histogram = Histogram((1,))
    histogram.observe(0.5)
    before = histogram.frozen()
    histogram.observe(0.5)
    assert (before.counts, histogram.frozen().counts) == ((1, 0), (2, 0))
    assert histogram.frozen() is histogram.frozen()


def test_a_metric_without_samples_is_not_written() -> None:
    assert text([Metric("x", Type.GAUGE, "H.", ())]) == ""
