"""Which addresses a Service gets. Pure: what is claimed and what is shown are arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from msgspec import Struct

from kuberouterpy.cluster import Service, ServiceType
from kuberouterpy.config import Config
from kuberouterpy.family import Family, canonical_address, family_of

ADDRESSES: Final = "kube-router.io/loadbalancer-ips"
"""Annotation: addresses asked for, by commas, at most one a family. ``spec.loadBalancerIP`` is deprecated, and has one only."""
CLASSES: Final = frozenset({"kube-router", "kuberouterpy"})
REFUSED: Final = "AddressRefused"
EXHAUSTED: Final = "AddressExhausted"
_NO_CLASS: Final = frozenset({"", "default"})
_RESERVED_UP_TO: Final = {Family.IPV4: 30, Family.IPV6: 126}
"""Longer prefixes have no reserved addresses (RFC 3021, RFC 6164)."""


class Choice(Struct, frozen=True):
    """What a Service is to have."""

    addresses: tuple[str, ...] = ()
    """At most one a family, in the order of the Service's families."""
    reason: str = ""
    """One word in UpperCamelCase where something was asked for in vain; else empty."""
    problem: str = ""
    """What is wrong, and the mend."""


def is_ours(service: Service, config: Config) -> bool:
    """Return whether this allocator gives a Service its addresses."""
    if service.type is not ServiceType.LOAD_BALANCER:
        return False
    kind = service.load_balancer_class
    return kind in CLASSES or (kind in _NO_CLASS and config.loadbalancer_default_class)


def choose(service: Service, config: Config, *, may_have: Callable[[str], bool], own: Sequence[str] = ()) -> Choice:
    """Return the addresses of a Service that is ours.

    A Service keeps what it has; else it gets what it claimed before (``own``), else the first free address of the ranges. An
    address that was asked for is given or refused, never replaced by another. ``may_have(address)``: nobody else has it.
    Errors: none; what is refused stands in the choice. With RequireDualStack it is both families or none.
    """
    asked, wrong = _asked(service)
    problems = [(REFUSED, wrong)] if wrong else []
    chosen: list[str] = []
    for family in service.families:
        if family not in config.families:
            problems += [(EXHAUSTED, f"IPv{family:d} is not enabled")] if service.require_dual_stack else []
            continue
        held = [one.address for one in service.load_balancer if family_of(one.address) is family]
        if family in asked:
            refused = _refused(asked[family], config, may_have)
            problems += [(REFUSED, refused)] if refused else []
            candidates = iter([*([] if refused else [asked[family]]), *(held if refused else [])])
        else:
            claimed = [one for one in own if family_of(one) is family]
            candidates = (one for one in _in_turn(held, claimed, family, config) if may_have(one))
        address = next((one for one in candidates if may_have(one)), "")
        if address:
            chosen.append(address)
        elif family not in asked:
            problems.append((EXHAUSTED, _exhausted(family, config)))
    complete = len(chosen) == len(service.families) or not service.require_dual_stack
    return Choice(tuple(chosen) if complete else (), *(problems[0] if problems else ()))


def usable(prefix: str) -> Iterator[str]:
    """Yield the addresses of a range that may be given, in order: neither network nor broadcast, nor IPv6's router anycast."""
    first, last = _bounds(ip_network(prefix))
    kind = type(ip_network(prefix).network_address)
    for number in range(first, last + 1):
        yield str(kind(number))


def _in_turn(held: Sequence[str], claimed: Sequence[str], family: Family, config: Config) -> Iterator[str]:
    yield from held
    yield from (one for one in sorted(claimed) if _holds(one, config))
    for prefix in _ranges(family, config):
        yield from usable(prefix)


def _asked(service: Service) -> tuple[dict[Family, str], str]:
    text = service.annotations.get(ADDRESSES) or service.load_balancer_ip
    asked: dict[Family, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        try:
            address = canonical_address(part.strip())
        except ValueError:
            return asked, f"{part.strip()!r} is not an address; mend {ADDRESSES} or spec.loadBalancerIP"
        if family_of(address) in asked:
            return asked, f"{text!r} has two addresses of one family; name one a family"
        if family_of(address) not in service.families:
            return asked, f"{address} is of a family that spec.ipFamilies does not have"
        asked[family_of(address)] = address
    return asked, ""


def _refused(address: str, config: Config, may_have: Callable[[str], bool]) -> str:
    if not _holds(address, config):
        ranges = ",".join(config.loadbalancer_ip_range) or "(not set)"
        return f"{address} is reserved or outside --loadbalancer-ip-range {ranges}; ask for another"
    return "" if may_have(address) else f"{address} is another Service's; ask for another"


def _exhausted(family: Family, config: Config) -> str:
    ranges = _ranges(family, config)
    if not ranges:
        return f"--loadbalancer-ip-range has no IPv{family:d} range; add one"
    return f"no address is free in {','.join(ranges)}; add a range to --loadbalancer-ip-range"


def _ranges(family: Family, config: Config) -> list[str]:
    return [one for one in config.loadbalancer_ip_range if family_of(one) is family]


def _holds(address: str, config: Config) -> bool:
    number = int(ip_address(address))
    bounds = (_bounds(ip_network(prefix)) for prefix in _ranges(family_of(address), config))
    return any(first <= number <= last for first, last in bounds)


def _bounds(network: IPv4Network | IPv6Network) -> tuple[int, int]:
    first, last = int(network.network_address), int(network.broadcast_address)
    family = Family(network.version)
    if network.prefixlen > _RESERVED_UP_TO[family]:
        return first, last
    return first + 1, last - (family is Family.IPV4)
