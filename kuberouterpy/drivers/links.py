"""Links we make and the addresses on them: the dummy link that carries the VIPs, tunnels, the pods' bridge.

What the kernel's own tool shows of a VIP of each family::

    $ ip address show kube-dummy-if
    3: kube-dummy-if: <BROADCAST,NOARP,UP,LOWER_UP> mtu 1500 qdisc noqueue state UNKNOWN group default
        inet 10.96.0.10/32 scope link kube-dummy-if
        inet6 fd00:96::10/128 scope global nodad noprefixroute

Ours are the dummy link with its addresses (IPv6 link-local ones are the kernel's), tunnels named as kube-router names them, and
what was expected or made here. ``kube-bridge`` is *not* recognised by its name alone: pods hang on it, and a controller that
does not run must not lose it.

Links are few: one is asked for, then made or changed by pyroute2's schema. Addresses go a hundred in one send.
Kernel: net/core/rtnetlink.c: rtnl_newlink; net/ipv4/devinet.c: inet_rtm_newaddr; net/ipv6/addrconf.c: inet6_rtm_newaddr.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from msgspec.structs import replace

from kuberouterpy.dataplane import (
    Key,
    Link,
    LinkKey,
    LocalAddress,
    LocalAddressKey,
    Object,
    ObjectKind,
    Op,
    Verb,
)
from kuberouterpy.drivers import rtnl_wire as wire
from kuberouterpy.drivers.batches import sends
from kuberouterpy.drivers.netlink import CREATE, EXCLUSIVE, ROUTE, Message, Netlink, failure, unanswered
from kuberouterpy.drivers.rtnl_wire import LinkSeen
from kuberouterpy.errors import DriverError
from kuberouterpy.names import LINK_LIMIT

Outcome = tuple[Op, DriverError | None]

DUMMY: Final = "kube-dummy-if"
"""The link whose addresses are all ours."""
TUNNEL_PREFIX: Final = "tun-"
BRIDGE: Final = "bridge"
"""Kind of the pods' bridge."""

# Beginning of the attributes' names in pyroute2's schema, per kind of tunnel.
_TUNNELS: Final = {"ipip": "IFLA_IPIP_", "ip6tnl": "IFLA_IP6TNL_", wire.VXLAN: "IFLA_VXLAN_"}
_GUE: Final = 2  # include/uapi/linux/if_tunnel.h: TUNNEL_ENCAP_GUE
_NO_ENCAPSULATION_LIMIT: Final = 1  # include/uapi/linux/ip6_tunnel.h: IP6_TNL_F_IGN_ENCAP_LIMIT
_EXTRA: Final[dict[str, list[tuple[str, object]]]] = {
    "ip6tnl": [("IFLA_IP6TNL_PROTO", 41), ("IFLA_IP6TNL_FLAGS", _NO_ENCAPSULATION_LIMIT)]
}
"""As ``ip -6 tunnel add mode ip6ip6 encaplimit none``: IPv6 in IPv6 only, where the kernel's default carries IPv4 as well, and
without the option that would take another 8 bytes of every packet than the pods' MTU leaves for the header."""
_WRAPPED: Final = frozenset({"ipip", "ip6tnl"})
"""Kinds that a port wraps in UDP."""
_HEADER_BYTES: Final = 16


