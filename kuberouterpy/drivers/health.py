"""Health-check node ports: small HTTP servers that tell a load balancer whether this node has endpoints of a Service.

What one says (services.md 1H; the form is kube-proxy's, pkg/proxy/healthcheck)::

    $ curl -i http://10.0.0.1:31000/any/path
    HTTP/1.1 200 OK
    Content-Type: application/json
    X-Content-Type-Options: nosniff
    X-Load-Balancing-Endpoint-Weight: 2

    {"service":{"namespace":"default","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}

503 where there is no endpoint or the proxy itself is not healthy. One socket a port for both families, one thread for all.
The thread starts with the first port; a node without such Services pays nothing.

Promises: a port is open or closed when its operation has succeeded. Does not: outlive the process, so a restart lists nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from kuberouterpy.dataplane import HealthCheck, HealthCheckKey, Key, Object, ObjectKind, Op
from kuberouterpy.errors import DriverError
from kuberouterpy.log import event as log_event

_BACKLOG: Final = 64
_PATIENCE_S: Final = 5.0
"""How long a client may take to ask, and to hang up."""
_LONGEST: Final = 16 * 1024
"""Bytes of the longest request head."""
_CLIENTS: Final = 512
"""More at a time are turned away."""
_STATUS: Final = {True: "200 OK", False: "503 Service Unavailable"}

_log = logging.getLogger("kuberouterpy.drivers.health")


class HealthDriver:
    """Answers on the health-check node ports of the network namespace in which they were opened."""

    name = "health"
    kinds: tuple[ObjectKind, ...] = (HealthCheck,)

    def __init__(self, healthy: Callable[[], bool] = lambda: True) -> None:
        """``healthy`` says whether the proxy itself is well; it is called in the server's thread."""
        self._healthy = healthy
        self._server: _Server | None = None

    def list(self) -> Mapping[Key, Object]:
        """Return what listens."""
        return self._server.checks() if self._server else {}

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Open, change and close ports."""
        for op in ops:
            try:
                self._carry_out(op)
            except OSError as error:
                attempted = f"{op.verb} health-check port {getattr(op.key, 'port', op.key)}"
                yield op, DriverError(f"{attempted}: {os.strerror(error.errno or 0).lower()}", error.errno or 0)
            else:
                yield op, None

    def close(self) -> None:
        """Close every port and end the thread."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _carry_out(self, op: Op) -> None:
        match op:
            case Op(value=HealthCheck() as check):
                if self._server is None:
                    self._server = _Server(self._healthy)
                self._server.put(check)
            case Op(key=HealthCheckKey() as key) if self._server is not None:
                self._server.remove(key)


