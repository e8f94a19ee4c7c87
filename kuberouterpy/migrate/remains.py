"""What of a kernel's chains, sets and links is kube-proxy's or kube-router's, told by names that only they use.

A name proves an owner only where nobody else makes it: ``KUBE-FIREWALL``, ``KUBE-MARK-DROP``, ``KUBE-IPTABLES-HINT`` and
``KUBE-KUBELET-CANARY`` are the kubelet's as well, and stay. A chain to which a rule of somebody else leads stays, and is told.
Source: pkg/proxy/ipvs, pkg/proxy/iptables of Kubernetes 1.20 to 1.34; the names in ``iptables-save`` of nodes that run them.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct

from kuberouterpy.family import Family

IPVS_LINK: Final = "kube-ipvs0"
"""Dummy link with the addresses of kube-proxy in IPVS mode."""
_CHAINS: Final = re.compile(
    r"KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|NODE-PORT|LOAD-BALANCER|FORWARD|POSTROUTING|MARK-MASQ|PROXY-FIREWALL"
    r"|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER|PROXY-CANARY|(SVC|SVL|SEP|EXT|FW|XLB)-[A-Z2-7]{16})"
)
_SETS: Final = re.compile(
    r"KUBE-(6-)?(LOOP-BACK|CLUSTER-IP|EXTERNAL-IP|EXTERNAL-IP-LOCAL|LOAD-BALANCER|LOAD-BALANCER-(LOCAL|FW|SOURCE-IP|SOURCE-CIDR)"
    r"|NODE-PORT-(LOCAL-)?(TCP|UDP|SCTP-HASH)|HEALTH-CHECK-NODE-PORT|IPVS-IPS)"
)
_KUBE_ROUTER: Final = re.compile(r"KUBE-(ROUTER|POD-FW|NWPLCY)-|(inet6:)?kube-router-|(inet6:)?KUBE-(SRC|DST)-")
_TARGETS: Final = frozenset({"-j", "--jump", "-g", "--goto"})


class Chain(Struct, frozen=True, order=True):
    """A chain of theirs."""

    family: Family
    table: str
    name: str


class Jump(Struct, frozen=True, order=True):
    """A rule in a chain of nobody's in particular that leads to a chain of theirs."""

    family: Family
    table: str
    chain: str
    rule: str
    """As ``iptables-save`` prints it, without ``-A CHAIN``."""


class Remains(Struct, frozen=True):
    """What is theirs."""

    chains: tuple[Chain, ...] = ()
    jumps: tuple[Jump, ...] = ()
    sets: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    """Prefixes on kube-ipvs0."""
    link: bool = False
    """Whether kube-ipvs0 is there."""
    kube_router: tuple[str, ...] = ()
    """Chains and sets with names that kube-router and this agent share: the agent adopts or sweeps them."""
    kept: tuple[str, ...] = ()
    """What looks like theirs and stays, each with the reason."""

    @property
    def mode(self) -> str:
        """Who was here: ``kube-proxy (ipvs)``, ``kube-proxy (iptables)``, ``kube-router``, or nothing."""
        if self.link or any(name.removeprefix("KUBE-").startswith(("CLUSTER-IP", "6-")) for name in self.sets):
            return "kube-proxy (ipvs)"
        if self.chains:
            return "kube-proxy (iptables)"
        return "kube-router" if self.kube_router else ""

    @property
    def empty(self) -> bool:
        """Whether nothing of kube-proxy is left."""
        return not (self.chains or self.sets or self.link)


Rules = Mapping[tuple[Family, str], Mapping[str, tuple[str, ...]]]
"""By family and table: chain to its rules in order, each without ``-A CHAIN``."""


def parse(saved: Mapping[Family, str]) -> Rules:
    """Return the rules of ``iptables-save`` of each family."""
    found: dict[tuple[Family, str], dict[str, list[str]]] = {}
    for family, text in saved.items():
        table: dict[str, list[str]] = {}
        for line in text.splitlines():
            if line.startswith("*"):
                table = found.setdefault((family, line[1:].strip()), {})
            elif line.startswith(":"):
                table[line[1:].split()[0]] = []
            elif line.startswith("-A "):
                _, chain, rule = line.split(" ", 2)
                table.setdefault(chain, []).append(rule)
    return {key: {chain: tuple(rules) for chain, rules in table.items()} for key, table in found.items()}


def recognise(rules: Rules, sets: Iterable[str], addresses: Mapping[str, tuple[str, ...]]) -> Remains:
    """Return what is theirs. ``addresses``: the prefixes on each link, by its name."""
    chains, jumps, kept = _chains(rules)
    names = sorted(sets)
    used = {word for table in rules.values() for chain, rule in _outside(table, chains) for word in rule.split()}
    theirs = tuple(name for name in names if _SETS.fullmatch(name) and name not in used)
    kept += [f"set {name}: a rule of somebody else uses it" for name in names if _SETS.fullmatch(name) and name in used]
    shared = {chain for table in rules.values() for chain in table if _KUBE_ROUTER.match(chain)}
    return Remains(
        chains=tuple(sorted(chains)),
        jumps=tuple(jumps),
        sets=theirs,
        addresses=addresses.get(IPVS_LINK, ()),
        link=IPVS_LINK in addresses,
        kube_router=tuple(sorted(shared | {name for name in names if _KUBE_ROUTER.match(name)})),
        kept=tuple(kept),
    )


def target(rule: str) -> str:
    """Return the chain or target that a rule leads to; empty where it has none."""
    words = words_of(rule)
    return next((after for word, after in itertools.pairwise(words) if word in _TARGETS), "")


def words_of(rule: str) -> list[str]:
    """Return the words of a rule, comments as one."""
    try:
        return shlex.split(rule)
    except ValueError:  # an apostrophe in a comment, which iptables-save leaves as it is
        return rule.split()


def _chains(rules: Rules) -> tuple[set[Chain], list[Jump], list[str]]:
    """Return their chains, the jumps to them from built-in chains, and what stays because another's chain leads to it."""
    chains = {
        Chain(family, table, name)
        for (family, table), found in rules.items()
        for name in found
        if _CHAINS.fullmatch(name)
    }
    jumps: list[Jump] = []
    kept: list[str] = []
    for (family, table), found in rules.items():
        for name, rule in _outside(found, chains):
            leads = Chain(family, table, target(rule))
            if leads not in chains:
                continue
            if name.isupper() and "-" not in name:  # PREROUTING, INPUT, ...: everybody's
                jumps.append(Jump(family, table, name, rule))
            else:
                kept.append(f"chain {leads.name} (IPv{family} {table}): chain {name} leads to it")
    held = {
        one
        for one in chains
        if any(text.startswith(f"chain {one.name} (IPv{one.family} {one.table})") for text in kept)
    }
    return chains - held - _reached(rules, held), jumps, kept


def _outside(table: Mapping[str, tuple[str, ...]], chains: Iterable[Chain]) -> Iterator[tuple[str, str]]:
    theirs = {one.name for one in chains}
    return ((name, rule) for name, found in table.items() if name not in theirs for rule in found)


def _reached(rules: Rules, held: Iterable[Chain]) -> set[Chain]:
    """Return the chains to which kept ones lead: those cannot go either."""
    found: set[Chain] = set()
    ahead = list(held)
    while ahead:
        one = ahead.pop()
        for rule in rules.get((one.family, one.table), {}).get(one.name, ()):
            leads = Chain(one.family, one.table, target(rule))
            if _CHAINS.fullmatch(leads.name) and leads not in found:
                found.add(leads)
                ahead.append(leads)
    return found
