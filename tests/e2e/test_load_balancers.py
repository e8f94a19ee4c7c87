"""Load balancers on a real cluster, as far as a node has a part in them: addresses, ports, and clients that notice nothing.

Names begin with the row of the Kubernetes project's own conformance tests that they repeat.
"""
# ruff: noqa: N802  (rows are F1, F4, ...)

from __future__ import annotations

import json
from typing import Any

from kuberouterpy.lab.client import DEPLOYMENTS, PODS, SERVICES, Object
from tests.cluster import Lab, Place, Steady, eventually, name_in, url
from tests.e2e.conftest import Make, Pods, Relabel, Serve, node_port, vip, vip_urls
from tests.e2e.objects import HTTP, NAMESPACE, container_port, meta, port, service
from tests.e2e.test_services import covers, refuses, unreached
from tests.e2e.test_traffic_policy import INGRESS, RED, balance, on

URLS = [url(address, 80) for address in INGRESS]
TCP, UDP = port(80, "http", name="tcp"), port(80, "dns", name="udp", protocol="UDP")


def says(place: Place, addresses: list[str], number: int, *names: str) -> None:
    """Assert who answers UDP."""
    for address in addresses:
        assert name_in(place.datagram(address, number, timeout_s=1)) in names, (place, address, number)


def status(lab: Lab, name: str, told: Object) -> None:
    """Write a Service's status, as any controller may."""
    body = json.dumps({"status": told})
    lab.kubectl("-n", NAMESPACE, "patch", "service", name, "--subresource=status", "--type=merge", "-p", body)


def test_F1_F8_ports_and_types_change_step_by_step_for_tcp_and_udp(
    lab: Lab, shared: Pods, serve: Serve, relabel: Relabel
) -> None:
    relabel("green", lb="yes")
    item = serve(service("changing", [TCP, UDP], {"lb": "yes"}))
    place, own = shared["guest"], [vip(item, family) for family in lab.families]
    node = [lab.address("node-1", family) for family in lab.families]

    def change(*ports: Object, **spec: Any) -> Object:
        return lab.api.patch(
            SERVICES, NAMESPACE, "changing", {"spec": spec | ({"ports": list(ports)} if ports else {})}
        )

    def works(number: int, addresses: list[str], udp_number: int = 0) -> None:
        eventually(covers, place, [url(one, number) for one in addresses], {"green"})
        eventually(says, place, addresses, udp_number or number, "green")

    def stopped(number: int, addresses: list[str], udp_number: int = 0) -> None:
        eventually(unreached, place, [url(one, number) for one in addresses])
        eventually(says, place, addresses, udp_number or number, "refused", "silence")

    works(80, own)
    first = [node_port(change(type="NodePort"), index) for index in (0, 1)]
    works(first[0], node, first[1])
    free = [number for number in (31701, 31702, 31703, 31704) if number not in first][:2]
    change(TCP | {"nodePort": free[0]}, UDP | {"nodePort": free[1]})
    works(free[0], node, free[1])
    stopped(first[0], node, first[1])
    change(type="LoadBalancer")
    balance(lab, "changing", *INGRESS)
    works(80, list(INGRESS))  # F8: TCP and UDP on one port
    works(80, own)
    works(free[0], node, free[1])
    change(TCP | {"nodePort": free[0], "port": 81}, UDP | {"nodePort": free[1], "port": 81})
    works(81, [*own, *INGRESS])
    works(free[0], node, free[1])
    eventually(refuses, place, [url(one, 80) for one in (*own, *INGRESS)])
    relabel("green", lb=None)  # scaled to nothing: both protocols are refused, at once
    eventually(refuses, place, [url(one, 81) for one in (*own, *INGRESS)])
    eventually(says, place, [*own, *INGRESS], 81, "refused")
    relabel("green", lb="yes")
    works(81, [*own, *INGRESS])
    change(
        {key: value for key, value in TCP.items() if key != "nodePort"} | {"port": 81},
        {key: value for key, value in UDP.items() if key != "nodePort"} | {"port": 81},
        type="ClusterIP",
    )
    works(81, own)
    stopped(free[0], node, free[1])
    stopped(81, list(INGRESS))


def test_F4_node_ports_are_left_out_until_they_are_asked_for(lab: Lab, shared: Pods, serve: Serve) -> None:
    spec: Object = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}
    item = serve(service("bare", [port(80, "http")], RED, **spec))
    assert "nodePort" not in item["spec"]["ports"][0]
    balance(lab, "bare", *INGRESS)
    for place in (shared["guest"], shared["green"], lab.node("node-2")):
        eventually(covers, place, URLS, {"red"})
    changed = lab.api.patch(SERVICES, NAMESPACE, "bare", {"spec": {"allocateLoadBalancerNodePorts": True}})
    eventually(covers, lab.client, on(lab, "node-2", changed), {"red"})
    covers(shared["guest"], URLS, {"red"})


