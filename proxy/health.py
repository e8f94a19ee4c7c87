"""Health-check node ports: which Services have one, how many endpoints of this node count, and who may ask.

Only Services of type LoadBalancer with externalTrafficPolicy Local have one (services.md 1H): their load balancer must know
which nodes have endpoints. Terminating endpoints do not count, so a node whose endpoints all terminate is taken out of rotation
while it still serves those who come (KEP-1669).

The port stands on all addresses of the node; on VIPs the chain KUBE-ROUTER-SERVICES refuses it, because it is no port of
theirs. A node whose own firewall drops by default must let it in: one static rule over a set, on node addresses only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kuberouterpy.cluster import Service, ServiceType, TrafficPolicy
from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    Entry,
    EntryKey,
    HealthCheck,
    HealthCheckKey,
    Jump,
    JumpKey,
    Object,
    Rule,
    Set,
    SetKey,
    Table,
)
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import Host
from proxy.endpoints import Categories
from proxy.masquerade import set_name

CHAIN: Final = "KUBE-ROUTER-HEALTH"
CHAINS: Final = frozenset({CHAIN})
_PORTS: Final = "kube-router-health"
SETS: Final = frozenset(set_name(_PORTS, family) for family in Family)


def base(host: Host) -> Iterator[Object]:
    """Yield the sets, chains and jumps every Service shares."""
    for family in host.families:
        name = set_name(_PORTS, family)
        yield Set(SetKey(name), family, "hash:ip,port")
        accept = Rule(("-m", "set", "--match-set", name, "dst,dst"), ("ACCEPT",), "load balancers may ask")
        yield Chain(ChainKey(family, Table.FILTER, CHAIN), (accept,))
        jump = Rule(("-p", "tcp"), (CHAIN,), "health-check node ports")
        yield Jump(JumpKey(family, Table.FILTER, "INPUT", CHAIN), jump)


def check(service: Service, categories: Iterable[Categories], host: Host) -> Iterator[Object]:
    """Yield the health-check node port of a Service, if it has one, and who may ask.

    The count is of addresses, not of address and port; on dual stack that of the family with more.
    """
    if (
        service.type is not ServiceType.LOAD_BALANCER
        or service.external_policy is not TrafficPolicy.LOCAL
        or not service.health_check_node_port
    ):
        return
    port = service.health_check_node_port
    ready = {
        one.address
        for found in categories
        for one in found.all
        if one.endpoint.ready and one.endpoint.node == host.name
    }
    count = max(sum(family_of(address) is family for address in ready) for family in Family)
    yield HealthCheck(HealthCheckKey(port), service.ref.namespace, service.ref.name, count)
    for address in host.node_addresses:
        key = EntryKey(set_name(_PORTS, family_of(address)), f"{address},tcp:{port}")
        yield Entry(key, comment=str(service.ref))
