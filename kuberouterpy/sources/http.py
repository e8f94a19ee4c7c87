"""The agent's HTTP face on the health port: liveness, readiness, status. It reads one frozen value and nothing else.

``/livez`` is the loop's heartbeat only. ``/readyz`` is: first pass done, and not failing for several steps. The API server's
absence fails neither, because a node whose API server is away must go on serving. ``/healthz`` is what kube-router's
probes ask.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import msgspec

from kuberouterpy.log import event as log_event
from kuberouterpy.status import Status

_RETRY_S: Final = 10.0
"""Wait before binding again when another process holds the port."""

_log = logging.getLogger("kuberouterpy.sources.http")


class HttpSource:
    """Serves ``status()`` on an address and port until stopped; a port in use is told once and tried again."""

    def __init__(self, address: str, port: int, status: Callable[[], Status]) -> None:
        self._address = address
        self._port = port
        self._status = status
        self._stop = threading.Event()
        self._server: _Server | None = None
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Start serving; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._stop.set()
        if self._server is not None:
            self._server.shutdown()

    def _run(self) -> None:
        told = False
        while not self._stop.is_set():
            try:
                self._server = _Server(self._address, self._port, self._status)
            except OSError as error:
                if not told:
                    log_event(
                        _log, logging.ERROR, "health-port-unavailable", key=self._port, error=error, retry_in_s=_RETRY_S
                    )
                told = True
                self._stop.wait(_RETRY_S)
                continue
            with self._server as server:
                server.serve_forever(poll_interval=0.5)
            return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int, status: Callable[[], Status]) -> None:
        # An empty address means every address of both families: one socket that takes IPv4 as mapped addresses.
        self.address_family = socket.AF_INET6 if ":" in address or not address else socket.AF_INET
        self.status = status
        super().__init__((address or "::", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "kuberouterpy"
    sys_version = ""
    timeout = 10.0

    def do_GET(self) -> None:
        status = self.server.status()
        match self.path.partition("?")[0]:
            case "/livez" | "/healthz":
                self._verdict(status.alive(time.monotonic()), "the loop has made no step for a minute")
            case "/readyz":
                self._verdict(status.ready, _unready(status))
            case "/status.json":
                self._send(HTTPStatus.OK, "application/json", msgspec.json.encode(status))
            case _:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not found: /livez /readyz /healthz /status.json\n")

    def _verdict(self, good: bool, reason: str) -> None:
        if good:
            self._send(HTTPStatus.OK, "text/plain", b"ok\n")
        else:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"not ok: {reason}\n".encode())

    def _send(self, code: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep probes out of the log."""


def _unready(status: Status) -> str:
    if not status.synced:
        return f"not listed yet: {', '.join(status.waiting_for)}"
    if not status.settled:
        return "the first pass over the kernel is not done"
    return f"failing: {'; '.join(one.key for one in status.failing)}"
