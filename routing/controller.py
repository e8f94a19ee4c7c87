"""The router as a controller: owners for the host, every node, Service, external neighbor and learned prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from kuberouterpy import sysctls
from kuberouterpy.cluster import BestPath, EndpointSlice, Node, Passwords, Ref, Service
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller, Desired
from kuberouterpy.dataplane import (
    ChainKey,
    EntryKey,
    FarEndKey,
    FouPortKey,
    JumpKey,
    Key,
    LinkKey,
    Neighbor,
    NeighborKey,
    Note,
    Object,
    Owner,
    PathKey,
    RouteKey,
    RoutePolicyKey,
    RoutingRuleKey,
    SetKey,
)
from kuberouterpy.host import TUNNEL_PREFIX, Host, addresses_of
from kuberouterpy.store import Change, Store
from routing import cni, egress, externals, fib, neighbors, overlay, paths, policies

NAME: Final = "routing"
BASE: Final = Owner(NAME, "base")


def affected(change: Change, store: Store, host: Host, config: Config) -> Iterator[Owner]:
    """Yield the owners a change may touch."""
    for record in (change.before, change.after):
        match record:
            case Node():
                # Policies name every node's session; routes go by the addresses of nodes.
                yield BASE
                yield Owner(NAME, "node", record.ref.name)
                for address in addresses_of(record):
                    yield Owner(NAME, "peer", address)
                    for path in store.paths.by("next_hop", address):
                        yield Owner(NAME, "prefix", path.prefix)
            case Service(ref=ref) | EndpointSlice(service=Ref() as ref):
                yield Owner(NAME, "service", str(ref))
            case BestPath(prefix=prefix):
                yield Owner(NAME, "prefix", prefix)
            case Passwords():
                yield BASE
                yield from _peers(host, config)


def owners(store: Store, host: Host, config: Config) -> Iterator[Owner]:
    """Yield every owner there is."""
    yield BASE
    yield from _peers(host, config)
    yield from (Owner(NAME, "node", ref.name) for ref in store.nodes.refs())
    yield from (Owner(NAME, "service", str(ref)) for ref in store.services.refs())
    yield from (Owner(NAME, "prefix", ref.name) for ref in store.paths.refs())


def desired(owner: Owner, store: Store, host: Host, config: Config) -> Desired:
    """Return what an owner wants; one that is gone wants nothing."""
    wants = _WANTS.get(owner.kind)
    return wants(owner.name, store, host, config) if wants is not None else Desired()


def claims(key: Key) -> bool:
    """Return whether a listed object is the router's to delete.

    Never the speaker, whose end would end every session; nor the bridge, its addresses and the CNI configuration: pods hang
    on them.
    """
    match key:
        case LinkKey(name):
            return name.startswith(TUNNEL_PREFIX)
        case SetKey(name) | EntryKey(name):
            return name in egress.SETS
        case ChainKey(name=name) | JumpKey(chain=name):
            return name in egress.CHAINS
        case FouPortKey() | FarEndKey():
            return True  # drivers list those of our own tunnels only
        case RouteKey() | NeighborKey() | RoutePolicyKey() | PathKey():
            return True
        case RoutingRuleKey(source=source, fwmark=fwmark):
            # By pod CIDR, at whatever priority kube-router left it; rules by mark are the proxy's.
            return bool(source) and not fwmark
        case _:
            return False


# --- what each kind of owner wants ------------------------------------------------------------------------------------


def _base(_: str, store: Store, host: Host, config: Config) -> Desired:
    objects: list[Object] = [*sysctls.always(NAME, host.families)]
    objects += [*cni.base(host, config), *egress.base(host, config), *overlay.base(host, config)]
    speaker = neighbors.speaker(host, config)
    if speaker is None:
        return Desired(tuple(objects), (Note("bgp", f"no-node-address: Node {host.name} has none of a family in use"),))
    objects += [
        speaker,
        policies.import_policy(store, host, config),
        policies.export_policy(store, host, config),
    ]
    return Desired(tuple(objects))


def _node(name: str, store: Store, host: Host, config: Config) -> Desired:
    node = store.nodes.get(Ref("", name))
    if node is None:
        return Desired()
    found: list[Object | Note] = [*egress.of_node(node, host), *overlay.of_node(node, host, config)]
    if name == host.name:
        found += [
            *paths.pod_cidrs(host, config),
            *neighbors.notes(host, config),
            *externals.notes(host, config),
        ]
    neighbor = neighbors.of_node(node, host, config)
    if neighbor is not None:
        found.append(neighbor)
    if isinstance(neighbor, Neighbor):
        found += neighbors.shared_router_id(node, host, config)
    return _sorted_out(found)


def _peer(address: str, store: Store, host: Host, config: Config) -> Desired:
    return _sorted_out(externals.wanted(address, store, host, config))


def _service(name: str, store: Store, host: Host, config: Config) -> Desired:
    namespace, _, short = name.partition("/")
    service = store.services.get(Ref(namespace, short))
    return Desired() if service is None else paths.announced(service, store, host, config)


def _prefix(prefix: str, store: Store, host: Host, config: Config) -> Desired:
    path = store.paths.get(Ref("", prefix))
    return Desired() if path is None else fib.routes(path, store, host, config)


def _peers(host: Host, config: Config) -> Iterator[Owner]:
    return (Owner(NAME, "peer", one.address) for one in externals.peers(host, config))


def _sorted_out(found: Iterable[Object | Note]) -> Desired:
    objects: list[Object] = []
    notes: list[Note] = []
    for one in found:
        if isinstance(one, Note):
            notes.append(one)
        else:
            objects.append(one)
    return Desired(tuple(objects), tuple(notes))


_WANTS: Final[dict[str, Callable[[str, Store, Host, Config], Desired]]] = {
    "base": _base,
    "node": _node,
    "peer": _peer,
    "service": _service,
    "prefix": _prefix,
}

CONTROLLER: Final = Controller(name=NAME, affected=affected, owners=owners, desired=desired, claims=claims)
