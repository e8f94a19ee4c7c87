"""Network policies, endpoint slices and endpoints."""

from __future__ import annotations

from typing import Final

from kuberouterpy.lab.api import addresses
from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.validation import formats
from kuberouterpy.lab.api.validation.meta import labels, selector
from kuberouterpy.lab.api.validation.report import Report

MAX_ENDPOINTS: Final = 1_000
MAX_PORTS: Final = 20_000
"""Of one slice. The documentation says 100; the server lets this many through."""
MAX_ADDRESSES: Final = 100
_MAX_HINTS: Final = 8
_ADDRESS_TYPES: Final = ("FQDN", "IPv4", "IPv6")


def check_policy(report: Report, obj: JsonObject, _old: JsonObject | None) -> None:
    """Check a network policy."""
    spec = obj.get("spec") or {}
    selector(report, "spec.podSelector", spec.get("podSelector") or {})
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or []):
            place = f"spec.{direction}[{index}]"
            for number, port in enumerate(rule.get("ports") or []):
                _policy_port(report, f"{place}.ports[{number}]", port)
            for number, peer in enumerate(rule.get(peers) or []):
                _peer(report, f"{place}.{peers}[{number}]", peer)
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        report.invalid("spec.policyTypes", types, "may not specify more than two policyTypes")
        return
    for index, one in enumerate(types):
        if one not in {"Ingress", "Egress"}:
            report.unsupported(f"spec.policyTypes[{index}]", one, ("Egress", "Ingress"))


def _policy_port(report: Report, place: str, port: JsonObject) -> None:
    if port.get("protocol") not in formats.PROTOCOLS:
        report.unsupported(f"{place}.protocol", port.get("protocol"), formats.PROTOCOLS)
    number, end = port.get("port"), port.get("endPort")
    if number is not None:
        report.all(f"{place}.port", number, formats.port(number))
    if end is None:
        return
    if number is None:
        report.required(f"{place}.port", "may not be empty when `endPort` is specified")
    elif isinstance(number, str):
        report.required(f"{place}.endPort", "may not be specified when `port` is non-numeric")
    elif end < number:
        report.invalid(f"{place}.endPort", end, "must be greater than or equal to `port`")
    report.all(f"{place}.endPort", end, formats.port_number(end))


def _peer(report: Report, place: str, peer: JsonObject) -> None:
    selectors = 0
    for field in ("podSelector", "namespaceSelector"):
        if peer.get(field) is not None:
            selectors += 1
            selector(report, f"{place}.{field}", peer[field])
    block = peer.get("ipBlock")
    if block is None:
        if not selectors:
            report.required(place, "must specify a peer")
        return
    if selectors:
        report.forbidden(place, "may not specify both ipBlock and another peer")
    _block(report, f"{place}.ipBlock", block)


def _block(report: Report, place: str, block: JsonObject) -> None:
    if not block.get("cidr"):
        report.required(f"{place}.cidr")
        return
    whole = addresses.parse_network(block["cidr"])
    report.all(f"{place}.cidr", block["cidr"], formats.cidr(block["cidr"]))
    if whole is None:
        return
    for index, text in enumerate(block.get("except") or []):
        hole = addresses.parse_network(text)
        if hole is None:
            report.all(f"{place}.except[{index}]", text, formats.cidr(text))
        elif hole.version != whole.version or hole.prefixlen <= whole.prefixlen or hole.network_address not in whole:
            report.invalid(f"{place}.except[{index}]", text, "must be a strict subset of `cidr`")


