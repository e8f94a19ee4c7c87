"""Calls to one GoBGP daemon over its unix socket, each with a deadline.

The dialect is found at the first call and forgotten whenever the daemon was away, since another version may come back. A
client is made cheap and connects late: a process may fork before its first call, never after. Its methods may be called from
several threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import grpc

from kuberouterpy.errors import KubeRouterError
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp.dialect import DIALECTS, Dialect

if TYPE_CHECKING:
    from google.protobuf.message import Message

TIMEOUT_S: Final = 2.0
"""Deadline of a call. GoBGP answers in milliseconds; one that does not in two seconds hangs."""

_OPTIONS: Final = (
    # The default waits up to 120 s between attempts to connect: a sidecar that is back must be seen at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Two clients of one process must not share a connection: closing one would break the other's stream.
    ("grpc.use_local_subchannel_pool", 1),
)


class Fault(StrEnum):
    """Why a call failed."""

    ABSENT = "absent"
    """Nobody answers on the socket."""
    HUNG = "hung"
    """No answer in time."""
    UNKNOWN_VERSION = "unknown-version"
    """It serves neither dialect."""
    REFUSED = "refused"
    """It answered that it will not."""


class GobgpError(KubeRouterError):
    """A call to GoBGP failed; the message says which and what the daemon answered."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


Reply = TypeVar("Reply", bound="Message")
Answer = TypeVar("Answer")


class Watch(Protocol):
    """An open stream of events."""

    def __iter__(self) -> Iterator[pb.WatchEventResponse]:
        """Yield events until the stream ends."""
        ...

    def cancel(self) -> bool:
        """End the stream."""
        ...


def originated_here(path: pb.Path) -> bool:
    """Return whether a path of the global table is our own: GoBGP writes no neighbor's address there."""
    try:
        return ip_address(path.neighbor_ip).is_unspecified
    except ValueError:
        return True


class GobgpClient:
    """A connection to the daemon behind ``socket``."""

    def __init__(self, socket: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.socket = socket
        self.timeout_s = timeout_s
        self._channel: grpc.Channel | None = None
        self._dialect: Dialect | None = None

    @property
    def dialect(self) -> Dialect:
        """How the daemon is spoken to; asks it when that is not known.

        Errors: GobgpError, with one line that names socket and reason when it is of another kind altogether.
        """
        if self._dialect is None:
            self._dialect = self._probe()
        return self._dialect

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        channel, self._channel = self._channel, None
        self._dialect = None
        if channel is not None:
            channel.close()

    def call(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        """Return the answer to one request. Errors: GobgpError."""
        dialect = self.dialect
        rpc: Callable[..., Reply] = self._open().unary_unary(dialect.path(method), _serialize, _parser(reply))
        return self._guard(method, lambda: rpc(request, timeout=self.timeout_s))

    def collect(self, method: str, request: Message, reply: type[Reply]) -> list[Reply]:
        """Return all answers of a streamed one; the deadline is for the whole. Errors: GobgpError."""
        dialect = self.dialect
        rpc: Callable[..., Iterable[Reply]]
        rpc = self._open().unary_stream(dialect.path(method), _serialize, _parser(reply))
        # A full table of a million prefixes takes minutes: what arrives steadily is not hung. Five times the deadline
        # lists about 100,000 paths (measured: 10,000 a second).
        return self._guard(method, lambda: list(rpc(request, timeout=5 * self.timeout_s)))

    def send(self, method: str, requests: Iterable[Message], reply: type[Reply]) -> Reply:
        """Return the answer to a stream of requests. Errors: GobgpError."""
        dialect = self.dialect
        rpc: Callable[..., Reply] = self._open().stream_unary(dialect.path(method), _serialize, _parser(reply))
        return self._guard(method, lambda: rpc(iter(requests), timeout=5 * self.timeout_s))

    def watch(self, request: pb.WatchEventRequest) -> Watch:
        """Return an open stream of events, without deadline; iterating it raises grpc.RpcError when it breaks."""
        dialect = self.dialect
        rpc = self._open().unary_stream(dialect.path("WatchEvent"), _serialize, pb.WatchEventResponse.FromString)
        stream: Watch = rpc(request)
        return stream

    def _open(self) -> grpc.Channel:
        if not os.path.exists(self.socket):
            self.close()
            raise GobgpError(f"connect to gobgpd: no socket at {self.socket}", Fault.ABSENT)
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"unix:{self.socket}", options=_OPTIONS)
        return self._channel

    def _probe(self) -> Dialect:
        for dialect in DIALECTS:
            rpc = self._open().unary_unary(dialect.path("GetBgp"), _serialize, pb.GetBgpResponse.FromString)
            try:
                rpc(pb.GetBgpRequest(), timeout=self.timeout_s)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    continue
                if error.code() in _FAULTS:
                    raise self._translate("GetBgp", error) from None
                # It knows the method and only has no speaker yet.
            return dialect
        tried = " nor ".join(dialect.service for dialect in DIALECTS)
        raise GobgpError(
            f"the daemon behind {self.socket} serves neither {tried}; gobgpd 3.10 to 4.x is needed",
            Fault.UNKNOWN_VERSION,
        )

    def _guard(self, method: str, call: Callable[[], Answer]) -> Answer:
        try:
            return call()
        except grpc.RpcError as error:
            raise self._translate(method, error) from None

    def _translate(self, method: str, error: grpc.RpcError) -> GobgpError:
        code = error.code()
        fault = _FAULTS.get(code, Fault.REFUSED)
        if fault is not Fault.REFUSED:
            # Whoever answers next may be another version.
            self._dialect = None
        match fault:
            case Fault.ABSENT:
                return GobgpError(f"{method}: gobgpd does not answer on {self.socket}", fault)
            case Fault.HUNG:
                return GobgpError(f"{method}: no answer from gobgpd within {self.timeout_s:g} s", fault)
            case _:
                return GobgpError(f"{method}: {error.details() or code.name.lower()}", fault)


_FAULTS: Final = {
    grpc.StatusCode.UNAVAILABLE: Fault.ABSENT,
    grpc.StatusCode.CANCELLED: Fault.ABSENT,
    grpc.StatusCode.DEADLINE_EXCEEDED: Fault.HUNG,
    grpc.StatusCode.UNIMPLEMENTED: Fault.UNKNOWN_VERSION,
}


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _parser(reply: type[Reply]) -> Callable[[bytes], Reply]:
    return reply.FromString
