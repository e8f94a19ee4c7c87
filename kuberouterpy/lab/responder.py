"""The server that a lab container without a command gets: it answers who it is and whom it sees.

TCP speaks HTTP/1.1 (``/hostname``, ``/clientip``, ``/healthz``, ``/echo?msg=``; anything else answers the name); a client
that does not speak HTTP gets, for each line it sends, ``NAME CLIENT-ADDRESS:PORT``. UDP and SCTP answer that to every
datagram and message. Both families are served by one dual-stack socket, and a datagram is answered from the address it was
sent to: a pod on the host network has many.

One thread and one epoll serve every pod of a node: a process for each pod would cost a quarter of a second and 10 MB under
User-Mode Linux. Sockets stay in the network namespace they were opened in, whatever thread serves them.

``python -m kuberouterpy.lab.responder NAME tcp/80 udp/53 sctp/9 ...`` runs one in the foreground.
"""

from __future__ import annotations

import errno
import logging
import queue
import selectors
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qs

import msgspec

from kuberouterpy.log import event

_SCTP: Final = 132
_TYPES: Final = {
    "TCP": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "UDP": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "SCTP": (socket.SOCK_STREAM, _SCTP),
}
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50
_IP_PKTINFO: Final = 8
_BACKLOG: Final = 512
_BURST: Final = 64
_REQUEST_MAX_BYTES: Final = 65536
_PENDING_MAX_BYTES: Final = 1 << 20

log = logging.getLogger(__name__)


class Port(msgspec.Struct, frozen=True):
    """One port to serve."""

    protocol: str
    """TCP, UDP or SCTP."""
    number: int
    """Port number."""


def open_sockets(ports: Iterable[Port]) -> list[tuple[Port, socket.socket]]:
    """Return listening sockets, opened in the calling thread's network namespace; all or none.

    Errors: OSError names the port: in use, or a protocol that this kernel does not know.
    """
    opened: list[tuple[Port, socket.socket]] = []
    try:
        for port in ports:
            opened.append((port, _open(port)))
    except OSError as error:
        for _port, sock in opened:
            sock.close()
        raise OSError(error.errno, f"listen on {port.protocol.lower()}/{port.number}: {error.strerror}") from error
    return opened


