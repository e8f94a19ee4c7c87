"""Words for what the loop knows: what fails, what another hand did, how far the node is. Pure; a status is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from kuberouterpy.cluster import Node
from kuberouterpy.dataplane import (
    CniConfig,
    Link,
    LocalAddress,
    Neighbor,
    ObjectKind,
    Path,
    RoutePolicy,
    Speaker,
)
from kuberouterpy.drain import Drain
from kuberouterpy.status import FailingKey
from kuberouterpy.text import kind_of, name_of
from kuberouterpy.tracker import Drift, Tracker

NETWORK: Final[tuple[ObjectKind, ...]] = (Link, LocalAddress, CniConfig, Speaker, RoutePolicy, Neighbor, Path)
"""What must stand before a node's pods have a network. Single routes may fail: they are of other nodes."""

SCALED_AWAY: Final = "ToBeDeletedByClusterAutoscaler"
"""Taint of a node that load balancers should leave (KEP-3836)."""

MOST: Final = 20
"""A status names so many of a kind of trouble and counts the rest."""


def network_stands(tracker: Tracker) -> bool:
    """Return whether what pods of this node need to reach others is programmed."""
    return not tracker.unfinished(NETWORK)


def drain_word(stage: Drain, tracker: Tracker, *, busy: bool) -> str:
    """Return ``serving``, ``leaving``, or ``gone`` once the paths have been withdrawn, too; ``busy``: a lane is at work."""
    withdrawn = not tracker.unfinished((Path,)) and not busy
    return Drain.LEAVING if stage is Drain.GONE and not withdrawn else stage


def is_eligible(node: Node | None) -> bool:
    """Return whether load balancers may send to this node (KEP-3836); one that is not known yet may be."""
    return node is None or not (node.deleting or SCALED_AWAY in node.taints)


def failing(tracker: Tracker, now: float) -> Iterator[FailingKey]:
    """Yield the first objects that could not be programmed, each with its owners."""
    for key, failure in islice(tracker.failures().items(), MOST):
        owners = tuple(str(owner) for owner, _ in tracker.explain(key).wanted_by)
        name, wait_s = f"{kind_of(key)} {name_of(key)}", max(0.0, failure.retry_at - now)
        yield FailingKey(name, owners, failure.error, failure.attempt, wait_s)


def drift_told(drifts: Sequence[Drift]) -> Iterator[tuple[str, str]]:
    """Yield reason and message of what a person must know about drift: one message a kind, however many objects."""
    for left, reason, what in ((False, "Drift", "put back"), (True, "Contested", "left alone for ten minutes")):
        kinds: dict[str, list[Drift]] = {}
        for drift in drifts:
            if drift.left is left:
                kinds.setdefault(kind_of(drift.key), []).append(drift)
        for kind, some in kinds.items():
            first = some[0]
            more = f" and {len(some) - 1} more" if len(some) > 1 else ""
            yield reason, f"another hand changed {kind} {name_of(first.key)} ({first.what}){more}; {what}"
