"""Health-check node ports on a real cluster: what a load balancer outside hears from every node.

Names begin with the row of the Kubernetes project's own conformance tests that they repeat.
"""
# ruff: noqa: N802  (rows are D5, D6, ...)

from __future__ import annotations

import json
import socket
from contextlib import closing
from typing import Any

from kuberouterpy.lab.client import PODS, SERVICES, Object
from tests.cluster import Lab, Place, eventually, url
from tests.e2e.conftest import Make, Pods, Serve, ready, vip
from tests.e2e.objects import EVENTS, HTTP, NAMESPACE, container_port, pod, port, service
from tests.e2e.test_services import covers
from tests.e2e.test_traffic_policy import on

RED = {"name": "red"}
LOCAL: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
SERVES, AWAY, CLOSED = "200", "503", "000"


def health_port(lab: Lab, name: str) -> int:
    """Return a Service's health-check node port, 0 without one."""
    number: int = lab.api.get(SERVICES, NAMESPACE, name)["spec"].get("healthCheckNodePort", 0)
    return number


def codes(place: Place, urls: list[str]) -> list[str]:
    """Return the HTTP status of each URL, 000 where nobody answers."""
    words = " ".join(f"-o /dev/null '{one}'" for one in urls)
    return place.sh(f"curl -gs -m 3 -w '%{{http_code}}\\n' {words}").text.split()


def told(lab: Lab, number: int, wanted: dict[str, str], path: str = "/healthz") -> None:
    """Assert what every node tells the world outside, in every family."""
    found = {
        node: codes(lab.client, [url(lab.address(node, family), number) + path for family in lab.families])
        for node in lab.nodes
    }
    assert found == {node: [code] * len(lab.families) for node, code in wanted.items()}


def all_nodes(lab: Lab, code: str, **others: str) -> dict[str, str]:
    return dict.fromkeys(lab.nodes, code) | {name.replace("_", "-"): value for name, value in others.items()}


def set_policy(lab: Lab, name: str, policy: str) -> None:
    lab.api.patch(SERVICES, NAMESPACE, name, {"spec": {"externalTrafficPolicy": policy}})


def test_D5_D7_D8_D10_the_health_port_comes_moves_and_goes(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("d5", [port(80, "http")], RED, **LOCAL))
    first = health_port(lab, "d5")
    assert first
    eventually(told, lab, first, all_nodes(lab, AWAY, node_1=SERVES))
    told(lab, first, all_nodes(lab, AWAY, node_1=SERVES), path="/any/path?and=more")
    here = [url(lab.address("node-1", family), first) for family in lab.families]
    for answer in lab.client.curl(*here):
        assert json.loads(answer.text) == {
            "service": {"namespace": NAMESPACE, "name": "d5"},
            "localEndpoints": 1,
            "serviceProxyHealthy": True,
        }
    # Not on VIPs: there it is no port of a Service.
    vips = [url(vip(item, family), first) for family in lab.families]
    for place in (shared["guest"], lab.node("node-1")):
        assert codes(place, vips) == [CLOSED] * len(vips), place

    lab.api.patch(SERVICES, NAMESPACE, "d5", {"spec": {"selector": {"name": "green"}}})
    eventually(told, lab, first, all_nodes(lab, AWAY, node_3=SERVES))

    set_policy(lab, "d5", "Cluster")
    eventually(told, lab, first, all_nodes(lab, CLOSED))
    set_policy(lab, "d5", "Local")
    second = health_port(lab, "d5")
    assert second
    eventually(told, lab, second, all_nodes(lab, AWAY, node_3=SERVES))

    change = {"type": "ClusterIP", "externalTrafficPolicy": None, "healthCheckNodePort": None}
    lab.api.patch(SERVICES, NAMESPACE, "d5", {"spec": change})
    eventually(told, lab, second, all_nodes(lab, CLOSED))


