"""Source addresses and refusals: a handful of static rules over sets, never a rule per Service.

A proxied packet is masqueraded when its reply would otherwise miss this node, and when the client is the endpoint itself
(hairpin). It keeps its source when the client is a pod of this node, and for external clients of ``Local`` services, whose
endpoints are on this node. Replies of local endpoints pass here anyway.

VIPs stand on a dummy link, so any daemon of the host that listens on every address would answer on every VIP: unused ports
of VIPs are refused (services.md P6).

Order of things (P9): sets, chains and jumps come before addresses and virtual servers in ``dataplane.KINDS``, so a client
never meets a VIP whose SNAT is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Final

from kuberouterpy.config import Config
from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    Entry,
    EntryKey,
    Jump,
    JumpKey,
    Object,
    Rule,
    Set,
    SetKey,
    Table,
)
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol

MASQUERADE_CHAIN: Final = "KUBE-ROUTER-SERVICES-MASQ"
SERVICES_CHAIN: Final = "KUBE-ROUTER-SERVICES"
UNALLOCATED_CHAIN: Final = "KUBE-ROUTER-UNALLOCATED"
CHAINS: Final = frozenset({MASQUERADE_CHAIN, SERVICES_CHAIN, UNALLOCATED_CHAIN})

_VIPS: Final = "kube-router-svip"
_VIP_PORTS: Final = "kube-router-svip-prt"
_HAIRPIN: Final = "kube-router-hairpin"
_LOCAL: Final = "kube-router-local-ep"
_TYPES: Final = {_VIPS: "hash:ip", _VIP_PORTS: "hash:ip,port", _HAIRPIN: "hash:ip,port,ip", _LOCAL: "hash:ip,port"}
MAX_ELEMENTS: Final = 1048576
"""A limit, not an allocation: 10,000 Services with several ports and addresses must fit."""
_DEFAULT_RANGES: Final = Config().service_cluster_ip_range
_NEW: Final = ("-m", "conntrack", "--ctstate", "NEW")
_UNUSED: Final = "no Service listens here, and the host must not"
_PROXIED: Final = ("-m", "ipvs", "--ipvs", "--vdir", "ORIGINAL", "--vmethod", "MASQ")


def set_name(name: str, family: Family) -> str:
    """Return the name of a set in a family; IPv6 sets carry kube-router's prefix."""
    return name if family is Family.IPV4 else f"inet6:{name}"


SETS: Final = frozenset(set_name(name, family) for name in (*_TYPES, "kube-router-local-ips") for family in Family)
"""Ours to delete: those made here, and the one that only kube-router had use for."""


def base(host: Host, config: Config) -> Iterator[Object]:
    """Yield the sets, chains and jumps every Service shares."""
    for family in host.families:
        for name, type_ in _TYPES.items():
            yield Set(SetKey(set_name(name, family)), family, type_, max_elements=MAX_ELEMENTS)
        yield from _masquerade(family, host, config)
        yield from _refuse(family, config)
        yield from _drop_unallocated(family, host, config)


def vip_entries(address: str, port: int, protocol: Protocol, *, reason: str) -> Iterator[Entry]:
    """Yield what marks an address as a VIP and a port of it as used."""
    yield vip_entry(address)
    yield Entry(EntryKey(set_name(_VIP_PORTS, family_of(address)), f"{address},{protocol}:{port}"), comment=reason)


def vip_entry(address: str) -> Entry:
    """Return what marks an address as a VIP, whose ports are refused."""
    return Entry(EntryKey(set_name(_VIPS, family_of(address)), address))


def endpoint_entries(
    address: str, port: int, protocol: Protocol, *, reason: str, keeps_source: bool
) -> Iterator[Entry]:
    """Yield the entries of an endpoint on this node: its hairpin, and whether external clients keep their source."""
    family = family_of(address)
    yield hairpin_entry(address, port, protocol)
    if keeps_source:
        yield Entry(EntryKey(set_name(_LOCAL, family), f"{address},{protocol}:{port}"), comment=reason)


