"""Which endpoints serve: tiers, topology and traffic policy, as pure functions of the slices.

The tiers are those of Kubernetes' own proxy (``pkg/proxy/topology.go: CategorizeEndpoints``; KEP-1669 terminating endpoints,
KEP-2433 hints): ready endpoints, and only where there is none, those that are serving and terminating. Tiers never mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from kuberouterpy.cluster import Endpoint, EndpointSlice, ServicePort, TrafficPolicy
from kuberouterpy.family import Family
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol


class Backend(Struct, frozen=True):
    """One endpoint of one service port: an address with the port number its slice gives."""

    address: str
    port: int
    endpoint: Endpoint


class Categories(Struct, frozen=True):
    """The endpoints of one service port on this host, one family, each in slice order."""

    cluster: tuple[Backend, ...] = ()
    """Serve where the policy is Cluster."""
    local: tuple[Backend, ...] = ()
    """Serve where the policy is Local."""
    any: bool = False
    """Some endpoint somewhere would answer: an empty set then means *not here* rather than *nowhere*."""
    all: tuple[Backend, ...] = ()
    """Every endpoint in the slices, whatever its state."""


def backends(slices: Iterable[EndpointSlice], port: ServicePort, family: Family) -> tuple[Backend, ...]:
    """Return the endpoints of one service port, each (address, port) once, sorted.

    Ports match by name and protocol. During a migration between slices an endpoint stands in two of them: the more
    able of the two states counts, so that neither order of events takes it away for a moment.
    """
    found: dict[tuple[str, int], Endpoint] = {}
    for one in slices:
        if one.family is not family:
            continue
        for number in (item.port for item in one.ports if item.name == port.name and item.protocol is port.protocol):
            for endpoint in one.endpoints:
                known = found.get((endpoint.address, number))
                if known is None or _ability(endpoint) > _ability(known):
                    found[endpoint.address, number] = endpoint
    return tuple(Backend(address, number, endpoint) for (address, number), endpoint in sorted(found.items()))


def categorize(found: Sequence[Backend], host: Host) -> Categories:
    """Return which of ``found`` serve under each traffic policy.

    Topology hints narrow the ready tier of the Cluster set only; Local ignores them, and so do terminating endpoints.
    Source: services.md 0.4.
    """
    ready = [one for one in found if one.endpoint.ready]
    draining = [one for one in found if one.endpoint.serving and one.endpoint.terminating and not one.endpoint.ready]
    local_ready = [one for one in ready if one.endpoint.node == host.name]
    local_draining = [one for one in draining if one.endpoint.node == host.name]
    return Categories(
        cluster=tuple(_nearby(ready, host) or draining),
        local=tuple(local_ready or local_draining),
        any=bool(ready or draining),
        all=tuple(found),
    )


def weigh(
    categories: Categories, *, policy: TrafficPolicy, protocol: Protocol, host: Host
) -> tuple[tuple[Backend, int], ...]:
    """Return the backends this host programs under a policy, each with its IPVS weight, in order.

    Weight 1 takes connections. Weight 0 drains: a TCP endpoint that is still in its slice but no longer serves new
    connections keeps the established ones; when it leaves the slice it is deleted. UDP and SCTP are deleted at once,
    because weight 0 pins a steady UDP flow to a dead server for ever (services.md V4).
    Shapes: one family per call; each (address, port) once.
    Units:  weight is the IPVS weight, 0 or 1.
    Errors: never raises; an empty result is a decision, noted by proxy.services.
    """
    chosen = categories.local if policy is TrafficPolicy.LOCAL else categories.cluster
    serving = {(one.address, one.port) for one in chosen}
    weighed = [(one, 1) for one in chosen]
    if protocol is Protocol.TCP:
        weighed += [
            (one, 0)
            for one in categories.all
            if (one.address, one.port) not in serving
            and not one.endpoint.ready
            and (policy is TrafficPolicy.CLUSTER or one.endpoint.node == host.name)
        ]
    return tuple(sorted(weighed, key=lambda pair: (pair[0].address, pair[0].port)))


def _nearby(ready: list[Backend], host: Host) -> list[Backend]:
    """Return the ready endpoints that topology hints allow here; one endpoint without a hint turns the filter off."""
    if ready and all(one.endpoint.for_nodes for one in ready):
        same_node = [one for one in ready if host.name in one.endpoint.for_nodes]
        if same_node:
            return same_node
    if ready and host.zone and all(one.endpoint.for_zones for one in ready):
        same_zone = [one for one in ready if host.zone in one.endpoint.for_zones]
        if same_zone:
            return same_zone
    return ready


def _ability(endpoint: Endpoint) -> tuple[object, ...]:
    """Rank two states of one endpoint; the tail only makes the choice independent of the order slices arrived in."""
    return (
        endpoint.ready,
        endpoint.serving,
        endpoint.node or "",
        not endpoint.terminating,
        sorted(endpoint.for_nodes),
        sorted(endpoint.for_zones),
        str(endpoint.pod),
    )
