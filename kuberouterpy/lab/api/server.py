"""The server on its sockets: one thread for each connection, requests routed, faults struck, every request noted."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

import msgspec

from kuberouterpy.lab.api import authorizer, discovery, openapi, watching
from kuberouterpy.lab.api.audit import AuditLog
from kuberouterpy.lab.api.config import Config, Tokens
from kuberouterpy.lab.api.core import Core
from kuberouterpy.lab.api.errors import StatusError, bad_request, method_not_allowed, no_such_path, unauthorized
from kuberouterpy.lab.api.faults import Fault, Sight
from kuberouterpy.lab.api.rest import Answer, LogPath
from kuberouterpy.lab.api.routes import Target, parse, verb
from kuberouterpy.lab.api.storage import encode
from kuberouterpy.lab.api.wire import STREAM_END, STREAM_HEAD, BadHttp, Connection, Request, response

_GARBAGE = b'{"kind":"PodList","items":[{"metadata":{"name":<<garbage>>'
_OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})


class ApiServer:
    """An API server. ``start`` gives the port; ``core`` is what it serves, for tests in the same process."""

    def __init__(self, config: Config | None = None, *, log_path: LogPath | None = None) -> None:
        self.config = config or Config()
        """Settings."""
        self.core = Core(self.config, log_path=log_path)
        """Storage, verbs and faults."""
        self.port = 0
        """Port of the first listener, once started."""
        self.open_port = 0
        """Port of the first listener that asks for no token, once started; 0 where there is none."""
        self._tokens = Tokens(self.config.token_file)
        self._audit = AuditLog(self.config.audit_log)
        self._stopping = threading.Event()
        self._listeners: list[socket.socket] = []
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Address of the first listener."""
        return _url(self.config.listen[0][0], self.port)

    @property
    def open_url(self) -> str:
        """Address for those who bring no token: the first open listener, or the first listener."""
        return _url(self.config.listen_open[0][0], self.open_port) if self.open_port else self.url

    def start(self) -> int:
        """Listen and serve; return the port of the first listener. Errors: OSError where an address is taken."""
        guarded = [_listen(host, port) for host, port in self.config.listen]
        unguarded = [_listen(host, port) for host, port in self.config.listen_open]
        self._listeners = guarded + unguarded
        self.port = guarded[0].getsockname()[1]
        self.open_port = unguarded[0].getsockname()[1] if unguarded else 0
        self.core.start(self.port)
        for listener in self._listeners:
            arguments = (listener, listener in unguarded)
            threading.Thread(target=self._accept, args=arguments, name="accept", daemon=True).start()
        return self.port

    def stop(self) -> None:
        """End every connection and close the journal."""
        self._stopping.set()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.core.storage.wake()
        with self._lock:
            for sock in self._connections:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self.core.stop()
        self._audit.close()

    def _accept(self, listener: socket.socket, open_to_all: bool) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock, open_to_all), name="connection", daemon=True).start()

    def _serve(self, sock: socket.socket, open_to_all: bool) -> None:
        with self._lock:
            self._connections.add(sock)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock)
            while not self._stopping.is_set() and (request := connection.read()) is not None:
                if (
                    not self._handle(sock, request, open_to_all=open_to_all)
                    or request.headers.get("connection", "").lower() == "close"
                ):
                    break
        except BadHttp as error:
            with contextlib.suppress(OSError):
                sock.sendall(response(400, encode(bad_request(str(error)).status()), headers=("Connection: close",)))
        except OSError:
            pass  # the client went away; there is nobody to tell
        finally:
            with self._lock:
                self._connections.discard(sock)
            sock.close()

    def _handle(self, sock: socket.socket, request: Request, *, open_to_all: bool) -> bool:
        """Answer one request; return whether the connection may serve another."""
        user, target, refusal = "system:anonymous", None, None
        try:
            user = "system:admin" if open_to_all else self._authenticate(request)
            target = self._target(request)
        except StatusError as error:
            refusal = error
        what = verb(request.method, target, watch=request.flag("watch")) if target else request.method.lower()
        if target:
            try:
                authorizer.refuse(self.core.storage, user, target, what)
            except StatusError as error:
                refusal = error
                sys.stderr.write(f"{error.message}\n")  # the log tells whoever wonders what a role lacks
        plural = target.resource.plural if target else ""
        sight = Sight(request.method, request.target, what, plural, request.agent)
        faults = self.core.faults.strike(sight) if not request.path.startswith("/lab/") else []
        for fault in faults:
            if fault.kind == "delay":
                self._stopping.wait(fault.seconds)
            elif fault.kind == "hang":
                self.core.hang(self._stopping)
                return False
            elif fault.kind == "drop":
                return False
        answer = _struck(faults) or self._answer(request, target, user, refusal)
        code = 200 if isinstance(answer, watching.Request) else answer.code
        self._audit.note(sight, target, user, code)
        if isinstance(answer, watching.Request):
            return self._watch(sock, answer, sight)
        whole = response(answer.code, answer.body, content_type=answer.content_type, headers=answer.headers)
        if any(fault.kind == "truncate" for fault in faults):
            sock.sendall(whole[: len(whole) - (len(answer.body) + 1) // 2])
            return False
        sock.sendall(whole if request.method != "HEAD" else whole[: len(whole) - len(answer.body)])
        return True

    def _authenticate(self, request: Request) -> str:
        if request.path in _OPEN_PATHS:
            return "system:anonymous"
        user = self._tokens.user(request.headers.get("authorization", ""))
        if user is None:
            raise unauthorized()
        return user

    def _target(self, request: Request) -> Target | None:
        """Return the resource a path names; None for the paths that are none."""
        parts = request.path.split("/")
        if (request.path.startswith("/api/") and len(parts) > 3) or (
            request.path.startswith("/apis/") and len(parts) > 4
        ):
            return parse(request.path, self.core.catalog)
        return None

    def _answer(
        self, request: Request, target: Target | None, user: str, refusal: StatusError | None
    ) -> Answer | watching.Request:
        try:
            if refusal:
                raise refusal
            if target:
                return self.core.rest.answer(request, target, user)
            return self._other(request)
        except StatusError as error:
            return _refused(error)
        except Exception as error:  # a bug of ours must answer 500, not close the connection
            import traceback

            traceback.print_exc()
            return _refused(
                StatusError(500, "InternalError", f"Internal error occurred: {type(error).__name__}: {error}")
            )

    def _other(self, request: Request) -> Answer:
        path = request.path.rstrip("/")
        if path in {"/healthz", "/livez", "/readyz"}:
            return Answer(200, b"ok", "text/plain")
        if path.startswith("/lab/"):
            return self._lab(request, path)
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed(f"{request.method} {request.path}")
        catalog, accept = self.core.catalog, request.headers.get("accept", "")
        if path == "/version":
            return Answer(200, encode(discovery.version()))
        if path == "/openapi/v2":
            if "protobuf" in accept:
                return Answer(200, openapi.v2_protobuf(), openapi.V2_PROTOBUF)
            return Answer(200, encode(openapi.v2()))
        if path == "/openapi/v3":
            return Answer(200, encode(openapi.v3_index(catalog)))
        if path.startswith("/openapi/v3/"):
            return Answer(200, encode(openapi.v3(catalog, path.removeprefix("/openapi/v3/"))))
        if path == "":
            return Answer(200, encode({"paths": ["/api", "/apis", "/healthz", "/openapi/v3", "/version"]}))
        if not path.startswith("/api"):
            raise no_such_path()
        body, content = discovery.document(catalog, path, accept)
        return Answer(200, encode(body), content)

    def _lab(self, request: Request, path: str) -> Answer:
        """The lab's own switches: faults, compaction, validation."""
        core = self.core
        match request.method, path:
            case "GET", "/lab/faults":
                return Answer(200, encode(core.faults.shown()))
            case "POST", "/lab/faults":
                core.faults.add(_lab_body(request))
            case "DELETE", "/lab/faults":
                core.faults.clear()
                core.unhang()
            case "POST", "/lab/compact":
                core.storage.compact()
            case "POST", "/lab/validation":
                core.rest.validate = bool(_lab_body(request).get("enabled", True))
            case _:
                raise no_such_path()
        core.storage.wake()
        return Answer(200, b"{}")

    def _watch(self, sock: socket.socket, wanted: watching.Request, sight: Sight) -> bool:
        """Run a watch on the connection; return whether the connection may serve another request."""
        head = [STREAM_HEAD]

        def send(data: bytes) -> None:
            sock.sendall(head.pop() + data if head else data)

        watcher = watching.Watcher(self.core.storage, self.core.faults, wanted, sight, self._stopping.is_set)
        whole = watcher.run(send)
        if whole:
            send(STREAM_END)
        return whole


def _url(host: str, port: int) -> str:
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((host, port))
    listener.listen(128)
    return listener


def _struck(faults: list[Fault]) -> Answer | None:
    """Return the answer a fault gives instead of the true one."""
    for fault in faults:
        if fault.kind == "status":
            reasons = {401: "Unauthorized", 410: "Expired", 429: "TooManyRequests", 503: "ServiceUnavailable"}
            reason = reasons.get(fault.status, "InternalError")
            retry = (f"Retry-After: {fault.retry_after}",) if fault.retry_after else ()
            return _refused(StatusError(fault.status, reason, fault.message or f"fault: {reason}"), headers=retry)
        if fault.kind == "garbage":
            return Answer(200, _GARBAGE)
    return None


def _refused(error: StatusError, *, headers: tuple[str, ...] = ()) -> Answer:
    return Answer(error.code, encode(error.status()), headers=headers)


def _lab_body(request: Request) -> dict[str, object]:
    try:
        body: dict[str, object] = msgspec.json.decode(request.body or b"{}")
    except msgspec.DecodeError as error:
        raise bad_request(f"the body is no JSON: {error}") from error
    return body
