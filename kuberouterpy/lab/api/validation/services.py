"""Services."""

from __future__ import annotations

from typing import Final

from kuberouterpy.lab.api import addresses
from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.validation import formats
from kuberouterpy.lab.api.validation.meta import labels
from kuberouterpy.lab.api.validation.report import Report

_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_FAMILIES: Final = ("IPv4", "IPv6")
_POLICIES: Final = ("SingleStack", "PreferDualStack", "RequireDualStack")
_TRAFFIC: Final = ("Cluster", "Local")
_DISTRIBUTIONS: Final = ("PreferClose", "PreferSameNode", "PreferSameZone")
_MAX_AFFINITY_S: Final = 86_400


def check(report: Report, obj: JsonObject, old: JsonObject | None) -> None:
    """Check a service."""
    spec = obj.get("spec") or {}
    kind = spec.get("type")
    headless = spec.get("clusterIP") == "None"
    if kind not in _TYPES:
        report.unsupported("spec.type", kind, _TYPES)
    if kind != "ExternalName" and not headless and not spec.get("ports"):
        report.required("spec.ports")
    if headless and kind in {"NodePort", "LoadBalancer"}:
        report.invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        _external_name(report, spec)
    else:
        _families(report, spec)
        _cluster_ips(report, spec)
    _ports(report, spec)
    _affinity(report, spec)
    labels(report, "spec.selector", spec.get("selector") or {})
    _external(report, spec)
    _balancer(report, spec, (old or {}).get("spec") or {})
    _status(report, obj.get("status") or {})


def _external_name(report: Report, spec: JsonObject) -> None:
    for field in ("clusterIP", "clusterIPs"):
        if spec.get(field):
            report.forbidden(f"spec.{field}", "may not be set for ExternalName services")
    for field in ("ipFamilies", "ipFamilyPolicy"):
        if spec.get(field):
            report.forbidden(f"spec.{field}", "may not be set for ExternalName services")
    name = spec.get("externalName", "")
    if not name:
        report.required("spec.externalName")
    else:
        report.all("spec.externalName", name, formats.subdomain(name.removesuffix(".")))


def _families(report: Report, spec: JsonObject) -> None:
    families = spec.get("ipFamilies") or []
    for index, family in enumerate(families):
        if family not in _FAMILIES:
            report.unsupported(f"spec.ipFamilies[{index}]", family, _FAMILIES)
        elif family in families[:index]:
            report.duplicate(f"spec.ipFamilies[{index}]", family)
    if len(families) > 2:
        report.too_many("spec.ipFamilies", len(families), 2)
    policy = spec.get("ipFamilyPolicy")
    if policy and policy not in _POLICIES:
        report.unsupported("spec.ipFamilyPolicy", policy, _POLICIES)


def _cluster_ips(report: Report, spec: JsonObject) -> None:
    given = spec.get("clusterIPs") or []
    if given and not spec.get("clusterIP"):
        report.invalid("spec.clusterIPs", given, "must be empty when `clusterIP` is not specified")
    elif given and given[0] != spec["clusterIP"]:
        report.invalid("spec.clusterIPs", given, "first value must match `clusterIP`")
    if len(given) > 2:
        report.too_many("spec.clusterIPs", len(given), 2)
    if "None" in given and len(given) > 1:
        report.invalid("spec.clusterIPs", given, "'None' must be the first and only value")
        return
    for index, address in enumerate(given):
        if address != "None":
            report.all(f"spec.clusterIPs[{index}]", address, formats.ip(address))
    families = [addresses.family(address) for address in given]
    if len(given) == 2 and families[0] == families[1] and families[0]:
        text = "may specify no more than one IP for each IP family"
        report.invalid("spec.clusterIPs", given, text)


def _ports(report: Report, spec: JsonObject) -> None:
    ports = spec.get("ports") or []
    names: set[str] = set()
    seen: set[tuple[object, object]] = set()
    node_ports: set[tuple[object, object]] = set()
    for index, port in enumerate(ports):
        place = f"spec.ports[{index}]"
        _port(report, place, port, spec, several=len(ports) > 1, names=names)
        key = (port.get("protocol"), port.get("port"))
        if key in seen:
            report.duplicate(place, {"port": key[1], "protocol": key[0]})
        seen.add(key)
        if number := port.get("nodePort"):
            if (port.get("protocol"), number) in node_ports:
                report.duplicate(f"{place}.nodePort", number)
            node_ports.add((port.get("protocol"), number))


