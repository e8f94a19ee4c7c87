"""A second speaker beside BIRD: FRR at the router's addresses, on a port of its own, and what it sees of nodes and VIPs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kuberouterpy.family import FAMILIES, Family, family_of
from kuberouterpy.lab.client import NODES
from kuberouterpy.lab.topology import CLUSTER_ASN, FABRIC, ROUTER_ASN
from tests.cluster import Lab, eventually
from tests.e2e.conftest import Serve
from tests.e2e.objects import port, service
from tests.e2e.test_routes import pod_cidrs
from tests.e2e.test_services import WEB

PORT = 1790
FOLDER = Path("/run/lab/frr")
VIPS = ("203.0.113.78", "2001:db8:cb::78")
COMMUNITY = "65000:8"
WORDS = {Family.IPV4: "ipv4", Family.IPV6: "ipv6"}


class Seen(NamedTuple):
    """A path as FRR sees it."""

    communities: tuple[str, ...]
    multipath: bool


def configuration() -> str:
    """Return FRR's configuration: any node may come, each family in a session of its own."""
    lines = [
        f"router bgp {ROUTER_ASN}",
        " bgp router-id 172.31.0.1",
        " no bgp ebgp-requires-policy",
        " no bgp default ipv4-unicast",
    ]
    for family in FAMILIES:
        group = WORDS[family]
        lines += [f" neighbor {group} peer-group", f" neighbor {group} remote-as {CLUSTER_ASN}"]
        lines += [f" neighbor {group} passive", f" neighbor {group} ebgp-multihop 2"]
        lines += [f" bgp listen range {subnet.prefix(family)} peer-group {group}" for subnet in FABRIC]
    for family in FAMILIES:
        group = WORDS[family]
        lines += [f" address-family {group} unicast", f"  neighbor {group} activate", "  maximum-paths 8"]
        lines += [" exit-address-family"]
    return "\n".join(lines) + "\n"


def ask(words: str) -> Any:
    """Return the JSON of a show command of FRR."""
    command = ["vtysh", "--vty_socket", str(FOLDER), "-d", "bgpd", "-c", f"show bgp {words} json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "{}")


def seen(prefix: str) -> dict[str, Seen]:
    """Return the paths FRR has for a prefix, by neighbor."""
    paths = ask(f"{WORDS[family_of(prefix.partition('/')[0])]} unicast {prefix}").get("paths", ())
    return {
        path["peer"]["peerId"]: Seen(tuple(path.get("community", {}).get("list", ())), bool(path.get("multipath")))
        for path in paths
        if path["valid"]
    }


@pytest.fixture
def frr(lab: Lab, unchanged: object) -> Iterator[None]:
    """FRR in the router's namespace, told to every node by annotation."""
    bgpd = shutil.which("bgpd", path="/usr/lib/frr:/usr/sbin")
    assert bgpd, "no bgpd: .ci/install test brings it"
    FOLDER.mkdir()
    file = FOLDER / "bgpd.conf"
    file.write_text(configuration())
    words = [bgpd, "-Z", "-S", "-f", str(file), "-i", str(FOLDER / "pid"), "--vty_socket", str(FOLDER)]
    words += ["-p", str(PORT), "-A", "127.0.0.1", "-P", "0"]
    program = subprocess.Popen(["ip", "netns", "exec", "router", *words])
    try:
        for node in lab.nodes:
            gateways = [one.address for one in lab.topology.station(node).gateways]
            peers = "\n".join(f"- {{remoteip: '{one}', remoteasn: {ROUTER_ASN}, port: {PORT}}}" for one in gateways)
            _annotate(lab, node, peers, COMMUNITY)
        yield
    finally:
        for node in lab.nodes:
            _annotate(lab, node, None, None)
        program.kill()
        program.wait()
        shutil.rmtree(FOLDER)


def _annotate(lab: Lab, node: str, peers: str | None, communities: str | None) -> None:
    texts = {"kube-router.io/peers": peers, "kube-router.io/node.bgp.communities": communities}
    lab.api.patch(NODES, "", node, {"metadata": {"annotations": texts}})


@pytest.mark.timeout(240)
def test_frr_has_sessions_in_both_families_and_a_vip_over_every_node_with_its_community(
    lab: Lab, frr: None, serve: Serve
) -> None:
    item = service("frr", [port(80, "http")], WEB, externalIPs=list(VIPS))
    item["metadata"]["annotations"] = {"kube-router.io/service.advertise.externalip": "true"}
    serve(item)
    eventually(_sees, lab)
    for family in lab.families:
        peers = ask(f"{WORDS[family]} unicast summary")["peers"]
        assert {name: one["state"] for name, one in peers.items()} == {
            lab.address(node, family): "Established" for node in lab.nodes
        }
        for node in lab.nodes:
            (cidr,) = (one for one in pod_cidrs(lab, node) if family_of(one.partition("/")[0]) is family)
            assert seen(cidr) == {lab.address(node, family): Seen((COMMUNITY,), multipath=False)}, cidr
    for node in lab.nodes[1:]:
        _annotate(lab, node, None, None)
    eventually(_sees, lab, lab.nodes[0])


def _sees(lab: Lab, *nodes: str) -> None:
    """Assert that FRR has the VIPs over these nodes, or all: more than one share the traffic."""
    nodes = nodes or lab.nodes
    for address in VIPS:
        wanted = {lab.address(node, family_of(address)): Seen((COMMUNITY,), len(nodes) > 1) for node in nodes}
        assert seen(address) == wanted, address
