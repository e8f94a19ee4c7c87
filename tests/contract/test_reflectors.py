"""Three nodes with real daemons in topologies that annotations make: a route reflector, a mesh, an AS of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path as File

import pytest

from kuberouterpy.config import Config
from tests.contract import gobgpd
from tests.contract.speakers import BGP_PORT, Site, eventually, node

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
    pytest.mark.skipif(not gobgpd.BINARIES, reason="needs gobgpd (Debian package gobgpd)"),
]

NUMBERS = (1, 2, 3)


@pytest.fixture(params=gobgpd.BINARIES, ids=gobgpd.version)
def sites(request: pytest.FixtureRequest, tmp_path: File) -> Iterator[list[Site]]:
    with gobgpd.daemons([request.param] * 3, tmp_path) as daemons:
        made = []
        try:
            for number, daemon in zip(NUMBERS, daemons, strict=True):
                settings = Config(
                    node_name=f"node-{number}",
                    enable_ipv6=True,
                    bgp_port=BGP_PORT,
                    bgp_holdtime_s=9,
                    nodes_full_mesh=False,
                )
                made.append(Site(daemon, settings))
            yield made
        finally:
            for site in made:
                site.stop()


def annotate(sites: list[Site], *texts: Mapping[str, str]) -> None:
    """Give the nodes their annotations; every node hears of all."""
    nodes = [node(number, one) for number, one in zip(NUMBERS, texts, strict=True)]
    for site in sites:
        site.tell(*nodes)


def sessions(sites: list[Site]) -> dict[int, set[int]]:
    """Return the numbers of the nodes with which each node has an established session."""
    return {
        number: {other for other in NUMBERS if site.up(f"10.99.0.{other}")}
        for number, site in zip(NUMBERS, sites, strict=True)
    }


def learned(site: Site) -> dict[str, tuple[str, ...]]:
    """Return what a node learned: prefix to next hops."""
    return {path.prefix: path.next_hops for path in site.learned.values()}


def pods(*numbers: int) -> dict[str, tuple[str, ...]]:
    """Return the pod CIDRs of nodes by way of these nodes themselves."""
    found = {f"10.1.{number}.0/24": (f"10.99.0.{number}",) for number in numbers}
    return found | {f"fd00:1:{number}::/64": (f"fd00:99::{number}",) for number in numbers}


def test_clients_hear_of_each_other_through_the_reflector_and_a_mesh_takes_over_at_run_time(sites: list[Site]) -> None:
    """Next hops stay the clients' own; a node that becomes one of another AS stands alone, the others go on."""
    server, client = {"rr.server": "42"}, {"rr.client": "0.0.0.42"}
    annotate(sites, server, client, client)
    eventually(lambda: sessions(sites) == {1: {2, 3}, 2: {1}, 3: {1}})
    eventually(lambda: [learned(one) for one in sites] == [pods(2, 3), pods(1, 3), pods(1, 2)])

    annotate(sites, {"node.asn": "64512"}, {"node.asn": "64512"}, {"node.asn": "64512"})
    eventually(lambda: sessions(sites) == {1: {2, 3}, 2: {1, 3}, 3: {1, 2}})
    eventually(lambda: [learned(one) for one in sites] == [pods(2, 3), pods(1, 3), pods(1, 2)])

    for site in sites[:2]:
        site.tell(node(3, server | {"node.asn": "64513"}))
    eventually(lambda: sessions(sites) == {1: {2}, 2: {1}, 3: set()})
    eventually(lambda: [learned(one) for one in sites[:2]] == [pods(2), pods(1)])
