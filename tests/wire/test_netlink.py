"""The netlink socket's reading of answers, on bytes and, without privileges, on this machine's own kernel."""

from __future__ import annotations

import errno
import struct
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.dataplane import Op, Sysctl, SysctlKey, Verb
from kuberouterpy.drivers import rtnl_wire
from kuberouterpy.drivers.batches import SEND, sends
from kuberouterpy.drivers.netlink import (
    GENERIC,
    ROUTE,
    Message,
    Netlink,
    Refusal,
    address_text,
    attribute,
    attributes,
    failure,
    nested,
    parse,
)
from kuberouterpy.errors import MissingCapability

values = st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=8)


@given(values)
def test_attributes_survive_encoding_and_decoding(pairs: list[tuple[int, bytes]]) -> None:
    encoded = [attribute(kind, value) for kind, value in pairs]
    assert [(kind, bytes(value)) for kind, value in attributes(b"".join(encoded))] == pairs
    ((kind, inner),) = attributes(nested(7, *encoded))
    assert kind == 7
    assert [(kind, bytes(value)) for kind, value in attributes(inner)] == pairs


@given(st.binary(max_size=200))
def test_rubbish_ends_the_reading_and_raises_nothing(rubbish: bytes) -> None:
    assert sum(len(value) for _, value in attributes(rubbish)) <= len(rubbish)
    assert sum(len(body) for *_, body in parse(rubbish)) <= len(rubbish)


@given(st.ip_addresses())
def test_address_text_is_the_spelling_of_keys(address: object) -> None:
    assert address_text(address.packed) == str(address)  # type: ignore[attr-defined]


def test_a_dump_lists_the_loopback_link() -> None:
    with closing(Netlink(ROUTE)) as netlink:
        bodies = list(netlink.dump(Message(rtnl_wire.GET_LINK, 0, rtnl_wire.get_links())))
    assert "lo" in {rtnl_wire.decode_link(body).name for body in bodies}


def test_each_refusal_names_its_message_though_only_the_last_asked_for_an_answer() -> None:
    """RTM_NEWLINK of a malformed body: EINVAL or EPERM for each, in one send."""
    bad = Message(rtnl_wire.DELETE_LINK, 0, rtnl_wire.link_by_index(2**31 - 1))
    good = Message(rtnl_wire.GET_LINK, 0, rtnl_wire.get_links("lo"))
    with closing(Netlink(ROUTE)) as netlink:
        refused = netlink.transact([bad, good, bad, good])
        assert set(refused) == {0, 2}
        assert {refusal.errno for refusal in refused.values()} <= {errno.ENODEV, errno.EPERM}
        assert netlink.transact([]) == {}
        assert set(netlink.transact([good, bad])) == {1}


def test_what_the_kernel_adds_in_words_is_kept() -> None:
    unknown = Message(rtnl_wire.GET_LINK, 0, struct.pack("=BxHiII", 0, 0, 2**31 - 1, 0, 7) + attribute(1000, b"x"))
    with closing(Netlink(ROUTE)) as netlink:
        refused = netlink.transact([unknown])
    assert refused[0].text


def test_a_family_the_kernel_does_not_have_is_enoent() -> None:
    with closing(Netlink(GENERIC)) as netlink:
        assert netlink.family("nlctrl") == 16
        with pytest.raises(OSError, match="no such file") as caught:
            netlink.family("nonesuch")
    assert caught.value.errno == errno.ENOENT


def test_a_refusal_for_want_of_permission_names_the_mend() -> None:
    error = failure("create x", Refusal(errno.EPERM, ""))
    assert isinstance(error, MissingCapability)
    assert str(error) == "create x: not permitted: run as root or with CAP_NET_ADMIN (EPERM)"


ops = st.builds(
    lambda verb, name: Op(verb, SysctlKey(name), None if verb is Verb.DELETE else Sysctl(SysctlKey(name), "1")),
    st.sampled_from(Verb),
    st.integers(0, 300).map(str),
)


@given(st.lists(ops, max_size=400))
def test_sends_keep_the_order_and_never_hold_a_key_twice(wanted: list[Op]) -> None:
    parts = list(sends(wanted))
    assert [op for part in parts for op in part] == wanted
    for part in parts:
        assert 0 < len(part) <= SEND
        assert len({op.key for op in part}) == len(part)
        assert len({op.verb is Verb.DELETE for op in part}) == 1
