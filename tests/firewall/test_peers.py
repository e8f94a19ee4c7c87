"""Sets: names, what blocks become, what a pod puts in."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.chains import slot_of
from firewall.peers import Blocks, block_objects, blocks_of, pod_entries, pod_set, pod_set_name
from kuberouterpy.cluster import IpBlock
from kuberouterpy.dataplane import Entry, Set
from kuberouterpy.family import FAMILIES, IPV4, IPV6
from kuberouterpy.labels import EVERYTHING, PodSelector, selector, term
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import EVERY_POD, NamedPort
from tests.firewall.world import pod

WEB = PodSelector(selector({"app": "web"}), "default")


def members(blocks: Blocks) -> list[str]:
    """Return entries as ``ipset save`` writes them."""
    found = [one for one in block_objects(blocks) if isinstance(one, Entry)]
    return [one.key.member + (" nomatch" if one.nomatch else "") for one in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_set_names_fit_the_kernel_and_tell_families_apart(family: int) -> None:
    names = {pod_set_name(one, family) for one in (WEB, EVERY_POD, NamedPort(WEB, Protocol.TCP, "web"))}  # type: ignore[arg-type]
    assert len(names) == 3
    assert all(len(name) <= 31 and name.startswith("inet6:") == (family == 6) for name in names)


def test_equal_selectors_share_a_set_and_selectors_that_print_alike_do_not() -> None:
    again = PodSelector(selector(None, (term("app", "In", ("web",)),)), "default")
    assert pod_set_name(WEB, IPV4) == pod_set_name(again, IPV4)
    odd = PodSelector(selector({"app": "web in namespace default"}), "x")
    odder = PodSelector(selector({"app": "web"}), "default in namespace x")
    assert pod_set_name(odd, IPV4) != pod_set_name(odder, IPV4)


def test_namespace_and_label_do_not_run_together_in_a_name() -> None:
    assert pod_set_name(PodSelector(EVERYTHING, "a"), IPV4) != pod_set_name(
        PodSelector(EVERYTHING, "", EVERYTHING), IPV4
    )


@pytest.mark.parametrize(
    ("cidr", "excepts", "expected"),
    [
        ("10.0.0.0/8", (), ["10.0.0.0/8"]),
        ("10.0.0.1/32", (), ["10.0.0.1"]),
        ("fd00::1/128", (), ["fd00::1"]),
        ("10.0.0.0/8", ("10.1.0.0/16",), ["10.0.0.0/8", "10.1.0.0/16 nomatch"]),
        ("10.0.0.0/8", ("10.1.2.3/32",), ["10.0.0.0/8", "10.1.2.3 nomatch"]),
        ("10.0.0.0/8", ("10.0.0.0/8",), ["10.0.0.0/8 nomatch"]),
        ("0.0.0.0/0", ("10.0.0.0/8",), ["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8 nomatch"]),
        ("0.0.0.0/0", ("0.0.0.0/1",), ["128.0.0.0/1", "0.0.0.0/1 nomatch"]),
        ("0.0.0.0/0", ("0.0.0.0/0",), ["0.0.0.0/1 nomatch", "128.0.0.0/1 nomatch"]),
        ("::/0", ("fc00::/7",), ["::/1", "8000::/1", "fc00::/7 nomatch"]),
        ("10.0.0.0/8", ("fd00::/8",), ["10.0.0.0/8"]),
    ],
)
def test_a_block_becomes_these_members(cidr: str, excepts: tuple[str, ...], expected: list[str]) -> None:
    assert expected == members(Blocks((cidr,), excepts))


def test_everything_needs_no_set() -> None:
    assert list(block_objects(Blocks(("0.0.0.0/0", "10.0.0.0/8")))) == []
    assert list(block_objects(Blocks(("::/0",)))) == []


def test_blocks_without_exceptions_share_a_set_and_each_other_has_its_own() -> None:
    """Row 15: in one set the exception 10.1.0.0/16 would take from 10.0.0.0/12 as well."""
    blocks = [IpBlock("10.0.0.0/8", ("10.1.0.0/16",)), IpBlock("10.0.0.0/12"), IpBlock("192.0.2.0/24")]
    shared, own = blocks_of(blocks, IPV4)
    assert (shared.cidrs, shared.excepts) == (("10.0.0.0/12", "192.0.2.0/24"), ())
    assert (own.cidrs, own.excepts) == (("10.0.0.0/8",), ("10.1.0.0/16",))
    assert shared.name != own.name
    assert blocks_of(blocks, IPV6) == []


def test_order_and_repeats_of_blocks_make_no_new_set() -> None:
    one, other = IpBlock("10.0.0.0/8"), IpBlock("192.0.2.0/24")
    assert blocks_of([one, other], IPV4) == blocks_of([other, one, other], IPV4)


def test_a_set_has_room_for_a_long_list() -> None:
    blocks = Blocks((*(f"10.{high}.{low}.0/24" for high in range(256) for low in range(256)), "11.0.0.0/8"))
    made = next(iter(block_objects(blocks)))
    assert isinstance(made, Set)
    assert made.max_elements > 65536


def test_a_named_port_takes_the_pods_own_number_and_protocol() -> None:
    one = pod("default/web", ports=(("web", "tcp", 8080), ("web", "udp", 53), ("admin", "tcp", 9000)))
    named = NamedPort(WEB, Protocol.TCP, "web")
    assert [entry.key.member for entry in pod_entries(named, one, "10.1.0.5")] == ["10.1.0.5,tcp:8080"]
    assert pod_set(named, IPV4).type == "hash:ip,port"
    assert list(pod_entries(NamedPort(WEB, Protocol.SCTP, "web"), one, "10.1.0.5")) == []


@given(st.ip_addresses())
def test_the_slot_is_the_last_four_bits(address: object) -> None:
    text = str(address)
    if "." not in text or ":" not in text:
        assert int(ip_address(text)) & 15 == slot_of(text)
