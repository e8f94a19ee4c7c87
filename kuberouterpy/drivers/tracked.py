"""Tracked connections of TCP, UDP and SCTP: all of them listed, some of them forgotten. Not a driver of objects.

A connection that conntrack forgets is judged again by its next packet. For TCP only with ``nf_conntrack_tcp_loose`` 0:
else the kernel takes a packet of the answering side for the first of a new connection.

Kernel: net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from kuberouterpy.drivers.batches import SEND
from kuberouterpy.drivers.conntrack import NETFILTER, decode_ends, everything
from kuberouterpy.drivers.netlink import Message, Netlink, failure, unanswered
from kuberouterpy.family import FAMILIES, Family
from kuberouterpy.protocol import Protocol

_GET: Final = 0x101
_DELETE: Final = 0x102
"""NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*."""


class Tracked(NamedTuple):
    """One connection, as its first packet was behind any VIP."""

    family: Family
    protocol: Protocol
    source: str
    """Who began it."""
    answerer: str
    """Who answers: the endpoint, where the client asked a VIP."""
    port: int
    """The answerer's."""
    identity: bytes
    """The attributes that name it in a deletion."""


class ConnectionTable:
    """The conntrack table of the network namespace in which it is first used."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETFILTER)

    def list(self) -> Iterator[Tracked]:
        """Yield every connection that has ports. Errors: DriverError."""
        for family in FAMILIES:
            try:
                bodies = self._netlink.dump(Message(_GET, 0, everything(family)))
            except OSError as error:
                raise unanswered("list tracked connections", error) from error
            for body in bodies:
                found = decode_ends(body)
                if found is not None:
                    yield Tracked(family, *found)

    def forget(self, connections: Iterable[Tracked]) -> int:
        """Forget some connections; return how many were still there. Errors: DriverError."""
        waiting, done = iter(connections), 0
        while part := list(islice(waiting, SEND)):
            done += self._forget(part)
        return done

    def _forget(self, connections: Sequence[Tracked]) -> int:
        messages = [Message(_DELETE, 0, everything(one.family) + one.identity) for one in connections]
        try:
            refused = self._netlink.transact(messages)
        except OSError as error:
            raise unanswered("forget tracked connections", error) from error
        for refusal in refused.values():
            if refusal.errno != errno.ENOENT:  # it ended by itself
                raise failure("forget a tracked connection", refusal)
        return len(connections) - len(refused)

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()
