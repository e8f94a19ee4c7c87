"""Routes on a real cluster: sessions, pod CIDRs in the kernel, the overlay, source addresses outside, the CNI configuration."""

from __future__ import annotations

import json
import signal
import time

import pytest

from kuberouterpy.family import Family
from kuberouterpy.lab.responder import Port, Responder, open_sockets
from tests.cluster import Lab, Steady, eventually, url
from tests.e2e.conftest import Dataplane, Pods, Serve, back, same_on, vip_urls
from tests.e2e.objects import HTTP, port, service

PROTOCOL = 17
"""Routing protocol number of routes learned by BGP (kube-router's)."""
RESTART_TIME_S = 12
"""As --bgp-graceful-restart-time of these labs."""


def neighbors(lab: Lab, node: str) -> dict[str, str]:
    """Return the state of every session of a node, as its GoBGP tells it."""
    text = lab.node(node).run(f"gobgp --target unix:///run/lab/nodes/{node}/gobgp.sock neighbor -j")
    states = {6: "established", "ESTABLISHED": "established"}
    return {
        one["state"]["neighbor_address"]: states.get(one["state"].get("session_state"), "") for one in json.loads(text)
    }


def meshed(lab: Lab) -> None:
    """Assert that every node has an established session with every other one."""
    for node in lab.nodes:
        others = {lab.address(name, Family.IPV4) for name in lab.nodes if name != node}
        assert neighbors(lab, node) == dict.fromkeys(others, "established"), node


def learned(lab: Lab, node: str) -> dict[str, str]:
    """Return the prefixes a node learned, each with the way there: ``via ADDRESS`` or ``dev TUNNEL``."""
    text = lab.node(node).run(f"ip route show proto {PROTOCOL}; ip -6 route show proto {PROTOCOL}")
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        found[words[0]] = f"via {words[2]}" if words[1] == "via" else f"dev {words[2]}"
    return found


def pod_cidrs(lab: Lab, node: str) -> list[str]:
    """Return a node's pod CIDRs, one a family."""
    return json.loads(lab.kubectl("get", "node", node, "-o", "jsonpath={.spec.podCIDRs}"))  # type: ignore[no-any-return]


def routed(lab: Lab) -> None:
    """Assert that every node routes every other node's pod CIDRs: next hop in one subnet, through a tunnel to another."""
    cidrs = {node: pod_cidrs(lab, node) for node in lab.nodes}
    for node in lab.nodes:
        found = learned(lab, node)
        assert set(found) == {cidr for name in lab.nodes if name != node for cidr in cidrs[name]}, node
        for name in lab.nodes:
            for cidr, family in zip(cidrs[name], lab.families, strict=True):
                if name == node:
                    continue
                near = {node, name} == {"node-1", "node-2"}
                assert (
                    found[cidr] == f"via {lab.address(name, family)}" if near else found[cidr].startswith("dev tun-")
                ), (node, cidr)


def test_every_node_has_sessions_with_all_and_routes_to_all(lab: Lab, shared: Pods) -> None:
    meshed(lab)
    routed(lab)


def test_pods_of_another_subnet_are_reached_through_the_tunnel(lab: Lab, shared: Pods) -> None:
    urls = [f"{url(shared.ip('green', family), HTTP)}/clientip" for family in lab.families]
    before = _tunnelled(lab)
    assert [answer.text for answer in shared["guest"].curl(*urls)] == [
        shared.ip("guest", family) for family in lab.families
    ]
    after = _tunnelled(lab)
    assert all(after[name] > before[name] for name in before), (before, after)
    assert len(before) == len(lab.families)


def _tunnelled(lab: Lab) -> dict[str, int]:
    """Return the packets node-1 has sent over each of its tunnels."""
    text = lab.node("node-1").run("grep -H . /sys/class/net/tun-*/statistics/tx_packets")
    return {line.split("/")[4]: int(line.rpartition(":")[2]) for line in text.splitlines()}


def test_pods_keep_their_address_inside_and_take_their_nodes_outside(lab: Lab, shared: Pods) -> None:
    """A server outside the cluster sees the node; pods and other nodes see the pod."""
    _outside_sees_nodes(lab, shared, "guest", "blue", "green")
    _inside_sees_pods(lab, shared)


def test_masquerade_all_is_for_connections_to_services_and_leaves_pods_their_way(
    lab: Lab, shared: Pods, serve: Serve, unchanged: Dataplane
) -> None:
    """A Service's endpoint sees the client's node; what goes to no Service is as without the flag."""
    web = serve(service("web", [port(80, "http")], {"name": "blue"}))
    urls = [f"{one}/clientip" for one in vip_urls(lab, web)]

    def seen(addresses: list[str]) -> None:
        assert [answer.text for answer in shared["guest"].curl(*urls)] == addresses

    eventually(seen, [shared.ip("guest", family) for family in lab.families])
    lab.stop_agent("node-1")
    lab.start_agent("node-1", "--masquerade-all")
    try:
        eventually(seen, [lab.address("node-1", family) for family in lab.families])
        _outside_sees_nodes(lab, shared, "guest")
        _inside_sees_pods(lab, shared)
    finally:
        lab.stop_agent("node-1")
        lab.start_agent("node-1")
    eventually(seen, [shared.ip("guest", family) for family in lab.families])


