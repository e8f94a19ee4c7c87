"""The columns of each kind, as a real server shows them. ``Age`` is filled in by ``tables``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kuberouterpy.lab.api.errors import JsonObject

Head = tuple[str, int]
"""Column name and priority; 1 is shown only with ``-o wide``."""
_NONE: Final = "<none>"


def _name(obj: JsonObject) -> str:
    return str(obj["metadata"]["name"])


def _pod(obj: JsonObject) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    states = status.get("containerStatuses") or []
    ready = sum(1 for one in states if one.get("ready"))
    restarts = sum(int(one.get("restartCount") or 0) for one in states)
    gates = spec.get("readinessGates") or []
    met = {one.get("type") for one in status.get("conditions") or [] if one.get("status") == "True"}
    shown_gates = f"{sum(gate.get('conditionType') in met for gate in gates)}/{len(gates)}" if gates else _NONE
    return [
        _name(obj), f"{ready}/{len(spec.get('containers') or [])}", _pod_state(obj, status, states), str(restarts),
        status.get("podIP") or _NONE, spec.get("nodeName") or _NONE, status.get("nominatedNodeName") or _NONE, shown_gates,
    ]  # fmt: skip


def _pod_state(obj: JsonObject, status: JsonObject, states: list[JsonObject]) -> str:
    state = status.get("reason") or status.get("phase") or "Unknown"
    for one in reversed(states):
        inner = one.get("state") or {}
        waiting, ended = inner.get("waiting") or {}, inner.get("terminated") or {}
        if waiting.get("reason"):
            state = waiting["reason"]
        elif ended:
            state = ended.get("reason") or f"ExitCode:{ended.get('exitCode', 0)}"
    if obj["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return str(state)


def _service(obj: JsonObject) -> list[Any]:
    spec = obj.get("spec") or {}
    ports = [
        f"{port.get('port')}{':' + str(port['nodePort']) if port.get('nodePort') else ''}/{port.get('protocol', 'TCP')}"
        for port in spec.get("ports") or []
    ]
    return [
        _name(obj), spec.get("type"), spec.get("clusterIP") or _NONE, _external(obj, spec), ",".join(ports) or _NONE,
        _pairs(spec.get("selector")),
    ]  # fmt: skip


def _external(obj: JsonObject, spec: JsonObject) -> str:
    external = list(spec.get("externalIPs") or [])
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName"))
    if spec.get("type") == "LoadBalancer":
        balancer = (obj.get("status") or {}).get("loadBalancer") or {}
        external = [one.get("ip") or one.get("hostname") for one in balancer.get("ingress") or []] + external
        return ",".join(external) or "<pending>"
    return ",".join(external) or _NONE


def _pairs(selector: JsonObject | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((selector or {}).items())) or _NONE


def _selector(selector: JsonObject | None) -> str:
    selector = selector or {}
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or []:
        values = ",".join(sorted(one.get("values") or []))
        match one.get("operator"):
            case "In":
                parts.append(f"{one['key']} in ({values})")
            case "NotIn":
                parts.append(f"{one['key']} notin ({values})")
            case "Exists":
                parts.append(str(one["key"]))
            case "DoesNotExist":
                parts.append(f"!{one['key']}")
    return ",".join(parts) or _NONE


def _node(obj: JsonObject) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ready = next((one for one in status.get("conditions") or [] if one.get("type") == "Ready"), None)
    state = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    if spec.get("unschedulable"):
        state += ",SchedulingDisabled"
    prefix = "node-role.kubernetes.io/"
    labels = obj["metadata"].get("labels") or {}
    roles = sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix))
    info = status.get("nodeInfo") or {}
    by_type: dict[str, str] = {}
    for one in status.get("addresses") or []:
        by_type.setdefault(one.get("type"), one.get("address"))
    return [
        _name(obj), state, ",".join(roles) or _NONE, info.get("kubeletVersion", ""),
        by_type.get("InternalIP", _NONE), by_type.get("ExternalIP", _NONE), info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>", info.get("containerRuntimeVersion") or "<unknown>",
    ]  # fmt: skip


def _slice(obj: JsonObject) -> list[Any]:
    ports = [str(port["port"]) if port.get("port") is not None else "*" for port in obj.get("ports") or []]
    addresses = [address for one in obj.get("endpoints") or [] for address in one.get("addresses") or []]
    return [_name(obj), obj.get("addressType"), _few(ports, "<unset>"), _few(addresses, "<unset>")]


def _few(items: list[str], empty: str) -> str:
    if not items:
        return empty
    return ",".join(items[:3]) + (f" + {len(items) - 3} more..." if len(items) > 3 else "")


def _endpoints(obj: JsonObject) -> list[Any]:
    found = []
    for subset in obj.get("subsets") or []:
        ports = subset.get("ports") or []
        for address in subset.get("addresses") or []:
            ip = f"[{address['ip']}]" if ":" in address["ip"] and ports else address["ip"]
            found += [f"{ip}:{port['port']}" for port in ports] or [ip]
    return [_name(obj), _few(found, _NONE)]


def _deployment(obj: JsonObject) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        _name(obj), f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}", str(status.get("updatedReplicas", 0)),
        str(status.get("availableReplicas", 0)), *_template(spec), _selector(spec.get("selector")),
    ]  # fmt: skip


def _replica_set(obj: JsonObject) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        _name(obj), str(spec.get("replicas", 0)), str(status.get("replicas", 0)), str(status.get("readyReplicas", 0)),
        *_template(spec), _selector(spec.get("selector")),
    ]  # fmt: skip


def _daemon_set(obj: JsonObject) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    pod = (spec.get("template") or {}).get("spec") or {}
    counts = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    return [
        _name(obj), *(str(status.get(count, 0)) for count in counts), _pairs(pod.get("nodeSelector")), *_template(spec),
        _selector(spec.get("selector")),
    ]  # fmt: skip


def _stateful_set(obj: JsonObject) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [_name(obj), f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}", *_template(spec)]


def _template(spec: JsonObject) -> tuple[str, str]:
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers") or []
    return ",".join(str(c.get("name")) for c in containers), ",".join(str(c.get("image")) for c in containers)


def _event(obj: JsonObject) -> list[Any]:
    from kuberouterpy.lab.api.tables import since

    about = obj.get("involvedObject") or {}
    series = obj.get("series") or {}
    seen = (
        series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("eventTime") or obj.get("firstTimestamp")
        or obj["metadata"].get("creationTimestamp")
    )  # fmt: skip
    source = (obj.get("source") or {}).get("component") or obj.get("reportingComponent", "")
    return [
        since(seen), obj.get("type", ""), obj.get("reason", ""),
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}", about.get("fieldPath", ""), source,
        str(obj.get("message", "")).strip(), str(obj.get("count") or series.get("count") or 1), _name(obj),
    ]  # fmt: skip


def _ingress(obj: JsonObject) -> list[Any]:
    spec = obj.get("spec") or {}
    hosts = [rule.get("host") or "*" for rule in spec.get("rules") or []]
    balancer = (obj.get("status") or {}).get("loadBalancer") or {}
    addresses = [one.get("ip") or one.get("hostname") for one in balancer.get("ingress") or []]
    ports = "80, 443" if spec.get("tls") else "80"
    return [_name(obj), spec.get("ingressClassName") or _NONE, _few(hosts, "*"), ",".join(addresses), ports]


def _heads(plain: str, wide: str = "") -> tuple[Head, ...]:
    return tuple((name, 0) for name in plain.split()) + tuple((name, 1) for name in wide.split("|") if name)


_WORKLOAD: Final = "Containers|Images|Selector"

LAYOUTS: Final[dict[str, tuple[tuple[Head, ...], Callable[[JsonObject], list[Any]]]]] = {
    "pods": (_heads("Name Ready Status Restarts Age", "IP|Node|Nominated Node|Readiness Gates"), _pod),
    "services": (_heads("Name Type Cluster-IP External-IP Port(s) Age", "Selector"), _service),
    "endpoints": (_heads("Name Endpoints Age"), _endpoints),
    "nodes": (
        _heads("Name Status Roles Age Version", "Internal-IP|External-IP|OS-Image|Kernel-Version|Container-Runtime"),
        _node,
    ),
    "namespaces": (_heads("Name Status Age"), lambda o: [_name(o), (o.get("status") or {}).get("phase", "")]),
    "configmaps": (
        _heads("Name Data Age"),
        lambda o: [_name(o), str(len(o.get("data") or {}) + len(o.get("binaryData") or {}))],
    ),
    "secrets": (_heads("Name Type Data Age"), lambda o: [_name(o), o.get("type", ""), str(len(o.get("data") or {}))]),
    "serviceaccounts": (_heads("Name Secrets Age"), lambda o: [_name(o), str(len(o.get("secrets") or []))]),
    "events": (
        (
            ("Last Seen", 0), ("Type", 0), ("Reason", 0), ("Object", 0), ("Subobject", 1), ("Source", 1), ("Message", 0),
            ("Count", 1), ("Name", 1),
        ),
        _event,
    ),
    "deployments.apps": (_heads("Name Ready Up-to-date Available Age", _WORKLOAD), _deployment),
    "replicasets.apps": (_heads("Name Desired Current Ready Age", _WORKLOAD), _replica_set),
    "daemonsets.apps": (
        (
            *_heads("Name Desired Current Ready Up-to-date Available"), ("Node Selector", 0), ("Age", 0),
            *_heads("", _WORKLOAD),
        ),
        _daemon_set,
    ),
    "statefulsets.apps": (_heads("Name Ready Age", "Containers|Images"), _stateful_set),
    "endpointslices.discovery.k8s.io": (_heads("Name AddressType Ports Endpoints Age"), _slice),
    "networkpolicies.networking.k8s.io": (
        _heads("Name Pod-Selector Age"),
        lambda o: [_name(o), _selector((o.get("spec") or {}).get("podSelector"))],
    ),
    "ingresses.networking.k8s.io": (_heads("Name Class Hosts Address Ports Age"), _ingress),
    "leases.coordination.k8s.io": (
        _heads("Name Holder Age"),
        lambda o: [_name(o), (o.get("spec") or {}).get("holderIdentity") or ""],
    ),
    "customresourcedefinitions.apiextensions.k8s.io": (
        (("Name", 0), ("Created At", 0)),
        lambda o: [_name(o), o["metadata"].get("creationTimestamp", "")],
    ),
    "rolebindings.rbac.authorization.k8s.io": (
        _heads("Name Role Age"),
        lambda o: [_name(o), f"{o['roleRef']['kind']}/{o['roleRef']['name']}"],
    ),
    "clusterrolebindings.rbac.authorization.k8s.io": (
        _heads("Name Role Age"),
        lambda o: [_name(o), f"{o['roleRef']['kind']}/{o['roleRef']['name']}"],
    ),
}  # fmt: skip
"""Storage key -> columns and the function that gives their cells, ``Age`` left out."""
