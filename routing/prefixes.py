"""Arithmetic of prefixes, on their canonical text."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from kuberouterpy.family import family_of


def inside(prefix: str, ranges: Iterable[str]) -> str:
    """Return the first of ``ranges`` that holds all of ``prefix`` (an address or a prefix), or an empty string."""
    wanted = _network(prefix)
    for one in ranges:
        network = _network(one)
        # Told apart by version first: subnet_of refuses to compare families.
        if wanted.version == network.version and wanted.subnet_of(network):  # type: ignore[arg-type]
            return one
    return ""


def host_prefix(address: str) -> str:
    """Return the prefix that is one address: ``10.0.0.1/32``."""
    return f"{address}/{family_of(address).host_prefix}"


def length(prefix: str) -> int:
    """Return the prefix length."""
    return _network(prefix).prefixlen


def first_address(prefix: str) -> str:
    """Return the first usable address of a prefix, the gateway that host-local gives: ``10.1.2.1`` of 10.1.2.0/24."""
    network = _network(prefix)
    return str(network.network_address if network.num_addresses == 1 else network.network_address + 1)


@lru_cache(maxsize=4096)
def _network(prefix: str) -> IPv4Network | IPv6Network:
    return ip_network(prefix)
