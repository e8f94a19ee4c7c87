"""A minimal REST client for the lab's own controllers and kubelets: list, watch, create, patch, delete.

Why not the ``kubernetes`` package: it takes a second to import under User-Mode Linux, where every lab process would pay it.
This one is ``http.client`` and ``msgspec``; connections are kept, objects are plain dictionaries as JSON gives them.
It promises what a controller needs: a watch resumes where it broke, a lost history (410) becomes a fresh list, and an API
server that is away is waited for. It does not do discovery, authentication plug-ins or typed models.
"""

from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from kuberouterpy.errors import LabError
from kuberouterpy.log import event

if TYPE_CHECKING:
    import ssl

Object = dict[str, Any]
"""One API object, as decoded from JSON."""
Key = tuple[str, str]
"""Namespace (empty for cluster-wide kinds) and name."""

MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
"""Lists are merged by the key that their type has: a kubelet's condition leaves those of others."""
_WATCH_S: Final = 240
_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
_RELIST_AFTER: Final = 3  # refusals in a row: an API server that lost its state need not say 410

log = logging.getLogger(__name__)


class Resource(msgspec.Struct, frozen=True):
    """One kind of object and where the API serves it."""

    kind: str
    """Kind in objects, as ``Pod``."""
    version: str
    """``v1`` or ``group/v1``."""
    plural: str
    """Path segment, as ``pods``."""
    namespaced: bool = True
    """Whether objects live in a namespace."""

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of the collection, of one object, or of its subresource."""
        parts = ["api" if self.version == "v1" else "apis", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [part for part in (self.plural, quote(name, safe=""), subresource) if part]
        return "/" + "/".join(parts)


NODES: Final = Resource("Node", "v1", "nodes", namespaced=False)
NAMESPACES: Final = Resource("Namespace", "v1", "namespaces", namespaced=False)
PODS: Final = Resource("Pod", "v1", "pods")
SERVICES: Final = Resource("Service", "v1", "services")
ENDPOINT_SLICES: Final = Resource("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
LEASES: Final = Resource("Lease", "coordination.k8s.io/v1", "leases")
DEPLOYMENTS: Final = Resource("Deployment", "apps/v1", "deployments")
REPLICA_SETS: Final = Resource("ReplicaSet", "apps/v1", "replicasets")
DAEMON_SETS: Final = Resource("DaemonSet", "apps/v1", "daemonsets")
STATEFUL_SETS: Final = Resource("StatefulSet", "apps/v1", "statefulsets")


class ApiError(LabError):
    """The API refused or could not be asked. ``status`` is the HTTP status, 0 where no answer came."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def key_of(item: Object) -> Key:
    """Return the namespace and name of an object."""
    meta = item["metadata"]
    return meta.get("namespace", ""), meta["name"]


def revision(item: Object) -> int:
    """Return the resourceVersion as a number; 0 where the object has none.

    Both etcd and the lab's own server count upwards, which is all that "newer than" needs here.
    """
    text = item.get("metadata", {}).get("resourceVersion", "")
    return int(text) if text.isdigit() else 0


