"""Kinds of Services on a real cluster: types, families, flags, and Services that are only half there.

Names begin with the row of the Kubernetes project's own conformance tests, or of our own list of behaviours.
"""
# ruff: noqa: N802  (rows are A1, B2, ...)

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from kuberouterpy.family import Family, family_of
from kuberouterpy.lab.client import PODS, SERVICES, ApiError, Object
from tests.cluster import Lab, Place, eventually, name_in, url
from tests.e2e.conftest import Make, Pods, Serve, node_port, node_urls, ready, remove, vip, vip_urls
from tests.e2e.objects import DNS, HTTP, NAMESPACE, container_port, pod, port, service
from tests.e2e.slices import READY, Slices
from tests.e2e.test_services import EVERYONE, WEB, covers, refuses, unreached
from tests.e2e.test_traffic_policy import INGRESS, RED, balance, on

BLUE = {"name": "blue"}
NAMED = {"type": "ExternalName", "externalName": "example.invalid"}
Restart = Callable[..., None]


@pytest.fixture
def restart(lab: Lab) -> Iterator[Restart]:
    """Run node-1's agent with further flags; after the test as before."""

    def again(*flags: str) -> None:
        lab.stop_agent("node-1")
        lab.start_agent("node-1", *flags)
        lab.wait("agents")

    yield again
    again()


def test_A1_the_api_is_a_service_that_every_pod_and_node_reaches(lab: Lab, shared: Pods) -> None:
    item = lab.api.get(SERVICES, "default", "kubernetes")
    (listed,) = item["spec"]["ports"]
    assert (listed["name"], listed["port"]) == ("https", 443)
    for place in (shared["guest"], shared["green"], lab.node("node-2")):
        for address in item["spec"]["clusterIPs"]:
            (answer,) = place.curl(url(address, 443) + "/version")
            assert json.loads(answer.text)["major"] == "1", (place, answer)


def test_A29_a_mirrored_slice_is_as_good_as_any(lab: Lab, shared: Pods, serve: Serve, make: Make) -> None:
    """The control plane copies Endpoints of a Service without a selector into slices with a manager of their own."""
    item = serve(service("mirrored", [port(80, 80, name="tcp"), port(53, 53, name="udp", protocol="UDP")]))
    Slices(lab, shared, make, "mirrored").hold(red=READY, green=READY)
    manager = {"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller"}}}
    for family in lab.families:
        lab.kubectl(
            *("-n", NAMESPACE, "patch", "endpointslice", f"mirrored-{family.value}", "--type=merge"),
            *("-p", json.dumps(manager)),
        )
    for place in (shared["guest"], lab.node("node-2")):
        eventually(covers, place, vip_urls(lab, item), {"red", "green"})