class _Server:
    """One thread that waits for all ports and all clients at once."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        self._lock = threading.Lock()
        """Held for every change of what is waited for, never while waiting."""
        self._selector = selectors.EpollSelector()  # others may not be changed while somebody waits
        self._listeners: dict[Key, tuple[socket.socket, HealthCheck]] = {}
        self._clients: dict[socket.socket, _Client] = {}
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="health-checks", daemon=True)
        self._thread.start()

    def checks(self) -> dict[Key, Object]:
        with self._lock:
            return {key: check for key, (_, check) in self._listeners.items()}

    def put(self, check: HealthCheck) -> None:
        """Open a port or change what it says. Errors: OSError where it cannot be opened."""
        with self._lock:
            known = self._listeners.get(check.key)
            listener = known[0] if known else _listen(check.key.port)
            if not known:
                self._selector.register(listener, selectors.EVENT_READ, check.key)
            self._listeners[check.key] = (listener, check)

    def remove(self, key: Key) -> None:
        with self._lock:
            known = self._listeners.pop(key, None)
            if known:
                self._selector.unregister(known[0])
                known[0].close()

    def close(self) -> None:
        for key in [*self._listeners]:
            self.remove(key)
        self._ended = True
        self._waker.send(b"x")
        self._thread.join()
        for one in (self._waker, self._woken, *self._clients):
            one.close()
        self._selector.close()

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            ready = self._selector.select(timeout=self._patience())
            with self._lock:
                for selected, _ in ready:
                    self._serve(selected)
                self._drop_late(time.monotonic())

    def _patience(self) -> float | None:
        """Return for how long nothing needs to be done; ``None``: until somebody comes."""
        if not self._clients:
            return None
        # Clients are in order of arrival and all have the same patience: the first is the first to be late.
        return max(0.0, next(iter(self._clients.values())).until - time.monotonic())

    def _serve(self, selected: selectors.SelectorKey) -> None:
        try:
            if isinstance(selected.data, _Client):
                self._hear(selected.data)
            elif isinstance(selected.data, HealthCheckKey):
                self._welcome(selected.data)
        except OSError as error:
            # A client that went away, or a port that was closed since select() returned.
            log_event(_log, logging.DEBUG, "health-check-lost", error=error)
            if isinstance(selected.data, _Client):
                self._drop(selected.data)
            elif error.errno in {errno.EMFILE, errno.ENFILE}:
                self._make_room()

    def _welcome(self, key: HealthCheckKey) -> None:
        known = self._listeners.get(key)
        if known is None:
            return
        connection, _ = known[0].accept()
        if len(self._clients) >= _CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(connection, key, time.monotonic() + _PATIENCE_S)
        self._clients[connection] = client
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _hear(self, client: _Client) -> None:
        try:
            more = client.connection.recv(_LONGEST)
        except BlockingIOError:
            return
        if client.answered:
            # Read until the client hangs up: closing with unread bytes would reset the connection under the answer.
            if not more:
                self._drop(client)
            return
        client.head += more
        ended = b"\r\n\r\n" in client.head or b"\n\n" in client.head
        if not ended and more and len(client.head) < _LONGEST:
            return
        known = self._listeners.get(client.key)
        if not ended or known is None:
            self._drop(client)
            return
        client.connection.send(answer(known[1], healthy=self._healthy(), head=client.head.startswith(b"HEAD ")))
        client.connection.shutdown(socket.SHUT_WR)
        client.answered = True

    def _drop_late(self, now: float) -> None:
        for client in [client for client in self._clients.values() if client.until <= now]:
            self._drop(client)

    def _make_room(self) -> None:
        """Give up the oldest client where this process may open no more files; without one, do not spin."""
        if self._clients:
            self._drop(next(iter(self._clients.values())))
        else:
            time.sleep(0.1)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.connection, None) is not None:
            self._selector.unregister(client.connection)
            client.connection.close()


class _Client:
    """A connection and how far it is."""

    def __init__(self, connection: socket.socket, key: HealthCheckKey, until: float) -> None:
        self.connection = connection
        self.key = key
        self.until = until
        """Monotonic time at which it is dropped."""
        self.head = b""
        self.answered = False


def answer(check: HealthCheck, *, healthy: bool, head: bool = False) -> bytes:
    """Return the whole HTTP answer; without its body where only the head was asked for."""
    service = {"namespace": check.namespace, "name": check.name}
    body = msgspec.json.encode({"service": service, "localEndpoints": check.endpoints, "serviceProxyHealthy": healthy})
    lines = (
        f"HTTP/1.1 {_STATUS[healthy and check.endpoints > 0]}",
        "Content-Type: application/json",
        "X-Content-Type-Options: nosniff",
        f"X-Load-Balancing-Endpoint-Weight: {check.endpoints}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode() + (b"" if head else body)


def _listen(port: int) -> socket.socket:
    """Return a listening socket on all addresses of both families; of IPv4 alone where the kernel has no IPv6."""
    listener: socket.socket | None = None
    with suppress(OSError):
        listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
    if listener is None:
        try:
            # In use or not permitted: IPv4 says the same. No IPv6 here: IPv4 works.
            listener = socket.create_server(("", port), backlog=_BACKLOG)
        except OSError as error:
            # create_server() adds a text of its own to the number.
            raise OSError(error.errno or errno.EIO, "") from error
    listener.setblocking(False)
    return listener
