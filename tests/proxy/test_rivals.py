"""Addresses that others have a right to: other nodes, this node, and Services that come first."""
# ruff: noqa: N802  (rows are K1, K2, ...)

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from kuberouterpy.cluster import (
    LoadBalancerIngress,
    Node,
    NodeAddress,
    Record,
    Ref,
    Service,
    ServicePort,
    ServiceType,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Entry, LocalAddress, Object, Owner, VirtualServer
from kuberouterpy.family import FAMILIES
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import Change, Store
from proxy import CONTROLLER

HOST = Host("node-1", families=FAMILIES, node_addresses=("10.0.0.1", "fd00::1"))
CONFIG = Config(node_name="node-1", enable_ipv6=True, strict_external_ip_validation=False)
SHARED, SHARED_V6 = "203.0.113.7", "2001:db8::7"


def service(name: str, number: int, cluster_ip: str, *external: str, node_port: int = 0) -> Service:
    ports = (ServicePort("", Protocol.TCP, number, node_port),)
    kind = ServiceType.NODE_PORT if node_port else ServiceType.CLUSTER_IP
    return Service(Ref("default", name), kind, (cluster_ip,), ports, external)


A = service("a", 80, "10.96.0.1", SHARED, SHARED_V6)
B = service("b", 80, "10.96.0.2", SHARED, SHARED_V6)


def known(*records: Record) -> Store:
    store = Store()
    for record in records:
        store.apply(Upsert(record))
    return store


def wanted(name: str, store: Store) -> tuple[tuple[Object, ...], dict[str, str]]:
    found = CONTROLLER.desired(Owner("proxy", "service", f"default/{name}"), store, HOST, CONFIG)
    return found.objects, {note.subject: note.reason for note in found.notes}


def servers(objects: Iterable[Object]) -> set[str]:
    return {str(one.key) for one in objects if isinstance(one, VirtualServer)}


def bound(objects: Iterable[Object]) -> set[str]:
    return {one.key.address for one in objects if isinstance(one, LocalAddress)}


def test_K1_the_first_owner_has_a_contested_port_and_the_other_listens_elsewhere() -> None:
    store = known(B, A)
    first, _ = wanted("a", store)
    second, notes = wanted("b", store)
    assert servers(first) == {"tcp 10.96.0.1:80", f"tcp {SHARED}:80", f"tcp [{SHARED_V6}]:80"}
    assert servers(second) == {"tcp 10.96.0.2:80"}
    assert notes[f"tcp {SHARED} port 80"] == notes[f"tcp {SHARED_V6} port 80"] == "contested: default/a has it"


def test_K1_who_came_first_keeps_the_address_whatever_its_name() -> None:
    older = replace(B, created="2026-01-01T00:00:00Z")
    newer = replace(A, created="2026-01-01T00:00:01Z")
    for order in ((older, newer), (newer, older)):
        store = known(*order)
        assert f"tcp {SHARED}:80" in servers(wanted("b", store)[0])
        objects, notes = wanted("a", store)
        assert servers(objects) == {"tcp 10.96.0.1:80"}
        assert notes[f"tcp {SHARED_V6} port 80"] == "contested: default/b has it"


def test_K1_a_load_balancer_may_have_what_another_names_as_an_external_ip() -> None:
    balanced = replace(B, type=ServiceType.LOAD_BALANCER, external_ips=(), load_balancer=(LoadBalancerIngress(SHARED),))
    objects, notes = wanted("b", known(A, balanced))
    assert servers(objects) == {"tcp 10.96.0.2:80"}
    assert notes[f"tcp {SHARED} port 80"] == "contested: default/a has it"


def test_K2_two_services_share_an_address_on_different_ports() -> None:
    store = known(A, service("b", 81, "10.96.0.2", SHARED))
    assert f"tcp {SHARED}:80" in servers(wanted("a", store)[0])
    assert f"tcp {SHARED}:81" in servers(wanted("b", store)[0])


def test_a_service_that_is_left_alone_holds_nothing() -> None:
    objects, _ = wanted("b", known(replace(A, proxy_name="other"), B))
    assert f"tcp {SHARED}:80" in servers(objects)


def test_a_contested_node_port_has_one_owner() -> None:
    store = known(service("a", 80, "10.96.0.1", node_port=30080), service("b", 80, "10.96.0.2", node_port=30080))
    assert "tcp 10.0.0.1:30080" in servers(wanted("a", store)[0])
    assert "tcp 10.0.0.1:30080" not in servers(wanted("b", store)[0])


def test_K3_an_address_of_this_node_is_served_but_neither_bound_nor_closed() -> None:
    objects, _ = wanted("a", known(service("a", 80, "10.96.0.1", "10.0.0.1", "fd00::1")))
    assert {"tcp 10.0.0.1:80", "tcp [fd00::1]:80"} < servers(objects)
    assert bound(objects) == {"10.96.0.1"}
    entries = {one.key.member.split(",")[0] for one in objects if isinstance(one, Entry)}
    assert entries == {"10.96.0.1"}


def test_K1_an_address_of_another_node_is_left_to_it() -> None:
    other = Node(Ref("", "node-2"), (NodeAddress("InternalIP", "10.0.0.2"), NodeAddress("ExternalIP", "2001:db8::2")))
    objects, notes = wanted("a", known(other, service("a", 80, "10.96.0.1", "10.0.0.2", "2001:db8::2", SHARED)))
    assert bound(objects) == {"10.96.0.1", SHARED}
    for address in ("10.0.0.2", "2001:db8::2"):
        assert notes[address] == "external-ip-refused: the address of node node-2, which serves it"


def test_whoever_shares_an_address_is_computed_anew_when_a_service_or_node_comes_or_goes() -> None:
    store = known(A, B)
    node = Node(Ref("", "node-2"), (NodeAddress("InternalIP", SHARED),))

    def names(change: Change) -> set[str]:
        return {owner.name for owner in CONTROLLER.affected(change, store, HOST, CONFIG)}

    assert names(Change(None, A)) == names(Change(A, None)) == {"default/a", "default/b"}
    assert names(Change(A, replace(A, external_ips=()))) == {"default/a", "default/b"}
    assert names(Change(node, None)) == {"default/a", "default/b"}
