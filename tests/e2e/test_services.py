"""Services on a real cluster: who answers, who is refused, and whom the endpoint sees.

Names begin with the row of the Kubernetes project's own conformance tests that they repeat.
"""
# ruff: noqa: N802  (rows are A1, B2, ...)

from __future__ import annotations

from socket import SOCK_DGRAM

from kuberouterpy.family import Family
from kuberouterpy.lab.client import ENDPOINT_SLICES, PODS, SERVICES, Object
from tests.cluster import REFUSED, Lab, Place, ask, eventually, name_in, say, source_in, url
from tests.e2e.conftest import Make, Pods, Relabel, Serve, ip_of, node_port, node_urls, ready, remove, vip, vip_urls
from tests.e2e.objects import DNS, HTTP, NAMESPACE, SIGNAL, container_port, endpoint_slice, pod, port, service

WEB = {"set": "web"}
EVERYONE = {"red", "blue", "green"}
ENOUGH = 4
"""Questions that reach three endpoints under round robin, whoever asked before, and would find a fourth."""


def answerers(place: Place, urls: list[str], count: int) -> dict[str, set[str]]:
    """Return who answers each URL when it is fetched again and again, by one curl; failures are ``curl exit N``."""
    found: dict[str, set[str]] = {one: set() for one in urls}
    asked = [one for one in found for _ in range(count)]
    for one, answer in zip(asked, place.curl(*(f"{one}/hostname" for one in asked)), strict=True):
        found[one].add(answer.text if answer.code == 0 else f"curl exit {answer.code}")
    return found


def covers(place: Place, urls: list[str], names: set[str]) -> None:
    """Assert that every URL, asked from a place, is answered by exactly these pods."""
    found = answerers(place, urls, len(names) + 1)
    # A client's port that comes again makes IPVS choose twice, and then the turn of one server is lost.
    if some := [one for one in urls if found[one] < names]:
        for one, more in answerers(place, some, len(names) + 1).items():
            found[one] |= more
    assert found == dict.fromkeys(urls, names), place


def refuses(place: Place, urls: list[str]) -> None:
    """Assert that every URL is refused."""
    assert dict(zip(urls, place.codes(*urls), strict=True)) == dict.fromkeys(urls, REFUSED), place


def unreached(place: Place, urls: list[str]) -> None:
    """Assert that no URL answers."""
    assert 0 not in place.codes(*urls, timeout_s=1), place


def test_A16_A17_A18_B1_J2_every_endpoint_is_reached_from_everywhere(lab: Lab, shared: Pods, serve: Serve) -> None:
    web = serve(service("web", [port(80, "http")], WEB, type="NodePort"))
    for node in lab.nodes:
        eventually(covers, lab.node(node), vip_urls(lab, web), EVERYONE)
    inside = [*vip_urls(lab, web), *node_urls(lab, web)]
    for place in (shared["guest"], shared["green"], lab.node("node-2")):
        covers(place, inside, EVERYONE)
    covers(lab.client, node_urls(lab, web), EVERYONE)


def test_A16_A17_A18_every_endpoint_is_reached_over_udp_and_sctp(lab: Lab, shared: Pods, serve: Serve) -> None:
    ports = [port(53, "dns", name="dns", protocol="UDP"), port(36412, "signal", name="signal", protocol="SCTP")]
    both = serve(service("both", ports, WEB, type="NodePort"))
    targets = [(vip(both, family), 53, vip(both, family), 36412) for family in lab.families]
    for node in lab.nodes:
        targets += [
            (lab.address(node, family), node_port(both, 0), lab.address(node, family), node_port(both, 1))
            for family in lab.families
        ]

    def reached(place: Place) -> None:
        for address, number, sctp_address, sctp_number in targets:
            assert set(place.datagrams(address, number, ENOUGH)) == EVERYONE, (place, address, number)
            names = {name_in(place.sctp(sctp_address, sctp_number)) for _ in range(ENOUGH)}
            assert names == EVERYONE, (place, sctp_address, sctp_number)

    for place in (shared["guest"], shared["red"], lab.node("node-3"), shared["green"]):
        eventually(reached, place)