class Client:
    """Requests to one API server. Threads may share it: it has as many connections as requests were ever under way.

    ``authority`` is the file with the certificates to trust where the server speaks TLS. It is read at the first connection:
    the server may be the one that writes it.
    """

    def __init__(self, server: str, *, token: str = "", authority: str = "", timeout_s: float = 15.0) -> None:
        url = urlsplit(server)
        self._host = url.hostname or "127.0.0.1"
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = url.scheme == "https"
        self._authority = authority
        self._context: ssl.SSLContext | None = None
        self._timeout_s = timeout_s
        self._headers = {"Accept": "application/json", "User-Agent": "kuberouterpy-lab"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._idle: list[http.client.HTTPConnection] = []

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return one object. Errors: ApiError, status 404 where there is none."""
        return self.request("GET", resource.path(namespace, name))

    def list(self, resource: Resource, namespace: str = "", **selectors: str) -> tuple[list[Object], str]:
        """Return every object of a kind and the list's resourceVersion; ``fieldSelector``, ``labelSelector`` narrow it."""
        answer = self.request("GET", _query(resource.path(namespace), selectors))
        return answer.get("items") or [], answer["metadata"]["resourceVersion"]

    def create(self, resource: Resource, item: Object) -> Object:
        """Create an object in the namespace its metadata names; return it as stored."""
        body = {"apiVersion": resource.version, "kind": resource.kind, **item}
        return self.request("POST", resource.path(item["metadata"].get("namespace", "")), body)

    def replace(self, resource: Resource, item: Object, *, subresource: str = "") -> Object:
        """Replace an object; 409 when its resourceVersion is no longer the newest."""
        body = {"apiVersion": resource.version, "kind": resource.kind, **item}
        return self.request("PUT", resource.path(*key_of(item), subresource), body)

    def patch(
        self, resource: Resource, namespace: str, name: str, patch: Object, *, subresource: str = "", form: str = MERGE
    ) -> Object:
        """Patch an object (by default lists are replaced whole, null deletes a field); return it as stored."""
        return self.request("PATCH", resource.path(namespace, name, subresource), patch, form)

    def delete(
        self, resource: Resource, namespace: str, name: str, *, grace_s: int | None = None, uid: str = ""
    ) -> Object:
        """Delete an object; with ``uid`` only that very one. 404 and 409 are errors the caller may take as done."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid:
            options["preconditions"] = {"uid": uid}
        return self.request("DELETE", resource.path(namespace, name), options)

    def bind(self, namespace: str, name: str, node: str) -> None:
        """Give a pod its node, as the scheduler does."""
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"namespace": namespace, "name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self.request("POST", PODS.path(namespace, name, "binding"), body)

    def watch(self, resource: Resource, resource_version: str, **selectors: str) -> Watch:
        """Return the stream of changes after ``resource_version``."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(_WATCH_S),
            **selectors,
        }
        connection = None
        try:
            connection = self._connect(_WATCH_S + 30)
            connection.request("GET", _query(resource.path(), query), headers=self._headers)
            sock = connection.sock  # http.client forgets it where the server says "close"
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            if connection:
                connection.close()
            raise ApiError(0, "Unreachable", f"watch {resource.plural}: {error}") from error
        if answer.status != 200:
            body = answer.read()
            connection.close()
            raise _refusal(answer.status, body, f"watch {resource.plural}")
        return Watch(connection, answer, sock)

    def request(self, method: str, path: str, body: Object | None = None, content: str = "application/json") -> Object:
        """Send one request and return the decoded answer.

        A kept connection that the server closed meanwhile is replaced once, before anything was answered on it.
        Errors: ApiError for every refusal and for a server that cannot be reached.
        """
        data = None if body is None else msgspec.json.encode(body)
        headers = self._headers if data is None else {**self._headers, "Content-Type": content}
        kept = self._take()
        for connection in (kept, None) if kept else (None,):
            used = connection
            try:
                used = used or self._connect(self._timeout_s)
                used.request(method, path, body=data, headers=headers)
                answer = used.getresponse()
                payload = answer.read()
            except (OSError, http.client.HTTPException) as error:
                if used:
                    used.close()
                if connection is None or isinstance(error, TimeoutError):
                    raise ApiError(0, "Unreachable", f"{method} {path}: {error or type(error).__name__}") from error
                continue
            self._idle.append(used)
            if answer.status >= 300:
                raise _refusal(answer.status, payload, f"{method} {path}")
            return _decode(payload, f"{method} {path}")
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the idle connections."""
        while connection := self._take():
            connection.close()

    def _take(self) -> http.client.HTTPConnection | None:
        try:
            return self._idle.pop()  # one step, so threads need no lock
        except IndexError:
            return None

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._trust())
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)

    def _trust(self) -> ssl.SSLContext:
        """Return what certificates are checked against. Errors: OSError while the file is not there or not whole."""
        if self._context is None:  # threads that come at the same time each make one, and all but one are forgotten
            import ssl

            self._context = ssl.create_default_context(cafile=self._authority or None)
        return self._context


class Watch:
    """One open watch: iterate it for ``(type, object)``; ``close`` from another thread ends the iteration."""

    def __init__(
        self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, sock: socket.socket | None
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._socket = sock

    def __iter__(self) -> Iterator[tuple[str, Object]]:
        """Yield events until the server ends the stream or it breaks.

        Errors: ApiError for an ERROR event (status 410: the history is gone) and for lines that are no JSON.
        """
        try:
            while line := self._answer.readline():
                message = _decode(line, "watch")
                kind, item = message.get("type"), message.get("object")
                if not isinstance(kind, str) or not isinstance(item, dict):
                    raise ApiError(0, "Garbled", "watch: an event without type or object")
                if kind == "ERROR":
                    code = item.get("code")
                    raise ApiError(code if isinstance(code, int) else 500, item.get("reason", ""), "watch: error event")
                yield kind, item
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
            # ValueError and AttributeError: http.client's way of saying that close() came from another thread.
            raise ApiError(0, "Broken", f"watch: {error}") from error
        finally:
            self._answer.close()
            self._connection.close()

    def close(self) -> None:
        """End the iteration now."""
        if self._socket is not None:
            try:
                # Not the method of a TLS socket, which forgets its session while another thread reads from it.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                return


class Listed(msgspec.Struct, frozen=True):
    """A whole list: what is not in it is gone."""

    resource: Resource
    """Kind listed."""
    items: list[Object]
    """All objects there are."""
    version: int = 0
    """The state they belong to."""


class Changed(msgspec.Struct, frozen=True):
    """One object is new or different."""

    resource: Resource
    """Its kind."""
    item: Object
    """Its value now."""


class Deleted(msgspec.Struct, frozen=True):
    """One object is gone."""

    resource: Resource
    """Its kind."""
    item: Object
    """Its last value."""


Event = Listed | Changed | Deleted


class Reflector:
    """A thread that lists one kind and follows its changes, for as long as it is not stopped."""

    def __init__(self, client: Client, resource: Resource, sink: Callable[[Event], None], **selectors: str) -> None:
        self._client = client
        self._resource = resource
        self._sink = sink
        self._selectors = selectors
        self._stop = threading.Event()
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource.plural}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for the thread."""
        self._stop.set()
        if self._watch is not None:
            self._watch.close()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        version, failures = "", 0
        while not self._stop.is_set():
            try:
                if not version:
                    items, version = self._client.list(self._resource, **self._selectors)
                    self._sink(Listed(self._resource, items, int(version) if version.isdigit() else 0))
                version, failures = self._follow(version), 0
                self._stop.wait(_BACKOFF_S[0])  # a server that ends every watch at once must not be hammered
            except ApiError as error:
                if self._stop.is_set():
                    break
                if error.status == 410 or (error.status and failures >= _RELIST_AFTER):
                    version = ""
                wait_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
                failures += 1
                event(log, logging.DEBUG, "watch-broken", kind=self._resource.kind, error=str(error), retry_in_s=wait_s)
                self._stop.wait(wait_s)

    def _follow(self, version: str) -> str:
        """Pass events on until the stream ends; return the version to resume from."""
        self._watch = watch = self._client.watch(self._resource, version, **self._selectors)
        if self._stop.is_set():
            watch.close()
        try:
            for kind, item in watch:
                version = item["metadata"].get("resourceVersion", version)
                if kind == "DELETED":
                    self._sink(Deleted(self._resource, item))
                elif kind != "BOOKMARK":
                    self._sink(Changed(self._resource, item))
        except ApiError as error:
            if error.status == 410:
                raise
            event(log, logging.DEBUG, "watch-ended", kind=self._resource.kind, error=str(error))
        return version


