"""Conntrack entries of UDP that the wrong one answers, found by one dump and deleted one by one.

What is looked for, as the kernel's own tool shows it: a flow that began before its address was a VIP here::

    $ conntrack -L -p udp --orig-dst 10.96.0.10
    udp 17 29 src=10.1.2.3 dst=10.96.0.10 sport=4000 dport=53 [UNREPLIED] src=10.96.0.10 dst=10.1.2.3 sport=53 dport=4000

Promises: an entry goes only when its original destination is the address and port of an object, and its answerer is none of
that object's; other entries of a Service stay. Costs nothing where there is no such object. Does not: remember anything over a
restart - :meth:`ConntrackDriver.list` returns what was applied by this process, so a restart looks once at each.

Kernel: net/netfilter/nf_conntrack_netlink.c. CTA_FILTER (Linux 5.8) has the kernel leave out of a dump what cannot matter;
older kernels pass over it, so everything is compared here again.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, NamedTuple

from kuberouterpy.dataplane import Flows, FlowsKey, Key, Object, ObjectKind, Op, Verb
from kuberouterpy.drivers.batches import SEND
from kuberouterpy.drivers.netlink import (
    Message,
    Netlink,
    Payload,
    address_text,
    attribute,
    attributes,
    failure,
    nested,
    unanswered,
)
from kuberouterpy.errors import DriverError, MissingCapability
from kuberouterpy.family import Family
from kuberouterpy.protocol import Protocol

NETFILTER: Final = 12
"""NETLINK_NETFILTER."""

_GET: Final = 0x101
_DELETE: Final = 0x102
"""NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*."""

_TUPLE_ORIGINAL: Final = 1
_TUPLE_REPLY: Final = 2
_ID: Final = 12
_ZONE: Final = 18
_FILTER: Final = 25
"""CTA_*."""
_TUPLE_IP: Final = 1
_TUPLE_PROTOCOL: Final = 2
_SOURCES: Final = frozenset({1, 3})
"""CTA_IP_V4_SRC, CTA_IP_V6_SRC."""
_IPV4_DESTINATION: Final = 2
_DESTINATIONS: Final = frozenset({_IPV4_DESTINATION, 4})
"""CTA_IP_V4_DST, CTA_IP_V6_DST."""
_PROTOCOL_NUMBER: Final = 1
_SOURCE_PORT: Final = 2
_DESTINATION_PORT: Final = 3
_FILTER_ORIGINAL: Final = 1
_BY_DESTINATION: Final = 1 << 1
_BY_PROTOCOL: Final = 1 << 3
_BY_PORT: Final = 1 << 5
"""CTA_FILTER_F_CTA_*."""

_NUMBERS: Final = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_SOCKET_FAMILIES: Final = {Family.IPV4: AF_INET, Family.IPV6: AF_INET6}
_SINGLE_DUMPS: Final = 4
"""Up to so many objects the kernel is asked for the entries of each; for more, once for all of the protocol."""
_FILTERLESS: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})


class Entry(NamedTuple):
    """What matters of a conntrack entry."""

    key: FlowsKey
    """What the client asked for."""
    answerer: str
    """Source address of the reply direction."""
    identity: bytes
    """The attributes that name it in a deletion."""


class ConntrackDriver:
    """Cleans the conntrack table of the network namespace in which it is first used."""

    name = "conntrack"
    kinds: tuple[ObjectKind, ...] = (Flows,)

    def __init__(self) -> None:
        self._netlink = Netlink(NETFILTER)
        self._applied: dict[Key, Flows] = {}
        self._filters = True
        self.deleted = 0
        """Entries deleted since start."""

    def list(self) -> Mapping[Key, Object]:
        """Return what this process applied."""
        return dict(self._applied)

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Delete the entries that nobody of each object answers, by as few dumps as may be."""
        last = {op.key: op for op in ops}
        allowed = {key: frozenset(_answering(op)) for key, op in last.items() if self._may_hold_wrong(op)}
        error = self._clean(allowed) if allowed else None
        for op in ops:
            if error is not None and op.key in allowed:
                yield op, error
                continue
            if op.verb is Verb.DELETE:
                self._applied.pop(op.key, None)
            elif isinstance(op.value, Flows):
                self._applied[op.key] = op.value
            yield op, None

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    def _may_hold_wrong(self, op: Op) -> bool:
        """Whether there may be entries to delete: not where answerers only join others that were there."""
        before = self._applied.get(op.key)
        return before is None or not before.answering or not frozenset(before.answering) <= frozenset(_answering(op))

    def _clean(self, allowed: Mapping[Key, Collection[str]]) -> DriverError | None:
        try:
            wrong = [one for one in self._entries(allowed) if one.answerer not in allowed[one.key]]
            for part in _parts(wrong):
                self._delete(part)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return MissingCapability("read conntrack: modprobe nf_conntrack_netlink", errno.EINVAL)
            return unanswered("clean conntrack", error)
        except DriverError as error:
            return error
        return None

    def _entries(self, wanted: Mapping[Key, Collection[str]]) -> Iterator[Entry]:
        """Yield the entries of some keys."""
        keys = [key for key in wanted if isinstance(key, FlowsKey)]
        for family in sorted({key.family for key in keys}):
            of_family = [key for key in keys if key.family is family]
            protocols = sorted({key.protocol for key in of_family})
            questions = [_narrow(key) for key in of_family]
            if len(of_family) > _SINGLE_DUMPS:
                questions = [_narrow(FlowsKey(family, protocol, "", 0)) for protocol in protocols]
            for question in questions if self._filters else [everything(family)]:
                for body in self._dump(question, family):
                    entry = decode(body)
                    if entry is not None and entry.key in wanted:
                        yield entry

    def _dump(self, question: bytes, family: Family) -> Iterator[memoryview]:
        try:
            return self._netlink.dump(Message(_GET, 0, question))
        except OSError as error:
            if error.errno not in _FILTERLESS or question == everything(family):
                raise
        replies = self._netlink.dump(Message(_GET, 0, everything(family)))
        self._filters = False
        return replies

    def _delete(self, entries: Sequence[Entry]) -> None:
        messages = [Message(_DELETE, 0, everything(entry.key.family) + entry.identity) for entry in entries]
        refused = self._netlink.transact(messages)
        self.deleted += len(entries) - len(refused)
        for position, refusal in refused.items():
            if refusal.errno != errno.ENOENT:  # it ended by itself
                raise failure(f"delete conntrack entry of {entries[position].key}", refusal)


