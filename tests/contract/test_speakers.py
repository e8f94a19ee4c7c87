"""What the router wants of a node with external neighbors, judged by BIRD and FRR: two BGP speakers that are not GoBGP."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path as File

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import Passwords, Ref, Service, ServiceType
from kuberouterpy.config import Config
from kuberouterpy.dataplane import NeighborKey
from tests.contract import gobgpd
from tests.contract.speakers import BGP_PORT, THERE, Bird, Frr, Site, eventually

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
    pytest.mark.skipif(not gobgpd.BINARIES, reason="needs gobgpd (Debian package gobgpd)"),
    pytest.mark.skipif(not THERE, reason="needs BIRD and FRR (Debian packages bird2 and frr)"),
]

SECRET = "correct-horse"
CONFIG = Config(
    node_name="node-1",
    enable_ipv6=True,
    bgp_port=BGP_PORT,
    bgp_holdtime_s=9,
    peer_router_multihop_ttl=3,
    peer_max_prefixes=20,
    peer_import_cidrs=("0.0.0.0/0", "::/0"),
    advertise_cluster_ip=True,
    service_cluster_ip_range=("10.96.0.0/16", "fd00:96::/112"),
)
WEB = Service(Ref("default", "web"), ServiceType.CLUSTER_IP, cluster_ips=("10.96.0.10", "fd00:96::10"))
PODS = {"10.1.1.0/24", "fd00:1:1::/64"}
VIPS = {"10.96.0.10/32", "fd00:96::10/128"}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def peers(*, bird: str = SECRET, frr: str = "") -> dict[str, str]:
    """Return the annotation that names both; over IPv4 to BIRD, over IPv6 to FRR."""
    lines = [f"- {{remoteip: {Bird.v4}, remoteasn: {Bird.asn}" + (f", password: {encoded(bird)}" if bird else "") + "}"]
    lines += [f"- {{remoteip: '{Frr.v6}', remoteasn: {Frr.asn}" + (f", password: {encoded(frr)}" if frr else "") + "}"]
    return {"peers": "\n".join(lines)}


@pytest.fixture(params=gobgpd.BINARIES, ids=gobgpd.version)
def site(request: pytest.FixtureRequest, tmp_path: File) -> Iterator[tuple[Site, Bird, Frr]]:
    with gobgpd.daemons([request.param], tmp_path) as (daemon,):
        bird, frr = Bird(tmp_path), Frr(tmp_path)
        node = Site(daemon, CONFIG)
        try:
            yield node, bird, frr
        finally:
            node.stop()
            bird.stop()
            frr.stop()


def test_both_are_told_everything_and_changes_reset_no_session(site: tuple[Site, Bird, Frr]) -> None:
    """Sessions of both families, MD5 on both, communities and prepends as the other side sees them; then a malformed edit,
    another community, and one neighbor less, while the other's session goes on."""
    node, bird, frr = site
    bird.configure(password=SECRET)
    frr.configure(password=SECRET)
    texts = peers(frr=SECRET) | {
        "node.bgp.communities": "65000:7,no-peer",
        "path-prepend.as": "64512",
        "path-prepend.repeat-n": "2",
    }
    node.tell(WEB)
    node.annotate(texts)
    eventually(lambda: bird.session() == "Established" and frr.session() == "Established")
    eventually(lambda: set(bird.routes()) == frr.routes() == PODS | VIPS)
    for prefix in PODS | VIPS:
        seen = bird.routes()[prefix]
        assert seen["as_path"] == "64512 64512 64512"
        assert "(65000,7)" in seen["community"]
        assert seen["next_hop"].split()[0] == ("fd00:99::1" if ":" in prefix else "10.99.0.1")
        path = frr.route(prefix)
        assert path["aspath"]["string"] == "64512 64512 64512"
        assert path["community"]["list"] == ["65000:7", "noPeer"]

    dropped = frr.ask("bgp neighbors")["fd00:99::1"]["connectionsDropped"]
    node.annotate(texts | {"peers": "- remoteip: nonsense", "node.bgp.communities": "65000:8"})
    eventually(lambda: "(65000,8)" in bird.routes()["10.1.1.0/24"]["community"])
    eventually(lambda: frr.route("10.96.0.10/32")["community"]["list"] == ["65000:8"])
    assert bird.session() == frr.session() == "Established"

    only_frr = f"[{{remoteip: '{Frr.v6}', remoteasn: {Frr.asn}, password: {encoded(SECRET)}}}]"
    node.annotate({"peers": only_frr})
    eventually(lambda: bird.session() != "Established" and bird.routes() == {})
    eventually(lambda: frr.route("10.1.1.0/24")["aspath"]["string"] == "64512")
    assert frr.ask("bgp neighbors")["fd00:99::1"]["connectionsDropped"] == dropped


