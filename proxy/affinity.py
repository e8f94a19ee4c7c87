"""Session affinity with short timeouts, to the second; long ones are IPVS persistence.

An IPVS template lives while any connection does that it led, a closed one for two minutes more (services.md V7): 133 s were
measured for a timeout of 10. So below :data:`EXACT_BELOW_S` clients are remembered in sets with a timeout, one an endpoint,
and the entry's own clock decides (V8). What a packet to an address with such affinity meets in table mangle::

    PREROUTING, OUTPUT       -j KUBE-ROUTER-STICKY
    KUBE-ROUTER-STICKY       -j SET --map-set kube-router-sticky dst,dst --map-mark       the mark of the group
                             -m mark --mark <group> -j KUBE-ROUTER-KNOWN-...
    KUBE-ROUTER-KNOWN-...    -m set --match-set <endpoint's clients> src -j SET --add-set ...   the clock starts anew
                             -m set --match-set <endpoint's clients> src -j MARK <endpoint>
    (IPVS)                   virtual server of <group>: all endpoints; of <endpoint>: this one
    POSTROUTING              -j KUBE-ROUTER-STICKY-LEARN, and if marked <group>: -j KUBE-ROUTER-LEARN-...
    KUBE-ROUTER-LEARN-...    -d <endpoint> -j SET --add-set <endpoint's clients> src      chosen a moment ago: remembered

A group is one service port in one family under one traffic policy: its addresses share the memory. Chains and jumps stand only
while there is such a Service; a packet to any other address meets one look into a hash, and without such a Service nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kuberouterpy.cluster import Service, ServicePort, TrafficPolicy
from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    Entry,
    EntryKey,
    Jump,
    JumpKey,
    Object,
    RealServer,
    RealServerKey,
    Rule,
    Set,
    SetKey,
    Table,
    VirtualServer,
    VirtualServerKey,
)
from kuberouterpy.family import Family, family_of
from kuberouterpy.names import hashed
from kuberouterpy.protocol import Protocol
from proxy import marks
from proxy.endpoints import Backend
from proxy.masquerade import MAX_ELEMENTS, set_name

EXACT_BELOW_S: Final = 180
"""From here on IPVS persistence errs by less than its timeout; below, by up to 130 s (V7)."""
# order matters: chains go in the reverse order of their names, so those that lead to others come last in the alphabet.
CHAIN: Final = "KUBE-ROUTER-STICKY"
LEARN_CHAIN: Final = "KUBE-ROUTER-STICKY-LEARN"

_STICKY: Final = "kube-router-sticky"
_CLIENTS: Final = "kube-router-st-"
_STICK: Final = "KUBE-ROUTER-KNOWN-"
_LEARN: Final = "KUBE-ROUTER-LEARN-"
_DIGEST: Final = 10
"""Characters: the longest that chain and set names take."""
_EARLY: Final = -5
"""Before the marks of clients inside this node, which must win."""


class Group(Struct, frozen=True):
    """The addresses of one service port in one family that share servers, thus a memory of their clients."""

    service: str
    """Namespace and name, for comments."""
    family: Family
    port: ServicePort
    policy: TrafficPolicy
    timeout_s: int

    @property
    def identity(self) -> tuple[str, ...]:
        """What names of this group are made of."""
        return ("affinity", self.service, self.port.name, self.port.protocol, str(self.port.port), self.policy)

    @property
    def mark(self) -> int:
        """Mark of packets whose client is not known yet."""
        return marks.of_name(*self.identity)

    @property
    def stick(self) -> ChainKey:
        """Chain that knows clients."""
        return ChainKey(self.family, Table.MANGLE, hashed(_STICK, *self.identity, length=_DIGEST))

    @property
    def learn(self) -> ChainKey:
        """Chain that remembers clients."""
        return ChainKey(self.family, Table.MANGLE, hashed(_LEARN, *self.identity, length=_DIGEST))

    def clients(self, backend: Backend) -> str:
        """Return the name of the set of an endpoint's clients."""
        return set_name(hashed(_CLIENTS, *self.identity, *_name(backend), length=_DIGEST), self.family)

    def mark_of(self, backend: Backend) -> int:
        """Return the mark of packets from an endpoint's clients."""
        return marks.of_name(*self.identity, *_name(backend))


def is_exact(service: Service) -> bool:
    """Return whether a Service's affinity is kept here, not by IPVS persistence."""
    return 0 < service.affinity_s < EXACT_BELOW_S


def claims_set(name: str) -> bool:
    """Return whether a set is ours; entries of clients' sets are the kernel's, nobody's to delete."""
    return name.removeprefix("inet6:").startswith((_STICKY, _CLIENTS))


