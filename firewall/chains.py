"""Chains: the fixed ones, and the tree that finds a pod's chain by its address (``pod_chains``).

What a new connection of a pod meets in FORWARD, and proxied in OUTPUT::

    KUBE-ROUTER-FORWARD   not to or from a pod of this host: RETURN
                          ESTABLISHED,RELATED: ACCEPT      ICMP errors, neighbour discovery: ACCEPT      INVALID: DROP
                          from a pod of this host: KUBE-ROUTER-FROM-PODS      to one: KUBE-ROUTER-TO-PODS
                          neither dropped it: ACCEPT
    KUBE-ROUTER-TO-PODS   -d 0.0.0.1/0.0.0.3: KUBE-ROUTER-TO-PODS-1       (four ways, by the last two bits)
    ...-TO-PODS-1         -d 0.0.0.4/0.0.0.12: KUBE-ROUTER-TO-PODS-11     (four ways, by the next two)
    ...-TO-PODS-11        -d 10.1.4.5: KUBE-POD-FW-...                    (forks again where there are many)
    KUBE-POD-FW-...       forget the mark; KUBE-NWPLCY-... of each policy; marked: RETURN; NFLOG; DROP
    KUBE-NWPLCY-...       -m set --match-set KUBE-SRC-... src -p tcp --dport 80: mark

Only isolated pods stand in the tree, and only connections that are new walk it: an established packet meets two rules, whatever
the number of pods. Nothing accepts before both directions are through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from msgspec import Struct

from firewall.peers import LOCAL_PODS, in_family, local_pods_set
from firewall.pod_chains import chain_of, denied_log, pod_chain_name
from firewall.policies import ALLOWED, FORGET, Direction, shortened
from kuberouterpy.cluster import Ref
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Chain, Jump, JumpKey, Object, Rule, Table
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol

FORWARD: Final = "KUBE-ROUTER-FORWARD"
OUTPUT: Final = "KUBE-ROUTER-OUTPUT"
ICMP: Final = "KUBE-ROUTER-ICMP"
INPUT: Final = "KUBE-ROUTER-INPUT"
TO_HOST: Final = "KUBE-ROUTER-TO-HOST"
UNSEEN: Final = "KUBE-ROUTER-UNSEEN"
TREES: Final = {Direction.INGRESS: "KUBE-ROUTER-TO-PODS", Direction.EGRESS: "KUBE-ROUTER-FROM-PODS"}

_RANK: Final = 100
"""Our jumps stand behind the proxy's of the same built-in chain: what passes here is accepted."""
_FORWARDED: Final = "to or from pods"
_PROXIED: Final = "proxied by this host, or from it"
_TO_HOST: Final = "from pods to this host"

SLOTS: Final = tuple(range(16))
"""Branches that are computed by themselves: the last four bits of the address, thus behind two forks."""
_SLOT_FORKS: Final = 2
_FORK_BITS: Final = 2
_WAYS: Final = range(1 << _FORK_BITS)
"""Ways at each fork. A packet that comes back from one still meets the others: few ways and many forks cost the least."""
_FORKS: Final = 6
"""Deepest fork: a chain's name has room for no more, and twelve bits tell 4,096 leaves apart."""
_LEAF: Final = 8
"""More pods than this and a chain forks."""

# Errors, without which path MTU discovery and tracing break; on IPv6 also neighbour and router discovery, without which
# nothing works (RFC 4890). Echo is left to policy: a rule without ports allows it.
_ICMP_TYPES: Final = {
    Family.IPV4: ("icmp", "--icmp-type", (3, 11, 12)),
    Family.IPV6: ("icmp6", "--icmpv6-type", (1, 2, 3, 4, 133, 134, 135, 136, 137)),
}
_DIRECTION_FLAG: Final = {Direction.INGRESS: "-d", Direction.EGRESS: "-s"}


class Isolated(Struct, frozen=True, order=True):
    """An address of an isolated pod of this host."""

    address: str
    """Canonical address."""
    pod: Ref
    """The pod that holds it."""


# --- fixed chains -----------------------------------------------------------------------------------------------------


