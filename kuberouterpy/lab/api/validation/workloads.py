"""Pods, what makes pods, and nodes."""

from __future__ import annotations

from typing import Final

from kuberouterpy.lab.api import addresses
from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.validation import formats
from kuberouterpy.lab.api.validation.meta import labels, selector
from kuberouterpy.lab.api.validation.report import Report

_RESTART: Final = ("Always", "Never", "OnFailure")
_EFFECTS: Final = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_MUTABLE: Final = (
    "activeDeadlineSeconds",
    "tolerations",
    "terminationGracePeriodSeconds",
    "schedulingGates",
    "ephemeralContainers",
)


def check_pod(report: Report, obj: JsonObject, old: JsonObject | None) -> None:
    """Check a pod."""
    spec = obj.get("spec") or {}
    check_pod_spec(report, "spec", spec)
    if old is not None:
        before = old.get("spec") or {}
        if _fixed(spec) != _fixed(before):
            report.forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, "
                "`spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), "
                "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
            )
    status = obj.get("status") or {}
    for index, one in enumerate(status.get("podIPs") or []):
        report.all(f"status.podIPs[{index}].ip", one.get("ip", ""), formats.ip(one.get("ip", "")))


def _fixed(spec: JsonObject) -> JsonObject:
    """Return what of a pod may not change: a node is given once, by binding."""
    fixed = {key: value for key, value in spec.items() if key not in {*_MUTABLE, "nodeName"}}
    for field in ("containers", "initContainers"):
        if field in fixed:
            fixed[field] = [
                {key: value for key, value in one.items() if key not in {"image", "resources"}}
                for one in fixed[field] or []
            ]
    return fixed


def check_pod_spec(report: Report, place: str, spec: JsonObject) -> None:
    """Check a pod's spec, in a pod or in a template."""
    if not spec.get("containers"):
        report.required(f"{place}.containers")
    if spec.get("restartPolicy") not in _RESTART:
        report.unsupported(f"{place}.restartPolicy", spec.get("restartPolicy"), _RESTART)
    if (grace_s := spec.get("terminationGracePeriodSeconds")) is not None and grace_s < 0:
        report.invalid(f"{place}.terminationGracePeriodSeconds", grace_s, "must be greater than or equal to 0")
    if spec.get("nodeName"):
        report.all(f"{place}.nodeName", spec["nodeName"], formats.subdomain(spec["nodeName"]))
    labels(report, f"{place}.nodeSelector", spec.get("nodeSelector") or {})
    names: set[str] = set()
    host_ports: set[tuple[object, ...]] = set()
    for field in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(field) or []):
            inner = f"{place}.{field}[{index}]"
            _container(report, inner, container, names, host_network=spec.get("hostNetwork") is True)
            if field == "containers":
                _host_ports(report, inner, container, host_ports)
    for index, alias in enumerate(spec.get("hostAliases") or []):
        report.all(f"{place}.hostAliases[{index}].ip", alias.get("ip", ""), formats.ip(alias.get("ip", "")))
    for index, gate in enumerate(spec.get("readinessGates") or []):
        field = f"{place}.readinessGates[{index}].conditionType"
        report.all(field, gate.get("conditionType", ""), formats.qualified(gate.get("conditionType", "")))


def _container(report: Report, place: str, container: JsonObject, names: set[str], *, host_network: bool) -> None:
    name = container.get("name", "")
    if not name:
        report.required(f"{place}.name")
    else:
        report.all(f"{place}.name", name, formats.dns_label(name))
        if name in names:
            report.duplicate(f"{place}.name", name)
        names.add(name)
    if not container.get("image"):
        report.required(f"{place}.image")
    port_names: set[str] = set()
    for index, port in enumerate(container.get("ports") or []):
        _container_port(report, f"{place}.ports[{index}]", port, port_names, host_network=host_network)
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        if container.get(probe) is not None:
            _probe(report, f"{place}.{probe}", container[probe])


