"""HTTP/1.1 on a socket, as much as an API server needs: keep-alive, bodies by length or in chunks, answers in one send.

The standard library's handler parses headers as e-mail and writes an answer in several system calls; both are dear under
User-Mode Linux.
"""

from __future__ import annotations

import socket
from typing import Final
from urllib.parse import parse_qsl, unquote

_MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 8 * 1024 * 1024
"""Largest request body in bytes (a real server takes 3 MiB)."""

_PHRASES: Final = {
    200: "OK", 201: "Created", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 409: "Conflict", 410: "Gone",
    413: "Request Entity Too Large", 415: "Unsupported Media Type", 422: "Unprocessable Entity",
    429: "Too Many Requests", 500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip


class BadHttp(Exception):
    """What came is no HTTP request that can be served."""


class Request:
    """One request."""

    __slots__ = ("body", "headers", "method", "path", "query", "target")

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        """As ``GET``."""
        self.target = target
        """Path and query as sent."""
        path, _, query = target.partition("?")
        self.path = unquote(path) if "%" in path else path
        """Path, unquoted."""
        self.query: dict[str, str] = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
        """Query parameters; of repeated ones the last."""
        self.headers = headers
        """Headers, names in lower case."""
        self.body = body
        """Body, empty where there is none."""

    @property
    def agent(self) -> str:
        """Who asks, by User-Agent."""
        return self.headers.get("user-agent", "")

    def flag(self, name: str) -> bool:
        """Return whether a boolean query parameter is set."""
        return self.query.get(name, "") in {"true", "1", "True", "TRUE", "t", "T"}


class Connection:
    """One client's connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        """The socket; answers are sent on it."""
        self._buffer = bytearray()

    def read(self) -> Request | None:
        """Return the next request; None where the client closed. Errors: BadHttp, OSError."""
        end = self._fill_to(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + 4]
        lines = head.split("\r\n")
        try:
            method, target, version = lines[0].split(" ")
        except ValueError as error:
            raise BadHttp(f"request line: {lines[0][:80]!r}") from error
        if not version.startswith("HTTP/1."):
            raise BadHttp(f"request line: {lines[0][:80]!r}")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if version == "HTTP/1.0":
            headers.setdefault("connection", "close")
        return Request(method, target, headers, self._body(headers))

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("expect", "").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            raise BadHttp(f"content-length {length[:20]}")
        return self._take(int(length))

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            end = self._fill_to(b"\r\n")
            if end < 0:
                raise BadHttp("chunk cut off")
            size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
            del self._buffer[: end + 2]
            if len(body) + size > MAX_BODY:
                raise BadHttp("body too large")
            body += self._take(size)
            self._take(2)
            if size == 0:
                return bytes(body)

    def _fill_to(self, mark: bytes) -> int:
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise BadHttp("head too large")
            data = self.sock.recv(65536)
            if not data:
                return -1
            self._buffer += data
        return end

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.sock.recv(max(65536, min(size, 1 << 20)))
            if not data:
                raise BadHttp("body cut off")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def response(code: int, body: bytes, *, content_type: str = "application/json", headers: tuple[str, ...] = ()) -> bytes:
    """Return a whole answer, head and body."""
    extra = "".join(f"{header}\r\n" for header in headers)
    head = (
        f"HTTP/1.1 {code} {_PHRASES.get(code, 'Status')}\r\nContent-Type: {content_type}\r\n"
        f"Cache-Control: no-cache, private\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-cache, private\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
"""Head of a watch."""
STREAM_END: Final = b"0\r\n\r\n"
"""Last chunk of a watch; the connection may be used again after it."""


def chunk(data: bytes) -> bytes:
    """Return data framed as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