def test_a_hostile_neighbor_gets_in_only_what_is_nobodys(site: tuple[Site, Bird, Frr]) -> None:
    """However wide --peer-import-cidrs: no default route, nothing of pods, Services or nodes, nothing refused by annotation."""
    node, bird, _ = site
    harmful = (
        "0.0.0.0/0",
        "::/0",
        "10.1.1.0/24",
        "10.1.1.64/26",
        "fd00:1:1::/64",
        "10.96.0.10/32",
        "fd00:96::/120",
        "10.99.7.0/24",
        "fd00:bad::/48",
    )
    bird.configure(announce=(*harmful, "192.168.7.0/24", "2001:db8:7::/48"))
    node.annotate(peers(bird="") | {"node.bgp.customimportreject": "10.99.0.0/16,fd00:bad::/32"})
    eventually(lambda: node.up(Bird.v4))
    eventually(lambda: set(node.learned) == {"192.168.7.0/24", "2001:db8:7::/48"})
    eventually(lambda: (state := node.state(Bird.v4)) is not None and state.received == len(harmful) + 2)
    assert set(node.learned) == {"192.168.7.0/24", "2001:db8:7::/48"}


def test_too_many_prefixes_end_the_session_and_the_next_resync_tries_again(site: tuple[Site, Bird, Frr]) -> None:
    node, bird, frr = site
    bird.configure(password=SECRET)
    frr.configure()
    node.annotate(peers())
    eventually(lambda: node.up(Bird.v4) and node.up(Frr.v6))
    bird.configure(password=SECRET, announce=[f"192.168.{number}.0/24" for number in range(30)])
    eventually(lambda: not node.up(Bird.v4))
    eventually(lambda: not node.learned)
    eventually(lambda: (state := node.state(Bird.v4)) is not None and "too many prefixes" in state.error)
    assert bird.session() != "Established"
    assert node.up(Frr.v6)
    bird.configure(password=SECRET, announce=["192.168.0.0/24"])
    listed = node.driver.list()
    missing = {key: value for key, value in node.wanted().items() if key not in listed}
    assert [getattr(key, "address", "") for key in missing] == [Bird.v4]
    node.put(missing.values())
    eventually(lambda: node.up(Bird.v4) and set(node.learned) == {"192.168.0.0/24"})
    assert node.up(Frr.v6)


def test_a_wrong_password_keeps_the_session_down_until_it_is_right(site: tuple[Site, Bird, Frr]) -> None:
    node, bird, frr = site
    bird.configure(password="another")
    frr.configure()
    node.annotate(peers())
    eventually(lambda: node.up(Frr.v6))
    assert not node.up(Bird.v4)
    node.annotate(peers(bird="another"))
    eventually(lambda: node.up(Bird.v4) and bird.session() == "Established")
    assert node.up(Frr.v6)


def test_passwords_of_the_file_open_the_session_and_changing_one_is_enough(site: tuple[Site, Bird, Frr]) -> None:
    """While the file was never readable there is no session at all: one without password would be open, or stay silent."""
    node, bird, frr = site
    bird.configure(password=SECRET)
    frr.configure()
    node.config = replace(
        CONFIG,
        peer_router_ips=(Bird.v4, Frr.v6),
        peer_router_asns=(Bird.asn, Frr.asn),
        peer_router_passwords_file="/etc/passwords",
    )
    node.settle()
    assert not [key for key in node.driver.list() if isinstance(key, NeighborKey)]
    node.tell(Passwords("/etc/passwords", ("wrong", "")))
    eventually(lambda: node.up(Frr.v6))
    assert not node.up(Bird.v4)
    node.tell(Passwords("/etc/passwords", (SECRET, "")))
    eventually(lambda: node.up(Bird.v4) and bird.session() == "Established")
    assert node.up(Frr.v6)
