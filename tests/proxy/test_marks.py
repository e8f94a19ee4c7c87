"""Numbers of firewall-mark virtual servers: unique where it can be, in our range, without the bits of others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.protocol import Protocol
from proxy import is_mark
from proxy.marks import DIRECT, DIRECT_MASK, of_direct, of_name, of_node_port

OTHERS = (1 << 14, 1 << 15, 1 << 16)
"""KUBE-MARK-MASQ and KUBE-MARK-DROP of the kubelet, and what our firewall allows."""


def test_no_two_node_ports_share_a_mark() -> None:
    found = {of_node_port(protocol, number) for protocol in Protocol for number in range(1, 65536)}
    assert len(found) == 3 * 65535
    assert all(map(is_mark, found))
    assert not any(mark & bit for mark in found for bit in OTHERS)


@given(st.text(), st.text(), st.integers(1, 65535))
def test_marks_of_names_are_ours_and_never_those_of_a_node_port(name: str, port: str, number: int) -> None:
    mark = of_name(name, port)
    assert is_mark(mark)
    assert not any(mark & bit for bit in OTHERS)
    assert mark != of_node_port(Protocol.SCTP, number)
    assert mark == of_name(name, port)


@given(st.text(), st.integers(1, 65535))
def test_one_mask_tells_marks_of_direct_server_return_from_all_others(name: str, number: int) -> None:
    mark = of_direct(name, "80")
    assert is_mark(mark)
    assert not any(mark & bit for bit in OTHERS)
    assert mark & DIRECT_MASK == DIRECT
    for other in (of_name(name, "80"), *(of_node_port(protocol, number) for protocol in Protocol)):
        assert other & DIRECT_MASK != DIRECT


@pytest.mark.parametrize("mark", [0, 1, 77, 0x2001, 0x4000, 0x10000, 0x40010000, 0x60004000, 0x80000000, 0xC0000000])
def test_marks_of_others_are_not_ours(mark: int) -> None:
    assert not is_mark(mark)
