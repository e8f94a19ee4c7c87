"""Addresses and prefixes have one spelling each."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.family import FAMILIES, Family, canonical_address, canonical_prefix, family_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("010.000.0.01", "10.0.0.1"),  # decimal, as the API's parser reads it: octal would be 8.0.0.1 (CVE-2021-29923)
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("FD00:0:0::1", "fd00::1"),
        ("::1.2.3.4", "::102:304"),
    ],
)
def test_an_address_has_one_spelling(text: str, expected: str) -> None:
    assert canonical_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "web", "10.0.0", "10.0.0.256", "10.0.0.-1", "1.2.3.4.5", "fd00::g", "10.0.0.1/24"]
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|octet|Octet|permitted|Expected"):
        canonical_address(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.1.2.3/8", "10.0.0.0/8"), ("010.0.0.0/8", "10.0.0.0/8"), ("fd00::1/64", "fd00::/64"), ("::/0", "::/0")],
)
def test_a_prefix_has_one_spelling_and_no_host_bits(text: str, expected: str) -> None:
    assert canonical_prefix(text) == expected


@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "/8", "10.0.0.0/-1", "10.0.0.0/x"])
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_prefix(text)


@given(st.ip_addresses())
def test_canonical_text_is_a_fixed_point_of_the_right_family(address: object) -> None:
    text = canonical_address(str(address))
    assert canonical_address(text) == text
    assert family_of(text) == ip_address(text).version


@pytest.mark.parametrize("family", FAMILIES)
def test_the_halves_of_a_family_cover_everything(family: Family) -> None:
    first, second = (ip_network(half) for half in family.halves)
    assert first.supernet() == second.supernet() == ip_network(family.everything)
    assert first != second
