"""Packing: every endpoint in exactly one slice, none too big, nothing written without need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.lab.controllers.packing import Packing, pack

LIMIT = 5
keys = st.integers(0, 40)
contents = st.dictionaries(keys, st.integers(0, 2), max_size=30)


def written(existing: dict[str, dict[int, int]], packing: Packing[int, int]) -> dict[str, dict[int, int]]:
    kept = {name: packing.update.get(name, slice_) for name, slice_ in existing.items() if name not in packing.delete}
    return {**kept, **{f"new-{number}": slice_ for number, slice_ in enumerate(packing.create)}}


def split(whole: dict[int, int], sizes: list[int]) -> dict[str, dict[int, int]]:
    items, slices = list(whole.items()), {}
    for number, size in enumerate(sizes):
        taken, items = items[:size], items[size:]
        if taken:
            slices[f"slice-{number}"] = dict(taken)
    return slices


slices = st.builds(split, contents, st.lists(st.integers(1, LIMIT), max_size=8))


@given(slices, contents)
def test_every_desired_endpoint_is_in_exactly_one_slice_and_no_slice_is_too_big(
    existing: dict[str, dict[int, int]], desired: dict[int, int]
) -> None:
    after = written(existing, pack(existing, desired, limit=LIMIT))
    pairs = [pair for slice_ in after.values() for pair in slice_.items()]
    assert sorted(desired.items()) == sorted(pairs)
    assert all(0 < len(slice_) <= LIMIT for slice_ in after.values())


@given(slices, contents)
def test_packing_again_writes_nothing(existing: dict[str, dict[int, int]], desired: dict[int, int]) -> None:
    after = written(existing, pack(existing, desired, limit=LIMIT))
    assert Packing([], {}, []) == pack(after, desired, limit=LIMIT)


@given(slices, contents)
def test_endpoints_that_stay_do_not_move(existing: dict[str, dict[int, int]], desired: dict[int, int]) -> None:
    after = written(existing, pack(existing, desired, limit=LIMIT))
    moved = [
        key for name, slice_ in existing.items() for key in slice_ if key in desired and key not in after.get(name, {})
    ]
    assert moved == []


def test_one_changed_endpoint_rewrites_one_slice() -> None:
    existing = {"a": dict.fromkeys(range(100), 0), "b": dict.fromkeys(range(100, 150), 0)}
    packing = pack(existing, {**existing["a"], **existing["b"], 120: 1})
    assert Packing([], {"b": {**existing["b"], 120: 1}}, []) == packing


def test_an_overfull_slice_gives_up_what_is_too_much() -> None:
    packing = pack({"a": dict.fromkeys(range(7), 0)}, dict.fromkeys(range(7), 0), limit=LIMIT)
    assert [len(packing.update["a"]), len(packing.create[0])] == [5, 2]