class Responder:
    """Serves any number of pods from one thread. ``add`` and ``remove`` may be called from any other."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._serving: dict[str, set[_Served]] = {}
        self._running = True
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="responder", daemon=True)
        self._thread.start()

    def add(self, key: str, name: str, sockets: Iterable[tuple[Port, socket.socket]]) -> None:
        """Serve these sockets as ``name`` until ``remove(key)``."""
        self._order(lambda: self._add(key, name, list(sockets)))

    def remove(self, key: str) -> None:
        """Close the listening sockets and connections of ``key``, and return when they are closed."""
        done = threading.Event()

        def order() -> None:
            self._remove(key)
            done.set()

        self._order(order)
        done.wait(timeout=5)

    def close(self) -> None:
        """Close everything and end the thread."""
        self._order(self._end)
        self._thread.join(timeout=5)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        with suppress(OSError):
            self._wake.send(b"!")

    def _run(self) -> None:
        while self._running:
            for key, events in self._selector.select():
                served: _Served | None = key.data
                if served is None:
                    self._obey()
                elif not served.closed:  # an earlier event of this round may have closed it
                    self._serve(served, events)
        self._wake.close()
        self._woken.close()
        self._selector.close()

    def _obey(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        with suppress(queue.Empty):
            while True:
                self._orders.get_nowait()()

    def _serve(self, served: _Served, events: int) -> None:
        try:
            served.handle(events)
        except OSError as error:
            event(log, logging.DEBUG, "responder-closed", key=served.key, error=str(error))
            self._drop(served)

    def _add(self, key: str, name: str, sockets: list[tuple[Port, socket.socket]]) -> None:
        for port, sock in sockets:
            served = (
                _Datagrams(self, key, name, sock) if port.protocol == "UDP" else _Listener(self, key, name, sock, port)
            )
            self.register(served)

    def register(self, served: _Served) -> None:
        """Take a socket into the loop; only from the loop's own thread."""
        self._serving.setdefault(served.key, set()).add(served)
        self._selector.register(served.sock, selectors.EVENT_READ, served)

    def want_write(self, served: _Served, *, wanted: bool) -> None:
        """Ask to be told when the socket takes more; only from the loop's own thread."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        self._selector.modify(served.sock, events, served)

    def _drop(self, served: _Served) -> None:
        if served.closed:
            return
        served.closed = True
        self._serving.get(served.key, set()).discard(served)
        self._selector.unregister(served.sock)
        served.sock.close()

    def _remove(self, key: str) -> None:
        for served in list(self._serving.pop(key, ())):
            self._drop(served)

    def _end(self) -> None:
        for key in list(self._serving):
            self._remove(key)
        self._running = False


class _Served:
    """One socket in the loop."""

    def __init__(self, responder: Responder, key: str, name: str, sock: socket.socket) -> None:
        self.responder = responder
        self.key = key
        self.name = name
        self.sock = sock
        self.closed = False

    def handle(self, events: int) -> None:
        """Do what the socket is ready for. Errors: OSError closes it."""
        raise NotImplementedError


class _Listener(_Served):
    """Accepts connections."""

    def __init__(self, responder: Responder, key: str, name: str, sock: socket.socket, port: Port) -> None:
        super().__init__(responder, key, name, sock)
        self._http = port.protocol == "TCP"

    def handle(self, events: int) -> None:
        for _ in range(_BURST):
            try:
                accepted, peer = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # The client was gone again, or this process has no descriptor left: the listener itself is sound.
                event(log, logging.DEBUG, "accept-failed", key=self.key, error=str(error))
                return
            accepted.setblocking(False)
            self.responder.register(_Connection(self, accepted, peer, http=self._http))


class _Connection(_Served):
    """Answers one stream."""

    def __init__(self, listener: _Served, sock: socket.socket, peer: tuple[str, int], *, http: bool) -> None:
        super().__init__(listener.responder, listener.key, listener.name, sock)
        self._address = _plain(peer[0])
        self._line = f"{self.name} {_joined(self._address, peer[1])}\n".encode()
        self._http = http
        self._in = b""
        self._out = b""
        self._ending = False
        self._waiting = False

    def handle(self, events: int) -> None:
        if events & selectors.EVENT_READ and not self._ending:
            self._read()
        self._flush()

    def _read(self) -> None:
        try:
            data = self.sock.recv(_REQUEST_MAX_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._ending = True  # what is pending still goes out: the client may only have closed its side
            self._out += self._line if self._in and take_request(self._in + b"\n") else b""
        elif not self._http:
            self._out += self._line
        else:
            self._in += data
            self._answer_all()
        if len(self._in) > _REQUEST_MAX_BYTES or len(self._out) > _PENDING_MAX_BYTES:
            raise OSError(errno.EMSGSIZE, "client sends without end")

    def _answer_all(self) -> None:
        while not self._ending:
            request = take_request(self._in)
            if request is None:
                return
            self._in = self._in[request.length :]
            if request.target is None:
                self._out += self._line
                continue
            self._out += respond(request, self.name, self._address)
            self._ending = not request.keep

    def _flush(self) -> None:
        if self._out:
            try:
                sent = self.sock.send(self._out)
            except BlockingIOError:
                sent = 0
            self._out = self._out[sent:]
        if self._ending and not self._out:
            raise ConnectionResetError(errno.ECONNRESET, "end of stream")
        if self._waiting != bool(self._out):
            self._waiting = bool(self._out)
            self.responder.want_write(self, wanted=self._waiting)


class _Datagrams(_Served):
    """Answers each datagram, from the address it was sent to."""

    def handle(self, events: int) -> None:
        for _ in range(_BURST):
            try:
                _data, ancillary, _flags, peer = self.sock.recvmsg(65535, 256)
            except BlockingIOError:
                return
            except OSError as error:
                # An ICMP error that an earlier answer met is told here; the socket goes on.
                event(log, logging.DEBUG, "receive-failed", key=self.key, error=str(error))
                return
            answer = f"{self.name} {_joined(_plain(peer[0]), peer[1])}\n".encode()
            with suppress(OSError):  # a datagram may be lost
                self.sock.sendmsg([answer], _source(ancillary), 0, peer)


class Request(msgspec.Struct, frozen=True):
    """One request, or one line of a client that speaks no HTTP."""

    length: int
    """Bytes it takes."""
    method: str = ""
    """GET, HEAD, ..."""
    target: str | None = None
    """Path and query; None for a plain line."""
    keep: bool = False
    """Whether the connection stays open after the answer."""


def take_request(data: bytes) -> Request | None:
    """Return the first whole request in ``data``, body included; None where more has to come.

    A first line that is no HTTP request line is a request of its own.
    """
    end = data.find(b"\n")
    if end < 0:
        return None
    words = data[:end].decode("latin-1").split()
    if len(words) == 2 and words[0] == "GET":  # HTTP/0.9
        return Request(end + 1, "GET", words[1])
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        return Request(end + 1)
    head_end, blank = data.find(b"\r\n\r\n"), 4
    if head_end < 0:
        head_end, blank = data.find(b"\n\n"), 2
    if head_end < 0:
        return None
    headers = _headers(data[end + 1 : head_end])
    length = head_end + blank + _body_length(headers)
    if len(data) < length:
        return None
    asked = headers.get("connection", "").lower()
    keep = asked == "keep-alive" if words[2] == "HTTP/1.0" else asked != "close"
    return Request(length, words[0], words[1], keep)


def respond(request: Request, name: str, client: str) -> bytes:
    """Return the whole HTTP answer to a request."""
    path, _mark, query = (request.target or "/").partition("?")
    match path:
        case "/hostname":
            body = name
        case "/clientip":
            body = client
        case "/healthz":
            body = "ok"
        case "/echo":
            body = parse_qs(query, keep_blank_values=True).get("msg", [""])[0]
        case _:
            body = name
    payload = f"{body}\n".encode()
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: {'keep-alive' if request.keep else 'close'}\r\n\r\n"
    )
    return head.encode() + (b"" if request.method == "HEAD" else payload)


def _headers(data: bytes) -> dict[str, str]:
    lines = data.decode("latin-1").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _colon, value in pairs}


def _body_length(headers: dict[str, str]) -> int:
    text = headers.get("content-length", "0")
    return min(int(text), _REQUEST_MAX_BYTES) if text.isdecimal() else 0


def _open(port: Port) -> socket.socket:
    kind, protocol = _TYPES[port.protocol]
    try:
        sock = socket.socket(socket.AF_INET6, kind, protocol)
        wildcard = "::"
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        sock = socket.socket(socket.AF_INET, kind, protocol)
        wildcard = "0.0.0.0"
    try:
        if wildcard == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        if port.protocol == "UDP":
            _ask_destination(sock, wildcard)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((wildcard, port.number))
        if port.protocol != "UDP":
            sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _ask_destination(sock: socket.socket, wildcard: str) -> None:
    if wildcard == "::":
        # Also for IPv4 datagrams: their destination comes as a mapped address, and is taken back as one.
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _source(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data that makes an answer leave from the address the question came to."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            address, _index = struct.unpack("16si", data[:20])
            return [(level, kind, struct.pack("16si", address, 0))]
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _index, _local, address = struct.unpack("i4s4s", data[:12])
            return [(level, kind, struct.pack("i4s4s", 0, address, b""))]
    return []


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:").partition("%")[0]


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def main(arguments: list[str]) -> int:
    """Serve in the foreground until killed."""
    if len(arguments) < 2:
        sys.stderr.write("usage: python -m kuberouterpy.lab.responder NAME PROTOCOL/PORT...\n")
        return 2
    ports = [
        Port(protocol.upper(), int(number)) for protocol, _, number in (one.partition("/") for one in arguments[1:])
    ]
    try:
        sockets = open_sockets(ports)
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return 1
    Responder().add("main", arguments[0], sockets)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
