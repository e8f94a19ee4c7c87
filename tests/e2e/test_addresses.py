"""Addresses on a real cluster: contested ones, the nodes' own, and what else must not answer on them.

Names begin with the row of the Kubernetes project's own conformance tests, or of our own list of behaviours.
"""
# ruff: noqa: N802  (rows are K1, P6, ...)

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from kuberouterpy.lab.client import SERVICES
from tests.cluster import Lab, Place, eventually, url
from tests.e2e.conftest import Pods, Serve, remove
from tests.e2e.objects import port, service
from tests.e2e.test_services import covers
from tests.e2e.test_traffic_policy import INGRESS, balance

EXTERNAL = ("203.0.113.40", "2001:db8:cb::40")
SSH = 2222
"""Where a daemon of the host listens on every address, as sshd does."""


@contextlib.contextmanager
def daemon(place: Place) -> Iterator[None]:
    """Let something listen on every address of a place, as daemons of hosts do."""

    def listen() -> socket.socket:
        return socket.create_server(("::", SSH), family=socket.AF_INET6, dualstack_ipv6=True)

    with place.within(listen):
        yield


def answers(place: Place, address: str, number: int) -> bool:
    """Return whether something accepts connections there; a refusal must come at once."""
    try:
        place.connect(address, number, timeout_s=2).close()
    except ConnectionRefusedError:
        return False
    return True


def test_K1_the_first_owner_keeps_a_contested_address_until_it_goes(lab: Lab, shared: Pods, serve: Serve) -> None:
    serve(service("k1-a", [port(80, "http")], {"name": "red"}, externalIPs=list(EXTERNAL)))
    serve(service("k1-b", [port(80, "http")], {"name": "blue"}, externalIPs=list(EXTERNAL)))
    urls = [url(address, 80) for address in EXTERNAL]
    for place in (shared["guest"], shared["green"]):
        eventually(covers, place, urls, {"red"})
    remove(lab, SERVICES, "k1-a")
    for place in (shared["guest"], shared["green"]):
        eventually(covers, place, urls, {"blue"})


def test_K2_two_services_share_an_address_on_different_ports(lab: Lab, shared: Pods, serve: Serve) -> None:
    serve(service("k2-a", [port(80, "http")], {"name": "red"}, type="LoadBalancer"))
    serve(service("k2-b", [port(81, "http")], {"name": "blue"}, type="LoadBalancer"))
    for name in ("k2-a", "k2-b"):
        balance(lab, name, *INGRESS)
    eventually(covers, shared["green"], [url(address, 80) for address in INGRESS], {"red"})
    eventually(covers, shared["green"], [url(address, 81) for address in INGRESS], {"blue"})


def test_K3_an_external_ip_that_is_a_nodes_own_takes_one_port_and_leaves_the_rest(
    lab: Lab, shared: Pods, serve: Serve
) -> None:
    own = [lab.address("node-1", family) for family in lab.families]
    serve(service("k3", [port(80, "http")], {"name": "blue"}, type="LoadBalancer"))
    balance(lab, "k3", *own)
    urls = [url(address, 80) for address in own]
    places = (lab.client, shared["green"], lab.node("node-3"), lab.node("node-1"), shared["guest"])
    for place in places:
        eventually(covers, place, urls, {"blue"})
    with daemon(lab.node("node-1")):
        for place in places:
            assert all(answers(place, address, SSH) for address in own), place
    for node in lab.nodes:
        text = lab.node(node).run("ip -o address show dev kube-dummy-if; ipvsadm -Sn")
        programmed = [line for line in text.splitlines() if any(f" {one}" in line or f"[{one}]" in line for one in own)]
        assert bool(programmed) == (node == "node-1"), (node, programmed)
        assert not any("kube-dummy-if" in line for line in programmed), programmed
