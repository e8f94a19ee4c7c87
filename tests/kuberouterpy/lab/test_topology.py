"""The plan of a lab: addresses, subnets, refusals."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import pytest

from kuberouterpy.errors import ConfigError
from kuberouterpy.lab import router
from kuberouterpy.lab.topology import MAX_NODES, SUBNETS, Station, plan


def stations(nodes: int, families: str, subnets: int) -> list[Station]:
    topology = plan(nodes, families, subnets)
    return [*topology.nodes, topology.client]


def test_three_nodes_have_the_addresses_the_documents_show() -> None:
    topology = plan(3, "dual", 2)
    assert [(node.name, node.subnet.name, [a.text for a in node.addresses]) for node in topology.nodes] == [
        ("node-1", "fabric-1", ["172.30.1.11/24", "fd30:0:0:1::11/64"]),
        ("node-2", "fabric-1", ["172.30.1.12/24", "fd30:0:0:1::12/64"]),
        ("node-3", "fabric-2", ["172.30.2.13/24", "fd30:0:0:2::13/64"]),
    ]
    assert topology.server == "http://172.30.0.10:6443"


def test_every_third_node_is_on_the_second_subnet_unless_there_is_one_only() -> None:
    assert [node.name for node in plan(9).nodes if node.subnet.name == "fabric-2"] == ["node-3", "node-6", "node-9"]
    assert {node.subnet.name for node in plan(9, subnets=1).nodes} == {"fabric-1"}


@pytest.mark.parametrize("families", ["ipv4", "ipv6", "dual"])
@pytest.mark.parametrize("subnets", [1, 2])
@pytest.mark.parametrize("nodes", range(1, MAX_NODES + 1))
def test_no_address_is_given_twice_and_each_reaches_its_gateway(nodes: int, families: str, subnets: int) -> None:
    topology = plan(nodes, families, subnets)
    every = [
        *(address for station in stations(nodes, families, subnets) for address in station.addresses),
        *topology.api,
        *(address for subnet in SUBNETS for address in topology.gateways(subnet)),
    ]
    assert len({address.address for address in every}) == len(every)
    for station in stations(nodes, families, subnets):
        for address, gateway in zip(station.addresses, station.gateways, strict=True):
            assert ip_interface(address.text).network == ip_interface(gateway.text).network
            assert str(ip_interface(address.text).ip) == address.address, "addresses are canonical text"


def test_an_ipv6_lab_has_an_ipv6_server() -> None:
    topology = plan(1, "ipv6")
    assert topology.server == "http://[fd30::10]:6443"
    assert {ip_network(prefix).version for prefix in (*topology.cluster_cidrs, *topology.service_cidrs)} == {6}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, "dual", 1), "--nodes 0"), ((10, "dual", 1), "--nodes 10"), ((3, "ipx", 1), "ipx"), ((3, "dual", 3), "3")],
)
def test_what_cannot_be_built_is_named(arguments: tuple[int, str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan(*arguments)


def test_an_unknown_station_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="node-1, node-2, client"):
        plan(2).station("node-7")


def test_the_router_takes_neighbors_from_every_prefix_of_the_fabric() -> None:
    text = router.configuration(plan(1, "dual"))
    for prefix in ("172.30.1.0/24", "172.30.2.0/24", "fd30:0:0:1::/64", "fd30:0:0:2::/64"):
        assert f"neighbor range {prefix} as 64512;" in text
    assert "ipv6" not in router.configuration(plan(1, "ipv4"))
