"""What the cluster sees of an agent: metrics, health, Events, the recorder and a dump, on a node that works."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable

import pytest

from kuberouterpy.family import family_of
from kuberouterpy.lab.client import PODS
from tests.cluster import Lab, Place, eventually, url
from tests.e2e.conftest import Make, Pods, Serve, vip, vip_urls
from tests.e2e.objects import (
    EVENTS,
    HTTP,
    NAMESPACE,
    NETWORK_POLICIES,
    SHARED_PORTS,
    by_pod,
    pod,
    policy,
    port,
    service,
)
from tests.e2e.test_services import EVERYONE, WEB, covers
from tests.kuberouterpy.metrics.test_monitoring import RULES, expressions, used
from tests.kuberouterpy.test_exposition import lint

NODE = "node-1"
SILENT = {
    "kuberouterpy_driver_call_failures_total",  # appears with the first failure
}
"""Series that a healthy agent need not have."""


def scraped(node: Place, *, judged: bool = False) -> dict[str, float]:
    """Return what a node's agent exports, value by name with labels; ``judged`` by promtool, which takes its time here."""
    (answer,) = node.curl("http://127.0.0.1:20241/metrics", timeout_s=15)
    assert answer.code == 0
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    assert not judged or lint(answer.text + "\n") == []
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def counted(found: dict[str, float], name: str, *labels: str) -> float:
    """Return the sum of a metric's samples that have some labels."""
    return sum(value for key, value in found.items() if key.startswith(name) and all(one in key for one in labels))


def moved(node: Place, addresses: Iterable[str]) -> dict[str, float]:
    """Assert that traffic, drops and programming have been counted in both families; return all that was scraped."""
    found = scraped(node)
    for address in addresses:
        where = (f'service="seen",vip="{address}"',)
        assert counted(found, "kuberouterpy_service_connections_total", *where) >= 3
        for direction in ("in", "out"):
            assert counted(found, "kuberouterpy_service_bytes_total", *where, f'direction="{direction}"') > 0
        version = f'ip_family="IPv{family_of(address):d}"'
        assert counted(found, "kuberouterpy_policy_denied_packets_total", 'pod="guest"', version) > 0
        assert counted(found, "kuberouterpy_network_programming_duration_seconds_count", version) > 0
    assert counted(found, "kuberouterpy_neighbor_up") >= 2
    return found


def contested(lab: Lab, address: str) -> None:
    """Assert that the Events on the node tell of a fight over an address."""
    told = [one for one in lab.api.list(EVENTS, "default")[0] if one["involvedObject"]["name"] == NODE]
    assert any(one["reason"] == "Drift" for one in told)
    assert any(one["reason"] == "Contested" and address in one["message"] for one in told), [
        (one["reason"], one["message"]) for one in told
    ]


def standing(node: Place, address: str) -> None:
    """Assert that the dummy link has an address."""
    assert f" {address}/" in node.run("ip -o addr show dev kube-dummy-if")


def ours(node: Place, words: str) -> str:
    """Run the command line on a node; return what it printed."""
    script = (
        f"KUBEROUTERPY_SOCKET=/run/lab/nodes/{NODE}/agent.sock {shlex.quote(sys.executable)} -m kuberouterpy {words}"
    )
    return node.run(script, timeout_s=90)


@pytest.mark.timeout(300)  # a repair may have to wait for the audit: 30 s
def test_an_agent_is_seen_from_all_sides(lab: Lab, shared: Pods, serve: Serve, make: Make) -> None:
    """One test, because each step needs what the steps before it did to the node."""
    node = lab.node(NODE)
    seen = serve(service("seen", [port(80, "http")], WEB))
    make(NETWORK_POLICIES, policy("lonely", {"name": "guest"}, ingress=[{"from": [by_pod(name="green")]}]))
    # Programming counts from what changed after the agent began, and a test before this one may have started it anew.
    make(PODS, pod("timed", NODE, labels={"name": "timed"}, ports=SHARED_PORTS))
    serve(service("timed", [port(80, "http")], {"name": "timed"}))
    addresses = [vip(seen, family) for family in lab.families]
    # The guest's own connections are counted; those to it are denied, and that is counted, too.
    eventually(covers, shared["guest"], vip_urls(lab, seen), EVERYONE)
    denied = [url(shared.ip("guest", family), HTTP) for family in lab.families]
    assert [one.code for one in shared["red"].curl(*denied, timeout_s=1)] == [28, 28]
    found = eventually(moved, node, addresses)

    # Health, on both ports.
    pages = [f"http://127.0.0.1:{path}" for path in ("20244/livez", "20244/readyz", "20244/healthz", "10256/healthz")]
    live, ready, healthz, proxy = node.curl(*pages)
    assert (live.text, ready.text) == ("ok", "ok")
    for page in (healthz, proxy):
        told = json.loads(page.text)
        assert (told["nodeEligible"], {*told}) == (True, {"lastUpdated", "currentTime", "nodeEligible"})

    # Another hand takes an address away four times: three times it comes back, then it is left and told.
    for address in addresses:
        for _ in range(3):
            node.run(f"ip addr del {address}/{family_of(address).host_prefix} dev kube-dummy-if")
            eventually(standing, node, address)
        node.run(f"ip addr del {address}/{family_of(address).host_prefix} dev kube-dummy-if")
        eventually(contested, lab, address)
    found = scraped(node, judged=True)
    assert found["kuberouterpy_contested_objects"] == 2
    assert found['kuberouterpy_drift_total{kind="address",what="missing"}'] >= 8

    # Every series of the alert rules and the dashboard is there, on an agent that had something to tell of everything.
    names = {re.sub(r"_(bucket|sum|count)$", "", key.partition("{")[0]) for key in found}
    assert used("\n".join([*(rule["expr"] for rule in RULES), *expressions()])) - SILENT <= names

    # The recorder has the fight; a plan from it is what the agent wanted; the level goes up for a while.
    shown = ours(node, f"record show /run/lab/nodes/{NODE}/record")
    for address in addresses:
        assert f"contested missing address kube-dummy-if {address}" in shown
    assert re.search(rf"did +create virtual tcp .*{re.escape(addresses[0])}.*# proxy/service/{NAMESPACE}/seen", shown)
    assert re.search(r"neighbor  \S+ established", shown)
    plan = ours(node, f"plan --from /run/lab/nodes/{NODE}/record")
    assert all(f"kube-dummy-if {address}/" in plan for address in addresses)
    socket = f"curl -sX POST --unix-socket /run/lab/nodes/{NODE}/agent.sock"
    levels = [
        json.loads(node.run(f"{socket} 'http://agent/v1/log-level?level={name}&for=1m'")) for name in ("debug", "info")
    ]
    assert [(one["level"], 50 < one["for_s"] <= 60) for one in levels] == [("debug", True), ("info", True)]

    # A dump has all of it, and no secret of the kubeconfig.
    ours(node, "sysdump -o /tmp/dump.tar.gz")
    text = node.run(
        "cd /tmp && tar xzf dump.tar.gz && cat kuberouterpy-*/agent/* kuberouterpy-*/kernel/* kuberouterpy-*/gobgp.txt"
    )
    node.run("rm -rf /tmp/dump.tar.gz /tmp/kuberouterpy-node-*")
    for word in ("KUBE-ROUTER-FORWARD", "kube-dummy-if", "contested", "neighbor_address", "event=drift", *addresses):
        assert word in text
    assert "BEGIN CERTIFICATE" not in text
    assert "BEGIN RSA PRIVATE KEY" not in text
