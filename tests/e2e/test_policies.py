"""NetworkPolicies on a real cluster: who may talk to whom, on one bridge and across nodes, directly and through Services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from socket import SOCK_DGRAM

from kuberouterpy.family import Family
from kuberouterpy.lab.client import SERVICES
from tests.cluster import Lab, Place, ask, eventually, name_in, say, source_in, url
from tests.e2e.conftest import Make, Pods, Relabel, Serve, node_port, node_urls, remove, vip, vip_urls
from tests.e2e.objects import (
    DNS,
    HTTP,
    NAMESPACE,
    NETWORK_POLICIES,
    by_block,
    by_namespace,
    by_pod,
    policy,
    port,
    service,
)

PODS = ("guest", "blue", "green", "stranger")
"""Clients of red: its neighbor on the bridge, another node's pod, another subnet's pod, another namespace's pod."""
RED = {"name": "red"}
_PATIENCE_S = 1.0


def clients(lab: Lab, shared: Pods, names: Iterable[str] = (*PODS, "node-1", "node-2")) -> dict[str, Place]:
    """Return places by name."""
    return {name: lab.node(name) if name.startswith("node-") else shared[name] for name in names}


def reached(places: Mapping[str, Place], urls: list[str]) -> set[str]:
    """Return who gets an answer from every URL; who gets one from some is named with them."""
    with ThreadPoolExecutor(len(places)) as pool:
        codes = pool.map(lambda place: place.codes(*urls, timeout_s=_PATIENCE_S), places.values())
        found = dict(zip(places, codes, strict=True))
    good = {name: [one for one, code in zip(urls, told, strict=True) if not code] for name, told in found.items()}
    return {name if len(worked) == len(urls) else f"{name}: only {worked}" for name, worked in good.items() if worked}


def only(places: Mapping[str, Place], urls: list[str], names: Iterable[str]) -> None:
    """Assert that exactly these reach every URL, and the others none."""
    assert reached(places, urls) == set(names)


def direct(lab: Lab, shared: Pods, name: str, number: int = HTTP) -> list[str]:
    """Return a pod's own URLs."""
    return [url(shared.ip(name, family), number) for family in lab.families]


def test_without_policies_everybody_reaches_everybody(lab: Lab, shared: Pods) -> None:
    places = clients(lab, shared, ("guest", "green", "stranger", "node-1", "node-3"))
    for name in ("red", "blue"):
        only(places, direct(lab, shared, name), places)


def test_deny_all_shuts_out_all_but_the_pods_own_node_until_it_is_deleted(
    lab: Lab, shared: Pods, make: Make, serve: Serve
) -> None:
    """Directly, through a cluster IP and through node ports; what was connected before stays connected."""
    item = serve(service("red", [port(80, "http")], RED, type="NodePort"))
    places = clients(lab, shared)
    eventually(only, places, [*direct(lab, shared, "red"), *vip_urls(lab, item)], places)
    eventually(only, {"client": lab.client}, node_urls(lab, item), {"client"})
    targets = [
        (name, address, number)
        for name in ("guest", "green")
        for family in lab.families
        for address, number in ((shared.ip("red", family), HTTP), (vip(item, family), 80))
    ]
    before = [shared[name].connect(address, number) for name, address, number in targets]
    make(NETWORK_POLICIES, policy("deny", RED, ingress=[]))
    for urls in (direct(lab, shared, "red"), vip_urls(lab, item)):
        eventually(only, places, urls, {"node-1"})
    eventually(only, {"client": lab.client}, node_urls(lab, item), set())
    for sock in before:
        assert name_in(say(sock)) == "red"
        sock.close()
    for family in lab.families:
        assert shared["blue"].datagram(shared.ip("red", family), DNS, timeout_s=1) == "silence"
    only(places, direct(lab, shared, "guest"), places)
    remove(lab, NETWORK_POLICIES, "deny")
    eventually(only, places, [*direct(lab, shared, "red"), *vip_urls(lab, item)], places)
    eventually(only, {"client": lab.client}, node_urls(lab, item), {"client"})


def test_pods_are_let_in_by_their_labels_as_long_as_they_have_them(
    lab: Lab, shared: Pods, make: Make, serve: Serve, relabel: Relabel
) -> None:
    item = serve(service("red", [port(80, "http")], RED))
    places = clients(lab, shared)
    urls = [*direct(lab, shared, "red"), *vip_urls(lab, item)]
    make(NETWORK_POLICIES, policy("friends", RED, ingress=[{"from": [by_pod(friend="yes")]}]))
    eventually(only, places, urls, {"node-1"})
    for name in ("guest", "green"):
        relabel(name, friend="yes")
    eventually(only, places, urls, {"node-1", "guest", "green"})
    relabel("guest", friend=None)
    eventually(only, places, urls, {"node-1", "green"})
    relabel("red", name="scarlet")  # the policy selects it no more, and neither does the Service
    eventually(only, places, direct(lab, shared, "red"), places)


