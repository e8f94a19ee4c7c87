"""By which keys the items of a list are told apart, for strategic merge patches and for server-side apply.

The two differ where the API differs: a strategic merge tells container ports apart by ``containerPort`` alone.
"""

from __future__ import annotations

from typing import Final

PRIMITIVE: Final = ""
"""Items are plain values and are merged as a set."""

STRATEGIC: Final[dict[tuple[str, str], str]] = {
    ("V1ObjectMeta", "ownerReferences"): "uid",
    ("V1ObjectMeta", "finalizers"): PRIMITIVE,
    ("V1PodSpec", "containers"): "name",
    ("V1PodSpec", "initContainers"): "name",
    ("V1PodSpec", "ephemeralContainers"): "name",
    ("V1PodSpec", "volumes"): "name",
    ("V1PodSpec", "imagePullSecrets"): "name",
    ("V1PodSpec", "hostAliases"): "ip",
    ("V1PodSpec", "topologySpreadConstraints"): "topologyKey",
    ("V1PodSpec", "schedulingGates"): "name",
    ("V1PodSpec", "resourceClaims"): "name",
    ("V1Container", "ports"): "containerPort",
    ("V1Container", "env"): "name",
    ("V1Container", "volumeMounts"): "mountPath",
    ("V1Container", "volumeDevices"): "devicePath",
    ("V1EphemeralContainer", "ports"): "containerPort",
    ("V1EphemeralContainer", "env"): "name",
    ("V1EphemeralContainer", "volumeMounts"): "mountPath",
    ("V1ServiceSpec", "ports"): "port",
    ("V1ServiceStatus", "conditions"): "type",
    ("V1PodStatus", "conditions"): "type",
    ("V1PodStatus", "podIPs"): "ip",
    ("V1PodStatus", "hostIPs"): "ip",
    ("V1NodeStatus", "conditions"): "type",
    ("V1NodeStatus", "addresses"): "type",
    ("V1NodeSpec", "podCIDRs"): PRIMITIVE,
    ("V1NamespaceStatus", "conditions"): "type",
    ("V1DeploymentStatus", "conditions"): "type",
    ("V1ReplicaSetStatus", "conditions"): "type",
    ("V1DaemonSetStatus", "conditions"): "type",
    ("V1StatefulSetStatus", "conditions"): "type",
    ("V1PodDisruptionBudgetStatus", "conditions"): "type",
    ("V1ServiceAccount", "secrets"): "name",
}
"""(type, list field) -> key. Lists that are not here are replaced whole."""

APPLY: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    **{place: (key,) if key else () for place, key in STRATEGIC.items()},
    ("V1Container", "ports"): ("containerPort", "protocol"),
    ("V1EphemeralContainer", "ports"): ("containerPort", "protocol"),
    ("V1ServiceSpec", "ports"): ("port", "protocol"),
    ("V1PodSpec", "topologySpreadConstraints"): ("topologyKey", "whenUnsatisfiable"),
}
"""(type, list field) -> keys; no keys for a set of plain values. Lists that are not here are owned whole."""

APPLY_DEFAULTS: Final = {"protocol": "TCP"}
"""What a key is when an item leaves it out."""

ATOMIC_MAPS: Final = frozenset(
    {
        ("V1ServiceSpec", "selector"),
        ("V1PodSpec", "nodeSelector"),
    }
)
"""(type, map field) owned whole."""
ATOMIC_TYPES: Final = frozenset(
    {"V1LabelSelector", "V1NodeSelector", "V1ObjectReference", "V1SecretKeySelector", "V1ConfigMapKeySelector",
     "V1ObjectFieldSelector", "V1ResourceFieldSelector", "V1LocalObjectReference", "V1OwnerReference"}
)  # fmt: skip
"""Structures owned whole."""
