"""Which addresses a Service gets, purely."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.balancer.pools import ADDRESSES, EXHAUSTED, REFUSED, Choice, choose, is_ours, usable
from kuberouterpy.cluster import LoadBalancerIngress, Ref, Service, ServiceType
from kuberouterpy.config import Config
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family, family_of

CONFIG = Config(enable_ipv6=True, run_loadbalancer=True, loadbalancer_ip_range=("198.51.100.0/29", "2001:db8:1b::/125"))
FIRST = {IPV4: "198.51.100.1", IPV6: "2001:db8:1b::1"}
SIX = [f"198.51.100.{number}" for number in range(1, 7)]


def service(*families: Family, held: tuple[str, ...] = (), asked: str = "", **fields: object) -> Service:
    shown = tuple(LoadBalancerIngress(one) for one in held)
    notes = {ADDRESSES: asked} if asked else {}
    return Service(
        Ref("default", "web"),
        ServiceType.LOAD_BALANCER,
        families=families or (IPV4,),
        load_balancer=shown,
        annotations=notes,
        **fields,  # type: ignore[arg-type]
    )


def given_to(one: Service, *taken: str, config: Config = CONFIG, own: tuple[str, ...] = ()) -> Choice:
    return choose(one, config, may_have=lambda address: address not in taken, own=own)


@pytest.mark.parametrize(
    ("prefix", "addresses"),
    [
        ("198.51.100.0/29", SIX),
        ("198.51.100.8/30", ["198.51.100.9", "198.51.100.10"]),
        ("198.51.100.8/31", ["198.51.100.8", "198.51.100.9"]),
        ("198.51.100.8/32", ["198.51.100.8"]),
        ("2001:db8::/126", ["2001:db8::1", "2001:db8::2", "2001:db8::3"]),
        ("2001:db8::2/127", ["2001:db8::2", "2001:db8::3"]),
        ("2001:db8::9/128", ["2001:db8::9"]),
    ],
)
def test_network_broadcast_and_router_anycast_are_never_given(prefix: str, addresses: list[str]) -> None:
    assert list(usable(prefix)) == addresses


def test_a_huge_range_is_walked_only_as_far_as_is_needed() -> None:
    assert list(islice(usable("2001:db8::/64"), 2)) == ["2001:db8::1", "2001:db8::2"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_service_gets_the_first_free_address_of_its_family(family: Family) -> None:
    assert given_to(service(family)) == Choice((FIRST[family],))
    following = f"{FIRST[family][:-1]}2"
    assert given_to(service(family), FIRST[family]) == Choice((following,))


def test_a_dual_stack_service_gets_one_of_each_in_its_own_order() -> None:
    assert given_to(service(IPV6, IPV4)).addresses == (FIRST[IPV6], FIRST[IPV4])


def test_a_service_keeps_what_it_has_and_takes_up_what_it_claimed() -> None:
    assert given_to(service(held=("198.51.100.5",)), own=("198.51.100.2",)).addresses == ("198.51.100.5",)
    assert given_to(service(), own=("198.51.100.4",)).addresses == ("198.51.100.4",)
    # Not where another has it by now.
    assert given_to(service(held=("198.51.100.5",)), "198.51.100.5").addresses == ("198.51.100.1",)


@pytest.mark.parametrize("by", ["annotation", "spec"])
def test_an_address_that_is_asked_for_is_given_or_refused_never_replaced(by: str) -> None:
    def asking(address: str, **fields: object) -> Service:
        return service(asked=address, **fields) if by == "annotation" else service(load_balancer_ip=address, **fields)

    assert given_to(asking("198.51.100.4")) == Choice(("198.51.100.4",))
    taken = given_to(asking("198.51.100.4"), "198.51.100.4")
    assert taken == Choice((), REFUSED, "198.51.100.4 is another Service's; ask for another")
    for outside in ("198.51.100.0", "198.51.100.7", "203.0.113.9"):
        refused = given_to(asking(outside))
        assert (refused.addresses, refused.reason) == ((), REFUSED)
        assert refused.problem.startswith(f"{outside} is reserved or outside --loadbalancer-ip-range 198.51.100.0/29,")
    # The last good address stays until a better one is named.
    assert given_to(asking("198.51.100.0", held=("198.51.100.2",))).addresses == ("198.51.100.2",)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("nonsense", "'nonsense' is not an address; mend kube-router.io/loadbalancer-ips or spec.loadBalancerIP"),
        (
            "198.51.100.1, 198.51.100.2",
            "'198.51.100.1, 198.51.100.2' has two addresses of one family; name one a family",
        ),
        ("2001:db8:1b::1", "2001:db8:1b::1 is of a family that spec.ipFamilies does not have"),
    ],
)
def test_a_request_that_cannot_be_read_is_told(asked: str, problem: str) -> None:
    assert (given_to(service(asked=asked)).reason, given_to(service(asked=asked)).problem) == (REFUSED, problem)


def test_asking_for_one_family_leaves_the_other_free_and_both_can_be_named() -> None:
    assert given_to(service(IPV4, IPV6, asked="2001:db8:1b::3")).addresses == (FIRST[IPV4], "2001:db8:1b::3")
    both = service(IPV4, IPV6, asked="2001:db8:1b::3,198.51.100.3")
    assert given_to(both).addresses == ("198.51.100.3", "2001:db8:1b::3")


def test_an_exhausted_range_is_told_and_a_dual_stack_service_takes_what_there_is_unless_it_requires_both() -> None:
    exhausted = Choice((), EXHAUSTED, "no address is free in 198.51.100.0/29; add a range to --loadbalancer-ip-range")
    assert given_to(service(), *SIX) == exhausted
    assert given_to(service(IPV4, IPV6), *SIX).addresses == (FIRST[IPV6],)
    assert given_to(service(IPV4, IPV6, require_dual_stack=True), *SIX) == exhausted
    none = Config(enable_ipv6=True, loadbalancer_ip_range=("198.51.100.0/29",))
    assert given_to(service(IPV6), config=none).problem == "--loadbalancer-ip-range has no IPv6 range; add one"
    off = Config(loadbalancer_ip_range=("198.51.100.0/29",))
    required = given_to(service(IPV4, IPV6, require_dual_stack=True), config=off)
    assert (required.addresses, required.problem) == ((), "IPv6 is not enabled")
    assert given_to(service(IPV4, IPV6), config=off) == Choice((FIRST[IPV4],))


@pytest.mark.parametrize(
    ("kind", "name", "default", "ours"),
    [
        (ServiceType.LOAD_BALANCER, "", True, True),
        (ServiceType.LOAD_BALANCER, "default", True, True),
        (ServiceType.LOAD_BALANCER, "", False, False),
        (ServiceType.LOAD_BALANCER, "kube-router", False, True),
        (ServiceType.LOAD_BALANCER, "metallb", True, False),
        (ServiceType.CLUSTER_IP, "", True, False),
        (ServiceType.NODE_PORT, "kube-router", True, False),
    ],
)
def test_whose_services_are_ours(kind: ServiceType, name: str, default: bool, ours: bool) -> None:
    one = Service(Ref("default", "web"), kind, load_balancer_class=name)
    assert is_ours(one, Config(loadbalancer_default_class=default)) is ours


@given(
    st.sets(st.sampled_from(SIX)),
    st.lists(st.sampled_from([*SIX, "198.51.100.0", "198.51.100.7", "203.0.113.1"]), max_size=2).map(tuple),
    st.sampled_from(["", *SIX, "198.51.100.0"]),
    st.sampled_from([(IPV4,), (IPV4, IPV6), (IPV6,)]),
)
def test_whatever_stands_no_address_is_another_services_or_newly_a_reserved_one(
    taken: set[str], held: tuple[str, ...], asked: str, families: tuple[Family, ...]
) -> None:
    choice = given_to(service(*families, held=held, asked=asked), *taken)
    assert len({family_of(one) for one in choice.addresses}) == len(choice.addresses)
    for address in choice.addresses:
        assert address not in taken
        assert address in held or any(
            ip_address(address) in ip_network(prefix) and address in set(usable(prefix))
            for prefix in CONFIG.loadbalancer_ip_range
        )
    if not choice.problem and IPV4 in families:
        assert any(family_of(one) is IPV4 for one in choice.addresses)
