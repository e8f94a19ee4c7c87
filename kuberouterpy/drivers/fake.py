"""Return what a real dataplane would, from memory: drivers of every kind over one :class:`FakeKernel`.

Why it exists: loop, tracker and controllers are tested in milliseconds against the kernel's own rules of integrity. What
is claimed here is proven: the contract suite drives real drivers and this one through the same random sequences and
compares what is left.

Rules kept:

* an object needs what :func:`kuberouterpy.dataplane.requires` names (a real server without its virtual server is ESRCH);
* a set that a chain matches on, and a chain that is jumped to, cannot go (EBUSY);
* a set takes its entries with it, a virtual server its real servers, a link its addresses, a speaker all it speaks of;
* a set holds no more than its maximum (ENOSPC) and changes its type only while no chain matches on it, losing its entries;
* foreign objects are never listed, and an operation on one is refused (EPERM) and kept in :attr:`FakeKernel.intrusions`.

Not modelled: packets, and routes whose link goes away.
"""

from __future__ import annotations

import errno as errnos
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from kuberouterpy.dataplane import (
    KIND_OF_KEY,
    KINDS,
    Chain,
    ChainKey,
    CniConfig,
    Entry,
    EntryKey,
    FarEnd,
    Flows,
    FouPort,
    HealthCheck,
    Jump,
    JumpKey,
    Key,
    Link,
    LinkKey,
    LocalAddress,
    Neighbor,
    Object,
    ObjectKind,
    Op,
    Path,
    PodTunnel,
    RealServer,
    Route,
    RoutePolicy,
    RoutingRule,
    Set,
    SetKey,
    Speaker,
    Sysctl,
    Verb,
    VirtualServer,
    VirtualServerKey,
    requires,
)
from kuberouterpy.errors import DriverError
from kuberouterpy.text import name_of

ALWAYS: Final = 1 << 30
"""As ``times`` of a fault: until :meth:`FakeDriver.heal`."""

_MISSING: Final[dict[type, int]] = {VirtualServerKey: errnos.ESRCH, LinkKey: errnos.ENODEV}
_BLOCKING: Final = (ChainKey, JumpKey)

_PARTS: Final[tuple[tuple[str, tuple[ObjectKind, ...]], ...]] = (
    ("sysctl", (Sysctl,)),
    ("fou", (FouPort,)),
    ("links", (Link, LocalAddress)),
    ("vxlan", (FarEnd,)),
    ("pods", (PodTunnel,)),
    ("ipset", (Set, Entry)),
    ("iptables", (Chain, Jump)),
    ("ipvs", (VirtualServer, RealServer)),
    ("conntrack", (Flows,)),
    ("health", (HealthCheck,)),
    ("routes", (Route, RoutingRule)),
    ("cni", (CniConfig,)),
    ("gobgp", (Speaker, RoutePolicy, Neighbor, Path)),
)


