"""The table of what is served: groups, versions, kinds, verbs and subresources; and the kinds that CRDs add to it."""

from __future__ import annotations

from typing import Final

import msgspec

from kuberouterpy.lab.api.errors import JsonObject

VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
REVIEW: Final = ("create",)


class Resource(msgspec.Struct, frozen=True):
    """One kind of object and how it is served."""

    group: str
    """API group, empty for core."""
    version: str
    """Version within the group."""
    plural: str
    """Path segment."""
    kind: str
    """Kind in objects."""
    namespaced: bool = True
    """Whether objects live in a namespace."""
    short: tuple[str, ...] = ()
    """Names that kubectl users type."""
    categories: tuple[str, ...] = ()
    """``all`` puts it into ``kubectl get all``."""
    subresources: tuple[str, ...] = ()
    """As ``status`` and ``scale``."""
    verbs: tuple[str, ...] = VERBS
    """What may be done with it; a review can only be created."""
    generation: bool = False
    """Whether ``metadata.generation`` counts changes of the wish."""
    status_on_create: bool = False
    """Whether a new object may bring its status (nodes do)."""
    stored_as: str = ""
    """Storage key of another resource that holds the same objects (events have two faces)."""
    custom: bool = False
    """Whether a CRD defines it."""
    schema: JsonObject | None = None
    """OpenAPI schema of a custom resource."""

    @property
    def key(self) -> str:
        """Where its objects are stored: ``plural.group``."""
        return self.stored_as or (f"{self.plural}.{self.group}" if self.group else self.plural)

    @property
    def api_version(self) -> str:
        """``group/version``, or the version alone in core."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        """Name of one."""
        return self.kind.lower()

    @property
    def stored(self) -> bool:
        """Whether objects of it exist at all (a review is answered and forgotten)."""
        return self.verbs != REVIEW


_ALL: Final = ("all",)
_STATUS: Final = ("status",)
_SCALED: Final = ("status", "scale")

_CORE: Final = (
    Resource(
        "", "v1", "pods", "Pod", short=("po",), categories=_ALL, generation=True,
        subresources=("status", "binding", "eviction", "log", "exec", "attach", "portforward", "proxy"),
    ),
    Resource("", "v1", "services", "Service", short=("svc",), categories=_ALL, subresources=("status", "proxy")),
    Resource("", "v1", "endpoints", "Endpoints", short=("ep",)),
    Resource(
        "", "v1", "nodes", "Node", namespaced=False, short=("no",), subresources=("status", "proxy"), status_on_create=True
    ),
    Resource("", "v1", "namespaces", "Namespace", namespaced=False, short=("ns",), subresources=("status", "finalize")),
    Resource("", "v1", "configmaps", "ConfigMap", short=("cm",)),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "serviceaccounts", "ServiceAccount", short=("sa",)),
    Resource("", "v1", "events", "Event", short=("ev",)),
)  # fmt: skip
_APPS: Final = (
    Resource(
        "apps", "v1", "deployments", "Deployment",
        short=("deploy",), categories=_ALL, subresources=_SCALED, generation=True,
    ),
    Resource(
        "apps", "v1", "replicasets", "ReplicaSet",
        short=("rs",), categories=_ALL, subresources=_SCALED, generation=True,
    ),
    Resource(
        "apps", "v1", "daemonsets", "DaemonSet",
        short=("ds",), categories=_ALL, subresources=_STATUS, generation=True,
    ),
    Resource(
        "apps", "v1", "statefulsets", "StatefulSet",
        short=("sts",), categories=_ALL, subresources=_SCALED, generation=True,
    ),
    Resource("apps", "v1", "controllerrevisions", "ControllerRevision"),
)  # fmt: skip
_RBAC: Final = tuple(
    Resource("rbac.authorization.k8s.io", "v1", plural, kind, namespaced=namespaced)
    for plural, kind, namespaced in (
        ("clusterroles", "ClusterRole", False),
        ("clusterrolebindings", "ClusterRoleBinding", False),
        ("roles", "Role", True),
        ("rolebindings", "RoleBinding", True),
    )
)
_REVIEWS: Final = tuple(
    Resource(group, "v1", plural, kind, namespaced=False, verbs=REVIEW)
    for group, plural, kind in (
        ("authentication.k8s.io", "tokenreviews", "TokenReview"),
        ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
        ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
        ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
        ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    )
)
_OTHERS: Final = (
    Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition",
             namespaced=False, short=("crd", "crds"), subresources=_STATUS, generation=True),
    Resource("coordination.k8s.io", "v1", "leases", "Lease"),
    Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", generation=True),
    Resource("events.k8s.io", "v1", "events", "Event", short=("ev",), stored_as="events"),
    Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short=("netpol",), generation=True),
    Resource("networking.k8s.io", "v1", "ingresses", "Ingress", short=("ing",), subresources=_STATUS, generation=True),
    Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False, generation=True),
    Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget",
             short=("pdb",), subresources=_STATUS, generation=True),
    # Stored only: manifests bring them, and kubectl apply --prune asks for them.
    Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False, short=("pv",), subresources=_STATUS),
    Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), subresources=_STATUS),
    Resource("", "v1", "replicationcontrollers", "ReplicationController", short=("rc",), subresources=_STATUS),
    Resource("", "v1", "resourcequotas", "ResourceQuota", short=("quota",), subresources=_STATUS),
    Resource("", "v1", "limitranges", "LimitRange", short=("limits",)),
    Resource("batch", "v1", "jobs", "Job", subresources=_STATUS, generation=True),
    Resource("batch", "v1", "cronjobs", "CronJob", short=("cj",), subresources=_STATUS, generation=True),
    Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False, short=("sc",)),
    Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, short=("pc",)),
)  # fmt: skip

BUILT_IN: Final = (*_CORE, *_APPS, *_RBAC, *_REVIEWS, *_OTHERS)
"""Everything served before any CRD is stored."""

CRD_KEY: Final = "customresourcedefinitions.apiextensions.k8s.io"
"""Storage key of the resource whose objects define resources."""


class Catalog:
    """What is served now. CRDs change it; readers take the whole table, so they need no lock."""

    def __init__(self) -> None:
        self._custom: dict[str, tuple[Resource, ...]] = {}
        self._table: dict[tuple[str, str, str], Resource] = {}
        self._rebuild()

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """Return the resource at ``/apis/GROUP/VERSION/PLURAL``, if it is served."""
        return self._table.get((group, version, plural))

    def by_key(self, key: str) -> Resource | None:
        """Return the resource stored under a key."""
        for resource in self._table.values():
            if resource.key == key and not resource.stored_as:
                return resource
        return None

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """Return the resource of a kind, as an owner reference names it."""
        for resource in self._table.values():
            if resource.kind == kind and resource.api_version == api_version:
                return resource
        return None

    def all(self) -> list[Resource]:
        """Return every resource, built-in ones first."""
        return list(self._table.values())

    def define(self, definition: JsonObject) -> None:
        """Serve what a CRD defines."""
        self._custom = {**self._custom, definition["metadata"]["name"]: tuple(_custom(definition))}
        self._rebuild()

    def forget(self, name: str) -> tuple[Resource, ...]:
        """Stop serving what the CRD of this name defined; return that."""
        gone = self._custom.get(name, ())
        self._custom = {key: value for key, value in self._custom.items() if key != name}
        self._rebuild()
        return gone

    def _rebuild(self) -> None:
        table = {(r.group, r.version, r.plural): r for rs in self._custom.values() for r in rs}
        self._table = {(r.group, r.version, r.plural): r for r in BUILT_IN} | {
            key: r for key, r in table.items() if not any(b.group == r.group and b.plural == r.plural for b in BUILT_IN)
        }


def _custom(definition: JsonObject) -> list[Resource]:
    """Return one resource for each served version. All versions share objects (conversion strategy None)."""
    spec = definition["spec"]
    names = spec["names"]
    served = []
    for version in spec.get("versions") or []:
        if not version.get("served"):
            continue
        subresources = tuple(sorted((version.get("subresources") or {}).keys()))
        served.append(
            Resource(
                spec["group"],
                version["name"],
                names["plural"],
                names["kind"],
                namespaced=spec.get("scope") == "Namespaced",
                short=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=subresources,
                generation=True,
                custom=True,
                schema=(version.get("schema") or {}).get("openAPIV3Schema"),
            )
        )
    return served
