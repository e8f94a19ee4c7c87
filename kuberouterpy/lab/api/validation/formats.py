"""Formats of names, labels, ports and addresses. Each function returns what is wrong, nothing where all is right."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from kuberouterpy.lab.api import addresses

PROTOCOLS: Final = ("TCP", "UDP", "SCTP")
"""Protocols of ports."""

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE: Final = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_PORT_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

Problems = list[str]


def _check(value: str, pattern: re.Pattern[str], limit: int, what: str) -> Problems:
    problems = [f"must be no more than {limit} characters"] if len(value) > limit else []
    if not pattern.fullmatch(value):
        problems.append(f"{what} (regex used for validation is '{pattern.pattern}')")
    return problems


def dns_label(value: str) -> Problems:
    """RFC 1123 label: namespaces, port names, container names."""
    return _check(
        value,
        _LABEL,
        63,
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
        "and must start and end with an alphanumeric character",
    )


def dns_1035_label(value: str) -> Problems:
    """RFC 1035 label: services."""
    return _check(
        value,
        _LABEL_1035,
        63,
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
        "character, and end with an alphanumeric character",
    )


def subdomain(value: str) -> Problems:
    """RFC 1123 subdomain: most objects."""
    return _check(
        value,
        _SUBDOMAIN,
        253,
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
        "and must start and end with an alphanumeric character",
    )


def path_segment(value: str) -> Problems:
    """A name that only must fit into a path: RBAC."""
    if value in {".", ".."}:
        return [f"may not be '{value}'"]
    return [f"may not contain '{char}'" for char in "/%" if char in value]


def qualified(value: str) -> Problems:
    """A label key or a finalizer: ``[prefix/]name``."""
    prefix, slash, name = value.rpartition("/")
    problems = []
    if "/" in prefix or (slash and not prefix):
        problems.append("a qualified name must be a name with an optional DNS subdomain prefix and '/'")
    elif slash:
        problems += [f"prefix part {text}" for text in subdomain(prefix)]
    if not name:
        return [*problems, "name part must be non-empty"]
    text = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
    return problems + [f"name part {problem}" for problem in _check(name, _QUALIFIED, 63, text)]


def label_value(value: str) -> Problems:
    """The value of a label, which may be empty."""
    return _check(
        value,
        _LABEL_VALUE,
        63,
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
        "and must start and end with an alphanumeric character",
    )


def port_number(value: int) -> Problems:
    """A port."""
    return [] if 1 <= value <= 65_535 else ["must be between 1 and 65535, inclusive"]


def port_name(value: str) -> Problems:
    """An IANA service name: container ports and what refers to them."""
    problems = ["must be no more than 15 characters"] if len(value) > 15 else []
    if not _PORT_NAME.fullmatch(value):
        problems.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    elif not re.search("[a-z]", value):
        problems.append("must contain at least one letter (a-z)")
    if "--" in value:
        problems.append("must not contain consecutive hyphens")
    return problems


def port(value: int | str) -> Problems:
    """A port by number or by name."""
    return port_number(value) if isinstance(value, int) else port_name(value)


def ip(value: str) -> Problems:
    """An address of either family."""
    return [] if addresses.parse(value) else ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]


def cidr(value: str) -> Problems:
    """A network of either family."""
    return [] if addresses.parse_network(value) else ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]


def endpoint_ip(value: str) -> Problems:
    """An address that traffic may be sent to: none that means the host itself or one link."""
    address = addresses.parse(value)
    if address is None:
        return ip(value)
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    problems = []
    if address.is_unspecified:
        problems.append(f"may not be unspecified ({value})")
    if address.is_loopback:
        problems.append("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if address.is_link_local:
        problems.append("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if any(address in network for network in _LINK_LOCAL_MULTICAST if network.version == address.version):
        problems.append("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    return problems


_LINK_LOCAL_MULTICAST: Final = (ipaddress.ip_network("224.0.0.0/24"), ipaddress.ip_network("ff02::/16"))


def fqdn(value: str) -> Problems:
    """A name with at least two labels, a trailing dot allowed."""
    name = value.removesuffix(".")
    if "." not in name:
        return ["should be a domain with at least two segments separated by dots"]
    return subdomain(name)
