"""What the kernel takes away with a link, and tells of only by the link: addresses, far ends of tunnels, routes."""

from __future__ import annotations

from kuberouterpy.cluster import Link
from kuberouterpy.dataplane import LinkKey, LocalAddressKey
from kuberouterpy.store import Change
from kuberouterpy.tracker import Tracker


def took_something(change: Change, tracker: Tracker) -> bool:
    """Return whether a link of ours, or an address on one, is gone although we hold it to be there."""
    name, after = change.ref.name, change.after
    if after is None:
        return tracker.actual(LinkKey(name)) is not None
    before = change.before.addresses if isinstance(change.before, Link) else ()
    gone = {*before}.difference(after.addresses if isinstance(after, Link) else ())
    return any(tracker.actual(_address_key(name, text)) is not None for text in gone)


def went_up_or_down(change: Change) -> bool:
    """Return whether a link's routes are gone, or can be again: the kernel drops them with the link, without a word."""
    states = (one.up for one in (change.before, change.after) if isinstance(one, Link))
    return len({*states}) == 2


def _address_key(link: str, text: str) -> LocalAddressKey:
    address, _, prefix = text.partition("/")
    return LocalAddressKey(link, address, int(prefix))
