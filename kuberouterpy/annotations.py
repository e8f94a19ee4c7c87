"""What the annotations of a Node say about BGP, read once, where the record is made.

Names and meanings are kube-router's. A field that cannot be read never becomes a default in silence: it stands in
:attr:`NodeBgp.malformed` with the reason, and :func:`settled` puts the last good value in its place, so that whoever reads the
record needs no memory. Two annotations that only mean something together (``peer.ips`` and ``peer.asns``) are one field.

Passwords are in no reason and in no ``repr``: nothing here quotes what stands in ``peers`` or ``peer.passwords``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any, Final, TypeVar

import msgspec
import yaml
from msgspec import Struct

from kuberouterpy.family import canonical_address, canonical_prefix
from kuberouterpy.gobgp import wire

PREFIX: Final = "kube-router.io/"
_BGP_PORT: Final = 179
_MAX_ASN: Final = 2**32 - 1
_MAX_PORT: Final = 65_535
_MAX_BFD_MS: Final = 60_000
_MAX_PREPENDS: Final = 255
"""GoBGP counts in one byte."""
_PASSWORD_BYTES: Final = 80
"""TCP_MD5SIG_MAXKEYLEN of Linux."""

T = TypeVar("T")


class BfdWish(Struct, frozen=True):
    """What ``bfd`` of a neighbor says; what it leaves out is the flags' (0, ``None``)."""

    enabled: bool | None = None
    port: int = 0
    multiplier: int = 0
    """Missed packets until down."""
    tx_ms: int = 0
    rx_ms: int = 0


class Peer(Struct, frozen=True):
    """An external neighbor, as flags or annotations name it."""

    address: str
    """Canonical address of theirs."""
    asn: int
    """Their AS number."""
    port: int = _BGP_PORT
    """Their port."""
    local_address: str = ""
    """Our end; empty: this node's primary address."""
    password: str = ""
    """TCP MD5, plain text; never printed, never logged."""
    bfd: BfdWish = BfdWish()
    """BFD as this neighbor wants it."""

    def __repr__(self) -> str:
        return f"Peer({self.address}, asn={self.asn})"


class Prepend(Struct, frozen=True):
    """What is put before the AS path towards external neighbors."""

    asn: int
    count: int


class Malformed(Struct, frozen=True):
    """An annotation that cannot be used."""

    annotation: str
    """Full key."""
    reason: str
    """What is wrong with it, and where."""
    field: str
    """The field of :class:`NodeBgp` that keeps its last good value."""


class NodeBgp(Struct, frozen=True):
    """What a Node's annotations say; an absent annotation leaves the field as here."""

    peers: tuple[Peer, ...] = ()
    """``peers``, else ``peer.*``: external neighbors. Of this host's own Node only."""
    asn: int = 0
    """``node.asn``; 0: none."""
    reflector: str = ""
    """``rr.server``: cluster id it reflects for, dotted quad; empty: it does not."""
    client_of: str = ""
    """``rr.client``: cluster id of its reflectors, dotted quad; empty: it is no client."""
    communities: tuple[str, ...] = ()
    """``node.bgp.communities``, as ``high:low``."""
    import_reject: tuple[str, ...] = ()
    """``node.bgp.customimportreject``, canonical prefixes."""
    prepend: Prepend | None = None
    """``path-prepend.as`` and ``path-prepend.repeat-n``."""
    listen: tuple[str, ...] = ()
    """``bgp-local-addresses``, canonical; empty: the primary addresses."""
    pod_cidrs: tuple[str, ...] = ()
    """``pod-cidrs``, else ``pod-cidr``, canonical; empty: those of the spec."""
    local_preference: int = 0
    """``node.bgp.local-preference``; 0: the flag's. Our own annotation."""
    malformed: tuple[Malformed, ...] = ()
    """What could not be read."""


class Unreadable(ValueError):
    """A value cannot be used; ``key`` is the annotation without prefix where it is not the only one of its field."""

    def __init__(self, reason: str, key: str = "") -> None:
        super().__init__(reason)
        self.key = key


def read_bgp(annotations: Mapping[str, str], *, own: bool = True) -> NodeBgp:
    """Return what annotations say. ``own``: whether the Node is this host, whose external neighbors alone matter here."""
    values: dict[str, object] = {}
    malformed = []
    for field, keys, reader in _FIELDS:
        texts = {key: text for key in keys if (text := annotations.get(PREFIX + key, "")).strip()}
        if not texts or (field == "peers" and not own):
            continue
        try:
            values[field] = reader(texts)
        except ValueError as error:
            key = (error.key if isinstance(error, Unreadable) else "") or next(iter(texts))
            malformed.append(Malformed(PREFIX + key, str(error), field))
    return NodeBgp(**values, malformed=tuple(malformed))  # type: ignore[arg-type]


