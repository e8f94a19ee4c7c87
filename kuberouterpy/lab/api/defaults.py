"""What a real API server fills in when a client leaves it out. What is given, null and empty included, stays as given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.metadata import now
from kuberouterpy.lab.api.resources import Resource

SESSION_AFFINITY_S: Final = 10_800
_GRACE_S: Final = 30


def fill(resource: Resource, obj: JsonObject, *, new: bool) -> None:
    """Fill in the defaults of a kind. ``new``: the object is being created, its status begins."""
    if new and "status" in resource.subresources and not resource.status_on_create and not resource.custom:
        obj.pop("status", None)
    function = _BY_KEY.get(resource.key)
    if function:
        function(obj)
    if new and (first := _FIRST_STATUS.get(resource.key)):
        first(obj)


def _put(target: JsonObject, **values: Any) -> None:
    """Set what is absent or empty."""
    for key, value in values.items():
        if target.get(key) in (None, ""):
            target[key] = value


def _service(obj: JsonObject) -> None:
    spec = obj.setdefault("spec", {})
    _put(spec, type="ClusterIP", sessionAffinity="None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        if client.get("timeoutSeconds") is None:
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": SESSION_AFFINITY_S}}
    for port in spec.get("ports") or []:
        _put(port, protocol="TCP")
        if port.get("targetPort") in (None, "", 0):
            port["targetPort"] = port.get("port")
    if spec["type"] != "ExternalName":
        _put(spec, internalTrafficPolicy="Cluster")
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
    if spec["type"] in {"NodePort", "LoadBalancer"} or (spec["type"] == "ClusterIP" and spec.get("externalIPs")):
        _put(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _put(spec, allocateLoadBalancerNodePorts=True)
    for ingress in ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []:
        if ingress.get("ip"):
            _put(ingress, ipMode="VIP")


def _pod(obj: JsonObject) -> None:
    _pod_spec(obj.setdefault("spec", {}))
    _put(obj["spec"], serviceAccountName="default", serviceAccount=obj["spec"].get("serviceAccountName") or "default")


def _pod_spec(spec: JsonObject) -> None:
    _put(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=_GRACE_S,
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        enableServiceLinks=True,
    )
    spec.setdefault("securityContext", {})
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        _container(container, host_network=spec.get("hostNetwork") is True)


def _container(container: JsonObject, *, host_network: bool) -> None:
    image = container.get("image")
    latest = isinstance(image, str) and (":" not in image.rpartition("/")[2] or image.endswith(":latest"))
    _put(
        container,
        imagePullPolicy="Always" if latest and "@" not in str(image) else "IfNotPresent",
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    container.setdefault("resources", {})
    for port in container.get("ports") or []:
        _put(port, protocol="TCP")
        if host_network and not port.get("hostPort") and port.get("containerPort"):
            port["hostPort"] = port["containerPort"]
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(probe), dict):
            _probe(container[probe])


def _probe(probe: JsonObject) -> None:
    for field, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        if not probe.get(field):
            probe[field] = value
    if isinstance(probe.get("httpGet"), dict):
        _put(probe["httpGet"], path="/", scheme="HTTP")


def _template(obj: JsonObject) -> JsonObject:
    spec: JsonObject = obj.setdefault("spec", {})
    template = spec.get("template")
    if isinstance(template, dict):
        _pod_spec(template.setdefault("spec", {}))
    return spec


def _rolling(spec: JsonObject, field: str, values: JsonObject) -> None:
    strategy = spec.get(field) or {}
    _put(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        strategy["rollingUpdate"] = values | (strategy.get("rollingUpdate") or {})
    spec[field] = strategy


def _deployment(obj: JsonObject) -> None:
    spec = _template(obj)
    _put(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    _rolling(spec, "strategy", {"maxUnavailable": "25%", "maxSurge": "25%"})


def _replica_set(obj: JsonObject) -> None:
    _put(_template(obj), replicas=1)


def _daemon_set(obj: JsonObject) -> None:
    spec = _template(obj)
    _put(spec, revisionHistoryLimit=10)
    _rolling(spec, "updateStrategy", {"maxSurge": 0, "maxUnavailable": 1})


def _stateful_set(obj: JsonObject) -> None:
    spec = _template(obj)
    _put(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady")
    _rolling(spec, "updateStrategy", {"partition": 0})


def _network_policy(obj: JsonObject) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    # Egress only where there is at least one egress rule: an empty list does not isolate egress by itself.
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in [*(spec.get("ingress") or []), *(spec.get("egress") or [])]:
        for port in rule.get("ports") or []:
            _put(port, protocol="TCP")


def _endpoint_slice(obj: JsonObject) -> None:
    for port in obj.get("ports") or []:
        port.setdefault("name", "")
        _put(port, protocol="TCP")


def _endpoints(obj: JsonObject) -> None:
    for subset in obj.get("subsets") or []:
        for port in subset.get("ports") or []:
            _put(port, protocol="TCP")


def _namespace(obj: JsonObject) -> None:
    labels = obj["metadata"].get("labels") or {}
    obj["metadata"]["labels"] = labels | {"kubernetes.io/metadata.name": obj["metadata"]["name"]}
    spec = obj.setdefault("spec", {})
    if not obj["metadata"].get("deletionTimestamp"):
        spec.setdefault("finalizers", ["kubernetes"])


def _secret(obj: JsonObject) -> None:
    import base64

    _put(obj, type="Opaque")
    plain = obj.pop("stringData", None)
    if plain:
        coded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
        obj["data"] = (obj.get("data") or {}) | coded


def _definition(obj: JsonObject) -> None:
    spec = obj.setdefault("spec", {})
    names = spec.get("names") or {}
    _put(names, singular=str(names.get("kind", "")).lower(), listKind=f"{names.get('kind', '')}List")
    spec.setdefault("conversion", {"strategy": "None"})


def _definition_status(obj: JsonObject) -> None:
    conditions = [
        {"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": now()}
        for kind, reason in (("NamesAccepted", "NoConflicts"), ("Established", "InitialNamesAccepted"))
    ]
    stored = [version["name"] for version in obj["spec"].get("versions") or [] if version.get("storage")]
    obj["status"] = {"conditions": conditions, "acceptedNames": obj["spec"].get("names"), "storedVersions": stored}


def _pod_status(obj: JsonObject) -> None:
    obj["status"] = {"phase": "Pending", "qosClass": _quality(obj["spec"])}


def _quality(spec: JsonObject) -> str:
    resources = [container.get("resources") or {} for container in spec.get("containers") or []]
    if not any(one.get("requests") or one.get("limits") for one in resources):
        return "BestEffort"
    whole = all({"cpu", "memory"} <= set(one.get("limits") or {}) for one in resources)
    same = all((one.get("requests") or one.get("limits")) == one.get("limits") for one in resources)
    return "Guaranteed" if whole and same else "Burstable"


_BY_KEY: Final[dict[str, Callable[[JsonObject], None]]] = {
    "services": _service,
    "pods": _pod,
    "endpoints": _endpoints,
    "namespaces": _namespace,
    "secrets": _secret,
    "deployments.apps": _deployment,
    "replicasets.apps": _replica_set,
    "daemonsets.apps": _daemon_set,
    "statefulsets.apps": _stateful_set,
    "endpointslices.discovery.k8s.io": _endpoint_slice,
    "networkpolicies.networking.k8s.io": _network_policy,
    "customresourcedefinitions.apiextensions.k8s.io": _definition,
}
_FIRST_STATUS: Final[dict[str, Callable[[JsonObject], None]]] = {
    "services": lambda obj: obj.update(status={"loadBalancer": {}}),
    "pods": _pod_status,
    "namespaces": lambda obj: obj.update(status={"phase": "Active"}),
    "deployments.apps": lambda obj: obj.update(status={}),
    "replicasets.apps": lambda obj: obj.update(status={"replicas": 0}),
    "daemonsets.apps": lambda obj: obj.update(
        status={"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}
    ),
    "statefulsets.apps": lambda obj: obj.update(status={"replicas": 0, "availableReplicas": 0}),
    "customresourcedefinitions.apiextensions.k8s.io": _definition_status,
}
