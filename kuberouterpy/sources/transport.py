"""HTTP to the API server: our own requests on the ``kubernetes`` package's credentials and TLS pool.

Why not its API classes: decoding 10,000 pods with them takes 11 s and 1 GB, reading the bytes ourselves 0.2 s and 60 MB.
What this adds to the package: every request has timeouts, credentials are read for every request (tokens rotate), a 401
loads them once more, dead connections are noticed by TCP keep-alive, and a broken kubeconfig is one clear line.
Works with kubernetes 29 to 37: the key of the token is ``authorization`` up to 35 and ``BearerToken`` later.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import msgspec
import urllib3
from msgspec import Struct

from kuberouterpy import __version__
from kuberouterpy.config import Config
from kuberouterpy.errors import ConfigError, SourceError
from kuberouterpy.sources import wire
from kuberouterpy.sources.credentials import load

CONNECT_S: Final = 5.0
"""A server that does not take a connection in this time counts as away."""
READ_S: Final = 30.0
"""Silence in the middle of an answer, other than a watch's."""
_MAX_LINE_BYTES: Final = 16 * 2**20
"""No object is near it (etcd takes 1.5 MB): longer is not a watch line."""
_MAX_BODY_BYTES: Final = 1 << 30
_CHUNK_BYTES: Final = 65_536
_TOKEN_KEYS: Final = ("BearerToken", "authorization")

Query = Mapping[str, str | int]


