"""What the origin of a packet decides before IPVS sees it: who is inside this node, and who may come at all.

``externalTrafficPolicy: Local`` means two sets of servers for one address (services.md 0.5): clients from outside get the
endpoints of this node, pods of this node and the node itself get all. The address's virtual server holds the first; a
firewall-mark virtual server holds the second, and packets from inside are marked::

    mangle PREROUTING   -s <pod CIDR of this node>   -j SET --map-set kube-router-inside dst,dst --map-mark
    mangle OUTPUT                                    -j SET --map-set kube-router-inside dst,dst --map-mark

The set holds (address, port) -> mark, so this is one rule whatever the number of Services, and one look into a hash for packets
from inside; packets from outside meet the comparison with the pod CIDR only.

``loadBalancerSourceRanges`` drop in silence, on load-balancer addresses only, whoever asks (services.md P12)::

    filter INPUT    -m set --match-set kube-router-ranged dst,dst    -j KUBE-ROUTER-RANGES      pods and clients outside
    mangle OUTPUT   -m set --match-set kube-router-ranged dst,dst    -j KUBE-ROUTER-RANGES      the node: V14 says why here
    KUBE-ROUTER-RANGES   -m set ! --match-set kube-router-ranges dst,dst,src   -j DROP

A node that asks a VIP has the VIP itself for its source (V15), so each restricted address has an entry for itself as the
source: it is allowed where a range holds an address of this node, else an exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Final

from kuberouterpy.dataplane import Chain, ChainKey, Entry, EntryKey, Jump, JumpKey, Object, Rule, Set, SetKey, Table
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol
from proxy.masquerade import MAX_ELEMENTS, set_name

PODS_CHAIN: Final = "KUBE-ROUTER-FROM-POD"
NODE_CHAIN: Final = "KUBE-ROUTER-FROM-NODE"
RANGES_CHAIN: Final = "KUBE-ROUTER-RANGES"
CHAINS: Final = frozenset({PODS_CHAIN, NODE_CHAIN, RANGES_CHAIN})

_INSIDE: Final = "kube-router-inside"
_RANGED: Final = "kube-router-ranged"
_RANGES: Final = "kube-router-ranges"
_TYPES: Final = {_INSIDE: "hash:ip,port", _RANGED: "hash:ip,port", _RANGES: "hash:ip,port,net"}
SETS: Final = frozenset(set_name(name, family) for name in _TYPES for family in Family)
_FIRST: Final = -10
"""Before our other jumps: what is dropped need not be marked."""


def base(host: Host) -> Iterator[Object]:
    """Yield the sets, chains and jumps every Service shares."""
    for family in host.families:
        for name, type_ in _TYPES.items():
            yield Set(SetKey(set_name(name, family)), family, type_, max_elements=MAX_ELEMENTS, marks=name == _INSIDE)
        inside = set_name(_INSIDE, family)
        mark = ("SET", "--map-set", inside, "dst,dst", "--map-mark")
        from_pods = (Rule(("-s", cidr), mark, "pods of this node use all endpoints") for cidr in host.cidrs(family))
        from_node = (Rule((), mark, "this node uses all endpoints"),)
        yield from _hooked(family, "PREROUTING", PODS_CHAIN, tuple(from_pods), "what pods send to Services")
        yield from _hooked(family, "OUTPUT", NODE_CHAIN, from_node, "what this node sends to Services")
        yield from _restrict(family)


def inside_entry(address: str, port: int, protocol: Protocol, mark: int, *, reason: str) -> Entry:
    """Return what leads clients inside this node from an address and port to the virtual server of ``mark``."""
    key = EntryKey(set_name(_INSIDE, family_of(address)), f"{address},{protocol}:{port}")
    return Entry(key, comment=reason, mark=mark)


def range_entries(
    address: str, port: int, protocol: Protocol, ranges: Iterable[str], host: Host, *, reason: str
) -> Iterator[Entry]:
    """Yield what restricts an address and port to clients in ``ranges``; ranges of the other family do not count.

    Without a range of its family an address is open, as in Kubernetes' own proxy.
    """
    family = family_of(address)
    mine = tuple(one for one in ranges if family_of(one) is family)
    if not mine:
        return
    head = f"{address},{protocol}:{port}"
    yield Entry(EntryKey(set_name(_RANGED, family), head), comment=reason)
    suffix = f"/{family.host_prefix}"
    allowed = {one.removesuffix(suffix) for one in mine if one != family.everything}
    if family.everything in mine:
        allowed.update(family.halves)
    allowed.discard(address)
    name = set_name(_RANGES, family)
    yield from (Entry(EntryKey(name, f"{head},{one}"), comment=reason) for one in sorted(allowed))
    own = (ip_address(one) for one in (*host.node_addresses, *host.addresses) if family_of(one) is family)
    networks = tuple(map(ip_network, mine))
    admitted = any(one in network for one in own for network in networks)
    yield Entry(EntryKey(name, f"{head},{address}"), comment=reason, nomatch=not admitted)


def _restrict(family: Family) -> Iterator[Object]:
    outside = ("-m", "set", "!", "--match-set", set_name(_RANGES, family), "dst,dst,src")
    restricted = ("-m", "set", "--match-set", set_name(_RANGED, family), "dst,dst")
    for table, hook in ((Table.FILTER, "INPUT"), (Table.MANGLE, "OUTPUT")):
        yield Chain(ChainKey(family, table, RANGES_CHAIN), (Rule(outside, ("DROP",), "outside the source ranges"),))
        jump = Rule(restricted, (RANGES_CHAIN,), "to a load balancer with source ranges")
        yield Jump(JumpKey(family, table, hook, RANGES_CHAIN), jump, rank=_FIRST)


def _hooked(family: Family, hook: str, chain: str, rules: tuple[Rule, ...], reason: str) -> Iterator[Object]:
    yield Chain(ChainKey(family, Table.MANGLE, chain), rules)
    yield Jump(JumpKey(family, Table.MANGLE, hook, chain), Rule((), (chain,), reason))
