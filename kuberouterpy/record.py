"""What a flight recording is made of, and how it is read back. Pure: bytes in, values out.

A recording is a row of frames. A *snapshot* holds every fact at one moment; a *step* holds what changed since the frame
before and what the agent did about it. A frame says how long it is and carries a checksum, so that a frame cut off by a kill
is known as such: everything before it stands. After damage, reading goes on at the next snapshot, because only there facts
are whole again.

Facts are recorded as values (they can be replayed), operations as the lines people read: a password that an operation carries
never reaches a line, and annotations are redacted.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from kuberouterpy import redact
from kuberouterpy.cluster import KUBERNETES_KINDS, BestPath, Kind, Link, Record, Ref
from kuberouterpy.errors import KubeRouterError

MAGIC: Final = b"kRf1"
_HEADER: Final = struct.Struct(">4sIId")
"""Magic, length of the payload, checksum of time and payload, Unix time."""
_TIME: Final = struct.Struct(">d")
GONE: Final = Raw(b"\xc0")
"""msgpack's nil: in place of a record that is no more. (msgspec cannot decode ``Raw | None``.)"""
LONGEST: Final = 1 << 28
"""A longer payload is damage, not a frame."""
KINDS: Final[dict[str, Kind]] = {kind.__name__: kind for kind in (*KUBERNETES_KINDS, BestPath, Link)}
"""Facts that are recorded, by name. Passwords are not among them, and never will be."""
_LEVEL: Final = 1
"""zlib: four fifths of the size is gone at the least cost."""


class RecordError(KubeRouterError):
    """A recording does not hold what was asked of it."""


class FactChange(Struct, frozen=True, array_like=True):
    """One fact as it is now."""

    kind: str
    namespace: str
    name: str
    record: Raw
    """:data:`GONE`, or the record."""


class Deed(Struct, frozen=True, array_like=True):
    """One operation and its outcome."""

    text: str
    """``create virtual tcp 10.96.0.1:443 rr``."""
    owner: str = ""
    error: str = ""


class Seen(Struct, frozen=True, array_like=True):
    """Something else that happened: ``drift``, ``contested``, ``source``, ``neighbor``."""

    what: str
    text: str


class Step(Struct, frozen=True, tag="step"):
    """What one step of the loop took in and did."""

    facts: tuple[FactChange, ...] = ()
    deeds: tuple[Deed, ...] = ()
    seen: tuple[Seen, ...] = ()


class Snapshot(Struct, frozen=True, tag="snapshot"):
    """Every fact at one moment, and who knew it."""

    node: str
    version: str
    config: Raw
    """Settings of the agent, by field."""
    tables: dict[str, list[Raw]]
    """Records by kind."""


class Frame(Struct, frozen=True):
    """A frame, read."""

    at: float
    """Unix time."""
    body: Step | Snapshot


class Replayed(Struct):
    """The facts at a moment."""

    node: str
    version: str
    config: dict[str, Any]
    at: float
    """Unix time of the last frame that went into it."""
    tables: dict[Kind, dict[Ref, Record]]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Step | Snapshot)
_RECORDS: Final = {name: msgspec.msgpack.Decoder(kind) for name, kind in KINDS.items()}


# --- writing ----------------------------------------------------------------------------------------------------------


def frame(body: Step | Snapshot, at: float) -> bytes:
    """Return a frame as bytes."""
    payload = zlib.compress(_ENCODER.encode(body), _LEVEL)
    return _HEADER.pack(MAGIC, len(payload), _checksum(at, payload), at) + payload


def encode(record: Record) -> Raw:
    """Return a record as bytes, without its secrets."""
    return Raw(_ENCODER.encode(redact.record(record)))


def snapshot(node: str, version: str, config: object, tables: Mapping[Kind, Iterable[Record]]) -> Snapshot:
    """Return a snapshot of records by kind; kinds that are not in :data:`KINDS` are passed over."""
    settings = Raw(_ENCODER.encode(redact.tree(msgspec.to_builtins(config))))
    known = {kind.__name__: [*map(encode, some)] for kind, some in tables.items() if kind.__name__ in KINDS}
    return Snapshot(node, version, settings, known)


def _checksum(at: float, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_TIME.pack(at)))


