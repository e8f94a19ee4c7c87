"""Agents that stop, die, start again, and kernels that somebody else changes: the dataplane stands, and heals."""

# ruff: noqa: N802  (rows are A1, B2, ...)

from __future__ import annotations

import json
import signal

import pytest

from kuberouterpy.lab.client import PODS, SERVICES
from tests.cluster import Lab, Steady, eventually, url
from tests.e2e.conftest import Dataplane, Make, Pods, Serve, back, node_port, ready, remove, same, vip, vip_urls
from tests.e2e.objects import NETWORK_POLICIES, SHARED_PORTS, by_pod, pod, policy, port, service
from tests.e2e.test_services import EVERYONE, WEB, covers, unreached


def snapshot(lab: Lab) -> Dataplane:
    """Return what every node's kernel holds now."""
    return {node: lab.dataplane(node) for node in lab.nodes}


@pytest.fixture
def busy(lab: Lab, shared: Pods, serve: Serve, make: Make) -> list[tuple[str, int]]:
    """A node port and a policy that are in force on every node; returns where the Service listens."""
    web = serve(service("web", [port(80, "http")], WEB, type="NodePort"))
    make(NETWORK_POLICIES, policy("guests", {"name": "blue"}, ingress=[{"from": [by_pod(name="guest")]}]))
    for name in ("guest", "red"):
        eventually(
            covers, shared[name], vip_urls(lab, web), EVERYONE if name == "guest" else {"red", "green", "curl exit 28"}
        )
    targets = [(vip(web, family), 80) for family in lab.families]
    return targets + [(lab.address("node-1", family), node_port(web)) for family in lab.families]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_A10_an_agent_that_ends_and_starts_again_changes_nothing_and_costs_no_packet(
    lab: Lab, shared: Pods, busy: list[tuple[str, int]], number: signal.Signals
) -> None:
    before = snapshot(lab)
    with Steady(shared["guest"], busy) as flow:
        code = lab.stop_agent("node-1", number)
        same(lab, before)
        log = len(lab.log("node-1"))
        lab.start_agent("node-1")
        lab.wait("agents")
        same(lab, before)
    assert code == (0 if number is signal.SIGTERM else -number)
    assert flow.asked > len(busy)
    assert flow.lost == []
    assert "level=error" not in lab.log("node-1")[log:]


def test_what_changed_while_no_agent_ran_is_made_up_for(
    lab: Lab, shared: Pods, serve: Serve, make: Make, unchanged: Dataplane
) -> None:
    """Also what was deleted: a new agent lists the kernel and takes away what nobody wants any more."""
    old = serve(service("old", [port(80, "http")], WEB))
    make(NETWORK_POLICIES, policy("old", {"name": "guest"}, ingress=[]))
    eventually(covers, shared["guest"], vip_urls(lab, old), EVERYONE)
    lab.stop_agent("node-1", signal.SIGKILL)
    remove(lab, SERVICES, "old")
    remove(lab, NETWORK_POLICIES, "old")
    new = serve(service("new", [port(81, "http")], {"name": "green"}))
    covers(shared["guest"], vip_urls(lab, old), EVERYONE)
    lab.start_agent("node-1")
    eventually(covers, shared["guest"], vip_urls(lab, new, 81), {"green"})
    eventually(unreached, shared["guest"], vip_urls(lab, old))


def test_A25_what_somebody_flushes_comes_back(lab: Lab, shared: Pods, busy: list[tuple[str, int]]) -> None:
    """Virtual servers, chains, sets, VIPs and routes of one node, all of them at once."""
    before = snapshot(lab)
    periods = ("ipvs", "iptables", "routes", "injected-routes")
    lab.stop_agent("node-1")
    lab.start_agent("node-1", *(f"--{name}-sync-period=5s" for name in periods))
    lab.wait("agents")
    lab.node("node-1").run(
        """
        ipvsadm -C
        for program in iptables ip6tables; do
          for table in filter nat mangle; do
            $program -t $table -F
            $program -t $table -X
          done
        done
        ipset flush
        ipset destroy
        ip address flush dev kube-dummy-if
        ip route flush proto 17
        ip -6 route flush proto 17
        """
    )
    back(lab, before)
    repaired = json.loads(lab.node("node-1").run("curl -s localhost:20244/status.json"))["drift_repaired"]
    assert {"virtual", "real", "chain", "entry", "address", "route"} <= set(repaired), repaired
    found = shared["guest"].curl(*(url(address, number) for address, number in busy))
    assert [answer.code for answer in found] == [0] * len(busy)
    lab.stop_agent("node-1")
    lab.start_agent("node-1")
    lab.wait("agents")