def _container_port(report: Report, place: str, port: JsonObject, names: set[str], *, host_network: bool) -> None:
    if name := port.get("name"):
        report.all(f"{place}.name", name, formats.port_name(name))
        if name in names:
            report.duplicate(f"{place}.name", name)
        names.add(name)
    number = port.get("containerPort", 0)
    if not number:
        report.required(f"{place}.containerPort")
    else:
        report.all(f"{place}.containerPort", number, formats.port_number(number))
    if host := port.get("hostPort"):
        report.all(f"{place}.hostPort", host, formats.port_number(host))
        if host_network and host != number:
            report.invalid(f"{place}.containerPort", number, "must match `hostPort` when `hostNetwork` is true")
    if port.get("protocol") not in formats.PROTOCOLS:
        report.unsupported(f"{place}.protocol", port.get("protocol"), formats.PROTOCOLS)


def _host_ports(report: Report, place: str, container: JsonObject, taken: set[tuple[object, ...]]) -> None:
    for index, port in enumerate(container.get("ports") or []):
        if port.get("hostPort"):
            key = (port.get("protocol"), port.get("hostIP", ""), port["hostPort"])
            if key in taken:
                report.duplicate(f"{place}.ports[{index}].hostPort", f"{key[0]}/{key[1]}/{key[2]}")
            taken.add(key)


def _probe(report: Report, place: str, probe: JsonObject) -> None:
    handlers = [field for field in ("exec", "httpGet", "tcpSocket", "grpc") if probe.get(field) is not None]
    if not handlers:
        report.required(place, "must specify a handler type")
    for field in handlers[1:]:
        report.forbidden(f"{place}.{field}", "may not specify more than 1 handler type")
    for field in ("httpGet", "tcpSocket"):
        if probe.get(field) is not None:
            number = probe[field].get("port", 0)
            report.all(f"{place}.{field}.port", number, formats.port(number))


def check_template(report: Report, obj: JsonObject, old: JsonObject | None) -> None:
    """Check a workload: its selector and the pods it makes."""
    spec = obj.get("spec") or {}
    wanted = spec.get("selector")
    if not wanted:
        report.required("spec.selector")
        wanted = {}
    selector(report, "spec.selector", wanted)
    template = spec.get("template") or {}
    given = (template.get("metadata") or {}).get("labels") or {}
    labels(report, "spec.template.metadata.labels", given)
    if any(given.get(key) != value for key, value in (wanted.get("matchLabels") or {}).items()):
        report.invalid("spec.template.metadata.labels", given, "`selector` does not match template `labels`")
    check_pod_spec(report, "spec.template.spec", template.get("spec") or {})
    if (template.get("spec") or {}).get("restartPolicy") not in {"Always", None}:
        report.unsupported("spec.template.spec.restartPolicy", template["spec"]["restartPolicy"], ("Always",))
    if (replicas := spec.get("replicas", 0)) < 0:
        report.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
    if old is not None and (old.get("spec") or {}).get("selector") != spec.get("selector"):
        report.invalid("spec.selector", spec.get("selector"), "field is immutable")


def check_node(report: Report, obj: JsonObject, old: JsonObject | None) -> None:
    """Check a node."""
    spec = obj.get("spec") or {}
    ranges = spec.get("podCIDRs") or []
    for index, cidr in enumerate(ranges):
        report.all(f"spec.podCIDRs[{index}]", cidr, formats.cidr(cidr))
    if spec.get("podCIDR") and ranges and ranges[0] != spec["podCIDR"]:
        report.invalid("spec.podCIDRs", ranges, "first value must match `podCIDR`")
    networks = [addresses.parse_network(cidr) for cidr in ranges]
    versions = [network.version for network in networks if network]
    if len(ranges) > 2 or len(set(versions)) != len(versions):
        report.invalid("spec.podCIDRs", ranges, "may specify no more than one CIDR for each IP family")
    for index, taint in enumerate(spec.get("taints") or []):
        report.all(f"spec.taints[{index}].key", taint.get("key", ""), formats.qualified(taint.get("key", "")))
        if taint.get("effect") not in _EFFECTS:
            report.unsupported(f"spec.taints[{index}].effect", taint.get("effect"), _EFFECTS)
    before = ((old or {}).get("spec") or {}).get("podCIDRs")
    if before and before != ranges:
        report.forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')
    for index, address in enumerate((obj.get("status") or {}).get("addresses") or []):
        if not address.get("address"):
            report.required(f"status.addresses[{index}].address")
