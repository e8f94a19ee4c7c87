"""The links of this host and their addresses as a source of facts: one thread that waits for the kernel's word.

An event only says "look again". The kernel drops events when they come faster than they are read (20,000 quick changes: 18,700
lost in a small buffer), so nothing is ever learned from one: the socket is drained, then everything is listed once, and what is
equal to the last listing is not told. Links of pods (veth ends without an address) and tunnels come and go all day and are no
facts about the host: they are left out.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

from kuberouterpy.cluster import Event, Link, Reachable, Replace, Unreachable
from kuberouterpy.drivers import rtnl_wire as wire
from kuberouterpy.drivers.netlink import ROUTE, Message, Netlink, open_socket
from kuberouterpy.log import event as log_event

NAME: Final = "netlink"
"""What ``Unreachable`` calls this source."""

_LINK_GROUP, _IPV4_ADDRESS_GROUP, _IPV6_ADDRESS_GROUP = 0x1, 0x10, 0x100
_GROUPS: Final = _LINK_GROUP | _IPV4_ADDRESS_GROUP | _IPV6_ADDRESS_GROUP
_FLEETING: Final = frozenset({"veth", "ipip", "ip6tnl", "tun"})
"""Kinds that are told only while they carry an address."""
_QUIET_S: Final = 0.1
"""A burst is over when nothing came for so long ..."""
_BURST_S: Final = 1.0
"""... or it has lasted so long."""
_RETRY_S: Final = 2.0
_READ_BYTES: Final = 64 * 1024
_log = logging.getLogger(__name__)


class NetlinkSource:
    """Puts ``Replace(Link, ...)`` at start and after every change, from the network namespace that :meth:`start` runs in."""

    def __init__(self, put: Callable[[Event], None]) -> None:
        self._put = put
        self._netlink = Netlink(ROUTE)
        self._last: tuple[Link, ...] | None = None
        self._broken = False
        self._thread: threading.Thread | None = None
        self._wake = -1

    def start(self) -> None:
        """Start the thread.

        Errors: OSError when no netlink socket can be had.
        """
        # order matters: listen before the first listing, or a change between the two is missed
        events = open_socket(ROUTE, groups=_GROUPS)
        stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, args=(events, stop), name="watch-Link", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for its end."""
        if self._thread is None:
            return
        os.close(self._wake)
        self._thread.join()
        self._thread = None

    def _run(self, events: socket.socket, stop: int) -> None:
        with events, selectors.DefaultSelector() as selector:
            selector.register(events, selectors.EVENT_READ)
            selector.register(stop, selectors.EVENT_READ)
            looked = self._look()
            while not _stopped(selector.select(None if looked else _RETRY_S), stop):
                if not _quiet(events, selector, stop):
                    break
                looked = self._look()
        os.close(stop)
        self._netlink.close()

    def _look(self) -> bool:
        """List everything and tell what is new; return whether it worked."""
        try:
            links = tuple(self._links())
        except OSError as error:
            if not self._broken:
                self._put(Unreachable(NAME, f"list links: {error.strerror or error}"))
            self._broken = True
            return False
        if self._broken:
            self._put(Reachable(NAME))
            self._broken = False
        if links != self._last:
            self._last = links
            log_event(_log, logging.DEBUG, "listed", kind="Link", count=len(links))
            self._put(Replace(Link, links))
        return True

    def _links(self) -> Iterator[Link]:
        seen = [wire.decode_link(body) for body in self._dump(wire.GET_LINK, wire.get_links())]
        held: dict[int, list[str]] = {}
        for body in self._dump(wire.GET_ADDRESS, wire.get_addresses()):
            address = wire.decode_address(body)
            if address is not None and not address.link_local:
                held.setdefault(address.ifindex, []).append(f"{address.address}/{address.prefix}")
        for link in seen:
            addresses = tuple(held.get(link.ifindex, ()))
            if addresses or link.kind not in _FLEETING:
                yield Link(link.name, link.ifindex, link.kind, link.mtu, link.up, addresses)

    def _dump(self, kind: int, body: bytes) -> Iterator[memoryview]:
        return self._netlink.dump(Message(kind, 0, body))


def _stopped(ready: list[tuple[selectors.SelectorKey, int]], stop: int) -> bool:
    return any(key.fd == stop for key, _ in ready)


def _quiet(events: socket.socket, selector: selectors.BaseSelector, stop: int) -> bool:
    """Read until the burst is over; return whether to go on."""
    for _ in range(round(_BURST_S / _QUIET_S)):
        _drain(events)
        ready = selector.select(_QUIET_S)
        if _stopped(ready, stop):
            return False
        if not ready:
            break
    return True


def _drain(events: socket.socket) -> None:
    while True:
        try:
            events.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # events were dropped: what they said is seen by listing
                raise
