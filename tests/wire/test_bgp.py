"""Paths as bytes: what RFC 4271, 4760 and 1997 say, byte for byte, and back."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.family import Family, family_of
from kuberouterpy.gobgp import wire


def as_hex(*attributes: bytes) -> list[str]:
    return [one.hex(" ") for one in attributes]


@pytest.mark.parametrize(
    ("prefix", "data"),
    [
        ("0.0.0.0/0", "00"),
        ("10.0.0.0/8", "08 0a"),
        ("10.1.2.0/23", "17 0a 01 02"),
        ("10.1.2.3/32", "20 0a 01 02 03"),
        ("fd00:1:2::/64", "40 fd 00 00 01 00 02 00 00"),
        ("::/0", "00"),
    ],
)
def test_a_prefix_is_its_length_and_the_bytes_it_needs(prefix: str, data: str) -> None:
    assert wire.encode_prefix(prefix).hex(" ") == data
    assert wire.decode_prefix(bytes.fromhex(data), family_of(prefix)) == prefix


@pytest.mark.parametrize("data", ["", "21 0a 01 02 03 04", "18 0a 01", "08 0a 01"])
def test_a_broken_prefix_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="not an NLRI"):
        wire.decode_prefix(bytes.fromhex(data), Family.IPV4)


def test_an_ipv4_path_carries_origin_and_next_hop() -> None:
    assert as_hex(*wire.encode("10.1.2.0/24", "10.0.0.1")) == ["40 01 01 00", "40 03 04 0a 00 00 01"]


def test_an_ipv6_path_carries_its_next_hop_and_prefix_in_mp_reach() -> None:
    assert as_hex(*wire.encode("fd00:1::/64", "fd00::1")) == [
        "40 01 01 00",
        "80 0e 1e 00 02 01 10 fd 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 40 fd 00 00 01 00 00 00 00",
    ]


def test_communities_and_local_preference_stand_between() -> None:
    made = wire.encode("10.0.0.0/8", "10.0.0.1", communities=("64512:100", "no-export", "7"), local_preference=200)
    assert as_hex(*made)[2:] == ["40 05 04 00 00 00 c8", "c0 08 0c fc 00 00 64 ff ff ff 01 00 00 00 07"]


@pytest.mark.parametrize("text", ["", "a:b", "1:2:3", "65536:1", "1:65536", "4294967296", "-1", "١:١"])
def test_a_community_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a community"):
        wire.community(text)


def test_an_as_path_counts_a_set_once() -> None:
    """RFC 4271 9.1.2.2: with four-byte numbers, as GoBGP gives them."""
    sequence = "02 02 00 00 fd e9 00 00 fd ea"
    as_set = "01 02 00 00 fd eb 00 00 fd ec"
    found = wire.decode([bytes.fromhex(f"40 02 14 {sequence} {as_set}")])
    assert (found.as_path, found.as_path_length) == ((65001, 65002, 65003, 65004), 3)


def test_a_link_local_address_beside_the_next_hop_is_passed_over() -> None:
    both = "fd 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01" + "fe 80 00 00 00 00 00 00 00 00 00 00 00 00 00 01"
    assert wire.decode([bytes.fromhex(f"80 0e 26 00 02 01 20 {both} 00 00")]).next_hop == "fd00::1"


@pytest.mark.parametrize("data", ["", "40", "40 01 02 00", "40 02 02 02 02", "80 04 03 00 00 01", "50 01 00"])
def test_a_broken_attribute_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="path attribute"):
        wire.decode([bytes.fromhex(data)])


prefixes = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda one: ip_network(one, strict=False)),
    st.tuples(st.integers(2**32, 2**128 - 1), st.integers(96, 128)).map(lambda one: ip_network(one, strict=False)),
).map(str)
communities = st.lists(st.integers(0, 2**32 - 1).map(wire.community_text), max_size=80).map(tuple)


@given(prefixes, communities, st.integers(0, 2**32 - 1))
def test_what_is_written_is_read_again(prefix: str, texts: tuple[str, ...], preference: int) -> None:
    next_hop = "fd00::1" if ":" in prefix else "10.0.0.1"
    made = wire.encode(prefix, next_hop, communities=texts, local_preference=preference)
    assert wire.decode(made) == wire.Attributes(next_hop=next_hop, local_preference=preference, communities=texts)
    assert wire.decode_prefix(wire.encode_prefix(prefix), family_of(prefix)) == prefix


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_rubbish_is_read_or_refused_but_never_breaks(data: list[bytes]) -> None:
    with suppress(ValueError):
        wire.decode(data)
