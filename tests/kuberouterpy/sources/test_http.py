"""The HTTP server behind health and metrics: both families, ports in use, pages that fail, clients that misbehave."""

from __future__ import annotations

import errno
import http.client
import logging
import socket
import threading
from collections.abc import Iterator

import pytest

from kuberouterpy.sources import http as source
from kuberouterpy.sources.http import HttpSource, Page


def pages(path: str) -> Page | None:
    match path:
        case "/good":
            return Page(b"fine\n")
        case "/bad":
            raise KeyError("a bug")
        case _:
            return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def port() -> Iterator[int]:
    """A server on every address."""
    number = free_port()
    served = HttpSource("", number, pages)
    served.start()
    while not answers("127.0.0.1", number):
        pass
    yield number
    served.stop()
    served._thread.join(5)


def get(port: int, path: str, *, address: str = "127.0.0.1", method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_one_server_answers_both_families(port: int, address: str) -> None:
    assert get(port, "/good?a=b", address=address) == (200, b"fine\n")


def test_what_is_not_there_and_what_fails_are_told_apart(port: int, caplog: pytest.LogCaptureFixture) -> None:
    assert get(port, "/none") == (404, b"not found\n")
    assert caplog.messages == []
    code, body = get(port, "/bad")
    assert (code, b"a bug in the agent: KeyError" in body) == (500, True)
    assert caplog.messages == ["page-failed"]
    assert get(port, "/good")[0] == 200


def test_head_has_no_body_and_other_methods_are_refused(port: int) -> None:
    assert get(port, "/good", method="HEAD") == (200, b"")
    assert get(port, "/good", method="POST")[0] == 501


def test_a_client_that_says_nothing_or_nonsense_keeps_nobody_waiting(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", port), 5), socket.create_connection(("127.0.0.1", port), 5) as other:
        other.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert get(port, "/good") == (200, b"fine\n")
    assert "Traceback" not in capsys.readouterr().err


def test_a_kernel_without_ipv6_is_served_over_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ipv6.disable=1``: a socket of that family cannot even be made, and probes would end the agent."""

    def bind(server: source._Server) -> None:
        if server.address_family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        real(server)

    real = source._Server.server_bind
    monkeypatch.setattr(source._Server, "server_bind", bind)
    with source._serve("", 0, pages) as server:
        assert server.server_address[0] == "0.0.0.0"
    with pytest.raises(OSError, match="not supported"):
        source._serve("::1", 0, pages)


def test_a_port_in_use_is_told_once_and_served_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = threading.Semaphore(0)

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            tries.release()
            return super().wait(0.01)

    monkeypatch.setattr(source.threading, "Event", Stop)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        served = HttpSource("127.0.0.1", number, pages, name="metrics")
        monkeypatch.undo()
        served.start()
        for _ in range(3):
            assert tries.acquire(timeout=5)
    while not answers("127.0.0.1", number):
        pass
    assert get(number, "/good")[0] == 200
    served.stop()
    served._thread.join(5)
    told = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.getMessage() for one in told] == ["metrics-port-unavailable"]
