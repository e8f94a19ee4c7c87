"""Discovery: what the server says about what it serves, plain and aggregated."""

from __future__ import annotations

import platform
from typing import Final

from kuberouterpy.lab.api.errors import JsonObject, no_such_path
from kuberouterpy.lab.api.resources import Catalog, Resource

VERSION: Final = "v1.32.0+kuberouterpy"
"""What the server calls itself: kubectl compares it with its own version."""
_AGGREGATED: Final = "as=APIGroupDiscoveryList"


def version() -> JsonObject:
    """Return ``/version``."""
    return {
        "major": "1",
        "minor": "32",
        "gitVersion": VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": f"python{platform.python_version()}",
        "compiler": "cpython",
        "platform": "linux/amd64",
    }


def aggregated(accept: str) -> str:
    """Return the version of aggregated discovery that a client would rather have; empty for plain discovery."""
    for part in accept.split(","):
        if _AGGREGATED in part and "application/json" in part:
            return "v2" if "v=v2;" in part + ";" else "v2beta1"
        if part.strip() == "application/json":
            return ""
    return ""


def document(catalog: Catalog, path: str, accept: str) -> tuple[JsonObject, str]:
    """Return the discovery document of a path and its content type. Errors: 404."""
    parts = [part for part in path.split("/") if part]
    wanted = aggregated(accept)
    if wanted and len(parts) == 1:
        content = f"application/json;g=apidiscovery.k8s.io;v={wanted};as=APIGroupDiscoveryList"
        return _aggregate(catalog, wanted, core=parts[0] == "api"), content
    return _plain(catalog, parts), "application/json"


def _plain(catalog: Catalog, parts: list[str]) -> JsonObject:
    match parts:
        case ["api"]:
            return {
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
            }
        case ["apis"]:
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(catalog, g) for g in _groups(catalog)],
            }
        case ["apis", group] if group in _groups(catalog):
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(catalog, group)}
        case ["api", "v1"]:
            return _resource_list("v1", _of(catalog, "", "v1"))
        case ["apis", group, served] if _of(catalog, group, served):
            return _resource_list(f"{group}/{served}", _of(catalog, group, served))
    raise no_such_path()


def _groups(catalog: Catalog) -> list[str]:
    return list(dict.fromkeys(resource.group for resource in catalog.all() if resource.group))


def _versions(catalog: Catalog, group: str) -> list[str]:
    return list(dict.fromkeys(resource.version for resource in catalog.all() if resource.group == group))


def _of(catalog: Catalog, group: str, served: str) -> list[Resource]:
    return [resource for resource in catalog.all() if (resource.group, resource.version) == (group, served)]


def _group(catalog: Catalog, group: str) -> JsonObject:
    versions = [{"groupVersion": f"{group}/{served}", "version": served} for served in _versions(catalog, group)]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def _resource_list(group_version: str, resources: list[Resource]) -> JsonObject:
    listed = [entry for resource in resources for entry in (_entry(resource), *_sub_entries(resource))]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def _entry(resource: Resource) -> JsonObject:
    entry: JsonObject = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return entry


_SUB: Final[dict[str, tuple[str, str, str, list[str]]]] = {
    "scale": ("autoscaling", "v1", "Scale", ["get", "patch", "update"]),
    "eviction": ("policy", "v1", "Eviction", ["create"]),
    "binding": ("", "v1", "Binding", ["create"]),
}
"""Subresources that are another kind than the resource."""


def _sub_entries(resource: Resource) -> list[JsonObject]:
    entries = []
    for name in resource.subresources:
        group, served, kind, verbs = _SUB.get(name, ("", "", resource.kind, ["get", "patch", "update"]))
        entry: JsonObject = {
            "name": f"{resource.plural}/{name}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": kind,
            "verbs": verbs,
        }
        if name in _SUB:
            entry |= {"group": group, "version": served} if group else {"version": served}
        entries.append(entry)
    return entries


def _aggregate(catalog: Catalog, served: str, *, core: bool) -> JsonObject:
    groups = [""] if core else _groups(catalog)
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{served}",
        "metadata": {},
        "items": [_aggregate_group(catalog, group) for group in groups],
    }


def _aggregate_group(catalog: Catalog, group: str) -> JsonObject:
    return {
        "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
        "versions": [
            {
                "version": served,
                "freshness": "Current",
                "resources": [_aggregate_resource(resource) for resource in _of(catalog, group, served)],
            }
            for served in _versions(catalog, group)
        ],
    }


def _aggregate_resource(resource: Resource) -> JsonObject:
    entry: JsonObject = {
        "resource": resource.plural,
        "responseKind": _kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = [_aggregate_sub(resource, name) for name in resource.subresources]
    return entry


def _aggregate_sub(resource: Resource, name: str) -> JsonObject:
    default = (resource.group, resource.version, resource.kind, ["get", "patch", "update"])
    group, served, kind, verbs = _SUB.get(name, default)
    return {"subresource": name, "responseKind": _kind(group, served, kind), "verbs": verbs}


def _kind(group: str, served: str, kind: str) -> JsonObject:
    return {"group": group, "version": served, "kind": kind}
