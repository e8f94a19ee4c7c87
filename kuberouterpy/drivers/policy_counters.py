"""How many packets the policies allowed and denied, as the kernel counts them: from ``iptables-save --counters``.

Two questions, one reading: :func:`parse` counts for each policy (``policy list``), :func:`drops` for each rule that drops
(metrics, which know the pod by the rule's id).

A policy's chain marks what it allows: the counters of its rules are what it let begin. What it denies is counted where it is
dropped, in the chains of pods: each drop counts for every policy that was asked there and did not allow. Counters begin again
when a chain changes, as the kernel's do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Final, NamedTuple

from msgspec import Struct

from kuberouterpy.drivers import command
from kuberouterpy.drivers.iptables_text import tokens
from kuberouterpy.family import Family

_POD: Final = "KUBE-POD-FW-"
_POLICY: Final = "KUBE-NWPLCY-"
_RULE: Final = re.compile(r"\[(\d+):(\d+)\] -A (\S+) (.*)")
_ID: Final = re.compile(r"kr:([A-Z2-7]{8})")
"""Begins the comment of each rule of ours."""
_MARK_BITS: Final = {"0x10000": "allowed", "0x80010000": "denied"}
"""By the value a policy's chain marks with. A pass (0x80000000) is neither."""


class Counts(NamedTuple):
    """Packets that began a connection or tried to."""

    allowed: int = 0
    denied: int = 0
    """Dropped, or by a policy under audit: told and let go."""

    def __add__(self, other: object) -> Counts:
        assert isinstance(other, Counts)
        return Counts(self.allowed + other.allowed, self.denied + other.denied)


class Denied(Struct, frozen=True):
    """What one rule in the chain of a pod dropped since the chain was last written."""

    family: Family
    chain: str
    rule: str
    """Id of the rule."""
    packets: int
    bytes: int


class _Saved(NamedTuple):
    chain: str
    packets: int
    bytes: int
    words: list[str]


def read(families: Iterable[Family]) -> dict[str, Counts]:
    """Return counts by the name of a policy's chain, of some families together. Errors: DriverError."""
    found: dict[str, Counts] = {}
    for family in families:
        for chain, counts in parse(_saved(family)).items():
            found[chain] = found.get(chain, Counts()) + counts
    return found


def read_drops(family: Family) -> tuple[Denied, ...]:
    """Return what each dropping rule of a family counted. Errors: DriverError."""
    return drops(_saved(family), family)


def _saved(family: Family) -> str:
    return command.demand([family.save, "-c", "-t", "filter"])


def drops(text: str, family: Family) -> tuple[Denied, ...]:
    """Return what each rule in a pod's chain dropped: there is one such rule for each tier of policies."""
    return tuple(
        Denied(family, rule.chain, named[1], rule.packets, rule.bytes)
        for rule in _rules(text)
        if rule.chain.startswith(_POD) and _after(rule.words, "-j") == "DROP"
        if (named := _ID.match(_after(rule.words, "--comment")))
    )


def parse(text: str) -> Mapping[str, Counts]:
    """Return counts by the name of a policy's chain."""
    found: dict[str, Counts] = {}
    asked: dict[str, list[str]] = {}
    for rule in _rules(text):
        for name, counts in _counted(rule, asked):
            found[name] = found.get(name, Counts()) + counts
    return found


def _rules(text: str) -> Iterator[_Saved]:
    for line in text.splitlines():
        match = _RULE.match(line)
        if match and match[3].startswith((_POD, _POLICY)):
            yield _Saved(match[3], int(match[1]), int(match[2]), tokens(match[4]))


def _counted(rule: _Saved, asked: dict[str, list[str]]) -> Iterator[tuple[str, Counts]]:
    """Yield what one rule counts; ``asked``: policies asked so far by each pod's chain."""
    target = _after(rule.words, "-j")
    if rule.chain.startswith(_POLICY):
        value = _after(rule.words, "--set-xmark").partition("/")[0]
        yield rule.chain, Counts(allowed=rule.packets if _MARK_BITS.get(value) == "allowed" else 0)
    elif target.startswith(_POLICY):
        asked.setdefault(rule.chain, []).append(target)
        yield target, Counts()
    elif target == "DROP" or (target == "MARK" and "--mark" in rule.words):
        # The drop, or of an audit the rule that forgets what was not allowed.
        for policy in asked.pop(rule.chain, ()):
            yield policy, Counts(denied=rule.packets)
    elif target in {"RETURN", "MARK"} and "--mark" not in rule.words and "--dst-type" not in rule.words:
        asked.pop(rule.chain, None)


def _after(words: list[str], option: str) -> str:
    return next((after for word, after in pairwise(words) if word == option), "")