class Cache:
    """The objects of one kind as last heard, plus what this process wrote itself and has not heard of yet.

    Without the second part a controller that creates three pods would, at the next event, not see them and create three more.
    """

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        """Every known object."""
        self.synced = False
        """Whether a first list came."""
        self._unheard: dict[Key, int] = {}

    def apply(self, event: Event) -> list[tuple[Object | None, Object | None]]:
        """Take an event in; return the changes it made, as ``(before, after)``."""
        match event:
            case Listed(items=items, version=version):
                self.synced = True
                return self._replace(items, version)
            case Changed(item=item):
                return self._put(item)
            case Deleted(item=item):
                return self._remove(item)

    def wrote(self, item: Object) -> list[tuple[Object | None, Object | None]]:
        """Take in what a write of ours answered; return the changes."""
        key = key_of(item)
        changes = self._store(key, item)
        if changes:
            self._unheard[key] = revision(item)
        return changes

    def _put(self, item: Object) -> list[tuple[Object | None, Object | None]]:
        key = key_of(item)
        if self._unheard.get(key, 0) <= revision(item):
            self._unheard.pop(key, None)
        return self._store(key, item)

    def _store(self, key: Key, item: Object) -> list[tuple[Object | None, Object | None]]:
        before = self.objects.get(key)
        if before is not None and _same(before, item) and revision(before) >= revision(item):
            return []
        self.objects[key] = item
        return [(before, item)]

    def _remove(self, item: Object) -> list[tuple[Object | None, Object | None]]:
        key = key_of(item)
        before = self.objects.get(key)
        if before is None or not _same(before, item):
            return []
        self._unheard.pop(key, None)
        del self.objects[key]
        return [(before, None)]

    def _replace(self, items: list[Object], version: int) -> list[tuple[Object | None, Object | None]]:
        changes: list[tuple[Object | None, Object | None]] = []
        listed = {key_of(item): item for item in items}
        for key, before in list(self.objects.items()):
            if key not in listed and self._unheard.get(key, 0) <= version:
                self._unheard.pop(key, None)
                del self.objects[key]
                changes.append((before, None))
        for item in listed.values():
            changes += self._put(item)
        return changes


def _same(one: Object, other: Object) -> bool:
    return bool(one["metadata"].get("uid") == other["metadata"].get("uid"))


def _query(path: str, parameters: dict[str, str]) -> str:
    kept = {key: value for key, value in parameters.items() if value}
    return f"{path}?{urlencode(kept)}" if kept else path


def _decode(payload: bytes, what: str) -> Object:
    try:
        answer = msgspec.json.decode(payload)
    except msgspec.DecodeError as error:
        raise ApiError(0, "Garbled", f"{what}: answer is no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise ApiError(0, "Garbled", f"{what}: answer is no object")
    return answer


def _refusal(status: int, payload: bytes, what: str) -> ApiError:
    try:
        answer = _decode(payload, what)
    except ApiError:
        return ApiError(status, "", f"{what}: HTTP {status}")
    return ApiError(status, str(answer.get("reason", "")), f"{what}: {answer.get('message', f'HTTP {status}')}")
