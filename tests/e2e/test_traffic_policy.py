"""Traffic policies on a real cluster: who is served by which endpoints, by where the question comes from.

Names begin with the row of the Kubernetes project's own conformance tests that they repeat.
"""
# ruff: noqa: N802  (rows are D1, D4, ...)

from __future__ import annotations

import json

from kuberouterpy.lab.client import SERVICES, Object
from tests.cluster import REFUSED, TIMED_OUT, Lab, Place, eventually, url
from tests.e2e.conftest import Pods, Serve, node_port, vip_urls
from tests.e2e.objects import NAMESPACE, port, service
from tests.e2e.test_services import EVERYONE, WEB, covers

RED = {"name": "red"}
INGRESS = ("198.51.100.7", "2001:db8:1b::7")


def closed(place: Place, urls: list[str]) -> None:
    """Assert that nobody answers."""
    for one, answer in zip(urls, place.curl(*urls, timeout_s=1), strict=True):
        assert answer.code in {REFUSED, TIMED_OUT}, (place, one, answer)


def seen(place: Place, urls: list[str]) -> list[str]:
    """Return the client's address as the endpoint sees it, by URL."""
    return [answer.text for answer in place.curl(*(f"{one}/clientip" for one in urls))]


def on(lab: Lab, node: str, item: Object) -> list[str]:
    """Return the node-port URLs of one node."""
    return [url(lab.address(node, family), node_port(item)) for family in lab.families]


def balance(lab: Lab, name: str, *addresses: str) -> None:
    """Give a Service load-balancer addresses, as a cloud would."""
    body = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": one} for one in addresses]}}})
    lab.kubectl("-n", NAMESPACE, "patch", "service", name, "--subresource=status", "--type=merge", "-p", body)


def test_D1_D2_internal_policy_local_serves_from_this_node_or_not_at_all(lab: Lab, shared: Pods, serve: Serve) -> None:
    urls = vip_urls(lab, serve(service("d1", [port(80, "http")], RED, internalTrafficPolicy="Local")))
    for place in (shared["guest"], lab.node("node-1")):
        eventually(covers, place, urls, {"red"})
    for place in (shared["blue"], shared["green"], lab.node("node-2")):
        closed(place, urls)


def test_D4_node_ports_of_local_services_keep_the_client(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("d4", [port(80, "http")], RED, type="NodePort", externalTrafficPolicy="Local"))
    urls = on(lab, "node-1", item)
    eventually(covers, lab.client, urls, {"red"})
    assert seen(lab.client, urls) == [lab.client_address(family) for family in lab.families]
    assert seen(lab.node("node-2"), urls) == [lab.address("node-2", family) for family in lab.families]
    for node in ("node-2", "node-3"):
        closed(lab.client, on(lab, node, item))


def test_D4_from_outside_only_endpoints_of_the_node_serve_and_inside_all(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("local", [port(80, "http")], WEB, type="NodePort", externalTrafficPolicy="Local"))
    for node, name in (("node-1", "red"), ("node-2", "blue"), ("node-3", "green")):
        urls = on(lab, node, item)
        eventually(covers, lab.client, urls, {name})
        covers(lab.node(node), urls, EVERYONE)
        covers(shared[name], urls, EVERYONE)
    covers(shared["green"], on(lab, "node-1", item), {"red"})
    covers(lab.node("node-3"), on(lab, "node-2", item), {"blue"})


def test_D9_pods_and_nodes_without_an_endpoint_reach_a_local_load_balancer(
    lab: Lab, shared: Pods, serve: Serve
) -> None:
    serve(service("d9", [port(80, "http")], RED, type="LoadBalancer", externalTrafficPolicy="Local"))
    balance(lab, "d9", *INGRESS)
    urls = [url(address, 80) for address in INGRESS]
    for name in ("guest", "blue", "green"):
        eventually(covers, shared[name], urls, {"red"})
        assert seen(shared[name], urls) == [shared.ip(name, family) for family in lab.families]
    for node in lab.nodes:
        eventually(covers, lab.node(node), urls, {"red"})


def test_D10_the_external_policy_changes_both_ways(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("d10", [port(80, "http")], RED, type="NodePort", externalTrafficPolicy="Local"))
    there, elsewhere = on(lab, "node-1", item), on(lab, "node-3", item)
    for _ in range(2):
        eventually(covers, lab.client, there, {"red"})
        eventually(closed, lab.client, elsewhere)
        lab.api.patch(SERVICES, NAMESPACE, "d10", {"spec": {"externalTrafficPolicy": "Cluster"}})
        eventually(covers, lab.client, [*there, *elsewhere], {"red"})
        lab.api.patch(SERVICES, NAMESPACE, "d10", {"spec": {"externalTrafficPolicy": "Local"}})


def test_D18_the_two_policies_are_independent(lab: Lab, shared: Pods, serve: Serve) -> None:
    one = serve(service("d18a", [port(80, "http")], RED, type="NodePort", externalTrafficPolicy="Local"))
    eventually(covers, shared["green"], vip_urls(lab, one), {"red"})
    two = serve(service("d18b", [port(80, "http")], RED, type="NodePort", internalTrafficPolicy="Local"))
    eventually(covers, lab.client, on(lab, "node-3", two), {"red"})
    closed(shared["green"], vip_urls(lab, two))


def test_a_restarted_agent_knows_its_marked_virtual_servers(lab: Lab, shared: Pods, serve: Serve) -> None:
    serve(service("marked", [port(80, "http")], RED, type="NodePort", externalTrafficPolicy="Local"))
    eventually(marked, lab, True)
    lab.stop_agent("node-1")
    lab.node("node-1").run("ipvsadm -A -f 77 -s rr")
    lab.api.delete(SERVICES, NAMESPACE, "marked")
    try:
        lab.start_agent("node-1")
        eventually(marked, lab, False)
        assert "-A -f 77 -s rr" in lab.node("node-1").run("ipvsadm -Sn"), "a mark of someone else"
    finally:
        lab.node("node-1").run("ipvsadm -D -f 77")


def marked(lab: Lab, present: bool) -> None:
    """Assert whether node-1 has a virtual server by a mark of ours."""
    lines = lab.node("node-1").run("ipvsadm -Sn").splitlines()
    assert any(line.startswith("-A -f 107") for line in lines) == present
