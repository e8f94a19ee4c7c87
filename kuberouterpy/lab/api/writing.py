"""Create, replace, patch and delete: what happens to an object between a request and the storage.

Writes are done one at a time, under one lock: on the one processor of the lab nothing is lost, and no write ever has to be
repeated because another came between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from kuberouterpy.lab.api import faces, metadata
from kuberouterpy.lab.api.admission import Admission
from kuberouterpy.lab.api.decode import Conformer
from kuberouterpy.lab.api.errors import (
    JsonObject,
    StatusError,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    not_found,
)
from kuberouterpy.lab.api.resources import CRD_KEY, Catalog, Resource
from kuberouterpy.lab.api.routes import Target
from kuberouterpy.lab.api.schema import types
from kuberouterpy.lab.api.storage import Entry, Key, Storage, encode

Change = Callable[[JsonObject], JsonObject]
"""From the object as it is (a copy) to the object as it is wanted."""

CREATED_BY_UPDATE: Final = frozenset({"endpoints", "events", "leases.coordination.k8s.io"})
"""Kinds that a PUT creates."""
_IMMORTAL: Final = frozenset({"default", "kube-system", "kube-public"})


class Options(msgspec.Struct, frozen=True):
    """How a write is to be done."""

    dry_run: bool = False
    """Go through everything but store nothing."""
    strict: str = "Warn"
    """What unknown fields are: ``Strict`` refuses, ``Warn`` warns, ``Ignore`` drops silently."""
    manager: str = "unknown"
    """Field manager, for managedFields."""
    validate: bool = True
    """Whether the object is checked at all."""


class Written(msgspec.Struct, frozen=True):
    """What a write led to."""

    code: int
    """HTTP status."""
    body: Entry | JsonObject
    """The object, or a Status."""
    warnings: tuple[str, ...] = ()
    """Warning headers."""


class Writer:
    """All writes to one storage."""

    def __init__(self, storage: Storage, catalog: Catalog, admission: Admission) -> None:
        self._storage = storage
        self._catalog = catalog
        self._admission = admission
        self._lock = threading.RLock()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other writes out (the garbage collector looks and then deletes)."""
        with self._lock:
            yield

    def create(self, target: Target, obj: Any, options: Options) -> Written:
        """Store a new object. Errors: 400, 403, 404 (namespace), 409, 422."""
        resource = target.resource
        obj, warnings = self._decoded(obj, resource, options)
        meta = obj["metadata"]
        if meta.get("resourceVersion") and options.validate:
            raise bad_request("resourceVersion should not be set on objects to be created")
        _same_place(target, meta)
        obj["metadata"] = metadata.fill_new(meta, resource, target.namespace)
        name = obj["metadata"].get("name")
        if not isinstance(name, str) or not name:
            raise _nameless(resource)
        obj = faces.stored(resource, obj)
        with self._lock:
            self._check_namespace(target, name)
            if self._storage.get(resource.key, (target.namespace, name)):
                raise already_exists(resource.group, resource.plural, name)
            with self._admission.transaction(keep=not options.dry_run):
                obj = self._admission.create(resource, obj, validate=options.validate)
                return self._stored(201, resource, (target.namespace, name), obj, options, warnings)

    def update(self, target: Target, change: Change, options: Options, *, patch: bool = False) -> Written:
        """Store what ``change`` makes of the object. Errors: 400, 404, 409, 422."""
        resource = target.resource
        with self._lock:
            entry = self._storage.get(resource.key, target.key)
            if entry is None:
                if patch or resource.key not in CREATED_BY_UPDATE:
                    raise not_found(resource.group, resource.plural, target.name)
                return self.create(msgspec.structs.replace(target, name=""), change({}), options)
            shown = entry.copy()
            if resource.stored_as or resource.custom:
                shown = faces.shown(resource, shown)
            obj, warnings = self._decoded(change(shown), resource, options)
            _same_place(target, obj["metadata"])
            self._check_versions(target, entry, obj["metadata"])
            obj = faces.stored(resource, obj)
            old = entry.obj
            obj["metadata"] = metadata.carry_over(old["metadata"], obj["metadata"])
            obj = _only_part(old, obj, target)
            with self._admission.transaction(keep=not options.dry_run):
                obj = self._admission.update(resource, old, obj, target.subresource, validate=options.validate)
                metadata.bump_generation(old, obj, resource)
                if _finished(obj) and not options.dry_run:
                    return self._removed(resource, target.key, obj)
                return self._stored(200, resource, target.key, obj, options, warnings)

    def delete(self, target: Target, asked: JsonObject, options: Options) -> Written:
        """Delete an object, or begin to: grace and finalizers may keep it. Errors: 404, 409, 403."""
        resource = target.resource
        with self._lock:
            entry = self._storage.get(resource.key, target.key)
            if entry is None:
                raise not_found(resource.group, resource.plural, target.name)
            _check_preconditions(target, entry, asked.get("preconditions") or {})
            if resource.key == "namespaces" and target.name in _IMMORTAL:
                raise forbidden("", "namespaces", target.name, "this namespace may not be deleted")
            obj = entry.copy()
            grace_s = _grace(resource, obj, asked)
            finalizers = _finalizers(obj, asked)
            if grace_s == 0 and not finalizers and not _holds_content(resource, obj):
                return Written(200, entry) if options.dry_run else self._removed(resource, target.key, obj)
            _mark(obj, grace_s, finalizers)
            if resource.key == "namespaces":
                obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
            metadata.bump_generation(entry.obj, obj, resource)
            return self._stored(200, resource, target.key, obj, options, ())

    def remove(self, resource: Resource, key: Key) -> None:
        """Take an object away without asking (the garbage collector, an emptied namespace)."""
        with self._lock:
            entry = self._storage.get(resource.key, key)
            if entry is not None:
                self._removed(resource, key, entry.copy())

    def _decoded(self, obj: Any, resource: Resource, options: Options) -> tuple[JsonObject, tuple[str, ...]]:
        """Return the object with its envelope, conforming to its type. Errors: 400."""
        if not isinstance(obj, dict):
            raise bad_request(f"the object provided is unrecognized (must be an object): {str(obj)[:60]}")
        if (obj.get("kind") or resource.kind) != resource.kind:
            raise bad_request(
                f"{obj.get('kind')} in version {resource.version!r} cannot be handled as a {resource.kind}"
            )
        given = obj.get("apiVersion") or resource.api_version
        if given != resource.api_version:
            raise bad_request(
                f"the API version in the data ({given}) does not match the expected API version ({resource.api_version})"
            )
        if not isinstance(obj.get("metadata") or {}, dict):
            raise bad_request(
                f"json: cannot unmarshal into Go struct field {resource.kind}.metadata of type v1.ObjectMeta"
            )
        obj = metadata.envelope(obj, resource)
        if not options.validate:
            return obj, ()
        return self._conform(obj, resource, options)

    def _conform(self, obj: JsonObject, resource: Resource, options: Options) -> tuple[JsonObject, tuple[str, ...]]:
        kind = types.root(resource.api_version, resource.kind)
        conformer = Conformer()
        if kind:
            obj = conformer.conform(obj, kind, resource.kind)
            obj.setdefault("metadata", {})
        else:
            obj["metadata"] = conformer.conform(obj["metadata"], "V1ObjectMeta", "ObjectMeta")
        if not conformer.unknown or options.strict == "Ignore":
            return obj, ()
        texts = [f'unknown field "{field}"' for field in conformer.unknown]
        if options.strict == "Strict":
            message = (
                f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
                f"strict decoding error: {', '.join(texts)}"
            )
            raise bad_request(message)
        return obj, tuple(texts)

    def _check_namespace(self, target: Target, name: str) -> None:
        """Refuse what would live in a namespace that is not there, or that is going."""
        if not target.resource.namespaced:
            return
        entry = self._storage.get("namespaces", ("", target.namespace))
        if entry is None:
            raise not_found("", "namespaces", target.namespace)
        if entry.obj["metadata"].get("deletionTimestamp") and target.resource.key != "events":
            why = f"unable to create new content in namespace {target.namespace} because it is being terminated"
            raise forbidden(target.resource.group, target.resource.plural, name, why, cause="NamespaceTerminating")

    def _check_versions(self, target: Target, entry: Entry, meta: JsonObject) -> None:
        group, plural = target.resource.group, target.resource.plural
        if (version := meta.get("resourceVersion")) and version != str(entry.version):
            raise conflict(group, plural, target.name)
        uid = entry.obj["metadata"]["uid"]
        if (given := meta.get("uid")) and given != uid:
            why = f"Precondition failed: UID in precondition: {given}, UID in object meta: {uid}"
            raise conflict(group, plural, target.name, why)

    def _stored(  # noqa: PLR0917 - all of one write
        self, code: int, resource: Resource, key: Key, obj: JsonObject, options: Options, warnings: tuple[str, ...]
    ) -> Written:
        if options.dry_run:
            entry = self._storage.get(resource.key, key)
            obj["metadata"]["resourceVersion"] = str(entry.version) if entry else ""
            return Written(code, Entry(obj, encode(obj), entry.version if entry else 0), warnings)
        entry = self._storage.put(resource.key, key, obj)
        if resource.key == CRD_KEY:
            self._catalog.define(obj)
        return Written(code, entry, warnings)

    def _removed(self, resource: Resource, key: Key, obj: JsonObject) -> Written:
        """Remove the object for good. The DELETED event shows it as it was stored last, as on a real server."""
        last = self._storage.remove(resource.key, key)
        self._admission.released(resource, obj)
        if resource.key == CRD_KEY:
            self._forget(key[1])
        if resource.key == "pods" and last is not None:
            return Written(200, last)
        details = {"name": key[1], "group": resource.group, "kind": resource.plural, "uid": obj["metadata"].get("uid")}
        return Written(200, success({field: value for field, value in details.items() if value}))

    def _forget(self, definition: str) -> None:
        """Stop serving a custom resource and drop its objects."""
        for resource in self._catalog.forget(definition):
            for key, _ in self._storage.items(resource.key)[0]:
                self._storage.remove(resource.key, key)


