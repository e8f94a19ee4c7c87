"""How a node leaves: it is asked to, tells its neighbors, waits, and then invites no more traffic. Time is an argument.

A node that is asked to leave while we watch goes through *leaving* (paths carry GRACEFUL_SHUTDOWN, so that routers which have
another way prefer it) to *gone* (VIPs withdrawn). One that was asked before this agent started is gone already: a reboot under
a cordon must not announce VIPs for a moment, and that is what cordons are for. Only where the agent before this one was still
waiting, which its condition on the Node says with the time, this one waits out the rest. An agent's own end is none of this.

Source: RFC 8326 2 and 4; the taints are those of the cluster autoscaler and of ``kubectl cordon``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from kuberouterpy.cluster import Node

GRACEFUL_SHUTDOWN: Final = "65535:0"
"""RFC 8326 5."""
ANNOTATION: Final = "kube-router.io/drain"
"""``true``: leave, though nothing else says so. ``false``: stay, whatever else says."""
DRAINED: Final = "kube-router.io/Drained"
"""The Node's condition that tells how far it has left."""
DRAINING: Final = "Draining"
"""The condition's reason while a node is leaving."""
TAINTS: Final = frozenset({"ToBeDeletedByClusterAutoscaler", "node.kubernetes.io/unschedulable"})


class Drain(StrEnum):
    """How far a node has left."""

    SERVING = "serving"
    LEAVING = "leaving"
    GONE = "gone"


def asked_to_leave(node: Node) -> bool:
    """Return whether a node is cordoned, marked by a drain taint, being deleted, or told to leave by annotation."""
    told = node.annotations.get(ANNOTATION, "").strip().lower()
    if told in {"true", "false"}:
        return told == "true"
    return node.unschedulable or node.deleting or not TAINTS.isdisjoint(node.taints)


class Departure:
    """The stage of this node; :meth:`advance` is called whenever it may have changed."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._known = False
        self._gone_at: float | None = None
        self.stage = Drain.SERVING

    def advance(self, node: Node | None, now: float, wall: float) -> Drain:
        """Return the stage at ``now``, which is ``wall`` in Unix time; a node that cannot be read stays where it was."""
        if node is not None:
            self._hear(asked_to_leave(node), now, self._rest_s(node, wall))
        if self._gone_at is not None and now >= self._gone_at:
            self._gone_at, self.stage = None, Drain.GONE
        return self.stage

    def deadline(self) -> float | None:
        """Return when the stage changes by itself, or ``None``."""
        return self._gone_at

    def _rest_s(self, node: Node, wall: float) -> float:
        """Return what an earlier agent's wait has left; never more than a whole one, whatever the clock says."""
        if not node.draining_since:
            return 0.0
        return min(max(node.draining_since + self._wait_s - wall, 0.0), self._wait_s)

    def _hear(self, asked: bool, now: float, rest_s: float) -> None:
        known, self._known = self._known, True
        if not asked:
            self._gone_at, self.stage = None, Drain.SERVING
        elif not known and not rest_s:
            self.stage = Drain.GONE
        elif not known:
            self._gone_at, self.stage = now + rest_s, Drain.LEAVING
        elif self.stage is Drain.SERVING:
            self._gone_at, self.stage = now + self._wait_s, Drain.LEAVING
