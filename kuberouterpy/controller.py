"""What a controller is: two pure functions and the keys it claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from kuberouterpy.config import Config
from kuberouterpy.dataplane import Key, Note, Object, Owner
from kuberouterpy.host import Host
from kuberouterpy.store import Change, Store


class Desired(Struct, frozen=True):
    """What one owner wants, and why it does not want what a person might expect."""

    objects: tuple[Object, ...] = ()
    """At most one object a key."""
    notes: tuple[Note, ...] = ()
    """Reasons for what is absent."""


def _alike(owner: Owner, store: Store) -> int:
    return 0


class Controller(Struct, frozen=True):
    """Pure functions of facts; no controller sees a driver, a source, a clock or a sibling."""

    name: str
    """First part of its owners."""
    affected: Callable[[Change, Store, Host, Config], Iterable[Owner]]
    """Owners a change may touch: may say too much, never too little."""
    owners: Callable[[Store, Host, Config], Iterable[Owner]]
    """Every owner there is now: what a change of the host or a start makes dirty."""
    desired: Callable[[Owner, Store, Host, Config], Desired]
    """What the owner wants; an owner unknown to the store wants nothing."""
    claims: Callable[[Key], bool]
    """Whether a listed object of ours is this controller's to delete when nobody wants it. A controller that is not run
    claims nothing, so its leftovers stay (as kube-router leaves them)."""
    urgency: Callable[[Owner, Store], int] = _alike
    """Whose objects come first inside a batch; smaller is sooner."""