def success(details: JsonObject) -> JsonObject:
    """Return the Status of a deletion that is done."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _nameless(resource: Resource) -> StatusError:
    from kuberouterpy.lab.api.errors import invalid

    cause = ("FieldValueRequired", "metadata.name", "Required value: name or generateName is required")
    return invalid(resource.group, resource.kind, "", [cause])


def _same_place(target: Target, meta: JsonObject) -> None:
    """Refuse an object that says it lives elsewhere than where the request went."""
    if target.name and (meta.get("name") or target.name) != target.name:
        raise bad_request(
            f"the name of the object ({meta.get('name')}) does not match the name on the URL ({target.name})"
        )
    given = meta.get("namespace") or target.namespace
    if target.resource.namespaced and given != target.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")


def _only_part(old: JsonObject, new: JsonObject, target: Target) -> JsonObject:
    """Return the object with only the part changed that this request may change."""
    resource = target.resource
    if target.subresource == "status":
        return (
            {**old, "metadata": new["metadata"], "status": new.get("status")}
            if "status" in new
            else {key: value for key, value in {**old, "metadata": new["metadata"]}.items() if key != "status"}
        )
    if "status" in resource.subresources:
        without = {key: value for key, value in new.items() if key != "status"}
        return {**without, "status": old["status"]} if "status" in old else without
    return new


def _finished(obj: JsonObject) -> bool:
    """Return whether an object that was only waiting for its finalizers may go now."""
    meta = obj["metadata"]
    if not meta.get("deletionTimestamp") or meta.get("finalizers") or meta.get("deletionGracePeriodSeconds"):
        return False
    return not (obj.get("kind") == "Namespace" and (obj.get("spec") or {}).get("finalizers"))


def _check_preconditions(target: Target, entry: Entry, wanted: JsonObject) -> None:
    group, plural = target.resource.group, target.resource.plural
    if (uid := wanted.get("uid")) and uid != entry.obj["metadata"]["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {entry.obj['metadata']['uid']}"
        raise conflict(group, plural, target.name, why)
    if (version := wanted.get("resourceVersion")) and version != str(entry.version):
        given = f"ResourceVersion in precondition: {version}"
        why = f"Precondition failed: {given}, ResourceVersion in object meta: {entry.version}"
        raise conflict(group, plural, target.name, why)


def _grace(resource: Resource, obj: JsonObject, asked: JsonObject) -> int:
    """Return how long the object stays: only pods that a kubelet runs get grace. Unit: seconds."""
    if resource.key != "pods":
        return 0
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in {"Succeeded", "Failed"}:
        return 0
    grace_s = asked.get("gracePeriodSeconds")
    if grace_s is None:
        grace_s = spec.get("terminationGracePeriodSeconds")
    grace_s = 30 if not isinstance(grace_s, int) else max(0, grace_s)
    under_way = obj["metadata"].get("deletionGracePeriodSeconds")
    return min(grace_s, under_way) if under_way is not None else grace_s


def _finalizers(obj: JsonObject, asked: JsonObject) -> list[str]:
    """Return the finalizers the object is deleted with: the propagation policy adds or takes the collector's own."""
    given = [one for one in obj["metadata"].get("finalizers") or [] if one not in {"orphan", "foregroundDeletion"}]
    policy = asked.get("propagationPolicy") or ("Orphan" if asked.get("orphanDependents") else "")
    return given + {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(policy, [])


def _holds_content(resource: Resource, obj: JsonObject) -> bool:
    return resource.key == "namespaces" and bool((obj.get("spec") or {}).get("finalizers"))


def _mark(obj: JsonObject, grace_s: int, finalizers: list[str]) -> None:
    """Note in the object that it is being deleted; a second deletion can only shorten the grace."""
    meta = obj["metadata"]
    under_way = meta.get("deletionGracePeriodSeconds")
    if not meta.get("deletionTimestamp") or (under_way is not None and grace_s < under_way):
        meta["deletionTimestamp"] = metadata.now(grace_s)
        meta["deletionGracePeriodSeconds"] = grace_s
    if finalizers:
        meta["finalizers"] = finalizers
