"""One packet against chains, as iptables reads them: conditions, targets, jumps.

Both spellings are understood, ours and the one iptables-save prints. Order and depth as in the kernel
(net/ipv4/netfilter/ip_tables.c: ipt_do_table). What is not understood raises nothing: it counts as not matching and is noted
in :attr:`Verdict.doubts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from msgspec import Struct

from kuberouterpy.dataplane import Rule, Table
from kuberouterpy.family import Family, family_of
from kuberouterpy.tracing.world import World

_FINAL: Final = frozenset({"ACCEPT", "DROP", "REJECT", "MASQUERADE", "SNAT", "DNAT", "REDIRECT"})
_SILENT: Final = frozenset({"NFLOG", "LOG", "CT", "NOTRACK", "CONNMARK", "TCPMSS", "TRACE"})
"""Targets after which the next rule is met, and that change nothing a verdict hangs on."""
_DEEPEST: Final = 24
"""Jumps; the nft variant allows 16. Deeper is a loop."""


class Packet(Struct):
    """One packet at one hook. Rules may mark it."""

    source: str
    destination: str
    protocol: str = "tcp"
    port: int = 0
    """Destination port."""
    state: str = "NEW"
    mark: int = 0
    source_is_local: bool = False
    """Whether the source is an address of this host: addrtype LOCAL."""
    destination_is_local: bool = False
    in_link: str = ""
    out_link: str = ""
    proxied: bool = False
    """Whether it is of a connection that IPVS masquerades, in the client's direction."""
    source_port: int = 0
    """0: some port of no meaning."""

    @property
    def family(self) -> Family:
        """Family of both addresses."""
        return family_of(self.destination)


class Met(NamedTuple):
    """A rule that matched."""

    chain: str
    number: int
    """From 1, as ``iptables -L --line-numbers``."""
    rule: Rule


class Verdict(Struct):
    """What a hook's table did with a packet."""

    target: str = ""
    """``ACCEPT``, ``DROP``, ``REJECT``, ``MASQUERADE``, ...; empty: it fell through to the chain's policy."""
    met: list[Met] = []
    """Rules that matched, in order, jumps among them."""
    doubts: list[str] = []
    """What was not understood."""

    @property
    def path(self) -> list[Met]:
        """The jumps that led to the last rule, and that rule."""
        return _path(self.met)


def judge(world: World, packet: Packet, table: Table, hook: str) -> Verdict:
    """Return what a table does with a packet at a hook; the packet may get a mark. Never raises."""
    verdict = Verdict(met=[], doubts=[])
    decided = _chain(world, packet, table, name=hook, verdict=verdict, depth=0)
    verdict.target = decided if decided in _FINAL else ""
    return verdict


def _chain(world: World, packet: Packet, table: Table, *, name: str, verdict: Verdict, depth: int) -> str:
    """Return the final target, ``RETURN`` where the chain ends."""
    if depth > _DEEPEST:
        verdict.doubts.append(f"jumps deeper than {_DEEPEST} at {name}")
        return "RETURN"
    for number, rule in enumerate(world.chains.get((packet.family, table, name), ()), 1):
        if not _matches(world, packet, rule, verdict):
            continue
        verdict.met.append(Met(name, number, rule))
        decided = _carry_out(world, packet, table, rule=rule, verdict=verdict, depth=depth)
        if decided:
            return decided
    return "RETURN"


def _carry_out(world: World, packet: Packet, table: Table, *, rule: Rule, verdict: Verdict, depth: int) -> str:
    """Return the final target or ``RETURN`` of this chain; empty: go on with the next rule."""
    target = rule.jumps
    if target in _FINAL or target == "RETURN":
        return target
    if target == "MARK":
        _mark(packet, rule.target)
    elif target == "SET":
        _map(world, packet, rule.target)
    elif (packet.family, table, target) in world.chains:
        decided = _chain(world, packet, table, name=target, verdict=verdict, depth=depth + 1)
        return "" if decided == "RETURN" else decided
    elif target not in _SILENT:
        verdict.doubts.append(f"target {target} is not understood")
    return ""


def _mark(packet: Packet, words: tuple[str, ...]) -> None:
    option, text = words[1], words[2]
    value, _, mask = text.partition("/")
    bits = int(mask, 0) if mask else 0xFFFFFFFF
    match option:
        case "--set-xmark":
            packet.mark = (packet.mark & ~bits) ^ int(value, 0)
        case "--set-mark":
            packet.mark = (packet.mark & ~bits) | int(value, 0)
        case "--or-mark":
            packet.mark |= int(value, 0)
        case "--and-mark":
            packet.mark &= int(value, 0)


def _map(world: World, packet: Packet, words: tuple[str, ...]) -> None:
    if "--map-set" not in words or "--map-mark" not in words:
        return  # --add-set: remembers the client, changes nothing of this packet
    at = words.index("--map-set")
    member = world.matching(words[at + 1], _parts(packet, words[at + 2]))
    if member is not None and not member.nomatch:
        packet.mark = member.mark


