"""What a service account may do, from the RBAC objects that are stored: the agent runs here with the rights of its manifest.

Only service accounts are judged; everybody else in a lab is its administrator. Nothing is cached: objects are few, and a right
that was taken away is gone with the next request.
Source: kubernetes.io/docs/reference/access-authn-authz/rbac.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from kuberouterpy.lab.api.errors import forbidden
from kuberouterpy.lab.api.routes import Target
from kuberouterpy.lab.api.storage import Storage

ACCOUNT: Final = "system:serviceaccount:"
"""What the name of a service account as a user begins with; namespace and name follow."""
_GROUP: Final = "rbac.authorization.k8s.io"


def refuse(storage: Storage, user: str, target: Target, verb: str) -> None:
    """Return where ``user`` may do this. Errors: 403 in the words of a real API server."""
    if not user.startswith(ACCOUNT) or any(_allows(rule, target, verb) for rule in rules(storage, user, target)):
        return
    resource = target.resource
    what = f"{resource.plural}/{target.subresource}" if target.subresource else resource.plural
    where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
    raise forbidden(
        resource.group,
        resource.plural,
        target.name,
        f'User "{user}" cannot {verb} resource "{what}" in API group "{resource.group}" {where}',
    )


def rules(storage: Storage, user: str, target: Target) -> Iterator[dict[str, Any]]:
    """Yield the rules that bind ``user`` where ``target`` is."""
    bindings = list(_items(storage, "clusterrolebindings", ""))
    if target.namespace:
        bindings += _items(storage, "rolebindings", target.namespace)
    for binding in bindings:
        if any(_is(subject, user) for subject in binding.get("subjects") or ()):
            role = binding["roleRef"]
            plural, namespace = ("roles", target.namespace) if role["kind"] == "Role" else ("clusterroles", "")
            entry = storage.get(_key(plural), (namespace, role["name"]))
            yield from (entry.obj.get("rules") or ()) if entry else ()


def _items(storage: Storage, plural: str, namespace: str) -> Iterable[dict[str, Any]]:
    return (entry.obj for _, entry in storage.items(_key(plural), namespace)[0])


def _key(plural: str) -> str:
    return f"{plural}.{_GROUP}"


def _is(subject: dict[str, Any], user: str) -> bool:
    namespace, _, name = user.removeprefix(ACCOUNT).partition(":")
    match subject.get("kind"):
        case "ServiceAccount":
            return (subject.get("namespace"), subject.get("name")) == (namespace, name)
        case "Group":
            groups = ("system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{namespace}")
            return subject.get("name") in groups
    return subject.get("kind") == "User" and subject.get("name") == user


def _allows(rule: dict[str, Any], target: Target, verb: str) -> bool:
    what = f"{target.resource.plural}/{target.subresource}" if target.subresource else target.resource.plural
    wanted = (("verbs", {verb, "*"}), ("apiGroups", {target.resource.group, "*"}), ("resources", {what, "*"}))
    names = rule.get("resourceNames")
    return all(accepted & set(rule.get(key) or ()) for key, accepted in wanted) and (not names or target.name in names)
