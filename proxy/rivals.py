"""Who else has a right to an address: other nodes to their own, and Services that come first to a contested one.

Two Services may name one external or load-balancer address. On different ports both are served. On one port the Service that
was created first has it, on every node and after every restart the same one; the other listens everywhere else and has a note.
The address of another node is left to that node, or this one could no longer reach it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from kuberouterpy.cluster import Node, Record, Ref, Service
from kuberouterpy.host import Host, addresses_of
from kuberouterpy.store import Store
from proxy import dsr


class Rivals(Struct, frozen=True):
    """What others hold of the addresses a Service names."""

    services: tuple[Service, ...] = ()
    """Services that were created before and share an address or a node port, oldest first."""
    nodes: dict[str, str] = {}
    """Names of the other nodes whose addresses the Service names, by address."""
    plain: frozenset[str] = frozenset()
    """Addresses that another Service names as well, which does not ask for direct server return."""
    hosts: frozenset[str] = frozenset()
    """Endpoints that are addresses of nodes; looked for where direct server return is asked for only."""


NONE: Final = Rivals()


def rivals_of(service: Service, store: Store, host: Host) -> Rivals:
    """Return who stands before a Service."""
    others = {one.ref: one for one in _sharing(service, store) if one.ref != service.ref}
    before = [one for one in others.values() if _seniority(one) < _seniority(service)]
    nodes = {
        address: node.ref.name
        for address in _addresses(service)
        for node in sorted(store.nodes.by("address", address), key=lambda node: node.ref)
        if node.ref.name != host.name
    }
    own = set(_addresses(service))
    plain = (address for one in others.values() if not dsr.asks(one) for address in _addresses(one))
    return Rivals(
        tuple(sorted(before, key=_seniority)),
        nodes,
        frozenset(own.intersection(plain)),
        frozenset(_hosts(service, store)) if dsr.asks(service) else frozenset(),
    )


def concerned(record: Record | None, store: Store) -> Iterator[Ref]:
    """Yield the Services whose rivals may be others since ``record`` came or went."""
    match record:
        case Service():
            yield from (one.ref for one in _sharing(record, store))
        case Node():
            for address in addresses_of(record):
                yield from (one.ref for one in store.services.by("address", address))
            # Their endpoints may be on a node's own addresses. Such Services are few.
            yield from (one.ref for one in store.services.by("annotation", dsr.ANNOTATION))


def _sharing(service: Service, store: Store) -> Iterator[Service]:
    for address in _addresses(service):
        yield from store.services.by("address", address)
    for port in service.ports:
        if port.node_port:
            yield from store.services.by("node_port", port.node_port)


def _seniority(service: Service) -> tuple[str, Ref]:
    """Return what is smaller for who came first; among those of one second the name decides."""
    return service.created, service.ref


def _hosts(service: Service, store: Store) -> Iterator[str]:
    for one in store.slices_of(service.ref):
        for endpoint in one.endpoints:
            if store.nodes.count("address", endpoint.address):
                yield endpoint.address


def _addresses(service: Service) -> Iterable[str]:
    return (*service.cluster_ips, *service.external_ips, *(one.address for one in service.load_balancer))
