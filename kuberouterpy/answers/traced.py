"""Traces: where one packet goes, node by node, and how the answer comes back.

What this node wants is its Tracker's; what another node wants is computed from the same facts by the same controllers, so a
trace follows a packet to the node where the endpoint's policy is judged. Verdicts come from the objects
(:mod:`kuberouterpy.tracing`), never from a second reading of Services or policies.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kuberouterpy import __version__
from kuberouterpy.answers.subjects import ALIASES, UnknownSubject, read_socket
from kuberouterpy.cluster import Node, Pod, Ref, Service
from kuberouterpy.dataplane import KINDS, Key, Object, Table
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import Host, Subnet, addresses_of, describe, pod_cidrs_of
from kuberouterpy.loop import Loop
from kuberouterpy.text import kind_of, name_of
from kuberouterpy.tracing import Fate, Hop, Packet, Place, Way, World, walk
from kuberouterpy.tracing.rules import judge
from kuberouterpy.tracker import Tracker

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
    clients = _ends(loop, source, protocol=protocol, client=True)
    servers = _ends(loop, destination, protocol=protocol, client=False)
    found = [
        _trace(loop, source, destination, client, server)
        for server in servers
        for client in clients
        if client.family in {0, server.family} and family in {0, server.family}
    ]
    if not found:
        raise UnknownSubject(f"{source} and {destination} have no address of one family in common")
    return Traces(loop.config.node_name, __version__, tuple(found))


# --- both ends --------------------------------------------------------------------------------------------------------


class _End(Struct, frozen=True):
    """An end of a packet."""

    address: str
    """Empty: the kernel chooses it."""
    node: str
    """Where it is; empty: outside, met first on this node."""
    origin: str = "outside"
    port: int = 0
    protocol: str = "tcp"

    @property
    def family(self) -> int:
        """IP version; 0: any."""
        return family_of(self.address) if self.address else 0


def _ends(loop: Loop, text: str, *, protocol: str, client: bool) -> list[_End]:
    word, slash, rest = text.partition("/")
    kind = ALIASES.get(word.lower(), word.lower())
    name, port, spoken = _port_of(rest if slash else "")
    if kind == "pod" and slash:
        return _pod_ends(loop, name, port=port, protocol=protocol or spoken, client=client)
    if kind == "service" and slash and not client:
        return list(_service_ends(loop, name, port=port, protocol=protocol or spoken))
    if kind == "node" and client:
        return [_End("", rest or loop.host.name, "node")]
    if kind == "node":
        record = _node(loop, name)
        return [
            _End(one, record.ref.name, "node", _numbered(port), protocol or spoken or "tcp")
            for one in addresses_of(record)
        ]
    address, number, spoken = read_socket(text)
    if not address:
        hint = (
            "pod/NAMESPACE/NAME, node, an address"
            if client
            else "service/NAMESPACE/NAME:PORT, pod/...:PORT, ADDRESS:PORT"
        )
        raise UnknownSubject(f"{text} is no {'source' if client else 'destination'}; write {hint}")
    if not client and not number:
        raise UnknownSubject(f"{text}: to which port? write {address if ':' not in address else f'[{address}]'}:80")
    holder = next(iter(loop.store.pods.by("address", address)), None)
    if holder is not None and not holder.host_network:
        return [_End(address, holder.node, "pod", number, protocol or spoken or "tcp")]
    return [_End(address, "", "outside", number, protocol or spoken or "tcp")]


def _port_of(text: str) -> tuple[str, str, str]:
    """Return name, port and protocol of ``default/web:80/udp``."""
    name, _, port = text.partition(":")
    port, _, protocol = port.partition("/")
    return name, port, protocol.lower()


def _numbered(port: str) -> int:
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UnknownSubject(f"{port or 'no port'} is no port number; write ...:80")
    return int(port)


def _ref(name: str) -> Ref:
    namespace, slash, short = name.partition("/")
    return Ref(namespace, short) if slash else Ref("default", namespace)


def _near(name: str, known: Iterable[Ref]) -> str:
    """Return a hint with the name that comes nearest, or an empty string."""
    names = [str(ref) if ref.namespace else ref.name for ref in known]
    wanted = str(_ref(name)) if names and "/" in names[0] else name
    found = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def _pod_ends(loop: Loop, name: str, *, port: str, protocol: str, client: bool) -> list[_End]:
    pod: Pod | None = loop.store.pods.get(_ref(name))
    if pod is None:
        raise UnknownSubject(f"no pod {_ref(name)} is known{_near(name, loop.store.pods.refs())}")
    if not pod.addresses:
        raise UnknownSubject(f"pod {pod.ref} has no address yet")
    number = 0 if client else _numbered(port)
    origin = "node" if pod.host_network else "pod"
    return [
        _End("" if client and pod.host_network else one, pod.node, origin, number, protocol or "tcp")
        for one in pod.addresses
    ]


def _service_ends(loop: Loop, name: str, *, port: str, protocol: str) -> Iterator[_End]:
    service: Service | None = loop.store.services.get(_ref(name))
    if service is None:
        raise UnknownSubject(f"no Service {_ref(name)} is known{_near(name, loop.store.services.refs())}")
    ports = [
        one for one in service.ports if port in {"", one.name, str(one.port)} and protocol in {"", str(one.protocol)}
    ]
    if not ports:
        told = ", ".join(f"{one.name or one.port} ({one.port}/{one.protocol})" for one in service.ports)
        raise UnknownSubject(
            f"Service {service.ref} has no port {port}{f' of {protocol}' if protocol else ''}; it has {told}"
        )
    if not service.cluster_ips:
        raise UnknownSubject(f"Service {service.ref} has no cluster IP: clients find its pods by name")
    for address in service.cluster_ips:
        yield _End(address, "", "service", ports[0].port, str(ports[0].protocol))


def _node(loop: Loop, name: str) -> Node:
    record: Node | None = loop.store.nodes.get(Ref("", name or loop.host.name))
    if record is None:
        raise UnknownSubject(f"no Node {name} is known{_near(name, loop.store.nodes.refs())}")
    return record


# --- places -----------------------------------------------------------------------------------------------------------


class _Map:
    """Every node as a place, made when it is met; and who wants what there."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._places: dict[tuple[str, bool], tuple[Place, Tracker]] = {}

    def place(self, node: str, *, proxied: bool) -> Place:
        return self._known(node, proxied=proxied)[0]

    def owner(self, node: str, key: Key | None) -> str:
        if key is None:
            return ""
        for (name, _), (_, tracker) in self._places.items():
            if name == node and (told := tracker.explain(key).wanted_by):
                return str(told[0][0])
        return ""

    def _known(self, node: str, *, proxied: bool) -> tuple[Place, Tracker]:
        known = self._places.get((node, proxied))
        if known is None:
            loop = self._loop
            if node == loop.host.name:
                known = _place(loop, loop.host, loop.tracker), loop.tracker
            else:
                host = _host_of(loop, node)
                tracker = _wanted_on(loop, host, proxied=proxied)
                known = _place(loop, host, tracker), tracker
            self._places[node, proxied] = known
        return known


