"""Direct server return: who answers from an address, and the reasons why not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Link,
    LoadBalancerIngress,
    Node,
    NodeAddress,
    Record,
    Ref,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.controller import Desired
from kuberouterpy.dataplane import (
    Chain,
    Entry,
    Forward,
    LocalAddress,
    Object,
    PodTunnel,
    RealServer,
    RouteKey,
    RoutingRule,
    RoutingRuleKey,
    Sysctl,
    VirtualServer,
)
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.host import BRIDGE_LINK, Host, Subnet
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import Change, Store
from proxy import CONTROLLER
from proxy.controller import DIRECT, owner_of
from proxy.dsr import ANNOTATION, TUNNEL
from proxy.marks import DIRECT as MARK
from proxy.marks import DIRECT_MASK

HOST = Host(
    "node-1",
    families=FAMILIES,
    node_addresses=("10.0.0.1", "fd00::1"),
    subnets=(Subnet("10.0.0.0/24", "10.0.0.1", "eth0"),),
    mtu=1500,
)
CONFIG = Config(node_name="node-1", enable_ipv6=True, strict_external_ip_validation=False)
VIP = {IPV4: "203.0.113.7", IPV6: "2001:db8::7"}
HERE = {IPV4: "10.1.1.5", IPV6: "fd00:1:1::5"}
THERE = {IPV4: "10.1.2.5", IPV6: "fd00:1:2::5"}
WEB = Service(
    Ref("default", "web"),
    ServiceType.LOAD_BALANCER,
    ("10.96.0.10", "fd00:96::10"),
    (ServicePort("http", Protocol.TCP, 80, 30080),),
    load_balancer=(LoadBalancerIngress(VIP[IPV4]), LoadBalancerIngress(VIP[IPV6])),
    families=FAMILIES,
    annotations={ANNOTATION: TUNNEL},
)


def endpoints(family: Family, *addresses: str, port: int = 80, owner: Ref = WEB.ref) -> EndpointSlice:
    found = addresses or (HERE[family], THERE[family])
    return EndpointSlice(
        Ref("default", f"web-{family:d}"),
        owner,
        family,
        (EndpointPort("http", Protocol.TCP, port),),
        tuple(Endpoint(one, "node-1" if one in {*HERE.values(), "10.0.0.1"} else "node-2") for one in found),
    )


BOTH = (endpoints(IPV4), endpoints(IPV6))


def known(*records: Record) -> Store:
    store = Store()
    for record in records:
        store.apply(Upsert(record))
    return store


def wants(service: Service, *records: Record) -> Desired:
    return CONTROLLER.desired(owner_of(service.ref), known(service, *records), HOST, CONFIG)


def direct_servers(objects: Iterable[Object]) -> list[VirtualServer]:
    return [one for one in objects if isinstance(one, VirtualServer) and one.key.fwmark & DIRECT_MASK == MARK]


def forwards(objects: Iterable[Object], family: Family) -> dict[str, Forward]:
    """How each endpoint is reached from the address itself."""
    return {
        one.key.address: one.forward
        for one in objects
        if isinstance(one, RealServer)
        and one.key.server.family is family
        and one.key.server.fwmark & DIRECT_MASK == MARK
    }


def refusals(found: Desired) -> set[str]:
    return {note.reason.partition("; ")[0] for note in found.notes if note.event and "dsr" in note.reason}


def test_what_kube_router_left_for_such_services_is_the_proxys_to_sweep() -> None:
    for family in FAMILIES:
        assert CONTROLLER.claims(RouteKey(78, family.everything))
        assert CONTROLLER.claims(RouteKey(79, f"{VIP[family]}/{family.host_prefix}"))
        assert CONTROLLER.claims(RoutingRuleKey(family, 32765))
        assert not CONTROLLER.claims(RouteKey(254, family.everything))
        assert not CONTROLLER.claims(RoutingRuleKey(family, 32764))
        assert not CONTROLLER.claims(RoutingRuleKey(family, 32765, source="10.1.0.0/24"))


@pytest.mark.parametrize("family", FAMILIES)
def test_endpoints_get_requests_by_tunnel_and_those_here_hold_the_address(family: Family) -> None:
    found = wants(WEB, *BOTH)
    assert forwards(found.objects, family) == {HERE[family]: Forward.TUNNEL, THERE[family]: Forward.TUNNEL}
    tunnels = {(one.key.pod, one.key.vip) for one in found.objects if isinstance(one, PodTunnel)}
    assert tunnels == {(HERE[one], VIP[one]) for one in FAMILIES}
    assert refusals(found) == set()


def test_no_node_holds_the_address_but_every_node_knows_its_port() -> None:
    objects = wants(WEB, *BOTH).objects
    bound = {one.key.address for one in objects if isinstance(one, LocalAddress)}
    assert bound == {"10.96.0.10", "fd00:96::10"}
    members = {one.key.member for one in objects if isinstance(one, Entry) and one.key.set.endswith("svip-prt")}
    assert {"203.0.113.7,tcp:80", "2001:db8::7,tcp:80"} <= members


def test_cluster_ip_and_node_port_stay_as_they_are() -> None:
    objects = wants(WEB, *BOTH).objects
    plain = [one for one in objects if isinstance(one, RealServer) and not one.key.server.fwmark]
    assert {one.key.server.address for one in plain} == {*WEB.cluster_ips, *HOST.node_addresses}
    assert {one.forward for one in plain} == {Forward.MASQUERADE}


@pytest.mark.parametrize("family", FAMILIES)
def test_with_policy_local_clients_inside_have_all_endpoints_and_others_those_here(family: Family) -> None:
    objects = wants(replace(WEB, external_policy=TrafficPolicy.LOCAL), *BOTH).objects
    marks = {
        one.key.set.removeprefix("inet6:"): one.mark
        for one in objects
        if isinstance(one, Entry) and one.mark and one.key.member == f"{VIP[family]},tcp:80"
    }
    assert marks.keys() == {"kube-router-dsr", "kube-router-inside"}
    served = {
        name: {one.key.address for one in objects if isinstance(one, RealServer) and one.key.server.fwmark == mark}
        for name, mark in marks.items()
    }
    assert served["kube-router-dsr"] & {*HERE.values()} == served["kube-router-dsr"]
    assert {HERE[family], THERE[family]} <= served["kube-router-inside"]
    assert all(mark & DIRECT_MASK == MARK for mark in marks.values())


def test_affinity_is_persistence_whatever_its_timeout() -> None:
    for seconds in (10, 10_800):
        found = direct_servers(wants(replace(WEB, affinity_s=seconds), *BOTH).objects)
        assert [one.persistence_s for one in found] == [seconds, seconds]


@pytest.mark.parametrize(
    ("service", "records", "reason"),
    [
        (
            WEB,
            (endpoints(IPV4, port=8080), endpoints(IPV6)),
            "dsr-refused: endpoint 10.1.1.5 listens on port 8080: a tunnel changes no port",
        ),
        (
            WEB,
            (
                endpoints(IPV4, "10.0.0.2"),
                endpoints(IPV6),
                Node(Ref("", "node-2"), (NodeAddress("InternalIP", "10.0.0.2"),)),
            ),
            "dsr-refused: endpoint 10.0.0.2 is on the host network, where a tunnel would take the node's own traffic",
        ),
        (
            WEB,
            (endpoints(IPV4),),
            "dsr-refused: no endpoint has an IPv6 address, and no tunnel leads from one family to the other",
        ),
        (
            replace(WEB, type=ServiceType.CLUSTER_IP, load_balancer=()),
            BOTH,
            "dsr-refused: only external IPs and load-balancer IPs can have it, and this Service has none",
        ),
        (
            WEB,
            (*BOTH, Service(Ref("z", "z"), ServiceType.CLUSTER_IP, ("10.96.0.9",), external_ips=("203.0.113.7",))),
            "dsr-refused: another Service without it has the address too",
        ),
        (
            replace(WEB, external_ips=("10.0.0.1",)),
            BOTH,
            "dsr-refused: this node itself has the address too",
        ),
        (replace(WEB, annotations={ANNOTATION: "direct"}), BOTH, "unknown-dsr: direct, ignored"),
    ],
)
def test_what_cannot_be_is_told(service: Service, records: tuple[Record, ...], reason: str) -> None:
    assert reason in refusals(wants(service, *records))


@pytest.mark.parametrize("port", [80, 8080])
def test_what_no_tunnel_reaches_is_masqueraded(port: int) -> None:
    host = Node(Ref("", "node-2"), (NodeAddress("InternalIP", "10.0.0.2"),))
    slices = (endpoints(IPV4, "10.1.1.5", "10.0.0.2", port=port), endpoints(IPV6))
    found = wants(replace(WEB, affinity_s=60), *slices, host)
    expected = {"10.1.1.5": Forward.MASQUERADE if port == 8080 else Forward.TUNNEL, "10.0.0.2": Forward.MASQUERADE}
    assert forwards(found.objects, IPV4) == expected
    # Persistence on a mark keeps the client's port, which a remapped endpoint does not listen on.
    server = next(one for one in direct_servers(found.objects) if one.key.family is IPV4)
    assert (server.persistence_s, server.scheduler) == ((0, "mh") if port == 8080 else (60, "rr"))


def test_without_endpoints_a_port_is_refused_as_any_other_of_the_address() -> None:
    for records in ((), (endpoints(IPV4, THERE[IPV4]), endpoints(IPV6, THERE[IPV6]))):
        service = replace(WEB, external_policy=TrafficPolicy.LOCAL)
        members = {
            (one.key.set.removeprefix("inet6:"), one.key.member.partition(",")[0])
            for one in wants(service, *records).objects
            if isinstance(one, Entry)
        }
        for vip in VIP.values():
            assert ("kube-router-dsr", vip) not in members
            assert {("kube-router-dsr-vips", vip), ("kube-router-svip", vip)} <= members
            assert (("kube-router-inside", vip) in members) == bool(records)


def test_a_shared_address_is_bound_again_while_another_service_needs_it() -> None:
    other = Service(Ref("z", "z"), ServiceType.CLUSTER_IP, ("10.96.0.9",), external_ips=("203.0.113.7",))
    objects = wants(WEB, *BOTH, other).objects
    bound = {one.key.address for one in objects if isinstance(one, LocalAddress)}
    assert "203.0.113.7" in bound
    assert "2001:db8::7" not in bound
    store = known(WEB, *BOTH, other)
    assert owner_of(WEB.ref) in set(CONTROLLER.affected(Change(None, other), store, HOST, CONFIG))


def shared(*records: Record) -> tuple[Object, ...]:
    return CONTROLLER.desired(DIRECT, known(*records), HOST, CONFIG).objects


def segments(objects: Iterable[Object]) -> dict[Family, int]:
    return {
        one.key.family: int(rule.target[2])
        for one in objects
        if isinstance(one, Chain)
        for rule in one.rules
        if rule.jumps == "TCPMSS"
    }


def test_segments_leave_room_for_the_tunnels_header() -> None:
    assert segments(shared(WEB)) == {IPV4: 1440, IPV6: 1400}
    # An overlay wraps packets for pods once more: its header is out of the bridge's MTU already.
    assert segments(shared(WEB, Link(BRIDGE_LINK, 3, "bridge", mtu=1460))) == {IPV4: 1400, IPV6: 1360}


def test_one_routing_rule_a_family_knows_every_mark() -> None:
    other = replace(WEB, ref=Ref("default", "other"))
    rules = [one for one in shared(WEB, other) if isinstance(one, RoutingRule)]
    assert [(one.key.family, one.key.fwmark, one.key.fwmask) for one in rules] == [
        (family, MARK, DIRECT_MASK) for family in FAMILIES
    ]
    assert shared(replace(WEB, annotations={})) == (Sysctl(*_sloppy("0")),)
    assert CONTROLLER.desired(DIRECT, known(), HOST, CONFIG).objects == (Sysctl(*_sloppy("0")),)


def _sloppy(value: str) -> tuple[object, ...]:
    found = next(one for one in shared() if isinstance(one, Sysctl))
    return found.key, value, found.reason, True


def test_sloppy_tcp_only_where_another_node_would_choose_the_same_endpoint() -> None:
    maglev = replace(WEB, annotations={ANNOTATION: TUNNEL, "kube-router.io/service.scheduler": "mh"})
    values = {
        name: next(
            one.value for one in shared(service) if isinstance(one, Sysctl) and one.key.path.endswith("sloppy_tcp")
        )
        for name, service in (("rr", WEB), ("mh", maglev))
    }
    assert values == {"rr": "0", "mh": "1"}


def test_only_strict_reverse_path_filtering_is_loosened() -> None:
    found = [one for one in shared(WEB) if isinstance(one, Sysctl) and one.key.path.endswith("rp_filter")]
    assert {one.key.path.split("/")[3] for one in found} == {"all", "kube-bridge", "eth0"}
    assert {(one.value, one.instead_of) for one in found} == {("2", "1")}


def test_a_change_of_the_bridge_or_of_a_service_with_it_touches_what_is_shared() -> None:
    for record in (WEB, Link(BRIDGE_LINK, 3, "bridge", mtu=1460)):
        assert DIRECT in set(CONTROLLER.affected(Change(None, record), known(WEB), HOST, CONFIG))
    assert DIRECT not in set(CONTROLLER.affected(Change(None, Link("eth9", 9)), known(WEB), HOST, CONFIG))
