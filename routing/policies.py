"""What may pass a session: one function a direction, everything not accepted is rejected.

Export::

    own pod CIDRs                 to nodes
    pod CIDRs of other nodes      to nodes, by a route reflector
    VIPs (hosts in their ranges)  to external neighbors
    own pod CIDRs                 to external neighbors, with --advertise-pod-cidr

Import::

    what we originate             (GoBGP judges our own paths, too)
    default routes, parts of our own pod CIDRs, of the Services' ranges, of the host's subnets, of what annotation
    node.bgp.customimportreject names: rejected, from anyone
    anything else                 from nodes
    nodes, and their pod CIDRs: rejected, from external neighbors
    --peer-import-cidrs           from external neighbors

Only paths we originate leave, but for those that a reflector was told by nodes: a node is never a way for the traffic of
somebody outside. Paths to external neighbors carry this node's communities and prepends.

An empty set of neighbors or prefixes would match *everything* in GoBGP (it once sent pod CIDRs to the wrong neighbors,
kube-router.md 6.4 row 16): such a statement is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kuberouterpy.config import Config
from kuberouterpy.dataplane import PolicyStatement, PrefixMatch, RoutePolicy, RoutePolicyKey
from kuberouterpy.family import FAMILIES, family_of
from kuberouterpy.host import Host, pod_cidrs_of
from kuberouterpy.store import Store
from routing import externals, neighbors, paths
from routing.prefixes import host_prefix, length


def export_policy(store: Store, host: Host, config: Config) -> RoutePolicy:
    """Return what this node tells to whom."""
    pods = _matches(host.pod_cidrs, exact=True)
    vips = tuple(
        sorted(
            PrefixMatch(one, family_of(one).host_prefix, family_of(one).host_prefix) for one in paths.vip_ranges(config)
        )
    )
    nodes, external = _nodes(store, host, config), _external(store, host, config)
    own = [PolicyStatement(accept=True, neighbors=nodes, prefixes=pods, originated_here=True)]
    if host.bgp.reflector:
        others = _matches(_pods_of_others(store, host), exact=True)
        own.append(PolicyStatement(accept=True, neighbors=nodes, prefixes=others, learned_inside=True))
    prepend = host.bgp.prepend
    outside = [vips, pods] if config.advertise_pod_cidr else [vips]
    own += [
        PolicyStatement(
            accept=True,
            neighbors=external,
            prefixes=prefixes,
            communities=host.bgp.communities,
            prepend_asn=prepend.asn if prepend else 0,
            prepend_count=prepend.count if prepend else 0,
            next_hop_self=config.override_nexthop,
            originated_here=True,
        )
        for prefixes in outside
    ]
    return RoutePolicy(RoutePolicyKey("export"), tuple(_meaningful(own)))


def import_policy(store: Store, host: Host, config: Config) -> RoutePolicy:
    """Return what this node believes of whom."""
    defaults = tuple(PrefixMatch(family.everything, 0, 0) for family in FAMILIES)
    subnets = (subnet.prefix for subnet in host.subnets)
    ours = _matches((*host.pod_cidrs, *_service_ranges(config), *subnets, *host.bgp.import_reject), exact=False)
    external = _external(store, host, config) if config.peer_import_cidrs else ()
    inside = _matches((*_pods_of_others(store, host), *_addresses_of_others(store, host)), exact=False)
    statements = (
        PolicyStatement(accept=True, originated_here=True),
        PolicyStatement(accept=False, prefixes=defaults),
        PolicyStatement(accept=False, prefixes=ours),
        PolicyStatement(accept=True, neighbors=_nodes(store, host, config)),
        PolicyStatement(accept=False, neighbors=external, prefixes=inside),
        PolicyStatement(accept=True, neighbors=external, prefixes=_matches(config.peer_import_cidrs, exact=False)),
    )
    return RoutePolicy(RoutePolicyKey("import"), tuple(_meaningful(statements)))


def _service_ranges(config: Config) -> tuple[str, ...]:
    return (*config.service_cluster_ip_range, *config.service_external_ip_range, *config.loadbalancer_ip_range)


def _nodes(store: Store, host: Host, config: Config) -> tuple[str, ...]:
    return tuple(host_prefix(one) for one in neighbors.of_nodes(store, host, config))


def _external(store: Store, host: Host, config: Config) -> tuple[str, ...]:
    return tuple(host_prefix(one) for one in externals.addresses(store, host, config))


def _pods_of_others(store: Store, host: Host) -> Iterator[str]:
    for node in store.nodes:
        if node.ref.name != host.name:
            yield from pod_cidrs_of(node)


def _addresses_of_others(store: Store, host: Host) -> Iterator[str]:
    for node in store.nodes:
        if node.ref.name != host.name:
            yield from (host_prefix(one.address) for one in node.addresses)


def _matches(prefixes: Iterable[str], *, exact: bool) -> tuple[PrefixMatch, ...]:
    """Return matches for prefixes themselves, and for every part of them unless ``exact``."""
    unique = dict.fromkeys(prefixes)
    return tuple(
        sorted(PrefixMatch(one, length(one), length(one) if exact else family_of(one).host_prefix) for one in unique)
    )


def _meaningful(statements: Iterable[PolicyStatement]) -> Iterator[PolicyStatement]:
    return (one for one in statements if one.neighbors != () and one.prefixes != ())
