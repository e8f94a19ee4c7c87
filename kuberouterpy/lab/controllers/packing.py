"""Packs endpoints into slices of a limited size, moving as few as possible.

Every endpoint that is already in a slice stays there; new ones fill the room that changed slices have, then the fullest
unchanged slice that has room for all that is left, and only then new slices. Hence a change of one pod rewrites one slice,
and no change rewrites none.
Source: the order of steps of the upstream EndpointSlice reconciler (KEP-752, "Slice packing").
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Final, Generic, TypeVar

import msgspec

LIMIT: Final = 100
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Packing(msgspec.Struct, Generic[K, V], frozen=True):
    """What to write."""

    create: list[dict[K, V]]
    """Contents of new slices."""
    update: dict[str, dict[K, V]]
    """New contents of existing slices, by name."""
    delete: list[str]
    """Names of slices that nothing is left in."""


def pack(existing: Mapping[str, Mapping[K, V]], desired: Mapping[K, V], *, limit: int = LIMIT) -> Packing[K, V]:
    """Return the writes after which every desired endpoint is in exactly one slice of at most ``limit``.

    Shapes: one address type and one set of ports per call; ``existing`` is contents by slice name.
    """
    left = dict(desired)
    slices: dict[str, dict[K, V]] = {}
    changed: set[str] = set()
    for name, content in existing.items():
        kept = {key: left.pop(key) for key in content if key in left}
        while len(kept) > limit:  # a slice somebody overfilled gives up what is too much
            key, value = kept.popitem()
            left[key] = value
        slices[name] = kept
        if kept != dict(content):
            changed.add(name)
    _fill(slices, _by_fullness(slices, changed), left, limit)
    created: list[dict[K, V]] = []
    while left:
        roomy = _closest(slices, slices.keys() - changed, len(left), limit) if len(left) < limit else None
        if roomy is not None:
            changed.add(roomy)
            _fill(slices, [roomy], left, limit)
        else:
            created.append({key: left.pop(key) for key in list(left)[:limit]})
    empty = [name for name, content in slices.items() if not content]
    return Packing(created, {name: slices[name] for name in slices if name in changed and slices[name]}, empty)


def _by_fullness(slices: Mapping[str, Mapping[K, V]], names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (-len(slices[name]), name))


def _fill(slices: dict[str, dict[K, V]], names: Iterable[str], left: dict[K, V], limit: int) -> None:
    for name in names:
        for key in list(left)[: max(0, limit - len(slices[name]))]:
            slices[name][key] = left.pop(key)


def _closest(slices: Mapping[str, Mapping[K, V]], names: Iterable[str], more: int, limit: int) -> str | None:
    """Return the slice that would be fullest after taking ``more``; None where none can take them all."""
    fitting = [name for name in names if 0 < len(slices[name]) <= limit - more]
    return _by_fullness(slices, fitting)[0] if fitting else None