def hairpin_entry(address: str, port: int, protocol: Protocol) -> Entry:
    """Return what gives an endpoint of this node another source when it is its own client."""
    return Entry(EntryKey(set_name(_HAIRPIN, family_of(address)), f"{address},{protocol}:{port},{address}"))


def _masquerade(family: Family, host: Host, config: Config) -> Iterator[Object]:
    rules = [_match(_HAIRPIN, family, "dst,dst,src", ("MASQUERADE",), "the client is the endpoint")]
    if not config.masquerade_all:
        rules += [
            Rule(("-s", cidr), ("RETURN",), "a pod of this node keeps its address") for cidr in host.cidrs(family)
        ]
        local = _match(_LOCAL, family, "dst,dst", ("RETURN",), "externalTrafficPolicy Local keeps the client")
        rules.append(Rule(("-m", "addrtype", "!", "--src-type", "LOCAL", *local.match), local.target, local.reason))
    rules.append(Rule((), ("MASQUERADE", "--random-fully"), "the reply must come back here"))
    yield Chain(ChainKey(family, Table.NAT, MASQUERADE_CHAIN), tuple(rules))
    jump = Rule(_PROXIED, (MASQUERADE_CHAIN,), "connections through a virtual server")
    yield Jump(JumpKey(family, Table.NAT, "POSTROUTING", MASQUERADE_CHAIN), jump)


def _refuse(family: Family, config: Config) -> Iterator[Object]:
    rules: list[Rule] = []
    if config.ipvs_permit_all:
        icmp_reject = "icmp-port-unreachable" if family is Family.IPV4 else "icmp6-port-unreachable"
        rules = [
            Rule(("-p", family.icmp), ("RETURN",), "VIPs answer ping and hear of errors"),
            _match(_VIP_PORTS, family, "dst,dst", ("RETURN",), "a port of a Service"),
            # A reset waits for a client that is still inside connect(); an ICMPv6 error on the same host is lost on it.
            Rule(("-p", "tcp", *_NEW), ("REJECT", "--reject-with", "tcp-reset"), _UNUSED),
            Rule(_NEW, ("REJECT", "--reject-with", icmp_reject), _UNUSED),
        ]
    yield Chain(ChainKey(family, Table.FILTER, SERVICES_CHAIN), tuple(rules))
    match = ("-m", "set", "--match-set", set_name(_VIPS, family), "dst")
    for parent in ("INPUT", "OUTPUT"):
        jump = Rule(match, (SERVICES_CHAIN,), "to a VIP")
        yield Jump(JumpKey(family, Table.FILTER, parent, SERVICES_CHAIN), jump)


def _drop_unallocated(family: Family, host: Host, config: Config) -> Iterator[Object]:
    """Yield what drops packets for cluster IPs that no Service has, which would circle between this node and its router.

    A VIP never comes this way: here it is local, and what a process of this node sends to it is rewritten before. The default
    range is not believed, nor one with addresses of this host: a network that is none of the cluster's may be in it.
    """
    ranges = [one for one in config.cluster_ip_ranges(family) if one not in _DEFAULT_RANGES]
    known = (*host.node_addresses, *host.addresses, *(cidr.partition("/")[0] for cidr in host.cidrs(family)))
    for cidr in ranges:
        network = ip_network(cidr)
        if any(ip_address(one) in network for one in known if family_of(one) is family):
            continue
        yield Chain(ChainKey(family, Table.FILTER, UNALLOCATED_CHAIN), (Rule((), ("DROP",), "no Service has it"),))
        match = ("-d", cidr, "-m", "set", "!", "--match-set", set_name(_VIPS, family), "dst")
        for parent in ("FORWARD", "OUTPUT"):
            jump = Rule(match, (UNALLOCATED_CHAIN,), "a cluster IP that no Service has")
            yield Jump(JumpKey(family, Table.FILTER, parent, UNALLOCATED_CHAIN), jump)


def _match(name: str, family: Family, flags: str, target: tuple[str, ...], reason: str) -> Rule:
    return Rule(("-m", "set", "--match-set", set_name(name, family), flags), target, reason)