def test_A22_large_datagrams_arrive_also_through_the_overlay(lab: Lab, shared: Pods, serve: Serve) -> None:
    """IPv4 through a Service; IPv6 between pods only.

    br_netfilter puts an IPv6 datagram together on the bridge, and the kernel's IPVS then takes it for one that was sent whole
    and does not fit (net/netfilter/ipvs/ip_vs_xmit.c: __mtu_check_toobig_v6), where forwarding cuts it again.
    """
    dns = serve(service("dns", [port(53, "dns", protocol="UDP")], {"name": "green"}))
    for place in (shared["guest"], shared["blue"], shared["green"], lab.node("node-2")):
        assert name_in(eventually(large, place, vip(dns, Family.IPV4), 53)) == "green"
    for family in lab.families:
        for name in ("guest", "red", "blue"):
            assert name_in(large(shared[name], shared.ip("green", family), DNS)) == "green"
            assert name_in(large(shared["green"], shared.ip(name, family), DNS)) == name


def large(place: Place, address: str, number: int) -> str:
    """Return the answer to a datagram that needs two fragments."""
    try:
        answer = place.datagram(address, number, payload=b"x" * 2000)
    except OSError as error:
        raise AssertionError(f"{place} to {address}: {error}") from error
    assert answer not in {"refused", "silence"}, (place, address)
    return answer


def test_A6_A7_the_endpoint_sees_the_pod_that_asks_except_itself(lab: Lab, shared: Pods, serve: Serve) -> None:
    one = serve(service("one", [port(80, "http")], {"name": "red"}, type="NodePort"))
    urls = [f"{each}/clientip" for each in vip_urls(lab, one)]
    for name in ("guest", "blue", "green"):  # a neighbor, another node, another subnet
        eventually(covers, shared[name], vip_urls(lab, one), {"red"})
        seen = [answer.text for answer in shared[name].curl(*urls)]
        assert seen == [shared.ip(name, family) for family in lab.families], name
    covers(shared["red"], [*vip_urls(lab, one), *node_urls(lab, one)], {"red"})
    own = [shared.ip("red", family) for family in lab.families]
    for answer, address in zip(shared["red"].curl(*urls), own, strict=True):
        assert answer.text != address


def test_A12_a_service_without_endpoints_refuses_at_once(lab: Lab, shared: Pods, serve: Serve) -> None:
    ports = [port(80, 80, name="tcp"), port(80, 80, name="udp", protocol="UDP")]
    nobody = serve(service("nobody", ports, {"name": "nobody"}, type="NodePort"))
    for place in (shared["guest"], shared["green"], lab.node("node-2")):
        eventually(refuses, place, [*vip_urls(lab, nobody), *node_urls(lab, nobody)])
        for family in lab.families:
            assert place.datagram(vip(nobody, family), 80) == "refused", (place, family)
    refuses(lab.client, node_urls(lab, nobody))


def test_A2_endpoints_come_and_go(lab: Lab, shared: Pods, serve: Serve, relabel: Relabel) -> None:
    team = serve(service("team", [port(80, "http")], {"team": "a"}))
    urls = vip_urls(lab, team)

    def listed() -> set[str]:
        text = lab.kubectl(
            *("-n", NAMESPACE, "get", "endpointslices", "-l", "kubernetes.io/service-name=team"),
            *("-o", "jsonpath={.items[*].endpoints[*].targetRef.name}"),
        )
        return set(text.split())

    eventually(refuses, shared["guest"], urls)
    for name, label, present in (
        ("red", "a", {"red"}),
        ("green", "a", {"red", "green"}),
        ("red", None, {"green"}),
    ):
        relabel(name, team=label)
        for place in (shared["guest"], lab.node("node-3")):
            eventually(covers, place, urls, present)
        assert listed() == present
    relabel("green", team=None)
    eventually(refuses, shared["guest"], urls)
    assert listed() == set()