def _port(report: Report, place: str, port: JsonObject, spec: JsonObject, *, several: bool, names: set[str]) -> None:
    name = port.get("name", "")
    if several and not name:
        report.required(f"{place}.name")
    elif name:
        report.all(f"{place}.name", name, formats.dns_label(name))
        if name in names:
            report.duplicate(f"{place}.name", name)
        names.add(name)
    report.all(f"{place}.port", port.get("port", 0), formats.port_number(port.get("port", 0)))
    if port.get("protocol") not in formats.PROTOCOLS:
        report.unsupported(f"{place}.protocol", port.get("protocol"), formats.PROTOCOLS)
    target = port.get("targetPort", 0)
    report.all(f"{place}.targetPort", target, formats.port(target))
    if port.get("appProtocol"):
        report.all(f"{place}.appProtocol", port["appProtocol"], formats.qualified(port["appProtocol"]))
    if port.get("nodePort") and spec.get("type") not in {"NodePort", "LoadBalancer"}:
        report.forbidden(f"{place}.nodePort", f"may not be used when `type` is '{spec.get('type')}'")


def _affinity(report: Report, spec: JsonObject) -> None:
    affinity = spec.get("sessionAffinity")
    if affinity not in {"None", "ClientIP"}:
        report.unsupported("spec.sessionAffinity", affinity, ("ClientIP", "None"))
    if affinity != "ClientIP":
        return
    timeout_s = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds", 0)
    if not 1 <= timeout_s <= _MAX_AFFINITY_S:
        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        report.invalid(field, timeout_s, f"must be greater than 0 and less than or equal to {_MAX_AFFINITY_S}")


def _external(report: Report, spec: JsonObject) -> None:
    for index, address in enumerate(spec.get("externalIPs") or []):
        report.all(f"spec.externalIPs[{index}]", address, formats.endpoint_ip(address))
    policy = spec.get("externalTrafficPolicy")
    exposed = spec.get("type") in {"NodePort", "LoadBalancer"} or bool(spec.get("externalIPs"))
    if policy and not (exposed and spec.get("type") != "ExternalName"):
        report.invalid("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services")
    elif policy and policy not in _TRAFFIC:
        report.unsupported("spec.externalTrafficPolicy", policy, _TRAFFIC)
    internal = spec.get("internalTrafficPolicy")
    if internal and internal not in _TRAFFIC:
        report.unsupported("spec.internalTrafficPolicy", internal, _TRAFFIC)
    distribution = spec.get("trafficDistribution")
    if distribution and distribution not in _DISTRIBUTIONS:
        report.unsupported("spec.trafficDistribution", distribution, _DISTRIBUTIONS)


def _balancer(report: Report, spec: JsonObject, before: JsonObject) -> None:
    balancer = spec.get("type") == "LoadBalancer"
    if spec.get("allocateLoadBalancerNodePorts") is not None and not balancer:
        report.forbidden("spec.allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'")
    if spec.get("loadBalancerSourceRanges"):
        if not balancer:
            report.forbidden("spec.loadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'")
        for index, cidr in enumerate(spec["loadBalancerSourceRanges"]):
            report.all(f"spec.loadBalancerSourceRanges[{index}]", cidr, formats.cidr(cidr.strip()))
    _balancer_class(report, spec, before)
    if spec.get("healthCheckNodePort"):
        if not (balancer and spec.get("externalTrafficPolicy") == "Local"):
            text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
            report.invalid("spec.healthCheckNodePort", spec["healthCheckNodePort"], text)
        elif (old := before.get("healthCheckNodePort")) and old != spec["healthCheckNodePort"]:
            report.invalid("spec.healthCheckNodePort", spec["healthCheckNodePort"], "field is immutable")


def _balancer_class(report: Report, spec: JsonObject, before: JsonObject) -> None:
    given, balancer = spec.get("loadBalancerClass"), spec.get("type") == "LoadBalancer"
    if given is not None and not balancer:
        report.forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'")
    elif given is not None:
        report.all("spec.loadBalancerClass", given, formats.qualified(given))
    if balancer and before.get("type") == "LoadBalancer" and given != before.get("loadBalancerClass"):
        report.invalid("spec.loadBalancerClass", given, "may not change once set")


def _status(report: Report, status: JsonObject) -> None:
    for index, ingress in enumerate((status.get("loadBalancer") or {}).get("ingress") or []):
        place = f"status.loadBalancer.ingress[{index}]"
        if ingress.get("ip"):
            report.all(f"{place}.ip", ingress["ip"], formats.ip(ingress["ip"]))
        if ingress.get("ipMode") and not ingress.get("ip"):
            report.forbidden(f"{place}.ipMode", "may not be used when `ip` is not set")
        elif ingress.get("ipMode") and ingress["ipMode"] not in {"VIP", "Proxy"}:
            report.unsupported(f"{place}.ipMode", ingress["ipMode"], ("Proxy", "VIP"))
        if ingress.get("hostname"):
            report.all(f"{place}.hostname", ingress["hostname"], formats.subdomain(ingress["hostname"]))
