"""Whom Events of the agent concern, and what it says at its start."""

from __future__ import annotations

import subprocess

import pytest

from kuberouterpy import agent
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


@pytest.mark.parametrize("fails", [None, FileNotFoundError("modprobe"), subprocess.TimeoutExpired("modprobe", 30)])
def test_missing_modules_are_named_at_the_start_with_what_they_are_for(
    fails: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> None:
        if fails:
            raise fails

    monkeypatch.setattr(agent, "load_modules", load)
    monkeypatch.setattr(agent, "missing_modules", lambda: ["ip_vs", "xt_set"])
    agent._load_modules()
    told = [one.__dict__["fields"] for one in caplog.records if one.message == "module-missing"]
    assert [one["key"] for one in told] == ["ip_vs", "xt_set"]
    assert told[0]["reason"] == "needed for virtual servers"