def test_A3_a_named_target_port_is_each_pods_own(lab: Lab, shared: Pods, serve: Serve) -> None:
    ports = [port(80, "alpha", name="one"), port(81, "beta", name="two")]
    multi = serve(service("multi", ports, WEB))
    for place in (shared["guest"], lab.node("node-3")):
        eventually(covers, place, vip_urls(lab, multi, 80), {"red"})
        eventually(covers, place, vip_urls(lab, multi, 81), {"blue"})


def test_A4_ports_are_added_and_removed(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("ports", [port(80, "http", name="one")], WEB))
    place = shared["guest"]
    eventually(covers, place, vip_urls(lab, item, 80), EVERYONE)
    refuses(place, vip_urls(lab, item, 81))
    two = [port(80, "http", name="one"), port(81, "http", name="two")]
    lab.api.patch(SERVICES, NAMESPACE, "ports", {"spec": {"ports": two}})
    eventually(covers, place, [*vip_urls(lab, item, 80), *vip_urls(lab, item, 81)], EVERYONE)
    lab.api.patch(SERVICES, NAMESPACE, "ports", {"spec": {"ports": two[1:]}})
    eventually(refuses, place, vip_urls(lab, item, 80))
    covers(place, vip_urls(lab, item, 81), EVERYONE)


def test_A5_K9_one_port_number_for_tcp_and_udp(lab: Lab, shared: Pods, serve: Serve) -> None:
    tcp = port(80, "http", name="tcp")
    udp = port(80, "dns", name="udp", protocol="UDP")
    item = serve(service("mixed", [tcp, udp], {"name": "blue"}))
    place = shared["guest"]

    def udp_says(answer: str) -> None:
        for family in lab.families:
            assert name_in(place.datagram(vip(item, family), 80)) == answer, family

    eventually(covers, place, vip_urls(lab, item), {"blue"})
    eventually(udp_says, "blue")
    flows = [place.socket(vip(item, family), SOCK_DGRAM) for family in lab.families]
    assert [name_in(ask(flow, vip(item, family), 80)) for flow, family in zip(flows, lab.families, strict=True)] == [
        "blue"
    ] * 2
    lab.api.patch(SERVICES, NAMESPACE, "mixed", {"spec": {"ports": [tcp]}})
    eventually(udp_says, "refused")
    for flow, family in zip(flows, lab.families, strict=True):  # the flow that was there is cut as well
        assert ask(flow, vip(item, family), 80) == "refused"
        flow.close()
    covers(place, vip_urls(lab, item), {"blue"})
    lab.api.patch(SERVICES, NAMESPACE, "mixed", {"spec": {"ports": [udp]}})
    eventually(refuses, place, vip_urls(lab, item))
    eventually(udp_says, "blue")


def test_A8_A9_A19_services_go_up_and_down_and_up_again(lab: Lab, shared: Pods, serve: Serve) -> None:
    one, two = (serve(service(name, [port(80, "http")], WEB)) for name in ("up-1", "up-2"))
    places = (lab.node("node-1"), shared["guest"])
    for place in places:
        eventually(covers, place, [*vip_urls(lab, one), *vip_urls(lab, two)], EVERYONE)
    remove(lab, SERVICES, "up-1")
    for place in places:
        eventually(unreached, place, vip_urls(lab, one))
        covers(place, vip_urls(lab, two), EVERYONE)
    again = serve(service("up-1", [port(80, "http")], WEB))
    for place in places:
        eventually(covers, place, vip_urls(lab, again), EVERYONE)


