"""Session affinity on a real cluster: to the second where the timeout is short.

Names begin with the row of the Kubernetes project's own conformance tests that they repeat.
"""
# ruff: noqa: N802  (rows are C1, C2, ...)

from __future__ import annotations

import time

from kuberouterpy.lab.client import SERVICES, Object
from tests.cluster import Lab, Place, eventually, name_in, url
from tests.e2e.conftest import Pods, Serve, vip, vip_urls
from tests.e2e.objects import NAMESPACE, port, service
from tests.e2e.test_traffic_policy import EVERYONE, INGRESS, WEB, balance, on

SHORT_S = 8
"""Long enough for a few questions under User-Mode Linux, far below what IPVS persistence can honour."""


def sticky(seconds: int | None = None) -> Object:
    """Return what a spec says for ClientIP affinity."""
    config = {} if seconds is None else {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}
    return {"sessionAffinity": "ClientIP", **config}


def spread(place: Place, urls: list[str]) -> None:
    """Assert that every URL is answered by all endpoints in turn."""
    for one in urls:
        assert set(place.names(one, 4)) == EVERYONE, (place, one)


def stays(place: Place, one: str, count: int = 6) -> str:
    """Assert that a URL is answered by one endpoint only; return which."""
    found = place.names(one, count)
    assert len(found) == 1, (place, one, found)
    assert set(found) <= EVERYONE, (place, one, found)
    return next(iter(found))


def test_A23_C1_C2_affinity_is_switched_on_and_off(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("sticky", [port(80, "http")], WEB, type="NodePort"))
    place, urls = shared["guest"], [*vip_urls(lab, item), *on(lab, "node-1", item)]
    eventually(spread, place, urls)
    for seconds in (10800, SHORT_S * 10):
        lab.api.patch(SERVICES, NAMESPACE, "sticky", {"spec": sticky(seconds)})
        for one in urls:
            eventually(stays, place, one, 15)
        lab.api.patch(
            SERVICES, NAMESPACE, "sticky", {"spec": {"sessionAffinity": "None", "sessionAffinityConfig": None}}
        )
        eventually(spread, place, urls)


def test_C4_affinity_on_a_load_balancer_under_both_policies(lab: Lab, shared: Pods, serve: Serve) -> None:
    serve(service("sticky-lb", [port(80, "http")], WEB, type="LoadBalancer", **sticky(SHORT_S * 10)))
    balance(lab, "sticky-lb", *INGRESS)
    urls = [url(address, 80) for address in INGRESS]
    for policy in ("Local", "Cluster"):
        lab.api.patch(
            SERVICES, NAMESPACE, "sticky-lb", {"spec": {"externalTrafficPolicy": policy, **sticky(SHORT_S * 10)}}
        )
        for place in (shared["guest"], lab.node("node-2")):
            for one in urls:
                eventually(stays, place, one, 8)
        off = {"externalTrafficPolicy": policy, "sessionAffinity": "None", "sessionAffinityConfig": None}
        lab.api.patch(SERVICES, NAMESPACE, "sticky-lb", {"spec": off})
        eventually(spread, shared["guest"], urls)


def test_C3_a_short_timeout_is_kept_to_the_second(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("short", [port(80, "http")], WEB, type="NodePort", **sticky(SHORT_S)))
    asked = [(place, one) for place in (shared["guest"], lab.node("node-2")) for one in vip_urls(lab, item)]
    asked += [(lab.client, one) for one in on(lab, "node-1", item)]
    for place, one in asked:
        eventually(stays, place, one)
    # The clock starts anew with each question, so that of the first one asked must not run out before its next.
    first = {(place, one): stays(place, one, 1) for place, one in asked}
    for _ in range(3):  # together more than the timeout
        time.sleep(SHORT_S / 4)
        assert {(place, one): stays(place, one, 1) for place, one in asked} == first
    moved: set[tuple[Place, str]] = set()
    for _ in range(8):  # one of three endpoints each time, and the same one eight times is no chance
        time.sleep(SHORT_S + 1)
        moved |= {(place, one) for place, one in asked if stays(place, one, 1) != first[place, one]}
        if len(moved) == len(asked):
            return
    assert moved == set(asked), "still with the first endpoint, long after the timeout"


def test_A23_C5_udp_affinity_is_by_client_address_whatever_its_port(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("sticky-dns", [port(53, "dns", protocol="UDP")], WEB, **sticky(SHORT_S * 10)))
    for family in lab.families:
        for place in (shared["guest"], lab.node("node-3")):

            def one(place: Place = place, address: str = vip(item, family)) -> None:
                names = {name_in(place.datagram(address, 53)) for _ in range(6)}
                assert len(names) == 1, (place, address, names)
                assert names <= EVERYONE, (place, address, names)

            eventually(one)


def test_a_client_whose_endpoint_goes_is_given_another(lab: Lab, shared: Pods, serve: Serve, relabel: object) -> None:
    item = serve(service("leaving", [port(80, "http")], {"here": "yes"}, **sticky(SHORT_S * 10)))
    assert callable(relabel)
    for name in ("red", "blue"):
        relabel(name, here="yes")
    place, one = shared["guest"], vip_urls(lab, item)[0]
    first = eventually(stays, place, one)
    relabel(first, here=None)
    other = ({"red", "blue"} - {first}).pop()
    eventually(set_is, place, one, {other})
    assert url(vip(item, lab.families[0]), 80) == one


def set_is(place: Place, one: str, names: set[str]) -> None:
    """Assert who answers a URL."""
    assert set(place.names(one, 3)) == names
