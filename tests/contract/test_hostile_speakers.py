"""External neighbors that break the protocol, or flood: no harm reaches the node, and no other session notices."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path as File

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import Passwords, Replace
from kuberouterpy.dataplane import NeighborKey, SpeakerKey
from kuberouterpy.sources.passwords import PasswordSource
from tests.contract import gobgpd
from tests.contract.raw_bgp import ORIGIN, RawSpeaker, next_hop, reach
from tests.contract.speakers import Site, eventually
from tests.contract.test_speakers import CONFIG

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
    pytest.mark.skipif(not gobgpd.BINARIES, reason="needs gobgpd (Debian package gobgpd)"),
]
BAD, GOOD = "10.99.0.2", "fd00:99::3"
THEIRS = "192.0.2.0/24"
"""What the honest neighbor tells."""


@pytest.fixture(params=gobgpd.BINARIES, ids=gobgpd.version)
def site(request: pytest.FixtureRequest, tmp_path: File) -> Iterator[tuple[Site, RawSpeaker, RawSpeaker]]:
    """A node with two external neighbors; the session with the honest one is up."""
    with gobgpd.daemons([request.param], tmp_path) as (daemon,):
        bad = RawSpeaker(BAD, 65001, router_id=BAD)
        good = RawSpeaker(GOOD, 65002, router_id="10.99.0.3")
        node = Site(daemon, replace(CONFIG, peer_max_prefixes=1000, bgp_holdtime_s=600))
        try:
            text = f"[{{remoteip: {BAD}, remoteasn: 65001}}, {{remoteip: '{GOOD}', remoteasn: 65002}}]"
            node.annotate({"peers": text})
            good.meet()
            good.announce([THEIRS])
            eventually(lambda: THEIRS in node.learned and node.up(GOOD))
            yield node, bad, good
        finally:
            node.stop()
            bad.close()
            good.close()


def malformed(speaker: RawSpeaker) -> dict[str, tuple[bytes, bytes]]:
    """Return attributes and NLRI of updates that RFC 4271 and RFC 7606 do not take, each for a prefix of its own."""
    path, hop, six = speaker.as_path(), next_hop(BAD), ip_address("fd00:99::2").packed
    short = b"\x18\xc6\x33\x64"
    return {
        "an origin there is none of": (b"\x40\x01\x01\x09" + path + hop, short),
        "an AS path that is cut short": (ORIGIN + b"\x40\x02\x04\x02\x05\x00\x01" + hop, short),
        "communities of five bytes": (ORIGIN + path + hop + b"\xc0\x08\x05abcde", short),
        "no next hop": (ORIGIN + path, short),
        "a next hop of five bytes": (ORIGIN + path + reach("2001:db8:66::/48", six[:5]), b""),
        "an attribute longer than all of them": (ORIGIN + path + hop + b"\xc0\x08\xff" + b"\0" * 4, short),
        "a prefix of 33 bits": (ORIGIN + path + hop, b"\x21" + b"\xc6\x33\x64\x01\x80"),
    }


def test_malformed_updates_bring_nothing_in_and_touch_no_other_session(
    site: tuple[Site, RawSpeaker, RawSpeaker],
) -> None:
    """Whether the daemon ends the session or only drops the path, what is sound afterwards is learned and nothing else."""
    node, bad, good = site
    honest = _since(node)[1]
    bad.meet()
    for number, (case, (attributes, nlri)) in enumerate(malformed(bad).items()):
        bad.update(attributes, nlri)
        sound = f"192.168.{number}.0/24"
        bad.announce([sound])
        eventually(lambda sound=sound: sound in node.learned or _met_again(bad, sound))
        eventually(lambda sound=sound: sound in node.learned)
        strange = set(node.learned) - {THEIRS, *(f"192.168.{one}.0/24" for one in range(number + 1))}
        assert strange == set(), case
    assert not good.ended()
    assert _since(node)[1] == honest


def _met_again(speaker: RawSpeaker, prefix: str) -> bool:
    """Return whether the daemon had ended the session and, in the one it opened then, heard of a prefix."""
    if not speaker.ended():
        return False
    speaker.meet()
    return speaker.announce([prefix])


def test_a_flood_ends_its_own_session_and_the_daemon_answers_all_the_while(
    site: tuple[Site, RawSpeaker, RawSpeaker],
) -> None:
    """20,000 prefixes where 1,000 are allowed; without a limit they are all taken, and the daemon still answers in time."""
    node, bad, good = site
    flood = [f"44.{number >> 8}.{number & 255}.0/24" for number in range(20_000)]
    bad.meet()
    bad.announce(flood)
    assert SpeakerKey() in node.driver.list()
    eventually(lambda: (state := node.state(BAD)) is not None and "too many prefixes" in state.error)
    eventually(lambda: set(node.learned) == {THEIRS})
    assert NeighborKey(BAD) not in node.driver.list()
    node.config = replace(node.config, peer_max_prefixes=0)
    node.settle()
    good.meet()
    good.announce([THEIRS])
    bad.meet()
    assert bad.announce(flood)
    eventually(lambda: len(node.learned) == len(flood) + 1)
    assert NeighborKey(BAD) in node.driver.list()


def test_an_equal_router_id_inside_the_as_is_named(site: tuple[Site, RawSpeaker, RawSpeaker]) -> None:
    """Both ends refuse such an OPEN (RFC 6286 2.2), and would otherwise only say that they are idle."""
    node, _, good = site
    good.close()
    twin = RawSpeaker(GOOD, 64512, router_id="10.99.0.1")
    try:
        node.annotate({"peers": f"[{{remoteip: '{GOOD}', remoteasn: 64512}}]"})
        assert twin.refused() == (2, 3)
        eventually(lambda: (state := node.state(GOOD)) is not None and "router ID" in state.error)
    finally:
        twin.close()


def test_a_password_file_that_vanishes_costs_no_session(
    tmp_path: File, site: tuple[Site, RawSpeaker, RawSpeaker]
) -> None:
    node, bad, good = site
    file = tmp_path / "passwords"
    file.write_text(",")
    node.config = replace(
        node.config,
        peer_router_ips=(BAD, GOOD),
        peer_router_asns=(65001, 65002),
        peer_router_passwords_file=str(file),
    )
    source = PasswordSource(str(file), 2, lambda event: _tell(node, event))
    source.look()
    bad.meet()
    eventually(lambda: node.up(BAD) and node.up(GOOD))
    before = _since(node)
    file.unlink()
    source.look()
    node.settle()
    assert not bad.ended()
    assert not good.ended()
    assert _since(node) == before
    file.write_text("," + base64.b64encode(b"new").decode())
    source.look()
    assert good.ended()
    assert not bad.ended()


def _tell(node: Site, event: object) -> None:
    if isinstance(event, Replace):
        node.tell(*(one for one in event.records if isinstance(one, Passwords)))


def _since(node: Site) -> list[tuple[str, float]]:
    """Return state of both sessions, and since when."""
    states = [node.state(address) for address in (BAD, GOOD)]
    return [(one.state, one.since) for one in states if one is not None]