def test_a_namespace_is_let_in_by_its_labels(lab: Lab, shared: Pods, make: Make) -> None:
    places = clients(lab, shared)
    make(NETWORK_POLICIES, policy("teams", RED, ingress=[{"from": [by_namespace(team="other")]}]))
    eventually(only, places, direct(lab, shared, "red"), {"node-1", "stranger"})
    both = by_namespace(team="own") | by_pod(name="blue")
    lab.api.patch(NETWORK_POLICIES, NAMESPACE, "teams", {"spec": {"ingress": [{"from": [both]}]}})
    eventually(only, places, direct(lab, shared, "red"), {"node-1", "blue"})


def test_blocks_let_in_addresses_but_not_those_excepted(lab: Lab, shared: Pods, make: Make, serve: Serve) -> None:
    """The source of pods is their own address, also through a Service; a node of another node is an address like any."""
    item = serve(service("red", [port(80, "http")], RED))
    places = clients(lab, shared, (*PODS, "node-1", "node-2", "node-3"))
    wide = {Family.IPV4: "10.244.0.0/16", Family.IPV6: "fd00:10:244::/56"}
    blocks = [by_block(wide[family], f"{shared.ip('blue', family)}/{family.host_prefix}") for family in lab.families]
    blocks += [by_block(f"{lab.address('node-2', family)}/{family.host_prefix}") for family in lab.families]
    make(NETWORK_POLICIES, policy("blocks", RED, ingress=[{"from": blocks}]))
    allowed = {"node-1", "node-2", "guest", "green", "stranger"}
    eventually(only, places, direct(lab, shared, "red"), allowed | ({"node-3"} if _tunnel_addressed(lab) else set()))
    pods = clients(lab, shared, PODS)
    eventually(only, pods, vip_urls(lab, item), allowed & set(PODS))


def _tunnel_addressed(lab: Lab) -> bool:
    """Return whether node-3's own packets to node-1's pods carry an address of the pods' ranges."""
    text = lab.node("node-3").run("ip route get 10.244.1.2; ip -6 route get fd00:10:244:1::2")
    sources = [line.partition(" src ")[2].split()[0] for line in text.splitlines() if " src " in line]
    return all(source.startswith(("10.244.", "fd00:10:244:")) for source in sources)


def test_ports_by_number_name_and_range(lab: Lab, shared: Pods, make: Make) -> None:
    places = clients(lab, shared, ("guest", "green"))
    ports = [
        {"port": HTTP},
        {"port": "dns", "protocol": "UDP"},
        {"port": 9000, "endPort": 9200, "protocol": "SCTP"},
    ]
    make(NETWORK_POLICIES, policy("ports", RED, ingress=[{"ports": ports}]))
    eventually(only, places, direct(lab, shared, "red", 8100), set())
    only(places, direct(lab, shared, "red"), places)

    def answers() -> set[tuple[str, str]]:
        return {
            (name, name_in(answer))
            for name, place in places.items()
            for family in lab.families
            for answer in (
                place.datagram(shared.ip("red", family), DNS, timeout_s=1),
                place.sctp(shared.ip("red", family), 9132, timeout_s=1),
            )
        }

    assert answers() == {("guest", "red"), ("green", "red")}
    swapped = [{"port": "alpha"}, {"port": 8000, "endPort": 8052, "protocol": "UDP"}, {"port": 9132, "protocol": "TCP"}]
    lab.api.patch(NETWORK_POLICIES, NAMESPACE, "ports", {"spec": {"ingress": [{"ports": swapped}]}})
    eventually(only, places, direct(lab, shared, "red"), set())
    only(places, direct(lab, shared, "red", 8100), places)
    assert answers() == {("guest", "silence"), ("green", "silence")}


