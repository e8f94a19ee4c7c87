"""The proxy against itself: after every event as from scratch, and the same end whatever the order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    Delete,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Event,
    Kind,
    Link,
    LoadBalancerIngress,
    Node,
    NodeAddress,
    Record,
    Ref,
    Replace,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import (
    Entry,
    EntryKey,
    Forward,
    Key,
    LocalAddress,
    LocalAddressKey,
    Object,
    PodTunnelKey,
    RealServer,
    RealServerKey,
    RoutingRuleKey,
    Sysctl,
    VirtualServer,
    VirtualServerKey,
)
from kuberouterpy.drivers import fake
from kuberouterpy.family import FAMILIES, Family
from kuberouterpy.host import BRIDGE_LINK
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from proxy import CONTROLLER
from proxy.dsr import ANNOTATION, TUNNEL
from proxy.frontends import ignored
from proxy.marks import DIRECT, DIRECT_MASK

CONFIG = Config(
    node_name="node-1",
    run_router=False,  # or routes would wait to go until BGP has been heard
    enable_ipv6=True,
    service_cluster_ip_range=("10.96.0.0/12", "fd00:96::/112"),
    service_external_ip_range=("203.0.113.0/24", "2001:db8::/64"),
    loadbalancer_ip_range=("203.0.113.0/24", "2001:db8::/64"),
)
SERVICES = (Ref("a", "b-c"), Ref("a-b", "c"))
NODES = ("node-1", "node-2")

# --- random facts: a small universe, so that histories collide ------------------------------------------------------------

_vips = {4: ("10.96.0.1", "10.96.0.2"), 6: ("fd00:96::1", "fd00:96::2")}
_shared = ("203.0.113.7", "2001:db8::7")
_pods = {4: ("10.1.1.5", "10.1.2.5", "10.0.0.1"), 6: ("fd00:1:1::5", "fd00:1:2::5", "fd00::1")}
_ports = st.builds(
    ServicePort,
    st.sampled_from(["x", "x", "x", "x", "y"]),
    st.sampled_from([Protocol.TCP] * 6 + [Protocol.UDP, Protocol.SCTP]),
    st.sampled_from([80, 53]),
    st.sampled_from([0, 30080, 30053]),
)
_policies = st.sampled_from(list(TrafficPolicy))
_services = st.builds(
    Service,
    st.sampled_from(SERVICES),
    st.sampled_from([ServiceType.NODE_PORT, ServiceType.NODE_PORT, ServiceType.NODE_PORT, ServiceType.EXTERNAL_NAME]),
    st.lists(st.sampled_from([*_vips[4], *_vips[6]]), min_size=1, max_size=3, unique=True).map(tuple),
    st.lists(_ports, min_size=1, max_size=3, unique_by=lambda port: (port.protocol, port.port)).map(tuple),
    st.lists(st.sampled_from(_shared), max_size=2, unique=True).map(tuple),
    st.lists(st.builds(LoadBalancerIngress, st.sampled_from(_shared), st.booleans()), max_size=1).map(tuple),
    st.sampled_from([(), FAMILIES, FAMILIES[:1], FAMILIES[1:]]),
    _policies,
    _policies,
    affinity_s=st.sampled_from([0, 60]),
    source_ranges=st.sampled_from([(), (), ("10.0.0.0/24", "fd00::/64"), ("192.0.2.0/24",)]),
    proxy_name=st.sampled_from([None] * 9 + ["other"]),
    headless_label=st.sampled_from([False] * 9 + [True]),
    annotations=st.sampled_from(
        [
            {},
            {"kube-router.io/service.scheduler": "mh"},
            {"kube-router.io/service.local": "true"},
            {ANNOTATION: TUNNEL},
            {ANNOTATION: TUNNEL, "kube-router.io/service.scheduler": "mh"},
            {ANNOTATION: "nat"},
        ]
    ),
)

_READY = (True, True, False)


@st.composite
def _slices(draw: st.DrawFn) -> EndpointSlice:
    family = draw(st.sampled_from(FAMILIES))
    hints = st.frozensets(st.sampled_from(["z1", "z2"]), max_size=1)
    endpoints = st.builds(
        lambda address, node, state, zones: Endpoint(address, node, *state, frozenset(), zones),
        st.sampled_from(_pods[family]),
        st.sampled_from([None, *NODES]),
        st.sampled_from([_READY, _READY, _READY, (False, False, False), (False, True, True), (False, False, True)]),
        hints,
    )
    ports = st.builds(
        EndpointPort, st.sampled_from(["x", "y"]), st.sampled_from(list(Protocol)), st.sampled_from([8080, 80, 53])
    )
    return EndpointSlice(
        Ref("a", draw(st.sampled_from(["s1", "s2", "s3"]))),
        draw(st.sampled_from([*SERVICES, *SERVICES, None])),
        family,
        tuple(draw(st.lists(ports, min_size=1, max_size=2))),
        tuple(draw(st.lists(endpoints, min_size=1, max_size=3))),
    )


_node_addresses = st.sampled_from([NodeAddress("InternalIP", one) for one in ("10.0.0.1", "fd00::1", "10.0.0.2")])
_nodes = st.builds(
    Node,
    st.sampled_from([Ref("", name) for name in NODES]),
    st.lists(
        st.sampled_from([NodeAddress("InternalIP", one) for one in ("10.0.0.1", "fd00::1", "10.0.0.2")]), max_size=2
    ).map(tuple),
    st.sampled_from([(), ("10.1.1.0/24", "fd00:1:1::/64")]),
    st.sampled_from(["", "z1"]),
)
_bridges = st.builds(lambda mtu: Link(BRIDGE_LINK, 3, "bridge", mtu=mtu, up=True), st.sampled_from([1480, 1460]))
_uplinks = st.builds(
    lambda addresses: Link("eth0", 2, mtu=1500, up=True, addresses=tuple(addresses)),
    st.lists(st.sampled_from(["10.0.0.1/24", "fd00::1/64"]), max_size=2, unique=True),
)
_links = _uplinks | _bridges
_records: st.SearchStrategy[Record] = st.one_of(_services, _slices(), _nodes, _links)
_forgotten = st.one_of(
    st.builds(Delete, st.just(Service), st.sampled_from(SERVICES)),
    st.builds(Delete, st.just(EndpointSlice), st.sampled_from([Ref("a", name) for name in ("s1", "s2", "s3")])),
)


_WORDS = ["service"] * 4 + ["slice"] * 5 + ["other"] * 2 + ["delete"] * 2 + ["list"]


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Weighted by hand: left to itself, the search prefers short lists that empty the store, and nothing ever meets."""
    events: list[Event] = []
    for word in draw(st.lists(st.sampled_from(_WORDS), min_size=6, max_size=14)):
        match word:
            case "service":
                events.append(Upsert(draw(_services)))
            case "slice":
                events.append(Upsert(draw(_slices())))
            case "other":
                events.append(Upsert(draw(st.one_of(_nodes, _links))))
            case "delete":
                events.append(draw(_forgotten))
            case _:
                kind, strategy = draw(st.sampled_from([(Service, _services), (EndpointSlice, _slices())]))
                events.append(_list(kind, draw(st.lists(strategy, max_size=3))))
    return events


