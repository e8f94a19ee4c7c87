"""The pages of health: what probes and load balancers are told, from one frozen Status. Pure.

==========  ==========================================  ===========================================================
page        fails when                                  who asks
==========  ==========================================  ===========================================================
/livez      the loop made no step for a minute          the kubelet's liveness probe: restart is safe, and helps
/readyz     first pass not done, or failing for long    the kubelet's readiness probe, rollouts
/healthz    as /livez                                   kube-router's liveness probe, on its port 20244
/healthz    as these, or the node is going away          load balancers of clouds, on kube-proxy's port (KEP-3836)
==========  ==========================================  ===========================================================

None of them ever fails because the API server is away: a node whose API server is away must go on serving. Bodies of
``/healthz`` are kube-proxy's JSON on both ports.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import msgspec

from kuberouterpy.sources.http import Page, Pages
from kuberouterpy.status import Status

_JSON: Final = "application/json"

Clock = Callable[[], float]


def pages(status: Callable[[], Status], monotonic: Clock, wall: Clock) -> Pages:
    """Return the pages of the health port."""

    def page(path: str) -> Page | None:
        told, now = status(), monotonic()
        match path:
            case "/livez":
                return _verdict(told.alive(now), "the loop has made no step for a minute")
            case "/readyz":
                return _verdict(told.ready, unready(told))
            case "/healthz":
                return _as_kube_proxy(told, told.alive(now), wall())
            case "/status.json":
                return Page(msgspec.json.encode(told), _JSON)
            case _:
                return Page(b"not found: /livez /readyz /healthz /status.json\n", code=HTTPStatus.NOT_FOUND)

    return page


def proxy_pages(status: Callable[[], Status], monotonic: Clock, wall: Clock) -> Pages:
    """Return the pages of kube-proxy's port: a load balancer leaves this node when its ``/healthz`` fails."""

    def page(path: str) -> Page | None:
        told, now = status(), wall()
        # Not whether everything is programmed: a Service that no node can program must not take every node out at once.
        good = told.settled and told.alive(monotonic())
        match path:
            case "/livez":
                return _as_kube_proxy(told, good, now)
            case "/healthz":
                return _as_kube_proxy(told, good and told.node_eligible, now)
            case _:
                return None

    return page


def unready(told: Status) -> str:
    """Return why an agent is not ready."""
    if not told.synced:
        return f"not listed yet: {', '.join(told.waiting_for)}"
    if not told.settled:
        return "the first pass over the kernel is not done"
    return f"failing: {'; '.join(one.key for one in told.failing)}"


def _verdict(good: bool, reason: str) -> Page:
    if good:
        return Page(b"ok\n")
    return Page(f"not ok: {reason}\n".encode(), code=HTTPStatus.SERVICE_UNAVAILABLE)


def _as_kube_proxy(told: Status, good: bool, wall: float) -> Page:
    body = {
        "lastUpdated": _stamp(told.settled_at),
        "currentTime": _stamp(wall),
        "nodeEligible": told.node_eligible,
    }
    return Page(msgspec.json.encode(body), _JSON, HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE)


def _stamp(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
