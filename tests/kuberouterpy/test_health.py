"""What probes and load balancers are told."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from kuberouterpy import health
from kuberouterpy.sources.http import Page
from kuberouterpy.status import FailingKey, Status

GOOD = Status("n", "0", heartbeat=100.0, synced=True, settled=True, settled_at=1_700_000_000.0)
BROKEN = replace(
    GOOD, failing=(FailingKey("real x", ("o",), "e", 1, 1.0),), failing_total=1, failing_steps=3, pending=1
)
AWAY = replace(GOOD, node_eligible=False)
STARTING = Status("n", "0", heartbeat=100.0, waiting_for=("Pod",))


def ask(status: Status, path: str, *, proxy: bool = False, now: float = 110.0) -> Page:
    made = (health.proxy_pages if proxy else health.pages)(lambda: status, lambda: now, lambda: 1_700_000_042.25)
    page = made(path)
    assert page is not None
    return page


@pytest.mark.parametrize(
    ("status", "livez", "readyz", "healthz", "proxy_livez", "proxy_healthz"),
    [
        (GOOD, 200, 200, 200, 200, 200),
        (BROKEN, 200, 503, 200, 200, 200),
        (AWAY, 200, 200, 200, 200, 503),
        (STARTING, 200, 503, 200, 503, 503),
    ],
    ids=["good", "broken", "away", "starting"],
)
def test_each_page_fails_for_its_own_reasons_only(
    status: Status, livez: int, readyz: int, healthz: int, proxy_livez: int, proxy_healthz: int
) -> None:
    ours = [ask(status, path).code for path in ("/livez", "/readyz", "/healthz")]
    theirs = [ask(status, path, proxy=True).code for path in ("/livez", "/healthz")]
    assert (ours, theirs) == ([livez, readyz, healthz], [proxy_livez, proxy_healthz])


def test_a_loop_that_stands_still_fails_all_but_readiness() -> None:
    codes = [ask(GOOD, path, now=161.0).code for path in ("/livez", "/healthz")]
    codes += [ask(GOOD, path, proxy=True, now=161.0).code for path in ("/livez", "/healthz")]
    assert codes == [503] * 4


@pytest.mark.parametrize("proxy", [False, True])
def test_healthz_has_kube_proxys_body(proxy: bool) -> None:
    page = ask(AWAY, "/healthz", proxy=proxy)
    assert page.type == "application/json"
    assert json.loads(page.body) == {
        "lastUpdated": "2023-11-14T22:13:20.000000Z",
        "currentTime": "2023-11-14T22:14:02.250000Z",
        "nodeEligible": False,
    }


def test_readyz_says_why_not() -> None:
    assert ask(BROKEN, "/readyz").body == b"not ok: failing: real x\n"
    assert ask(STARTING, "/readyz").body == b"not ok: not listed yet: Pod\n"
    assert ask(GOOD, "/nothing").code == 404