def test_F7_F9_A14_addresses_are_taken_from_any_status_and_left_alone_where_it_says_proxy(
    lab: Lab, shared: Pods, serve: Serve
) -> None:
    """A class that nobody here serves, conditions nobody knows, names in the place of addresses: only addresses count."""
    spec: Object = {"type": "LoadBalancer", "loadBalancerClass": "example.invalid/of-somebody"}
    item = serve(service("classy", [port(80, "http")], RED, **spec))
    odd = {
        "type": "example.invalid/Odd",
        "status": "True",
        "reason": "Test",
        "message": "",
        "lastTransitionTime": "2020-02-02T02:02:02Z",
    }

    def ingress(*found: Object) -> None:
        status(lab, "classy", {"loadBalancer": {"ingress": [*found, {"hostname": "lb.example.invalid"}]}} | extra)

    extra: Object = {"conditions": [odd]}
    ingress(*({"ip": one, "ipMode": "VIP"} for one in INGRESS))
    for place in (shared["guest"], lab.node("node-3")):
        eventually(covers, place, URLS, {"red"})
    ingress(*({"ip": one, "ipMode": "Proxy"} for one in INGRESS))
    for node in lab.nodes:
        eventually(_leaves, lab, node, INGRESS)
    covers(shared["guest"], vip_urls(lab, item), {"red"})
    ingress({"ip": INGRESS[0]}, {"ip": INGRESS[1]})  # no mode is VIP
    for place in (shared["guest"], lab.node("node-3")):
        eventually(covers, place, URLS, {"red"})
    ingress({"ip": "203.0.113.1"})  # refused by --loadbalancer-ip-range; whoever wrote it harms nobody
    for node in lab.nodes:
        eventually(_leaves, lab, node, (*INGRESS, "203.0.113.1"))
    covers(shared["guest"], vip_urls(lab, item), {"red"})
    lab.kubectl("-n", NAMESPACE, "delete", "services", "--field-selector=metadata.name=classy")
    eventually(unreached, shared["guest"], vip_urls(lab, item))


def _leaves(lab: Lab, node: str, addresses: tuple[str, ...]) -> None:
    """Assert that a node has no part in any of the addresses."""
    text = lab.node(node).run("ipvsadm -Sn; ip address show dev kube-dummy-if; ipset save")
    for one in addresses:
        assert f"{one}/" not in text, (node, one)
        assert f"{one}:" not in text, (node, one)
        assert f" {one} " not in text, (node, one)
        assert f"[{one}]" not in text, (node, one)


def test_F6_clients_hardly_notice_a_rolling_update(lab: Lab, shared: Pods, make: Make, serve: Serve) -> None:
    """Both policies; Kubernetes asks for 95 %, most of what is lost is the time until an agent hears of it."""
    labels = {"app": "rolling"}
    container = {
        "name": "c",
        "image": "responder",
        "ports": [container_port(HTTP, "http")],
        "readinessProbe": {"tcpSocket": {"port": HTTP}, "periodSeconds": 1},
    }
    template = {
        "metadata": {"labels": labels, "annotations": {"kuberouterpy.io/linger": "true"}},
        "spec": {"nodeName": "node-2", "containers": [container], "terminationGracePeriodSeconds": 3},
    }
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template, "strategy": strategy}
    make(DEPLOYMENTS, {"metadata": meta("rolling"), "spec": spec})
    try:
        wide = serve(service("wide", [port(80, "http")], labels, type="NodePort"))
        near = serve(service("near", [port(80, "http")], labels, type="NodePort", externalTrafficPolicy="Local"))
        eventually(_rolled, lab, "")
        for one in (wide, near):
            eventually(_answered, lab.client, on(lab, "node-2", one))
        targets = [(lab.address("node-2", family), node_port(one)) for one in (wide, near) for family in lab.families]
        with Steady(lab.client, targets) as flow:
            again = {"spec": {"template": {"metadata": {"annotations": {"generation": "two"}}}}}
            lab.api.patch(DEPLOYMENTS, NAMESPACE, "rolling", again)
            eventually(_rolled, lab, "two")
        assert len(flow.lost) <= flow.asked // 20, (flow.asked, flow.lost)
        assert flow.asked > 20
    finally:
        lab.kubectl("-n", NAMESPACE, "delete", "deployment", "rolling", "--grace-period=0")
        eventually(_away, lab)


def _rolled(lab: Lab, generation: str) -> None:
    pods, _ = lab.api.list(PODS, NAMESPACE, labelSelector="app=rolling")
    found = [(one["metadata"].get("annotations") or {}).get("generation", "") for one in pods]
    assert found == [generation] * 2, found
    conditions = [one for pod in pods for one in pod["status"].get("conditions") or [] if one["type"] == "Ready"]
    assert [one["status"] for one in conditions] == ["True"] * 2, conditions


def _answered(place: Place, urls: list[str]) -> None:
    assert place.codes(*urls) == [0] * len(urls)


def _away(lab: Lab) -> None:
    assert not lab.api.list(PODS, NAMESPACE, labelSelector="app=rolling")[0]
