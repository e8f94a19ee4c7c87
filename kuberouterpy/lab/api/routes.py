"""What a path means: a resource, perhaps one object, perhaps a subresource of it."""

from __future__ import annotations

import msgspec

from kuberouterpy.lab.api.errors import no_such_path
from kuberouterpy.lab.api.resources import Catalog, Resource

_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


class Target(msgspec.Struct, frozen=True):
    """What a request is about."""

    resource: Resource
    """Kind of object."""
    namespace: str = ""
    """Namespace; empty for cluster-wide kinds and for all namespaces."""
    name: str = ""
    """Object; empty for the collection."""
    subresource: str = ""
    """As ``status``."""
    rest: str = ""
    """What follows the subresource (proxy paths)."""

    @property
    def key(self) -> tuple[str, str]:
        """Where the object is stored."""
        return self.namespace, self.name


def parse(path: str, catalog: Catalog) -> Target:
    """Return what a resource path names. Errors: 404."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise no_such_path()
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and not (len(rest) == 3 and rest[2] in _NAMESPACE_SUBRESOURCES):
        namespace, rest = rest[1], rest[2:]
    resource = catalog.find(group, version, rest[0])
    if resource is None or (namespace and not resource.namespaced):
        raise no_such_path()
    name, subresource = rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else ""
    if (
        (name and resource.namespaced and not namespace)
        or (subresource and subresource not in resource.subresources)
        or (len(rest) > 3 and subresource != "proxy")
    ):
        raise no_such_path()
    return Target(resource, namespace, name, subresource, "/".join(rest[3:]))


def verb(method: str, target: Target, *, watch: bool) -> str:
    """Return the verb as authorization and audit name it."""
    match method:
        case "GET" | "HEAD":
            if target.name:
                return "get"
            return "watch" if watch else "list"
        case "POST":
            return "create"
        case "PUT":
            return "update"
        case "PATCH":
            return "patch"
        case "DELETE":
            return "delete" if target.name else "deletecollection"
    return method.lower()