def without_bgp(annotations: Mapping[str, str]) -> dict[str, str]:
    """Return the annotations of ours that are not read here: nobody needs their text, and some are secret."""
    return {key: text for key, text in annotations.items() if key.startswith(PREFIX) and key not in _KEYS}


def settled(now: NodeBgp, before: NodeBgp) -> NodeBgp:
    """Return ``now`` with the last good value of every field that is malformed."""
    kept = {one.field: getattr(before, one.field) for one in now.malformed}
    return msgspec.structs.replace(now, **kept) if kept else now


# --- fields -----------------------------------------------------------------------------------------------------------


def _peers(texts: Mapping[str, str]) -> tuple[Peer, ...]:
    found = tuple(_peers_of_yaml(texts["peers"]) if "peers" in texts else _peers_of_lists(texts))
    twice = {one.address for one in found if sum(one.address == other.address for other in found) > 1}
    if twice:
        raise Unreadable(f"{min(twice)} stands in it twice")
    return found


def _peers_of_yaml(text: str) -> Iterator[Peer]:
    try:
        items = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # The error's own words quote the text around it, which may be a password.
        mark = getattr(error, "problem_mark", None)
        raise Unreadable(f"is not YAML{f' (line {mark.line + 1})' if mark else ''}") from None
    if not isinstance(items, list):
        raise Unreadable("is not a list of peers")
    for index, item in enumerate(items):
        try:
            yield _peer(item)
        except ValueError as error:
            raise Unreadable(f"[{index}]{error}") from None


def _peer(item: object) -> Peer:
    if not isinstance(item, dict):
        raise ValueError(": is not a peer with remoteip and remoteasn")
    fields = {str(key).lower(): value for key, value in item.items()}
    unknown = sorted(set(fields) - {*_PEER_FIELDS, "bfd"})
    if unknown:
        # A misspelt password must not open a session without one.
        raise ValueError(f".{unknown[0]}: is no field of a peer; there are {', '.join((*_PEER_FIELDS, 'bfd'))}")
    for needed in ("remoteip", "remoteasn"):
        if fields.get(needed) in (None, ""):
            raise ValueError(f".{needed}: is missing")
    values: dict[str, Any] = {}
    for name, (field, reader) in _PEER_FIELDS.items():
        if fields.get(name) not in (None, ""):
            values[field] = _named(f".{name}", reader, str(fields[name]))
    return Peer(**values, bfd=_bfd(fields.get("bfd") or {}))


def _bfd(item: object) -> BfdWish:
    if not isinstance(item, dict) or not isinstance(item.get("enabled", False), bool):
        raise ValueError(".bfd: is not a mapping with enabled: true or false")
    fields = {str(key).lower(): value for key, value in item.items()}
    enabled = fields.pop("enabled", None)
    unknown = sorted(set(fields) - set(_BFD_FIELDS))
    if unknown:
        raise ValueError(f".bfd.{unknown[0]}: is no field of bfd; there are enabled, {', '.join(_BFD_FIELDS)}")
    numbers = {
        _BFD_FIELDS[name][0]: _named(f".bfd.{name}", _BFD_FIELDS[name][1], str(value)) for name, value in fields.items()
    }
    return BfdWish(enabled, **numbers)


def _peers_of_lists(texts: Mapping[str, str]) -> Iterator[Peer]:
    columns = {
        key: _column(key, texts[key].split(","), field, reader)
        for key, (field, reader) in _LISTS.items()
        if key in texts
    }
    addresses = columns.get("peer.ips")
    if addresses is None:
        raise Unreadable("peer.ips is missing beside it")
    if "peer.asns" not in columns:
        raise Unreadable("peer.asns is missing beside it")
    for key, column in columns.items():
        if len(column) != len(addresses):
            raise Unreadable(f"has {len(column)} items for {len(addresses)} of peer.ips", key)
    for row in zip(*columns.values(), strict=True):
        yield Peer(**{field: value for field, value in row if value is not None})


def _column(key: str, texts: Sequence[str], field: str, reader: Callable[[str], object]) -> list[tuple[str, Any]]:
    """Return field and value of every item; an empty one of an optional list is ``None``."""
    found: list[tuple[str, Any]] = []
    for index, text in enumerate(part.strip() for part in texts):
        if not text and key not in {"peer.ips", "peer.asns"}:
            found.append((field, None))
            continue
        try:
            found.append((field, reader(text)))
        except ValueError as error:
            raise Unreadable(f"[{index}]: {error}", key) from None
    return found


