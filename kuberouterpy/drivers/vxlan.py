"""Far ends of our vxlan links: which node has which hardware address, told and never learned.

What the kernel's own tools show of one node of each family::

    $ bridge fdb show dev tun-4b1c0d9e2f7
    02:5a:77:1e:09:c3 dst 10.9.0.3 self permanent
    $ ip neighbor show dev tun-4b1c0d9e2f7 nud permanent
    10.9.0.3 lladdr 02:5a:77:1e:09:c3 PERMANENT

The forwarding entry says where packets for the hardware address go, the neighbor entry which hardware address a route's gateway
has. Ours are permanent entries of ``tun-*`` links of kind vxlan.

Kernel: drivers/net/vxlan/vxlan_core.c: vxlan_fdb_add; net/core/neighbour.c: neigh_add.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from kuberouterpy.dataplane import FarEnd, FarEndKey, Key, Object, ObjectKind, Op
from kuberouterpy.drivers import rtnl_wire as wire
from kuberouterpy.drivers.links import TUNNEL_PREFIX
from kuberouterpy.drivers.netlink import CREATE, REPLACE, ROUTE, Message, Netlink, Refusal, failure, unanswered
from kuberouterpy.drivers.rtnl_wire import NeighborSeen
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES

Outcome = tuple[Op, DriverError | None]

_GONE: Final = frozenset({errno.ENOENT, errno.ENODEV})


class VxlanDriver:
    """Programs forwarding and neighbor entries in the network namespace in which it is first used."""

    name = "vxlan"
    kinds: tuple[ObjectKind, ...] = (FarEnd,)

    def __init__(self) -> None:
        self._netlink = Netlink(ROUTE)

    def list(self) -> Mapping[Key, Object]:
        """Return the far ends of our links; one whose neighbor entry is missing has no gateway."""
        try:
            return {**self._seen(self._links())}
        except OSError as error:
            raise unanswered("list far ends of vxlan links", error) from error

    def apply(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        """Carry out ``ops`` in order; a far end is two messages, and what it was before goes first."""
        try:
            links = self._links()
            seen = self._seen(links)
        except OSError as error:
            yield from ((op, unanswered(_attempted(op), error)) for op in ops)
            return
        for op in ops:
            assert isinstance(op.key, FarEndKey)
            index = links.get(op.key.link, 0)
            try:
                yield op, self._set(op, index, seen)
            except OSError as error:
                yield op, unanswered(_attempted(op), error)

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    def _set(self, op: Op, index: int, seen: dict[Key, FarEnd]) -> DriverError | None:
        """Carry out one operation and note it in ``seen``."""
        assert isinstance(op.key, FarEndKey)
        if not index:
            return DriverError(f"{_attempted(op)}: no link {op.key.link}", errno.ENODEV) if op.value else None
        before, value = seen.get(op.key), op.value
        if before == value:
            return None
        messages = []
        if before is not None and (value is None or _differ(before, value)):
            messages += _messages(wire.DELETE_NEIGHBOR, 0, index, before)
        removals = len(messages)
        if isinstance(value, FarEnd):
            messages += _messages(wire.NEW_NEIGHBOR, CREATE | REPLACE, index, value)
        refused = self._netlink.transact(messages)
        trouble = [one for place, one in refused.items() if place >= removals or one.errno not in _GONE]
        if isinstance(value, FarEnd):
            seen[op.key] = value
        else:
            seen.pop(op.key, None)
        return _error(op, trouble)

    def _links(self) -> dict[str, int]:
        """Return the index of each vxlan link of ours."""
        seen = map(wire.decode_link, self._netlink.dump(Message(wire.GET_LINK, 0, wire.get_links())))
        return {
            link.name: link.ifindex for link in seen if link.kind == wire.VXLAN and link.name.startswith(TUNNEL_PREFIX)
        }

    def _seen(self, links: Mapping[str, int]) -> dict[Key, FarEnd]:
        if not links:
            return {}
        names = {index: name for name, index in links.items()}
        entries = [one for one in self._entries() if one.ifindex in names]
        gateways = {(one.ifindex, one.hardware): one.address for one in entries if not one.forwarding}
        found: dict[Key, FarEnd] = {}
        for one in entries:
            if one.forwarding:
                key = FarEndKey(names[one.ifindex], one.address)
                found[key] = FarEnd(key, one.hardware, gateways.get((one.ifindex, one.hardware), ""))
        return found

    def _entries(self) -> Iterator[NeighborSeen]:
        for family in (None, *FAMILIES):
            for body in self._netlink.dump(Message(wire.GET_NEIGHBOR, 0, wire.get_neighbors(family))):
                seen = wire.decode_neighbor(body)
                if seen is not None:
                    yield seen


def _messages(kind: int, flags: int, index: int, value: FarEnd) -> list[Message]:
    entries = [(value.key.address, True), *([(value.gateway, False)] if value.gateway else [])]
    return [
        Message(kind, flags, wire.neighbor(index, address, value.hardware, forwarding=forwarding))
        for address, forwarding in entries
    ]


def _differ(before: FarEnd, value: Object) -> bool:
    """Return whether the old entries would stand beside the new ones."""
    return isinstance(value, FarEnd) and (before.hardware, before.gateway or value.gateway) != (
        value.hardware,
        value.gateway,
    )


def _error(op: Op, trouble: Sequence[Refusal]) -> DriverError | None:
    return failure(_attempted(op), trouble[0]) if trouble else None


def _attempted(op: Op) -> str:
    assert isinstance(op.key, FarEndKey)
    return f"{op.verb} far end {op.key.address} of {op.key.link}"