def _outside_sees_nodes(lab: Lab, shared: Pods, *names: str) -> None:
    outside = Responder()
    try:
        outside.add("outside", "outside", lab.client.within(lambda: open_sockets([Port("TCP", HTTP), Port("UDP", 53)])))
        for name in names:
            node = shared.node(name)
            urls = [f"{url(lab.client_address(family), HTTP)}/clientip" for family in lab.families]
            assert [one.text for one in shared[name].curl(*urls)] == [
                lab.address(node, family) for family in lab.families
            ]
            for family in lab.families:
                answer = shared[name].datagram(lab.client_address(family), 53)
                assert answer.startswith("outside ")
                assert lab.address(node, family) in answer
    finally:
        outside.close()


def _inside_sees_pods(lab: Lab, shared: Pods) -> None:
    for name in ("red", "blue", "green"):
        urls = [f"{url(shared.ip(name, family), HTTP)}/clientip" for family in lab.families]
        assert [one.text for one in shared["guest"].curl(*urls)] == [
            shared.ip("guest", family) for family in lab.families
        ]
    hosted = [f"{url(lab.address('node-2', family), 18080)}/clientip" for family in lab.families]
    assert [one.text for one in shared["guest"].curl(*hosted)] == [
        shared.ip("guest", family) for family in lab.families
    ]


def test_the_cni_configuration_has_the_nodes_ranges_and_room_for_the_tunnel(lab: Lab, shared: Pods) -> None:
    for node in lab.nodes:
        written = json.loads(lab.node(node).run(f"cat /run/lab/nodes/{node}/cni/net.d/10-kuberouter.conflist"))
        bridge = next(plugin for plugin in written["plugins"] if plugin["type"] == "bridge")
        ranges = [part["subnet"] for group in bridge["ipam"]["ranges"] for part in group]
        assert ranges == pod_cidrs(lab, node)
        assert bridge["bridge"] == "kube-bridge"
        assert bridge["hairpinMode"] is True
        uplink, tunnels = (
            int(lab.node(node).run(command))
            for command in ("cat /sys/class/net/eth0/mtu", "cat /sys/class/net/tun-*/mtu | sort -n | head -1")
        )
        assert bridge["mtu"] <= tunnels < uplink
    assert int(shared["guest"].run("cat /sys/class/net/eth0/mtu")) == bridge["mtu"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_a_gobgp_that_ends_and_starts_again_costs_nothing(
    lab: Lab, shared: Pods, unchanged: Dataplane, number: signal.Signals
) -> None:
    """Sessions come back, kernel routes stay: direct ones and those through the overlay.

    GoBGP says farewell when it is asked to end, and its neighbors then forget its routes until it is back; its own node does
    not.
    """
    targets = [(shared.ip(name, family), HTTP) for name in ("guest", "green") for family in lab.families]
    with Steady(shared["blue"], targets) as flow:
        began = time.monotonic()
        lab.restart_gobgp("node-2", number)
        same_on(lab, "node-2", unchanged)
        eventually(meshed, lab)
        # Neighbors keep the routes of a lost session for the restart time, no longer: a slow machine may need more.
        in_time = time.monotonic() - began < RESTART_TIME_S
        back(lab, unchanged)
        # While the neighbors had no way back, each connection took its whole timeout: how many there were proves nothing.
        eventually(flow.answered_since, flow.answered.copy())
    assert number is signal.SIGTERM or not in_time or flow.lost == []


@pytest.mark.timeout(180)
def test_a_node_that_is_gone_is_forgotten_and_comes_back(lab: Lab, shared: Pods, unchanged: Dataplane) -> None:
    """Its routes outlive it by the graceful-restart time only; its own kernel keeps what it had."""
    own = unchanged["node-2"]
    lab.stop_agent("node-2")
    lab.stop_gobgp("node-2")
    try:
        gone = set(pod_cidrs(lab, "node-2"))

        def forgotten() -> None:
            for node in ("node-1", "node-3"):
                assert not gone & set(learned(lab, node)), node

        eventually(forgotten)
        assert lab.dataplane("node-2") == own
    finally:
        lab.start_gobgp("node-2")
        lab.start_agent("node-2")
    eventually(routed, lab)
    eventually(meshed, lab)
    urls = [url(shared.ip("blue", family), HTTP) for family in lab.families]
    for name in ("guest", "green"):
        assert [answer.code for answer in shared[name].curl(*urls)] == [0] * len(urls)