def _prepend(texts: Mapping[str, str]) -> Prepend:
    for key in ("path-prepend.as", "path-prepend.repeat-n"):
        if key not in texts:
            raise Unreadable(f"{key} is missing beside it")
    count = _number(1, _MAX_PREPENDS)
    return Prepend(
        _keyed("path-prepend.as", _asn, texts),
        _keyed("path-prepend.repeat-n", count, texts),
    )


def _pod_cidrs(texts: Mapping[str, str]) -> tuple[str, ...]:
    key = "pod-cidrs" if "pod-cidrs" in texts else "pod-cidr"
    return _keyed(key, _many(_pod_cidr), texts)


# --- values -----------------------------------------------------------------------------------------------------------


def _one(reader: Callable[[str], T]) -> Callable[[Mapping[str, str]], T]:
    return lambda texts: reader(next(iter(texts.values())).strip())


def _many(reader: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def read_all(text: str) -> tuple[T, ...]:
        parts = [part.strip() for part in text.split(",")]
        return tuple(dict.fromkeys(_named(f"[{index}]", reader, part) for index, part in enumerate(parts)))

    return read_all


def _named(place: str, reader: Callable[[str], T], text: str) -> T:
    try:
        return reader(text)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _keyed(key: str, reader: Callable[[str], T], texts: Mapping[str, str]) -> T:
    try:
        return reader(texts[key].strip())
    except ValueError as error:
        raise Unreadable(str(error), key) from None


def _number(low: int, high: int) -> Callable[[str], int]:
    def read_number(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or len(text) > 10 or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a number from {low} to {high}")
        return int(text)

    return read_number


_asn: Final = _number(1, _MAX_ASN)


def _address(text: str) -> str:
    canonical = canonical_address(text)
    address = ip_address(canonical)
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        raise ValueError(f"{text!r} is unspecified, loopback or multicast")
    return canonical


def _pod_cidr(text: str) -> str:
    prefix = canonical_prefix(text)
    if prefix.endswith("/0"):
        raise ValueError(f"{text!r} is everything")
    return prefix


def _cluster_id(text: str) -> str:
    """Read a 32-bit number or an IPv4 address."""
    try:
        return str(IPv4Address(int(text) if text.isascii() and text.isdigit() else text))
    except ValueError:
        raise ValueError(f"{text!r} is not a cluster id; write a 32-bit number or an IPv4 address") from None


def _community(text: str) -> str:
    return wire.community_text(wire.community(text))


def password(text: str) -> str:
    """Return a password that was written in base64. Errors: ValueError, which does not quote it."""
    try:
        plain = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise ValueError("is not text in base64") from None
    if not 0 < len(plain.encode()) <= _PASSWORD_BYTES:
        raise ValueError(f"is not 1 to {_PASSWORD_BYTES} bytes long")
    return plain


_PEER_FIELDS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "remoteip": ("address", _address),
    "remoteasn": ("asn", _asn),
    "port": ("port", _number(1, _MAX_PORT)),
    "localip": ("local_address", _address),
    "password": ("password", password),
}
_BFD_FIELDS: Final = {
    "port": ("port", _number(1, _MAX_PORT)),
    "detection_multiplier": ("multiplier", _number(1, 255)),
    "desired_min_tx_interval": ("tx_ms", _number(1, _MAX_BFD_MS)),
    "required_min_rx_interval": ("rx_ms", _number(1, _MAX_BFD_MS)),
}
"""Intervals are in ms, as the flags'."""
_LISTS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "peer.ips": ("address", _address),
    "peer.asns": ("asn", _asn),
    "peer.ports": ("port", _number(1, _MAX_PORT)),
    "peer.localips": ("local_address", _address),
    "peer.passwords": ("password", password),
}
_FIELDS: Final[tuple[tuple[str, tuple[str, ...], Callable[[Mapping[str, str]], object]], ...]] = (
    ("peers", ("peers", *_LISTS), _peers),
    ("asn", ("node.asn",), _one(_asn)),
    ("reflector", ("rr.server",), _one(_cluster_id)),
    ("client_of", ("rr.client",), _one(_cluster_id)),
    ("communities", ("node.bgp.communities",), _one(_many(_community))),
    ("import_reject", ("node.bgp.customimportreject",), _one(_many(canonical_prefix))),
    ("prepend", ("path-prepend.as", "path-prepend.repeat-n"), _prepend),
    ("listen", ("bgp-local-addresses",), _one(_many(_address))),
    ("pod_cidrs", ("pod-cidrs", "pod-cidr"), _pod_cidrs),
    ("local_preference", ("node.bgp.local-preference",), _one(_number(1, _MAX_ASN))),
)
_KEYS: Final = frozenset(PREFIX + key for _, keys, _ in _FIELDS for key in keys)
