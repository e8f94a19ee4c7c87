"""A Service on this host: which virtual servers its frontends make, and what serves them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from kuberouterpy.cluster import EndpointSlice, Service, ServicePort, ServiceType, TrafficPolicy
from kuberouterpy.config import Config
from kuberouterpy.controller import Desired
from kuberouterpy.dataplane import (
    LocalAddress,
    LocalAddressKey,
    Note,
    Object,
    RealServer,
    RealServerKey,
    VirtualServer,
    VirtualServerFlag,
    VirtualServerKey,
)
from kuberouterpy.family import Family
from kuberouterpy.flags import SCHEDULERS
from kuberouterpy.host import DUMMY_LINK, Host
from kuberouterpy.protocol import Protocol
from proxy import affinity, dsr, marks
from proxy.endpoints import Backend, Categories, backends, categorize, weigh
from proxy.flows import flows
from proxy.frontends import Frontend, Vip, ignored, listening, policy_of
from proxy.health import check
from proxy.masquerade import endpoint_entries, hairpin_entry, vip_entries, vip_entry
from proxy.origins import inside_entry, range_entries
from proxy.rivals import NONE, Rivals

_SCHEDULER: Final = "kube-router.io/service.scheduler"
_SCHEDULER_FLAGS: Final = "kube-router.io/service.schedflags"
_NUMBERED: Final = {
    "flag-1": VirtualServerFlag.SCHED1,
    "flag-2": VirtualServerFlag.SCHED2,
    "flag-3": VirtualServerFlag.SCHED3,
}
_FLAGS: Final = {
    one: {
        f"{one}-fallback": VirtualServerFlag.SCHED1,
        f"{one}-port": VirtualServerFlag.SCHED2,
        **_NUMBERED,
    }
    for one in ("sh", "mh")
}
"""Words of each scheduler that knows any: ipvsadm's, and kube-router's numbers for them."""


def desired(
    service: Service, slices: Sequence[EndpointSlice], host: Host, config: Config, rivals: Rivals = NONE
) -> Desired:
    """Return what one Service wants on this host. A virtual server without servers stays: it refuses, as it should."""
    reason = ignored(service)
    if reason:
        return Desired(notes=(Note(str(service.ref), reason),))
    frontends, notes = listening(service, host, config, rivals)
    notes += _annotation_notes(service, config)
    service = _with_scheduler(service, config)
    categories = {
        (port, family): categorize(backends(slices, port, family), host)
        for port in service.ports
        for family in host.families
    }
    objects: dict[object, Object] = {}
    for frontend in frontends:
        found = categories[frontend.port, frontend.family]
        program = _return_directly if frontend.direct else _program
        for value in program(service, frontend, found, host, rivals):
            objects.setdefault(value.key, value)
        notes.extend(_emptiness(service, frontend, found))
    for value in _stick(service, frontends, categories, host):
        objects.setdefault(value.key, value)
    for value in check(service, categories.values(), host):
        objects.setdefault(value.key, value)
    notes += _directness(service, frontends, categories, rivals)
    values, missing = _loadable(objects.values(), service, host)
    return Desired(values, tuple(dict.fromkeys((*notes, *missing))))


# --- what that makes --------------------------------------------------------------------------------------------------


def _program(service: Service, frontend: Frontend, found: Categories, host: Host, rivals: Rivals) -> Iterator[Object]:
    policy = policy_of(service, frontend.vip)
    server = virtual_server(service, frontend)
    weighed = weigh(found, policy=policy, protocol=frontend.port.protocol, host=host)
    if frontend.bound:
        yield LocalAddress(LocalAddressKey(DUMMY_LINK, frontend.address, frontend.family.host_prefix))
        yield from vip_entries(frontend.address, frontend.number, frontend.port.protocol, reason=str(service.ref))
    yield server
    yield from real_servers(server, weighed)
    yield from flows(frontend.address, frontend.number, frontend.port.protocol, found)
    keeps_source = policy is TrafficPolicy.LOCAL and frontend.vip is not Vip.CLUSTER_IP
    if keeps_source:
        yield from _short_circuit(service, frontend, found, host, rivals)
    if frontend.vip is Vip.LOAD_BALANCER_IP:
        protocol, reason = frontend.port.protocol, str(service.ref)
        yield from range_entries(
            frontend.address, frontend.number, protocol, service.source_ranges, host, reason=reason
        )
    for backend, _ in weighed:
        if backend.endpoint.node == host.name:
            yield from endpoint_entries(
                backend.address,
                backend.port,
                frontend.port.protocol,
                reason=_whose(service, backend),
                keeps_source=keeps_source,
            )


def _short_circuit(
    service: Service, frontend: Frontend, found: Categories, host: Host, rivals: Rivals
) -> Iterator[Object]:
    """Yield what gives pods of this node, and the node itself, all endpoints of an address whose policy is Local.

    One virtual server for all addresses of a service port. With affinity its clients are told apart by hashing:
    IPVS persistence of a firewall-mark service keeps the client's port (ip_vs_sched_persist), the endpoint's is another.
    """
    port = frontend.port
    if port.node_port and not any(_has_node_port(one, port) for one in rivals.services):
        mark = marks.of_node_port(port.protocol, port.node_port)
    else:
        mark = marks.of_name(str(service.ref), port.name, port.protocol, str(port.port))
    yield inside_entry(frontend.address, frontend.number, port.protocol, mark, reason=str(service.ref))
    key = VirtualServerKey(frontend.family, Protocol.TCP, "", 0, fwmark=mark)
    server = replace(virtual_server(service, frontend), key=key, persistence_s=0)
    if service.affinity_s:
        server = replace(server, scheduler="mh", flags=0)
    yield server
    weighed = weigh(found, policy=TrafficPolicy.CLUSTER, protocol=port.protocol, host=host)
    yield from real_servers(server, weighed)
    for backend, _ in weighed:
        if backend.endpoint.node == host.name:
            yield hairpin_entry(backend.address, backend.port, port.protocol)


def _return_directly(
    service: Service, frontend: Frontend, found: Categories, host: Host, rivals: Rivals
) -> Iterator[Object]:
    """Yield what makes endpoints answer from an address themselves; clients inside this node have servers of their own where
    the policy is Local. Affinity is IPVS persistence whatever the timeout: no port changes here, so it holds for marks."""
    port, address, reason = frontend.port, frontend.address, str(service.ref)
    own, inside = (dsr.mark(service, port.name, port.protocol, str(port.port), one) for one in TrafficPolicy)
    policy = policy_of(service, frontend.vip)
    used = {TrafficPolicy.CLUSTER: own, TrafficPolicy.LOCAL: inside}
    yield from (vip_entry(address), dsr.address_entry(address))
    remapped = any(one.port != frontend.number for one in found.all)
    for one in dict.fromkeys((policy, TrafficPolicy.CLUSTER)):
        key = VirtualServerKey(frontend.family, Protocol.TCP, "", 0, fwmark=used[one])
        server = replace(_scheduled(service, key), persistence_s=0 if remapped else service.affinity_s)
        if remapped and service.affinity_s:
            server = replace(server, scheduler="mh", flags=0)
        weighed = weigh(found, policy=one, protocol=port.protocol, host=host)
        yield from dsr.servers(server, weighed, frontend.number, rivals.hosts)
        if not weighed:  # IPVS could not refuse: a host sends no error from an address that it does not hold
            continue
        yield from vip_entries(address, frontend.number, port.protocol, reason=reason)
        if one is policy:
            yield dsr.port_entry(address, frontend.number, port.protocol, used[one], reason=reason)
        else:
            yield inside_entry(address, frontend.number, port.protocol, used[one], reason=reason)
    if frontend.vip is Vip.LOAD_BALANCER_IP:
        yield from range_entries(address, frontend.number, port.protocol, service.source_ranges, host, reason=reason)
    yield from dsr.tunnels(address, frontend.number, found.all, host, rivals.hosts)


def _stick(
    service: Service,
    frontends: Iterable[Frontend],
    categories: Mapping[tuple[ServicePort, Family], Categories],
    host: Host,
) -> Iterator[Object]:
    """Yield what remembers the clients of a Service with a short affinity timeout."""
    found = {(one.family, one.port, one.policy): one for one in groups_of(service, host)}
    for (family, port, policy), group in found.items():
        template = _scheduled(service, VirtualServerKey(family, Protocol.TCP, "", 0, fwmark=group.mark))
        weighed = weigh(categories[port, family], policy=policy, protocol=port.protocol, host=host)
        yield from affinity.program(group, template, weighed)
    for frontend in frontends if found else ():
        if frontend.direct:
            continue
        group = found[frontend.family, frontend.port, policy_of(service, frontend.vip)]
        yield affinity.address_entry(group, frontend.address, frontend.number)


def groups_of(service: Service, host: Host) -> tuple[affinity.Group, ...]:
    """Return the groups of addresses whose clients are remembered to the second."""
    if ignored(service):
        return ()
    policies = (policy_of(service, Vip.CLUSTER_IP), policy_of(service, Vip.EXTERNAL_IP))
    return tuple(affinity.groups(service, policies, host.families))


def _has_node_port(service: Service, port: ServicePort) -> bool:
    number = (port.protocol, port.node_port)
    return not ignored(service) and number in {(one.protocol, one.node_port) for one in service.ports}


def virtual_server(service: Service, frontend: Frontend) -> VirtualServer:
    """Return the virtual server of a frontend."""
    key = VirtualServerKey(frontend.family, frontend.port.protocol, frontend.address, frontend.number)
    return _scheduled(service, key)


def _scheduled(service: Service, key: VirtualServerKey) -> VirtualServer:
    scheduler = service.annotations[_SCHEDULER]
    known = _FLAGS.get(scheduler, {})
    return VirtualServer(
        key,
        scheduler=scheduler,
        flags=sum({known[word] for word in _flag_words(service) if word in known}),
        persistence_s=0 if affinity.is_exact(service) else service.affinity_s,
    )


def real_servers(server: VirtualServer, weighed: Iterable[tuple[Backend, int]]) -> Iterator[RealServer]:
    """Yield the real servers of a virtual server."""
    for backend, weight in weighed:
        yield RealServer(RealServerKey(server.key, backend.address, backend.port), weight=weight)


def _loadable(wanted: Iterable[Object], service: Service, host: Host) -> tuple[tuple[Object, ...], list[Note]]:
    """Return objects with rr in the place of every scheduler the kernel of this host could not load, and a note for each."""
    values: list[Object] = []
    notes: list[Note] = []
    for value in wanted:
        module = f"ip_vs_{value.scheduler}" if isinstance(value, VirtualServer) else ""
        if isinstance(value, VirtualServer) and module in host.missing_modules:
            mend = f"load {module} on {host.name} and restart the agent there"
            notes.append(
                Note(str(service.ref), f"missing-scheduler: {value.scheduler}, rr is used; {mend}", event=True)
            )
            value = replace(value, scheduler="rr", flags=0)  # noqa: PLW2901
        values.append(value)
    return tuple(values), notes


def _with_scheduler(service: Service, config: Config) -> Service:
    """Return a Service that names a scheduler: its own, or the cluster's where it names none or one that is unknown."""
    scheduler = service.annotations.get(_SCHEDULER, "")
    chosen = scheduler if scheduler in SCHEDULERS else config.ipvs_scheduler
    return replace(service, annotations={**service.annotations, _SCHEDULER: chosen})


