"""Pools of cluster addresses and node ports, each value given once, with undo for writes that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from kuberouterpy.lab.api import addresses
from kuberouterpy.lab.api.addresses import Network

_MAX_SIZE: Final = 1 << 16  # of an IPv6 range only so many addresses are handed out, as a real server does


class Taken(Exception):
    """The value asked for is in use."""


class Outside(Exception):
    """The value asked for does not belong to the pool."""


class Exhausted(Exception):
    """Nothing is left."""


class Pool:
    """Numbers from a range. The first ``static`` ones are for people to ask for and are handed out last."""

    def __init__(self, first: int, last: int, static: int) -> None:
        self._first = first
        self._last = last
        self._band = min(first + static, last)
        self._next = self._band
        self._used: set[int] = set()
        self._undo: list[Callable[[], None]] = []

    def __contains__(self, number: int) -> bool:
        return number in self._used

    def allocate(self) -> int:
        """Return a free number. It goes round, so that a number just freed is not given again at once. Errors: Exhausted."""
        for number in self._candidates():
            if number not in self._used:
                self._next = number + 1 if number < self._last else self._band
                self.claim(number)
                return number
        raise Exhausted

    def claim(self, number: int) -> None:
        """Take this number. Errors: Taken."""
        if number in self._used:
            raise Taken
        self._used.add(number)
        self._undo.append(lambda: self._used.discard(number))

    def release(self, number: int) -> None:
        """Give a number back."""
        if number in self._used:
            self._used.discard(number)
            self._undo.append(lambda: self._used.add(number))

    def commit(self) -> None:
        """Keep what was done since the last commit."""
        self._undo.clear()

    def rollback(self) -> None:
        """Take back what was done since the last commit."""
        while self._undo:
            self._undo.pop()()

    def _candidates(self) -> Iterator[int]:
        yield from range(self._next, self._last + 1)
        yield from range(self._band, self._next)
        yield from range(self._first, self._band)


class AddressPool:
    """Cluster addresses of one family."""

    def __init__(self, network: Network) -> None:
        self.network = network
        """The service range."""
        base, size = int(network.network_address), network.num_addresses
        usable = min(size, _MAX_SIZE) if network.version == 6 else size
        # An IPv4 range loses its broadcast address too; both lose the network address.
        last = base + usable - (2 if network.version == 4 and size > 2 else 1)
        static = min(max(16, usable // 16), 256)
        self.numbers = Pool(base + 1, last, static if usable > 2 * static else 0)
        """The addresses as numbers."""

    @property
    def family(self) -> str:
        """``IPv4`` or ``IPv6``."""
        return f"IPv{self.network.version}"

    def allocate(self) -> str:
        """Return a free address. Errors: Exhausted."""
        return str(type(self.network.network_address)(self.numbers.allocate()))

    def claim(self, address: str) -> None:
        """Take this address. Errors: Taken, Outside."""
        parsed = addresses.parse(address)
        if parsed is None or parsed not in self.network or parsed == self.network.network_address:
            raise Outside
        self.numbers.claim(int(parsed))

    def release(self, address: str) -> None:
        """Give an address back."""
        parsed = addresses.parse(address)
        if parsed is not None and parsed in self.network:
            self.numbers.release(int(parsed))


def node_ports(first: int, last: int) -> Pool:
    """Return the pool of node ports."""
    size = last - first + 1
    static = min(max(16, size // 32), 128)
    return Pool(first, last, static if size > 2 * static else 0)
