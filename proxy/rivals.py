"""Who else has a right to an address: other nodes to their own, and Services that come first to a contested one.

Two Services may name one external or load-balancer address. On different ports both are served. On one port the Service whose
namespace and name come first has it, on every node the same one; the other listens everywhere else and has a note. The address
of another node is left to that node, or this one could no longer reach it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from kuberouterpy.cluster import Node, Record, Ref, Service
from kuberouterpy.host import Host, addresses_of
from kuberouterpy.store import Store


class Rivals(Struct, frozen=True):
    """What others hold of the addresses a Service names."""

    services: tuple[Service, ...] = ()
    """Services that come before and share an address or a node port, sorted."""
    nodes: dict[str, str] = {}
    """Names of the other nodes whose addresses the Service names, by address."""


NONE: Final = Rivals()


def rivals_of(service: Service, store: Store, host: Host) -> Rivals:
    """Return who stands before a Service."""
    before = {one.ref: one for one in _sharing(service, store) if one.ref < service.ref}
    nodes = {
        address: node.ref.name
        for address in _addresses(service)
        for node in sorted(store.nodes.by("address", address), key=lambda node: node.ref)
        if node.ref.name != host.name
    }
    return Rivals(tuple(before[ref] for ref in sorted(before)), nodes)


def concerned(record: Record | None, store: Store) -> Iterator[Ref]:
    """Yield the Services whose rivals may be others since ``record`` came or went."""
    match record:
        case Service():
            yield from (one.ref for one in _sharing(record, store))
        case Node():
            for address in addresses_of(record):
                yield from (one.ref for one in store.services.by("address", address))


def _sharing(service: Service, store: Store) -> Iterator[Service]:
    for address in _addresses(service):
        yield from store.services.by("address", address)
    for port in service.ports:
        if port.node_port:
            yield from store.services.by("node_port", port.node_port)


def _addresses(service: Service) -> Iterable[str]:
    return (*service.cluster_ips, *service.external_ips, *(one.address for one in service.load_balancer))
