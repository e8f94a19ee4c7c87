"""Incremental == from scratch, and any order of events converges, for the router; both families."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kuberouterpy.annotations import read_bgp
from kuberouterpy.cluster import (
    BestPath,
    Delete,
    Endpoint,
    EndpointSlice,
    Event,
    Link,
    LoadBalancerIngress,
    Node,
    NodeAddress,
    Passwords,
    Record,
    Ref,
    Replace,
    Service,
    ServiceType,
    TrafficPolicy,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller
from kuberouterpy.dataplane import FarEnd, LinkKey, NextHop, Route
from kuberouterpy.dataplane import Link as LinkObject
from kuberouterpy.family import FAMILIES, family_of
from kuberouterpy.host import describe
from kuberouterpy.store import Store
from routing import CONTROLLER
from tests.properties.harness import Machine, check_history, check_orders

ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.9.0.3", "fd00::1", "fd00::2", "fd09::3")
PREFIXES = ("10.1.1.0/24", "10.1.2.0/24", "0.0.0.0/0", "10.96.0.7/32", "fd00:1:2::/64", "::/0", "192.168.0.0/16")
ANNOTATION = "kube-router.io/service.advertise.clusterip"

ANNOTATIONS: list[dict[str, str]] = [
    {},
    {},
    {"pod-cidrs": "10.1.7.0/24,nonsense"},
    {"pod-cidrs": "10.1.7.0/24"},
    {"rr.server": "42"},
    {"rr.client": "0.0.0.42"},
    {"rr.client": "many", "node.asn": "65100"},
    {"node.asn": "65100", "node.bgp.communities": "65000:1,no-export"},
    {"peers": "[{remoteip: 10.0.0.250, remoteasn: 65003, password: c2VjcmV0}]"},
    {"peers": "[{remoteip: 10.0.0.250}]", "node.bgp.customimportreject": "192.168.7.0/24"},
    {"peer.ips": "10.0.0.2,fd00::fd", "peer.asns": "65004,65005", "path-prepend.as": "65100"},
    {"path-prepend.as": "65100", "path-prepend.repeat-n": "2", "bgp-local-addresses": "10.0.0.1,fd00::1"},
]
"""Good and bad ones, of peers, reflectors and policies."""

CONFIGS = {
    "plain": Config(node_name="node-1"),
    "dual": Config(
        node_name="node-1",
        enable_ipv6=True,
        service_cluster_ip_range=("10.96.0.0/12", "fd00:96::/112"),
        bgp_graceful_restart=True,
    ),
    "ipv6": Config(node_name="node-1", enable_ipv4=False, enable_ipv6=True, overlay_type="full", overlay_encap="fou"),
    "vxlan": Config(node_name="node-1", enable_ipv6=True, overlay_encap="vxlan", overlay_encap_port=8472),
    "external": Config(
        node_name="node-1",
        enable_ipv6=True,
        enable_overlay=False,
        advertise_cluster_ip=True,
        advertise_external_ip=True,
        advertise_loadbalancer_ip=True,
        strict_external_ip_validation=False,
        peer_router_ips=("10.0.0.254", "fd00::fe"),
        peer_router_asns=(65001, 65002),
        peer_import_cidrs=("192.168.0.0/16",),
        peer_router_passwords_file="/etc/bgp",
    ),
}

CONFIGS["annotated"] = Config(node_name="node-1", enable_ipv6=True, nodes_full_mesh=False, peer_import_cidrs=("::/0",))

addresses = st.sampled_from(ADDRESSES)
some_addresses = st.lists(addresses, max_size=3, unique=True).map(tuple)

nodes = st.builds(
    Node,
    ref=st.sampled_from(["node-1", "node-2", "node-3"]).map(lambda name: Ref("", name)),
    addresses=st.lists(
        st.builds(NodeAddress, type=st.sampled_from(["InternalIP", "ExternalIP"]), address=addresses), max_size=3
    ).map(tuple),
    pod_cidrs=st.lists(
        st.sampled_from(["10.1.1.0/24", "10.1.2.0/24", "fd00:1:1::/64", "fd00:1:2::/64"]), max_size=2
    ).map(lambda cidrs: tuple(dict.fromkeys(cidrs))),
    bgp=st.sampled_from(ANNOTATIONS).map(
        lambda texts: read_bgp({f"kube-router.io/{key}": text for key, text in texts.items()})
    ),
)
services = st.builds(
    Service,
    ref=st.sampled_from(["web", "dns"]).map(lambda name: Ref("default", name)),
    type=st.sampled_from(ServiceType),
    cluster_ips=st.sampled_from([(), ("10.96.0.10",), ("10.96.0.10", "fd00:96::10")]),
    external_ips=st.sampled_from([(), ("203.0.113.1",), ("203.0.113.1", "10.96.0.10")]),
    load_balancer=st.sampled_from([(), (LoadBalancerIngress("203.0.113.1"), LoadBalancerIngress("2001:db8::1", True))]),
    internal_policy=st.sampled_from(TrafficPolicy),
    external_policy=st.sampled_from(TrafficPolicy),
    annotations=st.sampled_from(
        [{}, {ANNOTATION: "true"}, {ANNOTATION: "maybe"}, {"kube-router.io/service.local": "true"}]
    ),
)
slices = st.builds(
    EndpointSlice,
    ref=st.sampled_from(["web-a", "web-b", "dns-a"]).map(lambda name: Ref("default", name)),
    service=st.sampled_from([Ref("default", "web"), Ref("default", "dns"), None]),
    family=st.sampled_from(FAMILIES),
    endpoints=st.lists(
        st.builds(
            Endpoint,
            address=st.just("10.1.1.5"),
            node=st.sampled_from(["node-1", "node-2", None]),
            ready=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
)
best_paths = st.builds(
    BestPath,
    prefix=st.sampled_from(PREFIXES),
    next_hops=st.lists(addresses, min_size=1, max_size=3, unique=True).map(lambda hops: tuple(sorted(hops))),
)
links = st.builds(
    Link,
    name=st.sampled_from(["eth0", "eth1", "kube-bridge"]),
    index=st.integers(2, 4),
    mtu=st.sampled_from([0, 1500, 9000]),
    addresses=st.sampled_from([(), ("10.0.0.1/24",), ("10.0.0.1/24", "fd00::1/64"), ("10.9.0.1/16",)]),
)
passwords = st.sampled_from([("one", ""), ("one", "two"), ("only one",)]).map(
    lambda found: Passwords("/etc/bgp", found)
)
records = st.one_of(nodes, services, slices, best_paths, links, passwords)


def _delete(record: Record) -> Event:
    return Delete(type(record), record.ref)


def _replace(found: list[BestPath]) -> Event:
    return Replace(BestPath, tuple({one.ref: one for one in found}.values()))


events = st.one_of(
    records.map(Upsert), records.map(Upsert), records.map(_delete), st.lists(best_paths, max_size=3).map(_replace)
)
histories = st.lists(events, max_size=14)
# The examples are many and small; a slow machine is no failure.
PACE = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", CONFIGS)
def test_incremental_equals_from_scratch_after_every_event(name: str) -> None:
    @PACE
    @given(histories)
    def holds(history: list[Event]) -> None:
        check_history(CONTROLLER, history, CONFIGS[name])

    holds()


@pytest.mark.parametrize("name", CONFIGS)
def test_any_order_of_events_converges(name: str) -> None:
    @PACE
    @given(histories, st.randoms(use_true_random=False))
    def holds(history: list[Event], random: Random) -> None:
        check_orders(CONTROLLER, history, CONFIGS[name], random)

    holds()


@pytest.mark.parametrize("name", CONFIGS)
def test_no_history_makes_a_harmful_route(name: str) -> None:
    """Never a default route, never one by way of ourselves, never one of a family that is off."""

    @PACE
    @given(histories)
    def holds(history: list[Event]) -> None:
        machine = Machine(CONTROLLER, CONFIGS[name])
        for event in history:
            machine.take(event)
        for wants in machine.wanted.values():
            for route in (one for one in wants.objects if isinstance(one, Route)):
                assert not route.key.destination.endswith("/0")
                assert route.key.family in machine.host.families
                assert route.next_hops
                for hop in route.next_hops:
                    assert hop != NextHop()
                    assert hop.gateway not in {*machine.host.addresses, *machine.host.node_addresses}
                    assert not hop.gateway or family_of(hop.gateway) is route.key.family

    holds()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tunnel_that_a_route_takes_is_wanted_and_is_never_one_to_ourselves(name: str) -> None:
    """A route without its link or its far end is an error for ever; a tunnel to our own address is a loop."""

    @PACE
    @given(histories)
    def holds(history: list[Event]) -> None:
        machine = Machine(CONTROLLER, CONFIGS[name])
        for event in history:
            machine.take(event)
        wanted = {one.key: one for wants in machine.wanted.values() for one in wants.objects}
        ends = {(one.key.link, one.gateway) for one in wanted.values() if isinstance(one, FarEnd)}
        for route in (one for one in wanted.values() if isinstance(one, Route)):
            for hop in (hop for hop in route.next_hops if hop.link):
                assert route.source in machine.host.node_addresses
                link = wanted.get(LinkKey(hop.link))
                assert isinstance(link, LinkObject)
                assert not hop.gateway or (hop.link, hop.gateway) in ends
        own = {*machine.host.addresses, *machine.host.node_addresses}
        assert not own & {one.remote for one in wanted.values() if isinstance(one, LinkObject)}

    holds()


@pytest.mark.parametrize(
    "forget",
    ["base", "node", "service", "prefix"],
)
def test_the_harness_notices_an_owner_that_is_forgotten(forget: str) -> None:
    """Planted omissions: an oracle that cannot fail would prove nothing."""
    lame = Controller(
        name=CONTROLLER.name,
        affected=lambda *facts: (owner for owner in CONTROLLER.affected(*facts) if owner.kind != forget),
        owners=CONTROLLER.owners,
        desired=CONTROLLER.desired,
        claims=CONTROLLER.claims,
    )
    far = Node(Ref("", "node-3"), (NodeAddress("InternalIP", "10.9.0.3"),), ("10.1.3.0/24",))
    history: list[Event] = [
        Upsert(Link("eth0", 2, mtu=1500, up=True, addresses=("10.0.0.1/24",))),
        Upsert(Node(Ref("", "node-1"), (NodeAddress("InternalIP", "10.0.0.1"),), ("10.1.1.0/24",))),
        Upsert(Service(Ref("default", "web"), ServiceType.CLUSTER_IP, cluster_ips=("10.96.0.10",))),
        Upsert(BestPath("10.1.3.0/24", ("10.9.0.3",))),
        Upsert(far),
    ]
    check_history(CONTROLLER, history, CONFIGS["plain"])
    with pytest.raises(AssertionError, match="forgot"):
        check_history(lame, history, CONFIGS["plain"])


def test_the_host_of_an_empty_store_wants_no_speaker() -> None:
    wants = CONTROLLER.desired(
        next(iter(CONTROLLER.owners(Store(), describe(Store(), CONFIGS["dual"]), CONFIGS["dual"]))),
        Store(),
        describe(Store(), CONFIGS["dual"]),
        CONFIGS["dual"],
    )
    assert [note.reason.partition(":")[0] for note in wants.notes] == ["no-node-address"]
