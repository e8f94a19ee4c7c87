"""Sets: what policies match addresses by, what they are called, and what a pod puts into them.

A set's name is a hash of *what it means* (a selector, a named port, a list of blocks), never of where it is used: policies
share it, and an edit makes another set and flips the chain to it, instead of changing a set under a standing rule. While
two rules of a policy swap their peers, no packet meets the one's ports with the other's peers.

``KUBE-SRC-`` holds addresses of pods and blocks, whichever direction asks; ``KUBE-DST-`` pairs of address and port.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

import msgspec

from kuberouterpy.cluster import IpBlock, Node, NodeSelector, Pod
from kuberouterpy.dataplane import Entry, EntryKey, Set, SetKey
from kuberouterpy.family import Family, family_of
from kuberouterpy.names import hashed
from kuberouterpy.store import NamedPort, PodSet

LOCAL_PODS: Final = "kube-router-local-pods"
"""Addresses of the pods of this host that policy can mean."""
SET_PREFIXES: Final = ("KUBE-SRC-", "KUBE-DST-")
"""Begin the names of our hashed sets."""

_IPV6_PREFIX: Final = "inet6:"
_MAX_PODS: Final = 1_048_576
"""A limit, not an allocation: more pods than any cluster has."""
_COMMENT_BYTES: Final = 250

Network = IPv4Network | IPv6Network


def in_family(name: str, family: Family) -> str:
    """Return the name of a set in a family."""
    return name if family is Family.IPV4 else _IPV6_PREFIX + name


def without_family(name: str) -> str:
    """Return the name of a set without its family's prefix."""
    return name.removeprefix(_IPV6_PREFIX)


# --- sets of pods -----------------------------------------------------------------------------------------------------


def pod_set_name(pods: PodSet, family: Family) -> str:
    """Return the name of the set of a selector or of a named port."""
    # JSON, not str(): equal names for selectors that only print alike would join two tenants' pods.
    meaning = msgspec.json.encode(pods).decode()
    if isinstance(pods, NamedPort):
        return in_family(hashed("KUBE-DST-", "port", meaning), family)
    return in_family(hashed("KUBE-SRC-", "pods", meaning), family)


def pod_set(pods: PodSet, family: Family) -> Set:
    """Return the set of a selector or of a named port; pods bring the entries."""
    kind = "hash:ip,port" if isinstance(pods, NamedPort) else "hash:ip"
    return Set(SetKey(pod_set_name(pods, family)), family, kind, max_elements=_MAX_PODS)


def pod_entries(pods: PodSet, pod: Pod, address: str) -> Iterator[Entry]:
    """Yield what a pod of the set puts into it for one of its addresses; without a port of the name, nothing."""
    name = pod_set_name(pods, family_of(address))
    comment = str(pod.ref)[:_COMMENT_BYTES]
    if isinstance(pods, NamedPort):
        numbers = {port.port for port in pod.ports if (port.name, port.protocol) == (pods.name, pods.protocol)}
        for number in sorted(numbers):
            yield Entry(EntryKey(name, f"{address},{pods.protocol}:{number}"), comment)
    else:
        yield Entry(EntryKey(name, address), comment)


def local_pods_set(family: Family) -> Set:
    """Return the set of this host's pods."""
    return Set(SetKey(in_family(LOCAL_PODS, family)), family, "hash:ip")


def local_pod_entry(pod: Pod, address: str) -> Entry:
    """Return what a pod of this host puts into the set of them."""
    return Entry(EntryKey(in_family(LOCAL_PODS, family_of(address)), address), str(pod.ref)[:_COMMENT_BYTES])


# --- sets of nodes ----------------------------------------------------------------------------------------------------


def node_set_name(nodes: NodeSelector, family: Family) -> str:
    """Return the name of the set of a selector of nodes."""
    return in_family(hashed("KUBE-SRC-", "nodes", msgspec.json.encode(nodes).decode()), family)