class ApiError(SourceError):
    """The API server answered with an error; it is there."""

    def __init__(self, message: str, *, status: int, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status, or the code of a watch's ERROR event."""
        self.retry_after_s = retry_after_s
        """What the server asked for; 0: nothing."""


class Reply(Struct, frozen=True):
    """A whole answer with a good status."""

    status: int
    """HTTP status, 200-299."""
    body: bytes
    """As it came."""


class _Request(Struct, frozen=True):
    """One request."""

    method: str
    path: str
    query: Query | None = None
    body: bytes | None = None
    content_type: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Lines(Protocol):
    """A watch that is open."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield whole lines; end where the server ends; raise SourceError where the connection does."""
        ...

    def patience(self, seconds: float) -> None:
        """Take ``seconds`` of silence from now on as a dead connection."""
        ...

    def abort(self) -> None:
        """End the iteration from another thread."""
        ...


class Transport:
    """Requests to one API server, from any thread."""

    def __init__(self, config: Config) -> None:
        """Read credentials. Errors: ConfigError names the file and what is wrong with it."""
        self._config: Final = config
        self._lock: Final = threading.Lock()
        self._generation = 0
        self._settings, self._pool = load(config)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._settings.host)

    def get(self, path: str, query: Query | None = None) -> Reply:
        """Return the answer to a GET. Errors: ApiError for a bad status, SourceError where no whole answer came."""
        return self._whole(_Request("GET", path, query))

    def post(self, path: str, body: object) -> Reply:
        """Create an object."""
        return self._whole(_Request("POST", path, None, json.dumps(body).encode(), "application/json"))

    def patch(self, path: str, body: object, content_type: str = "application/merge-patch+json") -> Reply:
        """Change an object."""
        return self._whole(_Request("PATCH", path, None, json.dumps(body).encode(), content_type))

    def put(self, path: str, body: object) -> Reply:
        """Replace an object; one with a resourceVersion only in that version."""
        return self._whole(_Request("PUT", path, None, json.dumps(body).encode(), "application/json"))

    def delete(self, path: str, body: object | None = None) -> Reply:
        """Delete an object; ``body`` has the options, as preconditions."""
        data = None if body is None else json.dumps(body).encode()
        return self._whole(_Request("DELETE", path, None, data, "application/json" if data else ""))

    @contextmanager
    def stream_lines(self, path: str, query: Query, *, read_s: float) -> Iterator[Lines]:
        """Yield an open watch; ``read_s`` of silence end it with SourceError."""
        response = self._send(_Request("GET", path, query))
        try:
            stream = _Stream(response, f"watch {path} of {self.server}")
            stream.patience(read_s)
            yield stream
        finally:
            # Not back into the pool: its unread rest would be the next request's answer.
            response.close()

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def _whole(self, request: _Request) -> Reply:
        response = self._send(request)
        try:
            data = response.read(_MAX_BODY_BYTES, decode_content=True)
            rest = response.read(1)
        except Exception as error:
            response.close()
            raise _unreachable(f"{request} of {self.server}", error) from None
        if rest:
            response.close()
            raise SourceError(f"{request}: the answer is larger than {_MAX_BODY_BYTES} bytes")
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != len(data) and "Content-Encoding" not in response.headers:
            # urllib3 1.26 does not mind a body that ends early.
            response.close()
            raise SourceError(f"{request} of {self.server}: the answer ended after {len(data)} of {length} bytes")
        response.release_conn()
        return Reply(response.status, data)

    def _send(self, request: _Request) -> Any:
        """Return the response of a good status, its body unread."""
        generation = self._generation
        try:
            return self._send_once(request)
        except ApiError as error:
            if error.status != 401 or not self._reload(generation):
                raise
        return self._send_once(request)

    def _send_once(self, request: _Request) -> Any:
        url = self.server.rstrip("/") + request.path + (f"?{urlencode(request.query)}" if request.query else "")
        try:
            response = self._pool.request(
                request.method,
                url,
                body=request.body,
                headers=self._headers(request.content_type),
                timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except Exception as error:
            raise _unreachable(f"{request} of {self.server}", error) from None
        if 200 <= response.status < 300:
            return response
        try:
            answer = response.read(_CHUNK_BYTES)
        except Exception:
            answer = b""
        response.close()
        raise refusal(str(request), response.status, answer, response.headers.get("Retry-After", ""))

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": f"kuberouterpy/{__version__}"}
        if content_type:
            headers["Content-Type"] = content_type
        # Runs the refresh hook: it rereads a rotated token file and runs an exec plugin again.
        for key in _TOKEN_KEYS:
            token = self._settings.get_api_key_with_prefix(key)
            if token:
                headers["Authorization"] = " ".join(str(token).split())
                break
        return headers

    def _reload(self, generation: int) -> bool:
        """Load credentials again; return whether there may be new ones. Of several threads, one loads."""
        with self._lock:
            if self._generation == generation:
                try:
                    self._settings, self._pool = load(self._config)
                except ConfigError:
                    return False
                self._generation += 1
        return True


class _Stream:
    """Lines of one response."""

    def __init__(self, response: Any, what: str) -> None:
        self._response = response
        self._what = what
        self._socket = _socket_of(response)
        self._aborted = False

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        chunks = _chunks(self._response)
        while True:
            try:
                chunk = next(chunks, None)
            except Exception as error:
                if self._aborted:
                    return
                raise _unreachable(self._what, error) from None
            if chunk is None:
                # A rest without line end is half a line: the next watch brings it whole.
                return
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                raise SourceError(f"{self._what}: a line is longer than {_MAX_LINE_BYTES} bytes")
            yield from (line for line in lines if line.strip())

    def patience(self, seconds: float) -> None:
        """Take ``seconds`` of silence from now on as a dead connection."""
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def abort(self) -> None:
        """End the iteration from another thread: a blocked read wakes only when its socket is shut down."""
        self._aborted = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _socket_of(response: Any) -> Any:
    """Return the socket under a response, or ``None`` where this version of urllib3 keeps it elsewhere."""
    # urllib3 2 has .connection, 1.26 ._connection; a connection that will be closed leaves its socket to the response.
    connection = getattr(response, "connection", None) or getattr(response, "_connection", None)
    held = getattr(connection, "sock", None)
    if held is None:
        with suppress(AttributeError):
            held = response._fp.fp.raw._sock
    return held


def _chunks(response: Any) -> Iterator[bytes]:
    """Yield what has come, as it comes: ``read(n)`` of a body that is not chunked would wait for ``n`` bytes."""
    if getattr(response, "chunked", False):
        yield from response.read_chunked(decode_content=True)
    elif hasattr(response, "read1"):
        while chunk := response.read1(_CHUNK_BYTES):
            yield chunk
    else:
        while line := response._fp.readline():
            yield line


def refusal(what: str, status: int, answer: bytes, retry_after: str = "") -> ApiError:
    """Return the error for a bad status, in the server's own words where it has some."""
    try:
        told = msgspec.json.decode(answer, type=wire.Status)
    except (msgspec.DecodeError, RecursionError, ValueError):
        told = wire.Status()
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    if not seconds and told.details and told.details.retry_after_seconds:
        seconds = float(max(0, told.details.retry_after_seconds))
    words = " ".join((told.message or told.reason or "").split())[:300]
    return ApiError(f"{what}: {status}{' ' + words if words else ''}", status=status, retry_after_s=min(seconds, 300.0))


def _unreachable(what: str, error: Exception) -> SourceError:
    """Return a SourceError with the innermost cause: urllib3 wraps the kernel's words three times."""
    inner: BaseException = error
    while True:
        reason = getattr(inner, "reason", None)
        following = reason if isinstance(reason, BaseException) else inner.__cause__ or inner.__context__
        # What is no error of the system is how a library probed its own interpreter, not why the request failed.
        if following is None or not (reason or inner.__cause__ or isinstance(following, OSError)):
            break
        inner = following
    words = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    text = " ".join(str(words).split())[:300]
    return SourceError(f"{what}: {text[:1].lower()}{text[1:]}")
