"""Pod CIDRs of nodes."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from kuberouterpy.lab.controllers.nodeipam import assign

CLUSTERS = (ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56"))


def node(name: str, *cidrs: str) -> dict[str, dict[str, object]]:
    return {"metadata": {"name": name}, "spec": {"podCIDRs": list(cidrs)} if cidrs else {}}


def test_a_node_gets_the_range_of_its_number_in_every_family() -> None:
    expected = {"node-2": ["10.244.2.0/24", "fd00:10:244:2::/64"]}
    assert expected == assign(CLUSTERS, [node("node-2")])


def test_ranges_are_never_given_twice() -> None:
    nodes = [node("node-1", "10.244.1.0/24", "fd00:10:244::/64"), node("x-1"), node("y")]
    expected = {"x-1": ["10.244.0.0/24", "fd00:10:244:1::/64"], "y": ["10.244.2.0/24", "fd00:10:244:2::/64"]}
    assert expected == assign(CLUSTERS, nodes)


def test_a_full_cluster_range_names_the_node_that_got_none() -> None:
    with pytest.raises(ValueError, match=r"no free /24 in 10\.244\.0\.0/24 for node b"):
        assign([ip_network("10.244.0.0/24")], [node("a"), node("b")])