def node_set(selected: NodeSelector, nodes: Iterable[Node], family: Family) -> Iterator[Set | Entry]:
    """Yield the set of a selector of nodes, with the addresses of the ``nodes`` that it means."""
    name = node_set_name(selected, family)
    yield Set(SetKey(name), family, "hash:ip", max_elements=_MAX_PODS)
    addresses = {
        one.address: node.ref.name
        for node in sorted(nodes, key=lambda node: node.ref)
        if selected.nodes.matches(node.labels)
        for one in node.addresses
        if family_of(one.address) is family
    }
    for address, node_name in addresses.items():
        yield Entry(EntryKey(name, address), node_name[:_COMMENT_BYTES])


# --- sets of blocks ---------------------------------------------------------------------------------------------------


class Blocks(msgspec.Struct, frozen=True):
    """Blocks of one family that share a set, with exceptions that hold for all of them."""

    cidrs: tuple[str, ...]
    """Canonical prefixes."""
    excepts: tuple[str, ...] = ()
    """Canonical prefixes; not empty only where there is one block."""

    @property
    def name(self) -> str:
        """Name of the set."""
        meaning = hashed("KUBE-SRC-", "blocks", *self.cidrs, "except", *self.excepts)
        return in_family(meaning, family_of(self.cidrs[0]))

    @property
    def anyone(self) -> bool:
        """Whether every address of the family is inside, so that no set is needed."""
        return not self.excepts and any(cidr.endswith("/0") for cidr in self.cidrs)

    def __str__(self) -> str:
        first = ",".join(self.cidrs[:3]) + (f" and {len(self.cidrs) - 3} more" if len(self.cidrs) > 3 else "")
        return first + (f" except {','.join(self.excepts[:3])}" if self.excepts else "")


def blocks_of(blocks: Iterable[IpBlock], family: Family) -> list[Blocks]:
    """Return the sets that the blocks of one rule need in one family.

    Blocks without exceptions share one. A block with exceptions has its own: in a ``hash:net`` set the most specific
    prefix wins, so one block's exception would take from another block (networkpolicy.md row 15).
    """
    own = [block for block in blocks if family_of(block.cidr) is family]
    plain = sorted({block.cidr for block in own if not block.excepts})
    carved = dict.fromkeys(Blocks((block.cidr,), tuple(sorted(set(block.excepts)))) for block in own if block.excepts)
    return [Blocks(tuple(plain))] * bool(plain) + list(carved)


def block_objects(blocks: Blocks) -> Iterator[Set | Entry]:
    """Yield the set of some blocks and its entries; nothing where none is needed."""
    if blocks.anyone:
        return
    family, name = family_of(blocks.cidrs[0]), blocks.name
    entries = tuple(_block_entries(name, blocks, family))
    room = max(65536, 1 << len(entries).bit_length())
    yield Set(SetKey(name), family, "hash:net", max_elements=room)
    yield from entries


def _block_entries(name: str, blocks: Blocks, family: Family) -> Iterator[Entry]:
    excepts = [ip_network(cidr) for cidr in blocks.excepts if family_of(cidr) is family]
    for cidr in blocks.cidrs:
        # hash:net refuses a prefix length of 0: two halves are everything.
        for part in family.halves if cidr.endswith("/0") else (cidr,):
            # A part that an exception covers whole is left out: the two would be one entry.
            if not _covered(ip_network(part), excepts):
                yield _block_entry(name, part, family)
    for cidr in blocks.excepts:
        if family_of(cidr) is family:
            for part in family.halves if cidr.endswith("/0") else (cidr,):
                yield _block_entry(name, part, family, nomatch=True)


def _block_entry(name: str, cidr: str, family: Family, *, nomatch: bool = False) -> Entry:
    # ipset prints a single address without its length.
    return Entry(EntryKey(name, cidr.removesuffix(f"/{family.host_prefix}")), nomatch=nomatch)


def _covered(network: Network, by: Sequence[Network]) -> bool:
    return any(one.prefixlen <= network.prefixlen and network.network_address in one for one in by)
