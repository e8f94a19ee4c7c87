"""What stands in this kernel, foreign rules and sets too, for walking a packet through it. Reads only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from kuberouterpy.dataplane import Object, Rule, Table
from kuberouterpy.drivers import command, ipset
from kuberouterpy.drivers import iptables_text as texts
from kuberouterpy.family import FAMILIES
from kuberouterpy.tracing.world import ChainName, World

Chains = dict[ChainName, tuple[Rule, ...]]
Policies = dict[ChainName, str]


def filter_world() -> World:
    """Return the filter tables of both families and the sets. Errors: DriverError."""
    return World(sets(), *chains(Table.FILTER))


def sets() -> Iterator[Object]:
    """Yield every set with its entries, whoever made it; none where there is no ``ipset``. Errors: DriverError."""
    if shutil.which("ipset"):
        yield from (value for _, value in ipset.parse(command.demand(["ipset", "save"]), everyone=True))


def chains(only: Table | None = None) -> tuple[Chains, Policies]:
    """Return every chain, built-in ones included, in the words of iptables-save, and policies. Errors: DriverError."""
    found: Chains = {}
    policies: Policies = {}
    for family in FAMILIES:
        text = command.demand([family.save, *(("-t", only.value) if only else ())])
        for (table, name), rules in texts.parse(text).items():
            found[family, table, name] = tuple(map(texts.read_rule, rules))
        for (table, name), word in texts.parse_policies(text).items():
            policies[family, table, name] = word
    return found, policies
