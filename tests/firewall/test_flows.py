"""Which tracked connections must end when policies change."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from firewall.flows import must_end
from firewall.model import Flow
from kuberouterpy.cluster import PolicyRule, Record, Ref, Service, ServiceType
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from tests.firewall.world import filled, host, namespace, node, pod, policy

HERE = replace(host("node-0"), node_addresses=("10.0.0.1", "fd00::1"))
FRIENDS = PodSelector(selector({"app": "friend"}), "d")
BASE: tuple[Record, ...] = (
    namespace("d"),
    node("node-0", "10.0.0.1", "fd00::1"),
    node("node-1", "10.0.0.2"),
    pod("d/web", addresses=("10.1.0.5", "fd00:1::5")),
    pod("d/friend", addresses=("10.1.0.6", "fd00:1::6"), labels={"app": "friend"}),
    pod("d/far", node="node-1", addresses=("10.1.1.7", "fd00:1:1::7")),
    Service(Ref("d", "web"), ServiceType.CLUSTER_IP, cluster_ips=("10.96.0.9",)),
)
ONLY_FRIENDS = policy("d/web", EVERYTHING, ingress=(PolicyRule((FRIENDS,)),))


def ends(source: str, destination: str, *records: Record) -> bool:
    return must_end(Flow(source, destination, "tcp", 80), filled((*BASE, *records)), HERE)


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("10.1.1.7", "10.1.0.5", True),
        ("fd00:1:1::7", "fd00:1::5", True),
        ("192.0.2.1", "10.1.0.5", True),
        ("10.0.0.2", "10.1.0.5", True),
        ("10.1.0.6", "10.1.0.5", False),
        ("fd00:1::6", "fd00:1::5", False),
        # this node, also with a VIP as its source
        ("10.0.0.1", "10.1.0.5", False),
        ("10.96.0.9", "10.1.0.5", False),
        # another node's pod is judged there
        ("10.1.0.5", "10.1.1.7", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_what_this_host_denies_now_must_end(source: str, destination: str, *, expected: bool) -> None:
    assert ends(source, destination, ONLY_FRIENDS) is expected
    assert not ends(source, destination)


def test_a_pod_that_took_an_address_over_does_not_inherit_what_it_may_not_have() -> None:
    assert not ends("10.1.0.6", "10.1.0.5", ONLY_FRIENDS)
    stranger = pod("d/stranger", addresses=("10.1.0.6",), created="2026-01-01T00:00:00Z")
    assert ends("10.1.0.6", "10.1.0.5", ONLY_FRIENDS, stranger)
