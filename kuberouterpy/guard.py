"""The guard against deleting too much at once (``--max-delete-ratio``). Pure.

An API server restored from an old backup, or one that answers an empty list, must not empty the kernel of every node. What
stands then stays, what is new is still made, and a person is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from kuberouterpy.dataplane import KIND_OF_KEY, Flows, Key
from kuberouterpy.tracker import Group

FEW: Final = 10
"""Deletes that are never too many: a small node may lose its only Service."""


def excess(doomed: Iterable[Key], standing: Mapping[str, int], groups: Iterable[Group], ratio: float) -> str:
    """Return what is too much, in words that stay the same while it is, or an empty string.

    ``doomed``: keys about to be deleted; ``standing``: objects that stand by kind name; counted for each group of kinds that
    one driver programs. Flows count not: they go with their virtual server and are nobody's configuration.
    """
    if ratio >= 1:
        return ""
    counts = Counter(KIND_OF_KEY[type(key)] for key in doomed)
    for group in groups:
        kinds = [kind for kind in group if kind is not Flows]
        dead = sum(counts[kind] for kind in kinds)
        alive = sum(standing.get(kind.__name__, 0) for kind in kinds)
        if dead > FEW and dead > ratio * alive:
            words = " and ".join(kind.__name__ for kind in kinds if counts[kind])
            return (
                f"{dead} of {alive} objects ({words}) would be deleted, more than --max-delete-ratio {ratio:g} allows"
            )
    return ""
