"""Direct server return on a real cluster: a client outside asks one node, a pod on another one answers it by itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from kuberouterpy.lab.client import SERVICES, Object
from tests.cluster import REFUSED, Lab, Place, eventually, say, url
from tests.e2e.conftest import Dataplane, Pods, Serve, same
from tests.e2e.objects import HTTP, NAMESPACE, port, service
from tests.e2e.test_health_check import _complained
from tests.e2e.test_traffic_policy import INGRESS, balance, covers, seen

DSR = "kube-router.io/service.dsr"
GREEN = {"name": "green"}
URLS = [url(address, HTTP) for address in INGRESS]


@pytest.fixture
def by_node_1(lab: Lab) -> Iterator[None]:
    """Have the router send what is for the load balancer to node-1; the endpoint is on node-3."""
    with closing(Place("router", "/run/netns/router")) as router:
        ways = [
            f"route add {vip} via {lab.address('node-1', family)}"
            for vip, family in zip(INGRESS, lab.families, strict=True)
        ]
        router.run("\n".join(f"ip {way}" for way in ways))
        yield
        router.run("\n".join(f"ip {way.replace('add', 'del')}" for way in ways))


def asking(name: str, number: int, selector: dict[str, str], **spec: object) -> Object:
    item = service(name, [port(number, "http")], selector, type="LoadBalancer", **spec)
    item["metadata"]["annotations"] = {DSR: "tunnel"}
    return item


def tunnelled(lab: Lab, shared: Pods) -> None:
    """Assert that ipvsadm shows one tunnel a family, and no node holds the address."""
    for node in lab.nodes:
        text = lab.node(node).run("ipvsadm -Sn; ip -o address show")
        reals = [line for line in text.splitlines() if line.startswith("-a -f ")]
        found = {line.split(" -r ")[1] for line in reals}
        pods = [shared.ip("green", family) for family in lab.families]
        assert found == {f"{f'[{pod}]' if ':' in pod else pod}:{HTTP} -i -w 1 --tun-type ipip" for pod in pods}, text
        assert not any(vip in text for vip in INGRESS), text


def held(lab: Lab, shared: Pods) -> None:
    """Assert that the pod holds the addresses."""
    assert all(vip in in_pod(lab, shared) for vip in INGRESS)


def in_pod(lab: Lab, shared: Pods) -> str:
    return shared["green"].run("ip -o address show")


def answered_around(lab: Lab) -> None:
    """Assert that node-1 saw requests and no answer."""
    rows = [line.split() for line in lab.node("node-1").run("ipvsadm -Ln --stats --exact").splitlines()]
    found = [[int(word) for word in row[-5:]] for row in rows if row[:1] == ["FWM"]]
    assert len(found) == len(lab.families)
    for _, packets_in, packets_out, *_ in found:
        assert packets_in > 0
        assert packets_out == 0


def test_the_endpoint_answers_the_client_directly(
    lab: Lab, shared: Pods, serve: Serve, by_node_1: None, unchanged: Dataplane
) -> None:
    serve(asking("dsr", HTTP, GREEN))
    balance(lab, "dsr", *INGRESS)
    eventually(tunnelled, lab, shared)
    eventually(held, lab, shared)
    covers(lab.client, URLS, {"green"})
    assert seen(lab.client, URLS) == [lab.client_address(family) for family in lab.families]
    eventually(answered_around, lab)  # the kernel sums its counters up every two seconds

    for vip in INGRESS:
        with closing(lab.client.connect(vip, HTTP)) as connection:
            fits = int(shared["green"].run("cat /sys/class/net/eth0/mtu")) - (100 if ":" in vip else 60)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= fits
            assert say(connection, b"x" * 4000 + b"\n").startswith("green ")
    assert lab.client.codes(*(url(vip, 81) for vip in INGRESS)) == [REFUSED, REFUSED], "as on every other VIP"
    for place in (shared["guest"], shared["stranger"], shared["green"], *map(lab.node, lab.nodes)):
        eventually(covers, place, URLS, {"green"})

    before = {node: lab.dataplane(node) for node in lab.nodes}
    for node in ("node-1", "node-3"):
        lab.stop_agent(node)
    covers(lab.client, URLS, {"green"})
    for node in ("node-1", "node-3"):
        lab.start_agent(node)
    lab.wait("agents")
    same(lab, before)
    tunnelled(lab, shared)
    held(lab, shared)
    covers(lab.client, URLS, {"green"})

    lab.api.patch(SERVICES, NAMESPACE, "dsr", {"metadata": {"annotations": {DSR: None}}})
    eventually(covers, lab.client, URLS, {"green"})
    eventually(_no_tunnel, lab, shared)
    masqueraded = {*seen(lab.client, URLS)}
    assert len(masqueraded) == len(lab.families)
    assert not masqueraded & {lab.client_address(family) for family in lab.families}


def _no_tunnel(lab: Lab, shared: Pods) -> None:
    assert "kube-tunnel" not in in_pod(lab, shared)


def test_what_cannot_be_served_directly_is_told_and_served_all_the_same(
    lab: Lab, shared: Pods, serve: Serve, by_node_1: None
) -> None:
    serve(asking("remapped", 80, GREEN))
    balance(lab, "remapped", *INGRESS)
    event = eventually(_complained, lab, "remapped", "DsrRefused")
    assert "listens on port 8080" in event["message"]
    eventually(covers, lab.client, [url(vip, 80) for vip in INGRESS], {"green"})
    serve(asking("hosted", 18080, {"name": "host"}))
    balance(lab, "hosted", *INGRESS)
    event = eventually(_complained, lab, "hosted", "DsrRefused")
    assert "is on the host network" in event["message"]
    eventually(covers, lab.client, [url(vip, 18080) for vip in INGRESS], {"host"})
