"""The objects of one node, indexed as a packet meets them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from kuberouterpy.dataplane import (
    Chain,
    Entry,
    Jump,
    Key,
    LocalAddress,
    Object,
    RealServer,
    Route,
    Rule,
    Set,
    Table,
    VirtualServer,
    VirtualServerKey,
)
from kuberouterpy.family import Family
from kuberouterpy.protocol import Protocol

ChainName = tuple[Family, Table, str]


class Member(NamedTuple):
    """An entry of a set, split."""

    parts: tuple[str, ...]
    """``10.1.2.3``, ``tcp:80``, ``10.0.0.0/8``."""
    nomatch: bool
    mark: int


class World:
    """Chains with the built-in ones, sets, virtual servers, local addresses and routes of one node."""

    def __init__(
        self,
        objects: Iterable[Object],
        chains: Mapping[ChainName, tuple[Rule, ...]] | None = None,
        policies: Mapping[ChainName, str] | None = None,
    ) -> None:
        """``chains``: every chain as the kernel has it, and ``policies`` of the built-in ones; without, they are those of
        ``objects``, and built-in chains hold the jumps among these."""
        self.policies = dict(policies or {})
        self.chains: dict[ChainName, tuple[Rule, ...]] = {}
        self.keys: dict[ChainName, tuple[Key, ...]] = {}
        """Of each chain its key; of a built-in one the keys of its jumps, in order."""
        self.sets: dict[str, Set] = {}
        self.members: dict[str, dict[str, Member]] = {}
        self.servers: dict[VirtualServerKey, VirtualServer] = {}
        self.reals: dict[VirtualServerKey, list[RealServer]] = {}
        self.addresses: set[str] = set()
        self.routes: list[Route] = []
        self._jumps: dict[ChainName, list[Jump]] = {}
        for value in objects:
            self._take(value)
        for name, jumps in self._jumps.items():
            jumps.sort(key=lambda jump: (not jump.first, jump.rank, jump.key))
            self.chains[name] = tuple(jump.rule for jump in jumps)
            self.keys[name] = tuple(jump.key for jump in jumps)
        if chains is not None:
            self.chains, self.keys = dict(chains), {}

    def _take(self, value: Object) -> None:
        match value:
            case Chain(key=key, rules=rules):
                name = (key.family, key.table, key.name)
                self.chains[name], self.keys[name] = rules, (key,)
            case Jump(key=key):
                self._jumps.setdefault((key.family, key.table, key.parent), []).append(value)
            case Set(key=key):
                self.sets[key.name] = value
            case Entry(key=key):
                member = Member(tuple(key.member.split(",")), value.nomatch, value.mark)
                self.members.setdefault(key.set, {})[key.member] = member
            case VirtualServer(key=key):
                self.servers[key] = value
            case RealServer(key=key):
                self.reals.setdefault(key.server, []).append(value)
            case LocalAddress(key=key):
                self.addresses.add(key.address)
            case Route():
                self.routes.append(value)
            case _:
                pass

    def server(self, family: Family, protocol: str, address: str, *, port: int, mark: int) -> VirtualServer | None:
        """Return what IPVS finds for a packet: by its whole mark first, then by address (ip_vs_service_find)."""
        if mark:
            by_mark = self.servers.get(VirtualServerKey(family, Protocol.TCP, "", 0, mark))
            if by_mark is not None:
                return by_mark
        return self.servers.get(VirtualServerKey(family, Protocol(protocol), address, port))

    def route(self, address: str) -> Route | None:
        """Return our most specific route to an address, in any table."""
        one = ip_address(address)
        found = [
            (network.prefixlen, route)
            for route in self.routes
            if (network := ip_network(route.key.destination)).version == one.version and one in network
        ]
        return max(found, key=lambda entry: (entry[0], -entry[1].key.table), default=(0, None))[1]

    def matching(self, name: str, wanted: tuple[str, ...]) -> Member | None:
        """Return the member of a set that holds some parts; of prefixes the most specific decides, nomatch included."""
        members = self.members.get(name, {})
        exact = members.get(",".join(wanted))
        if exact is not None:
            return exact
        kind = self.sets[name].type if name in self.sets else ""
        if "net" not in kind:
            return None
        held = [member for member in members.values() if _holds(member.parts, wanted)]
        return max(held, key=lambda member: _length(member.parts), default=None)


def _holds(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return len(parts) == len(wanted) and all(map(_part_holds, parts, wanted))


def _part_holds(part: str, wanted: str) -> bool:
    if part == wanted:
        return True
    if "/" not in part:
        return False
    network, one = ip_network(part), ip_address(wanted)
    return network.version == one.version and one in network


def _length(parts: tuple[str, ...]) -> int:
    return sum(ip_network(part).prefixlen for part in parts if "/" in part) or 128
