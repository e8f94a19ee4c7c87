"""The guest that kernel tests run in is what tests/README.md promises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.guest import Netns

pytestmark = pytest.mark.kernel


def test_a_namespace_is_fresh_and_has_ipvs(netns: Netns) -> None:
    assert netns.run("ipvsadm", "-Sn") == ""
    netns.run("ipvsadm", "-A", "-t", "10.0.0.1:80", "-s", "rr")
    assert netns.run("ipvsadm", "-Sn") == "-A -t 10.0.0.1:80 -s rr\n"


def test_the_next_namespace_knows_nothing_of_the_last(netns: Netns) -> None:
    assert netns.run("ipvsadm", "-Sn") == ""
    # Once another test has loaded a tunnel module, the kernel gives every new namespace its fallback devices.
    assert {*os.listdir("/sys/class/net")} - {"tunl0", "ip6tnl0"} == {"lo"}


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_rules_of_either_family_can_be_set(netns: Netns, program: str) -> None:
    netns.run(program, "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")
    assert "-A POSTROUTING -j MASQUERADE" in netns.run(f"{program}-save", "-t", "nat")


def test_writes_stay_in_the_guest() -> None:
    Path("/etc/written-in-a-guest").write_text("here")
    assert Path("/etc/written-in-a-guest").read_text() == "here"
