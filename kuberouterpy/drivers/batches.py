"""How operations are cut into sends, for the drivers that speak netlink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kuberouterpy.dataplane import Key, Op, Verb

SEND: Final = 100
"""Messages in one send. Measured: 110 beats one by one fivefold, and 1,100 is slower again (python.md 1.3)."""


def sends(ops: Sequence[Op]) -> Iterator[list[Op]]:
    """Yield ``ops`` in order, in parts of which each may be repaired after it was sent."""
    # invariant: a part deletes or does not, and names a key once. What the kernel refused is known when the whole part was
    # carried out; the repair (set what exists, make what is missing) must not undo a later word on the same key.
    part: list[Op] = []
    keys: set[Key] = set()
    for op in ops:
        turns = part and (part[-1].verb is Verb.DELETE) is not (op.verb is Verb.DELETE)
        if turns or op.key in keys or len(part) == SEND:
            yield part
            part, keys = [], set()
        part.append(op)
        keys.add(op.key)
    if part:
        yield part
