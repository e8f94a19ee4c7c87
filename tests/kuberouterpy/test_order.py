"""The order inside a batch: what the node needs to start comes first, and nothing comes before what it requires."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.cluster import Ref, Service, ServicePort, ServiceType, Upsert
from kuberouterpy.dataplane import (
    Entry,
    EntryKey,
    Key,
    Link,
    LinkKey,
    LocalAddress,
    LocalAddressKey,
    Object,
    Owner,
    RealServer,
    RealServerKey,
    Set,
    SetKey,
    VirtualServer,
    VirtualServerKey,
    requires,
)
from kuberouterpy.family import IPV4, IPV6, Family
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import Store
from kuberouterpy.tracker import Tracker
from proxy.controller import AFFINITY, BASE, owner_of, urgency

GROUPS = ((Link,), (Set, Entry), (LocalAddress,), (VirtualServer, RealServer))
KUBERNETES, KUBE_DNS = Ref("default", "kubernetes"), Ref("kube-system", "kube-dns")
OTHER_DNS, WEB = Ref("infra", "resolver"), Ref("apps", "a-web")


def store() -> Store:
    """Return a store with the four Services; only one is known as DNS by its port alone."""
    found = Store((Service,))
    for ref, port in ((KUBERNETES, 443), (KUBE_DNS, 9999), (OTHER_DNS, 53), (WEB, 80)):
        ports = (ServicePort("", Protocol.TCP, port, str(port)),)
        for _ in found.apply(Upsert(Service(ref, ServiceType.CLUSTER_IP, ports=ports))):
            pass
    return found


def objects(number: int, family: Family) -> list[Object]:
    """Return what a Service wants, in no useful order; a smaller number has smaller keys."""
    address = f"10.96.0.{number}" if family is IPV4 else f"fd00::{number}"
    server = VirtualServer(VirtualServerKey(family, Protocol.TCP, address, 80))
    bound = LocalAddress(LocalAddressKey("d", address, family.host_prefix))
    return [RealServer(RealServerKey(server.key, "10.1.0.1" if family is IPV4 else "fd00:1::1", 80)), server, bound]


def test_what_all_share_comes_first_then_the_api_server_then_dns_then_the_rest() -> None:
    facts = store()
    ranks = [urgency(owner_of(ref), facts) for ref in (KUBERNETES, KUBE_DNS, OTHER_DNS, WEB)]
    assert ranks == [1, 2, 2, 3]
    assert [urgency(owner, facts) for owner in (BASE, AFFINITY)] == [0, 0]
    assert urgency(owner_of(Ref("apps", "unknown")), facts) == 3


def _address(key: Key) -> str:
    match key:
        case RealServerKey(server=server):
            return server.address
        case VirtualServerKey(address=address) | LocalAddressKey(address=address):
            return address
    return ""


@pytest.mark.parametrize("family", [IPV4, IPV6])
def test_a_cold_start_serves_the_api_server_and_dns_whole_before_the_rest(family: Family) -> None:
    facts = store()
    tracker = Tracker(GROUPS, lambda owner: urgency(owner, facts))
    # Keys sort the other way round.
    for number, ref in enumerate((WEB, OTHER_DNS, KUBERNETES), start=1):
        tracker.replace(owner_of(ref), objects(number, family))
    tracker.replace(BASE, [Link(LinkKey("d"), "dummy")])
    batches = []
    for batch in tracker.pending(0.0):
        batches.append([(type(op.key), _address(op.key)) for op in batch.ops])
        for op in batch.ops:
            tracker.record(op, None, 0.0)
    api, dns, web = (f"10.96.0.{n}" if family is IPV4 else f"fd00::{n}" for n in (3, 2, 1))
    assert batches[1:] == [
        [(LocalAddressKey, address) for address in (api, dns, web)],
        [(kind, address) for address in (api, dns, web) for kind in (VirtualServerKey, RealServerKey)],
    ]


_owners = [Owner("proxy", "service", name) for name in "abcd"]
_servers = st.builds(
    lambda number: VirtualServer(VirtualServerKey(IPV4, Protocol.TCP, f"10.96.0.{number}", 80)), st.integers(1, 3)
)
_wishes = st.one_of(
    _servers,
    st.builds(lambda one, at: RealServer(RealServerKey(one.key, f"10.1.0.{at}", 80)), _servers, st.integers(1, 3)),
    st.builds(lambda name, at: Entry(EntryKey(name, f"10.0.0.{at}")), st.sampled_from("st"), st.integers(1, 3)),
)


def _needed(key: Key) -> Object:
    if isinstance(key, SetKey):
        return Set(key, IPV4, "hash:ip")
    assert isinstance(key, VirtualServerKey)
    return VirtualServer(key)


@given(
    wishes=st.lists(st.tuples(st.sampled_from(_owners), _wishes), max_size=30),
    ranks=st.fixed_dictionaries({owner: st.integers(0, 3) for owner in _owners}),
)
def test_whoever_shares_a_thing_and_whatever_the_ranks_what_is_required_comes_first(
    wishes: list[tuple[Owner, Object]], ranks: dict[Owner, int]
) -> None:
    tracker = Tracker(GROUPS, ranks.__getitem__)
    wanted: dict[Owner, list[Object]] = {owner: [] for owner in _owners}
    for owner, value in wishes:
        wanted[owner] += [value, *map(_needed, requires(value))]
    for owner, values in wanted.items():
        tracker.replace(owner, values)
    seen: set[object] = set()
    for batch in tracker.pending(0.0):
        for op in batch.ops:
            assert op.value is not None
            assert seen.issuperset(requires(op.value))
            seen.add(op.key)
            tracker.record(op, None, 0.0)
    assert tracker.unfinished() == 0
