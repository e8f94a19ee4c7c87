"""The hooks a packet meets on one node, in kernel order, until it leaves the node or ends there.

A new connection's first packet::

    from a pod or outside    PREROUTING, then  to an address of this node:  INPUT, ip_vs, else the node itself
                                               to any other:                FORWARD, POSTROUTING
    from the node itself     OUTPUT mangle, ip_vs, else OUTPUT filter, POSTROUTING
    that ip_vs takes         OUTPUT with the endpoint as destination (mangle, filter), POSTROUTING

ip_vs stands behind filter in INPUT and before it in OUTPUT (net/netfilter/ipvs/ip_vs_core.c: ip_vs_ops4). A real server that is
an address of this node is met in INPUT, without OUTPUT (ip_vs_xmit.c: ip_vs_nat_send_or_cont).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kuberouterpy.dataplane import Forward, Key, RealServer, Table, VirtualServer
from kuberouterpy.family import Family
from kuberouterpy.tracing.rules import Packet, Verdict, judge
from kuberouterpy.tracing.world import World

BRIDGE: Final = "kube-bridge"


class Fate(StrEnum):
    """How a packet's way on a node ends."""

    POD = "pod"
    """It is handed to a pod of this node."""
    HOST = "host"
    """It is handed to a process of this node."""
    AWAY = "away"
    """It leaves for elsewhere."""
    DROPPED = "dropped"
    """A rule drops it."""
    REFUSED = "refused"
    """It is answered by a refusal."""
    LOST = "lost"
    """It finds no way on."""


LOOPBACK: Final = "loopback"
"""Stage of what happens inside a pod only: nothing outside sees it, nor its answer."""


class Hop(Struct, frozen=True):
    """One thing that happens to the packet."""

    node: str
    stage: str
    """``PREROUTING mangle``, ``route``, ``INPUT filter``, ``ipvs``, ..."""
    text: str
    """What happens, in words."""
    rule: str = ""
    """The rule that decided, as iptables reads it."""
    key: Key | None = None
    """The object that decided."""
    path: tuple[str, ...] = ()
    """Chains with rule numbers that led there: ``KUBE-ROUTER-FORWARD[7]``."""


class Way(Struct):
    """One way a packet may take through a node."""

    hops: list[Hop]
    fate: Fate
    packet: Packet
    """As it is when the way ends."""
    real: RealServer | None = None
    """What ip_vs chose."""
    server: VirtualServer | None = None
    masqueraded: bool = False
    doubts: list[str] = []


class Place(Struct, frozen=True):
    """One node as a packet finds it."""

    node: str
    world: World
    local: frozenset[str]
    """Addresses of this node, VIPs among them."""
    own: Mapping[Family, str]
    """Address that a packet gets that is masqueraded and leaves by the uplink."""
    pod_cidrs: tuple[str, ...]
    """Of this node."""
    elsewhere: Mapping[str, str]
    """Pod CIDRs of other nodes to their names."""
    routed: bool
    """Whether routes to other nodes' pods are known here: then one that is missing loses the packet."""
    uplink: str = "the uplink"
    subnets: tuple[str, ...] = ()
    """On-link prefixes."""


def walk(place: Place, packet: Packet, *, origin: str) -> list[Way]:
    """Return the ways a new connection's first packet may take; several where ip_vs chooses among real servers.

    ``origin``: ``pod`` (of this node), ``outside`` or ``node`` (a process of this node).
    """
    if origin == "pod" and packet.source == packet.destination:
        hop = Hop(place.node, LOOPBACK, "an address of the pod itself: the packet never leaves it")
        return [Way([hop], Fate.POD, packet)]
    walker = _Walker(place, [], [])
    return list(walker.from_node(packet) if origin == "node" else walker.arriving(packet, pod=origin == "pod"))


