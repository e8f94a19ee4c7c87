"""In which order the operations of one batch go to the kernel: pure, one sort.

Batches are by kind; inside one, what the node itself needs to start comes first. Only kinds that the kernel takes one by one
are ranked: rules and sets are one restore, in which all stands at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kuberouterpy.dataplane import KIND_OF_KEY, Key, LocalAddress, ObjectKind, Op, RealServer, VirtualServer

RANKED: Final[frozenset[ObjectKind]] = frozenset({LocalAddress, VirtualServer, RealServer})


def in_order(ops: Iterable[Op], kinds: Sequence[ObjectKind], rank: Callable[[Key], int]) -> tuple[Op, ...]:
    """Return ``ops`` by rank, then in the order of ``kinds``, then by key.

    What an operation requires must not have a higher rank than the operation itself.
    """
    place = {kind: index for index, kind in enumerate(kinds)}

    def position(op: Op) -> tuple[int, int, Key]:
        kind = KIND_OF_KEY[type(op.key)]
        return rank(op.key) if kind in RANKED else 0, place[kind], op.key

    return tuple(sorted(ops, key=position))