def _host_of(loop: Loop, node: str) -> Host:
    """Return another node as its own agent would see it, as far as its Node says: links are not known here."""
    host = describe(loop.store, replace(loop.config, node_name=node))
    subnets = tuple(
        Subnet(subnet.prefix, address, "its uplink")
        for address in host.node_addresses
        if (subnet := loop.host.on_link(address)) is not None
    )
    return replace(host, subnets=subnets)


def _wanted_on(loop: Loop, host: Host, *, proxied: bool) -> Tracker:
    """Return what another node's agent wants; without ``proxied`` no virtual servers, which a packet to a pod never meets."""
    config = replace(loop.config, node_name=host.name)
    tracker = Tracker((KINDS,))
    for controller in loop.controllers.values():
        if controller.name == "proxy" and not proxied:
            continue
        for owner in controller.owners(loop.store, host, config):
            tracker.replace(owner, controller.desired(owner, loop.store, host, config).objects)
    return tracker


def _place(loop: Loop, host: Host, tracker: Tracker) -> Place:
    objects: Iterable[Object] = tracker.wanted_of(KINDS)
    world = World(objects)
    here = host.name == loop.host.name
    others = {
        cidr: record.ref.name
        for record in loop.store.nodes
        if record.ref.name != host.name
        for cidr in pod_cidrs_of(record)
    }
    gateways = {str(next(_hosts(cidr))) for cidr in host.pod_cidrs}
    return Place(
        node=host.name,
        world=world,
        local=frozenset({*host.node_addresses, *host.addresses, *world.addresses, *gateways, "127.0.0.1", "::1"}),
        own={family: host.primary(family) for family in host.families},
        pod_cidrs=host.pod_cidrs,
        elsewhere=others,
        routed=here and "routing" in loop.controllers and len(loop.store.paths) > 0,
        uplink=host.subnets[0].link if host.subnets else "the uplink",
        subnets=tuple(subnet.prefix for subnet in host.subnets),
    )


