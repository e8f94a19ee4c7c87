"""Netfilter and ipset in memory, as far as our objects use them: what happens to one packet.

Takes ``Chain``, ``Jump``, ``Set`` and ``Entry`` objects and reads their arguments as iptables does. Every word it does not
know is an error, and so is what the kernel would refuse: names too long, a ``hash:net`` member of length 0, a rule that
names a missing set, a loop of chains. It shares nothing with ``firewall``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address, ip_network

from kuberouterpy.dataplane import Chain, ChainKey, Entry, Jump, Object, Rule, Set, Table
from kuberouterpy.family import Family

BUILT_IN = ("INPUT", "FORWARD", "OUTPUT")
VERDICTS = ("ACCEPT", "DROP", "REJECT")
MAX_DEPTH = 16
"""The nft variant's deepest jump (NFT_JUMP_STACK_SIZE)."""


class Refused(Exception):
    """What the kernel or the tools would not take."""


@dataclass(frozen=True)
class Packet:
    """One packet at one hook."""

    hook: str
    source: str
    destination: str
    protocol: str = "tcp"
    port: int = 0
    state: str = "NEW"
    icmp_type: int = 0
    source_is_local: bool = False
    """The source is an address of the host the packet is on."""
    destination_is_local: bool = False
    """So is the destination."""
    mark: int = 0

    @property
    def family(self) -> Family:
        """Family of both addresses."""
        return Family(ip_address(self.source).version)


@dataclass
class Verdict:
    """What became of a packet, and how."""

    accepted: bool
    path: list[str] = field(default_factory=list)
    """``CHAIN[index]`` of every rule that matched."""
    rules: int = 0
    """How many rules were looked at: the cost."""
    logged: list[str] = field(default_factory=list)
    """Prefixes of NFLOG."""
    mark: int = 0
    """The packet's mark when it left."""


