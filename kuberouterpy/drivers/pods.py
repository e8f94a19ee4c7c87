"""The pods' end of direct server return: a tunnel with VIPs on it, in a pod's own network namespace.

What the kernel's own tool shows in the namespace of a pod that serves a VIP of each family::

    $ ip address show
    4: kube-tunnel-if@NONE: <NOARP,UP,LOWER_UP> mtu 1480 ...    link/ipip 10.1.3.4 brd 0.0.0.0
        inet 203.0.113.7/32 scope global kube-tunnel-if
    6: kube-tunnel-v6@NONE: <NOARP,UP,LOWER_UP> mtu 1460 ...    link/tunnel6 fd00:1:3::4 brd ::
        inet6 2001:db8:cb::7/128 scope global nodad noprefixroute

Ours are the links of these two names in the pods of this node, with their addresses: names, and all else, are kube-router's. A
tunnel takes packets of every node. Reverse-path filtering is off in the pod, since requests come in by the tunnel and answers
leave by eth0; it stays off when the tunnel goes, as the namespace goes with its pod.

Promises: a namespace that does not hold the pod's address is never touched (process ids of another PID namespace lead
anywhere). A pod that is gone has nothing to delete. Without a container runtime nothing is listed, and what is wanted fails
with the reason.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from kuberouterpy.cri.client import CriError
from kuberouterpy.dataplane import (
    Key,
    Link,
    LinkKey,
    LocalAddress,
    LocalAddressKey,
    Object,
    ObjectKind,
    Op,
    PodTunnel,
    PodTunnelKey,
    Verb,
)
from kuberouterpy.drivers import rtnl_wire as wire
from kuberouterpy.drivers.links import LinksDriver
from kuberouterpy.drivers.netlink import ROUTE, Message, Netlink
from kuberouterpy.drivers.netns import within
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES, Family, family_of

Outcome = tuple[Op, DriverError | None]

NAMES: Final = {Family.IPV4: "kube-tunnel-if", Family.IPV6: "kube-tunnel-v6"}
_KINDS: Final = {Family.IPV4: "ipip", Family.IPV6: "ip6tnl"}
_MODULES: Final = {Family.IPV4: "ipip", Family.IPV6: "ip6_tunnel"}
_MENDS: Final = {
    errno.EPERM: "; add the capability SYS_ADMIN",
    errno.EROFS: "; name a writable place with --sysctl-root",
}
"""What lets the agent into a pod; in the chart all comes with ``dsr.enabled``."""


class Runtime(Protocol):
    """The way into pods."""

    def namespaces(self) -> Mapping[str, Sequence[str]]:
        """Return where the network namespace of each pod of this node may be found, by address. Errors: CriError."""
        ...


class Seen(NamedTuple):
    """What a namespace holds."""

    tunnels: dict[Family, str]
    """The address that each tunnel of ours ends at."""
    vips: dict[Family, set[str]]
    """Addresses on them."""
    links: dict[str, str]
    """Link of each other address."""
    fit: bool
    """Tunnels are up and reverse-path filtering is off."""


class PodsDriver:
    """Programs tunnels in the pods of this node."""

    name = "pods"
    kinds: tuple[ObjectKind, ...] = (PodTunnel,)

    def __init__(self, runtime: Runtime, sysctls: Path = Path("/proc/sys")) -> None:
        """``sysctls``: where /proc/sys can be written; its ``net`` is that of the namespace of whoever opens it."""
        self._runtime = runtime
        self._filters = sysctls / "net/ipv4/conf"
        self._answered = False
        self._wanted: frozenset[Key] = frozenset()

    def expect(self, wanted: Iterable[Object]) -> None:
        """Tell what will be wanted: a listing leaves it out where it is not fit for use, so that it is made again."""
        self._wanted = frozenset(value.key for value in wanted)

    def list(self) -> Mapping[Key, Object]:
        """Return the tunnels in the pods of this node, one for each VIP; one without VIPs has an empty one.

        Errors: DriverError where the runtime answered before and does not now.
        """
        try:
            namespaces = self._runtime.namespaces()
        except CriError as error:
            if self._answered:
                raise DriverError(str(error), errno.ENOTCONN) from None
            return {}
        self._answered = True
        found: dict[Key, Object] = {}
        for path in dict.fromkeys(filter(None, map(_present, namespaces.values()))):
            for tunnel in _tunnels(path, self._wanted, self._filters):
                found[tunnel.key] = tunnel
        return found

    def apply(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        """Carry out ``ops`` in order, those of one pod in one visit."""
        try:
            namespaces = self._runtime.namespaces()
        except CriError as error:
            yield from ((op, DriverError(f"{_attempted(op)}: {error}", errno.ENOTCONN)) for op in ops)
            return
        for pod, some in groupby(ops, lambda op: _key(op).pod):
            yield from _visit(pod, [*some], _present(namespaces.get(pod, ())), self._filters)


def _present(paths: Iterable[str]) -> str:
    """Return the first path that is a network namespace, seen from here.

    A pin made outside our mounts is an ordinary, empty file: only where it lies on the file system of namespaces it counts.
    """
    device = os.stat("/proc/self/ns/net").st_dev
    for path in paths:
        with suppress(OSError):
            if os.stat(path).st_dev == device:
                return path
    return ""


def _visit(pod: str, ops: Sequence[Op], path: str, filters: Path) -> Sequence[Outcome]:
    if not path:
        return [(op, _missing(op)) for op in ops]
    try:
        return within(path, lambda: _carry_out(pod, ops, filters))
    except OSError as error:
        number = error.errno or errno.EIO
        reason = f"in network namespace {path}: {os.strerror(number).lower()}{_MENDS.get(number, '')}"
        return [(op, DriverError(f"{_attempted(op)}: {reason}", number)) for op in ops]


def _missing(op: Op) -> DriverError | None:
    if op.verb is Verb.DELETE:
        return None  # went with its pod
    reason = "the container runtime knows no pod of this address, or its network namespace cannot be seen from here"
    return DriverError(f"{_attempted(op)}: {reason}; run with hostPID, or mount /run/netns", errno.ENOENT)


def _tunnels(path: str, wanted: Collection[Key], filters: Path) -> Iterator[PodTunnel]:
    try:
        seen = within(path, lambda: look(filters))
    except OSError:  # it went in this moment
        return
    for family, pod in seen.tunnels.items():
        for vip in sorted(seen.vips[family]) or [""]:
            key = PodTunnelKey(pod, vip)
            if seen.fit or key not in wanted:
                yield PodTunnel(key)


# --- in the pod's namespace -------------------------------------------------------------------------------------------


def look(filters: Path) -> Seen:
    """Return what the namespace of this thread holds. Errors: OSError."""
    with closing(Netlink(ROUTE)) as netlink:
        links = [*map(wire.decode_link, netlink.dump(Message(wire.GET_LINK, 0, wire.get_links())))]
        addresses = [*map(wire.decode_address, netlink.dump(Message(wire.GET_ADDRESS, 0, wire.get_addresses())))]
    names = {link.ifindex: link.name for link in links}
    ours = {link.name: link for link in links if link.name in NAMES.values()}
    tunnels = {family: ours[name].local for family, name in NAMES.items() if name in ours}
    vips: dict[Family, set[str]] = {family: set() for family in FAMILIES}
    others: dict[str, str] = {}
    for one in addresses:
        if one is None or one.link_local:
            continue
        if names.get(one.ifindex) in ours:
            vips[family_of(one.address)].add(one.address)
        else:
            others[one.address] = names.get(one.ifindex, "")
    filtered = Family.IPV4 in tunnels and any(_filters(filters / link) for link in ("all", NAMES[Family.IPV4]))
    return Seen(tunnels, vips, others, all(link.up for link in ours.values()) and not filtered)


def _carry_out(pod: str, ops: Sequence[Op], filters: Path) -> Sequence[Outcome]:
    """Carry out the operations on one pod, in its namespace. Errors: OSError."""
    seen = look(filters)
    if pod not in seen.links:
        wrong = "the network namespace that the runtime names does not hold its address; run the agent with hostPID"
        return [(op, DriverError(f"{_attempted(op)}: {wrong}", errno.ENXIO)) for op in ops]
    family = _key(ops[0]).family
    with closing(LinksDriver(dummy=False, tunnels=False)) as links:
        if any(op.verb is not Verb.DELETE for op in ops):
            if error := _open(links, pod, family):
                return [(op, DriverError(f"{_attempted(op)}: {error}", error.errno)) for op in ops]
            for link in ("all", NAMES[family], seen.links[pod]) if family is Family.IPV4 else ():
                if _filters(filters / link):
                    (filters / link / "rp_filter").write_text("0")
        outcomes = [(op, _hold(links, op)) for op in ops]
        if not look(filters).vips[family]:
            gone = _apply(links, Op(Verb.DELETE, LinkKey(NAMES[family]), None))
            outcomes = [(op, error or gone) for op, error in outcomes]
        return outcomes


def _open(links: LinksDriver, pod: str, family: Family) -> DriverError | None:
    """Make the tunnel, or make it as it should be."""
    tunnel = Link(LinkKey(NAMES[family]), _KINDS[family], local=pod)
    error = _apply(links, Op(Verb.CREATE, tunnel.key, tunnel))
    if error and error.errno == errno.EOPNOTSUPP:
        return DriverError(f"the kernel has no {_KINDS[family]}: modprobe {_MODULES[family]}", error.errno)
    return error


def _hold(links: LinksDriver, op: Op) -> DriverError | None:
    """Put a VIP on the tunnel, or take it off."""
    key = _key(op)
    if not key.vip:
        return None
    held = LocalAddress(LocalAddressKey(NAMES[key.family], key.vip, key.family.host_prefix))
    return _apply(links, Op(op.verb, held.key, None if op.verb is Verb.DELETE else held))


def _apply(links: LinksDriver, op: Op) -> DriverError | None:
    return next((error for _, error in links.apply([op])), None)


def _filters(link: Path) -> bool:
    """Return whether reverse paths are filtered; the larger of ``all`` and the link's own counts."""
    return (link / "rp_filter").read_text().strip() != "0"


def _key(op: Op) -> PodTunnelKey:
    assert isinstance(op.key, PodTunnelKey)
    return op.key


def _attempted(op: Op) -> str:
    return f"{op.verb} tunnel of pod {_key(op).pod} for {_key(op).vip}"