class LinksDriver:
    """Programs the links of the network namespace in which it is first used."""

    name = "links"
    kinds: tuple[ObjectKind, ...] = (Link, LocalAddress)

    def __init__(self, *, dummy: bool = True, tunnels: bool = True) -> None:
        """``dummy``, ``tunnels``: whether to recognise those; a process without the controller that wants them must not,
        because what is recognised and not wanted is deleted."""
        self._netlink = Netlink(ROUTE)
        self._dummy = DUMMY if dummy else ""
        self._tunnels = tunnels
        self._wanted: dict[Key, Object] = {}

    def expect(self, wanted: Iterable[Object]) -> None:
        """Tell what will be wanted, so that a listing recognises it and leaves out what is not compared."""
        self._wanted |= {value.key: value for value in wanted if isinstance(value, self.kinds)}

    def list(self) -> Mapping[Key, Object]:
        """Return our links and the addresses on them.

        A wanted link that is down is left out, so that making it again sets it up.
        """
        try:
            links = [wire.decode_link(body) for body in self._dump(wire.GET_LINK, wire.get_links())]
            seen = [wire.decode_address(body) for body in self._dump(wire.GET_ADDRESS, wire.get_addresses())]
        except OSError as error:
            raise unanswered("list links and addresses", error) from error
        found: dict[Key, Object] = {}
        for link in links:
            key = LinkKey(link.name)
            if self._is_ours(link) and (link.up or key not in self._wanted):
                found[key] = self._described(link)
        names = {link.ifindex: link.name for link in links}
        for address in seen:
            if address is None or address.link_local:
                continue
            held = LocalAddressKey(names.get(address.ifindex, ""), address.address, address.prefix)
            if (held.link and held.link == self._dummy) or held in self._wanted:
                found[held] = LocalAddress(held)
        return found

    def apply(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        """Carry out ``ops`` in order: links one by one, addresses a hundred in one send."""
        for is_link, group in groupby(ops, lambda op: isinstance(op.key, LinkKey)):
            if is_link:
                yield from ((op, self._apply_link(op)) for op in group)
            else:
                for part in sends([*group]):
                    yield from self._apply_addresses(part)

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    # --- links --------------------------------------------------------------------------------------------------------

    def _apply_link(self, op: Op) -> DriverError | None:
        assert isinstance(op.key, LinkKey)
        attempted = f"{op.verb} link {op.key.name}"
        try:
            seen = self._find(op.key.name)
            if op.value is None:
                self._wanted.pop(op.key, None)
                return self._send(attempted, self._deletion(seen)) if seen else None
            assert isinstance(op.value, Link)
            self._wanted[op.key] = op.value
            return self._set_link(attempted, op.value, seen)
        except OSError as error:
            return unanswered(attempted, error)

    def _set_link(self, attempted: str, wanted: Link, seen: LinkSeen | None) -> DriverError | None:
        if seen and (seen.kind, seen.port, seen.vni) != (wanted.kind, wanted.port, wanted.vni):
            error = self._send(attempted, self._deletion(seen))
            if error:
                return DriverError(f"{attempted}: it is there with kind {seen.kind or 'unknown'}", error.errno)
            seen = None
        if wanted.port and wanted.kind in _WRAPPED and seen is None:
            return self._make_wrapped(attempted, wanted)
        if seen and seen.up and _satisfies(seen, wanted):
            return None
        if seen and wanted.kind == wire.VXLAN:
            return self._change_vxlan(attempted, wanted, seen)
        flags = 0 if seen else CREATE | EXCLUSIVE
        error = self._send(attempted, Message(wire.NEW_LINK, flags, _link_body(wanted, seen)))
        if error or seen or wanted.kind != BRIDGE or not wanted.mtu:
            return error
        # A bridge keeps an MTU only when it is changed to it: one given at its making follows the ports.
        return self._send(attempted, Message(wire.NEW_LINK, 0, _link_body(wanted, self._find(wanted.key.name))))

    def _change_vxlan(self, attempted: str, wanted: Link, seen: LinkSeen) -> DriverError | None:
        """Change what differs: one message for the link, one for the tunnel, since the kernel refuses both in one."""
        error = self._send(attempted, Message(wire.NEW_LINK, 0, _link_body(wanted, seen, tunnel=False)))
        if error or wanted.local == seen.local:
            return error
        bare = replace(wanted, mtu=0, hardware="")
        return self._send(attempted, Message(wire.NEW_LINK, 0, _link_body(bare, seen)))

    def _make_wrapped(self, attempted: str, wanted: Link) -> DriverError | None:
        error = self._send(attempted, Message(wire.NEW_LINK, CREATE | EXCLUSIVE, _link_body(wanted, None)))
        if error is None or error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            return error
        lacks = f"the kernel cannot wrap {wanted.kind} in UDP (CONFIG_NET_FOU_IP_TUNNELS, modules fou and fou6)"
        return DriverError(f"{attempted}: {lacks}; choose --overlay-encap ipip or vxlan", error.errno)

    def _deletion(self, seen: LinkSeen) -> Message:
        return Message(wire.DELETE_LINK, 0, wire.link_by_index(seen.ifindex))

    def _send(self, attempted: str, message: Message) -> DriverError | None:
        refused = self._netlink.transact([message])
        return failure(attempted, refused[0]) if refused else None

    def _find(self, name: str) -> LinkSeen | None:
        try:
            return wire.decode_link(self._netlink.request(Message(wire.GET_LINK, 0, wire.get_links(name))))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def _is_ours(self, link: LinkSeen) -> bool:
        named = link.name.startswith(TUNNEL_PREFIX) and len(link.name) == LINK_LIMIT and link.kind in _TUNNELS
        return link.name == self._dummy or (self._tunnels and named) or LinkKey(link.name) in self._wanted

    def _described(self, link: LinkSeen) -> Link:
        wanted = self._wanted.get(LinkKey(link.name))
        if isinstance(wanted, Link) and _satisfies(link, wanted):
            return wanted
        mtu = 0 if isinstance(wanted, Link) and not wanted.mtu else link.mtu
        return Link(LinkKey(link.name), link.kind, mtu, link.local, link.remote, link.port, link.vni)

    # --- addresses ----------------------------------------------------------------------------------------------------

    def _apply_addresses(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        try:
            indexes = self._indexes(ops)
            sent = [(op, index) for op in ops if (index := indexes[_link_of(op)])]
            refused = self._netlink.transact([_address_message(op, index) for op, index in sent])
        except OSError as error:
            yield from ((op, unanswered(_attempted(op), error)) for op in ops)
            return
        refusals = {sent[position][0].key: refusal for position, refusal in refused.items()}
        for op in ops:
            refusal = refusals.get(op.key)
            if op.verb is Verb.DELETE:
                self._wanted.pop(op.key, None)
                gone = refusal is None or refusal.errno in {errno.EADDRNOTAVAIL, errno.ENODEV}
                yield op, None if gone or refusal is None else failure(_attempted(op), refusal)
                continue
            if op.value is not None:
                self._wanted[op.key] = op.value
            if not indexes[_link_of(op)]:
                yield op, DriverError(f"{_attempted(op)}: no such link", errno.ENODEV)
            else:
                there = refusal is None or refusal.errno == errno.EEXIST
                yield op, None if there or refusal is None else failure(_attempted(op), refusal)

    def _indexes(self, ops: Sequence[Op]) -> dict[str, int]:
        """Return the index of every link that ``ops`` name; 0 where there is none."""
        found: dict[str, int] = {}
        for name in {_link_of(op) for op in ops}:
            seen = self._find(name)
            found[name] = seen.ifindex if seen else 0
        return found

    def _dump(self, kind: int, body: bytes) -> Iterator[memoryview]:
        return self._netlink.dump(Message(kind, 0, body))


def _satisfies(seen: LinkSeen, wanted: Link) -> bool:
    return (
        seen.kind == wanted.kind
        and wanted.mtu in {0, seen.mtu}
        and wanted.local in {"", seen.local}
        and wanted.remote in {"", seen.remote}
        and (wanted.port, wanted.vni) == (seen.port, seen.vni)
        and wanted.hardware in {"", seen.hardware}
    )


def _link_body(wanted: Link, seen: LinkSeen | None, *, tunnel: bool = True) -> bytes:
    """Return the body of RTM_NEWLINK that makes ``wanted``, or changes ``seen`` into it, with the ends of its tunnel or not."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: PLC0415  # 32 MB and 120 ms, and most starts make no link

    flags = wire.UP | (wire.NOARP if wanted.kind == "dummy" else 0)
    ends = [*_ends(wanted, new=seen is None), *_EXTRA.get(wanted.kind, [])] if tunnel else []
    info: list[tuple[str, object]] = [("IFLA_INFO_KIND", wanted.kind)]
    if ends:
        info.append(("IFLA_INFO_DATA", {"attrs": ends}))
    attrs: list[tuple[str, object]] = [("IFLA_IFNAME", wanted.key.name)]
    if wanted.kind == BRIDGE and seen is None:
        attrs.append(("IFLA_ADDRESS", _hardware_address()))
    elif wanted.mtu:
        attrs.append(("IFLA_MTU", wanted.mtu))
    if wanted.hardware:
        attrs.append(("IFLA_ADDRESS", wanted.hardware))
    if seen is None or ends:
        attrs.append(("IFLA_LINKINFO", {"attrs": info}))
    message = ifinfmsg()
    message["flags"] = message["change"] = flags
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)[_HEADER_BYTES:]


def _ends(wanted: Link, *, new: bool) -> Iterator[tuple[str, object]]:
    """Yield the attributes of a tunnel's ends; what cannot change is told only of a new one."""
    head = _TUNNELS.get(wanted.kind, "")
    if wanted.kind == wire.VXLAN:
        yield f"{head}LOCAL6" if ":" in wanted.local else f"{head}LOCAL", wanted.local
        if new:
            yield from ((f"{head}ID", wanted.vni), (f"{head}PORT", wanted.port), (f"{head}LEARNING", 0))
        return
    if head:
        yield from ((head + end, text) for end, text in (("LOCAL", wanted.local), ("REMOTE", wanted.remote)) if text)
    if head and wanted.port:
        yield from ((f"{head}ENCAP_TYPE", _GUE), (f"{head}ENCAP_FLAGS", 0))
        yield from ((f"{head}ENCAP_SPORT", 0), (f"{head}ENCAP_DPORT", wanted.port))


def _hardware_address() -> str:
    """Return a random address of our own making.

    A bridge without one takes the lowest of its ports': pods come and go, and each time it changes, the others on the node go
    on sending to a gateway that is no more (net/bridge/br_stp_if.c: br_stp_recalculate_bridge_id).
    """
    first, *others = os.urandom(6)
    return ":".join(f"{byte:02x}" for byte in (first & 0xFC | 0x02, *others))  # unicast, locally administered


def _link_of(op: Op) -> str:
    assert isinstance(op.key, LocalAddressKey)
    return op.key.link


def _address_message(op: Op, index: int) -> Message:
    key = op.key
    assert isinstance(key, LocalAddressKey)
    body = wire.address(index, key.address, key.prefix, wire.SCOPE_LINK if key.link == DUMMY else wire.SCOPE_GLOBAL)
    if op.verb is Verb.DELETE:
        return Message(wire.DELETE_ADDRESS, 0, body)
    return Message(wire.NEW_ADDRESS, CREATE | EXCLUSIVE, body)


def _attempted(op: Op) -> str:
    key = op.key
    assert isinstance(key, LocalAddressKey)
    return f"{op.verb} address {key.address}/{key.prefix} on {key.link}"