def check_slice(report: Report, obj: JsonObject, old: JsonObject | None) -> None:
    """Check an endpoint slice. The port's number is not checked: a real server does not either."""
    kind = obj.get("addressType", "")
    if not kind:
        report.required("addressType")
    elif kind not in _ADDRESS_TYPES:
        report.unsupported("addressType", kind, _ADDRESS_TYPES)
    if old is not None and old.get("addressType") != kind:
        report.invalid("addressType", kind, "field is immutable")
    endpoints, ports = obj.get("endpoints") or [], obj.get("ports") or []
    if len(endpoints) > MAX_ENDPOINTS:
        report.too_many("endpoints", len(endpoints), MAX_ENDPOINTS)
    else:
        for index, endpoint in enumerate(endpoints):
            _endpoint(report, f"endpoints[{index}]", endpoint, kind)
    if len(ports) > MAX_PORTS:
        report.too_many("ports", len(ports), MAX_PORTS)
    else:
        _slice_ports(report, ports)


def _endpoint(report: Report, place: str, endpoint: JsonObject, kind: str) -> None:
    given = endpoint.get("addresses") or []
    if not given:
        report.required(f"{place}.addresses", "must contain at least 1 address")
    if len(given) > MAX_ADDRESSES:
        report.too_many(f"{place}.addresses", len(given), MAX_ADDRESSES)
    for index, address in enumerate(given):
        field = f"{place}.addresses[{index}]"
        if kind == "FQDN":
            report.all(field, address, formats.fqdn(address))
        elif kind in {"IPv4", "IPv6"}:
            if addresses.family(address) != kind:
                report.invalid(field, address, f"must be a valid {kind} address")
            report.all(field, address, formats.endpoint_ip(address))
    if endpoint.get("nodeName") is not None:
        report.all(f"{place}.nodeName", endpoint["nodeName"], formats.subdomain(endpoint["nodeName"]))
    if endpoint.get("hostname") is not None:
        report.all(f"{place}.hostname", endpoint["hostname"], formats.dns_label(endpoint["hostname"]))
    labels(report, f"{place}.deprecatedTopology", endpoint.get("deprecatedTopology") or {})
    hints = endpoint.get("hints") or {}
    for field in ("forZones", "forNodes"):
        _hints(report, f"{place}.hints.{field}", hints.get(field) or [])


def _hints(report: Report, place: str, given: list[JsonObject]) -> None:
    if len(given) > _MAX_HINTS:
        report.too_many(place, len(given), _MAX_HINTS)
        return
    names: set[str] = set()
    for index, one in enumerate(given):
        name = one.get("name", "")
        if name in names:
            report.duplicate(f"{place}[{index}].name", name)
        names.add(name)
        report.all(f"{place}[{index}].name", name, formats.label_value(name))


def _slice_ports(report: Report, ports: list[JsonObject]) -> None:
    names: set[str] = set()
    for index, port in enumerate(ports):
        place, name = f"ports[{index}]", port.get("name") or ""
        if name:
            report.all(f"{place}.name", name, formats.dns_label(name))
        if name in names:
            report.duplicate(f"{place}.name", name)
        names.add(name)
        if port.get("protocol") not in formats.PROTOCOLS:
            report.unsupported(f"{place}.protocol", port.get("protocol"), formats.PROTOCOLS)
        if port.get("appProtocol"):
            report.all(f"{place}.appProtocol", port["appProtocol"], formats.qualified(port["appProtocol"]))


def check_endpoints(report: Report, obj: JsonObject, _old: JsonObject | None) -> None:
    """Check endpoints of the old kind."""
    for index, subset in enumerate(obj.get("subsets") or []):
        place = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            report.required(place, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(field) or []):
                report.all(
                    f"{place}.{field}[{number}].ip", address.get("ip", ""), formats.endpoint_ip(address.get("ip", ""))
                )
        ports = subset.get("ports") or []
        for number, port in enumerate(ports):
            field = f"{place}.ports[{number}]"
            if len(ports) > 1 and not port.get("name"):
                report.required(f"{field}.name")
            report.all(f"{field}.port", port.get("port", 0), formats.port_number(port.get("port", 0)))
            if port.get("protocol") not in formats.PROTOCOLS:
                report.unsupported(f"{field}.protocol", port.get("protocol"), formats.PROTOCOLS)
