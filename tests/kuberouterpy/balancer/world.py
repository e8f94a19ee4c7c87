"""An API server in this process, without sockets; allocators that take turns at its door in an order that a seed gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from random import Random
from typing import Any
from urllib.parse import urlencode

import msgspec

from kuberouterpy.balancer.allocator import Allocator
from kuberouterpy.cluster import Ref, Replace, Service
from kuberouterpy.config import Config
from kuberouterpy.errors import SourceError
from kuberouterpy.lab.api.config import Config as ApiConfig
from kuberouterpy.lab.api.core import Core
from kuberouterpy.lab.api.errors import StatusError
from kuberouterpy.lab.api.rest import Answer
from kuberouterpy.lab.api.routes import parse
from kuberouterpy.lab.api.storage import Event
from kuberouterpy.lab.api.wire import Request
from kuberouterpy.sources.decode import decode
from kuberouterpy.sources.events import Occurrence
from kuberouterpy.sources.transport import ApiError, Reply

NAMESPACE = "kube-system"
SERVICES = "/api/v1/namespaces/default/services"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"


class Server:
    """The lab's API server, asked by function call. It watches what Services' statuses show, at every version."""

    def __init__(self) -> None:
        self.core = Core(ApiConfig())
        self.core.start(6443)
        self.core.storage.subscribe(self._watch)
        self.shown: dict[str, set[str]] = {}
        self.versions = 0
        self.violations: list[str] = []

    def _watch(self, resource: str, event: Event) -> None:
        """Check the history: called under the storage's lock, for every version of every object."""
        if resource != "services":
            return
        self.versions += 1
        namespace, name = event.key
        found = (event.after.obj.get("status") or {}).get("loadBalancer") or {}
        gone = event.type == "DELETED"
        self.shown[f"{namespace}/{name}"] = set() if gone else {one["ip"] for one in found.get("ingress") or ()}
        for address in {address for held in self.shown.values() for address in held}:
            holders = sorted(ref for ref, held in self.shown.items() if address in held)
            if len(holders) > 1:
                self.violations.append(f"{address} is in the status of {' and '.join(holders)}")

    def ask(self, method: str, target: str, body: object = None, content_type: str = "application/json") -> Any:
        """Return an answer. Errors: ApiError."""
        data = b"" if body is None else json.dumps(body).encode()
        request = Request(method, target, {"content-type": content_type}, data)
        try:
            answer = self.core.rest.answer(request, parse(request.path, self.core.catalog), "system:admin")
        except StatusError as error:
            raise ApiError(f"{method} {target}: {error}", status=error.code) from None
        assert isinstance(answer, Answer)
        return Reply(answer.code, answer.body)

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> Reply:
        reply: Reply = self.ask("GET", f"{path}?{urlencode(query)}" if query else path)
        return reply

    def post(self, path: str, body: object) -> Reply:
        reply: Reply = self.ask("POST", path, body)
        return reply

    def put(self, path: str, body: object) -> Reply:
        reply: Reply = self.ask("PUT", path, body)
        return reply

    def delete(self, path: str, body: object | None = None) -> Reply:
        reply: Reply = self.ask("DELETE", path, body)
        return reply

    # --- what a person does and sees -----------------------------------------------------------------------------

    def create(self, name: str, **spec: object) -> None:
        """Create a Service of type LoadBalancer."""
        notes = spec.pop("annotations", {})
        whole = {"type": "LoadBalancer", "ports": [{"port": 80}], **spec}
        self.post(SERVICES, {"metadata": {"name": name, "annotations": notes}, "spec": whole})

    def patch(self, name: str, change: object, *, subresource: str = "") -> None:
        """Change a Service."""
        self.ask("PATCH", f"{SERVICES}/{name}{subresource}", change, "application/merge-patch+json")

    def remove(self, name: str) -> None:
        """Delete a Service."""
        self.delete(f"{SERVICES}/{name}")

    def service(self, name: str) -> dict[str, Any]:
        """Return a Service."""
        found: dict[str, Any] = json.loads(self.get(f"{SERVICES}/{name}").body)
        return found

    def addresses(self, name: str) -> list[str]:
        """Return the addresses in a Service's status."""
        return [one["ip"] for one in self.service(name)["status"]["loadBalancer"].get("ingress") or ()]

    def condition(self, name: str) -> tuple[str, str, str]:
        """Return status, reason and message of our condition."""
        (told,) = (
            one
            for one in self.service(name)["status"]["conditions"]
            if one["type"] == "kube-router.io/AddressAllocated"
        )
        return told["status"], told["reason"], told["message"]

    def claims(self) -> dict[str, str]:
        """Return who claims what, by address."""
        items = json.loads(self.get(LEASES, {"labelSelector": "kube-router.io/balancer=claim"}).body)["items"]
        notes = [item["metadata"]["annotations"] for item in items]
        return {note["kube-router.io/address"]: note["kube-router.io/service"] for note in notes}

    def listing(self) -> Replace:
        """Return every Service, as a source's list gives them."""
        items = json.loads(self.get("/api/v1/services").body)["items"]
        records = (decode(Service, msgspec.json.encode(item)).record for item in items)
        return Replace(Service, tuple(one for one in records if isinstance(one, Service)))


