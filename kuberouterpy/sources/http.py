"""The agent's HTTP face on a port: whatever pages it is given, each made from one frozen value when it is asked for.

Pages of health are in :mod:`kuberouterpy.health`. Here is only what a server must get right: one socket for both families,
a port in use told once and tried again, a page that fails answered and logged, clients that hang up or never speak let go.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, NamedTuple

from kuberouterpy.log import event as log_event

_RETRY_S: Final = 10.0
"""Wait before binding again when another process holds the port."""

_log = logging.getLogger("kuberouterpy.sources.http")


class Page(NamedTuple):
    """What is answered."""

    body: bytes
    type: str = "text/plain"
    """Content type."""
    code: HTTPStatus = HTTPStatus.OK


Pages = Callable[[str], Page | None]
"""A path without its query gives a page, or ``None`` where there is none. Called on a thread of its own for each request."""


class HttpSource:
    """Serves pages on an address and port until stopped; a port in use is told once and tried again."""

    def __init__(self, address: str, port: int, pages: Pages, *, name: str = "health") -> None:
        """``name``: what the port is for, for the log."""
        self._address = address
        self._port = port
        self._pages = pages
        self._name = name
        self._stop = threading.Event()
        self._server: _Server | None = None
        self._thread = threading.Thread(target=self._run, name=f"http-{name}", daemon=True)

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
                self._server = _serve(self._address, self._port, self._pages)
            except OSError as error:
                if not told:
                    name = f"{self._name}-port-unavailable"
                    log_event(_log, logging.ERROR, name, key=self._port, error=error, retry_in_s=_RETRY_S)
                told = True
                self._stop.wait(_RETRY_S)
                continue
            with self._server as server:
                server.serve_forever(poll_interval=0.5)
            return


def _serve(address: str, port: int, pages: Pages) -> _Server:
    """Return a server on an address; on every address there is, where none is given. Errors: OSError."""
    try:
        return _Server(address, port, pages)
    except OSError as error:
        # A kernel started with ipv6.disable=1 has no such family at all.
        if address or error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            raise
        return _Server("0.0.0.0", port, pages)  # noqa: S104


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int, pages: Pages) -> None:
        # An empty address means every address of both families: one socket that takes IPv4 as mapped addresses.
        self.address_family = socket.AF_INET6 if ":" in address or not address else socket.AF_INET
        self.pages = pages
        super().__init__((address or "::", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep clients that hang up out of the log."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "kuberouterpy"
    sys_version = ""
    timeout = 10.0

    def do_GET(self) -> None:
        page = self._page(self.path.partition("?")[0])
        self.send_response(page.code)
        self.send_header("Content-Type", page.type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815 (http.server looks for this name)

    def _page(self, path: str) -> Page:
        try:
            found = self.server.pages(path)
        except Exception as bug:
            _log.exception("page-failed", extra={"fields": {"key": path}})
            return Page(f"a bug in the agent: {bug!r}; see its log\n".encode(), code=HTTPStatus.INTERNAL_SERVER_ERROR)
        return found or Page(b"not found\n", code=HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: object) -> None:
        """Keep probes out of the log."""
