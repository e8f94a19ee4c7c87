"""The agent's own socket: HTTP and JSON on a unix socket that only root can open.

Questions are GET and change nothing: ``GET /v1/status``, ``/v1/objects?kind=virtual&kind=real``, ``/v1/plan``,
``/v1/explain?subject=service/default/web``. Verbs are POST, few and named in :data:`VERBS`. The command line is one client of
it; ``curl --unix-socket /run/kuberouterpy/agent.sock http://agent/v1/plan`` is another. What is answered is the caller's
affair: this module only carries questions and answers, and encodes the answers on its own thread. ``docs/socket.md`` has
every field.

Errors come as ``{"error": "..."}``: 404 for what is not known, 405 for a method that the path does not have, 503 where the
agent is too busy.

Promises: the folder is made 0700 and the socket 0600; who connects is asked for by the kernel (SO_PEERCRED) besides. A socket
that a dead agent left is replaced; one that answers is not, and neither is a file that is no socket.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import socketserver
import stat
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import msgspec

from kuberouterpy.errors import KubeRouterError
from kuberouterpy.log import event as log_event

PREFIX: Final = "/v1/"
"""Every path of this version begins so; a change that breaks a client is another version."""
QUESTIONS: Final = (
    "status",
    "objects",
    "plan",
    "explain",
    "trace",
    "overview",
    "bgp-neighbors",
    "bgp-routes",
    "bgp-why",
    "policies",
    "names",
    "subjects",
    "connection",
    "facts",
    "version",
    "logs",
)
"""What may be asked."""
VERBS: Final = ("log-level",)
"""What may be done."""
_RETRY_S: Final = 10.0
"""Wait before binding again while another agent holds the socket."""
_CREDENTIALS: Final = struct.Struct("=iII")

Answer = Callable[[str, Mapping[str, Sequence[str]]], object]
"""What is asked (the path after the prefix) and the words of its query give a value that encodes to JSON.
Errors: KubeRouterError for what cannot be answered, TimeoutError where the agent is too busy."""

_log = logging.getLogger("kuberouterpy.sources.socket")


class SocketSource:
    """Serves ``answer`` on a unix socket until stopped."""

    def __init__(self, path: str, answer: Answer) -> None:
        self._path = Path(path)
        self._answer = answer
        self._stop = threading.Event()
        self._server: _Server | None = None
        self._thread = threading.Thread(target=self._run, name="socket", daemon=True)

    def start(self) -> None:
        """Start serving; returns at once, and when it returns the socket is there unless something is in its way."""
        self._bind()
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and remove the socket."""
        self._stop.set()
        if self._server is not None:
            self._server.shutdown()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while self._server is None and not self._stop.wait(_RETRY_S):
            self._bind()
        if self._server is None:
            return
        with self._server as server:
            server.serve_forever(poll_interval=0.2)
        # Only our own: another agent may have replaced it while we were going.
        if _identity(self._path) == server.identity:
            self._path.unlink(missing_ok=True)

    def _bind(self) -> None:
        try:
            _clear(self._path)
            self._server = _Server(self._path, self._answer)
        except OSError as error:
            log_event(_log, logging.ERROR, "socket-unavailable", key=self._path, error=error, retry_in_s=_RETRY_S)


def _clear(path: Path) -> None:
    """Make the folder, and take away a socket nobody answers on. Errors: OSError where it is not ours to take away."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "is in the way and no socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "another agent answers there", str(path))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, path: Path, answer: Answer) -> None:
        self.answer = answer
        self.path = path
        super().__init__(str(path), _Handler)
        self.identity = _identity(path)

    def server_bind(self) -> None:
        before = os.umask(0o177)
        try:
            super().server_bind()
        finally:
            os.umask(before)

    def verify_request(self, request: object, client_address: object) -> bool:
        """Whether who connects may ask: root, or whoever the agent runs as."""
        assert isinstance(request, socket.socket)
        _, user, _ = _CREDENTIALS.unpack(request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return user in {0, os.geteuid()}

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep clients that hang up out of the log."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "kuberouterpy"
    sys_version = ""
    timeout = 10.0

    def do_GET(self) -> None:
        self._carry(QUESTIONS, VERBS, "POST")

    def do_POST(self) -> None:
        self._carry(VERBS, QUESTIONS, "GET")

    def _carry(self, mine: Sequence[str], others: Sequence[str], method: str) -> None:
        path, _, query = self.path.partition("?")
        name = path.removeprefix(PREFIX) if path.startswith(PREFIX) else ""
        if name in others:
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes {method} only")
            return
        if name not in mine:
            known = ", ".join(PREFIX + one for one in (*QUESTIONS, *VERBS))
            self._refuse(HTTPStatus.NOT_FOUND, f"no such path: {path}; there are {known}")
            return
        try:
            told = self.server.answer(path.removeprefix(PREFIX), parse_qs(query))
        except KubeRouterError as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except TimeoutError as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except Exception as bug:
            _log.exception("answer-failed", extra={"fields": {"key": self.path}})
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"a bug in the agent: {bug!r}; see its log")
        else:
            self._send(HTTPStatus.OK, msgspec.json.encode(told))

    def __getattr__(self, name: str) -> object:
        # http.server looks for do_POST, do_PUT, ...: every other method is refused alike.
        if name.startswith("do_"):
            return lambda: self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "this socket only takes GET and POST")
        raise AttributeError(name)

    def _refuse(self, code: HTTPStatus, reason: str) -> None:
        self._send(code, msgspec.json.encode({"error": reason}))

    def _send(self, code: HTTPStatus, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep questions out of the log."""
