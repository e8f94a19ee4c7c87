"""The two address families, and every fact that differs between them in one table.

A family is a value in keys, never a branch or a second class: code says ``for family in host.families``.
"""

from __future__ import annotations

from enum import IntEnum
from ipaddress import ip_address, ip_network
from typing import Final


class Family(IntEnum):
    """IPv4 or IPv6; the value is the IP version."""

    IPV4 = 4
    IPV6 = 6

    @property
    def af(self) -> int:
        """Linux address family number (AF_INET, AF_INET6)."""
        return _AF[self]

    @property
    def host_prefix(self) -> int:
        """Prefix length of a single address: 32 or 128."""
        return _HOST_PREFIX[self]

    @property
    def ipset(self) -> str:
        """Family word of ``ipset create``: inet or inet6."""
        return _IPSET[self]

    @property
    def restore(self) -> str:
        """Program that loads rules: iptables-restore or ip6tables-restore."""
        return _RESTORE[self]

    @property
    def save(self) -> str:
        """Program that prints rules: iptables-save or ip6tables-save."""
        return _SAVE[self]

    @property
    def icmp(self) -> str:
        """Protocol word of ``iptables -p``: icmp or ipv6-icmp."""
        return _ICMP[self]

    @property
    def halves(self) -> tuple[str, str]:
        """The two /1 prefixes that cover everything: ``hash:net`` refuses a prefix length of 0."""
        return _HALVES[self]

    @property
    def everything(self) -> str:
        """The default prefix, 0.0.0.0/0 or ::/0."""
        return "0.0.0.0/0" if self is Family.IPV4 else "::/0"

    @property
    def suffix(self) -> str:
        """Word that ends the name of a per-family object: ``-4`` or ``-6``."""
        return "-4" if self is Family.IPV4 else "-6"


_AF: Final = {Family.IPV4: 2, Family.IPV6: 10}
_HOST_PREFIX: Final = {Family.IPV4: 32, Family.IPV6: 128}
_IPSET: Final = {Family.IPV4: "inet", Family.IPV6: "inet6"}
_RESTORE: Final = {Family.IPV4: "iptables-restore", Family.IPV6: "ip6tables-restore"}
_SAVE: Final = {Family.IPV4: "iptables-save", Family.IPV6: "ip6tables-save"}
_ICMP: Final = {Family.IPV4: "icmp", Family.IPV6: "ipv6-icmp"}
_HALVES: Final = {Family.IPV4: ("0.0.0.0/1", "128.0.0.0/1"), Family.IPV6: ("::/1", "8000::/1")}

IPV4: Final = Family.IPV4
IPV6: Final = Family.IPV6
FAMILIES: Final = (Family.IPV4, Family.IPV6)


def family_of(address: str) -> Family:
    """Return the family of canonical address or prefix text; a colon decides."""
    return Family.IPV6 if ":" in address else Family.IPV4


def canonical_address(text: str) -> str:
    """Return the one spelling of an address that keys use.

    IPv4-mapped IPv6 text becomes IPv4, as the API's own parser does, and leading zeros are read as decimal
    (CVE-2021-29923: reading them as octal gives another address).
    Errors: ValueError names the text.
    """
    try:
        address = ip_address(text)
    except ValueError:
        address = ip_address(_without_leading_zeros(text))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def canonical_prefix(text: str) -> str:
    """Return the one spelling of a prefix that keys use; host bits are cleared.

    Errors: ValueError names the text; a bare address is refused, since the API's CIDR fields refuse it too.
    """
    address, slash, length = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} has no prefix length")
    return str(ip_network(f"{canonical_address(address)}/{length}", strict=False))


def _without_leading_zeros(text: str) -> str:
    octets = text.split(".")
    if len(octets) != 4 or not all(octet.isascii() and octet.isdigit() for octet in octets):
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address")
    return ".".join(str(int(octet)) for octet in octets)
