"""What the origin of a packet decides before IPVS sees it: who is inside this node, and who may come at all.

``externalTrafficPolicy: Local`` means two sets of servers for one address (services.md 0.5): clients from outside get the
endpoints of this node, pods of this node and the node itself get all. The address's virtual server holds the first; a
firewall-mark virtual server holds the second, and packets from inside are marked::

    mangle PREROUTING   -s <pod CIDR of this node>   -j SET --map-set kube-router-inside dst,dst --map-mark
    mangle OUTPUT                                    -j SET --map-set kube-router-inside dst,dst --map-mark

The set holds (address, port) -> mark, so this is one rule whatever the number of Services, and one look into a hash for packets
from inside; packets from outside meet the comparison with the pod CIDR only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kuberouterpy.dataplane import Chain, ChainKey, Entry, EntryKey, Jump, JumpKey, Object, Rule, Set, SetKey, Table
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol
from proxy.masquerade import MAX_ELEMENTS, set_name

PODS_CHAIN: Final = "KUBE-ROUTER-FROM-POD"
NODE_CHAIN: Final = "KUBE-ROUTER-FROM-NODE"
CHAINS: Final = frozenset({PODS_CHAIN, NODE_CHAIN})

_INSIDE: Final = "kube-router-inside"
SETS: Final = frozenset(set_name(name, family) for name in (_INSIDE,) for family in Family)


def base(host: Host) -> Iterator[Object]:
    """Yield the sets, chains and jumps every Service shares."""
    for family in host.families:
        inside = set_name(_INSIDE, family)
        yield Set(SetKey(inside), family, "hash:ip,port", max_elements=MAX_ELEMENTS, marks=True)
        mark = ("SET", "--map-set", inside, "dst,dst", "--map-mark")
        from_pods = (Rule(("-s", cidr), mark, "pods of this node use all endpoints") for cidr in host.cidrs(family))
        from_node = (Rule((), mark, "this node uses all endpoints"),)
        yield from _hooked(family, "PREROUTING", PODS_CHAIN, tuple(from_pods), "what pods send to Services")
        yield from _hooked(family, "OUTPUT", NODE_CHAIN, from_node, "what this node sends to Services")


def inside_entry(address: str, port: int, protocol: Protocol, mark: int, *, reason: str) -> Entry:
    """Return what leads clients inside this node from an address and port to the virtual server of ``mark``."""
    key = EntryKey(set_name(_INSIDE, family_of(address)), f"{address},{protocol}:{port}")
    return Entry(key, comment=reason, mark=mark)


def _hooked(family: Family, hook: str, chain: str, rules: tuple[Rule, ...], reason: str) -> Iterator[Object]:
    yield Chain(ChainKey(family, Table.MANGLE, chain), rules)
    yield Jump(JumpKey(family, Table.MANGLE, hook, chain), Rule((), (chain,), reason))