def _list(kind: Kind, found: Iterable[Record]) -> Replace:
    return Replace(kind, tuple({one.ref: one for one in found}.values()))


class Agent:
    """A proxy over a fake kernel."""

    def __init__(self) -> None:
        self.drivers = fake.kernel()
        programmed = tuple(Programmed(driver, period_s=1e9) for driver in self.drivers)
        self.loop = Loop(
            config=CONFIG, controllers=(CONTROLLER,), drivers=programmed, expected=(*KUBERNETES_KINDS, Link)
        )
        self.take([*(Replace(kind, ()) for kind in KUBERNETES_KINDS), Replace(Link, ())])

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            self.loop.put(event)
        self.loop.step(1.0)

    def stands(self) -> Mapping[Key, Object]:
        return {key: value for driver in self.drivers for key, value in driver.list().items()}

    def facts(self) -> list[Event]:
        return [Upsert(one) for kind in (*KUBERNETES_KINDS, Link) for one in self.loop.store.table(kind)]


def _without_sysctls(stands: Mapping[Key, Object]) -> Mapping[Key, Object]:
    return {key: value for key, value in stands.items() if not isinstance(value, Sysctl)}


@settings(max_examples=150, deadline=None)
@given(histories())
def test_after_every_event_the_kernel_holds_what_a_fresh_start_would_make(events: list[Event]) -> None:
    agent = Agent()
    for event in events:
        agent.take([event])
        fresh = Agent()
        fresh.take(agent.facts())
        assert _without_sysctls(agent.stands()) == _without_sysctls(fresh.stands())
        assert agent.loop.status.failing_total == 0
        assert agent.loop.status.bugs == ()


