"""Get and list: representations, selectors, pages, lists of the past."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

import msgspec

from kuberouterpy.lab.api import faces, tables
from kuberouterpy.lab.api.errors import JsonObject, StatusError, bad_request, expired, not_found, too_large_version
from kuberouterpy.lab.api.resources import Resource
from kuberouterpy.lab.api.routes import Target
from kuberouterpy.lab.api.selectors import selection
from kuberouterpy.lab.api.storage import Compacted, Entry, Key, Storage, encode

Item = tuple[Key, Entry]
_LATEST: Final = -1  # version of a token that goes on with whatever is there now


class Form(msgspec.Struct, frozen=True):
    """How the client wants objects shown."""

    name: str = ""
    """``Table``, ``PartialObjectMetadata``, ``PartialObjectMetadataList`` or empty for the objects themselves."""
    include: str = "Metadata"
    """What table rows carry: ``None``, ``Metadata`` or ``Object``."""
    yaml: bool = False
    """Whether the answer is YAML."""


def form(accept: str, include: str) -> Form:
    """Return the first representation in ``Accept`` that can be served. Errors: 406."""
    if not accept:
        return Form()
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        wanted = dict(piece.split("=", 1) for piece in parameters if "=" in piece)
        if media == "application/yaml":
            return Form(yaml=True)
        if media not in {"application/json", "*/*", "application/*"}:
            continue
        name = wanted.get("as", "")
        if name == "":
            return Form()
        known = name in {"Table", "PartialObjectMetadata", "PartialObjectMetadataList"}
        if known and wanted.get("g") == "meta.k8s.io" and wanted.get("v") == "v1":
            return Form(name, include or "Metadata")
    raise StatusError(
        406, "NotAcceptable", "only the following media types are accepted: application/json, application/yaml"
    )


def get(storage: Storage, target: Target, shape: Form) -> bytes:
    """Return one object, encoded. Errors: 404."""
    entry = storage.get(target.resource.key, target.key)
    if entry is None:
        raise not_found(target.resource.group, target.resource.plural, target.name)
    return one(target.resource, entry, shape)


def one(resource: Resource, entry: Entry, shape: Form) -> bytes:
    """Return one object in a representation."""
    if shape.name == "Table":
        return encode(tables.table(resource, [entry.obj], shape.include, version=str(entry.version)))
    return presenter(resource, shape)(entry)


def presenter(resource: Resource, shape: Form) -> Callable[[Entry], bytes]:
    """Return the function that encodes one object in the representation asked for."""
    if shape.name.startswith("PartialObjectMetadata"):
        return lambda entry: encode(tables.partial(entry.obj))
    if resource.stored_as or resource.custom:
        return lambda entry: encode(faces.shown(resource, entry.obj))
    return lambda entry: entry.raw


def listing(storage: Storage, target: Target, query: dict[str, str], shape: Form) -> bytes:
    """Return a list, whole or one page of it. Errors: 400, 410, 504."""
    chosen = selection(
        query.get("labelSelector", ""),
        query.get("fieldSelector", ""),
        target.resource.key,
        custom=target.resource.custom,
    )
    limit = _limit(query)
    if token := query.get("continue", ""):
        version, start = _parse_token(token)
        items, version = _resume(storage, target, version, start)
        items = [item for item in items if item[0] > start]
    else:
        items, version = _at(storage, target, query)
    if chosen is not None:
        items = [item for item in items if chosen(item[1].obj)]
    meta: JsonObject = {"resourceVersion": str(version)}
    if limit and len(items) > limit:
        meta["continue"] = _token(version, items[limit - 1][0])
        if chosen is None:
            meta["remainingItemCount"] = len(items) - limit
        items = items[:limit]
    return encoded(target.resource, items, meta, shape)


def encoded(resource: Resource, items: list[Item], meta: JsonObject, shape: Form) -> bytes:
    """Return a list of objects in a representation."""
    if shape.name == "Table":
        objects = [entry.obj for _, entry in items]
        return encode(tables.table(resource, objects, shape.include, meta=meta))
    present = presenter(resource, shape)
    partial = shape.name.startswith("PartialObjectMetadata")
    head = {
        "kind": "PartialObjectMetadataList" if partial else f"{resource.kind}List",
        "apiVersion": "meta.k8s.io/v1" if partial else resource.api_version,
        "metadata": meta,
    }
    return encode(head)[:-1] + b',"items":[' + b",".join(present(entry) for _, entry in items) + b"]}"


def _limit(query: dict[str, str]) -> int:
    text = query.get("limit", "") or "0"
    if not text.lstrip("-").isdigit():
        raise bad_request(f'unable to parse limit: strconv.ParseInt: parsing "{text}": invalid syntax')
    # A real server answers resourceVersion=0 from its cache, which does not page.
    return 0 if query.get("resourceVersion") == "0" else max(0, int(text))


def _at(storage: Storage, target: Target, query: dict[str, str]) -> tuple[list[Item], int]:
    """Return the objects at the version the query asks for, and that version."""
    text = query.get("resourceVersion", "")
    wanted = parse_version(text)
    if wanted > storage.version:
        raise too_large_version(wanted, storage.version)
    if query.get("resourceVersionMatch") == "Exact" and wanted:
        try:
            return storage.items_at(target.resource.key, target.namespace, wanted), wanted
        except Compacted as error:
            raise expired("The resourceVersion for the provided list is too old.") from error
    return storage.items(target.resource.key, target.namespace)


def parse_version(text: str) -> int:
    """Return a resourceVersion as a number; empty is 0. Errors: 400."""
    if text and not text.isdigit():
        raise bad_request(f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text or "0")


def _resume(storage: Storage, target: Target, version: int, start: Key) -> tuple[list[Item], int]:
    """Return the objects at the version of a token. Errors: 410 with a token that goes on in the present."""
    if version == _LATEST:
        return storage.items(target.resource.key, target.namespace)
    try:
        return storage.items_at(target.resource.key, target.namespace, version), version
    except Compacted as error:
        raise expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
            "results. Continuing with the provided token results in an inconsistent list.",
            proceed=_token(_LATEST, start),
            version=str(storage.version),
        ) from error


def _token(version: int, key: Key) -> str:
    return base64.urlsafe_b64encode(encode({"v": "meta.k8s.io/v1", "rv": version, "start": key})).decode().rstrip("=")


def _parse_token(token: str) -> tuple[int, Key]:
    try:
        data = msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = data["start"]
        return int(data["rv"]), (str(namespace), str(name))
    except (binascii.Error, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
