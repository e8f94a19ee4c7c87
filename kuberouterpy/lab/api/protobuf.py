"""Request bodies in protobuf: kubectl sends what it makes itself (``kubectl create namespace``) so, whatever is offered.

Only reading: answers are JSON, which every client takes. The body is ``k8s\\0`` and a ``runtime.Unknown``: ``typeMeta`` (1) of
``apiVersion`` (1) and ``kind`` (2), and the object itself as ``raw`` (2). Field numbers come from ``schema/protobuf.json``.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any, Final

import msgspec

from kuberouterpy.lab.api.errors import JsonObject, bad_request

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\0"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH: Final = 100

Value = int | bytes


class _Table(msgspec.Struct, frozen=True):
    roots: dict[str, str]
    messages: dict[str, dict[int, tuple[str, str, str]]]


@cache
def _table() -> _Table:
    data = resources.files(__package__).joinpath("schema/protobuf.json").read_bytes()
    return msgspec.json.decode(data, type=_Table)


def decode(data: bytes) -> JsonObject:
    """Return the object in a body. Errors: 400 for what is no such body, or a kind that is not known."""
    if not data.startswith(_MAGIC):
        raise bad_request("the body is no Kubernetes protobuf: it does not begin with k8s\\0")
    try:
        envelope = dict(_fields(data[len(_MAGIC) :]))
        meta = {number: _text(value) for number, value in _fields(_raw(envelope.get(1, b"")))}
        api_version, kind = meta.get(1, ""), meta.get(2, "")
        message = _table().roots.get(f"{api_version}/{kind}")
        if message is None:
            raise bad_request(f"{kind} of {api_version} cannot be read as protobuf; send JSON")
        body = _message(_raw(envelope.get(2, b"")), message, 0)
    except (IndexError, ValueError, KeyError) as error:
        raise bad_request(f"the body is no Kubernetes protobuf: {error}") from error
    return {"apiVersion": api_version, "kind": kind, **(body or {})}


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Yield the number and value of every field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: Value
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire == _BYTES:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("field cut off")
            value, at = data[at : at + size], at + size
        elif wire in {_FIXED32, _FIXED64}:
            size = 4 if wire == _FIXED32 else 8
            value, at = int.from_bytes(data[at : at + size], "little"), at + size
        else:
            raise ValueError(f"wire type {wire}")
        yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def _message(data: bytes, name: str, depth: int) -> Any:
    """Return a message as JSON has it; fields left at zero are left out where Go's JSON leaves them out."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    if name in _SPECIAL:
        return _SPECIAL[name](dict(_fields(data)))
    known = _table().messages[name]
    found: JsonObject = {}
    for number, raw in _fields(data):
        if number not in known:
            continue
        field, kind, flags = known[number]
        if "m" in flags:
            pair = dict(_fields(_raw(raw)))
            value = _value(pair.get(2, b"" if kind != "i" else 0), kind, depth)
            found.setdefault(field, {})[_text(pair.get(1, b""))] = value
            continue
        value = _value(raw, kind, depth)
        if "l" in flags and isinstance(value, dict):
            found |= value
        elif "r" in flags:
            found.setdefault(field, []).append(value)
        elif value is not None and ("k" in flags or value not in ("", 0, False) or value == {}):
            found[field] = value
    return found


def _value(raw: Value, kind: str, depth: int) -> Any:
    match kind:
        case "s":
            return _text(raw)
        case "i":
            return _signed(raw)
        case "b":
            return bool(raw)
        case "y":
            return base64.b64encode(_raw(raw)).decode()
    return _message(_raw(raw), kind, depth + 1)


def _raw(value: Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes are expected")
    return value


def _text(value: Value) -> str:
    return _raw(value).decode()


def _signed(value: Value) -> int:
    if isinstance(value, bytes):
        raise ValueError("bytes where a number is expected")
    return value - (1 << 64) if value >= 1 << 63 else value


def _time(fields: dict[int, Value]) -> str | None:
    seconds = _signed(fields.get(1, 0))
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds else None


def _micro_time(fields: dict[int, Value]) -> str | None:
    whole = _time(fields)
    return f"{whole[:-1]}.{_signed(fields.get(2, 0)) // 1000:06d}Z" if whole else None


def _int_or_string(fields: dict[int, Value]) -> int | str:
    return _text(fields.get(3, b"")) if fields.get(1, 0) else _signed(fields.get(2, 0))


def _json(fields: dict[int, Value]) -> Any:
    return msgspec.json.decode(_raw(fields.get(1, b"")) or b"null")


_SPECIAL: Final[dict[str, Any]] = {
    "meta.v1.Time": _time,
    "meta.v1.MicroTime": _micro_time,
    "meta.v1.FieldsV1": _json,
    "runtime.RawExtension": _json,
    "api.resource.Quantity": lambda fields: _text(fields.get(1, b"")),
    "util.intstr.IntOrString": _int_or_string,
}