@settings(max_examples=100, deadline=None)
@given(st.lists(_records, max_size=12, unique_by=lambda one: (type(one), one.ref)), st.randoms(use_true_random=False))
def test_any_order_of_events_ends_the_same(records: list[Record], chance: object) -> None:
    forwards, shuffled = Agent(), Agent()
    for record in records:
        forwards.take([Upsert(record)])
    chance.shuffle(records)  # type: ignore[attr-defined]
    shuffled.take(Upsert(record) for record in records)
    assert forwards.stands() == shuffled.stands()


@settings(max_examples=150, deadline=None)
@given(histories())
def test_every_vip_is_bound_and_every_real_server_has_its_servers_family(events: list[Event]) -> None:
    agent = Agent()
    agent.take(events)
    stands = agent.stands()
    bound = {key.address for key in stands if isinstance(key, LocalAddressKey)}
    own = {*agent.loop.host.node_addresses, *agent.loop.host.addresses}
    for key, value in stands.items():
        if isinstance(value, VirtualServer) and not value.key.fwmark:
            assert value.key.address in bound or value.key.address in own
        if isinstance(value, Entry) and value.mark:
            family = FAMILIES[key.set.startswith("inet6:")]
            assert VirtualServerKey(family, Protocol.TCP, "", 0, fwmark=value.mark) in stands
        if isinstance(key, RealServerKey):
            assert (":" in key.address) == (key.server.family is Family.IPV6)


@settings(max_examples=150, deadline=None)
@given(histories())
def test_an_address_that_endpoints_answer_from_stands_on_no_node(events: list[Event]) -> None:
    agent = Agent()
    agent.take(events)
    stands = agent.stands()
    bound = {key.address for key in stands if isinstance(key, LocalAddressKey)}
    direct = {
        value.key.member.partition(",")[0]: value.mark
        for value in stands.values()
        if isinstance(value, Entry) and value.key.set.endswith("kube-router-dsr")
    }
    # Without an endpoint to choose nothing is marked, and yet tunnels stand ready in pods that are not.
    nobodys = {key.member for key in stands if isinstance(key, EntryKey) and key.set.endswith("kube-router-dsr-vips")}
    tunnelled = {key.server.fwmark for key, value in stands.items() if is_tunnelled(value)}
    assert direct.keys() <= nobodys
    assert not bound & nobodys
    for mark in {*direct.values(), *tunnelled}:
        assert mark & DIRECT_MASK == DIRECT
    for key in stands:
        if isinstance(key, PodTunnelKey):
            assert key.vip in nobodys
            assert key.pod not in agent.loop.host.node_addresses
            assert (":" in key.pod) == (":" in key.vip)
        if isinstance(key, RealServerKey) and is_tunnelled(stands[key]):
            assert key.port in {80, 53}, "as the Service's port"
    rules = [key for key in stands if isinstance(key, RoutingRuleKey)]
    asked = any(one.annotations.get(ANNOTATION) == TUNNEL for one in agent.loop.store.services if not ignored(one))
    assert bool(rules) == asked


