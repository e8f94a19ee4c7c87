"""Readiness, liveness and startup probes: exec, tcpSocket, httpGet (grpc is probed as tcpSocket).

One thread per container that has any. Network probes start from the node's network namespace, as a kubelet's do: policies
must let them through.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final

import msgspec

from kuberouterpy.lab.client import Object
from kuberouterpy.lab.kubelet import netns
from kuberouterpy.lab.kubelet.containers import port_number

_TIMEOUT_S: Final = 1.0


class Kind(StrEnum):
    """Which question a probe answers."""

    STARTUP = "startupProbe"
    READINESS = "readinessProbe"
    LIVENESS = "livenessProbe"


class Counter:
    """Turns single results into verdicts: so many failures in a row, so many successes in a row."""

    def __init__(self, probe: Object) -> None:
        self._failures_needed = int(probe.get("failureThreshold") or 3)
        self._successes_needed = int(probe.get("successThreshold") or 1)
        self._run = 0
        self._last: bool | None = None

    def verdict(self, passed: bool) -> bool | None:
        """Return whether it now counts as passed or as failed; None while that is not settled."""
        self._run = self._run + 1 if passed == self._last else 1
        self._last = passed
        needed = self._successes_needed if passed else self._failures_needed
        return passed if self._run >= needed else None


class Target(msgspec.Struct, frozen=True):
    """Where a container's probes go."""

    address: str
    """The pod's first address."""
    node_netns: str
    """Network probes start here."""
    execute: Callable[[tuple[str, ...], float], bool]
    """Run a command in the container, with a time limit in seconds; whether it ended with 0."""


class Prober:
    """Probes one run of one container until stopped; tells each verdict that differs from the one before."""

    def __init__(self, container: Object, target: Target, tell: Callable[[Kind, bool], None]) -> None:
        self._container = container
        self._target = target
        self._tell = tell
        self._stop = threading.Event()
        threading.Thread(target=self._run, name=f"probe-{container['name']}", daemon=True).start()

    def stop(self) -> None:
        """Probe no more; a probe under way may still end, its verdict is not told."""
        self._stop.set()

    def _run(self) -> None:
        try:
            netns.enter(self._target.node_netns)
        except OSError:
            return  # the node is going
        if Kind.STARTUP in self._container:
            self._stop.wait(delay_s(self._container[Kind.STARTUP]))
            if not any(self._verdicts(Kind.STARTUP)):
                return
        kinds = [kind for kind in (Kind.READINESS, Kind.LIVENESS) if kind in self._container]
        self._alternate({kind: self._verdicts(kind) for kind in kinds})

    def _verdicts(self, kind: Kind) -> Iterator[bool]:
        """Probe at each due time; yield the verdicts, telling those that are news."""
        probe = self._container[kind]
        counter, told = Counter(probe), None
        while True:
            verdict = counter.verdict(self._probe(probe))
            if self._stop.is_set():
                return
            if verdict is not None and verdict != told:
                told = verdict
                self._tell(kind, verdict)
            yield bool(verdict)
            if kind is Kind.STARTUP and (told is not None or self._stop.wait(period_s(probe))):
                return

    def _alternate(self, running: dict[Kind, Iterator[bool]]) -> None:
        now = time.monotonic()
        due = {kind: now + delay_s(self._container[kind]) for kind in running}
        while due:
            kind = min(due, key=lambda one: due[one])
            if self._stop.wait(max(0.0, due[kind] - time.monotonic())):
                return
            next(running[kind], None)
            due[kind] = time.monotonic() + period_s(self._container[kind])

    def _probe(self, probe: Object) -> bool:
        timeout_s = float(probe.get("timeoutSeconds") or _TIMEOUT_S)
        try:
            if probe.get("exec"):
                return self._target.execute(tuple(probe["exec"].get("command") or ()), timeout_s)
            if probe.get("httpGet"):
                return _http(self._container, probe["httpGet"], self._target.address, timeout_s)
            action = probe.get("tcpSocket") or probe.get("grpc") or {}
            return _connects(self._container, action, self._target.address, timeout_s)
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return False


def delay_s(probe: Object) -> float:
    """Return the time before the first probe."""
    return float(probe.get("initialDelaySeconds") or 0)


def period_s(probe: Object) -> float:
    """Return the time between two probes."""
    return float(probe.get("periodSeconds") or 10)


def _connects(container: Object, action: Object, address: str, timeout_s: float) -> bool:
    where = (action.get("host") or address, port_number(container, action["port"]))
    with socket.create_connection(where, timeout=timeout_s):
        return True


def _http(container: Object, action: Object, address: str, timeout_s: float) -> bool:
    host, port = action.get("host") or address, port_number(container, action["port"])
    connection: http.client.HTTPConnection
    if action.get("scheme") == "HTTPS":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        headers = {one["name"]: one["value"] for one in action.get("httpHeaders") or []}
        connection.request("GET", action.get("path") or "/", headers=headers)
        return 200 <= connection.getresponse().status < 400
    finally:
        connection.close()
