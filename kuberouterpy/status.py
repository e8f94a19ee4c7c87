"""What the agent tells about itself: one frozen value, published by the loop with a single assignment.

Readers (health, metrics, the command line) never touch live state.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

STALL_S: Final = 60.0
"""A loop that made no step for so long is stuck: liveness fails, the kubelet restarts us, and restart is safe."""
FAILING_STEPS: Final = 3
"""Readiness fails after so many steps in a row that left a failure."""


class FailingKey(Struct, frozen=True):
    """An object that could not be programmed."""

    key: str
    """What, for people."""
    owners: tuple[str, ...]
    """Who wants it."""
    error: str
    """What the kernel or GoBGP said last."""
    attempt: int
    """How often it was tried since its value last changed."""
    retry_in_s: float
    """Seconds until the next try."""


class SourceStatus(Struct, frozen=True):
    """A source of facts or a driver's far side."""

    name: str
    ok: bool
    reason: str = ""
    """Why not, where it is not."""
    since_s: float = 0.0
    """Seconds in this state."""


class Status(Struct, frozen=True):
    """The agent at one moment."""

    node: str
    version: str
    up_s: float = 0.0
    """Seconds since start."""
    heartbeat: float = 0.0
    """Monotonic time of the last step."""
    synced: bool = False
    """Every expected kind has been listed once."""
    waiting_for: tuple[str, ...] = ()
    """Kinds not yet listed."""
    settled: bool = False
    """The first pass over every driver is done."""
    pending: int = 0
    """Objects that differ from what is wanted, plus events not yet taken in."""
    failing: tuple[FailingKey, ...] = ()
    """At most twenty."""
    failing_total: int = 0
    failing_steps: int = 0
    """Steps in a row that left a failure."""
    objects: dict[str, int] = {}
    """Objects that stand, by kind."""
    records: dict[str, int] = {}
    """Facts known, by kind."""
    sources: tuple[SourceStatus, ...] = ()
    rejected: tuple[str, ...] = ()
    """Objects of the API that cannot be used, each with its reason; at most twenty."""
    rejected_total: int = 0
    drift_repaired: dict[str, int] = {}
    """Objects that another hand changed and we put right, by kind, since start."""
    last_change_s: float | None = None
    """Seconds since the last step that changed something."""
    last_took_ms: float = 0.0
    """How long that step took."""
    bugs: tuple[str, ...] = ()
    """Owners whose computation failed: they keep their last objects."""
    contested: tuple[str, ...] = ()
    """Objects that another hand changes again and again, and that are left alone for a while; at most twenty."""
    contested_total: int = 0
    guard: str = ""
    """Why nothing is deleted now: what ``--max-delete-ratio`` refuses."""
    node_eligible: bool = True
    """Whether load balancers should choose this node; not while it is being deleted or scaled away (KEP-3836)."""
    settled_at: float = 0.0
    """Unix time of the last step that left nothing undone."""
    network_up: bool = False
    """Bridge, CNI configuration and BGP stand, and the routes of others are known: pods have a network."""
    drain: str = "serving"
    """``serving``, ``leaving`` (asked to, neighbors told) or ``gone`` (VIPs withdrawn)."""

    @property
    def ready(self) -> bool:
        """First pass done, and not failing for several steps; never whether the API can be reached."""
        return self.settled and self.failing_steps < FAILING_STEPS

    def alive(self, now: float) -> bool:
        """Return whether the loop made a step lately."""
        return now - self.heartbeat < STALL_S