def decode_ends(body: Payload) -> tuple[Protocol, str, str, int, bytes] | None:
    """Return protocol, who began, who answers, the answerer's port and the identity; ``None`` where it has no ports."""
    entry = decode(body)
    parts = dict(attributes(memoryview(body)[4:]))
    original, reply = (dict(attributes(parts.get(kind, b""))) for kind in (_TUPLE_ORIGINAL, _TUPLE_REPLY))
    ports = dict(attributes(reply.get(_TUPLE_PROTOCOL, b"")))
    if entry is None or _SOURCE_PORT not in ports:
        return None
    begun = _address(original.get(_TUPLE_IP, b""), _SOURCES)
    return entry.key.protocol, begun, entry.answerer, int.from_bytes(ports[_SOURCE_PORT], "big"), entry.identity


def decode(body: Payload) -> Entry | None:
    """Return what matters of an entry in a dump; ``None`` where it has no ports or is of another protocol."""
    parts = dict(attributes(memoryview(body)[4:]))
    original, reply = parts.get(_TUPLE_ORIGINAL), parts.get(_TUPLE_REPLY)
    if original is None or reply is None:
        return None
    halves = dict(attributes(original))
    ports = dict(attributes(halves.get(_TUPLE_PROTOCOL, b"")))
    number = bytes(ports.get(_PROTOCOL_NUMBER, b""))
    protocol = next((one for one, value in _NUMBERS.items() if number == bytes([value])), None)
    if protocol is None or _DESTINATION_PORT not in ports:
        return None
    answerer = _address(dict(attributes(reply)).get(_TUPLE_IP, b""), _SOURCES)
    address = _address(halves.get(_TUPLE_IP, b""), _DESTINATIONS)
    family = Family.IPV6 if ":" in address else Family.IPV4
    key = FlowsKey(family, protocol, address, int.from_bytes(ports[_DESTINATION_PORT], "big"))
    # The id keeps a younger entry alive that has the same tuple.
    named = (
        nested(_TUPLE_ORIGINAL, bytes(original)),
        *(attribute(k, bytes(parts[k])) for k in (_ID, _ZONE) if k in parts),
    )
    return Entry(key, answerer, b"".join(named))


def _address(view: Payload, kinds: Collection[int]) -> str:
    return next((address_text(bytes(value)) for kind, value in attributes(view) if kind in kinds), "")


def _answering(op: Op) -> tuple[str, ...]:
    return op.value.answering if isinstance(op.value, Flows) else ()


def everything(family: Family) -> bytes:
    """Return a request's head: all entries of a family."""
    return struct.pack(">BBH", _SOCKET_FAMILIES[family], 0, 0)


def _narrow(key: FlowsKey) -> bytes:
    """Return a request for the entries of a key; without an address, for those of its protocol."""
    protocol = attribute(_PROTOCOL_NUMBER, bytes([_NUMBERS[key.protocol]]))
    if not key.address:
        flags = _BY_PROTOCOL
        halves = [nested(_TUPLE_PROTOCOL, protocol)]
    else:
        flags = _BY_PROTOCOL | _BY_PORT
        halves = [nested(_TUPLE_PROTOCOL, protocol, attribute(_DESTINATION_PORT, key.port.to_bytes(2, "big")))]
        if key.family is Family.IPV4:
            # Not for IPv6: Linux 6.1 leaves out the equal addresses instead of the others (*measured*).
            flags |= _BY_DESTINATION
            halves.append(nested(_TUPLE_IP, attribute(_IPV4_DESTINATION, inet_pton(AF_INET, key.address))))
    kept = nested(_FILTER, attribute(_FILTER_ORIGINAL, struct.pack("=I", flags)))
    return everything(key.family) + nested(_TUPLE_ORIGINAL, *halves) + kept


def _parts(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    waiting = iter(entries)
    while part := list(islice(waiting, SEND)):
        yield part
