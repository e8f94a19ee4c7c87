"""Who is inside this node, and who may come at all, as entries of sets."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kuberouterpy.dataplane import Chain, Entry
from kuberouterpy.family import FAMILIES
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol
from proxy import origins
from proxy.origins import inside_entry, range_entries

HOST = Host(
    "node-1",
    families=FAMILIES,
    node_addresses=("10.0.0.1", "fd00::1"),
    pod_cidrs=("10.1.4.0/24", "fd00:1:4::/64"),
)


def members(address: str, *ranges: str, host: Host = HOST) -> list[str]:
    """Entries of the ranges' set; an exception begins with ``not``."""
    found = range_entries(address, 80, Protocol.TCP, ranges, host, reason="default/web")
    return [("not " if one.nomatch else "") + one.key.member.split(",")[2] for one in found if "ranges" in one.key.set]


def restricted(address: str, *ranges: str) -> bool:
    return any(
        one.key.set.endswith("kube-router-ranged")
        for one in range_entries(address, 80, Protocol.TCP, ranges, HOST, reason="")
    )


@pytest.mark.parametrize(
    ("address", "ranges", "expected"),
    [
        ("198.51.100.7", ("10.9.0.0/16",), ["10.9.0.0/16", "not 198.51.100.7"]),
        ("198.51.100.7", ("10.9.0.5/32",), ["10.9.0.5", "not 198.51.100.7"]),
        ("198.51.100.7", ("10.0.0.0/16",), ["10.0.0.0/16", "198.51.100.7"]),
        ("198.51.100.7", ("0.0.0.0/0",), ["0.0.0.0/1", "128.0.0.0/1", "198.51.100.7"]),
        ("198.51.100.7", ("198.51.100.7/32",), ["not 198.51.100.7"]),
        ("198.51.100.7", ("10.9.0.0/16", "fd00::/64"), ["10.9.0.0/16", "not 198.51.100.7"]),
        ("2001:db8::7", ("fd09::5/128",), ["fd09::5", "not 2001:db8::7"]),
        ("2001:db8::7", ("fd00::/64",), ["fd00::/64", "2001:db8::7"]),
        ("2001:db8::7", ("::/0",), ["8000::/1", "::/1", "2001:db8::7"]),
    ],
)
def test_ranges_of_the_family_are_entries_and_the_node_counts_by_its_own_addresses(
    address: str, ranges: tuple[str, ...], expected: list[str]
) -> None:
    assert members(address, *ranges) == expected
    assert restricted(address, *ranges)


def test_without_a_range_of_its_family_an_address_is_open() -> None:
    assert members("198.51.100.7") == members("198.51.100.7", "fd00::/64") == []
    assert not restricted("198.51.100.7", "fd00::/64")


def test_pods_are_told_by_the_nodes_pod_cidrs_and_a_node_without_any_marks_none() -> None:
    def sources(host: Host) -> list[str]:
        chains = [value for value in origins.base(host) if isinstance(value, Chain)]
        return [rule.match[1] for chain in chains if chain.key.name == origins.PODS_CHAIN for rule in chain.rules]

    assert sources(HOST) == ["10.1.4.0/24", "fd00:1:4::/64"]
    assert sources(replace(HOST, pod_cidrs=())) == []


def test_the_number_of_rules_does_not_depend_on_services() -> None:
    rules = sum(len(value.rules) for value in origins.base(HOST) if isinstance(value, Chain))
    assert rules == 2 * 4


def test_an_entry_of_the_inside_carries_its_mark() -> None:
    assert inside_entry("fd00::1", 30080, Protocol.UDP, 0x40007580, reason="default/dns") == Entry(
        inside_entry("fd00::1", 30080, Protocol.UDP, 1, reason="").key, "default/dns", mark=0x40007580
    )
