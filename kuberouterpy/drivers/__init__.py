"""Drivers carry operations to the kernel and to GoBGP, and list what is there. They decide nothing.

A driver knows :mod:`kuberouterpy.dataplane` and never :mod:`kuberouterpy.cluster`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from kuberouterpy.dataplane import Key, Object, ObjectKind, Op
from kuberouterpy.errors import DriverError


class Driver(Protocol):
    """The whole interface between the loop and the world it programs."""

    name: str
    """Short name for logs: ``ipvs``, ``ipset``, ``iptables``, ``links``, ``routes``, ``sysctl``, ``cni``, ``gobgp``."""
    kinds: tuple[ObjectKind, ...]
    """Kinds it programs."""

    def list(self) -> Mapping[Key, Object]:
        """Return every object of :attr:`kinds` that can be recognised as ours (or kube-router's), foreign ones never.

        Errors: DriverError when the listing failed; then nothing may be concluded from it.
        """
        ...

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Carry out ``ops`` in order, in as few round trips as possible; yield each with its outcome.

        Creating what is already equal and deleting what is already gone is success. One failing operation does not stop
        the others where the kernel allows it. ``UPDATE`` of a missing object creates it, ``CREATE`` of an existing
        different one changes it.
        """
        ...


@runtime_checkable
class Expecting(Protocol):
    """A driver whose kernel does not round-trip what it is given, and that must know what is wanted to recognise it."""

    def expect(self, wanted: Iterable[Object]) -> None:
        """Tell what is wanted; called before every listing."""
        ...


@runtime_checkable
class Sharing(Protocol):
    """A driver whose table others use too, and that meets what is theirs in every listing."""

    @property
    def foreign(self) -> Mapping[str, int]:
        """What the last listing held that is not ours: how many, by the name of a virtual server or of a chain."""
        ...
