"""Whom Events of the agent concern."""

from __future__ import annotations

from kuberouterpy.cluster import ClusterNetworkPolicy, NetworkPolicy, Node, Ref, Service
from kuberouterpy.dataplane import Owner


def test_an_event_is_on_whoever_asked_and_else_on_the_node() -> None:
    from kuberouterpy.agent import _concerned

    told = {
        Owner("proxy", "service", "default/web"): (Service, Ref("default", "web")),
        Owner("routing", "service", "default/web"): (Service, Ref("default", "web")),
        Owner("firewall", "policy", "default/p"): (NetworkPolicy, Ref("default", "p")),
        Owner("firewall", "cnp", "tiered"): (ClusterNetworkPolicy, Ref("", "tiered")),
        Owner("routing", "node", "n2"): (Node, Ref("", "n2")),
        Owner("routing", "peer", "10.0.0.9"): (Node, Ref("", "n1")),
        Owner("routing", "base"): (Node, Ref("", "n1")),
        Owner("firewall", "pod", "default/web-1"): (Node, Ref("", "n1")),
    }
    assert {owner: _concerned(owner, "n1") for owner in told} == told