def base(host: Host, config: Config, *, egress_to_host: bool = False) -> Iterator[Object]:
    """Yield the chains, jumps and the set that all pods share. ``egress_to_host``: some policy may deny a pod its own node."""
    for family in host.families:
        yield local_pods_set(family)
        yield chain_of(family, ICMP, _icmp_rules(family))
        for direction, name in TREES.items():
            yield from _trunk(name, 0, direction, family)
        if unseen := _unseen_rules(host, config, family):
            yield chain_of(family, UNSEEN, (denied_log("unseen"), Rule((), ("DROP",), "of a pod not seen yet")))
        yield chain_of(family, FORWARD, (*unseen, *_top_rules(family)))
        yield chain_of(family, OUTPUT, (*unseen, *_top_rules(family, own_node=True)))
        if egress_to_host:
            yield chain_of(family, TO_HOST, _to_host_rules(family))
        yield chain_of(family, INPUT, _input_rules(host, config, family, judged=egress_to_host))
        for parent, name, reason in (
            ("INPUT", INPUT, _TO_HOST),
            ("FORWARD", FORWARD, _FORWARDED),
            ("OUTPUT", OUTPUT, _PROXIED),
        ):
            key = JumpKey(family, Table.FILTER, parent, name)
            yield Jump(key, Rule((), (name,), reason), rank=_RANK)


def _top_rules(family: Family, *, own_node: bool = False) -> Iterator[Rule]:
    pods = in_family(LOCAL_PODS, family)
    source, destination = (("--match-set", pods, side) for side in ("src", "dst"))
    # order matters: each rule may rely on what the ones before it let through.
    yield Rule(
        ("-m", "set", "!", *source, "-m", "set", "!", *destination), ("RETURN",), "no pod of this host has part in it"
    )
    yield Rule(("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"), ("ACCEPT",), "of an allowed connection")
    if own_node:
        # Only here: a packet that came in from outside passes OUTPUT with a foreign source (services.md V15b).
        yield Rule(("-m", "addrtype", "--src-type", "LOCAL"), ("ACCEPT",), "a node always reaches its own pods")
    yield Rule(("-p", family.icmp), (ICMP,), "errors and neighbour discovery always pass")
    yield Rule(("-m", "conntrack", "--ctstate", "INVALID"), ("DROP",), "belongs to no connection")
    yield Rule(("-m", "set", *source), (TREES[Direction.EGRESS],), "from a pod of this host")
    yield Rule(("-m", "set", *destination), (TREES[Direction.INGRESS],), "to a pod of this host")
    yield Rule(ALLOWED, FORGET, "the mark is ours alone")
    yield Rule((), ("ACCEPT",), "allowed in both directions")


def _input_rules(host: Host, config: Config, family: Family, *, judged: bool) -> Iterator[Rule]:
    """Yield what pods meet that address this host: services are none of it, and only the cluster's policies may deny it."""
    source = ("--match-set", in_family(LOCAL_PODS, family), "src")
    yield Rule(("-m", "set", "!", *source), ("RETURN",), "not from a pod of this host")
    first, last = config.service_node_port_range
    for protocol in Protocol:
        match = ("-p", str(protocol), "-m", "addrtype", "--dst-type", "LOCAL", "--dport", f"{first}:{last}")
        yield Rule(match, ("RETURN",), "a node port: judged when its endpoint is chosen")
    # Before the ranges: one may hold the node's own addresses as well.
    for address in dict.fromkeys((*host.node_addresses, *host.addresses)) if judged else ():
        if family_of(address) is family:
            own = ("-d", f"{address}/{family.host_prefix}")
            yield from (Rule(own, (TO_HOST,), "this host"), Rule(own, ("RETURN",), "this host"))
    for prefix in (*config.service_cluster_ip_range, *config.service_external_ip_range, *config.loadbalancer_ip_range):
        if family_of(prefix) is family:
            yield Rule(("-d", prefix), ("RETURN",), "a VIP: judged when its endpoint is chosen")
    if judged:
        yield Rule((), (TO_HOST,), "this host, by another address")


def _to_host_rules(family: Family) -> Iterator[Rule]:
    yield Rule(("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"), ("RETURN",), "of an allowed connection")
    yield Rule(("-p", family.icmp), (ICMP,), "errors and neighbour discovery always pass")
    yield Rule((), (TREES[Direction.EGRESS],), "the cluster's policies may deny a pod its node")
    yield Rule(ALLOWED, FORGET, "the mark is ours alone")


