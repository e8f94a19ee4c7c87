"""One thread that runs every controller of the lab, the way the agent's own loop does.

Watch threads only put events on one queue. The loop takes all that is there, asks each controller which keys a change
touches, and reconciles each such key once. A key that failed is tried again after a while, longer each time.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import msgspec

from kuberouterpy.lab.client import ApiError, Cache, Client, Event, Key, Object, Reflector, Resource
from kuberouterpy.log import event

_RETRY_S: Final = (0.05, 0.2, 1.0, 5.0, 15.0)
WHOLE: Final = ("", "")
"""Key of controllers that decide over the whole cluster at once."""

log = logging.getLogger(__name__)


class View:
    """What the API holds, as last heard or written."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.caches = {resource: Cache() for resource in resources}
        """One cache per kind."""

    def get(self, resource: Resource, key: Key) -> Object | None:
        """Return one object or nothing."""
        return self.caches[resource].objects.get(key)

    def all(self, resource: Resource, namespace: str = "") -> list[Object]:
        """Return the objects of a kind, in one namespace where one is given."""
        objects = self.caches[resource].objects
        return [item for key, item in objects.items() if not namespace or key[0] == namespace]

    @property
    def synced(self) -> bool:
        """Whether every kind was listed once: before that, absence means nothing."""
        return all(cache.synced for cache in self.caches.values())


class Api:
    """Writes; what they answer is in the view before the next decision."""

    def __init__(self, client: Client, wrote: Callable[[Resource, Object], None]) -> None:
        self._client = client
        self._wrote = wrote

    def create(self, resource: Resource, item: Object) -> Object:
        """Create an object."""
        return self._heard(resource, self._client.create(resource, item))

    def replace(self, resource: Resource, item: Object) -> Object:
        """Replace an object as it was last seen; 409 where somebody was faster."""
        return self._heard(resource, self._client.replace(resource, item))

    def patch(self, resource: Resource, key: Key, patch: Object, *, subresource: str = "") -> Object:
        """Merge-patch an object."""
        return self._heard(resource, self._client.patch(resource, *key, patch, subresource=subresource))

    def delete(self, resource: Resource, item: Object) -> None:
        """Delete that very object (by uid); one that is gone already is fine."""
        meta = item["metadata"]
        try:
            answer = self._client.delete(resource, meta.get("namespace", ""), meta["name"], uid=meta["uid"])
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
            return
        if answer.get("metadata", {}).get("deletionTimestamp"):
            self._heard(resource, answer)

    def bind(self, pod: Object, node: str) -> None:
        """Give a pod its node."""
        meta = pod["metadata"]
        self._client.bind(meta["namespace"], meta["name"], node)

    def _heard(self, resource: Resource, item: Object) -> Object:
        self._wrote(resource, item)
        return item


class Controller(msgspec.Struct, frozen=True):
    """What a controller is: two functions."""

    name: str
    """For the log."""
    affected: Callable[[View, Resource, Object], Iterable[Key]]
    """Keys that an object's change (its old and its new value are asked for) may concern."""
    reconcile: Callable[[View, Api, Key], float | None]
    """Make the API agree with what should be, for one key; seconds until it is to be looked at again, if it is."""


def run(
    client: Client, controllers: Iterable[Controller], resources: Iterable[Resource], stop: threading.Event
) -> None:
    """Run the controllers until ``stop`` is set. An API that is away is waited for."""
    loop = _Loop(client, tuple(controllers), tuple(resources))
    loop.run(stop)


class _Loop:
    def __init__(self, client: Client, controllers: tuple[Controller, ...], resources: tuple[Resource, ...]) -> None:
        self._inbox: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._view = View(resources)
        self._controllers = controllers
        self._api = Api(client, self._wrote)
        self._dirty: dict[tuple[int, Key], None] = {}
        self._later: dict[tuple[int, Key], float] = {}
        self._failures: dict[tuple[int, Key], int] = {}
        self._reflectors = [Reflector(client, resource, self._inbox.put) for resource in resources]

    def run(self, stop: threading.Event) -> None:
        threading.Thread(target=self._wake_at, args=(stop,), name="controllers-stop", daemon=True).start()
        for reflector in self._reflectors:
            reflector.start()
        try:
            while not stop.is_set():
                self._take()
                if self._view.synced:
                    self._work(stop)
        finally:
            for reflector in self._reflectors:
                reflector.stop()

    def _wake_at(self, stop: threading.Event) -> None:
        stop.wait()
        self._inbox.put(None)

    def _take(self) -> None:
        """Wait for something to do, then take in all there is."""
        wait_s = None
        if self._later:
            wait_s = max(0.0, min(self._later.values()) - time.monotonic())
        if self._dirty and self._view.synced:
            wait_s = 0.0
        try:
            self._mark(self._inbox.get(timeout=wait_s) if wait_s != 0.0 else self._inbox.get_nowait())
            while True:
                self._mark(self._inbox.get_nowait())
        except queue.Empty:
            pass
        now = time.monotonic()
        for task in [task for task, due in self._later.items() if due <= now]:
            del self._later[task]
            self._dirty[task] = None

    def _mark(self, event: Event | None) -> None:
        if event is None:
            return
        self._affect(event.resource, self._view.caches[event.resource].apply(event))

    def _wrote(self, resource: Resource, item: Object) -> None:
        self._affect(resource, self._view.caches[resource].wrote(item))

    def _affect(self, resource: Resource, changes: list[tuple[Object | None, Object | None]]) -> None:
        for change in changes:
            for item in change:
                if item is not None:
                    for index, controller in enumerate(self._controllers):
                        # An object of absurd shape concerns nobody; it must not end the loop.
                        with suppress(KeyError, TypeError, ValueError, AttributeError):
                            for key in controller.affected(self._view, resource, item):
                                self._dirty[index, key] = None

    def _work(self, stop: threading.Event) -> None:
        """Reconcile what is dirty now; what that makes dirty waits for the events that came meanwhile."""
        tasks, self._dirty = self._dirty, {}
        for task in tasks:
            if stop.is_set():
                return
            index, key = task
            controller = self._controllers[index]
            try:
                again_s = controller.reconcile(self._view, self._api, key)
                self._failures.pop(task, None)
                if again_s is not None:
                    self._later[task] = time.monotonic() + again_s
            except (ApiError, KeyError, TypeError, ValueError, AttributeError) as error:
                # The last four: an object of absurd shape must not end the lab's other controllers.
                self._retry(controller, task, error)

    def _retry(self, controller: Controller, task: tuple[int, Key], error: Exception) -> None:
        failures = self._failures.get(task, 0)
        self._failures[task] = failures + 1
        wait_s = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
        self._later[task] = time.monotonic() + wait_s
        quiet = isinstance(error, ApiError) and error.status in {0, 409}
        event(
            log,
            logging.DEBUG if quiet else logging.WARNING,
            "reconcile-failed",
            controller=controller.name,
            key="/".join(task[1]),
            error=f"{type(error).__name__}: {error}",
            retry_in_s=wait_s,
        )
