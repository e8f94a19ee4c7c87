"""The nodes of a trace: each as a place with what its agent wants, this one's from the Tracker, others' computed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from msgspec.structs import replace

from kuberouterpy.dataplane import KINDS, Key, Object
from kuberouterpy.host import Host, Subnet, describe, pod_cidrs_of
from kuberouterpy.loop import Loop
from kuberouterpy.tracing import Place, World
from kuberouterpy.tracker import Tracker


class Map:
    """Every node as a place, made when it is met; and who wants what there."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._places: dict[tuple[str, bool], tuple[Place, Tracker]] = {}

    def place(self, node: str, *, proxied: bool) -> Place:
        """Return a node; ``proxied``: with its virtual servers, which a packet to a pod never meets."""
        return self._known(node, proxied=proxied)[0]

    def owner(self, node: str, key: Key | None) -> str:
        """Return who wants an object there; empty where nobody does."""
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
