"""Traces: where one packet goes, node by node, and how the answer comes back.

What this node wants is its Tracker's; what another node wants is computed from the same facts by the same controllers, so a
trace follows a packet to the node where the endpoint's policy is judged. Verdicts come from the objects
(:mod:`kuberouterpy.tracing`), never from a second reading of Services or policies.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kuberouterpy import __version__
from kuberouterpy.answers.subjects import UnknownSubject
from kuberouterpy.answers.trace_ends import End, ends_of
from kuberouterpy.answers.trace_places import Map
from kuberouterpy.dataplane import Forward, Table
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import pod_cidrs_of
from kuberouterpy.loop import Loop
from kuberouterpy.text import kind_of, name_of
from kuberouterpy.tracing import LOOPBACK, Fate, Hop, Packet, Place, Way, walk
from kuberouterpy.tracing.rules import judge

_WORDS: Final = {
    Fate.POD: "reaches",
    Fate.HOST: "reaches the node",
    Fate.AWAY: "leaves the cluster",
    Fate.DROPPED: "denied",
    Fate.REFUSED: "refused",
    Fate.LOST: "lost",
}
_NODES: Final = 3
"""A packet that went on from so many nodes is in a loop."""


class HopView(Struct, frozen=True, omit_defaults=True):
    """One hop."""

    node: str
    stage: str
    text: str
    rule: str = ""
    path: tuple[str, ...] = ()
    """Chains with rule numbers."""
    object: str = ""
    """What decided, as ``explain`` takes it."""
    owner: str = ""
    """Who wants that."""


class WayView(Struct, frozen=True, omit_defaults=True):
    """One way, and how the answer comes back."""

    verdict: str
    """``reaches``, ``reaches the node``, ``leaves the cluster``, ``denied``, ``refused``, ``lost``."""
    end: str
    """Who gets the packet, or what stops it."""
    hops: tuple[HopView, ...]
    back: tuple[HopView, ...] = ()
    endpoint: str = ""
    """``ADDRESS:PORT`` that ip_vs chose."""
    seen_as: str = ""
    """Source address that the end sees."""


class Trace(Struct, frozen=True, omit_defaults=True):
    """One packet of one family."""

    source: str
    destination: str
    protocol: str
    family: int
    start: str
    """Node where it is met first."""
    origin: str
    """``pod``, ``outside`` or ``node``."""
    packet: str
    """``10.1.1.3 -> 10.96.0.10:80``."""
    verdict: str
    """That of every way, or ``depends on the endpoint``."""
    ways: tuple[WayView, ...]
    doubts: tuple[str, ...] = ()
    """What could not be judged."""


class Traces(Struct, frozen=True):
    """Answer to /v1/trace."""

    node: str
    version: str
    traces: tuple[Trace, ...]


def trace(loop: Loop, source: str, destination: str, *, protocol: str = "", family: int = 0) -> Traces:
    """Return what becomes of a packet from ``source`` to ``destination``, of each family that both have.

    Errors: UnknownSubject says what is not known.
    """
    clients = ends_of(loop, source, protocol=protocol, client=True)
    servers = ends_of(loop, destination, protocol=protocol, client=False)
    found = [
        _trace(loop, source, destination, client, server)
        for server in servers
        for client in clients
        if client.family in {0, server.family} and family in {0, server.family}
    ]
    if not found:
        raise UnknownSubject(f"{source} and {destination} have no address of one family in common")
    return Traces(loop.config.node_name, __version__, tuple(found))


# --- the way ----------------------------------------------------------------------------------------------------------


def _trace(loop: Loop, source: str, destination: str, client: End, server: End) -> Trace:
    places = Map(loop)
    start = client.node or loop.host.name
    family = family_of(server.address)
    place = places.place(start, proxied=True)
    address = client.address or (server.address if server.address in place.local else place.own.get(family, ""))
    packet = Packet(address, server.address, server.protocol, server.port)
    ways = [
        whole
        for way in walk(place, replace(packet), origin=client.origin)
        for whole in _followed(places, loop, [(place, way)])
    ]
    views = tuple(_way(loop, places, client, server, legs) for legs in ways)
    verdicts = {view.verdict for view in views}
    shown = f"[{server.address}]" if family is Family.IPV6 else server.address
    return Trace(
        source,
        destination,
        server.protocol,
        int(family),
        start,
        client.origin,
        f"{address or 'an address of the node'} -> {shown}:{server.port}/{server.protocol}",
        verdicts.pop() if len(verdicts) == 1 else "depends on the endpoint",
        views,
        tuple(dict.fromkeys(one for legs in ways for _, way in legs for one in way.doubts)),
    )


_Legs = list[tuple[Place, Way]]


def _followed(places: Map, loop: Loop, legs: _Legs) -> Iterator[_Legs]:
    """Yield the legs of a packet, node after node, until it ends or leaves the cluster."""
    place, way = legs[-1]
    node = _node_at(loop, way.packet.destination) if way.fate is Fate.AWAY else ""
    if not node or node == place.node or len(legs) > _NODES:
        yield legs
        return
    pod = any(True for one in loop.store.pods.by("address", way.packet.destination) if not one.host_network)
    following = places.place(node, proxied=not pod)
    packet = replace(way.packet, mark=0, proxied=False, source_is_local=False, in_link="", out_link="")
    for onward in walk(following, packet, origin="outside"):
        yield from _followed(places, loop, [*legs, (following, onward)])


def _node_at(loop: Loop, address: str) -> str:
    """Return the node that holds a pod's or a node's address."""
    for pod in loop.store.pods.by("address", address):
        if not pod.finished:
            return str(pod.node)
    for node in loop.store.nodes.by("address", address):
        return str(node.ref.name)
    one = ip_address(address)
    for record in loop.store.nodes:
        for cidr in pod_cidrs_of(record):
            network = ip_network(cidr)
            if network.version == one.version and one in network:
                return str(record.ref.name)
    return ""


def _way(loop: Loop, places: Map, client: End, server: End, legs: _Legs) -> WayView:
    place, way = legs[-1]
    hops = tuple(_view(places, hop) for _, one in legs for hop in one.hops)
    verdict = _WORDS[way.fate]
    back: tuple[HopView, ...] = ()
    if way.fate in {Fate.POD, Fate.HOST, Fate.AWAY} and way.hops[-1].stage != LOOPBACK:
        answer = list(_back(client, server, legs))
        back = tuple(_view(places, hop) for hop, _ in answer)
        lost = next((fate for _, fate in answer if fate is not None), None)
        if lost is not None:
            verdict = "answer denied" if lost is Fate.DROPPED else "answer lost"
    real = next((one.real for _, one in legs if one.real is not None), None)
    endpoint = "" if real is None else str(real.key).rpartition(" -> ")[2]
    return WayView(verdict, _end_of(loop, place, way), hops, back, endpoint, way.packet.source)


def _end_of(loop: Loop, place: Place, way: Way) -> str:
    packet = way.packet
    shown = f"[{packet.destination}]" if ":" in packet.destination else packet.destination
    target = f"{shown}:{packet.port}"
    match way.fate:
        case Fate.POD:
            pod = next((one for one in loop.store.pods.by("address", packet.destination) if not one.finished), None)
            return (
                f"pod {pod.ref} on {place.node}, {target}" if pod else f"{target} on {place.node}, no pod that is known"
            )
        case Fate.HOST:
            return f"node {place.node}, {target}"
        case Fate.AWAY:
            return target
        case _:
            return way.hops[-1].text


def _view(places: Map, hop: Hop) -> HopView:
    named = f"{kind_of(hop.key)} {name_of(hop.key)}" if hop.key else ""
    return HopView(hop.node, hop.stage, hop.text, hop.rule, hop.path, named, places.owner(hop.node, hop.key))


# --- and back ---------------------------------------------------------------------------------------------------------


def _back(client: End, server: End, legs: _Legs) -> Iterator[tuple[Hop, Fate | None]]:
    """Yield the hops of the answer, each with the fate it meets there, if it ends there."""
    endpoint, seen = legs[-1][1].packet.destination, legs[-1][1].packet.source
    for at, (here, leg) in reversed(list(enumerate(legs))):
        asked = legs[at - 1][1].packet.source if at else client.address or server.address
        if leg.real is not None and leg.real.forward is not Forward.MASQUERADE:
            yield Hop(here.node, "ipvs", "nothing: the endpoint answers the client itself"), None
            continue
        answer = Packet(endpoint, asked if leg.masqueraded else seen, server.protocol, state="ESTABLISHED")
        yield _let_back(here, answer, hook=_hook_back(leg, own_client=at == 0 and client.origin == "node"))
        if leg.masqueraded:
            yield Hop(here.node, "conntrack", f"destination {seen} becomes {asked} again"), None
        if leg.real is not None and leg.server is not None:
            if leg.fate is Fate.AWAY and not leg.masqueraded and client.origin == "outside":
                text = "the answer goes past this node: the client gets it from a stranger"
                yield Hop(here.node, "ipvs", text), Fate.LOST
            else:
                yield Hop(here.node, "ipvs", f"source becomes {_shown(server)} again", key=leg.server.key), None
        seen = asked


def _hook_back(leg: Way, *, own_client: bool) -> str:
    return "OUTPUT" if leg.fate is Fate.HOST else "INPUT" if own_client else "FORWARD"


def _let_back(place: Place, answer: Packet, *, hook: str) -> tuple[Hop, Fate | None]:
    """Return what a node's filter does with an answer."""
    answer.source_is_local = hook == "OUTPUT"
    verdict = judge(place.world, answer, Table.FILTER, hook)
    last = verdict.path[-1].rule if verdict.met else None
    text = (verdict.target or "passes") + (f": {last.reason}" if last and last.reason else "")
    rule = " ".join((*last.match, "-j", *last.target)) if last else ""
    path = tuple(f"{one.chain}[{one.number}]" for one in verdict.path)
    fate = Fate.DROPPED if verdict.target in {"DROP", "REJECT"} else None
    return Hop(place.node, f"{hook} filter", text, rule, None, path), fate


def _shown(server: End) -> str:
    host = f"[{server.address}]" if ":" in server.address else server.address
    return f"{host}:{server.port}"