def _flag_words(service: Service) -> list[str]:
    words = service.annotations.get(_SCHEDULER_FLAGS, "").split(",")
    return [word.strip() for word in words if word.strip()]


def _whose(service: Service, backend: Backend) -> str:
    pod = backend.endpoint.pod
    return f"{service.ref} {pod.name}" if pod else str(service.ref)


# --- why not ----------------------------------------------------------------------------------------------------------


def _emptiness(service: Service, frontend: Frontend, found: Categories) -> Iterator[Note]:
    policy = policy_of(service, frontend.vip)
    if found.local if policy is TrafficPolicy.LOCAL else found.cluster:
        return
    where = "no-local-endpoints" if found.any else "no-endpoints"
    yield Note(str(frontend), where)


def _directness(
    service: Service,
    frontends: Iterable[Frontend],
    categories: Mapping[tuple[ServicePort, Family], Categories],
    rivals: Rivals,
) -> Iterator[Note]:
    """Yield why direct server return is not there where it was asked for."""
    asked = service.annotations.get(dsr.ANNOTATION)
    if asked is None:
        return
    if not dsr.asks(service):
        yield Note(str(service.ref), f"unknown-dsr: {asked}, ignored; the one method is {dsr.TUNNEL}", event=True)
        return
    if service.type is not ServiceType.LOAD_BALANCER and not service.external_ips:
        reason = "only external IPs and load-balancer IPs can have it, and this Service has none"
        yield Note(str(service.ref), f"dsr-refused: {reason}", event=True)
    for one in frontends:
        if one.vip in {Vip.CLUSTER_IP, Vip.NODE_PORT}:
            continue
        if not one.direct:
            who = "another Service without it" if one.address in rivals.plain else "this node itself"
            yield Note(str(one), f"dsr-refused: {who} has the address too; masqueraded instead", event=True)
            continue
        others = [found for (port, family), found in categories.items() if port == one.port and family != one.family]
        found = categories[one.port, one.family]
        if not found.all and any(other.all for other in others):
            reason = f"no endpoint has an IPv{one.family:d} address, and no tunnel leads from one family to the other"
            yield Note(str(one), f"dsr-refused: {reason}", event=True)
        for backend in found.all:
            if reason := dsr.obstacle(backend, one.number, rivals.hosts):
                yield Note(str(one), f"dsr-refused: {reason}; masqueraded instead", event=True)


def _annotation_notes(service: Service, config: Config) -> Iterator[Note]:
    scheduler = service.annotations.get(_SCHEDULER, config.ipvs_scheduler)
    subject, used = str(service.ref), config.ipvs_scheduler
    if scheduler not in SCHEDULERS:
        known = " ".join(SCHEDULERS)
        yield Note(subject, f"unknown-scheduler: {scheduler}, {used} is used; one of {known}", event=True)
        scheduler = used
    words = _FLAGS.get(scheduler, {})
    for word in _flag_words(service):
        if word not in words:
            mend = f"one of {' '.join(words)}" if words else f"{scheduler} has no flags, {' and '.join(_FLAGS)} have"
            yield Note(subject, f"unknown-scheduler-flag: {word}; {mend}", event=True)