def test_A20_D11_a_deleted_endpoint_is_used_no_more_and_a_dying_one_only_when_alone(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    """The pods serve on while they terminate; the last ones are used rather than nobody."""
    labels, web = {"app": "mortal"}, [container_port(HTTP, "http")]
    linger = {"kuberouterpy.io/linger": "true"}
    for name, node in (("first", "node-1"), ("second", "node-3")):
        item = make(PODS, pod(name, node, labels=labels, ports=web, annotations=linger))
        eventually(ready, lab, item)
    mortal = serve(service("mortal", [port(80, "http")], labels))
    places = (shared["guest"], lab.node("node-2"))
    for place in places:
        eventually(covers, place, vip_urls(lab, mortal), {"first", "second"})
    held = [shared["guest"].connect(vip(mortal, family), 80) for family in lab.families for _ in range(2)]
    assert {name_in(say(each)) for each in held} == {"first", "second"}
    lab.api.delete(PODS, NAMESPACE, "first", grace_s=100)
    for place in places:
        eventually(covers, place, vip_urls(lab, mortal), {"second"})
    assert {name_in(say(each)) for each in held} == {"first", "second"}, "connections to a dying pod go on"
    lab.api.delete(PODS, NAMESPACE, "second", grace_s=100)
    for place in places:
        eventually(covers, place, vip_urls(lab, mortal), {"first", "second"})
    for each in held:
        each.close()
    for name in ("first", "second"):
        remove(lab, PODS, name)
    eventually(refuses, shared["guest"], vip_urls(lab, mortal))


def test_A21_endpoints_on_the_host_network(lab: Lab, shared: Pods, serve: Serve) -> None:
    ports = [port(80, "http", name="http"), port(53, "dns", name="dns", protocol="UDP")]
    item = serve(service("hosted", ports, {"name": "host"}, type="NodePort"))
    for place in (shared["guest"], shared["blue"], lab.node("node-1"), lab.node("node-2")):
        eventually(covers, place, [*vip_urls(lab, item), *node_urls(lab, item)], {"host"})
        for family in lab.families:
            assert name_in(place.datagram(vip(item, family), 53)) == "host", (place, family)
    covers(lab.client, node_urls(lab, item), {"host"})


def test_A24_a_deleted_node_port_is_closed_at_once(lab: Lab, shared: Pods, serve: Serve) -> None:
    ports = [port(80, "http", name="tcp"), port(80, "dns", name="udp", protocol="UDP")]
    item = serve(service("closing", ports, {"name": "blue"}, type="NodePort"))
    number = node_port(item, 1)
    addresses = [lab.address(node, family) for node in ("node-1", "node-3") for family in lab.families]
    flows = [lab.client.socket(address, SOCK_DGRAM) for address in addresses]

    def answers() -> set[str]:
        return {name_in(ask(flow, address, number)) for flow, address in zip(flows, addresses, strict=True)}

    def all_answered() -> None:
        assert answers() == {"blue"}

    def closed() -> None:
        assert {lab.client.datagram(address, number, timeout_s=1) for address in addresses} <= {"refused", "silence"}

    eventually(covers, lab.client, node_urls(lab, item), {"blue"})
    eventually(all_answered)
    remove(lab, SERVICES, "closing")
    eventually(unreached, lab.client, node_urls(lab, item))
    eventually(closed)
    assert answers() <= {"refused", "silence"}, "flows that were there are closed as well"
    for flow in flows:
        flow.close()


def test_A27_A28_slices_made_by_hand_are_served_as_they_are(lab: Lab, shared: Pods, serve: Serve, make: Make) -> None:
    """No selector, no node name, another manager; one address with two ports, and two addresses with one."""
    item = serve(service("hand", [port(80, 80, name="a"), port(81, 81, name="b"), port(82, 82, name="c")]))
    for family in lab.families:
        v = family.value
        named = {name: {"name": name, "protocol": "TCP"} for name in "abc"}
        red, blue = [shared.ip("red", family)], [shared.ip("blue", family)]
        make(ENDPOINT_SLICES, endpoint_slice(f"hand-a-{v}", "hand", red, [named["a"] | {"port": HTTP}]))
        make(ENDPOINT_SLICES, endpoint_slice(f"hand-b-{v}", "hand", red, [named["b"] | {"port": 8100}]))
        make(ENDPOINT_SLICES, endpoint_slice(f"hand-c-{v}", "hand", blue, [named["c"] | {"port": HTTP}]))
    place = shared["guest"]
    for number, name in ((80, "red"), (81, "red"), (82, "blue")):
        eventually(covers, place, vip_urls(lab, item, number), {name})
    text = lab.node("node-3").run("ipvsadm -Sn")
    for family in lab.families:
        shown = {80: ("red", HTTP), 81: ("red", 8100), 82: ("blue", HTTP)}
        for number, (name, target) in shown.items():
            server, real = _host_port(vip(item, family), number), _host_port(shared.ip(name, family), target)
            assert f"-a -t {server} -r {real} -m -w 1" in text.splitlines()
    assert f" -r {_host_port(shared.ip('blue', lab.families[0]), 8100)} " not in text


def _host_port(address: str, number: int) -> str:
    return url(address, number).removeprefix("http://")


def test_B3_B5_the_type_of_a_service_changes(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("typed", [port(80, "http")], WEB))
    place = shared["guest"]
    eventually(covers, place, vip_urls(lab, item), EVERYONE)
    open_now = lab.api.patch(SERVICES, NAMESPACE, "typed", {"spec": {"type": "NodePort"}})
    eventually(covers, lab.client, node_urls(lab, open_now), EVERYONE)
    named = {"type": "ExternalName", "externalName": "example.invalid", "clusterIP": None, "clusterIPs": None}
    lab.api.patch(SERVICES, NAMESPACE, "typed", {"spec": named})
    eventually(unreached, place, [*vip_urls(lab, item), *node_urls(lab, open_now)])
    back = {"type": "ClusterIP", "externalName": None}
    lab.api.patch(SERVICES, NAMESPACE, "typed", {"spec": back})
    again = lab.api.get(SERVICES, NAMESPACE, "typed")
    eventually(covers, place, [url(one, 80) for one in again["spec"]["clusterIPs"]], EVERYONE)


def test_B2_an_external_ip_is_served_on_every_node(lab: Lab, shared: Pods, serve: Serve) -> None:
    addresses = ["203.0.113.250", "2001:db8:cb::71fa"]
    serve(service("external", [port(80, "http")], WEB, externalIPs=addresses))
    urls = [url(address, 80) for address in addresses]
    for place in (shared["guest"], shared["blue"], lab.node("node-3")):
        eventually(covers, place, urls, EVERYONE)


def test_G1_G2_services_of_other_proxies_and_headless_ones_are_left_alone(lab: Lab, shared: Pods, serve: Serve) -> None:
    labels = {"proxy": "service.kubernetes.io/service-proxy-name", "headless": "service.kubernetes.io/headless"}
    ours = serve(service("ours", [port(80, "http")], WEB))
    never = serve(service("never", [port(80, "http")], WEB, labels={labels["proxy"]: "foo"}))
    node = lab.node("node-1")
    for key in labels.values():
        eventually(covers, node, vip_urls(lab, ours), EVERYONE)
        lab.api.patch(SERVICES, NAMESPACE, "ours", {"metadata": {"labels": {key: "foo"}}})
        eventually(unreached, node, vip_urls(lab, ours))
        lab.api.patch(SERVICES, NAMESPACE, "ours", {"metadata": {"labels": {key: None}}})
    eventually(covers, node, vip_urls(lab, ours), EVERYONE)
    unreached(node, vip_urls(lab, never))
    assert vip(never, lab.families[0]) not in node.run("ipvsadm -Sn; ip address; ipset save")


def test_K4_K5_a_cluster_ip_and_a_node_port_pass_from_one_service_to_another(
    lab: Lab, shared: Pods, serve: Serve
) -> None:
    """With a UDP client that asks on from its port, and is answered by who owns the address now."""
    ports = [port(80, "http", name="tcp"), port(53, "dns", name="udp", protocol="UDP")]
    first = serve(service("first", ports, {"name": "red"}, type="NodePort"))
    place, addresses = shared["guest"], first["spec"]["clusterIPs"]
    eventually(covers, place, [*vip_urls(lab, first), *node_urls(lab, first)], {"red"})
    flows = {one: place.socket(one, SOCK_DGRAM) for one in addresses}
    assert [name_in(ask(flow, one, 53)) for one, flow in flows.items()] == ["red"] * len(flows)
    remove(lab, SERVICES, "first")
    same = [one | {"nodePort": node_port(first, index)} for index, one in enumerate(ports)]
    spec: Object = {"clusterIP": addresses[0], "clusterIPs": addresses, "type": "NodePort"}
    second = serve(service("second", same, {"name": "blue"}, **spec))
    assert second["spec"]["clusterIPs"] == addresses

    def moved() -> None:
        for one, flow in flows.items():
            assert name_in(ask(flow, one, 53, timeout_s=0.5)) == "blue", one

    for each in (place, lab.node("node-3")):
        eventually(covers, each, [*vip_urls(lab, second), *node_urls(lab, second)], {"blue"})
    eventually(moved)
    for flow in flows.values():
        flow.close()


def test_P6_an_unused_port_of_a_vip_is_refused_and_no_daemon_of_the_host_answers_on_it(
    lab: Lab, shared: Pods, serve: Serve
) -> None:
    item = serve(service("one", [port(80, "http")], {"name": "host"}))
    places = (shared["guest"], lab.node("node-2"), shared["green"])
    for place in places:
        eventually(covers, place, vip_urls(lab, item), {"host"})
    daemon = [url(lab.address("node-2", family), 18080) for family in lab.families]
    covers(lab.node("node-2"), daemon, {"host"})
    agent = 20244  # listens on every address of every node
    for place in places:
        refuses(place, [one for number in (18080, agent, 79) for one in vip_urls(lab, item, number)])
        for family in lab.families:
            assert place.datagram(vip(item, family), 18053) == "refused", (place, family)


def test_sctp_follows_its_endpoints(lab: Lab, shared: Pods, serve: Serve, relabel: Relabel) -> None:
    item = serve(service("signal", [port(36412, SIGNAL, protocol="SCTP")], {"carrier": "yes"}))
    place = shared["guest"]

    def says(*expected: str) -> None:
        for family in lab.families:
            assert name_in(place.sctp(vip(item, family), 36412)) in expected, family

    # Linux' own SCTP tries on when it hears of an unreachable port: from here a refusal looks like silence.
    says("refused", "silence")
    relabel("blue", carrier="yes")
    eventually(says, "blue")
    assert source_in(place.sctp(vip(item, lab.families[0]), 36412)) == shared.ip("guest", lab.families[0])


def test_a_new_pod_with_the_name_of_a_deleted_one_is_found(lab: Lab, shared: Pods, serve: Serve, make: Make) -> None:
    item = serve(service("phoenix", [port(80, "http")], {"app": "phoenix"}))
    for _ in range(2):
        made = make(PODS, pod("phoenix", "node-2", labels={"app": "phoenix"}, ports=[container_port(HTTP, "http")]))
        now = eventually(ready, lab, made)
        eventually(covers, shared["guest"], vip_urls(lab, item), {"phoenix"})
        assert shared["guest"].datagram(ip_of(now, lab.families[0]), DNS) == "refused"
        remove(lab, PODS, "phoenix")
        eventually(refuses, shared["guest"], vip_urls(lab, item))
