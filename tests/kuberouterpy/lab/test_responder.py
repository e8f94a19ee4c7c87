"""The built-in responder: what it answers, and over real sockets on loopback."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from kuberouterpy.lab.responder import Port, Request, Responder, open_sockets, respond, take_request


@pytest.fixture
def responder() -> Iterator[Responder]:
    one = Responder()
    yield one
    one.close()


def serve(responder: Responder, protocol: str) -> int:
    """Serve as ``web`` on a free port; return its number."""
    ((port, sock),) = open_sockets([Port(protocol, 0)])
    responder.add("uid/c", "web", [(port, sock)])
    return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", Request(27, "GET", "/", True)),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", Request(37, "GET", "/", False)),
        (b"GET / HTTP/1.0\r\n\r\n", Request(18, "GET", "/", False)),
        (b"POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", Request(42, "POST", "/x", True)),
        (b"POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", None),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", None),
        (b"GET /a\r\n", Request(8, "GET", "/a", False)),
        (b"hello\nworld", Request(6)),
        (b"hel", None),
    ],
)
def test_requests_are_cut_from_the_stream(data: bytes, expected: Request | None) -> None:
    assert take_request(data) == expected


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/hostname", b"web\n"),
        ("/clientip", b"10.0.0.7\n"),
        ("/healthz", b"ok\n"),
        ("/echo?msg=a+b%2F", b"a b/\n"),
        ("/", b"web\n"),
        ("//[", b"web\n"),
    ],
)
def test_each_path_has_its_answer(target: str, body: bytes) -> None:
    head, _blank, payload = respond(Request(0, "GET", target, True), "web", "10.0.0.7").partition(b"\r\n\r\n")
    assert payload == body
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_http_clients_of_both_families_see_themselves(responder: Responder, host: str) -> None:
    connection = http.client.HTTPConnection(host, serve(responder, "TCP"), timeout=5)
    for path, expected in (("/clientip", host), ("/hostname", "web")):  # the second on the same connection
        connection.request("GET", path)
        assert connection.getresponse().read().decode() == f"{expected}\n"
    connection.close()


def test_a_client_without_http_is_answered_line_by_line_and_at_its_end(responder: Responder) -> None:
    with socket.create_connection(("127.0.0.1", serve(responder, "TCP")), timeout=5) as client:
        line = f"web 127.0.0.1:{client.getsockname()[1]}\n".encode()
        client.sendall(b"slo")
        client.sendall(b"wly\n")
        assert client.recv(100) == line
        client.sendall(b"no end of line")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == line
        assert client.recv(100) == b""


@pytest.mark.parametrize(
    ("family", "address", "bound"),
    [(socket.AF_INET, "127.0.0.9", "127.0.0.1"), (socket.AF_INET6, "::1", "::1")],
)
def test_datagrams_are_answered_from_the_address_they_were_sent_to(
    responder: Responder, family: socket.AddressFamily, address: str, bound: str
) -> None:
    """A host network pod has many addresses; an answer from another one would not reach a connected socket."""
    number = serve(responder, "UDP")
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.bind((bound, 0))
        client.connect((address, number))
        client.send(b"?")
        shown = f"[{bound}]" if ":" in bound else bound
        assert client.recv(100).decode() == f"web {shown}:{client.getsockname()[1]}\n"


def test_removing_a_pod_closes_its_port_and_connections_at_once(responder: Responder) -> None:
    number = serve(responder, "TCP")
    with socket.create_connection(("127.0.0.1", number), timeout=5) as client:
        client.sendall(b"x\n")
        client.recv(100)
        responder.remove("uid/c")
        assert client.recv(100) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number), timeout=5)


def test_a_port_in_use_is_named_and_leaves_no_other_open() -> None:
    ((_port, taken),) = open_sockets([Port("TCP", 0)])
    number = taken.getsockname()[1]
    with pytest.raises(OSError, match=f"listen on tcp/{number}"):
        open_sockets([Port("UDP", 0), Port("TCP", number)])
    taken.close()