def _icmp_rules(family: Family) -> Iterator[Rule]:
    module, flag, types = _ICMP_TYPES[family]
    for number in types:
        yield Rule(("-p", family.icmp, "-m", module, flag, str(number)), ("ACCEPT",), "errors and discovery")


def _unseen_rules(host: Host, config: Config, family: Family) -> tuple[Rule, ...]:
    """Return what denies addresses of this host's pod CIDRs that no known pod holds (``--netpol-default-deny``)."""
    if not config.netpol_default_deny:
        return ()
    others = ("-m", "addrtype", "!", "--src-type", "LOCAL")
    known = ("-m", "set", "!", "--match-set", in_family(LOCAL_PODS, family))
    return tuple(
        Rule((flag, cidr, *known, side, *others), (UNSEEN,), "a pod not seen yet")
        for cidr in host.cidrs(family)
        for flag, side in (("-s", "src"), ("-d", "dst"))
    )


# --- the tree ---------------------------------------------------------------------------------------------------------


def slot_of(address: str) -> int:
    """Return the branch of the tree's first fork that an address belongs to."""
    # Read from the text: every pod of the host is asked for each pod that changes, and ip_address costs microseconds.
    last = address.rpartition(":")[2] or "0" if ":" in address else address.rpartition(".")[2]
    return int(last, 16 if ":" in address else 10) & (len(SLOTS) - 1)


def branch(slot: int, isolated: Iterable[Isolated], direction: Direction, family: Family) -> Iterator[Chain]:
    """Yield the chains of one slot, for the isolated pods that belong to it.

    Shapes: addresses of one family with :func:`slot_of` equal to ``slot``; the first chain stands even when empty.
    """
    name = TREES[direction]
    for depth in range(_SLOT_FORKS):
        name = _way_name(name, _way(slot, depth))
    yield from _grow(name, tuple(sorted(isolated)), _SLOT_FORKS, direction, family)


def _trunk(name: str, depth: int, direction: Direction, family: Family) -> Iterator[Chain]:
    """Yield the forks that always stand, up to the slots."""
    yield _fork(name, _WAYS, depth, direction, family)
    if depth + 1 < _SLOT_FORKS:
        for way in _WAYS:
            yield from _trunk(_way_name(name, way), depth + 1, direction, family)


def _grow(name: str, pods: Sequence[Isolated], depth: int, direction: Direction, family: Family) -> Iterator[Chain]:
    if len(pods) <= _LEAF or depth == _FORKS:
        yield chain_of(family, name, (_pod_rule(one, direction, family) for one in pods))
        return
    split: dict[int, list[Isolated]] = {}
    for one in pods:
        split.setdefault(_way(int(ip_address(one.address)), depth), []).append(one)
    for way, some in sorted(split.items()):
        yield from _grow(_way_name(name, way), some, depth + 1, direction, family)
    yield _fork(name, sorted(split), depth, direction, family)


def _fork(name: str, ways: Iterable[int], depth: int, direction: Direction, family: Family) -> Chain:
    # A mask need not be contiguous: xtables compares (address & mask) with the wanted bits (ip_packet_match).
    make = IPv4Address if family is Family.IPV4 else IPv6Address
    mask = make(_WAYS[-1] << (_FORK_BITS * depth))
    return chain_of(
        family,
        name,
        (
            Rule((_DIRECTION_FLAG[direction], f"{make(way << (_FORK_BITS * depth))}/{mask}"), (_way_name(name, way),))
            for way in ways
        ),
    )


def _way(bits: int, depth: int) -> int:
    return (bits >> (_FORK_BITS * depth)) & _WAYS[-1]


def _way_name(name: str, way: int) -> str:
    return f"{name}{way}" if name[-1].isdigit() else f"{name}-{way}"


def _pod_rule(one: Isolated, direction: Direction, family: Family) -> Rule:
    match = (_DIRECTION_FLAG[direction], f"{one.address}/{family.host_prefix}")
    return Rule(match, (pod_chain_name(one.pod, direction),), shortened(str(one.pod)))