class World:
    """One allocator that works alone and undisturbed, with a clock of its own."""

    def __init__(self, config: Config, server: Server | None = None, *, identity: str = "one") -> None:
        self.server = server or Server()
        self.now = 0.0
        self.events: list[Occurrence] = []
        self.allocator = Allocator(
            self.server,
            config,
            namespace=NAMESPACE,
            identity=identity,
            record=self.events.append,
            clock=lambda: self.now,
        )

    def turn(self, after_s: float = 0.0) -> None:
        """Let the allocator see everything, and work until it has nothing more to do at this moment."""
        self.now += after_s
        for _ in range(4):
            self.allocator.put(self.server.listing())
            self.allocator.turn()


class Door:
    """Lets one allocator at a time do one request, whichever the seed chooses; some requests fail, before or after."""

    def __init__(self, server: Server, random: Random, faults: float) -> None:
        self._server = server
        self._random = random
        self._faults = faults
        self._changed = threading.Condition()
        self._waiting: dict[str, bool] = {}
        self._running: set[str] = set()

    def client(self, name: str) -> Client:
        """Return the way to the server of one allocator."""
        return Client(self, name)

    def enter(self, name: str, call: Callable[[], Reply]) -> Reply:
        """Wait to be let in, then ask; a fault is a lost request or a lost answer."""
        with self._changed:
            self._running.discard(name)
            self._waiting[name] = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting[name])
            del self._waiting[name]
            fault = self._random.random()
            if fault < self._faults:
                raise SourceError("the request was lost")
            answer = call()
            if fault < 2 * self._faults:
                raise SourceError("the answer was lost")
            return answer

    def begin(self, name: str, work: Callable[[], object]) -> threading.Thread:
        """Start a piece of work; return when it stands at the door or is over."""

        def run() -> None:
            try:
                work()
            finally:
                with self._changed:
                    self._running.discard(name)
                    self._changed.notify_all()

        thread = threading.Thread(target=run, daemon=True)
        with self._changed:
            self._running.add(name)
            thread.start()
            self._quiet()
        return thread

    def busy(self, name: str) -> bool:
        """Return whether an allocator is in the middle of its work."""
        return name in self._waiting

    def let_in(self) -> str:
        """Let one in and wait until it stands here again or is over; return who, or nothing where nobody waits."""
        with self._changed:
            ready = sorted(self._waiting)
            if not ready:
                return ""
            chosen = self._random.choice(ready)
            self._waiting[chosen] = True
            self._running.add(chosen)
            self._changed.notify_all()
            self._quiet()
            return chosen

    def _quiet(self) -> None:
        """Wait until nobody runs: the seed's draws have one order then."""
        self._changed.wait_for(lambda: not self._running)


class Client:
    """An allocator's requests, through the door."""

    def __init__(self, door: Door, name: str) -> None:
        self._door = door
        self._name = name

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> Reply:
        return self._door.enter(self._name, lambda: self._door._server.get(path, query))

    def post(self, path: str, body: object) -> Reply:
        return self._door.enter(self._name, lambda: self._door._server.post(path, body))

    def put(self, path: str, body: object) -> Reply:
        return self._door.enter(self._name, lambda: self._door._server.put(path, body))

    def delete(self, path: str, body: object | None = None) -> Reply:
        return self._door.enter(self._name, lambda: self._door._server.delete(path, body))


def ref(name: str) -> Ref:
    """Return the identity of a Service."""
    return Ref("default", name)