class Netfilter:
    """A filter table of both families with its sets."""

    def __init__(self, objects: Iterable[Object]) -> None:
        self.sets: dict[str, Set] = {}
        self.members: dict[str, dict[str, bool]] = {}
        """Member to nomatch, by set."""
        self.chains: dict[ChainKey, tuple[Rule, ...]] = {}
        self.jumps: dict[tuple[Family, str], list[Jump]] = {}
        self.counters: Counter[tuple[Family, str, int]] = Counter()
        values = list(objects)
        for value in values:
            if isinstance(value, Set):
                self._add_set(value)
        for value in values:
            if isinstance(value, Entry):
                self._add_entry(value)
        for value in values:
            if isinstance(value, Chain):
                self._add_chain(value)
            elif isinstance(value, Jump):
                self.jumps.setdefault((value.key.family, value.key.parent), []).append(value)
        for jumps in self.jumps.values():
            jumps.sort(key=lambda jump: (not jump.first, jump.rank))
        for key, rules in self.chains.items():
            self._check_references(key, rules)

    def send(self, packet: Packet) -> Verdict:
        """Return what becomes of a packet at its hook, with the built-in chain's policy ACCEPT."""
        verdict = Verdict(accepted=True, mark=packet.mark)
        for jump in self.jumps.get((packet.family, packet.hook), ()):
            state = _State(packet, packet.mark)
            decided = self._rule(jump.rule, f"{packet.hook}", 0, state, verdict, 1)
            verdict.mark = state.mark
            if decided is not None:
                verdict.accepted = decided == "ACCEPT"
                return verdict
        return verdict

    # --- loading -------------------------------------------------------------------------------------------------

    def _add_set(self, value: Set) -> None:
        name = value.key.name
        if len(name) > 31:
            raise Refused(f"set name {name} is longer than 31")
        if name.startswith("inet6:") != (value.family is Family.IPV6):
            raise Refused(f"set {name} of family {value.family!r}")
        if value.type not in {"hash:ip", "hash:net", "hash:ip,port"}:
            raise Refused(f"set type {value.type}")
        if name in self.sets:
            raise Refused(f"set {name} twice")
        self.sets[name] = value
        self.members[name] = {}

    def _add_entry(self, value: Entry) -> None:
        name, member = value.key.set, value.key.member
        if name not in self.sets:
            raise Refused(f"entry of the missing set {name}")
        kind, family = self.sets[name].type, self.sets[name].family
        address, _, port = member.partition(",")
        if (kind == "hash:ip,port") != bool(port):
            raise Refused(f"member {member} of a {kind}")
        network = ip_network(address)
        if network.version != family or (kind != "hash:net" and "/" in address):
            raise Refused(f"member {member} of {name}")
        if network.prefixlen == 0:
            raise Refused("hash:net refuses a prefix length of 0")
        if "/" in address and network.prefixlen == network.max_prefixlen:
            raise Refused(f"ipset prints {member} without its length")
        if value.nomatch and kind != "hash:net":
            raise Refused("nomatch outside hash:net")
        if len(self.members[name]) >= self.sets[name].max_elements:
            raise Refused("hash is full")
        if len(value.comment.encode()) > 255 or '"' in value.comment:
            raise Refused(f"comment {value.comment}")
        if member in self.members[name]:
            raise Refused(f"member {member} twice")
        self.members[name][member] = value.nomatch

    def _add_chain(self, value: Chain) -> None:
        if len(value.key.name) > 28:
            raise Refused(f"chain name {value.key.name} is longer than 28")
        if value.key.table is not Table.FILTER or value.key in self.chains:
            raise Refused(f"chain {value.key}")
        self.chains[value.key] = value.rules

    def _check_references(self, key: ChainKey, rules: tuple[Rule, ...]) -> None:
        for rule in rules:
            if len(rule.reason.encode()) > 220:
                raise Refused(f"comment {rule.reason}")
            for one in parse(rule.match):
                if one.name == "--match-set" and one.values[0] not in self.sets:
                    raise Refused(f"{key.name} matches on the missing set {one.values[0]}")
            target = rule.target[0]
            known = {*VERDICTS, "RETURN", "MARK", "NFLOG"}
            if target not in known and ChainKey(key.family, key.table, target) not in self.chains:
                raise Refused(f"{key.name} jumps to the missing chain {target}")

    # --- walking -------------------------------------------------------------------------------------------------

    def _chain(self, name: str, state: _State, verdict: Verdict, depth: int) -> str | None:
        if depth > MAX_DEPTH:
            raise Refused(f"jumps deeper than {MAX_DEPTH} at {name}")
        rules = self.chains[ChainKey(state.packet.family, Table.FILTER, name)]
        for index, rule in enumerate(rules):
            decided = self._rule(rule, name, index, state, verdict, depth)
            if decided == "RETURN":
                return None
            if decided is not None:
                return decided
        return None

    def _rule(self, rule: Rule, chain: str, index: int, state: _State, verdict: Verdict, depth: int) -> str | None:
        verdict.rules += 1
        if not all(self._holds(one, state) for one in parse(rule.match)):
            return None
        verdict.path.append(f"{chain}[{index}]")
        self.counters[state.packet.family, chain, index] += 1
        target = rule.target
        if target[0] in VERDICTS or target[0] == "RETURN":
            return target[0]
        if target[0] == "MARK":
            value, mask = (int(part, 16) for part in _one(target, "--set-xmark").split("/"))
            state.mark = (state.mark & ~mask) ^ value
            return None
        if target[0] == "NFLOG":
            prefix = _one(target, "--nflog-prefix")
            if len(prefix) > 63 or " " in prefix:
                raise Refused(f"prefix {prefix!r}")
            verdict.logged.append(prefix)
            return None
        return self._chain(target[0], state, verdict, depth + 1)

    def _holds(self, one: Condition, state: _State) -> bool:
        packet = state.packet
        match one.name:
            case "-s" | "-d":
                held = _in(packet.source if one.name == "-s" else packet.destination, one.values[0])
            case "-p":
                held = _protocol(one.values[0]) == packet.protocol
            case "--dport":
                low, _, high = one.values[0].partition(":")
                if int(high or low) < int(low):
                    raise Refused(f"--dport {one.values[0]}")
                held = int(low) <= packet.port <= int(high or low)
            case "--icmp-type" | "--icmpv6-type":
                held = packet.icmp_type == int(one.values[0])
            case "--match-set":
                held = self._in_set(one.values[0], one.values[1], packet)
            case "--ctstate":
                held = packet.state in one.values[0].split(",")
            case "--src-type":
                assert one.values == ("LOCAL",)
                held = packet.source_is_local
            case "--dst-type":
                assert one.values == ("LOCAL",)
                held = packet.destination_is_local
            case "--mark":
                value, mask = (int(part, 16) for part in one.values[0].split("/"))
                held = state.mark & mask == value
            case "--limit" | "--limit-burst":
                held = True
            case _:
                raise Refused(f"match {one.name}")
        return held != one.negated

    def _in_set(self, name: str, sides: str, packet: Packet) -> bool:
        kind, members = self.sets[name].type, self.members[name]
        if self.sets[name].family is not packet.family:
            return False
        address = {"src": packet.source, "dst": packet.destination}[sides[:3]]
        match kind, sides.count(","):
            case "hash:ip", 0:
                return address in members
            case "hash:ip,port", 1:
                assert sides == "dst,dst", "the packet has no source port here"
                return (
                    packet.protocol in {"tcp", "udp", "sctp"}
                    and f"{address},{packet.protocol}:{packet.port}" in members
                )
            case "hash:net", 0:
                # The most specific prefix decides, wherever it came from.
                best = max((one for one in members if _in(address, one)), key=_length, default=None)
                return best is not None and not members[best]
        raise Refused(f"{kind} matched by {sides}")


