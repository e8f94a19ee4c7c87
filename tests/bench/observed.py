"""What being watched costs: a scrape with 10,000 Services, and the flight recorder in a step of the loop.

References in the same run: a scrape against ``json.dumps`` of the same samples; a step with recorder against one without; the
recorder's own thread per changed slice against encoding the same slice as JSON.

Run: ``python tests/bench/observed.py``. Prints figures; asserts nothing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Link,
    Ref,
    Replace,
    Service,
    ServicePort,
    ServiceType,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import VirtualServerKey
from kuberouterpy.drivers import fake
from kuberouterpy.drivers.ipvs_table import Counters, Table, Virtual
from kuberouterpy.drivers.readings import Readings
from kuberouterpy.exposition import text
from kuberouterpy.family import IPV4
from kuberouterpy.loop import Loop
from kuberouterpy.metrics import Names, Scrape, metrics, names
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from kuberouterpy.recorder import Recorder, exported
from proxy import CONTROLLER as PROXY

SERVICES = 10_000
STEPS = 2_000
ENDPOINTS = 100


def address(number: int) -> str:
    """Return a cluster IP."""
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def service(number: int) -> Service:
    """Return a Service of one port."""
    ports = (ServicePort("http", Protocol.TCP, 80),)
    return Service(Ref("team", f"web-{number}"), ServiceType.CLUSTER_IP, (address(number),), ports, families=(IPV4,))


def slice_of(number: int, ready: bool = True) -> EndpointSlice:
    """Return a slice with many endpoints, of which one changes."""
    endpoints = tuple(Endpoint(f"10.1.{n >> 8}.{n & 255}", ready=ready or n > 1) for n in range(1, ENDPOINTS + 1))
    ports = (EndpointPort("http", Protocol.TCP, 8080),)
    return EndpointSlice(Ref("team", f"web-{number}"), Ref("team", f"web-{number}"), IPV4, ports, endpoints)


def loop_of(services: int, recorder: Recorder | None = None) -> Loop:
    """Return a loop over fake drivers that has made its first step."""
    loop = Loop(
        config=Config(node_name="n"),
        controllers=(PROXY,),
        drivers=tuple(Programmed(driver, period_s=1e9) for driver in fake.kernel()),
        expected=(*KUBERNETES_KINDS, Link),
        recorder=recorder,
    )
    for kind in KUBERNETES_KINDS:
        loop.put(Replace(kind, tuple(map(service, range(services))) if kind is Service else ()))
    loop.put(Replace(Link, ()))
    loop.step(0.0)
    return loop


def took(call: Callable[[], object], times: int = 5) -> float:
    """Return the seconds of the fastest of some calls."""
    spans = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spans.append(time.perf_counter() - began)
    return min(spans)


def scrape() -> None:
    """Print what a scrape of many Services costs."""
    loop = loop_of(SERVICES)
    keys = [VirtualServerKey(IPV4, Protocol.TCP, address(number), 80) for number in range(SERVICES)]
    table = Table("1.2.1", 4096, tuple(Virtual(key, "rr", 0, 0, "", "", Counters(1, 2, 3, 4, 5)) for key in keys))
    known = names(loop, Names())
    value = Scrape(loop.status, loop.figures, Readings(table), known)
    made = list(metrics(value))
    page = text(made)
    samples = [(metric.name, dict(one.labels), str(one.value)) for metric in made for one in metric.samples]
    whole, reference = took(lambda: text(metrics(value))), took(lambda: json.dumps(samples))
    on_loop = took(lambda: names(loop, Names()))
    print(f"scrape of {SERVICES:,} Services: {whole * 1e3:.0f} ms, {whole / reference:.1f} x json.dumps of the samples")
    print(f"  {len(page) / 1e6:.1f} MB")
    again = took(lambda: names(loop, known))
    print(f"  of it on the loop's thread: {on_loop * 1e3:.1f} ms for names, {again * 1e6:.0f} us where none is new")


def steps(loop: Loop) -> float:
    """Return the seconds of a step that one changed endpoint makes, after a warm-up."""
    for number in range(100):
        loop.put(Upsert(slice_of(1, number % 2 == 0)))
        loop.step(1.0 + number)
    slices = [slice_of(1, False), slice_of(1, True)]
    began = time.perf_counter()
    for number in range(STEPS):
        loop.put(Upsert(slices[number % 2]))
        loop.step(200.0 + number)
    return (time.perf_counter() - began) / STEPS


def recorder() -> None:
    """Print what the recorder costs the loop, and its own thread."""
    without = steps(loop_of(100))
    with tempfile.TemporaryDirectory() as folder:
        made = Recorder(Path(folder), limit_bytes=64 << 20, node="n", version="0", config=Config())
        loop = loop_of(100, made)
        first = made._queue.get()
        assert first is not None
        handed = [first]

        def put(wall: float, item: Any) -> bool:
            if len(handed) < 300:  # enough to measure; thousands kept alive would measure the garbage collector
                handed.append((wall, item))
            return True

        made._put = put  # type: ignore[method-assign]
        within = steps(loop)
        began = time.perf_counter()
        for wall, item in handed:
            made._write(wall, item)
        own = (time.perf_counter() - began) / len(handed)
        size = len(exported(Path(folder))) / len(handed)
    plain = took(lambda: msgspec.json.encode(slice_of(1)), 50)
    print(f"step of one changed endpoint: {without * 1e6:.0f} us, with recorder {within / without:.2f} x")
    print(f"  its thread: {own * 1e6:.0f} us a step, {own / plain:.1f} x making the slice and encoding it as JSON")
    print(f"  {size:.0f} bytes a step, of {ENDPOINTS} endpoints")


if __name__ == "__main__":
    scrape()
    recorder()
