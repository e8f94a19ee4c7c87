"""Requests on real sockets of the loopback: timeouts, half answers, refused credentials, and kubeconfigs that are wrong."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kuberouterpy.config import Config
from kuberouterpy.errors import ConfigError, SourceError
from kuberouterpy.sources import transport as transports
from kuberouterpy.sources.transport import ApiError, Transport

Answer = bytes | Callable[[socket.socket], None]


class Scripted:
    """A server that answers each request with the next answer of its script, and keeps the requests."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.requests: list[str] = []
        self.greeting = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            self._answer(connection)
        finally:
            if connection not in self.held:
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        if self.greeting:
            connection.sendall(self.greeting)
            return
        received = b""
        while self.script:
            while b"\r\n\r\n" not in received:
                data = connection.recv(65536)
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            self.requests.append(head.decode())
            answer = self.script.pop(0)
            if callable(answer):
                answer(connection)
                return
            connection.sendall(answer)
            if b"Connection: close" in answer:
                return

    def hold(self, first: bytes = b"") -> Callable[[socket.socket], None]:
        """Return an answer that sends ``first`` and then says nothing more, with the connection open."""

        def answer(connection: socket.socket) -> None:
            connection.sendall(first)
            self.held.append(connection)

        return answer

    def close(self) -> None:
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self._thread.join(5)
        for connection in self.held:
            connection.close()


def whole(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """Return an HTTP answer with a length."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def chunked(*chunks: bytes, end: bool = True) -> bytes:
    """Return an HTTP answer in chunks."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks) + (b"0\r\n\r\n" if end else b"")


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture
def api(server: Scripted) -> Iterator[Transport]:
    transport = Transport(Config(master=server.url))
    yield transport
    transport.close()


def test_a_whole_answer_comes_back_and_the_connection_is_used_again(server: Scripted, api: Transport) -> None:
    server.script = [whole(b"one"), whole(b"two"), whole(b"{}", "201 Created")]
    assert api.get("/api/v1/pods", {"limit": 5, "continue": "a&b"}).body == b"one"
    assert api.get("/b").body == b"two"
    assert api.post("/c", {"a": 1}).status == 201
    assert server.requests[0].startswith("GET /api/v1/pods?limit=5&continue=a%26b HTTP/1.1")
    assert "User-Agent: kuberouterpy/" in server.requests[0]
    assert "Content-Type: application/json" in server.requests[2]


def test_a_bad_status_is_told_in_the_servers_words(server: Scripted, api: Transport) -> None:
    body = b'{"kind":"Status","code":403,"message":"pods is forbidden: User\\n cannot list"}'
    server.script = [whole(body, "403 Forbidden", "Connection: close\r\n")]
    with pytest.raises(ApiError, match="GET /pods: 403 pods is forbidden: User cannot list") as caught:
        api.get("/pods")
    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ("Retry-After: 9\r\n", b"", 9.0),
        ("", b'{"details":{"retryAfterSeconds":4}}', 4.0),
        ("Retry-After: never\r\n", b"<html>", 0.0),
        ("Retry-After: 99999999999\r\n", b"", 300.0),
    ],
)
def test_how_long_a_busy_server_asks_to_wait(
    headers: str, body: bytes, seconds: float, server: Scripted, api: Transport
) -> None:
    server.script = [whole(body, "429 Too Many Requests", headers + "Connection: close\r\n")]
    with pytest.raises(ApiError) as caught:
        api.get("/x")
    assert (caught.value.status, caught.value.retry_after_s) == (429, seconds)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nhalf\r\n",
        b"SSH-2.0-OpenSSH\r\nConnection: close",
        b"Connection: close",
    ],
    ids=["half a body", "half the chunks", "not HTTP", "not HTTP either"],
)
def test_half_an_answer_is_no_answer(answer: bytes, server: Scripted, api: Transport) -> None:
    server.script = [answer]
    with pytest.raises(SourceError, match=r"GET /x of \S+: "):
        api.get("/x")


def test_a_server_that_does_not_answer_is_given_up(
    server: Scripted, api: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "READ_S", 0.05)
    server.script = [server.hold()]
    with pytest.raises(SourceError, match="timed out"):
        api.get("/x")


