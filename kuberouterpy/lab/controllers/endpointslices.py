"""Writes the EndpointSlices of every Service that has a selector, from the Pods it selects.

Promises: one set of slices per address family of the Service; per pod the numbers that named target ports have *in that
pod*, so pods with different numbers are in different slices; conditions as the proxies' reference describes them; at most
100 endpoints a slice; only slices that differ are written. Slices with another ``managed-by`` are not touched, whatever
Service they name. Endpoints objects are neither written nor mirrored.
Source: upstream ``k8s.io/endpointslice`` (reconciler, utils, trafficdist); KEP-1672 conditions, KEP-4444 hints.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

import msgspec

from kuberouterpy.lab.client import ENDPOINT_SLICES, NODES, PODS, SERVICES, ApiError, Key, Object, Resource, key_of
from kuberouterpy.lab.controllers import packing
from kuberouterpy.lab.controllers.loop import Api, Controller, View
from kuberouterpy.lab.controllers.objects import controller_of, finished, ready, reference, turned_ready

MANAGER: Final = "endpointslice-controller.k8s.io"
SERVICE_NAME: Final = "kubernetes.io/service-name"
MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
HEADLESS: Final = "service.kubernetes.io/headless"
TRIGGER_TIME: Final = "endpoints.kubernetes.io/last-change-trigger-time"
ZONE: Final = "topology.kubernetes.io/zone"
_RESERVED: Final = frozenset({SERVICE_NAME, MANAGED_BY, HEADLESS})
_CLOSE: Final = frozenset({"PreferClose", "PreferSameZone", "PreferSameNode"})
_VERSION: Final = {"IPv4": 4, "IPv6": 6}

Ports = tuple[tuple[str, str, int, str], ...]
"""Name, protocol, number and application protocol of each port."""
EndpointKey = tuple[str, str]
"""Uid of the pod and its address: what makes an endpoint the same one."""


class Writes(msgspec.Struct):
    """What one Service's slices need."""

    create: list[Object] = []
    """Slices to create."""
    replace: list[Object] = []
    """Slices to replace, with the resourceVersion they were read at."""
    delete: list[Object] = []
    """Slices to delete."""


def controller() -> Controller:
    """Return the controller; it remembers which changes it has already told the time of."""
    seen: dict[Key, dict[str, str]] = {}

    def reconcile(view: View, api: Api, key: Key) -> None:
        _reconcile(view, api, key, seen)

    return Controller("endpointslices", _affected, reconcile)


def plan(service: Object, pods: Iterable[Object], nodes: dict[str, Object], existing: Iterable[Object]) -> Writes:
    """Return the writes that bring the Service's slices up to date.

    Shapes: ``pods`` are those of the Service's namespace; ``existing`` the slices of this Service that we manage.
    """
    existing = list(existing)
    if not selected_by_us(service):
        return Writes(delete=existing)
    types = address_types(service)
    selected = [pod for pod in pods if is_selected(service, pod)]
    writes = Writes([], [], [one for one in existing if one.get("addressType") not in types])
    for kind in types:
        mine = [one for one in existing if one.get("addressType") == kind]
        _plan_type(service, kind, _groups(service, kind, selected, nodes), mine, writes)
    return writes


def selected_by_us(service: Object) -> bool:
    """Return whether the Service's endpoints are chosen by a selector."""
    spec = service["spec"]
    return bool(spec.get("selector")) and spec.get("type") != "ExternalName" and not _leaving(service)


def address_types(service: Object) -> list[str]:
    """Return IPv4, IPv6 or both, in the Service's order; what its clusterIP is where it names no families."""
    spec = service["spec"]
    families = [family for family in spec.get("ipFamilies") or [] if family in _VERSION]
    if families:
        return families
    address = spec.get("clusterIP") or "None"
    if address == "None":
        return ["IPv4", "IPv6"]
    return ["IPv6" if ":" in address else "IPv4"]


def is_selected(service: Object, pod: Object) -> bool:
    """Return whether the pod is an endpoint, in whatever condition: labels match, it has an address, it is not finished."""
    labels = pod["metadata"].get("labels") or {}
    wanted = service["spec"]["selector"]
    return not finished(pod) and all(labels.get(key) == value for key, value in wanted.items())


def endpoint(service: Object, pod: Object, kind: str, node: Object | None) -> Object | None:
    """Return the endpoint a pod makes for one address type, without hints; None where it has no such address."""
    addresses = [one["ip"] for one in pod.get("status", {}).get("podIPs") or []]
    addresses = [one for one in addresses if ip_address(one).version == _VERSION[kind]]
    if not addresses:
        return None
    meta, spec = pod["metadata"], pod["spec"]
    serving, terminating = ready(pod), _leaving(pod)
    published = bool(service["spec"].get("publishNotReadyAddresses"))
    made: Object = {
        "addresses": addresses,
        "conditions": {
            "ready": published or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]},
    }
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        made["hostname"] = spec["hostname"]
    if spec.get("nodeName"):
        made["nodeName"] = spec["nodeName"]
    zone = ((node or {}).get("metadata", {}).get("labels") or {}).get(ZONE)
    if zone:
        made["zone"] = zone
    return made


