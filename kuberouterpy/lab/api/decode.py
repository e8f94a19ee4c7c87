"""From a request body to an object as the server's own types would hold it: wrong types refused, unknown fields dropped."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from kuberouterpy.lab.api import protobuf
from kuberouterpy.lab.api.errors import JsonObject, bad_request, unsupported_media_type
from kuberouterpy.lab.api.schema import types

_JSON: Final = ("", "application/json", "text/plain", "*/*")
_YAML: Final = ("application/yaml", "application/apply-patch+yaml", "text/yaml")
_TIME: Final = re.compile(r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$")
_QUANTITY: Final = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?$")
_GO_NAMES: Final = {
    "s": "string",
    "i": "int32",
    "b": "bool",
    "n": "float64",
    "t": "string",
    "q": "string",
    "p": "string",
}


def body(data: bytes, content_type: str) -> Any:
    """Return the decoded body. Errors: 400, 415."""
    media = content_type.partition(";")[0].strip().lower()
    if media in _YAML:
        return _yaml(data)
    if media in _JSON or media.endswith("+json"):
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise bad_request(f"the object provided is unrecognized (must be of type JSON): {error}") from error
    if media == protobuf.MEDIA_TYPE:
        return protobuf.decode(data)
    raise unsupported_media_type(media, ("application/json", "application/yaml", protobuf.MEDIA_TYPE))


def _yaml(data: bytes) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(data, Loader=loader)  # noqa: S506 - a safe loader, the fast one where it is built
    except yaml.YAMLError as error:
        raise bad_request(f"error decoding YAML: {error}") from error


class Conformer:
    """Rebuilds an object by its type, noting fields that the type does not have."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        """Paths of fields that were dropped."""

    def conform(self, obj: JsonObject, kind: str, go_kind: str) -> JsonObject:
        """Return the object as its type has it: unknown fields and nulls are gone, as after Go's decoding.

        Empty lists and objects stay as they are given. Errors: 400 for a value of the wrong type.
        """
        return self._structure(obj, kind, "", go_kind)

    def _structure(self, value: Any, kind: str, path: str, go_kind: str) -> JsonObject:
        if not isinstance(value, dict):
            raise _mismatch(value, path, go_kind, _plain(kind))
        known = types.fields(kind)
        kept: JsonObject = {}
        for key, inner in value.items():
            place = f"{path}.{key}" if path else key
            if key not in known:
                self.unknown.append(place)
            elif inner is not None:
                kept[key] = self._value(inner, known[key], place, go_kind)
        return kept

    def _value(self, value: Any, kind: str, path: str, go_kind: str) -> Any:
        match kind[0]:
            case "[":
                if not isinstance(value, list):
                    raise _mismatch(value, path, go_kind, f"[]{_plain(kind[1:])}")
                return [self._value(item, kind[1:], f"{path}[{index}]", go_kind) for index, item in enumerate(value)]
            case "{":
                if not isinstance(value, dict):
                    raise _mismatch(value, path, go_kind, f"map[string]{_plain(kind[1:])}")
                return {key: self._value(item, kind[1:], path, go_kind) for key, item in value.items()}
            case "*":
                return value
        if kind in types.SCALARS:
            return _scalar(value, kind, path, go_kind)
        return self._structure(value, kind, path, go_kind)


def _scalar(value: Any, kind: str, path: str, go_kind: str) -> Any:
    match kind, value:
        case ("b", bool()) | ("s", str()) | ("p", str()):
            return value
        case ("b" | "s", _) | (_, bool()):
            raise _mismatch(value, path, go_kind, _GO_NAMES[kind])
        case ("i" | "p", int()) | ("n", int() | float()):
            return value
        case ("q", int() | float()):
            return str(value)
        case ("q", str()) if _QUANTITY.match(value):
            return value
        case ("q", str()):
            raise bad_request(
                f"{path}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            )
        case ("t", str()) if _TIME.match(value):
            return value
        case ("t", str()):
            raise bad_request(f'{path}: parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}"')
    raise _mismatch(value, path, go_kind, _GO_NAMES[kind])


def _mismatch(value: Any, path: str, go_kind: str, wanted: str) -> Exception:
    given = (
        "bool" if isinstance(value, bool)
        else "number" if isinstance(value, int | float)
        else "string" if isinstance(value, str)
        else "array" if isinstance(value, list)
        else "null" if value is None
        else "object"
    )  # fmt: skip
    place = re.sub(r"\[\d+\]", "", path)
    return bad_request(
        f"{go_kind} in version is unable to be decoded: json: cannot unmarshal {given} into Go struct field "
        f"{go_kind}.{place} of type {wanted}"
    )


def _plain(kind: str) -> str:
    if kind and kind[0] in "[{":
        return ("[]" if kind[0] == "[" else "map[string]") + _plain(kind[1:])
    return _GO_NAMES.get(kind, kind.removeprefix("V1"))
