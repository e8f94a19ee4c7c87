"""Which endpoints serve: services.md 0.2-0.5, row by row, for both families."""

from __future__ import annotations

import pytest

from kuberouterpy.cluster import Endpoint, EndpointPort, EndpointSlice, Ref, ServicePort, TrafficPolicy
from kuberouterpy.family import FAMILIES, Family
from kuberouterpy.host import Host
from kuberouterpy.protocol import Protocol
from proxy.endpoints import backends, categorize, weigh

HOST = Host("node-1", families=FAMILIES, zone="a")
HTTP = ServicePort("http", Protocol.TCP, 80)
CLUSTER, LOCAL = TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL


def address(family: Family, number: int) -> str:
    return f"10.1.0.{number}" if family is Family.IPV4 else f"fd00::{number}"


def endpoint(
    family: Family, number: int, state: str = "ready", node: str | None = "node-2", **hints: frozenset[str]
) -> Endpoint:
    ready, serving, terminating = {
        "ready": (True, True, False),
        "unready": (False, False, False),
        "draining": (False, True, True),
        "stopping": (False, False, True),
    }[state]
    return Endpoint(address(family, number), node, ready, serving, terminating, **hints)


def slice_of(
    family: Family, *endpoints: Endpoint, name: str = "s", ports: tuple[EndpointPort, ...] | None = None
) -> EndpointSlice:
    ports = (EndpointPort("http", Protocol.TCP, 8080),) if ports is None else ports
    return EndpointSlice(Ref("default", name), Ref("default", "web"), family, ports, endpoints)


def weights(
    family: Family,
    *endpoints: Endpoint,
    policy: TrafficPolicy = CLUSTER,
    protocol: Protocol = Protocol.TCP,
    host: Host = HOST,
) -> dict[int, int]:
    """Return the weight of each endpoint by its number."""
    port = ServicePort("http", protocol, 80)
    one = slice_of(family, *endpoints, ports=(EndpointPort("http", protocol, 8080),))
    found = categorize(backends([one], port, family), host)
    chosen = weigh(found, policy=policy, protocol=protocol, host=host)
    numbers = {address(family, number): number for number in range(1, 20)}
    return {numbers[backend.address]: weight for backend, weight in chosen}


@pytest.mark.parametrize("family", FAMILIES)
class TestTiers:
    def test_ready_endpoints_serve_and_others_drain(self, family: Family) -> None:
        made = [endpoint(family, n, state) for n, state in enumerate(("ready", "unready", "draining", "stopping"), 1)]
        assert weights(family, *made) == {1: 1, 2: 0, 3: 0, 4: 0}

    def test_terminating_endpoints_serve_only_where_none_is_ready(self, family: Family) -> None:
        made = [endpoint(family, n, state) for n, state in enumerate(("unready", "draining", "stopping"), 1)]
        assert weights(family, *made) == {1: 0, 2: 1, 3: 0}

    def test_D15_terminating_and_unready_serves_where_the_slice_publishes_it_as_ready(self, family: Family) -> None:  # noqa: N802
        # publishNotReadyAddresses: the controller of slices says ready and serving whatever the pod's state.
        published = Endpoint(address(family, 1), "node-1", ready=True, serving=True, terminating=True)
        for policy in (CLUSTER, LOCAL):
            assert weights(family, published, policy=policy) == {1: 1}
            assert weights(family, published, policy=policy, protocol=Protocol.UDP) == {1: 1}

    def test_D16_terminating_and_unready_serves_nobody_even_where_nothing_else_does(self, family: Family) -> None:  # noqa: N802
        stopping = endpoint(family, 1, "stopping", node="node-1")
        for policy in (CLUSTER, LOCAL):
            assert weights(family, stopping, policy=policy) == {1: 0}
            assert weights(family, stopping, policy=policy, protocol=Protocol.UDP) == {}
        assert not categorize(backends([slice_of(family, stopping)], HTTP, family), HOST).any

    @pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.SCTP])
    def test_udp_and_sctp_endpoints_that_do_not_serve_are_not_there(self, family: Family, protocol: Protocol) -> None:
        made = [endpoint(family, n, state) for n, state in enumerate(("ready", "unready", "draining", "stopping"), 1)]
        assert weights(family, *made, protocol=protocol) == {1: 1}

    def test_local_uses_this_nodes_endpoints_only(self, family: Family) -> None:
        made = [endpoint(family, 1, node="node-1"), endpoint(family, 2, node="node-2"), endpoint(family, 3, node=None)]
        assert weights(family, *made, policy=LOCAL) == {1: 1}

    def test_local_falls_back_to_its_own_terminating_endpoints_not_to_others(self, family: Family) -> None:
        made = [endpoint(family, 1, "draining", node="node-1"), endpoint(family, 2, node="node-2")]
        assert weights(family, *made, policy=LOCAL) == {1: 1}
        assert weights(family, made[1], policy=LOCAL) == {}

    def test_a_set_that_is_empty_here_differs_from_one_that_is_empty_everywhere(self, family: Family) -> None:
        elsewhere = backends([slice_of(family, endpoint(family, 1))], HTTP, family)
        nowhere = backends([slice_of(family, endpoint(family, 1, "unready"))], HTTP, family)
        assert (categorize(elsewhere, HOST).local, categorize(elsewhere, HOST).any) == ((), True)
        assert (categorize(nowhere, HOST).cluster, categorize(nowhere, HOST).any) == ((), False)