def ports(service: Object, pod: Object) -> Ports:
    """Return the Service's ports with the numbers they have in this pod; a name the pod does not know is left out."""
    found = []
    for port in service["spec"].get("ports") or []:
        protocol = port.get("protocol", "TCP")
        number = _number(port.get("targetPort", port["port"]), protocol, pod)
        if number is not None:
            found.append((port.get("name", ""), protocol, number, port.get("appProtocol") or ""))
    return tuple(found)


def hinted(service: Object, made: Object) -> Object:
    """Return the endpoint with the hints that the Service's traffic distribution asks for; only ready ones get any."""
    distribution = service["spec"].get("trafficDistribution")
    if distribution not in _CLOSE or not made["conditions"]["ready"]:
        return made
    hints = {}
    if made.get("zone"):
        hints["forZones"] = [{"name": made["zone"]}]
    if made.get("nodeName") and distribution == "PreferSameNode":
        hints["forNodes"] = [{"name": made["nodeName"]}]
    return {**made, "hints": hints} if hints else made


def labels(service: Object) -> dict[str, str]:
    """Return the labels of the Service's slices: the Service's own and the three reserved ones."""
    own = {key: value for key, value in (service["metadata"].get("labels") or {}).items() if key not in _RESERVED}
    if (service["spec"].get("clusterIP") or "None") == "None":
        own[HEADLESS] = ""
    return {**own, SERVICE_NAME: service["metadata"]["name"], MANAGED_BY: MANAGER}


def trigger_time(service: Object, pods: Iterable[Object], seen: dict[str, str]) -> str:
    """Return when the first of the changes not told before happened, as RFC 3339; empty where there is none.

    ``seen`` (uid to time) is updated. A pod's change is its last turn of the Ready condition, a Service's its creation.
    """
    times = {service["metadata"]["uid"]: service["metadata"].get("creationTimestamp", "")}
    times |= {pod["metadata"]["uid"]: turned_ready(pod) for pod in pods}
    news = [when for uid, when in times.items() if when and when > seen.get(uid, "")]
    seen.clear()
    seen.update(times)
    if not news:
        return ""
    stamp = datetime.fromisoformat(min(news)).astimezone(UTC)
    return stamp.isoformat().replace("+00:00", "Z")


def _groups(
    service: Object, kind: str, pods: Iterable[Object], nodes: dict[str, Object]
) -> dict[Ports, dict[EndpointKey, Object]]:
    groups: dict[Ports, dict[EndpointKey, Object]] = {}
    for pod in pods:
        name = pod["spec"].get("nodeName", "")
        if name and name not in nodes and not service["spec"].get("publishNotReadyAddresses"):
            continue  # a pod of a node that is gone serves nobody
        made = endpoint(service, pod, kind, nodes.get(name))
        if made is not None:
            key = (pod["metadata"]["uid"], made["addresses"][0])
            groups.setdefault(ports(service, pod), {})[key] = hinted(service, made)
    return groups


def _plan_type(
    service: Object, kind: str, groups: dict[Ports, dict[EndpointKey, Object]], existing: list[Object], writes: Writes
) -> None:
    by_ports: dict[Ports, list[Object]] = {}
    for one in existing:
        by_ports.setdefault(_ports_of(one), []).append(one)
    # A Service without any endpoint keeps one empty slice: consumers then know that there is nothing, not that it is unknown.
    groups = groups or {(): {}}
    for wanted, desired in groups.items():
        mine = {one["metadata"]["name"]: one for one in by_ports.pop(wanted, [])}
        if not desired:
            _keep_one_empty(service, kind, list(mine.values()), writes)
            continue
        contents = {name: {_key_of(made): made for made in one.get("endpoints") or []} for name, one in mine.items()}
        packed = packing.pack(contents, desired)
        writes.create += [_slice(service, kind, wanted, list(content.values())) for content in packed.create]
        writes.delete += [mine[name] for name in packed.delete]
        for name, one in mine.items():
            if name in packed.update:
                writes.replace.append(_updated(service, one, list(packed.update[name].values())))
            elif name not in packed.delete and not _labelled(service, one):
                writes.replace.append(_updated(service, one, one.get("endpoints") or []))
    writes.delete += [one for others in by_ports.values() for one in others]


def _keep_one_empty(service: Object, kind: str, existing: list[Object], writes: Writes) -> None:
    if not existing:
        writes.create.append(_slice(service, kind, (), []))
        return
    writes.delete += existing[1:]
    if existing[0].get("endpoints") or not _labelled(service, existing[0]):
        writes.replace.append(_updated(service, existing[0], []))


