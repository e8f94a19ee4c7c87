"""ClusterNetworkPolicies on a real cluster: tiers around a NetworkPolicy, nodes as peers, and what the agents say of it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from kuberouterpy.lab.client import Object, Resource
from tests.cluster import Lab, eventually, url
from tests.documents import ROOT
from tests.e2e.conftest import Make, Pods, Serve, remove, vip_urls
from tests.e2e.objects import DEFINITIONS, HTTP, NETWORK_POLICIES, policy, port, service
from tests.e2e.test_policies import RED, clients, direct, only

CLUSTER_POLICIES = Resource(
    "ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies", namespaced=False
)
SUBJECT = {"pods": {"namespaceSelector": {"matchLabels": {"team": "own"}}, "podSelector": {"matchLabels": RED}}}
ANYBODY = {"namespaces": {}}


@pytest.fixture(scope="module", autouse=True)
def defined(lab: Lab, shared: Pods) -> Iterator[None]:
    """The kind; agents that run look for it a few times a minute."""
    lab.api.create(DEFINITIONS, yaml.safe_load((ROOT / "tests/clusternetworkpolicies.yaml").read_text()))
    yield
    lab.api.delete(DEFINITIONS, "", "clusternetworkpolicies.policy.networking.k8s.io")


def guard(name: str, tier: str, priority: int, **rules: list[Object]) -> Object:
    """Return a ClusterNetworkPolicy about red."""
    return {"metadata": {"name": name}, "spec": {"tier": tier, "priority": priority, "subject": SUBJECT, **rules}}


def ingress(action: str, peer: Object) -> Object:
    """Return an ingress rule."""
    return {"action": action, "from": [peer]}


def named(*names: str) -> Object:
    """Return a peer: pods by their names."""
    match = {"matchExpressions": [{"key": "name", "operator": "In", "values": list(names)}]}
    return {"pods": {"namespaceSelector": {}, "podSelector": match}}


def socket_of(node: str) -> Path:
    """Return the socket of a node's agent; only in the embedded lab it can be reached from here."""
    return Path(f"/run/lab/nodes/{node}/agent.sock")


def say(lab: Lab, node: str, *words: str) -> tuple[int, str]:
    """Return the exit code of the command line on a node, and what it says."""
    script = shlex.join((sys.executable, "-m", "kuberouterpy", "policy", *words, f"--agent-socket={socket_of(node)}"))
    done = lab.node(node).sh(f"cd {shlex.quote(str(ROOT))} && {script}", timeout_s=60)
    return done.code, done.text


def test_tiers_stand_around_network_policies(lab: Lab, shared: Pods, make: Make, serve: Serve) -> None:
    """Directly and through a cluster IP: Admin denies and accepts over a NetworkPolicy, Baseline only without one."""
    item = serve(service("red", [port(80, "http")], RED))
    places = clients(lab, shared)
    urls = [*direct(lab, shared, "red"), *vip_urls(lab, item)]
    eventually(only, places, urls, places)
    make(CLUSTER_POLICIES, guard("deny-stranger", "Admin", 20, ingress=[ingress("Deny", named("stranger", "guest"))]))
    eventually(only, places, urls, {"blue", "green", "node-1", "node-2"})
    make(CLUSTER_POLICIES, guard("first", "Admin", 10, ingress=[ingress("Accept", named("guest"))]))
    eventually(only, places, urls, {"guest", "blue", "green", "node-1", "node-2"})
    make(NETWORK_POLICIES, policy("deny", RED, ingress=[]))
    eventually(only, places, urls, {"guest", "node-1"})
    make(CLUSTER_POLICIES, guard("floor", "Baseline", 10, ingress=[ingress("Deny", named("blue"))]))
    if socket_of("node-1").exists():
        explained(lab, shared)
    remove(lab, NETWORK_POLICIES, "deny")
    eventually(only, places, urls, {"guest", "green", "node-1", "node-2"})
    lab.api.patch(CLUSTER_POLICIES, "", "first", {"spec": {"ingress": [ingress("Pass", ANYBODY)]}})
    eventually(only, places, urls, {"guest", "stranger", "green", "node-1", "node-2"})


def explained(lab: Lab, shared: Pods) -> None:
    """The agent of red's node explains what it enforces, its kernel agrees, and a lost rule is a mismatch."""
    for source, allowed, by in (
        ("e2e/guest", True, "cnp/first ingress[0]: Accept (Admin tier)"),
        ("e2e-other/stranger", False, "cnp/deny-stranger ingress[0]: Deny (Admin tier)"),
        ("e2e/blue", False, "isolated by e2e/deny, no rule allows it"),
    ):
        code, text = say(
            lab, "node-1", "explain", "--from", source, "--to", "e2e/red", "--port", f"{HTTP}/tcp", "--exit-code"
        )
        assert (code, by in text, "MISMATCH" in text) == (0 if allowed else 5, True, False), text
    code, text = say(lab, "node-1", "list", "-o", "wide")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in text.splitlines()}
    assert {"cnp/first", "cnp/deny-stranger", "e2e/deny"} <= rows.keys(), text
    assert int(rows["e2e/deny"][6]) > 0, text
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(say, lab, "node-1", "denied", "-w", "-n", "1", "-o", "json")
        while not told.done():
            shared["blue"].codes(*direct(lab, shared, "red"), timeout_s=1)
    code, text = told.result()
    denial = json.loads(text)
    assert (code, denial["source_name"], denial["destination_name"]) == (0, "e2e/blue", "e2e/red")
    assert (denial["direction"], denial["policies"], denial["port"]) == ("ingress", "deny", HTTP)


def test_a_pod_is_denied_its_own_node_and_others(lab: Lab, shared: Pods, make: Make) -> None:
    """Nodes as peers: ``host`` serves on node-2, where blue is a neighbor; red is on another node."""
    places = {name: shared[name] for name in ("red", "blue", "stranger")}
    urls = [url(lab.address("node-2", family), 18080) for family in lab.families]
    eventually(only, places, urls, places)
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {"matchLabels": {"team": "own"}}}}
    rules = [{"action": "Deny", "to": [{"nodes": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 18080}}}]}]
    make(CLUSTER_POLICIES, {"metadata": {"name": "no-nodes"}, "spec": {**spec, "egress": rules}})
    eventually(only, places, urls, {"stranger"})
    if not socket_of("node-2").exists():
        return
    words = ("explain", "--from", "e2e/blue", "--to", "node-2", "--port", "18080", "-o", "json")
    answers = json.loads(say(lab, "node-2", *words)[1])["answers"]
    found = [(one["allowed"], one["hooks"], one["walked"][0]["accepted"]) for one in answers]
    assert found == [(False, ["INPUT"], False)] * len(lab.families)
