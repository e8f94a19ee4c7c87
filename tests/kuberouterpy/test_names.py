"""Names of kernel objects: from identity only, and never the same for two."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.dataplane import CHAIN_PREFIXES
from kuberouterpy.names import CHAIN_LIMIT, LINK_LIMIT, SET_LIMIT, digest, hashed

_words = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=12)


def test_where_a_name_is_cut_matters() -> None:
    assert digest("ns-a", "bc") != digest("ns-ab", "c")


@given(st.lists(_words, min_size=1, max_size=3), st.lists(_words, min_size=1, max_size=3))
def test_two_identities_never_share_a_name(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_names_stay_what_they_are() -> None:
    # Changing these orphans every object a running agent has made: a restart would sweep and remake them all.
    assert digest("default", "web") == "6PJFZM52DHTEH33H"
    assert hashed("tun-", "10.0.0.1", length=11) == "tun-" + digest("10.0.0.1", length=11)


def test_every_prefix_leaves_room_for_its_hash() -> None:
    assert all(len(hashed(prefix, "x")) <= CHAIN_LIMIT + 1 for prefix in CHAIN_PREFIXES)
    assert len(hashed("inet6:KUBE-SRC-", "x")) <= SET_LIMIT
    assert len(hashed("tun-", "x", length=11)) == LINK_LIMIT