def test_F10_the_health_port_speaks_json_and_weighs_the_node(lab: Lab, shared: Pods, serve: Serve) -> None:
    """Row 1H: any path, any method; the headers that load balancers read; 503 with the same body where nothing is local."""
    serve(service("f10", [port(80, "http")], {"set": "web"}, **LOCAL))
    lab.api.patch(SERVICES, NAMESPACE, "f10", {"spec": {"selector": RED}})
    number = health_port(lab, "f10")
    eventually(told, lab, number, all_nodes(lab, AWAY, node_1=SERVES))
    for node, code, count in (("node-1", 200, 1), ("node-3", 503, 0)):
        for family in lab.families:
            base = url(lab.address(node, family), number)
            asked = (f"{base}/", f"-X POST {base}/healthz", f"-X PUT '{base}/a/b?c=d'")
            text = lab.client.run("\n".join(f"curl -gsi -m 3 {one}; echo; echo ---" for one in asked))
            for answer in text.split("---\n")[: len(asked)]:
                head, _, body = answer.replace("\r", "").partition("\n\n")
                first, *lines = head.splitlines()
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
                assert int(first.split()[1]) == code, answer
                assert headers["content-type"] == "application/json"
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["x-load-balancing-endpoint-weight"] == str(count)
                owner = {"namespace": NAMESPACE, "name": "f10"}
                assert json.loads(body) == {"service": owner, "localEndpoints": count, "serviceProxyHealthy": True}


def test_D6_a_node_whose_endpoints_all_terminate_is_taken_out_while_it_serves(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    labels, linger = {"name": "dying"}, {"kuberouterpy.io/linger": "true"}
    ports = (container_port(HTTP, "http"),)
    dying = make(PODS, pod("dying", "node-2", labels=labels, ports=ports, annotations=linger))
    eventually(ready, lab, dying)
    item = serve(service("d6", [port(80, "http")], {"name": "dying"}, **LOCAL))
    number = health_port(lab, "d6")
    eventually(told, lab, number, all_nodes(lab, AWAY, node_2=SERVES))
    lab.api.delete(PODS, NAMESPACE, "dying", grace_s=100)
    eventually(told, lab, number, all_nodes(lab, AWAY))
    covers(lab.client, on(lab, "node-2", item), {"dying"})


def test_a_taken_port_is_told_by_an_event_and_opened_when_it_is_free(lab: Lab, shared: Pods, serve: Serve) -> None:
    number = 31999
    taken = lab.node("node-1").within(
        lambda: socket.create_server(("::", number), family=socket.AF_INET6, dualstack_ipv6=True)
    )
    with closing(taken):
        serve(service("taken", [port(80, "http")], RED, **LOCAL, healthCheckNodePort=number))
        eventually(_complained, lab, "taken", "NotProgrammed")
    eventually(told, lab, number, all_nodes(lab, AWAY, node_1=SERVES))


def _complained(lab: Lab, name: str, reason: str) -> Object:
    listed = json.loads(lab.kubectl("-n", NAMESPACE, "get", EVENTS.plural, "-o", "json"))["items"]
    found: list[Object] = [one for one in listed if one["involvedObject"]["name"] == name and one["reason"] == reason]
    assert found, [(one["involvedObject"]["name"], one["reason"]) for one in listed]
    return found[0]


def test_D5_the_health_port_is_open_though_the_node_drops_by_default(lab: Lab, shared: Pods, serve: Serve) -> None:
    serve(service("walled", [port(80, "http")], RED, **LOCAL))
    number = health_port(lab, "walled")
    eventually(told, lab, number, all_nodes(lab, AWAY, node_1=SERVES))
    wall = "-p tcp --dport 31000:32767 -m comment --comment wall -j DROP"
    node = lab.node("node-1")
    tools = ("iptables", "ip6tables")
    node.run("\n".join(f"{tool} -A INPUT {wall}" for tool in tools))
    try:
        told(lab, number, all_nodes(lab, AWAY, node_1=SERVES))
    finally:
        node.run("\n".join(f"{tool} -D INPUT {wall}" for tool in tools))


def test_D5_refused_addresses_are_told_by_events(lab: Lab, shared: Pods, serve: Serve) -> None:
    serve(service("outsider", [port(80, "http")], RED, externalIPs=["192.0.2.200"]))
    event = eventually(_complained, lab, "outsider", "ExternalIpRefused")
    assert "--service-external-ip-range" in event["message"]
    assert "192.0.2.200/32" in event["message"]