def zones(*names: str) -> frozenset[str]:
    return frozenset(names)


@pytest.mark.parametrize("family", FAMILIES)
class TestHints:
    def test_same_zone_where_every_ready_endpoint_has_a_hint(self, family: Family) -> None:
        made = [endpoint(family, 1, for_zones=zones("a")), endpoint(family, 2, for_zones=zones("b"))]
        assert weights(family, *made) == {1: 1}

    def test_one_endpoint_without_a_hint_turns_the_filter_off(self, family: Family) -> None:
        made = [endpoint(family, 1, for_zones=zones("a")), endpoint(family, 2)]
        assert weights(family, *made) == {1: 1, 2: 1}

    def test_no_endpoint_for_this_zone_turns_the_filter_off(self, family: Family) -> None:
        made = [endpoint(family, 1, for_zones=zones("b")), endpoint(family, 2, for_zones=zones("c"))]
        assert weights(family, *made) == {1: 1, 2: 1}

    def test_a_node_without_a_zone_filters_nothing(self, family: Family) -> None:
        made = [endpoint(family, 1, for_zones=zones("a")), endpoint(family, 2, for_zones=zones("b"))]
        assert weights(family, *made, host=Host("node-1", families=FAMILIES)) == {1: 1, 2: 1}

    def test_same_node_goes_before_same_zone(self, family: Family) -> None:
        here, there = zones("node-1"), zones("node-2")
        made = [
            endpoint(family, 1, for_nodes=here, for_zones=zones("b")),
            endpoint(family, 2, for_nodes=there, for_zones=zones("a")),
        ]
        assert weights(family, *made) == {1: 1}
        assert weights(family, made[1]) == {2: 1}

    def test_hints_are_read_from_ready_endpoints_only_and_never_narrow_terminating_ones(self, family: Family) -> None:
        ready = endpoint(family, 1, for_zones=zones("b"))
        draining = endpoint(family, 2, "draining", for_zones=zones("a"))
        assert weights(family, ready, draining) == {1: 1, 2: 0}
        assert weights(family, endpoint(family, 3, "draining", for_zones=zones("b")), draining) == {2: 1, 3: 1}

    def test_local_policy_ignores_hints(self, family: Family) -> None:
        made = [endpoint(family, 1, node="node-1", for_zones=zones("b")), endpoint(family, 2, for_zones=zones("a"))]
        assert weights(family, *made, policy=LOCAL) == {1: 1}


@pytest.mark.parametrize("family", FAMILIES)
class TestPorts:
    def test_ports_match_by_name_and_protocol(self, family: Family) -> None:
        ports = (
            EndpointPort("http", Protocol.UDP, 1),
            EndpointPort("https", Protocol.TCP, 2),
            EndpointPort("http", Protocol.TCP, 3),
        )
        found = backends([slice_of(family, endpoint(family, 1), ports=ports)], HTTP, family)
        assert [one.port for one in found] == [3]

    def test_one_address_may_serve_two_numbers_in_two_slices(self, family: Family) -> None:
        other = slice_of(family, endpoint(family, 1), name="t", ports=(EndpointPort("http", Protocol.TCP, 9090),))
        found = backends([slice_of(family, endpoint(family, 1)), other], HTTP, family)
        assert [(one.address, one.port) for one in found] == [(address(family, 1), 8080), (address(family, 1), 9090)]

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_duplicate_during_a_migration_counts_once_with_its_better_state(self, family: Family, order: int) -> None:
        slices = [slice_of(family, endpoint(family, 1)), slice_of(family, endpoint(family, 1, "draining"), name="t")]
        (one,) = backends(slices[::order], HTTP, family)
        assert one.endpoint.ready

    def test_slices_of_the_other_family_feed_nothing(self, family: Family) -> None:
        other = Family.IPV6 if family is Family.IPV4 else Family.IPV4
        assert backends([slice_of(other, endpoint(other, 1))], HTTP, family) == ()
