"""The static rules: which flags change them, and that ranges drop only what is the cluster's."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kuberouterpy.config import Config
from kuberouterpy.dataplane import Chain, Jump, Rule
from kuberouterpy.family import FAMILIES, Family
from kuberouterpy.host import Host
from proxy.masquerade import MASQUERADE_CHAIN, SERVICES_CHAIN, UNALLOCATED_CHAIN, base

HOST = Host(
    "node-1",
    families=FAMILIES,
    node_addresses=("172.30.1.11", "fd30::11"),
    pod_cidrs=("10.244.1.0/24", "10.245.1.0/24", "fd00:1::/64", "fd00:2::/64"),
)
RANGES = {Family.IPV4: "10.97.0.0/16", Family.IPV6: "fd00:10:97::/112"}
CONFIG = Config(node_name="node-1", enable_ipv6=True, service_cluster_ip_range=tuple(RANGES.values()))


def rules(chain: str, family: Family, config: Config = CONFIG, host: Host = HOST) -> tuple[Rule, ...]:
    """The rules of a chain; none where it is not there."""
    found = [one for one in base(host, config) if isinstance(one, Chain)]
    return next((one.rules for one in found if (one.key.name, one.key.family) == (chain, family)), ())


def ways(family: Family, config: Config = CONFIG, host: Host = HOST) -> set[tuple[str, str]]:
    """Where packets for a cluster IP that no Service has are dropped, and of which range."""
    found = [one for one in base(host, config) if isinstance(one, Jump) and one.key.chain == UNALLOCATED_CHAIN]
    return {(one.key.parent, one.rule.match[1]) for one in found if one.key.family is family}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pod_cidr_of_the_node_keeps_its_source(family: Family) -> None:
    kept = [rule.match[1] for rule in rules(MASQUERADE_CHAIN, family) if rule.match[:1] == ("-s",)]
    assert kept == list(HOST.cidrs(family))
    assert len(kept) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_masquerade_all_spares_nobody(family: Family) -> None:
    found = rules(MASQUERADE_CHAIN, family, replace(CONFIG, masquerade_all=True))
    assert {rule.jumps for rule in found} == {"MASQUERADE"}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_permit_all_nothing_is_refused(family: Family) -> None:
    assert rules(SERVICES_CHAIN, family)
    assert rules(SERVICES_CHAIN, family, replace(CONFIG, ipvs_permit_all=False)) == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_cluster_ips_that_no_service_has_are_dropped_on_their_way_out(family: Family) -> None:
    assert ways(family) == {("FORWARD", RANGES[family]), ("OUTPUT", RANGES[family])}
    assert [rule.target for rule in rules(UNALLOCATED_CHAIN, family)] == [("DROP",)]


@pytest.mark.parametrize(
    ("config", "host"),
    [
        (replace(CONFIG, service_cluster_ip_range=("10.96.0.0/12",)), HOST),
        (CONFIG, replace(HOST, node_addresses=("10.97.0.5",))),
        (CONFIG, replace(HOST, pod_cidrs=("10.97.4.0/24",))),
    ],
)
def test_a_range_that_may_be_somebody_elses_is_not_dropped(config: Config, host: Host) -> None:
    assert ways(Family.IPV4, config, host) == set()
