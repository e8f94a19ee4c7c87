"""Packets of pods that leave the cluster get the node's address; packets within it keep theirs.

Two sets a family hold what the cluster is: every node's pod CIDRs and every node's addresses. Forwarding from and to the pods'
bridge is accepted at the *end* of FORWARD, for hosts whose policy there is DROP: the firewall's jump stands before it, so
nothing passes that a NetworkPolicy denies (kube-router put its accepts first, kube-router.md 6.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kuberouterpy.cluster import Node
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
from kuberouterpy.host import BRIDGE_LINK, Host, addresses_of, pod_cidrs_of

EGRESS_CHAIN: Final = "KUBE-ROUTER-POD-EGRESS"
FORWARD_CHAIN: Final = "KUBE-ROUTER-FORWARD-ACCEPT"
CHAINS: Final = frozenset({EGRESS_CHAIN, FORWARD_CHAIN})

_PODS: Final = "kube-router-pod-subnets"
_NODES: Final = "kube-router-node-ips"
_TYPES: Final = {_PODS: "hash:net", _NODES: "hash:ip"}
_RANK: Final = 50
"""Behind the proxy's jump in POSTROUTING: what goes through a virtual server is its affair."""


def set_name(name: str, family: Family) -> str:
    """Return the name of a set in a family; IPv6 sets carry kube-router's prefix."""
    return name if family is Family.IPV4 else f"inet6:{name}"


SETS: Final = frozenset(set_name(name, family) for name in _TYPES for family in Family)


def base(host: Host, config: Config) -> Iterator[Object]:
    """Yield sets, chains and jumps."""
    for family in host.families:
        for name, kind in _TYPES.items():
            yield Set(SetKey(set_name(name, family)), family, kind)
        if config.enable_pod_egress:
            yield from _egress(family)
        yield from _forwarding(family)


def of_node(node: Node, host: Host) -> Iterator[Entry]:
    """Yield a node's place in the sets."""
    name = node.ref.name
    for address in addresses_of(node):
        if family_of(address) in host.families:
            yield Entry(EntryKey(set_name(_NODES, family_of(address)), address), comment=name)
    for cidr in pod_cidrs_of(node):
        # A range that is everything would end SNAT for all pods, and hash:net refuses it.
        if family_of(cidr) in host.families and not cidr.endswith("/0"):
            yield Entry(EntryKey(set_name(_PODS, family_of(cidr)), cidr), comment=name)


def _egress(family: Family) -> Iterator[Object]:
    pods, nodes = set_name(_PODS, family), set_name(_NODES, family)
    leaving = (
        *("-m", "set", "--match-set", pods, "src"),
        *("-m", "set", "!", "--match-set", pods, "dst"),
        *("-m", "set", "!", "--match-set", nodes, "dst"),
    )
    rule = Rule(leaving, ("MASQUERADE", "--random-fully"), "from a pod to outside the cluster")
    yield Chain(ChainKey(family, Table.NAT, EGRESS_CHAIN), (rule,))
    jump = Rule((), (EGRESS_CHAIN,), "pods that leave the cluster")
    yield Jump(JumpKey(family, Table.NAT, "POSTROUTING", EGRESS_CHAIN), jump, rank=_RANK)


def _forwarding(family: Family) -> Iterator[Object]:
    accepts = (
        Rule(("-i", BRIDGE_LINK), ("ACCEPT",), "from pods"),
        Rule(("-o", BRIDGE_LINK), ("ACCEPT",), "to pods"),
    )
    yield Chain(ChainKey(family, Table.FILTER, FORWARD_CHAIN), accepts)
    jump = Rule((), (FORWARD_CHAIN,), "pods, where nothing before decided")
    yield Jump(JumpKey(family, Table.FILTER, "FORWARD", FORWARD_CHAIN), jump, first=False)