# --- reading ----------------------------------------------------------------------------------------------------------


def frames(raw: bytes) -> Iterator[Frame]:
    """Yield the frames of a recording. Where one is damaged or cut off, go on at the next snapshot, if there is one."""
    whole = True
    place = 0
    while place < len(raw):
        found = _frame_at(raw, place)
        if found is None:
            whole = False
            place = raw.find(MAGIC, place + 1)
            if place < 0:
                return
            continue
        one, place = found
        whole = whole or isinstance(one.body, Snapshot)
        if whole:
            yield one


def intact(raw: bytes) -> int:
    """Return how many bytes from the start are whole frames."""
    place = 0
    while (found := _frame_at(raw, place)) is not None:
        place = found[1]
    return place


def _frame_at(raw: bytes, place: int) -> tuple[Frame, int] | None:
    body = place + _HEADER.size
    if body > len(raw):
        return None
    magic, length, checksum, at = _HEADER.unpack_from(raw, place)
    payload = raw[body : body + length] if magic == MAGIC and length <= LONGEST else b""
    if not payload or len(payload) != length or _checksum(at, payload) != checksum:
        return None
    try:
        return Frame(at, _DECODER.decode(zlib.decompress(payload))), body + length
    except (zlib.error, msgspec.DecodeError):
        return None


def facts_at(row: Iterable[Frame], at: float) -> Replayed:
    """Return the facts as they were known at a moment.

    Errors: RecordError where the recording begins later, is empty, or is of another version's facts.
    """
    known: Replayed | None = None
    first: float | None = None
    for one in row:
        first = one.at if first is None else first
        if one.at > at:
            break
        try:
            if isinstance(one.body, Snapshot):
                known = _restored(one.body, one.at)
            elif known is not None:
                _advance(known, one)
        except msgspec.DecodeError as error:
            raise RecordError(f"the recording is of another version of the agent ({error})") from None
    if known is None:
        raise RecordError(
            "the recording is empty" if first is None else f"the recording begins later, at {stamp(first)}"
        )
    return known


def _restored(body: Snapshot, at: float) -> Replayed:
    tables: dict[Kind, dict[Ref, Record]] = {kind: {} for kind in KINDS.values()}
    for name, some in body.tables.items():
        if name in KINDS:
            records = [_RECORDS[name].decode(one) for one in some]
            tables[KINDS[name]] = {one.ref: one for one in records}
    return Replayed(body.node, body.version, msgspec.msgpack.decode(body.config), at, tables)


def _advance(known: Replayed, one: Frame) -> None:
    assert isinstance(one.body, Step)
    known.at = one.at
    for change in one.body.facts:
        kind = KINDS.get(change.kind)
        if kind is None:
            continue
        ref = Ref(change.namespace, change.name)
        if change.record == GONE:
            known.tables[kind].pop(ref, None)
        else:
            known.tables[kind][ref] = _RECORDS[change.kind].decode(change.record)


def lines(row: Iterable[Frame]) -> Iterator[str]:
    """Yield a recording as people read it: one line a fact, an operation or an event, each with its time."""
    for one in row:
        match one.body:
            case Snapshot(node=node, version=version, tables=tables):
                counts = ", ".join(f"{len(some)} {kind}" for kind, some in sorted(tables.items()) if some)
                yield f"{stamp(one.at)} snapshot  {node}, agent {version}: {counts or 'no facts'}"
            case Step(facts=facts, deeds=deeds, seen=seen):
                for fact in facts:
                    ref = Ref(fact.namespace, fact.name)
                    yield f"{stamp(one.at)} fact      {fact.kind} {ref}{' is gone' if fact.record == GONE else ''}"
                for deed in deeds:
                    why = f" # {deed.owner}" if deed.owner else ""
                    yield f"{stamp(one.at)} {'FAILED' if deed.error else 'did':<9} {deed.text}{why}" + (
                        f": {deed.error}" if deed.error else ""
                    )
                for other in seen:
                    yield f"{stamp(one.at)} {other.what:<9} {other.text}"


def stamp(at: float) -> str:
    """Return a Unix time as people and ``--at`` write it."""
    from datetime import UTC, datetime  # noqa: PLC0415

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
