"""IPVS virtual and real servers, by our own netlink messages, a hundred in one send.

What the kernel's own tool shows of one virtual server with two real servers, one of them draining::

    $ ipvsadm -Sn
    -A -t 10.96.0.10:80 -s rr
    -a -t 10.96.0.10:80 -r 10.1.2.3:8080 -m -w 1
    -a -t 10.96.0.10:80 -r 10.1.2.4:8080 -m -w 0

Promises: a virtual server that is not ours is never listed, so never changed or deleted; deleting a virtual server takes its
real servers along, so deleting those afterwards is success. Does not: load modules (MissingCapability names the one), set
sysctls.

Kernel: net/netfilter/ipvs/ip_vs_ctl.c: ip_vs_genl_set_cmd. Duplicates are EEXIST; a missing service is ESRCH, a missing
destination and an unknown scheduler are both ENOENT.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from kuberouterpy.dataplane import (
    Key,
    Object,
    ObjectKind,
    Op,
    RealServer,
    RealServerKey,
    Verb,
    VirtualServer,
    VirtualServerKey,
)
from kuberouterpy.drivers import ipvs_wire as wire
from kuberouterpy.drivers.batches import sends
from kuberouterpy.drivers.ipvs_wire import Statistics, Timeouts
from kuberouterpy.drivers.netlink import (
    GENERIC,
    Message,
    Netlink,
    Refusal,
    failure,
    unanswered,
)
from kuberouterpy.errors import DriverError, MissingCapability, MissingModule
from kuberouterpy.family import Family
from kuberouterpy.protocol import Protocol

Outcome = tuple[Op, DriverError | None]

_SERVER_COMMANDS: Final = {Verb.CREATE: wire.NEW_SERVICE, Verb.UPDATE: wire.SET_SERVICE}
_REAL_COMMANDS: Final = {Verb.CREATE: wire.NEW_DESTINATION, Verb.UPDATE: wire.SET_DESTINATION}
_OTHER: Final = {Verb.CREATE: Verb.UPDATE, Verb.UPDATE: Verb.CREATE}


class IpvsDriver:
    """Programs the IPVS table of the network namespace in which it is first used."""

    name = "ipvs"
    kinds: tuple[ObjectKind, ...] = (VirtualServer, RealServer)

    def __init__(self, ours: Callable[[VirtualServerKey], bool]) -> None:
        """``ours`` says whether a listed virtual server may be ours: by address, node port or firewall mark."""
        self._ours = ours
        self._made: set[VirtualServerKey] = set()
        self._timeouts = Timeouts(0, 0, 0)
        self.foreign: Mapping[str, int] = {}
        """Virtual servers of others, each once, as last listed."""
        self._netlink = Netlink(GENERIC)
        self._family = 0

    def check(self) -> None:
        """Guarantee that the kernel has IPVS and that we may change it.

        Errors: MissingCapability names what is missing.
        """
        self._id()
        try:
            # Deleting what cannot be there: refused with ESRCH to who may, EPERM to who may not.
            absent = Op(Verb.DELETE, _NOBODY, None)
            answer = self._netlink.transact([self._message(absent)])
        except OSError as error:
            raise unanswered("ask for the IPVS table", error) from error
        if answer and answer[0].errno == errno.EPERM:
            raise failure("change the IPVS table", answer[0])

    def list(self) -> Mapping[Key, Object]:
        """Return our virtual servers and their real servers; timeouts that were set and are lost are set again."""
        if any(self._timeouts) and any(
            set_s and set_s != s for set_s, s in zip(self._timeouts, self.timeouts(), strict=True)
        ):
            self._send_timeouts()
        found: dict[Key, Object] = {}
        every = list(self._servers())
        servers = [server for server in every if self._is_ours(server.key)]
        self.foreign = {str(server.key): 1 for server in every if not self._is_ours(server.key)}
        for server in servers:
            found[server.key] = server
        for server in servers:
            for body in self._dump(wire.server_key_message(wire.GET_DESTINATION, server.key)):
                real = wire.decode_real(body, server.key)
                found[real.key] = real
        return found

    def apply(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        """Carry out ``ops`` in order, a hundred in one send."""
        for part in sends(ops):
            yield from self._apply(part)

    def statistics(self) -> Mapping[Key, Statistics]:
        """Return the counters of our virtual servers and their real servers."""
        found: dict[Key, Statistics] = {}
        for body in self._dump(wire.get(wire.GET_SERVICE)):
            decoded = wire.decode_server_statistics(body)
            if decoded is None or not self._is_ours(decoded[0]):
                continue
            found[decoded[0]] = decoded[1]
        for key in [key for key in found if isinstance(key, VirtualServerKey)]:
            for body in self._dump(wire.server_key_message(wire.GET_DESTINATION, key)):
                real, counters = wire.decode_real_statistics(body, key)
                found[real] = counters
        return found

    def timeouts(self) -> Timeouts:
        """Return the connection timeouts in force."""
        answer = self._request(wire.get(wire.GET_CONFIG), "read the IPVS timeouts")
        return wire.decode_timeouts(answer)

    def set_timeouts(self, *, tcp_s: int, fin_s: int, udp_s: int) -> None:
        """Set the connection timeouts, and again where a listing finds others; 0 keeps the kernel's.

        Errors: DriverError with the kernel's answer.
        """
        self._timeouts = Timeouts(tcp_s, fin_s, udp_s)
        self._send_timeouts()

    def _send_timeouts(self) -> None:
        message = Message(self._id(), 0, wire.timeouts_message(self._timeouts))
        attempted = "set the IPVS timeouts to {} {} {} s".format(*self._timeouts)
        try:
            refused = self._netlink.transact([message])
        except OSError as error:
            raise unanswered(attempted, error) from error
        if refused:
            raise failure(attempted, refused[0])

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    def _apply(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        try:
            refused = self._transact(ops)
            refused = self._second_attempt(ops, refused)
        except OSError as error:
            # Replies were lost: every operation of this send counts as failed, and the loop lists again.
            yield from ((op, unanswered(_attempted(op), error)) for op in ops)
            return
        except DriverError as error:
            yield from ((op, error) for op in ops)
            return
        for position, op in enumerate(ops):
            refusal = refused.get(position)
            if refusal is not None:
                yield op, _error(op, refusal)
                continue
            if isinstance(op.key, VirtualServerKey):
                (self._made.discard if op.verb is Verb.DELETE else self._made.add)(op.key)
            yield op, None

    def _second_attempt(self, ops: Sequence[Op], refused: dict[int, Refusal]) -> dict[int, Refusal]:
        """Return what is still refused after setting what existed and making what was missing."""
        again: dict[int, Op] = {}
        remade: set[VirtualServerKey] = set()
        for position, refusal in refused.items():
            op = ops[position]
            if _other_verb_helps(op, refusal):
                again[position] = op._replace(verb=_OTHER[op.verb])
            elif isinstance(op.key, RealServerKey) and op.verb is not Verb.DELETE and op.key.server in remade:
                again[position] = op._replace(verb=Verb.CREATE)
            if position in again and isinstance(op.key, VirtualServerKey):
                remade.add(op.key)
        left = {
            position: refusal
            for position, refusal in refused.items()
            if position not in again and not _already_gone(ops[position], refusal)
        }
        if again:
            positions = [*again]
            for index, refusal in self._transact([*again.values()]).items():
                left[positions[index]] = refusal
        return left

    def _transact(self, ops: Sequence[Op]) -> dict[int, Refusal]:
        return self._netlink.transact([self._message(op) for op in ops])

    def _message(self, op: Op) -> Message:
        return Message(self._id(), 0, _body(op))

    def _servers(self) -> Iterator[VirtualServer]:
        for body in self._dump(wire.get(wire.GET_SERVICE)):
            server = wire.decode_server(body)
            if server is not None:
                yield server

    def _is_ours(self, key: VirtualServerKey) -> bool:
        return key in self._made or self._ours(key)

    def _dump(self, body: bytes) -> Iterator[memoryview]:
        try:
            return self._netlink.dump(Message(self._id(), 0, body))
        except OSError as error:
            raise unanswered("list the IPVS table", error) from error

    def _request(self, body: bytes, attempted: str) -> memoryview:
        try:
            return self._netlink.request(Message(self._id(), 0, body))
        except OSError as error:
            raise unanswered(attempted, error) from error

    def _id(self) -> int:
        """Return the id of the IPVS family, asked for once."""
        if not self._family:
            try:
                self._family = self._netlink.family(wire.FAMILY_NAME)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    raise MissingCapability("the kernel has no IPVS: modprobe ip_vs", errno.ENOENT) from error
                raise unanswered("ask for the IPVS netlink family", error) from error
        return self._family


_NOBODY: Final = VirtualServerKey(Family.IPV4, Protocol.TCP, "0.0.0.0", 1)  # noqa: S104  # no address: nobody can own it


def _body(op: Op) -> bytes:
    match op:
        case Op(verb=Verb.DELETE, key=VirtualServerKey() as key):
            return wire.server_key_message(wire.DELETE_SERVICE, key)
        case Op(verb=Verb.DELETE, key=RealServerKey() as key):
            return wire.real_key_message(wire.DELETE_DESTINATION, key)
        case Op(verb=verb, value=VirtualServer() as server):
            return wire.server_message(_SERVER_COMMANDS[verb], server)
        case Op(verb=verb, value=RealServer() as real):
            return wire.real_message(_REAL_COMMANDS[verb], real)
    raise AssertionError(f"not an operation on IPVS: {op}")


def _other_verb_helps(op: Op, refusal: Refusal) -> bool:
    if op.verb is Verb.CREATE:
        return refusal.errno == errno.EEXIST
    missing = errno.ESRCH if isinstance(op.key, VirtualServerKey) else errno.ENOENT
    return op.verb is Verb.UPDATE and refusal.errno == missing


def _already_gone(op: Op, refusal: Refusal) -> bool:
    # ESRCH: no such service, so no such destination either. ENOENT: no such destination.
    return op.verb is Verb.DELETE and refusal.errno in {errno.ESRCH, errno.ENOENT}


def _attempted(op: Op) -> str:
    noun = "virtual server" if isinstance(op.key, VirtualServerKey) else "real server"
    return f"{op.verb} {noun} {op.key}"


def _error(op: Op, refusal: Refusal) -> DriverError:
    if isinstance(op.value, VirtualServer) and refusal.errno == errno.ENOENT:
        scheduler = op.value.scheduler
        module = f"ip_vs_{scheduler}"
        return MissingModule(f"{_attempted(op)}: no scheduler {scheduler}: modprobe {module}", refusal.errno, module)
    if isinstance(op.key, RealServerKey) and refusal.errno == errno.ESRCH:
        return DriverError(f"{_attempted(op)}: no such virtual server", refusal.errno)
    return failure(_attempted(op), refusal)