def _hosts(cidr: str) -> Iterator[str]:
    base, _, _ = cidr.partition("/")
    yield str(ip_address(base) + 1)


# --- the way ----------------------------------------------------------------------------------------------------------


def _trace(loop: Loop, source: str, destination: str, client: _End, server: _End) -> Trace:
    places = _Map(loop)
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


def _followed(places: _Map, loop: Loop, legs: _Legs) -> Iterator[_Legs]:
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


def _way(loop: Loop, places: _Map, client: _End, server: _End, legs: _Legs) -> WayView:
    place, way = legs[-1]
    hops = tuple(_view(places, hop) for _, one in legs for hop in one.hops)
    verdict = _WORDS[way.fate]
    back: tuple[HopView, ...] = ()
    if way.fate in {Fate.POD, Fate.HOST, Fate.AWAY}:
        answer = list(_back(loop, client, server, legs))
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


def _view(places: _Map, hop: Hop) -> HopView:
    named = f"{kind_of(hop.key)} {name_of(hop.key)}" if hop.key else ""
    return HopView(hop.node, hop.stage, hop.text, hop.rule, hop.path, named, places.owner(hop.node, hop.key))


# --- and back ---------------------------------------------------------------------------------------------------------


def _back(loop: Loop, client: _End, server: _End, legs: _Legs) -> Iterator[tuple[Hop, Fate | None]]:
    """Yield the hops of the answer, each with the fate it meets there, if it ends there."""
    way = legs[-1][1]
    seen = way.packet.source
    for at, (here, leg) in reversed(list(enumerate(legs))):
        asked = legs[at - 1][1].packet.source if at else client.address or server.address
        client_here = at == 0 and client.origin == "node"
        ends_here = leg.fate is Fate.HOST
        answer = Packet(way.packet.destination, asked if leg.masqueraded else seen, server.protocol, 0, "ESTABLISHED")
        hook = "OUTPUT" if ends_here else "INPUT" if client_here else "FORWARD"
        answer.source_is_local = ends_here
        if leg.fate is not Fate.AWAY or at == 0 or leg.masqueraded or leg.real is not None:
            verdict = judge(here.world, answer, Table.FILTER, hook)
            last = verdict.path[-1] if verdict.met else None
            dropped = verdict.target in {"DROP", "REJECT"}
            text = f"{verdict.target or 'passes'}{f': {last.rule.reason}' if last and last.rule.reason else ''}"
            rule = " ".join((*last.rule.match, "-j", *last.rule.target)) if last else ""
            path = tuple(f"{one.chain}[{one.number}]" for one in verdict.path)
            yield Hop(here.node, f"{hook} filter", text, rule, None, path), Fate.DROPPED if dropped else None
        if leg.masqueraded:
            yield Hop(here.node, "conntrack", f"destination {seen} becomes {asked} again"), None
        if leg.real is not None and leg.server is not None:
            if leg.fate is Fate.AWAY and not leg.masqueraded and client.origin == "outside":
                yield (
                    Hop(here.node, "ipvs", "the answer goes past this node: the client gets it from a stranger"),
                    Fate.LOST,
                )
            else:
                yield Hop(here.node, "ipvs", f"source becomes {_shown(server)} again", key=leg.server.key), None
        seen = asked


def _shown(server: _End) -> str:
    host = f"[{server.address}]" if ":" in server.address else server.address
    return f"{host}:{server.port}"
