"""Every encapsulation between real pods: who is tunnelled, how wide the way is, and what a switch leaves behind."""

from __future__ import annotations

import errno
import json
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from kuberouterpy.family import Family, family_of
from kuberouterpy.lab.client import PODS
from tests.cluster import Lab, Place, eventually, say, url
from tests.e2e.conftest import Make, Pods, ip_of, ready
from tests.e2e.objects import DNS, HTTP, SHARED_PORTS, pod
from tests.e2e.test_routes import pod_cidrs

_UPLINK_BYTES = 1500
_UDP_BYTES = {Family.IPV4: 28, Family.IPV6: 48}
"""IP and UDP headers."""
_IP_MTU_DISCOVER = {Family.IPV4: (socket.IPPROTO_IP, 10), Family.IPV6: (socket.IPPROTO_IPV6, 23)}
_DONT_FRAGMENT = 2  # include/uapi/linux/in.h: IP_PMTUDISC_DO


class Way(NamedTuple):
    """An overlay, and what it makes of node-1's links."""

    flags: tuple[str, ...]
    kinds: dict[str, int]
    """Tunnel links of node-1 by kind: it has one near and one far node."""
    takes: dict[Family, int]
    """Bytes of every packet."""

    @property
    def full(self) -> bool:
        """Whether near nodes are tunnelled."""
        return "--overlay-type=full" in self.flags


_IPIP = {Family.IPV4: 20, Family.IPV6: 40}
_VXLAN = {Family.IPV4: 50, Family.IPV6: 70}
WAYS = {
    "ipip full": Way(("--overlay-type=full",), {"ipip": 2, "ip6tnl": 2}, _IPIP),
    "vxlan subnet": Way(("--overlay-encap=vxlan",), {"vxlan": 2}, _VXLAN),
    "vxlan full": Way(("--overlay-encap=vxlan", "--overlay-type=full"), {"vxlan": 2}, _VXLAN),
    "ipip subnet": Way((), {"ipip": 1, "ip6tnl": 1}, _IPIP),
}
"""In this order each switch changes the encapsulation, the type, or both; the last is what the lab begins with."""


def tunnels(lab: Lab, node: str) -> dict[str, dict[str, Any]]:
    """Return a node's tunnel links by name, as ``ip`` tells them."""
    found = json.loads(lab.node(node).run("ip -d -j link show"))
    return {one["ifname"]: one for one in found if one["ifname"].startswith("tun-")}


def fits(place: Place, address: str, size: int) -> bool:
    """Return whether a packet of ``size`` bytes that must not be cut gets there and back, once the path's MTU is known."""
    family = family_of(address)
    level, option = _IP_MTU_DISCOVER[family]
    for _ in range(3):
        with place.socket(address, socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            sock.setsockopt(level, option, _DONT_FRAGMENT)
            sock.connect((address, DNS))
            try:
                return bool(say(sock, b"x" * (size - _UDP_BYTES[family])))
            except OSError as error:  # EMSGSIZE: refused here; silence: a router on the way has just told us
                if error.errno == errno.EMSGSIZE:
                    return False
    return False


def restart(lab: Lab, *flags: str) -> None:
    """Start every agent anew with further flags."""
    for node in lab.nodes:
        lab.stop_agent(node)
        lab.start_agent(node, *flags)
    lab.wait("agents")


@pytest.fixture
def as_before(lab: Lab, unchanged: object) -> Iterator[None]:
    """Whatever happens, the agents run as the lab started them when the test is over."""
    links = {node: set(tunnels(lab, node)) for node in lab.nodes}
    yield
    if any(set(tunnels(lab, node)) != links[node] for node in lab.nodes):
        restart(lab)
    for node in lab.nodes:
        eventually(_has_links, lab, node, links[node])


def _has_links(lab: Lab, node: str, names: set[str]) -> None:
    assert set(tunnels(lab, node)) == names


@pytest.mark.timeout(400)
def test_every_overlay_carries_pods_and_a_switch_leaves_nothing_behind(
    lab: Lab, shared: Pods, make: Make, as_before: None
) -> None:
    carries(lab, shared, WAYS["ipip subnet"])
    for name, way in WAYS.items():
        restart(lab, *way.flags)
        eventually(carries, lab, shared, way)
        if name == "vxlan full":
            new_pods_are_as_wide_as_the_way(lab, shared, make, way)


def carries(lab: Lab, shared: Pods, way: Way) -> None:
    """Assert that pods of different nodes reach one another with their own addresses, over the links of this way only."""
    links = tunnels(lab, "node-1")
    assert Counter(one["linkinfo"]["info_kind"] for one in links.values()) == Counter(way.kinds)
    for family in lab.families:
        (cidr,) = (one for one in pod_cidrs(lab, "node-1") if family_of(one) is family)
        assert f"from {cidr} lookup 77" in lab.node("node-1").run(f"ip -{family:d} rule show").replace("proto 17", "")
        for name, tunnelled in (("green", True), ("blue", way.full)):
            via = lab.node("node-1").run(f"ip -j -{family:d} route get {shared.ip(name, family)}")
            assert (json.loads(via)[0]["dev"] in links) is tunnelled, (name, family)
        largest = _UPLINK_BYTES - way.takes[family]
        widths = {one["mtu"] for one in links.values() if _family(one) is family}
        assert widths == {largest}, family
    for here, there in (("guest", "green"), ("green", "guest"), ("guest", "blue"), ("blue", "green")):
        urls = [f"{url(shared.ip(there, family), HTTP)}/clientip" for family in lab.families]
        found = [answer.text for answer in shared[here].curl(*urls)]
        assert found == [shared.ip(here, family) for family in lab.families], (here, there)
    hosted = [f"{url(lab.address('node-2', family), 18080)}/clientip" for family in lab.families]
    for name in ("guest", "green"):
        found = [answer.text for answer in shared[name].curl(*hosted)]
        assert found == [shared.ip(name, family) for family in lab.families], (name, "a node")
    # The narrower family rules: the bridges have its width, and the shared pods have that of before any switch.
    largest = _UPLINK_BYTES - max(*way.takes.values(), *_IPIP.values())
    shared["guest"].run("ip route flush cache; ip -6 route flush cache")  # what it learned of the way before this one
    for family in lab.families:
        address = shared.ip("green", family)
        assert fits(shared["guest"], address, largest), (family, largest)
        assert not fits(shared["guest"], address, largest + 1), (family, largest + 1)


def new_pods_are_as_wide_as_the_way(lab: Lab, shared: Pods, make: Make, way: Way) -> None:
    """Assert that a pod made now has the MTU of the narrower family, and that such a packet gets there at once."""
    width = _UPLINK_BYTES - max(way.takes.values())
    item = eventually(ready, lab, make(PODS, pod("wide", "node-1", labels={"name": "wide"}, ports=SHARED_PORTS)))
    place = lab.pod(item["metadata"]["namespace"], "wide")
    assert int(place.run("cat /sys/class/net/eth0/mtu")) == width
    for family in lab.families:
        assert ip_of(item, family)
        eventually(_fits, place, shared.ip("green", family), width)
        assert not fits(place, shared.ip("green", family), width + 1)
    conflist = json.loads(lab.node("node-1").run("cat /run/lab/nodes/node-1/cni/net.d/10-kuberouter.conflist"))
    assert {one.get("mtu") for one in conflist["plugins"] if one["type"] == "bridge"} == {width}


def _fits(place: Place, address: str, size: int) -> None:
    assert fits(place, address, size)


def _family(link: dict[str, Any]) -> Family:
    told = link["linkinfo"]["info_data"]
    return family_of(str(told.get("local6") or told.get("local")))
