"""What stands in this kernel's filter tables, foreign rules too, with our sets: for walking a packet through it. Reads only."""

from __future__ import annotations

from collections.abc import Iterator

from kuberouterpy.dataplane import Chain, ChainKey, Rule, Table
from kuberouterpy.drivers import command
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables_text import parse, read_rule
from kuberouterpy.family import FAMILIES
from kuberouterpy.tracing.world import World


def filter_world() -> World:
    """Return the filter tables of both families and our sets, as the kernel has them. Errors: DriverError."""
    sets = IpsetDriver().list().values()
    return World((*sets, *chains()))


def chains() -> Iterator[Chain]:
    """Yield every chain of the filter tables, built-in ones included, in the words of iptables-save."""
    for family in FAMILIES:
        for (table, name), lines in parse(command.demand([family.save, "-t", Table.FILTER.value])).items():
            rules: tuple[Rule, ...] = tuple(read_rule(line) for line in lines)
            yield Chain(ChainKey(family, table, name), rules)
