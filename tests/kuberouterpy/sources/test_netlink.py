"""The links of a network namespace as facts, on a real kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import TypeAlias

import pytest

from kuberouterpy.cluster import Event, Link, Replace
from kuberouterpy.sources.netlink import NetlinkSource

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns")]

Next: TypeAlias = Callable[[], dict[str, Link]]


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], check=True, input="\n".join(lines), text=True)


@contextmanager
def watching() -> Iterator[Next]:
    """Run a source; what it yields returns the links of the next event."""
    events: Queue[Event] = Queue()
    source = NetlinkSource(events.put)
    source.start()

    def following() -> dict[str, Link]:
        event = events.get(timeout=30)
        assert isinstance(event, Replace)
        assert event.kind is Link
        return {record.name: record for record in event.records if isinstance(record, Link)}

    try:
        yield following
    finally:
        source.stop()
        assert events.empty()


def test_the_links_are_told_at_start() -> None:
    ip("link add eth0 type bridge", "link set eth0 mtu 1400 up", "address add 10.0.0.1/24 dev eth0")
    ip("address add fd00::1/64 dev eth0 nodad")
    with watching() as following:
        links = following()
    assert links["eth0"].addresses == ("10.0.0.1/24", "fd00::1/64")
    assert (links["eth0"].kind, links["eth0"].mtu, links["eth0"].up) == ("bridge", 1400, True)
    assert links["lo"].addresses[0] == "127.0.0.1/8"


def test_a_new_and_a_removed_address_are_told() -> None:
    ip("link add eth0 type bridge")
    with watching() as following:
        assert following()["eth0"].addresses == ()
        ip("address add 10.0.0.1/24 dev eth0")
        assert following()["eth0"].addresses == ("10.0.0.1/24",)
        ip("address add fd00::1/64 dev eth0 nodad")
        assert following()["eth0"].addresses == ("10.0.0.1/24", "fd00::1/64")
        ip("address del 10.0.0.1/24 dev eth0")
        assert following()["eth0"].addresses == ("fd00::1/64",)


def test_links_of_pods_that_come_and_go_are_no_news() -> None:
    with watching() as following:
        before = following()
        ip(*(f"link add veth{n} type veth peer name peer{n}" for n in range(20)))
        ip("link set veth1 up", "link del veth2", "link add eth0 type bridge")
        assert following().keys() - before.keys() == {"eth0"}


def test_a_burst_of_changes_is_told_with_its_end() -> None:
    ip("link add eth0 type bridge")
    wanted = {f"10.0.{n >> 8}.{n & 255}/32" for n in range(2000)}
    with watching() as following:
        following()
        ip(*(f"address add {address} dev eth0" for address in sorted(wanted)))
        told = 1
        while set(following()["eth0"].addresses) != wanted:
            told += 1
    assert told < 50


def test_the_source_stops_while_it_waits() -> None:
    with watching() as following:
        following()