def test_B4_a_name_becomes_a_service_of_every_type(lab: Lab, shared: Pods, serve: Serve) -> None:
    for kind in ("ClusterIP", "NodePort"):
        name = f"named-{kind.lower()}"
        item = serve({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": NAMED})
        assert not item["spec"].get("clusterIP")
        spec = {"type": kind, "externalName": None, "ports": [port(80, "http")], "selector": WEB}
        spec |= {"ipFamilyPolicy": "PreferDualStack"}
        item = lab.api.patch(SERVICES, NAMESPACE, name, {"spec": spec})
        for place in (shared["guest"], lab.node("node-3")):
            eventually(covers, place, vip_urls(lab, item), EVERYONE)
        if kind == "NodePort":
            eventually(covers, lab.client, node_urls(lab, item), EVERYONE)


def test_B6_node_ports_are_nobodys_twice_and_no_socket_guards_them(lab: Lab, shared: Pods, serve: Serve) -> None:
    ports = [port(80, "http", name="tcp"), port(80, "dns", name="udp", protocol="UDP")]
    wanted = [one | {"nodePort": 31805} for one in ports]  # one number, two protocols
    item = serve(service("ported", wanted, RED, type="NodePort"))
    eventually(covers, lab.client, node_urls(lab, item), {"red"})
    for taken, words in (([ports[0] | {"nodePort": 31805}], "already allocated"), ([ports[0] | {"nodePort": 80}], "")):
        with pytest.raises(ApiError) as refused:
            serve(service("rival", taken, RED, type="NodePort"))
        assert refused.value.status == 422
        assert words in str(refused.value)
    for node in lab.nodes:
        assert ":31805 " not in lab.node(node).run("ss -anH46"), node
    remove(lab, SERVICES, "ported")
    eventually(unreached, lab.client, node_urls(lab, item))
    again = serve(service("rival", wanted, BLUE, type="NodePort"))  # K5: free at once, and the new owner's
    for place in (lab.client, shared["guest"], lab.node("node-2")):
        eventually(covers, place, node_urls(lab, again), {"blue"})


def test_B8_K13_node_ports_follow_the_flags_and_the_nodes_addresses(
    lab: Lab, shared: Pods, serve: Serve, restart: Restart
) -> None:
    item = serve(service("everywhere", [port(80, "http")], BLUE, type="NodePort"))
    node, place, number = lab.node("node-1"), shared["guest"], node_port(item)
    own = on(lab, "node-1", item)
    more = {Family.IPV4: "198.18.7.1", Family.IPV6: "2001:2:0:7::1"}
    new = [url(more[family], number) for family in lab.families]
    link = node.run("ip -o -4 route get " + lab.client_address(Family.IPV4) + " | sed 's/.* dev \\([^ ]*\\).*/\\1/'")

    def addresses(verb: str) -> None:
        wide = {Family.IPV4: 32, Family.IPV6: 128}
        nodad = {Family.IPV4: "", Family.IPV6: " nodad"} if verb == "add" else dict.fromkeys(more, "")
        for family, address in more.items():
            node.run(f"ip address {verb} {address}/{wide[family]} dev {link.strip()}{nodad[family]}")

    restart("--nodeport-bindon-all-ip")
    eventually(covers, place, own, {"blue"})
    eventually(unreached, place, new)
    addresses("add")
    try:
        eventually(covers, place, new, {"blue"})  # K13: an address that comes
        restart("--nodeport-addresses=198.18.0.0/16,2001:2::/48")
        eventually(refuses, place, own)
        covers(place, new, {"blue"})
        restart()
        eventually(covers, place, own, {"blue"})
        eventually(refuses, place, new)
    finally:
        addresses("del")
    for family in lab.families:
        assert more[family] not in node.run("ipvsadm -Sn; ipset save")


def test_J1_each_choice_of_families_is_served_by_endpoints_of_its_own(lab: Lab, shared: Pods, serve: Serve) -> None:
    choices = {
        "j1-4": ("SingleStack", ["IPv4"]),
        "j1-6": ("SingleStack", ["IPv6"]),
        "j1-46": ("RequireDualStack", ["IPv4", "IPv6"]),
        "j1-64": ("RequireDualStack", ["IPv6", "IPv4"]),
    }
    made = {}
    for name, (policy, wanted) in choices.items():
        spec: Object = {"ipFamilyPolicy": policy, "ipFamilies": wanted, "type": "NodePort"}
        item = made[name] = serve(service(name, [port(80, "http")], WEB, **spec))
        assert [f"IPv{family_of(one).value}" for one in item["spec"]["clusterIPs"]] == wanted
    for place in (shared["guest"], lab.node("node-2")):
        for name, item in made.items():
            eventually(covers, place, [url(one, 80) for one in item["spec"]["clusterIPs"]], EVERYONE)
            there, other = [], []
            for family in lab.families:
                one = url(lab.address("node-3", family), node_port(item))
                (there if f"IPv{family.value}" in choices[name][1] else other).append(one)
            eventually(covers, place, there, EVERYONE)
            if other:
                unreached(place, other)


def test_J3_a_second_family_comes_and_goes(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("j3", [port(80, "http")], WEB, ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"]))
    first, place = item["spec"]["clusterIPs"], shared["guest"]
    eventually(covers, place, [url(first[0], 80)], EVERYONE)
    for _ in range(2):
        both = lab.api.patch(SERVICES, NAMESPACE, "j3", {"spec": {"ipFamilyPolicy": "PreferDualStack"}})
        assert both["spec"]["clusterIPs"][:1] == first
        for each in (place, lab.node("node-3")):
            eventually(covers, each, vip_urls(lab, both), EVERYONE)
        lab.api.patch(
            SERVICES,
            NAMESPACE,
            "j3",
            {"spec": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": first}},
        )
        eventually(unreached, place, [url(vip(both, Family.IPV6), 80)])
        covers(place, [url(first[0], 80)], EVERYONE)
        assert vip(both, Family.IPV6) not in lab.node("node-3").run("ipvsadm -Sn; ip address; ipset save")


def test_K10_K11_headless_services_have_no_part_and_application_protocols_change_nothing(
    lab: Lab, shared: Pods, serve: Serve
) -> None:
    bare: Object = {
        "metadata": {"name": "bare", "namespace": NAMESPACE},
        "spec": {"clusterIP": "None", "selector": WEB},
    }
    before = {node: lab.dataplane(node) for node in lab.nodes}
    serve(bare)
    ports = [port(80, "http", name="web") | {"appProtocol": "kubernetes.io/h2c"}]
    item = serve(service("spoken", ports, WEB))
    eventually(covers, shared["guest"], vip_urls(lab, item), EVERYONE)
    remove(lab, SERVICES, "spoken")
    eventually(unreached, shared["guest"], vip_urls(lab, item))
    for node in lab.nodes:
        assert lab.dataplane(node)["ipvsadm"] == before[node]["ipvsadm"]


def test_K17_an_address_of_the_cluster_range_is_no_load_balancers(lab: Lab, shared: Pods, serve: Serve) -> None:
    victim = serve(service("victim", [port(80, "http")], RED))
    addresses = [vip(victim, family) for family in lab.families]
    serve(service("thief", [port(80, "http")], BLUE, type="LoadBalancer"))
    balance(lab, "thief", *addresses)
    serve(service("grabber", [port(82, "http")], BLUE, externalIPs=addresses))
    honest = serve(service("honest", [port(80, "http")], BLUE, type="LoadBalancer"))
    balance(lab, "honest", *INGRESS)
    for place in (shared["guest"], lab.node("node-3")):
        eventually(covers, place, [url(one, 80) for one in INGRESS], {"blue"})
        covers(place, vip_urls(lab, victim), {"red"})
        refuses(place, vip_urls(lab, victim, 82))
    covers(shared["guest"], vip_urls(lab, honest), {"blue"})


def test_K18_a_service_serves_until_it_is_gone_not_until_it_is_going(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    made = service("going", [port(80, 80, name="tcp")], type="NodePort")
    made["metadata"]["finalizers"] = ["example.invalid/wait"]
    item = serve(made)
    place, urls = shared["guest"], [*vip_urls(lab, item), *on(lab, "node-2", item)]
    slices = Slices(lab, shared, make, "going")
    slices.hold(red=READY)
    eventually(covers, place, urls, {"red"})
    lab.api.delete(SERVICES, NAMESPACE, "going")
    try:
        assert lab.api.get(SERVICES, NAMESPACE, "going")["metadata"]["deletionTimestamp"]
        slices.hold(red=READY, blue=READY)  # and follows its endpoints
        for each in (place, lab.node("node-3")):
            eventually(covers, each, urls, {"red", "blue"})
    finally:
        lab.api.patch(SERVICES, NAMESPACE, "going", {"metadata": {"finalizers": None}})
    eventually(unreached, place, urls)


def test_A36_the_kernel_keeps_half_closed_connections_for_an_hour(lab: Lab) -> None:
    for node in lab.nodes:
        assert lab.node(node).run("cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait").strip() == "3600"


def test_A35_host_ports_work_beside_node_ports_whatever_their_address_and_protocol(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    """One number for three pods of a node: on the loopback address, on the node's own, and there for UDP."""
    number, own = 31854, lab.address("node-2", Family.IPV4)
    wanted = {
        "loop": container_port(HTTP, "http") | {"hostPort": number, "hostIP": "127.0.0.1"},
        "tcp": container_port(HTTP, "http") | {"hostPort": number, "hostIP": own},
        "udp": container_port(DNS, "dns", "UDP") | {"hostPort": number, "hostIP": own},
    }
    node = lab.node("node-2")
    try:
        for name, one in wanted.items():
            eventually(ready, lab, make(PODS, pod(f"hosted-{name}", "node-2", ports=[one])))
        item = serve(service("beside", [port(80, "http")], {"name": "green"}, type="NodePort"))
        for place in (lab.client, shared["guest"]):
            eventually(covers, place, on(lab, "node-2", item), {"green"})
            eventually(covers, place, [url(own, number)], {"hosted-tcp"})
            assert name_in(place.datagram(own, number)) == "hosted-udp"
        eventually(covers, node, [url("127.0.0.1", number)], {"hosted-loop"})
    finally:
        for name in wanted:
            remove(lab, PODS, f"hosted-{name}")
        eventually(_unplugged, node)


def _unplugged(node: Place) -> None:
    assert "CNI-DN-" not in node.run("iptables-save -t nat; ip6tables-save -t nat")
    node.run(_UNPLUG)


_UNPLUG = """
set -e
for tool in iptables ip6tables; do
  for jump in PREROUTING OUTPUT; do
    $tool -t nat -D $jump -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
  done
  $tool -t nat -D POSTROUTING -m comment --comment 'CNI portfwd requiring masquerade' -j CNI-HOSTPORT-MASQ
  for verb in F X; do
    for chain in DNAT MASQ SETMARK; do
      $tool -t nat -$verb CNI-HOSTPORT-$chain
    done
  done
done
"""
"""The plugin portmap leaves its own chains behind for ever; they are not the agent's to take away."""