class FakeKernel:
    """State that several fakes share, so that rules across kinds hold."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKind, dict[Key, Object]] = {kind: {} for kind in KINDS}
        """Ours, by kind."""
        self.foreign: dict[Key, Object] = {}
        """What others made; must stay as it is."""
        self.intrusions: list[Op] = []
        """Operations that reached for a foreign object."""
        self.values: dict[str, str] = {}
        """Kernel settings by path; deleting a :class:`Sysctl` leaves its value here."""
        self._dependents: defaultdict[Key, set[Key]] = defaultdict(set)

    def get(self, key: Key) -> Object | None:
        """Return the object of ``key``, ours or foreign."""
        return self.objects[KIND_OF_KEY[type(key)]].get(key) or self.foreign.get(key)

    def plant(self, *values: Object) -> None:
        """Make foreign objects, as another program would."""
        for value in values:
            self._check_requirements(value)
            self._link(value)
            self.foreign[value.key] = value

    def put(self, op: Op, value: Object) -> None:
        """Create or change an object. Errors: DriverError as the kernel would."""
        key = value.key
        self._refuse_foreign(op)
        self._check_requirements(value)
        before = self.get(key)
        if isinstance(value, Set) and isinstance(before, Set):
            self._check_retype(before, value)
        if isinstance(value, Entry) and before is None:
            self._check_room(value)
        if isinstance(value, Sysctl):
            self.values[value.key.path] = value.value
        self._unlink(before)
        self._link(value)
        self.objects[KIND_OF_KEY[type(key)]][key] = value

    def remove(self, op: Op, key: Key) -> None:
        """Delete an object and what cannot be without it. Errors: DriverError as the kernel would."""
        self._refuse_foreign(op)
        value = self.objects[KIND_OF_KEY[type(key)]].get(key)
        if value is None:
            return
        dependents = self._dependents[key] - {key}
        if any(isinstance(dependent, _BLOCKING) for dependent in dependents):
            raise DriverError(f"{op.verb} {key}: still referenced", errnos.EBUSY)
        for dependent in dependents:
            self._drop(dependent)
        self._drop(key)

    def _drop(self, key: Key) -> None:
        value = self.objects[KIND_OF_KEY[type(key)]].pop(key, None) or self.foreign.pop(key, None)
        self._unlink(value)
        self._dependents.pop(key, None)

    def _link(self, value: Object) -> None:
        for need in requires(value):
            self._dependents[need].add(value.key)

    def _unlink(self, value: Object | None) -> None:
        if value is not None:
            for need in requires(value):
                self._dependents[need].discard(value.key)

    def _refuse_foreign(self, op: Op) -> None:
        if op.key in self.foreign:
            self.intrusions.append(op)
            raise DriverError(f"{op.verb} {op.key}: belongs to someone else", errnos.EPERM)

    def _check_requirements(self, value: Object) -> None:
        for need in requires(value):
            if need != value.key and self.get(need) is None:
                number = _MISSING.get(type(need), errnos.ENOENT)
                raise DriverError(f"create {value.key}: {need} does not exist", number)

    def _check_retype(self, before: Set, value: Set) -> None:
        dependents = self._dependents[value.key]
        if (before.type, before.family) == (value.type, value.family):
            if sum(isinstance(key, EntryKey) for key in dependents) > value.max_elements:
                raise DriverError(f"update {value.key}: more entries than the new maximum", errnos.ENOSPC)
            return
        if any(isinstance(key, _BLOCKING) for key in dependents):
            raise DriverError(f"update {value.key}: in use with type {before.type}", errnos.EBUSY)
        for key in tuple(dependents):
            self._drop(key)

    def _check_room(self, value: Entry) -> None:
        holder = self.get(SetKey(value.key.set))
        assert isinstance(holder, Set)
        if sum(isinstance(key, EntryKey) for key in self._dependents[holder.key]) >= holder.max_elements:
            raise DriverError(f"create {value.key}: set is full", errnos.ENOSPC)


class FakeDriver:
    """A :class:`kuberouterpy.drivers.Driver` over a :class:`FakeKernel`, with faults on demand."""

    def __init__(
        self, kinds: Iterable[ObjectKind] = KINDS, *, name: str = "fake", kernel: FakeKernel | None = None
    ) -> None:
        self.name = name
        self.kinds = tuple(kinds)
        self.kernel = kernel or FakeKernel()
        self.log: list[Op] = []
        """Every operation that succeeded, in order."""
        self.attempts: list[Op] = []
        """Every operation asked for, in order."""
        self.listings = 0
        """How often :meth:`list` was asked for."""
        self.fault: Callable[[Op], int] | None = None
        """Asked before every operation; a positive errno makes it fail."""
        self._failing: Counter[Key] = Counter()
        self._errnos: dict[Key, int] = {}
        self._failing_lists = 0
        self._list_errno = errnos.EIO

    def fail(self, key: Key, errno: int = errnos.EIO, times: int = 1) -> None:
        """Make the next ``times`` operations on ``key`` fail."""
        self._failing[key] = times
        self._errnos[key] = errno

    def fail_list(self, errno: int = errnos.EIO, times: int = 1) -> None:
        """Make the next ``times`` listings fail."""
        self._failing_lists = times
        self._list_errno = errno

    def heal(self) -> None:
        """Forget every fault."""
        self._failing.clear()
        self._failing_lists = 0
        self.fault = None

    @property
    def foreign(self) -> Mapping[str, int]:
        """What others made of :attr:`kinds`: how many, a chain for each of its rules."""
        theirs = (one for key, one in self.kernel.foreign.items() if KIND_OF_KEY[type(key)] in self.kinds)
        return {name_of(one.key): len(one.rules) if isinstance(one, Chain) else 1 for one in theirs}

    def list(self) -> Mapping[Key, Object]:
        """Return our objects of :attr:`kinds`."""
        self.listings += 1
        if self._failing_lists > 0:
            self._failing_lists -= 1
            raise DriverError(f"list {self.name}", self._list_errno)
        return {key: value for kind in self.kinds for key, value in self.kernel.objects[kind].items()}

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Carry out ``ops`` one by one; chains after those they jump to, as one restore declares all before any rule."""
        for op in _declared_first(ops):
            yield op, self._attempt(op)

    def _attempt(self, op: Op) -> DriverError | None:
        assert KIND_OF_KEY[type(op.key)] in self.kinds, f"{self.name} cannot apply {op}"
        self.attempts.append(op)
        try:
            self._raise_fault(op)
            if op.verb is Verb.DELETE:
                self.kernel.remove(op, op.key)
            else:
                assert op.value is not None
                self.kernel.put(op, op.value)
        except DriverError as error:
            return error
        self.log.append(op)
        return None

    def _raise_fault(self, op: Op) -> None:
        number = self.fault(op) if self.fault else 0
        if number:
            raise DriverError(f"{op.verb} {op.key}", number)
        if self._failing[op.key] > 0:
            self._failing[op.key] -= 1
            raise DriverError(f"{op.verb} {op.key}", self._errnos[op.key])


def _declared_first(ops: Sequence[Op]) -> Iterator[Op]:
    chains = {op.key: op for op in ops if isinstance(op.value, Chain)}
    repeated = len({op.key for op in ops}) < len(ops)
    for op in ops:
        if isinstance(op.value, Chain) and not repeated:
            yield from _with_targets(op.key, chains)
        else:
            yield op


def _with_targets(key: Key, waiting: dict[Key, Op]) -> Iterator[Op]:
    op = waiting.pop(key, None)
    if op is not None and op.value is not None:
        for need in requires(op.value):
            yield from _with_targets(need, waiting)
        yield op


def kernel(shared: FakeKernel | None = None) -> tuple[FakeDriver, ...]:
    """Return drivers that cover all :data:`kuberouterpy.dataplane.KINDS`, cut and named as the real ones, over one kernel."""
    shared = shared or FakeKernel()
    return tuple(FakeDriver(kinds, name=name, kernel=shared) for name, kinds in _PARTS)