def test_A25_a_deleted_vip_and_a_deleted_dummy_link_come_back_at_once(lab: Lab, shared: Pods, serve: Serve) -> None:
    """No period is waited for: the kernel tells of links and addresses."""
    item = serve(service("one", [port(80, "http")], {"name": "green"}))
    place = shared["guest"]
    eventually(covers, place, vip_urls(lab, item), {"green"})
    before = snapshot(lab)
    addresses = [vip(item, family) for family in lab.families]
    lab.node("node-1").run("; ".join(f"ip address del {one} dev kube-dummy-if" for one in addresses))
    back(lab, before)
    lab.node("node-1").run("ip link delete kube-dummy-if")
    back(lab, before)
    covers(place, vip_urls(lab, item), {"green"})


FOREIGN = """
ip link add foreign type dummy
ip address add 192.0.2.77/32 dev foreign
ip link set foreign up
ipvsadm -A -f 77 -s wlc
ipvsadm -a -f 77 -r 192.0.2.78:80 -m -w 3
ipvsadm -A -t 192.0.2.77:80 -s sh
ipvsadm -a -t 192.0.2.77:80 -r 192.0.2.79:8080 -m
ipset create foreign-set hash:ip
ipset add foreign-set 192.0.2.80
iptables -N FOREIGN
iptables -A FOREIGN -m set --match-set foreign-set src -j RETURN
iptables -A INPUT -j FOREIGN
iptables -t nat -A POSTROUTING -s 192.0.2.81 -j MASQUERADE
ip6tables -A INPUT -s 2001:db8::77 -j DROP
ip route add 198.51.100.0/24 dev foreign proto static
ip rule add from 192.0.2.82 lookup 99 pref 1234
"""
GONE = """
ip rule del pref 1234
ip6tables -D INPUT -s 2001:db8::77 -j DROP
iptables -t nat -D POSTROUTING -s 192.0.2.81 -j MASQUERADE
iptables -D INPUT -j FOREIGN
iptables -F FOREIGN
iptables -X FOREIGN
ipset destroy foreign-set
ipvsadm -D -t 192.0.2.77:80
ipvsadm -D -f 77
ip link del foreign
"""


def test_what_others_put_into_the_kernel_is_never_touched(lab: Lab, shared: Pods, serve: Serve, make: Make) -> None:
    """Not by services and policies that come and go, and not by an agent that starts and cleans up."""
    node = lab.node("node-1")
    node.run("set -e\n" + FOREIGN)
    try:
        before = snapshot(lab)
        item = serve(service("passing", [port(80, "http")], {"name": "red"}, type="NodePort"))
        make(NETWORK_POLICIES, policy("passing", {"name": "guest"}, ingress=[]))
        eventually(covers, shared["red"], vip_urls(lab, item), {"red"})
        lab.stop_agent("node-1", signal.SIGKILL)
        remove(lab, SERVICES, "passing")
        remove(lab, NETWORK_POLICIES, "passing")
        lab.start_agent("node-1")
        back(lab, before)
        lab.wait("agents")
        same(lab, before)
    finally:
        node.run("set -e\n" + GONE)


def test_a_pod_that_is_deleted_takes_all_of_its_own_along(lab: Lab, shared: Pods, make: Make) -> None:
    """The fixture around every test sees to it; here also for a pod with a policy, deleted in the wrong order."""
    item = make(PODS, pod("brief", "node-1", labels={"name": "brief"}, ports=SHARED_PORTS))
    eventually(ready, lab, item)
    make(NETWORK_POLICIES, policy("brief", {"name": "brief"}, ingress=[], egress=[]))
    eventually(lambda: _has_chain(lab, "brief"))
    remove(lab, PODS, "brief")


def _has_chain(lab: Lab, name: str) -> None:
    assert f"e2e/{name}" in lab.node("node-1").run("iptables-save -t filter")
