"""The lab's REST client: its cache, and its manners towards a server that misbehaves."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from kuberouterpy.lab.client import PODS, ApiError, Cache, Changed, Client, Deleted, Event, Listed, Reflector

Object = dict[str, Any]


def pod(name: str, version: int, uid: str = "") -> Object:
    return {"metadata": {"namespace": "ns", "name": name, "uid": uid or f"u-{name}", "resourceVersion": str(version)}}


def names(cache: Cache) -> list[str]:
    return sorted(name for _namespace, name in cache.objects)


def test_a_list_replaces_what_is_not_in_it() -> None:
    cache = Cache()
    cache.apply(Listed(PODS, [pod("a", 1), pod("b", 2)], 2))
    changes = cache.apply(Listed(PODS, [pod("b", 3), pod("c", 4)], 4))
    assert (names(cache), len(changes)) == (["b", "c"], 3)


def test_what_was_written_survives_an_older_list_and_older_events() -> None:
    """Otherwise a controller would create the pod it has just created once more."""
    cache = Cache()
    cache.wrote(pod("a", 7))
    assert cache.apply(Listed(PODS, [], 5)) == []
    assert cache.apply(Changed(PODS, pod("a", 6))) == []
    assert names(cache) == ["a"]
    assert len(cache.apply(Listed(PODS, [], 8))) == 1


def test_a_late_deletion_of_a_namesake_does_not_hit_its_successor() -> None:
    cache = Cache()
    cache.wrote(pod("a", 9, uid="new"))
    assert cache.apply(Deleted(PODS, pod("a", 8, uid="old"))) == []
    assert len(cache.apply(Deleted(PODS, pod("a", 10, uid="new")))) == 1


class Server:
    """Answers each connection with the next of some raw replies."""

    def __init__(self, *replies: bytes | Callable[[str], bytes]) -> None:
        self.requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._replies = replies
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for reply in self._replies:
            connection, _peer = self._listener.accept()
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                line = head.split(b"\r\n")[0].decode()
                self.requests.put(line)
                connection.sendall(reply(line) if callable(reply) else reply)

    def close(self) -> None:
        self._listener.close()
        self._thread.join(timeout=5)


def answer(body: Object, status: str = "200 OK") -> bytes:
    payload = msgspec.json.encode(body)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(payload)}\r\n\r\n".encode() + payload


def stream(*events: Object) -> bytes:
    lines = (msgspec.json.encode(one) + b"\n" for one in events)
    chunks = b"".join(f"{len(line):x}\r\n".encode() + line + b"\r\n" for line in lines)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*replies: bytes) -> Server:
        servers.append(Server(*replies))
        return servers[-1]

    yield start
    for one in servers:
        one.close()


def listed(version: int, *items: Object) -> bytes:
    return answer({"metadata": {"resourceVersion": str(version)}, "items": list(items)})


def collect(server: Server, count: int) -> list[Event]:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    client = Client(server.url, timeout_s=5)
    reflector = Reflector(client, PODS, events.put, fieldSelector="spec.nodeName=n")
    reflector.start()
    found = [events.get(timeout=5) for _ in range(count)]
    reflector.stop()
    client.close()
    return found


def test_a_refusal_carries_status_reason_and_message(serve: Callable[..., Server]) -> None:
    server = serve(answer({"reason": "AlreadyExists", "message": 'pods "a" already exists'}, "409 Conflict"))
    client = Client(server.url)
    with pytest.raises(ApiError, match='pods "a" already exists') as raised:
        client.create(PODS, pod("a", 1))
    client.close()
    assert (raised.value.status, raised.value.reason) == (409, "AlreadyExists")


def test_a_connection_the_server_gave_up_is_replaced_once(serve: Callable[..., Server]) -> None:
    client = Client(serve(answer(pod("a", 1)), answer(pod("a", 2))).url)
    assert [client.get(PODS, "ns", "a")["metadata"]["resourceVersion"] for _ in range(2)] == ["1", "2"]
    client.close()


def test_rubbish_is_an_error_that_says_so(serve: Callable[..., Server]) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html")
    client = Client(server.url)
    with pytest.raises(ApiError, match="no JSON"):
        client.get(PODS, "ns", "a")
    client.close()


def test_nobody_there_is_an_error_with_status_zero() -> None:
    with pytest.raises(ApiError) as raised:
        Client("http://127.0.0.1:1").get(PODS, "ns", "a")
    assert raised.value.status == 0


def test_a_broken_watch_resumes_after_the_last_event_or_bookmark(serve: Callable[..., Server]) -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}
    server = serve(
        listed(5, pod("a", 5)),
        stream({"type": "MODIFIED", "object": pod("a", 6)}, bookmark),
        stream({"type": "DELETED", "object": pod("a", 10)}),
    )
    assert [type(one) for one in collect(server, 3)] == [Listed, Changed, Deleted]
    first, second, third = (server.requests.get(timeout=5) for _ in range(3))
    assert "watch" not in first
    assert ("fieldSelector=spec.nodeName%3Dn" in first, "resourceVersion=5" in second) == (True, True)
    assert "resourceVersion=9" in third


@pytest.mark.parametrize(
    "gone",
    [
        stream({"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}),
        answer({"reason": "Expired", "message": "too old"}, "410 Gone"),
    ],
)
def test_a_lost_history_is_listed_anew(serve: Callable[..., Server], gone: bytes) -> None:
    server = serve(listed(5, pod("a", 5)), gone, listed(8, pod("b", 8)), stream())
    one, two = collect(server, 2)
    assert isinstance(one, Listed)
    assert isinstance(two, Listed)
    assert (one.version, two.version) == (5, 8)
