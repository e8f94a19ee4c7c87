"""The service proxy as a controller: one owner per Service, one for what all share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kuberouterpy import sysctls
from kuberouterpy.cluster import EndpointSlice, Node, Ref, Service
from kuberouterpy.cluster import Link as LinkRecord
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller, Desired
from kuberouterpy.dataplane import (
    ChainKey,
    EntryKey,
    FlowsKey,
    HealthCheckKey,
    JumpKey,
    Key,
    Link,
    LinkKey,
    LocalAddressKey,
    Object,
    Owner,
    PodTunnelKey,
    RealServerKey,
    RouteKey,
    RoutingRuleKey,
    SetKey,
    VirtualServerKey,
)
from kuberouterpy.host import BRIDGE_LINK, DUMMY_LINK, Host
from kuberouterpy.store import Change, Store
from proxy import affinity, dsr, frontends, health, masquerade, origins, services
from proxy.rivals import concerned, rivals_of

NAME: Final = "proxy"
BASE: Final = Owner(NAME, "base")
AFFINITY: Final = Owner(NAME, "affinity")
"""The chains that lead to those of Services with exact affinity: there only while one is."""
DIRECT: Final = Owner(NAME, "dsr")
"""What Services with direct server return share: there only while one is."""

DNS_PORT: Final = 53


def owner_of(ref: Ref) -> Owner:
    """Return the owner of a Service's objects."""
    return Owner(NAME, "service", str(ref))


def affected(change: Change, store: Store, host: Host, config: Config) -> Iterator[Owner]:
    """Yield the Services whose objects a change may touch."""
    for record in (change.before, change.after):
        match record:
            case Service(ref=ref):
                yield owner_of(ref)
                yield from map(owner_of, concerned(record, store))
                if affinity.is_exact(record):
                    yield AFFINITY
                if dsr.ANNOTATION in record.annotations:
                    yield DIRECT
            case Node():
                yield from map(owner_of, concerned(record, store))
            case EndpointSlice(service=Ref() as ref):
                yield owner_of(ref)
            case LinkRecord(name=name) if name == BRIDGE_LINK:
                yield DIRECT


def owners(store: Store, host: Host, config: Config) -> Iterator[Owner]:
    """Yield every owner there is."""
    yield BASE
    yield AFFINITY
    yield DIRECT
    yield from map(owner_of, store.services.refs())


def desired(owner: Owner, store: Store, host: Host, config: Config) -> Desired:
    """Return what an owner wants; a Service that is gone wants nothing."""
    if owner == BASE:
        return Desired(tuple(_base(host, config)))
    if owner == AFFINITY:
        groups = (group for service in store.services for group in services.groups_of(service, host))
        return Desired(tuple(affinity.dispatch(groups)))
    if owner == DIRECT:
        asking = (one for one in store.services.by("annotation", dsr.ANNOTATION) if not frontends.ignored(one))
        return Desired(tuple(dsr.shared(asking, host, config, pod_mtu=_pod_mtu(store, host))))
    namespace, _, name = owner.name.partition("/")
    service = store.services.get(Ref(namespace, name))
    if service is None:
        return Desired()
    rivals = rivals_of(service, store, host)
    return services.desired(service, tuple(store.slices_of(service.ref)), host, config, rivals)


def claims(key: Key) -> bool:
    """Return whether a listed object is the proxy's to delete."""
    match key:
        case LinkKey(name) | LocalAddressKey(name):
            return name == DUMMY_LINK
        case SetKey(name) if affinity.claims_set(name):
            return True
        case EntryKey(name) if affinity.claims_entry(name):
            return True
        case ChainKey(name=name) | JumpKey(chain=name) if affinity.claims_chain(name):
            return True
        case SetKey(name) | EntryKey(name):
            return name in masquerade.SETS | origins.SETS | health.SETS | dsr.SETS
        case ChainKey(name=name) | JumpKey(chain=name):
            return name in masquerade.CHAINS | origins.CHAINS | health.CHAINS | {dsr.CHAIN}
        case RouteKey(table) if table in {dsr.TABLE, dsr.OLD_TABLE}:
            return True
        case RoutingRuleKey(fwmark=fwmark) if fwmark:  # kube-router has one for each of its marks
            return True
        case RoutingRuleKey(priority=priority, source="") if priority == dsr.OLD_PRIORITY:
            return True
        case VirtualServerKey() | RealServerKey() | FlowsKey() | HealthCheckKey() | PodTunnelKey():
            return True
        case _:
            return False


def urgency(owner: Owner, store: Store) -> int:
    """Return how soon an owner's objects stand: what all share, the API server, DNS, then everything else."""
    if owner.kind != "service":
        return 0
    if owner.name == "default/kubernetes":
        return 1
    namespace, _, name = owner.name.partition("/")
    service = store.services.get(Ref(namespace, name))
    dns = owner.name == "kube-system/kube-dns" or (service and any(one.port == DNS_PORT for one in service.ports))
    return 2 if dns else 3


def _base(host: Host, config: Config) -> Iterator[Object]:
    yield from sysctls.always(NAME, host.families)
    yield Link(LinkKey(DUMMY_LINK), "dummy")
    yield from masquerade.base(host, config)
    yield from origins.base(host)
    yield from affinity.base(host.families)
    yield from health.base(host)
    yield from dsr.base(host)


def _pod_mtu(store: Store, host: Host) -> int:
    """Return the MTU of the way to pods: the bridge's is less where packets between nodes are wrapped once more."""
    bridge = store.links.get(Ref("", BRIDGE_LINK))
    return min((mtu for mtu in (host.mtu, bridge.mtu if bridge else 0) if mtu), default=0)


CONTROLLER: Final = Controller(
    name=NAME, affected=affected, owners=owners, desired=desired, claims=claims, urgency=urgency
)