def _slice(service: Object, kind: str, wanted: Ports, endpoints: list[Object]) -> Object:
    meta = service["metadata"]
    return {
        "metadata": {
            "namespace": meta["namespace"],
            "generateName": f"{meta['name']}-",
            "labels": labels(service),
            "ownerReferences": [reference(SERVICES, service)],
        },
        "addressType": kind,
        "endpoints": endpoints,
        "ports": [_port(*one) for one in wanted],
    }


def _updated(service: Object, one: Object, endpoints: list[Object]) -> Object:
    meta = {
        **one["metadata"],
        "labels": labels(service),
        "ownerReferences": [reference(SERVICES, service)],
    }
    return {**one, "metadata": meta, "endpoints": endpoints}


def _labelled(service: Object, one: Object) -> bool:
    owner = controller_of(one)
    return (
        one["metadata"].get("labels") == labels(service)
        and owner is not None
        and owner["uid"] == service["metadata"]["uid"]
    )


def _port(name: str, protocol: str, number: int, application: str) -> Object:
    port: Object = {"name": name, "protocol": protocol, "port": number}
    return {**port, "appProtocol": application} if application else port


def _ports_of(one: Object) -> Ports:
    found = one.get("ports") or []
    return tuple(
        (port.get("name") or "", port.get("protocol") or "TCP", port.get("port") or 0, port.get("appProtocol") or "")
        for port in found
    )


def _key_of(made: Object) -> EndpointKey:
    return (made.get("targetRef") or {}).get("uid", ""), made["addresses"][0]


def _number(target: int | str, protocol: str, pod: Object) -> int | None:
    if isinstance(target, int):
        return target
    spec = pod["spec"]
    sidecars = [one for one in spec.get("initContainers") or [] if one.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or []), *sidecars]:
        for port in container.get("ports") or []:
            if port.get("name") == target and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return None


def _leaving(item: Object) -> bool:
    return bool(item["metadata"].get("deletionTimestamp"))


def _affected(view: View, resource: Resource, item: Object) -> list[Key]:
    """A pod concerns the Services of its namespace that select it, a node those with pods on it, a slice its Service."""
    if resource == SERVICES:
        return [key_of(item)]
    if resource == ENDPOINT_SLICES:
        own = item["metadata"].get("labels") or {}
        return (
            [(key_of(item)[0], own[SERVICE_NAME])] if own.get(MANAGED_BY) == MANAGER and own.get(SERVICE_NAME) else []
        )
    if resource == PODS:
        services = view.all(SERVICES, key_of(item)[0])
        return [key_of(one) for one in services if _could_select(one, item)]
    if resource == NODES:
        here = [pod for pod in view.all(PODS) if pod["spec"].get("nodeName") == item["metadata"]["name"]]
        return [key for pod in here for key in _affected(view, PODS, pod)]
    return []


def _could_select(service: Object, pod: Object) -> bool:
    wanted = service["spec"].get("selector") or {}
    own = pod["metadata"].get("labels") or {}
    return bool(wanted) and all(own.get(key) == value for key, value in wanted.items())


def _reconcile(view: View, api: Api, key: Key, seen: dict[Key, dict[str, str]]) -> None:
    service = view.get(SERVICES, key)
    existing = [one for one in view.all(ENDPOINT_SLICES, key[0]) if _is_ours(one, key[1])]
    if service is None:
        seen.pop(key, None)
        for one in existing:
            api.delete(ENDPOINT_SLICES, one)
        return
    if not selected_by_us(service) and not existing:
        return
    nodes = {node["metadata"]["name"]: node for node in view.all(NODES)}
    pods = [pod for pod in view.all(PODS, key[0]) if _could_select(service, pod)]
    writes = plan(service, pods, nodes, existing)
    if not (writes.create or writes.replace or writes.delete):
        return
    told = dict(seen.get(key, {}))
    when = trigger_time(service, pods, told)
    _write(api, writes, when)
    seen[key] = told


def _write(api: Api, writes: Writes, when: str) -> None:
    """Create before delete: while endpoints move between slices they are in two rather than in none."""
    for one in writes.create:
        try:
            api.create(ENDPOINT_SLICES, _stamped(one, when))
        except ApiError as error:
            if error.status not in {403, 404}:  # the namespace is going: nothing is to be created in it
                raise
    for one in writes.replace:
        api.replace(ENDPOINT_SLICES, _stamped(one, when))
    for one in writes.delete:
        api.delete(ENDPOINT_SLICES, one)


def _stamped(one: Object, when: str) -> Object:
    annotations = dict(one["metadata"].get("annotations") or {})
    annotations.pop(TRIGGER_TIME, None)
    if when:
        annotations[TRIGGER_TIME] = when
    return {**one, "metadata": {**one["metadata"], "annotations": annotations}}


def _is_ours(one: Object, service: str) -> bool:
    own = one["metadata"].get("labels") or {}
    return own.get(MANAGED_BY) == MANAGER and own.get(SERVICE_NAME) == service and not _leaving(one)
