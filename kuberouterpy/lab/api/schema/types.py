"""Types by name, read once from ``types.json`` (see ``generate.py`` for the letters)."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

import msgspec

SCALARS: Final = frozenset("sinbtqp*")
"""Type letters that are no name."""


class _Table(msgspec.Struct, frozen=True):
    roots: dict[str, str]
    types: dict[str, dict[str, str]]


@cache
def _table() -> _Table:
    data = resources.files(__package__).joinpath("types.json").read_bytes()
    return msgspec.json.decode(data, type=_Table)


def root(api_version: str, kind: str) -> str:
    """Return the type of a kind; empty where it is not known (custom resources)."""
    return _table().roots.get(f"{api_version}/{kind}", "")


@cache
def fields(name: str) -> dict[str, str]:
    """Return the fields of a type and their types; nothing for scalars and unknown names."""
    return {field: kind for field, kind in _table().types.get(name, {}).items() if not field.startswith("!")}


@cache
def required(name: str) -> frozenset[str]:
    """Return the fields of a type that must be given."""
    return frozenset(field[1:] for field in _table().types.get(name, {}) if field.startswith("!"))


def step(name: str, field: str) -> str:
    """Return the type of a field of a type; ``*`` where nothing is known."""
    if name.startswith("{"):
        return name[1:]
    return fields(name).get(field, "*")


def item(name: str) -> str:
    """Return the type of a list's items."""
    return name[1:] if name.startswith("[") else "*"