class _Walker:
    """The hops so far on one way."""

    def __init__(self, place: Place, hops: list[Hop], doubts: list[str]) -> None:
        self._place = place
        self._hops = hops
        self._doubts = doubts

    def arriving(self, packet: Packet, *, pod: bool) -> Iterator[Way]:
        packet.in_link = BRIDGE if pod else self._place.uplink
        packet.destination_is_local = packet.destination in self._place.local
        if (stopped := self._meet(packet, "PREROUTING", Table.MANGLE)) or (
            stopped := self._meet(packet, "PREROUTING", Table.NAT)
        ):
            yield stopped
        elif packet.destination_is_local:
            yield from self._to_this_node(packet)
        else:
            yield from self._forwarded(packet)

    def from_node(self, packet: Packet) -> Iterator[Way]:
        packet.source_is_local = True
        packet.destination_is_local = packet.destination in self._place.local
        packet.out_link = "lo" if packet.destination_is_local else self._out(packet.destination)[0]
        if stopped := self._meet(packet, "OUTPUT", Table.MANGLE):
            yield stopped
            return
        server = self._server(packet)
        if server is not None:
            yield from self._proxied(packet, server, here=True)
            return
        if stopped := self._meet(packet, "OUTPUT", Table.FILTER):
            yield stopped
        elif packet.destination_is_local:
            stopped = self._meet(packet, "INPUT", Table.FILTER)
            yield stopped or self._end(packet, Fate.HOST, "no virtual server: whatever listens on this node answers")
        else:
            yield from self._leaving(packet)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _to_this_node(self, packet: Packet) -> Iterator[Way]:
        self._tell("route", f"{packet.destination} is an address of this node")
        if stopped := self._meet(packet, "INPUT", Table.FILTER):
            yield stopped
            return
        server = self._server(packet)
        if server is None:
            yield self._end(packet, Fate.HOST, "no virtual server: whatever listens on this node answers")
        else:
            yield from self._proxied(packet, server, here=False)

    def _server(self, packet: Packet) -> VirtualServer | None:
        return self._place.world.server(
            packet.family, packet.protocol, packet.destination, port=packet.port, mark=packet.mark
        )

    def _forwarded(self, packet: Packet) -> Iterator[Way]:
        packet.out_link = self._out(packet.destination)[0]
        stopped = self._meet(packet, "FORWARD", Table.FILTER)
        if stopped:
            yield stopped
        else:
            yield from self._leaving(packet)

    def _proxied(self, packet: Packet, server: VirtualServer, *, here: bool) -> Iterator[Way]:
        reals = [one for one in self._place.world.reals.get(server.key, ()) if one.weight]
        asked = f"{server.key} ({server.scheduler})"
        if not reals:
            draining = len(self._place.world.reals.get(server.key, ()))
            why = f"its {draining} real servers have weight 0" if draining else "it has no real servers"
            self._tell("ipvs", f"{asked}: {why}", key=server.key)
            yield self._end(packet, Fate.REFUSED, "ip_vs refuses the connection")
            return
        for real in sorted(reals, key=lambda one: one.key):
            walker = _Walker(self._place, [*self._hops], [*self._doubts])
            yield from walker._chosen(replace(packet), server, real, among=len(reals), asked=asked, here=here)

    def _chosen(
        self, packet: Packet, server: VirtualServer, real: RealServer, *, among: int, asked: str, here: bool
    ) -> Iterator[Way]:
        share = "" if among == 1 else f", one of {among}"
        target = (
            f"{real.key.address}:{real.key.port}"
            if ":" not in real.key.address
            else f"[{real.key.address}]:{real.key.port}"
        )
        self._tell("ipvs", f"{asked} chooses {target} weight {real.weight}{share}", key=real.key)
        ways: Iterator[Way]
        if real.forward is Forward.TUNNEL:
            asked_for = f"{packet.destination}:{packet.port}"
            packet.destination, packet.port = real.key.address, real.key.port or packet.port
            text = f"in a tunnel to {packet.destination}, which answers for {asked_for} itself"
            ways = iter([self._end(packet, self._out(packet.destination)[2], text)])
        else:
            packet.destination, packet.port, packet.proxied = real.key.address, real.key.port, True
            ways = self._to_endpoint(packet, here=here)
        for way in ways:
            way.real, way.server = real, server
            yield way

    def _to_endpoint(self, packet: Packet, *, here: bool) -> Iterator[Way]:
        packet.destination_is_local = packet.destination in self._place.local
        if packet.destination_is_local and not here:
            yield self._end(packet, Fate.HOST, "the endpoint is on the host network of this node")
            return
        packet.in_link, packet.out_link = "", self._out(packet.destination)[0]
        for table in (Table.MANGLE, Table.FILTER):
            if stopped := self._meet(packet, "OUTPUT", table):
                yield stopped
                return
        yield from self._leaving(packet)

    def _leaving(self, packet: Packet) -> Iterator[Way]:
        link, text, fate = self._out(packet.destination)
        packet.out_link = link
        self._meet(packet, "POSTROUTING", Table.MANGLE)
        verdict = judge(self._place.world, packet, Table.NAT, "POSTROUTING")
        masqueraded = verdict.target == "MASQUERADE"
        if masqueraded:
            before = packet.source
            packet.source = self._address_of(link, packet.family) or before
            packet.source_is_local = True
            self._decided(
                packet, "POSTROUTING", Table.NAT, verdict=verdict, text=f"source {before} becomes {packet.source}"
            )
        elif kept := next((at for at, one in enumerate(verdict.met, 1) if one.rule.jumps == "RETURN"), 0):
            spared = Verdict(met=verdict.met[:kept])
            self._decided(packet, "POSTROUTING", Table.NAT, verdict=spared, text=f"keeps its source {packet.source}")
        way = self._end(packet, fate, text)
        way.masqueraded = masqueraded
        yield way

    def _address_of(self, link: str, family: Family) -> str:
        """Return what a masqueraded packet has for its source: the bridge has the first address of the pod CIDR."""
        if link != BRIDGE:
            return self._place.own.get(family, "")
        cidrs = (ip_network(one) for one in self._place.pod_cidrs)
        return next((str(one.network_address + 1) for one in cidrs if one.version == family), "")

    def _out(self, destination: str) -> tuple[str, str, Fate]:
        """Return the link a destination is reached by, how, and what becomes of the packet there."""
        place = self._place
        if destination in place.local:
            return "lo", f"{destination} is this node", Fate.HOST
        if _within(destination, place.pod_cidrs):
            return BRIDGE, f"{destination} is a pod of this node, on {BRIDGE}", Fate.POD
        route = place.world.route(destination)
        if route is not None:
            hops = " and ".join(
                " ".join(
                    filter(None, (f"via {hop.gateway}" if hop.gateway else "", f"dev {hop.link}" if hop.link else ""))
                )
                for hop in route.next_hops
            )
            return route.next_hops[0].link or place.uplink, f"route {route.key.destination} {hops}", Fate.AWAY
        owner = next((node for cidr, node in place.elsewhere.items() if _within(destination, (cidr,))), "")
        if owner and place.routed:
            return place.uplink, f"no route to {destination}, a pod of {owner}: no best path is known", Fate.LOST
        if owner:
            return place.uplink, f"to {owner}, by a route that BGP would bring", Fate.AWAY
        if _within(destination, place.subnets):
            return place.uplink, f"{destination} is on the link {place.uplink}", Fate.AWAY
        return place.uplink, f"to {destination} by the host's own routes", Fate.AWAY

    # --- what is told -------------------------------------------------------------------------------------------------

    def _meet(self, packet: Packet, hook: str, table: Table) -> Way | None:
        """Let a table judge; return the way's end where it drops or rejects."""
        before = packet.mark
        verdict = judge(self._place.world, packet, table, hook)
        self._doubts += [f"{hook} {table}: {one}" for one in verdict.doubts]
        if not verdict.target and self._place.world.policies.get((packet.family, table, hook)) == "DROP":
            self._tell(f"{hook} {table}", f"DROP: no rule decided, and the policy of {hook} is DROP")
            return Way(self._hops, Fate.DROPPED, packet, doubts=self._doubts)
        if verdict.target in {"DROP", "REJECT"}:
            self._decided(packet, hook, table, verdict=verdict, text=f"{verdict.target}")
            fate = Fate.DROPPED if verdict.target == "DROP" else Fate.REFUSED
            return Way(self._hops, fate, packet, doubts=self._doubts)
        if verdict.target == "ACCEPT":
            self._decided(packet, hook, table, verdict=verdict, text="ACCEPT")
        elif packet.mark != before:
            self._decided(packet, hook, table, verdict=verdict, text=f"mark {packet.mark:#x}")
        elif verdict.target:
            self._doubts.append(f"{hook} {table}: {verdict.target} by a rule of others; its effect is not followed")
        return None

    def _decided(self, packet: Packet, hook: str, table: Table, *, verdict: Verdict, text: str) -> None:
        path = verdict.path
        last = path[-1]
        keys = self._place.world.keys.get((packet.family, table, last.chain), ())
        key = keys[last.number - 1] if len(keys) > 1 and last.number <= len(keys) else next(iter(keys), None)
        self._hops.append(
            Hop(
                self._place.node,
                f"{hook} {table}",
                text + (f": {last.rule.reason}" if last.rule.reason else ""),
                " ".join((*last.rule.match, "-j", *last.rule.target)),
                key,
                tuple(f"{one.chain}[{one.number}]" for one in path),
            )
        )

    def _tell(self, stage: str, text: str, *, key: Key | None = None) -> None:
        self._hops.append(Hop(self._place.node, stage, text, key=key))

    def _end(self, packet: Packet, fate: Fate, text: str) -> Way:
        self._tell("end" if fate in {Fate.HOST, Fate.REFUSED} else "route", text)
        return Way(self._hops, fate, packet, doubts=self._doubts)


def _within(address: str, prefixes: tuple[str, ...]) -> bool:
    one = ip_address(address)
    networks = (ip_network(prefix, strict=False) for prefix in prefixes)
    return any(one.version == network.version and one in network for network in networks)
