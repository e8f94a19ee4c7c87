"""OpenAPI, as much as kubectl asks for before it sends an object.

A new kubectl reads ``/openapi/v3`` to learn that the server itself validates fields (the ``fieldValidation`` parameter); an
old one reads ``/openapi/v2`` in protobuf and skips the validation of kinds that are not in it. Strategic merge is not offered
in the patch operations, so kubectl computes its patches by its own built-in types, which is what these kinds are.
"""

from __future__ import annotations

from typing import Final

from kuberouterpy.lab.api.discovery import VERSION
from kuberouterpy.lab.api.errors import JsonObject, no_such_path
from kuberouterpy.lab.api.resources import Catalog, Resource
from kuberouterpy.lab.api.schema import types

V2_PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_TITLE: Final = "Kubernetes"


def v2_protobuf() -> bytes:
    """Return a minimal OpenAPI v2 Document in protobuf.

    Fields: ``swagger`` 1, ``info`` 2 (``title`` 1, ``version`` 2), ``paths`` 8.
    """
    info = _field(1, _TITLE.encode()) + _field(2, VERSION.encode())
    return _field(1, b"2.0") + _field(2, info) + _field(8, b"")


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def v2() -> JsonObject:
    """Return the minimal OpenAPI v2 document as JSON."""
    return {"swagger": "2.0", "info": {"title": _TITLE, "version": VERSION}, "paths": {}, "definitions": {}}


def v3_index(catalog: Catalog) -> JsonObject:
    """Return ``/openapi/v3``: where the document of each group and version is."""
    paths = dict.fromkeys(_path(resource) for resource in catalog.all())
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def v3(catalog: Catalog, path: str) -> JsonObject:
    """Return the OpenAPI v3 document of one group and version. Errors: 404."""
    resources = [resource for resource in catalog.all() if _path(resource) == path]
    if not resources:
        raise no_such_path()
    schemas: JsonObject = {}
    for resource in resources:
        _describe(resource, schemas)
    return {
        "openapi": "3.0.0",
        "info": {"title": _TITLE, "version": VERSION},
        "paths": {url: operations for resource in resources for url, operations in _operations(resource)},
        "components": {"schemas": schemas},
    }


def _path(resource: Resource) -> str:
    return f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}"


def _operations(resource: Resource) -> list[tuple[str, JsonObject]]:
    base = f"/{_path(resource)}" + ("/namespaces/{namespace}" if resource.namespaced else "") + f"/{resource.plural}"
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string"}}
        for name in ("dryRun", "fieldManager", "fieldValidation")
    ]
    media = {"application/json": {"schema": {"$ref": f"#/components/schemas/{_name(resource)}"}}}

    def operation(action: str, *, patch: bool = False) -> JsonObject:
        body = {"application/merge-patch+json": {"schema": {"type": "object"}}} if patch else media
        return {
            "parameters": parameters,
            "requestBody": {"content": body, "required": True},
            "responses": {"200": {"description": "OK", "content": media}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
        }

    collection: JsonObject = {"post": operation("post")}
    if not resource.stored:
        return [(base, collection)]
    return [
        (base, collection),
        (f"{base}/{{name}}", {"put": operation("put"), "patch": operation("patch", patch=True)}),
    ]


def _name(resource: Resource) -> str:
    return types.root(resource.api_version, resource.kind) or f"{resource.group}.{resource.version}.{resource.kind}"


def _describe(resource: Resource, schemas: JsonObject) -> None:
    """Add the schema of a kind and of everything it is made of."""
    kind = types.root(resource.api_version, resource.kind)
    if not kind:
        schemas[_name(resource)] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    else:
        _add(kind, schemas)
    schemas[_name(resource)]["x-kubernetes-group-version-kind"] = [
        {"group": resource.group, "version": resource.version, "kind": resource.kind}
    ]


def _add(kind: str, schemas: JsonObject) -> None:
    if kind in schemas:
        return
    properties: JsonObject = {}
    schemas[kind] = {"type": "object", "properties": properties}
    if needed := sorted(types.required(kind)):
        schemas[kind]["required"] = needed
    for field, inner in types.fields(kind).items():
        properties[field] = _schema(inner)
        named = inner.lstrip("[{")
        if named not in types.SCALARS:
            _add(named, schemas)


_SCALARS: Final[dict[str, JsonObject]] = {
    "s": {"type": "string"},
    "i": {"type": "integer"},
    "n": {"type": "number"},
    "b": {"type": "boolean"},
    "t": {"type": "string", "format": "date-time"},
    "q": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "p": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
    "*": {"x-kubernetes-preserve-unknown-fields": True},
}


def _schema(kind: str) -> JsonObject:
    match kind[0]:
        case "[":
            return {"type": "array", "items": _schema(kind[1:])}
        case "{":
            return {"type": "object", "additionalProperties": _schema(kind[1:])}
    return _SCALARS.get(kind) or {"allOf": [{"$ref": f"#/components/schemas/{kind}"}]}