def _path(met: list[Met]) -> list[Met]:
    found: list[Met] = []
    for one in met:
        # A chain met again, or a rule behind in the same chain: what was deeper has returned.
        while found and found[-1].rule.jumps != one.chain:
            found.pop()
        found.append(one)
    return found


# --- conditions -------------------------------------------------------------------------------------------------------


class Condition(NamedTuple):
    """One condition of a rule."""

    name: str
    values: tuple[str, ...]
    negated: bool


_VALUES: Final = {"--match-set": 2, "--ipvs": 0, "--syn": 0, "--physdev-is-bridged": 0, "--random": 0}
"""Words after an option, where not one."""
_ALIASES: Final = {
    "--source": "-s", "--destination": "-d", "--protocol": "-p", "--in-interface": "-i", "--out-interface": "-o",
    "--destination-port": "--dport", "--source-port": "--sport", "--state": "--ctstate",
}  # fmt: skip
_ALWAYS: Final = frozenset({"--comment", "--limit", "--limit-burst", "--wait"})
_ICMP: Final = frozenset({"icmp", "ipv6-icmp", "icmp6", "icmpv6"})


@lru_cache(maxsize=65536)
def conditions(words: tuple[str, ...]) -> tuple[Condition, ...]:
    """Return the conditions in some arguments; modules (``-m``) only name where options come from."""
    return tuple(_read(words))


def _read(arguments: tuple[str, ...]) -> Iterator[Condition]:
    words, negated = iter(arguments), False
    for word in words:
        if word == "!":
            negated = True
        elif word == "-m":
            next(words, "")
        else:
            name = _ALIASES.get(word, word)
            yield Condition(name, tuple(next(words, "") for _ in range(_VALUES.get(name, 1))), negated)
            negated = False


def _matches(world: World, packet: Packet, rule: Rule, verdict: Verdict) -> bool:
    for one in conditions(rule.match):
        held = _holds(world, packet, one)
        if held is None:
            doubt = f"{' '.join((one.name, *one.values))} is not understood"
            if doubt not in verdict.doubts:
                verdict.doubts.append(doubt)
            return False
        if held == one.negated:
            return False
    return True


def _holds(world: World, packet: Packet, one: Condition) -> bool | None:
    """Return whether a condition holds, ``None`` where it is not understood."""
    value = one.values[0] if one.values else ""
    match one.name:
        case "-s":
            return _inside(packet.source, value)
        case "-d":
            return _inside(packet.destination, value)
        case "-p":
            return value in {packet.protocol, "all"} or (value in _ICMP and packet.protocol in _ICMP)
        case "-i":
            return _named(packet.in_link, value)
        case "-o":
            return _named(packet.out_link, value)
        case "--dport":
            return _port_in(packet.port, value)
        case "--dports":
            return any(_port_in(packet.port, part) for part in value.split(","))
        case "--sport":
            return _port_in(packet.source_port, value)
        case "--match-set":
            member = world.matching(value, _parts(packet, one.values[1]))
            return member is not None and not member.nomatch
        case "--ctstate":
            return packet.state in value.split(",")
        case "--src-type":
            return packet.source_is_local if value == "LOCAL" else None
        case "--dst-type":
            return packet.destination_is_local if value == "LOCAL" else None
        case "--mark":
            wanted, _, mask = value.partition("/")
            return packet.mark & (int(mask, 0) if mask else 0xFFFFFFFF) == int(wanted, 0)
        case "--ipvs":
            return packet.proxied
        case "--vdir":
            return packet.proxied and (value == "ORIGINAL") == (packet.state == "NEW")
        case "--vmethod":
            return packet.proxied and value == "MASQ"
        case "--icmp-type" | "--icmpv6-type":
            return False  # what is traced is no error and no discovery
        case name if name in _ALWAYS:
            return True
        case _:
            return None


def _parts(packet: Packet, flags: str) -> tuple[str, ...]:
    """Return what a set is asked for: ``dst,dst`` is the address and ``tcp:80``, ``dst,dst,src`` the client besides."""
    sides = flags.split(",")
    found: list[str] = []
    for index, side in enumerate(sides):
        if index == 1:
            found.append(f"{packet.protocol}:{packet.port if side == 'dst' else packet.source_port}")
        else:
            found.append(packet.source if side == "src" else packet.destination)
    return tuple(found)


def _named(link: str, pattern: str) -> bool:
    return link.startswith(pattern[:-1]) if pattern.endswith("+") else link == pattern


def _port_in(port: int, text: str) -> bool:
    low, colon, high = text.partition(":")
    return int(low or 0) <= port <= int(high or (65535 if colon else low))


@lru_cache(maxsize=65536)
def _inside(address: str, prefix: str) -> bool:
    """Whether an address matches ``address``, ``address/length`` or ``address/mask``, whose mask may have holes."""
    one = ip_address(address)
    base, _, mask = prefix.partition("/")
    wanted = ip_address(base)
    if one.version != wanted.version:
        return False
    if not mask or mask.isdigit():
        return one in ip_network(prefix, strict=False)
    return int(one) & int(ip_address(mask)) == int(wanted)
