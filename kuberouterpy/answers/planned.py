"""The plan: every operation that is due, in the order it would be carried out, and because of which object."""

from __future__ import annotations

from msgspec import Struct

from kuberouterpy import __version__
from kuberouterpy.answers.views import summary
from kuberouterpy.dataplane import KIND_OF_KEY, Op
from kuberouterpy.loop import Loop
from kuberouterpy.text import kind_of, name_of


class ChangeView(Struct, frozen=True, omit_defaults=True):
    """One operation that is due."""

    verb: str
    """create, update or delete."""
    kind: str
    name: str
    wanted: str = ""
    actual: str = ""
    owners: tuple[str, ...] = ()
    reason: str = ""
    """Last error where it failed before; why it goes, where it goes."""


class Plan(Struct, frozen=True):
    """Answer to /v1/plan: what would be done now, in the order it would be done."""

    node: str
    version: str
    changes: tuple[ChangeView, ...]
    waiting_for: tuple[str, ...] = ()
    """Kinds of facts not listed yet: until they are, nothing is done."""
    unlisted: dict[str, str] = {}
    """Drivers whose listing failed, with the reason: their part is not in the plan."""


def plan(loop: Loop) -> Plan:
    """Return what the loop would do now if nothing backed off; normally nothing."""
    unlisted = {one.name: _why_unlisted(loop, one.name) for one in loop.drivers if not one.listed}
    closed = {kind for one in loop.drivers if not one.listed for kind in one.driver.kinds}
    ops = [op for op in loop.tracker.plan() if KIND_OF_KEY[type(op.key)] not in closed] if loop.store.synced else []
    return Plan(
        loop.config.node_name,
        __version__,
        tuple(_change(loop, op) for op in ops),
        loop.store.waiting_for,
        unlisted if loop.store.synced else {},
    )


def _why_unlisted(loop: Loop, name: str) -> str:
    return next((one.reason for one in loop.status.sources if one.name == name and not one.ok), "not listed yet")


def _change(loop: Loop, op: Op) -> ChangeView:
    told = loop.tracker.explain(op.key)
    failed = f"failed {told.failure.attempt} times: {told.failure.error}" if told.failure else ""
    return ChangeView(
        str(op.verb),
        kind_of(op.key),
        name_of(op.key),
        summary(op.value),
        summary(told.actual),
        tuple(str(owner) for owner, _ in told.wanted_by),
        failed or ("" if told.wanted_by else "nobody wants it"),
    )
