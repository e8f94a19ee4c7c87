"""loadBalancerSourceRanges on a real cluster: on load-balancer addresses only, in silence, whoever asks.

Names begin with the row of the Kubernetes project's own conformance tests that they repeat.
"""
# ruff: noqa: N802  (rows are F2, F3, ...)

from __future__ import annotations

from kuberouterpy.family import Family
from kuberouterpy.lab.client import SERVICES, Object
from tests.cluster import TIMED_OUT, Lab, Place, eventually, url
from tests.e2e.conftest import Pods, Serve, node_urls, vip_urls
from tests.e2e.objects import NAMESPACE, port, service
from tests.e2e.test_services import covers
from tests.e2e.test_traffic_policy import INGRESS, RED, balance

URLS = [url(address, 80) for address in INGRESS]


def silent(place: Place) -> None:
    """Assert that the load balancer's addresses answer nothing at all."""
    assert [answer.code for answer in place.curl(*URLS, timeout_s=1)] == [TIMED_OUT, TIMED_OUT], place


def only(*addresses: str) -> list[str]:
    return [f"{one}/{128 if ':' in one else 32}" for one in addresses]


def restrict(lab: Lab, ranges: list[str] | None) -> None:
    lab.api.patch(SERVICES, NAMESPACE, "lb", {"spec": {"loadBalancerSourceRanges": ranges}})


def test_F2_only_clients_in_the_ranges_are_let_in(lab: Lab, shared: Pods, serve: Serve) -> None:
    both = [Family.IPV4, Family.IPV6]
    mine, other = ([shared.ip(name, family) for family in both] for name in ("guest", "green"))
    spec: Object = {"type": "LoadBalancer", "loadBalancerSourceRanges": only(*mine)}
    item = serve(service("lb", [port(80, "http")], RED, **spec))
    balance(lab, "lb", *INGRESS)
    eventually(covers, shared["guest"], URLS, {"red"})
    for place in (shared["green"], lab.node("node-1")):
        eventually(silent, place)
    for place in (shared["green"], lab.node("node-1"), lab.client):
        covers(place, node_urls(lab, item)[:2], {"red"})
    covers(shared["green"], vip_urls(lab, item), {"red"})

    restrict(lab, only(*other))
    eventually(covers, shared["green"], URLS, {"red"})
    eventually(silent, shared["guest"])
    restrict(lab, None)
    for place in (shared["guest"], shared["green"], lab.node("node-1")):
        eventually(covers, place, URLS, {"red"})


def test_F3_a_node_is_let_in_where_a_range_holds_its_address(lab: Lab, shared: Pods, serve: Serve) -> None:
    own = [lab.address("node-2", family) for family in (Family.IPV4, Family.IPV6)]
    spec: Object = {"type": "LoadBalancer", "loadBalancerSourceRanges": only(*own), "externalTrafficPolicy": "Local"}
    serve(service("lb", [port(80, "http")], RED, **spec))
    balance(lab, "lb", *INGRESS)
    eventually(covers, lab.node("node-2"), URLS, {"red"})
    for place in (lab.node("node-1"), lab.node("node-3"), shared["guest"], shared["blue"]):
        eventually(silent, place)
