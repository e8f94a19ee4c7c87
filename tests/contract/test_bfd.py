"""BFD between two real daemons that have it (GoBGP 4), over a wire that goes dead without a word."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path as File

import pytest

from kuberouterpy.dataplane import Bfd, Neighbor, NeighborKey, Speaker, SpeakerKey
from kuberouterpy.drivers.gobgp import GobgpDriver
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.sources.gobgp import GobgpSource
from tests.contract import gobgpd, suite

CAPABLE = [one for one in gobgpd.BINARIES if int(gobgpd.version(one).split(".")[0]) >= 4]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
    pytest.mark.skipif(not CAPABLE, reason="needs a gobgpd 4 in KUBEROUTERPY_GOBGPD"),
]
BFD = Bfd(port=3784, multiplier=3, tx_ms=100, rx_ms=100)
V4, V6 = ("10.98.0.1", "10.98.0.2"), ("fd00:98::1", "fd00:98::2")


class Router:
    """A daemon in a network namespace of its own, with a neighbor of each family at the other end of the wire."""

    def __init__(self, index: int, daemon: gobgpd.Daemon) -> None:
        self.daemon, self.driver = daemon, GobgpDriver(daemon.socket)
        self.source = GobgpSource(daemon.socket, lambda event: None)
        mine, other = index, 1 - index
        self.objects = [
            Speaker(
                SpeakerKey(),
                asn=65001 + mine,
                router_id=V4[mine],
                listen_port=1790,
                listen_addresses=(V4[mine], V6[mine]),
                families=(IPV4, IPV6),
            ),
            *(
                Neighbor(
                    NeighborKey(ends[other]),
                    asn=65001 + other,
                    local_address=ends[mine],
                    port=1790,
                    families=(family,),
                    connect_retry_s=1,
                    passive=mine > other,
                    bfd=BFD,
                )
                for ends, family in ((V4, IPV4), (V6, IPV6))
            ),
        ]

    def sees(self) -> set[tuple[str, str]]:
        """Return state of the session and of BFD, of every neighbor."""
        return {(one.state, one.bfd) for one in self.source.neighbors()}


@pytest.fixture(params=CAPABLE, ids=gobgpd.version)
def routers(request: pytest.FixtureRequest, tmp_path: File) -> Iterator[tuple[Router, Router]]:
    """Two routers joined by the link ``wire``, of which each has one end."""
    with gobgpd.daemons([request.param], tmp_path) as (near,):
        far = gobgpd.Daemon(request.param, tmp_path / "far.sock")
        with suite.own_namespace():
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            far.start()
        made = [Router(index, daemon) for index, daemon in enumerate((near, far))]
        try:
            _join(far)
            for router in made:
                suite.applied(router.driver, [suite.create(value) for value in router.objects])
                router.source.start()
            yield made[0], made[1]
        finally:
            for router in made:
                router.source.stop()
                router.driver.close()
            far.stop()


def _join(far: gobgpd.Daemon) -> None:
    inside = ["nsenter", "-t", str(far.pid), "-n"]
    _run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", str(far.pid))
    for before, index in (([], 0), (inside, 1)):
        _run(*before, "ip", "address", "add", f"{V4[index]}/24", "dev", "wire")
        _run(*before, "ip", "address", "add", f"{V6[index]}/64", "dev", "wire", "nodad")
        _run(*before, "ip", "link", "set", "wire", "up")


def _wire(verb: str, far: gobgpd.Daemon) -> None:
    """Let nothing arrive at either end any more (``-A``), or let it again (``-D``)."""
    for before in ([], ["nsenter", "-t", str(far.pid), "-n"]):
        for program in ("iptables", "ip6tables"):
            _run(*before, program, "-w", verb, "INPUT", "-i", "wire", "-j", "DROP")


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


def test_bfd_ends_the_sessions_long_before_the_hold_time_and_they_come_back(routers: tuple[Router, Router]) -> None:
    """The hold time is 90 s: what is seen within 10 s was found by BFD. What was written is read back as it was."""
    near, far = routers
    up = {("established", "up")}
    gobgpd.eventually(lambda: near.sees() == far.sees() == up)
    fresh = GobgpDriver(near.daemon.socket)
    assert {one.key: one for one in near.objects}.items() <= dict(fresh.list()).items()
    fresh.close()
    # Links and routes stay: neither kernel hears that nothing arrives.
    _wire("-A", far.daemon)
    gobgpd.eventually(lambda: all(state != "established" for state, _ in near.sees() | far.sees()), within_s=10)
    gobgpd.eventually(lambda: {bfd for _, bfd in near.sees() | far.sees()} == {"down"}, within_s=10)
    _wire("-D", far.daemon)
    gobgpd.eventually(lambda: near.sees() == far.sees() == up, within_s=60)
