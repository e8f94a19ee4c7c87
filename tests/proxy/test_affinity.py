"""Session affinity: which timeouts are kept here, and what remembers a client."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Ref,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Chain, ChainKey, Entry, EntryKey, RealServer, Set, SetKey, VirtualServer, requires
from kuberouterpy.family import FAMILIES, IPV4, IPV6
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import Store
from proxy import CONTROLLER, is_mark
from proxy.affinity import is_exact
from proxy.controller import AFFINITY, BASE, owner_of
from proxy.services import desired

HOST = Host("node-1", families=FAMILIES, node_addresses=("10.0.0.1", "fd00::1"))
CONFIG = Config(node_name="node-1", enable_ipv6=True)
WEB = Service(
    Ref("default", "web"),
    ServiceType.NODE_PORT,
    ("10.96.0.10", "fd00:10:96::10"),
    (ServicePort("http", Protocol.TCP, 80, 30080),),
    families=FAMILIES,
    affinity_s=10,
)
READY, DRAINING = (True, True, False), (False, True, True)


def slices(*states: tuple[bool, bool, bool]) -> tuple[EndpointSlice, ...]:
    ports = (EndpointPort("http", Protocol.TCP, 8080),)
    four = tuple(Endpoint(f"10.1.2.{number}", "node-2", *state) for number, state in enumerate(states, 1))
    six = tuple(Endpoint(f"fd00:1:2::{number}", "node-2", *state) for number, state in enumerate(states, 1))
    return (
        EndpointSlice(Ref("default", "web-4"), WEB.ref, IPV4, ports, four),
        EndpointSlice(Ref("default", "web-6"), WEB.ref, IPV6, ports, six),
    )


@pytest.mark.parametrize(("seconds", "exact"), [(0, False), (1, True), (179, True), (180, False), (10800, False)])
def test_short_timeouts_are_kept_here_and_long_ones_by_the_kernel(seconds: int, exact: bool) -> None:
    service = replace(WEB, affinity_s=seconds)
    assert is_exact(service) is exact
    objects = desired(service, slices(READY), HOST, CONFIG).objects
    persistence = {one.persistence_s for one in objects if isinstance(one, VirtualServer)}
    assert persistence == {0 if exact else seconds}
    assert any(isinstance(one, Set) for one in objects) is exact


def test_every_address_leads_to_the_group_of_its_policy() -> None:
    def marks(service: Service) -> dict[str, int]:
        objects = desired(service, slices(READY), HOST, CONFIG).objects
        return {
            one.key.member: one.mark
            for one in objects
            if isinstance(one, Entry) and one.key.set.endswith("kube-router-sticky")
        }

    shared = marks(WEB)
    assert set(shared) == {
        "10.96.0.10,tcp:80",
        "10.0.0.1,tcp:30080",
        "fd00:10:96::10,tcp:80",
        "fd00::1,tcp:30080",
    }
    assert len(set(shared.values())) == 1
    assert all(map(is_mark, shared.values()))
    assert len(set(marks(replace(WEB, external_policy=TrafficPolicy.LOCAL)).values())) == 2


def test_an_endpoint_alone_serves_its_clients_and_a_draining_one_gets_no_new_ones() -> None:
    objects = desired(WEB, slices(READY, READY, DRAINING), HOST, CONFIG).objects
    by_mark = [one for one in objects if isinstance(one, RealServer) and one.key.server.fwmark]
    alone = [one for one in by_mark if sum(other.key.server == one.key.server for other in by_mark) == 1]
    assert sorted((one.key.address, one.weight) for one in alone) == [
        ("10.1.2.1", 1),
        ("10.1.2.2", 1),
        ("10.1.2.3", 0),
        ("fd00:1:2::1", 1),
        ("fd00:1:2::2", 1),
        ("fd00:1:2::3", 0),
    ]
    chains = [one for one in objects if isinstance(one, Chain)]
    learnt = {rule.match[1] for chain in chains for rule in chain.rules if rule.match[0] == "-d"}
    assert learnt == {"10.1.2.1/32", "10.1.2.2/32", "fd00:1:2::1/128", "fd00:1:2::2/128"}


def test_what_leads_to_the_groups_stands_only_while_there_is_one() -> None:
    store = Store()
    assert CONTROLLER.desired(AFFINITY, store, HOST, CONFIG).objects == ()
    store.apply(Upsert(replace(WEB, affinity_s=10800)))
    assert CONTROLLER.desired(AFFINITY, store, HOST, CONFIG).objects == ()
    store.apply(Upsert(WEB))
    assert CONTROLLER.desired(AFFINITY, store, HOST, CONFIG).objects


def test_nothing_leads_to_a_chain_that_is_not_there() -> None:
    store = Store()
    store.apply(Upsert(WEB))
    for one in slices(READY, DRAINING):
        store.apply(Upsert(one))
    owners = (BASE, AFFINITY, owner_of(WEB.ref))
    objects = [value for owner in owners for value in CONTROLLER.desired(owner, store, HOST, CONFIG).objects]
    needed = {key for value in objects for key in requires(value) if isinstance(key, ChainKey | SetKey)}
    assert needed <= {value.key for value in objects}


def test_clients_are_the_kernels_to_remember_and_to_forget() -> None:
    sets = [one.key.name for one in desired(WEB, slices(READY), HOST, CONFIG).objects if isinstance(one, Set)]
    assert len(sets) == 2
    for name in sets:
        assert CONTROLLER.claims(SetKey(name))
        assert not CONTROLLER.claims(EntryKey(name, "10.1.4.7"))
