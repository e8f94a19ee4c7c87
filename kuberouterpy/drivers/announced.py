"""A driver that says when it has applied something: for what must follow a change at once, without being an object itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kuberouterpy.dataplane import Key, Object, ObjectKind, Op
from kuberouterpy.drivers import Driver, Expecting, Sharing
from kuberouterpy.errors import DriverError


class Announced:
    """Another driver, and what hears of its operations after each batch."""

    def __init__(self, driver: Driver, after: Callable[[Sequence[Op]], object]) -> None:
        self._driver = driver
        self._after = after
        self.name: str = driver.name
        self.kinds: tuple[ObjectKind, ...] = driver.kinds

    @property
    def foreign(self) -> Mapping[str, int]:
        """What the driver last listed of others; nothing where it does not tell."""
        return self._driver.foreign if isinstance(self._driver, Sharing) else {}

    def list(self) -> Mapping[Key, Object]:
        """Return what the driver lists."""
        return self._driver.list()

    def expect(self, wanted: Iterable[Object]) -> None:
        """Tell the driver what is wanted, where it asks for that."""
        if isinstance(self._driver, Expecting):
            self._driver.expect(wanted)

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Have the driver apply ``ops``, then tell."""
        yield from self._driver.apply(ops)
        self._after(ops)