def claims_entry(name: str) -> bool:
    """Return whether entries of a set are ours to delete."""
    return name.removeprefix("inet6:") == _STICKY


def claims_chain(name: str) -> bool:
    """Return whether a chain is ours."""
    return name in {CHAIN, LEARN_CHAIN} or name.startswith((_STICK, _LEARN))


def groups(service: Service, policies: Iterable[TrafficPolicy], families: Iterable[Family]) -> Iterator[Group]:
    """Yield the groups of a Service; nothing where its affinity is not kept here."""
    if is_exact(service):
        for policy in sorted(set(policies)):
            for family in families:
                for port in service.ports:
                    yield Group(str(service.ref), family, port, policy, service.affinity_s)


def base(families: Iterable[Family]) -> Iterator[Object]:
    """Yield the set of addresses with exact affinity."""
    for family in families:
        key = SetKey(set_name(_STICKY, family))
        yield Set(key, family, "hash:ip,port", max_elements=MAX_ELEMENTS, marks=True)


def dispatch(found: Iterable[Group]) -> Iterator[Object]:
    """Yield the chains that lead to every group's own, and their jumps; nothing where there is no group."""
    by_family: dict[Family, list[Group]] = {}
    for one in found:
        by_family.setdefault(one.family, []).append(one)
    for family, some in sorted(by_family.items()):
        ordered = sorted(some, key=lambda one: one.identity)
        to_group = Rule((), ("SET", "--map-set", set_name(_STICKY, family), "dst,dst", "--map-mark"), "which group")
        stick = (Rule(_marked(one), (one.stick.name,), one.service) for one in ordered)
        learn = (Rule(_marked(one), (one.learn.name,), one.service) for one in ordered)
        yield Chain(ChainKey(family, Table.MANGLE, CHAIN), (to_group, *stick))
        yield Chain(ChainKey(family, Table.MANGLE, LEARN_CHAIN), tuple(learn))
        reason = "session affinity to the second"
        # What IPVS sends on passes OUTPUT a second time: it is decided, and keeps its mark for POSTROUTING.
        fresh = ("-m", "ipvs", "!", "--ipvs")
        for hook, match, chain in (
            ("PREROUTING", (), CHAIN),
            ("OUTPUT", fresh, CHAIN),
            ("POSTROUTING", (), LEARN_CHAIN),
        ):
            yield Jump(JumpKey(family, Table.MANGLE, hook, chain), Rule(match, (chain,), reason), rank=_EARLY)


def address_entry(group: Group, address: str, number: int) -> Entry:
    """Return what leads packets to an address and port into their group."""
    key = EntryKey(set_name(_STICKY, family_of(address)), f"{address},{group.port.protocol}:{number}")
    return Entry(key, comment=group.service, mark=group.mark)


def program(group: Group, server: VirtualServer, weighed: Iterable[tuple[Backend, int]]) -> Iterator[Object]:
    """Yield a group's sets, chains and servers; ``server`` has the scheduler its Service asks for.

    A draining endpoint keeps its servers, for established connections, and is chosen no more.
    """
    everyone = replace(server, key=_by_mark(group.family, group.mark), persistence_s=0)
    stick: list[Rule] = []
    learn: list[Rule] = []
    servers: list[Object] = [everyone]
    for backend, weight in weighed:
        clients = group.clients(backend)
        yield Set(SetKey(clients), group.family, "hash:ip", max_elements=MAX_ELEMENTS, timeout_s=group.timeout_s)
        alone = VirtualServer(_by_mark(group.family, group.mark_of(backend)))
        servers.append(alone)
        servers += (
            RealServer(RealServerKey(one.key, backend.address, backend.port), weight=weight)
            for one in (everyone, alone)
        )
        if weight:
            known = ("-m", "set", "--match-set", clients, "src")
            remember = ("SET", "--add-set", clients, "src", "--exist", "--timeout", str(group.timeout_s))
            mark = ("MARK", "--set-xmark", f"{group.mark_of(backend):#x}/0xffffffff")
            stick += (Rule(known, remember, backend.address), Rule(known, mark, backend.address))
            protocol = ("-p", group.port.protocol.value, "--dport", str(backend.port))
            learn.append(Rule(("-d", f"{backend.address}/{group.family.host_prefix}", *protocol), remember))
    yield Chain(group.stick, tuple(stick))
    yield Chain(group.learn, tuple(learn))
    yield from servers


def _marked(group: Group) -> tuple[str, ...]:
    return ("-m", "mark", "--mark", f"{group.mark:#x}")


def _by_mark(family: Family, mark: int) -> VirtualServerKey:
    return VirtualServerKey(family, Protocol.TCP, "", 0, fwmark=mark)


def _name(backend: Backend) -> tuple[str, str]:
    return backend.address, str(backend.port)