def is_tunnelled(value: object) -> bool:
    return isinstance(value, RealServer) and value.forward is Forward.TUNNEL


@settings(max_examples=150, deadline=None)
@given(histories())
def test_no_virtual_server_is_wanted_by_two_services(events: list[Event]) -> None:
    agent = Agent()
    agent.take(events)
    for key in agent.stands():
        if isinstance(key, VirtualServerKey | RealServerKey):
            assert len(agent.loop.tracker.explain(key).wanted_by) == 1, key


# --- family symmetry: IPv4 facts and their IPv6 images want images of each other ---------------------------------------------

_IMAGE = {
    **dict(zip(_vips[4], _vips[6], strict=True)),
    **dict(zip(_pods[4], _pods[6], strict=True)),
    "203.0.113.7": "2001:db8::7",
    "": "",  # a virtual server by mark
}


@settings(max_examples=100, deadline=None)
@given(st.lists(_services, max_size=3), st.lists(_slices(), max_size=4))
def test_ipv6_behaves_as_ipv4_does(services: list[Service], slices: list[EndpointSlice]) -> None:
    node = Node(Ref("", "node-1"), (NodeAddress("InternalIP", "10.0.0.1"), NodeAddress("InternalIP", "fd00::1")))
    four, six = Agent(), Agent()
    four.take([Upsert(node), *map(Upsert, (_only_v4(one) for one in services)), *map(Upsert, filter(_is_v4, slices))])
    six.take([Upsert(node), *(Upsert(_service_image(_only_v4(one))) for one in services)])
    six.take(Upsert(_slice_image(one)) for one in slices if _is_v4(one))
    assert {_server_image(key) for key in four.stands() if isinstance(key, RealServerKey)} == {
        (key.server.protocol, key.server.address, key.server.port, key.server.fwmark > 0, key.address, key.port)
        for key in six.stands()
        if isinstance(key, RealServerKey)
    }
    bound = {value.key.address for value in four.stands().values() if isinstance(value, LocalAddress)}
    assert {_IMAGE[address] for address in bound} == {
        value.key.address for value in six.stands().values() if isinstance(value, LocalAddress)
    }


def _is_v4(one: EndpointSlice) -> bool:
    return one.family is Family.IPV4


def _only_v4(one: Service) -> Service:
    return replace(
        one,
        cluster_ips=tuple(address for address in one.cluster_ips if address in _vips[4])[:1],
        external_ips=tuple(address for address in one.external_ips if address == _shared[0]),
        load_balancer=tuple(item for item in one.load_balancer if item.address == _shared[0]),
        families=FAMILIES[:1],
    )


def _service_image(one: Service) -> Service:
    return replace(
        one,
        cluster_ips=tuple(_IMAGE[address] for address in one.cluster_ips),
        external_ips=tuple(_IMAGE[address] for address in one.external_ips),
        load_balancer=tuple(replace(item, address=_IMAGE[item.address]) for item in one.load_balancer),
        families=FAMILIES[1:],
    )


def _slice_image(one: EndpointSlice) -> EndpointSlice:
    endpoints = tuple(replace(endpoint, address=_IMAGE[endpoint.address]) for endpoint in one.endpoints)
    return replace(one, family=Family.IPV6, endpoints=endpoints)


def _server_image(key: RealServerKey) -> tuple[Protocol, str, int, bool, str, int]:
    server = key.server
    return server.protocol, _IMAGE[server.address], server.port, server.fwmark > 0, _IMAGE[key.address], key.port