def test_egress_is_judged_where_it_begins(lab: Lab, shared: Pods, make: Make, serve: Serve) -> None:
    """Also through a Service: of its endpoints only the allowed one answers."""
    item = serve(service("web", [port(80, "http")], {"set": "web"}))
    guest = shared["guest"]
    eventually(lambda: _answers(guest, vip_urls(lab, item), {"red", "blue", "green"}))
    targets = {name: direct(lab, shared, name)[0] for name in ("red", "blue", "green", "stranger")}
    targets |= {f"{name}/6": direct(lab, shared, name)[1] for name in targets}

    def goes_to() -> set[str]:
        codes = guest.codes(*targets.values(), timeout_s=_PATIENCE_S)
        return {name for name, code in zip(targets, codes, strict=True) if not code}

    def goes_only_to(*names: str) -> None:
        assert goes_to() == {one for name in names for one in (name, f"{name}/6")}

    goes_only_to("red", "blue", "green", "stranger")
    rule = {"to": [by_pod(name="blue")], "ports": [{"port": "http"}]}
    make(NETWORK_POLICIES, policy("egress", {"name": "guest"}, egress=[rule]))
    eventually(goes_only_to, "blue")
    _answers(guest, vip_urls(lab, item), {"blue", "curl exit 28"})
    only(clients(lab, shared, ("blue", "green")), direct(lab, shared, "guest"), {"blue", "green"})
    lab.api.patch(NETWORK_POLICIES, NAMESPACE, "egress", {"spec": {"egress": []}})
    eventually(goes_only_to)
    node = [url(lab.address("node-1", family), 20244) + "/healthz" for family in lab.families]
    assert [answer.code for answer in guest.curl(*node)] == [0, 0], "its own node is never shut off"


def _answers(place: Place, urls: list[str], names: set[str]) -> None:
    for one in urls:
        assert set(place.names(one, 4, timeout_s=_PATIENCE_S)) == names, one


def test_both_ends_must_agree(lab: Lab, shared: Pods, make: Make) -> None:
    places = clients(lab, shared, ("guest", "green"))
    make(NETWORK_POLICIES, policy("in", {"name": "blue"}, ingress=[{"from": [by_pod(name="guest")]}]))
    eventually(only, places, direct(lab, shared, "blue"), {"guest"})
    make(NETWORK_POLICIES, policy("out", {"name": "guest"}, egress=[{"to": [by_pod(name="red")]}]))
    eventually(only, places, direct(lab, shared, "blue"), set())
    only(places, direct(lab, shared, "red"), {"guest", "green"})
    make(NETWORK_POLICIES, policy("out-too", {"name": "guest"}, egress=[{"to": [by_pod(name="blue")]}]))
    eventually(only, places, direct(lab, shared, "blue"), {"guest"})
    only(places, direct(lab, shared, "red"), {"guest", "green"})


def test_pods_on_the_host_network_are_nodes_to_policies(lab: Lab, shared: Pods, make: Make) -> None:
    """A policy that selects one does nothing; as a client it is its node's address, whatever its labels."""
    hosted = [url(lab.address("node-2", family), 18080) for family in lab.families]
    places = clients(lab, shared, ("guest", "blue", "host"))
    make(NETWORK_POLICIES, policy("on-host", {"name": "host"}, ingress=[], egress=[]))
    make(NETWORK_POLICIES, policy("for-host", RED, ingress=[{"from": [by_pod(name="host")]}]))
    eventually(only, places, direct(lab, shared, "red"), set())
    only(places, hosted, places)


def test_another_namespaces_policy_selects_its_own_pods_only(lab: Lab, shared: Pods, make: Make) -> None:
    places = clients(lab, shared, ("guest", "blue"))
    make(NETWORK_POLICIES, policy("all", namespace="e2e-other", ingress=[]))
    eventually(only, places, direct(lab, shared, "stranger"), set())
    only(places, direct(lab, shared, "red"), places)
    make(NETWORK_POLICIES, policy("all", ingress=[]))
    eventually(only, places, direct(lab, shared, "red"), set())
    only({"node-1": lab.node("node-1")}, direct(lab, shared, "red"), {"node-1"})


def test_udp_through_a_service_is_judged_by_the_pod_that_sends(
    lab: Lab, shared: Pods, make: Make, serve: Serve
) -> None:
    item = serve(service("dns", [port(53, "dns", protocol="UDP")], RED, type="NodePort"))
    guest, green = shared["guest"], shared["green"]

    def sees(place: Place) -> list[str]:
        return [place.datagram(vip(item, family), 53, timeout_s=1) for family in lab.families]

    def allowed() -> None:
        answers = sees(guest)
        assert "silence" not in answers
        assert "refused" not in answers
        assert [source_in(answer) for answer in answers] == [shared.ip("guest", family) for family in lab.families]

    def denied() -> None:
        assert sees(green) == ["silence", "silence"]

    make(NETWORK_POLICIES, policy("guest-only", RED, ingress=[{"from": [by_pod(name="guest")]}]))
    eventually(allowed)
    eventually(denied)
    with lab.client.socket(lab.address("node-3", Family.IPV4), SOCK_DGRAM) as sock:
        assert ask(sock, lab.address("node-3", Family.IPV4), node_port(item), timeout_s=1) == "silence"
    remove(lab, SERVICES, "dns")
