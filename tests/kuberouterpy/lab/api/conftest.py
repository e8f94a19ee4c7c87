"""A server on loopback and a client that shows the wire."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from kuberouterpy.lab.api.config import Config
from kuberouterpy.lab.api.server import ApiServer

Start = Callable[..., "Client"]


class Watch:
    """One open watch; ``next`` blocks until the next event."""

    def __init__(self, port: int, path: str, headers: dict[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        self._connection.request("GET", path, headers=headers or {})
        self._answer = self._connection.getresponse()
        self.status = self._answer.status

    def next(self) -> tuple[str, dict[str, Any]]:
        line = self._answer.readline()
        if not line:
            raise EOFError
        event = json.loads(line)
        return event["type"], event["object"]

    def names(self, count: int) -> list[tuple[str, str]]:
        return [(kind, obj["metadata"]["name"]) for kind, obj in (self.next() for _ in range(count))]

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


class Client:
    """Requests to a server; ``code`` is the last status."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.port = server.port
        self.code = 0
        self.headers: dict[str, str] = {}
        self._watches: list[Watch] = []

    def ask(
        self, method: str, path: str, body: object = None, *, content: str = "application/json", **headers: str
    ) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            if data is not None:
                sent["Content-Type"] = content
            connection.request(method, path, body=data, headers=sent)
            answer = connection.getresponse()
            self.code = answer.status
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
            text = answer.read()
            return json.loads(text) if self.headers["content-type"].startswith("application/json") else text.decode()
        finally:
            connection.close()

    def watch(self, path: str, **headers: str) -> Watch:
        watch = Watch(self.port, path, headers)
        self._watches.append(watch)
        return watch

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        self.server.stop()


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a server and returns its client."""
    clients: list[Client] = []

    def begin(**settings: Any) -> Client:
        settings.setdefault("service_cidrs", (ip_network("10.96.0.0/16"), ip_network("fd00:10:96::/112")))
        server = ApiServer(Config(**settings))
        server.start()
        clients.append(Client(server))
        return clients[-1]

    yield begin
    for client in clients:
        client.close()


@pytest.fixture
def api(start: Start) -> Client:
    """Return the client of a server with nothing but what every cluster has."""
    return start()
