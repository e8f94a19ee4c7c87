"""What every kind is read with: small readers, the collector of problems, and the outcome."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_address
from socket import AF_INET, inet_pton
from typing import Final, NamedTuple, TypeVar

from kuberouterpy.cluster import Kind, NetworkPolicy, Record, Ref, Rejection
from kuberouterpy.family import IPV4, IPV6, canonical_address, canonical_prefix
from kuberouterpy.protocol import Protocol
from kuberouterpy.sources import wire

PREFIX: Final = "kube-router.io/"
"""Annotations of ours and of kube-router begin with it."""
OWN_PREFIX: Final = "kuberouterpy.io/"
"""Annotations for what kube-router does not have; no others are kept."""

MAX_PORT: Final = 65_535
FAMILIES: Final = {"IPv4": IPV4, "IPv6": IPV6}

_SPECIAL_OCTETS: Final = frozenset({"0", "127", "169", *map(str, range(224, 240))})
"""First octets under which some address is unspecified, loopback, link-local or multicast."""
_PROTOCOLS: Final = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}

T = TypeVar("T")


class Refused(Exception):
    """The object cannot be used; the text names the field."""


class Decoded(NamedTuple):
    """One object, read. Without record and without problems it is not for us, as if it were not there."""

    kind: Kind
    """Kind of the record."""
    ref: Ref
    """Identity."""
    uid: str
    """metadata.uid."""
    record: Record | None
    """The record, or ``None``."""
    problems: tuple[str, ...] = ()
    """What was left out, or why there is no record."""
    isolating: NetworkPolicy | None = None
    """Of a refused policy: what isolates its pods, for when no good version is known."""

    @property
    def rejection(self) -> Rejection | None:
        """What is to be told, or ``None``."""
        return Rejection(self.kind, self.ref, "; ".join(self.problems), self.uid) if self.problems else None


class Problems:
    """Collects what is wrong with one object."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def attempt(self, field: str, read: Callable[..., T], *arguments: object) -> T | None:
        """Return what ``read`` returns; note the field and return ``None`` where it cannot be read."""
        try:
            return read(*arguments)
        except ValueError as error:
            text = str(error)
            self.texts.append(f"{field}{text}" if text.startswith("[") else f"{field}: {text}")
            return None

    def each(self, field: str, texts: Iterable[str] | None, read: Callable[[str], T]) -> tuple[T, ...]:
        """Return the readable ones, without repeats, in order."""
        found: dict[T, None] = {}
        for index, text in enumerate(texts or ()):
            try:
                found[read(text)] = None
            except ValueError as error:
                self.texts.append(f"{field}[{index}]: {error}")
        return tuple(found)


def reason(error: Exception) -> str:
    """Return what is wrong, the field first."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    # msgspec ends with "- at `$.spec.ports[0].port`": the field first reads as our own problems do.
    text, _, place = str(error).partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    text = text[:1].lower() + text[1:]
    return f"{place}: {text}" if place else text


# Cached: pods and slices name the same addresses, and ipaddress costs microseconds and a new string each time.
@lru_cache(maxsize=65_536)
def read_address(text: str) -> str:
    """Read an address into its one spelling."""
    if _plain_ipv4(text):
        return sys.intern(text)
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return sys.intern(canonical_address(text.strip()))


@lru_cache(maxsize=65_536)
def read_shared_address(text: str) -> str:
    """Read an address that nodes may route to: an endpoint's or a VIP. A VIP 127.0.0.1 would take the node's own traffic."""
    canonical = read_address(text)
    if ":" not in canonical and canonical.partition(".")[0] not in _SPECIAL_OCTETS:
        return canonical
    one = ip_address(canonical)
    if one.is_unspecified or one.is_loopback or one.is_multicast or one.is_link_local:
        raise ValueError(f"{text!r} is unspecified, loopback, link-local or multicast")
    return canonical


def _plain_ipv4(text: str) -> bool:
    """Return whether this is canonical IPv4: inet_pton refuses every other spelling, and takes a tenth of the time."""
    try:
        inet_pton(AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def read_prefix(text: str) -> str:
    """Read a prefix into its one spelling."""
    return canonical_prefix(text.strip())


def read_port(number: int | None) -> int:
    """Return a number that is a port's."""
    if number is None or not 1 <= number <= MAX_PORT:
        raise ValueError(f"{number} is not a port number")
    return number


def read_protocol(text: str | None) -> Protocol:
    """Read a protocol; none is TCP."""
    if not text:
        return Protocol.TCP
    try:
        return _PROTOCOLS[text]
    except KeyError:
        raise ValueError(f"{text!r} is not one of TCP, UDP, SCTP") from None


def annotations_of(meta: wire.Meta) -> dict[str, str]:
    """Return the annotations that are ours."""
    return {key: value for key, value in (meta.annotations or {}).items() if key.startswith((PREFIX, OWN_PREFIX))}


def labels_of(meta: wire.Meta) -> dict[str, str]:
    """Return the labels, their texts shared with those of other objects."""
    intern = sys.intern
    return {intern(key): intern(value) for key, value in (meta.labels or {}).items()}
