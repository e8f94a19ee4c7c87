"""A trace against this kernel: the same walk over the rules, sets, servers and routes that stand here, foreign ones too.

What the agents want decides the trace; where the kernel would do something else, the first hop that differs is a MISMATCH.
Beside it stand the connections of these two ends that IPVS and conntrack hold now.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Final

from kuberouterpy.answers.subjects import read_socket
from kuberouterpy.answers.traced import HopView, Trace, WayView
from kuberouterpy.cli import standing
from kuberouterpy.dataplane import RealServer, VirtualServer
from kuberouterpy.drivers import command, ipvs_connections, ipvs_table
from kuberouterpy.drivers.routes import RoutesDriver
from kuberouterpy.errors import DriverError
from kuberouterpy.family import Family
from kuberouterpy.host import BRIDGE_LINK, DUMMY_LINK
from kuberouterpy.offline import links_here
from kuberouterpy.tracing import Hop, Packet, Place, Way, World, walk

_MOST: Final = 5
"""Connections shown of each kind."""


def compare(trace: Trace, node: str) -> Iterator[str]:
    """Yield what differs in this kernel, or that nothing does, then the connections there are. Errors: DriverError."""
    if trace.start != node:
        yield f"live: {trace.start} is another node; run this there"
        return
    packet = _packet(trace)
    with_kernel = {_endpoint(way): way for way in walk(_place(), packet, origin=trace.origin)}
    differences = [line for way in trace.ways for line in _differences(way, with_kernel.get(way.endpoint), node)]
    wanted = {way.endpoint for way in trace.ways}
    differences += [
        f"MISMATCH  ipvs: {one or 'no endpoint'} is chosen here, and nobody wants it"
        for one in with_kernel
        if one not in wanted
    ]
    yield from dict.fromkeys(differences) or (f"live: this kernel does the same, {len(with_kernel)} ways",)
    yield from _connections(packet)


def _packet(trace: Trace) -> Packet:
    source, _, target = trace.packet.partition(" -> ")
    address, port, _ = read_socket(target.rpartition("/")[0])
    return Packet(source, address, trace.protocol, port)


def _endpoint(way: Way) -> str:
    return "" if way.real is None else str(way.real.key).rpartition(" -> ")[2]


def _differences(wanted: WayView, stands: Way | None, node: str) -> Iterator[str]:
    """Yield the first hop on this node that differs."""
    if stands is None:
        why = "no virtual server, no real server, or weight 0"
        yield f"MISMATCH  ipvs: {wanted.endpoint or 'the packet'} is never chosen here: {why}"
        return
    here = [hop for hop in wanted.hops if hop.node == node]
    for index in range(max(len(here), len(stands.hops))):
        one = here[index] if index < len(here) else None
        other = stands.hops[index] if index < len(stands.hops) else None
        if one is not None and other is not None and _sign(one) == _sign(other):
            continue
        if one is not None and index and here[index - 1].stage == "route" and other is None:
            return  # the packet comes back to this node from another
        place = one.stage if one else other.stage if other else ""
        yield f"MISMATCH  {place}: wanted: {_told(one)}; stands: {_told(other)}"
        return


def _sign(hop: HopView | Hop) -> tuple[str, ...]:
    """Return what must agree: the hook, and what is done there, not the words about it."""
    if hop.stage == "ipvs":
        return (hop.stage, hop.text)
    if hop.stage == "route":
        return (hop.stage, hop.text if hop.text.startswith("route ") else "")
    return (hop.stage, hop.text.partition(":")[0].split(" ")[0])


def _told(hop: HopView | Hop | None) -> str:
    if hop is None:
        return "nothing"
    where = f" by {hop.path[-1]}" if hop.path else ""
    return f"{hop.stage} {hop.text}{where}"


# --- this kernel ------------------------------------------------------------------------------------------------------


def _place() -> Place:
    objects = list(standing.sets())
    for server in ipvs_table.read().servers:
        objects.append(VirtualServer(server.key, server.scheduler, server.flags))
        objects += [RealServer(real.key, real.weight, real.forward) for real in server.reals]
    routes = RoutesDriver()
    try:
        objects += routes.list().values()
    finally:
        routes.close()
    links = links_here()
    held = {link.name: [ip_interface(one) for one in link.addresses] for link in links}
    real = [name for name in held if name != "lo" and not name.startswith(("kube-", "tun-")) and held[name]]
    own = {Family(one.version): str(one.ip) for name in reversed(real) for one in reversed(held[name])}
    return Place(
        node="",
        world=World(objects, *standing.chains()),
        local=frozenset(str(one.ip) for addresses in held.values() for one in addresses) | {"127.0.0.1", "::1"},
        own=own,
        pod_cidrs=tuple(str(one.network) for one in held.get(BRIDGE_LINK, ())),
        elsewhere={},
        routed=False,
        uplink=real[0] if real else "the uplink",
        subnets=tuple(str(one.network) for name in real if name != DUMMY_LINK for one in held[name]),
    )


# --- connections ------------------------------------------------------------------------------------------------------


def _connections(packet: Packet) -> Iterator[str]:
    found = [
        one
        for one in ipvs_connections.connections()
        if (one.client, one.address, one.port) == (packet.source, packet.destination, packet.port)
    ]
    for one in found[:_MOST]:
        state = f"{one.state} {one.expires_s}s"
        yield f"live: IPVS connection from port {one.client_port} to {one.real_address} port {one.real_port} {state}"
    if not shutil.which("conntrack"):
        return
    arguments = ["-s", packet.source, "-d", packet.destination, "-p", packet.protocol]
    try:
        text = command.demand(["conntrack", "-L", "-f", f"ipv{packet.family:d}", *arguments])
    except DriverError:
        return
    lines = [line for line in text.splitlines() if f"dport={packet.port} " in line]
    yield from (f"live: conntrack {' '.join(line.split())}" for line in lines[:_MOST])