def test_a_server_that_stops_in_the_middle_is_given_up(
    server: Scripted, api: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "READ_S", 0.05)
    server.script = [server.hold(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")]
    with pytest.raises(SourceError, match="timed out"):
        api.get("/x")


def test_nobody_listening_is_told_in_the_kernels_words(server: Scripted) -> None:
    server.close()
    with pytest.raises(SourceError, match=r"GET /x of \S+: connection refused"):
        Transport(Config(master=server.url)).get("/x")


# --- watches ----------------------------------------------------------------------------------------------------------


def lines_of(api: Transport, read_s: float = 5.0) -> list[bytes]:
    with api.stream_lines("/w", {"watch": 1}, read_s=read_s) as lines:
        return list(lines)


def test_lines_come_whole_however_they_are_cut(server: Scripted, api: Transport) -> None:
    server.script = [chunked(b'{"a"', b':1}\n{"b":2}\n', b"\n", b'{"c":3}\n')]
    assert lines_of(api) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


def test_a_line_without_end_is_left_for_the_next_watch(server: Scripted, api: Transport) -> None:
    server.script = [chunked(b'{"a":1}\n{"b":')]
    assert lines_of(api) == [b'{"a":1}']


def test_lines_of_a_body_without_chunks_come_as_they_are_sent(server: Scripted, api: Transport) -> None:
    server.script = [server.hold(b'HTTP/1.1 200 OK\r\n\r\n{"a":1}\n')]
    with api.stream_lines("/w", {"watch": 1}, read_s=5.0) as lines:
        assert next(iter(lines)) == b'{"a":1}'


def test_a_watch_that_is_cut_says_so_after_its_lines(server: Scripted, api: Transport) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(chunked(b'{"a":1}\n', end=False))
        connection.close()

    server.script = [answer]
    seen = []
    with (
        api.stream_lines("/w", {"watch": 1}, read_s=5.0) as lines,
        pytest.raises(SourceError, match=r"watch /w of \S+: "),
    ):
        seen.extend(iter(lines))
    assert seen in ([], [b'{"a":1}'])


def _noting(lines: Any, seen: list[bytes]) -> Iterator[bytes]:
    """Keep each line as it comes, so that what came before an error is known."""
    for line in lines:
        seen.append(line)
    yield from ()


def test_silence_ends_a_watch(server: Scripted, api: Transport) -> None:
    server.script = [server.hold(chunked(b'{"a":1}\n', end=False))]
    seen: list[bytes] = []
    with api.stream_lines("/w", {"watch": 1}, read_s=0.05) as lines, pytest.raises(SourceError, match="timed out"):
        seen.extend(_noting(lines, seen))
    assert seen == [b'{"a":1}']


def test_a_watch_ends_when_another_thread_says_so(server: Scripted, api: Transport) -> None:
    server.script = [server.hold(chunked(b'{"a":1}\n', end=False))]
    ended = threading.Event()
    with api.stream_lines("/w", {"watch": 1}, read_s=60.0) as lines:
        follow = iter(lines)
        assert next(follow) == b'{"a":1}'
        follower = threading.Thread(target=lambda: (list(follow), ended.set()), daemon=True)
        follower.start()
        lines.abort()
        assert ended.wait(5)


def test_a_line_that_never_ends_is_given_up(server: Scripted, api: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "_MAX_LINE_BYTES", 1000)
    server.script = [chunked(b"x" * 5000)]
    with pytest.raises(SourceError, match="a line is longer"):
        lines_of(api)


def test_a_watch_that_is_refused_says_why(server: Scripted, api: Transport) -> None:
    server.script = [whole(b'{"reason":"Expired","message":"too old"}', "410 Gone", "Connection: close\r\n")]
    with pytest.raises(ApiError) as caught:
        lines_of(api)
    assert caught.value.status == 410


# --- credentials ------------------------------------------------------------------------------------------------------


def kubeconfig(folder: Path, server: str, user: dict[str, Any] | None = None, **cluster: Any) -> str:
    """Write a kubeconfig; return its name."""
    import yaml

    path = folder / "kubeconfig"
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_the_token_of_a_kubeconfig_is_sent(server: Scripted, tmp_path: Path) -> None:
    server.script = [whole(b"")]
    Transport(Config(kubeconfig=kubeconfig(tmp_path, server.url, {"token": "abc"}))).get("/x")
    assert "\r\nAuthorization: Bearer abc" in server.requests[0]


def test_a_refused_token_is_read_again_once(server: Scripted, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    api = Transport(Config(kubeconfig=kubeconfig(tmp_path, server.url, {"tokenFile": str(token)})))
    token.write_text("new\n")
    refused = whole(b"", "401 Unauthorized", "Connection: close\r\n")
    server.script = [refused, whole(b"fine"), refused, refused]
    assert api.get("/x").body == b"fine"
    assert ["Bearer old" in request for request in server.requests] == [True, False]
    assert "\r\nAuthorization: Bearer new\r\n" in server.requests[1] + "\r\n"
    with pytest.raises(ApiError) as caught:
        api.get("/x")
    assert caught.value.status == 401
    assert len(server.requests) == 4


def test_master_overrides_the_servers_address_in_the_kubeconfig(server: Scripted, tmp_path: Path) -> None:
    server.script = [whole(b"")]
    name = kubeconfig(tmp_path, "http://192.0.2.1:1", {"token": "abc"})
    Transport(Config(kubeconfig=name, master=server.url)).get("/x")
    assert "Bearer abc" in server.requests[0]


def test_tls_to_a_server_that_speaks_none_is_one_clear_line(server: Scripted) -> None:
    server.greeting = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    api = Transport(Config(master=server.url.replace("http:", "https:")))
    with pytest.raises(SourceError, match=r"GET /x of \S+: ") as caught:
        api.get("/x")
    assert len(str(caught.value).splitlines()) == 1


CONTEXT = "contexts: [{name: c, context: {cluster: k}}], current-context: c"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty or not a mapping"),
        ("[]", "is empty or not a mapping"),
        ("a: [", "is not YAML"),
        ("\x00\x01", "is not YAML"),
        ("{}", "has no clusters"),
        ("{clusters: [{name: k, cluster: {server: 'http://a'}}]}", "has no contexts"),
        ("{clusters: [{name: k}], contexts: [{name: c}]}", "has no current-context"),
        ("{clusters: [{name: k}], contexts: [{name: c}], current-context: d}", "'d' is not one of its contexts (c)"),
        (f"{{clusters: [{{name: l}}], {CONTEXT}}}", "context 'c' names cluster 'k', which is not there"),
        (f"{{clusters: [{{name: k}}], {CONTEXT}}}", "cluster 'k' has no server"),
        (f"{{clusters: [5], {CONTEXT}}}", "clusters has an item without name"),
        (f"{{clusters: [{{name: k, cluster: {{server: 'a:b'}}}}], {CONTEXT}}}", "is not the URL of an API server"),
        (f"{{clusters: [{{name: k, cluster: {{server: https://a, certificate-authority: /no}}}}], {CONTEXT}}}", "/no"),
        (
            f"{{clusters: [{{name: k, cluster: {{server: https://a, certificate-authority-data: y}}}}], {CONTEXT}}}",
            "base64",
        ),
        (
            f"{{clusters: [{{name: k, cluster: {{server: https://a, certificate-authority-data: eHh4}}}}], {CONTEXT}}}",
            "certificate-authority-data: ",
        ),
    ],
)
def test_a_broken_kubeconfig_is_one_line_that_names_it(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Transport(Config(kubeconfig=str(path)))
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"kubeconfig {tmp_path}/none: No such file or directory"):
        Transport(Config(kubeconfig=f"{tmp_path}/none"))


def test_a_client_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "crt").write_text("no certificate")
    user = {"client-certificate": str(tmp_path / "crt"), "client-key": str(tmp_path / "crt")}
    with pytest.raises(ConfigError, match=f"client-certificate {tmp_path}/crt"):
        Transport(Config(kubeconfig=kubeconfig(tmp_path, "https://192.0.2.1", user)))


def test_outside_of_a_pod_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"not in a pod .*; give --kubeconfig or --master"):
        Transport(Config())


@pytest.mark.parametrize("url", ["10.0.0.1:6443", "ftp://a", "https://", "https://a:b"])
def test_a_master_that_is_no_url_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="--master"):
        Transport(Config(master=url))