@dataclass
class _State:
    packet: Packet
    mark: int


@dataclass(frozen=True)
class Condition:
    """One condition of a rule."""

    name: str
    values: tuple[str, ...]
    negated: bool


_WORDS = {
    "-s": 1, "-d": 1, "-p": 1, "--dport": 1, "--icmp-type": 1, "--icmpv6-type": 1, "--match-set": 2, "--ctstate": 1,
    "--src-type": 1, "--dst-type": 1, "--mark": 1, "--limit": 1, "--limit-burst": 1,
}  # fmt: skip
_MODULE_OF = {
    "--icmp-type": "icmp", "--icmpv6-type": "icmp6", "--match-set": "set", "--ctstate": "conntrack",
    "--src-type": "addrtype", "--dst-type": "addrtype", "--mark": "mark", "--limit": "limit", "--limit-burst": "limit",
}  # fmt: skip


@lru_cache(maxsize=65536)
def parse(arguments: tuple[str, ...]) -> tuple[Condition, ...]:
    """Return the conditions that iptables reads in some arguments."""
    return tuple(_conditions(arguments))


def _conditions(arguments: tuple[str, ...]) -> Iterator[Condition]:
    words, loaded, protocol, negated = iter(arguments), set[str](), "", False
    for word in words:
        if word == "!":
            negated = True
            continue
        if word == "-m":
            loaded.add(next(words))
            continue
        if word not in _WORDS:
            raise Refused(f"argument {word}")
        values = tuple(next(words) for _ in range(_WORDS[word]))
        if _MODULE_OF.get(word, "") not in {"", *loaded}:
            raise Refused(f"{word} without -m {_MODULE_OF[word]}")
        if word == "-p":
            protocol = values[0]
        if word == "--dport" and protocol not in {"tcp", "udp", "sctp"}:
            raise Refused("--dport without a protocol that has ports")
        yield Condition(word, values, negated)
        negated = False


def _one(target: tuple[str, ...], option: str) -> str:
    return target[target.index(option) + 1]


def _protocol(name: str) -> str:
    return "icmp" if name in {"icmp", "ipv6-icmp"} else name


@lru_cache(maxsize=65536)
def _in(address: str, prefix: str) -> bool:
    """Whether an address matches ``address``, ``address/length`` or ``address/mask``, whose mask may have holes."""
    one = ip_address(address)
    base, _, mask = prefix.partition("/")
    wanted = ip_address(base)
    if one.version != wanted.version:
        raise Refused(f"{prefix} in rules of IPv{one.version}")
    if not mask or mask.isdigit():
        return one in ip_network(prefix)
    return int(one) & int(ip_address(mask)) == int(wanted)


@lru_cache(maxsize=65536)
def _length(prefix: str) -> int:
    return ip_network(prefix).prefixlen


# --- what a connection meets on its way -------------------------------------------------------------------------------


def forwarded(source: str, destination: str, protocol: str, port: int) -> Packet:
    """Return the first packet of a direct connection, where it is forwarded."""
    return Packet("FORWARD", source, destination, protocol, port)


def proxied(source: str, destination: str, protocol: str, port: int) -> Packet:
    """Return the first packet of a connection through a VIP of this host, after IPVS chose the endpoint."""
    return Packet("OUTPUT", source, destination, protocol, port)


def to_node(source: str, destination: str, protocol: str, port: int) -> Packet:
    """Return the first packet of a pod's connection to an address of its own node."""
    return Packet("INPUT", source, destination, protocol, port, destination_is_local=True)


def from_node(packet: Packet) -> Packet:
    """Return a packet as the host itself sends it."""
    return replace(packet, hook="OUTPUT", source_is_local=True)
