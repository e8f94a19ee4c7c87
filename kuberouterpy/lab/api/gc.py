"""The garbage collector: dependents of owners that are gone, contents of namespaces that are going.

It follows every change of the storage through a queue, in a thread of its own; it does nothing while nothing is deleted.
"""

from __future__ import annotations

import queue
import threading
from typing import Final

from kuberouterpy.lab.api.errors import JsonObject, StatusError
from kuberouterpy.lab.api.resources import Catalog, Resource
from kuberouterpy.lab.api.routes import Target
from kuberouterpy.lab.api.storage import Event, Key, Storage
from kuberouterpy.lab.api.writing import Change, Options, Writer

_BACKGROUND: Final[JsonObject] = {"propagationPolicy": "Background"}
_OPTIONS: Final = Options(validate=False, manager="garbage-collector")

Place = tuple[str, Key]
"""Storage key of the resource and key of the object."""


class Collector:
    """Deletes what nobody owns any more."""

    def __init__(self, storage: Storage, catalog: Catalog, writer: Writer) -> None:
        self._storage = storage
        self._catalog = catalog
        self._writer = writer
        self._dependents: dict[str, set[Place]] = {}
        self._owners: dict[Place, frozenset[str]] = {}
        self._work: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gc", daemon=True)

    def start(self) -> None:
        """Look at everything that is stored, then follow changes."""
        with self._storage.lock:
            for resource in self._storage.resources():
                for key, entry in self._storage.items(resource)[0]:
                    self._note(resource, key, entry.obj)
            self._storage.subscribe(self._changed)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._work.put(None)
        self._thread.join(timeout=5)

    def _changed(self, resource: str, event: Event) -> None:
        """Take a change in; runs under the storage's lock."""
        meta = event.after.obj["metadata"]
        if event.type == "DELETED":
            self._note(resource, event.key, {"metadata": {}})
            if self._dependents.get(meta.get("uid", "")):
                self._work.put(("owner", meta["uid"]))
            for owner in meta.get("ownerReferences") or []:
                if isinstance(owner, dict) and owner.get("blockOwnerDeletion"):
                    self._work.put(("foreground", owner.get("uid", "")))
            if event.key[0]:
                self._check_namespace(event.key[0])
            return
        self._note(resource, event.key, event.after.obj)
        if meta.get("deletionTimestamp"):
            self._going(resource, event.key, meta)

    def _note(self, resource: str, key: Key, obj: JsonObject) -> None:
        """Remember who owns an object, and look at once whether its owners are there."""
        place = (resource, key)
        given = obj["metadata"].get("ownerReferences")
        owners = frozenset(
            str(owner.get("uid", "")) for owner in given or () if isinstance(owner, dict)
        ) if isinstance(given, list) else frozenset()  # fmt: skip
        before = self._owners.get(place, frozenset())
        if owners == before:
            return
        for uid in before - owners:
            self._dependents.get(uid, set()).discard(place)
        for uid in owners - before:
            self._dependents.setdefault(uid, set()).add(place)
            if uid not in self._storage.uids:
                self._work.put(("owner", uid))
        if owners:
            self._owners[place] = owners
        else:
            self._owners.pop(place, None)

    def _going(self, resource: str, key: Key, meta: JsonObject) -> None:
        finalizers = meta.get("finalizers") or []
        if "orphan" in finalizers:
            self._work.put(("orphan", meta["uid"]))
        if "foregroundDeletion" in finalizers:
            self._work.put(("foreground", meta["uid"]))
        if resource == "namespaces":
            self._work.put(("namespace", key[1]))

    def _check_namespace(self, namespace: str) -> None:
        entry = self._storage.get("namespaces", ("", namespace))
        if entry is not None and entry.obj["metadata"].get("deletionTimestamp"):
            self._work.put(("namespace", namespace))

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            kind, name = work
            match kind:
                case "owner":
                    self._owner_gone(name)
                case "orphan":
                    self._orphan(name)
                case "foreground":
                    self._foreground(name)
                case "namespace":
                    self._namespace(name)

    def _places(self, uid: str) -> list[Place]:
        with self._storage.lock:
            return sorted(self._dependents.get(uid, ()))

    def _owner_gone(self, uid: str) -> None:
        """Delete the dependents of an owner that no other living owner keeps."""
        for place in self._places(uid):
            with self._storage.lock:
                kept = any(owner in self._storage.uids for owner in self._owners.get(place, ()))
            if not kept:
                self._delete(place, _BACKGROUND)

    def _orphan(self, uid: str) -> None:
        """Take the owner's reference out of its dependents, then let the owner go."""
        for resource_key, key in self._places(uid):

            def released(obj: JsonObject) -> JsonObject:
                owners = [one for one in obj["metadata"].get("ownerReferences") or [] if one.get("uid") != uid]
                obj["metadata"]["ownerReferences"] = owners
                return obj

            self._update((resource_key, key), released)
        self._drop_finalizer(uid, "orphan")

    def _foreground(self, uid: str) -> None:
        """Delete the dependents of an owner; let it go when none is left that blocks it."""
        with self._storage.lock:
            place = self._storage.uids.get(uid)
            entry = self._storage.get(*place) if place else None
        if entry is None or "foregroundDeletion" not in (entry.obj["metadata"].get("finalizers") or []):
            return
        blocking = 0
        for resource_key, key in self._places(uid):
            dependent = self._storage.get(resource_key, key)
            if dependent is None:
                continue
            meta = dependent.obj["metadata"]
            blocking += any(
                one.get("uid") == uid and one.get("blockOwnerDeletion") for one in meta.get("ownerReferences") or []
            )
            if not meta.get("deletionTimestamp"):
                self._delete((resource_key, key), {"propagationPolicy": "Foreground"})
        if not blocking:
            self._drop_finalizer(uid, "foregroundDeletion")

    def _drop_finalizer(self, uid: str, finalizer: str) -> None:
        with self._storage.lock:
            place = self._storage.uids.get(uid)
        if place is None:
            return

        def without(obj: JsonObject) -> JsonObject:
            meta = obj["metadata"]
            meta["finalizers"] = [one for one in meta.get("finalizers") or [] if one != finalizer]
            return obj

        self._update(place, without)

    def _namespace(self, name: str) -> None:
        """Delete what is in a namespace that is going; take the namespace away once it is empty."""
        left = 0
        for resource in self._catalog.all():
            if not resource.namespaced or not resource.stored or resource.stored_as:
                continue
            for key, entry in self._storage.items(resource.key, name)[0]:
                if not entry.obj["metadata"].get("deletionTimestamp"):
                    self._delete((resource.key, key), _BACKGROUND)
                left += self._storage.get(resource.key, key) is not None
        namespace = self._storage.get("namespaces", ("", name))
        if left or namespace is None or not namespace.obj["metadata"].get("deletionTimestamp"):
            return

        def finalized(obj: JsonObject) -> JsonObject:
            obj["spec"] = {**(obj.get("spec") or {}), "finalizers": []}
            return obj

        self._update(("namespaces", ("", name)), finalized)

    def _delete(self, place: Place, asked: JsonObject) -> None:
        if target := self._target(place):
            try:
                self._writer.delete(target, asked, _OPTIONS)
            except StatusError as error:
                if error.code not in {404, 409}:
                    raise

    def _update(self, place: Place, change: Change) -> None:
        if target := self._target(place):
            try:
                self._writer.update(target, change, _OPTIONS, patch=True)
            except StatusError as error:
                if error.code not in {404, 409}:
                    raise

    def _target(self, place: Place) -> Target | None:
        resource: Resource | None = self._catalog.by_key(place[0])
        return Target(resource, place[1][0], place[1][1]) if resource else None
