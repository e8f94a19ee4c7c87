"""UDP ports at which the kernel takes GUE apart: without one, what ``fou`` tunnels send here meets no receiver.

What the kernel's own tool shows of a port of each family::

    $ ip fou show
    port 5555 gue
    port 5555 gue -6

Ours are ports that a tunnel of ours sends to (all nodes use one port), and what was expected or made here. So an agent that was
restarted with another port still knows the old one by the tunnels that stand, and closes it when they are gone.

Kernel: net/ipv4/fou.c: fou_nl_cmd_add_port; include/uapi/linux/fou.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from kuberouterpy.dataplane import FouPort, FouPortKey, Key, Object, ObjectKind, Op, Verb
from kuberouterpy.drivers import command
from kuberouterpy.drivers import rtnl_wire as wire
from kuberouterpy.drivers.links import TUNNEL_PREFIX
from kuberouterpy.drivers.netlink import GENERIC, ROUTE, Message, Netlink, attribute, attributes, failure, unanswered
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES, Family

_ADD, _DELETE, _GET = 1, 2, 3
_PORT, _FAMILY, _TYPE = 1, 2, 4
_GUE: Final = 2
"""FOU_ENCAP_GUE."""
_MODULES: Final = ("fou", "fou6")
_GONE: Final = frozenset({errno.EINVAL, errno.ENOENT})
"""Answers to the deletion of a port that is not there; the kernel says EINVAL."""


class FouDriver:
    """Opens and closes ports in the network namespace in which it is first used."""

    name = "fou"
    kinds: tuple[ObjectKind, ...] = (FouPort,)

    def __init__(self) -> None:
        self._netlink = Netlink(GENERIC)
        self._links = Netlink(ROUTE)
        self._known: set[Key] = set()

    def expect(self, wanted: Iterable[Object]) -> None:
        """Tell what will be wanted, so that a listing recognises it."""
        self._known |= {value.key for value in wanted if isinstance(value, FouPort)}

    def list(self) -> Mapping[Key, Object]:
        """Return our ports; a kernel without the module has none."""
        try:
            ports = {*self._ports()}
            ours = self._known | {*self._used()} if ports else set()
        except OSError as error:
            raise unanswered("list FoU ports", error) from error
        return {key: FouPort(key) for key in sorted(ports) if key in ours}

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Carry out ``ops`` one by one; there is one port a family."""
        for op in ops:
            try:
                yield op, self._apply(op)
            except OSError as error:
                yield op, _lacking(op) if error.errno == errno.ENOENT else unanswered(_attempted(op), error)

    def close(self) -> None:
        """Close the netlink sockets."""
        self._netlink.close()
        self._links.close()

    def _apply(self, op: Op) -> DriverError | None:
        assert isinstance(op.key, FouPortKey)
        if op.verb is Verb.DELETE:
            self._known.discard(op.key)
            if op.key not in {*self._ports()}:
                return None
        else:
            self._known.add(op.key)
            if op.key in {*self._ports(load=True)}:
                return None
        kind = _DELETE if op.verb is Verb.DELETE else _ADD
        refused = self._netlink.transact([Message(self._netlink.family("fou"), 0, _body(kind, op.key))]).get(0)
        if refused is None or (op.verb is Verb.DELETE and refused.errno in _GONE):
            return None
        return failure(_attempted(op), refused)

    def _ports(self, *, load: bool = False) -> Iterator[FouPortKey]:
        try:
            family = self._netlink.family("fou")
        except OSError as error:
            if error.errno != errno.ENOENT or not load:
                return
            with suppress(DriverError):
                command.run(("modprobe", "-aq", *_MODULES))
            family = self._netlink.family("fou")
        for body in self._netlink.dump(Message(family, 0, struct.pack("=BBH", _GET, 1, 0))):
            fields = dict(attributes(body[4:]))
            af = wire.FAMILY_OF.get(bytes(fields.get(_FAMILY, b"\0"))[0])
            if af is not None and bytes(fields.get(_TYPE, b"\0"))[0] == _GUE and _PORT in fields:
                yield FouPortKey(af, int.from_bytes(fields[_PORT], "big"))

    def _used(self) -> Iterator[FouPortKey]:
        """Yield the ports our tunnels send to."""
        for body in self._links.dump(Message(wire.GET_LINK, 0, wire.get_links())):
            link = wire.decode_link(body)
            if link.name.startswith(TUNNEL_PREFIX) and link.port and link.kind != wire.VXLAN:
                yield from (FouPortKey(family, link.port) for family in FAMILIES)


def _body(kind: int, key: FouPortKey) -> bytes:
    head = struct.pack("=BBH", kind, 1, 0)
    parts = (attribute(_PORT, key.port.to_bytes(2, "big")), attribute(_FAMILY, bytes((_af(key.family),))))
    return head + b"".join(parts) + (attribute(_TYPE, bytes((_GUE,))) if kind == _ADD else b"")


def _af(family: Family) -> int:
    return int(wire.AF_OF[family])


def _attempted(op: Op) -> str:
    assert isinstance(op.key, FouPortKey)
    return f"{op.verb} FoU port {op.key.port} of IPv{op.key.family:d}"


def _lacking(op: Op) -> DriverError:
    mend = "load it, or choose --overlay-encap ipip or vxlan"
    return DriverError(f"{_attempted(op)}: the kernel has no module fou; {mend}", errno.ENOENT)
