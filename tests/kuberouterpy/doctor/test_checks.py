"""Every check of ``doctor``: fine on a sound host, and named with its mend on one where just that is broken."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from kuberouterpy.cli import main
from kuberouterpy.cli.doctor import lines
from kuberouterpy.cluster import Link
from kuberouterpy.dataplane import Sysctl, SysctlKey
from kuberouterpy.doctor import CHECKS, Agent, Grade, Listener, Readings, Rules, diagnose
from kuberouterpy.doctor.checks import CAPABILITIES, CNI_PLUGINS, PROGRAMS
from kuberouterpy.prepare import MODULES

WANTED = tuple(
    Sysctl(SysctlKey(path), "1", "why", optional=optional)
    for path, optional in (
        ("net/ipv4/vs/conntrack", False),
        ("net/ipv4/ip_forward", False),
        ("net/ipv6/conf/all/forwarding", False),
        ("net/ipv4/vs/conn_reuse_mode", True),
        ("net/bridge/bridge-nf-call-iptables", False),
        ("net/bridge/bridge-nf-call-ip6tables", False),
    )
)
SOUND = Readings(
    version="1",
    capabilities=frozenset(CAPABILITIES),
    modules=frozenset(MODULES),
    programs=frozenset(PROGRAMS),
    wanted=WANTED,
    sysctls={one.key.path: "1" for one in WANTED if not one.optional} | {"net/ipv4/conf/eth0/rp_filter": "2"},
    links=(
        Link("eth0", 2, mtu=1500, up=True, addresses=("10.0.0.1/24", "fd00::1/64")),
        Link("kube-bridge", 3, "bridge", mtu=1460, up=True),
        Link("tun-0123456789a", 4, "ipip", mtu=1480, up=True),
        Link("tun-0123456789b", 5, "ip6tnl", mtu=1460, up=True),
    ),
    default_link="eth0",
    iptables="nft",
    rules={"nft": Rules(ours=40, total=300), "legacy": Rules()},
    conntrack=(1000, 262144),
    clock_synchronized=True,
    now=1.8e9,
    listeners=(Listener(20244, "*", "python3"), Listener(179, "*", "gobgpd")),
    gobgpd="3.37.0",
    cni_plugins=frozenset({*CNI_PLUGINS, "loopback"}),
    agent=Agent("1", ready=True),
)
NONE = {"agent": None, "listeners": ()}


def changed(path: str, value: str | None) -> dict[str, object]:
    left = {**SOUND.sysctls, path: value or ""}
    return {"sysctls": {key: text for key, text in left.items() if text}}


def link(name: str, mtu: int) -> dict[str, object]:
    return {"links": tuple(replace(one, mtu=mtu) if one.name == name else one for one in SOUND.links)}


@pytest.mark.parametrize(
    ("broken", "check", "grade", "text", "mend"),
    [
        ({"capabilities": frozenset({"NET_RAW"})}, "capabilities", "FAIL", "CAP_NET_ADMIN is missing", "NET_ADMIN"),
        ({"kernel": (5, 8)}, "kernel", "WARN", "5.8 delays clients", "5.9"),
        ({"modules": frozenset(MODULES) - {"ip_vs"}}, "modules", "FAIL", "ip_vs is not loaded", "modprobe ip_vs"),
        (
            {"modules": frozenset(MODULES) - {"xt_set"}, "loadable": frozenset({"xt_set"})},
            "modules",
            "WARN",
            "xt_set",
            "modprobe xt_set",
        ),
        ({"programs": frozenset(PROGRAMS) - {"ipset"}}, "programs", "FAIL", "ipset is not on PATH", "package ipset"),
        (changed("net/ipv4/ip_forward", "0"), "sysctls", "FAIL", "net.ipv4.ip_forward is 0, not 1", "sysctl -w"),
        (changed("net/ipv6/conf/all/forwarding", "0"), "sysctls", "FAIL", "net.ipv6.conf.all", "sysctl -w"),
        (changed("net/ipv4/ip_forward", "0") | NONE, "sysctls", "WARN", "is 0, not 1", "start the agent"),
        (changed("net/ipv4/vs/conntrack", None), "sysctls", "FAIL", "does not exist", "ip_vs"),
        (changed("net/bridge/bridge-nf-call-iptables", None), "br_netfilter", "FAIL", "past services", "br_netfilter"),
        (changed("net/bridge/bridge-nf-call-ip6tables", "0"), "br_netfilter", "FAIL", "ip6tables is 0", "sysctl -w"),
        (
            changed("net/ipv4/conf/eth0/rp_filter", "1"),
            "rp_filter",
            "WARN",
            "eth0 filters strictly",
            "eth0.rp_filter=2",
        ),
        (link("eth0", 1400), "mtu", "FAIL", "pods send 1460 bytes, but eth0 carries 1400", "eth0"),
        (
            {"links": (*SOUND.links, Link("veth1", 9, "veth", mtu=9000, up=True))},
            "mtu",
            "FAIL",
            "1 pods may send 9000 bytes, but eth0 carries 1500",
            "restart these pods",
        ),
        (link("kube-bridge", 1500), "mtu", "FAIL", "but the tunnels carry 1460", "kube-bridge"),
        (
            link("tun-0123456789b", 1480),
            "mtu",
            "FAIL",
            "tun-0123456789b has MTU 1480, but eth0 leaves 1460",
            "mtu 1460",
        ),
        (
            {"rules": {"nft": Rules(40, 0, 300), "legacy": Rules(12, 0, 40)}},
            "iptables",
            "FAIL",
            "chains of ours stand in legacy",
            "cleanup --yes",
        ),
        (
            {"rules": {"nft": Rules(40, 0, 300), "legacy": Rules(0, 0, 7)}},
            "iptables",
            "WARN",
            "others keep 7 rules in legacy",
            "one variant",
        ),
        ({"rules": {"nft": Rules(40, 9, 300)}}, "other proxies", "WARN", "kube-proxy has 9 chains", "--cleanup"),
        (
            {"links": (*SOUND.links, Link("kube-ipvs0", 9, "dummy"))},
            "other proxies",
            "FAIL",
            "kube-ipvs0 is there",
            "ip link delete kube-ipvs0",
        ),
        ({"conntrack": (250_000, 262_144)}, "conntrack", "FAIL", "250,000 of 262,144", "nf_conntrack_max=524288"),
        ({"conntrack": (10, 8192)}, "conntrack", "WARN", "at most 8,192", "nf_conntrack_max=262144"),
        ({"now": 0.0}, "clock", "FAIL", "before 2025", "set the time"),
        ({"clock_synchronized": False}, "clock", "WARN", "not synchronized", "chrony"),
        (
            {"listeners": (Listener(20244, "*", "nginx"),), "agent": None},
            "ports",
            "FAIL",
            "nginx listens on 20244",
            "--health-port",
        ),
        ({"listeners": (Listener(179, "*", "bird"),)}, "ports", "FAIL", "bird listens on 179", "--bgp-port"),
        ({"gobgpd": "2.34.0"}, "gobgpd", "FAIL", "version 2.34.0", "3.10 to 4.x"),
        (
            {"agent": Agent("1", ready=True, unreachable=("gobgp: no socket at /x",))},
            "gobgpd",
            "FAIL",
            "no socket at /x",
            "start the sidecar",
        ),
        ({"gobgpd": "", "gobgp_error": "no socket"} | NONE, "gobgpd", "WARN", "neither a sidecar", "start"),
        ({"cni_plugins": frozenset({"bridge", "portmap"})}, "cni", "FAIL", "host-local is missing", "prepare"),
        (NONE, "agent", "WARN", "none answers", "kuberouterpy run"),
        ({"agent": Agent("2", ready=True)}, "agent", "WARN", "it is 2, this program is 1", "own image"),
        ({"agent": Agent("1", ready=False)}, "agent", "FAIL", "not ready", "status"),
        ({"agent": Agent("1", ready=True, failing=("set a: full",))}, "agent", "FAIL", "set a: full", "explain"),
        ({"agent": Agent("1", ready=True, unreachable=("kubernetes: refused",))}, "agent", "FAIL", "refused", "status"),
    ],
)
def test_what_is_broken_is_named_first_with_its_mend(
    broken: Mapping[str, object], check: str, grade: str, text: str, mend: str
) -> None:
    found = diagnose(replace(SOUND, **broken))
    named = [one for one in found if one.check == check and text in one.text]
    assert [(one.grade.name, mend in one.mend) for one in named] == [(grade, True)], found
    assert [one.grade for one in found] == sorted(one.grade for one in found)
    # Nothing else is blamed for it.
    assert {one.check for one in found if one.grade is Grade.FAIL} <= {check}


def test_a_sound_host_has_no_findings() -> None:
    assert [one for one in diagnose(SOUND) if one.grade is not Grade.OK] == []
    assert {one.check for one in diagnose(SOUND)} == set(CHECKS)


def test_an_agent_that_reaches_its_sidecar_is_believed() -> None:
    elsewhere = replace(SOUND, gobgpd="", gobgp_error="no socket at /the/default")
    assert [one for one in diagnose(elsewhere) if one.grade is not Grade.OK] == []


def test_a_firewall_alone_needs_neither_gobgpd_nor_plugins() -> None:
    alone = replace(SOUND, run_router=False, gobgpd="", gobgp_error="", cni_plugins=None, listeners=())
    assert [one for one in diagnose(alone) if one.grade is not Grade.OK] == []


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_every_line_fits_and_nothing_is_cut(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kuberouterpy.cli.table.width", lambda: columns)
    found = diagnose(replace(SOUND, **link("eth0", 1400), capabilities=frozenset()))
    shown = list(lines(found))
    assert max(map(len, shown)) <= columns
    assert "large packets are lost" in " ".join(" ".join(shown).split())


def test_this_host_can_be_looked_at_and_the_exit_code_says_how_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever runs the tests, on whatever kernel: readings that cannot be taken are findings, never errors."""
    monkeypatch.setenv("KUBEROUTERPY_SOCKET", "/nonexistent")
    code = main(["doctor", "-o", "json"])
    told = json.loads(capsys.readouterr().out)
    assert {one["check"] for one in told} == set(CHECKS)
    assert code == (4 if any(one["grade"] == "FAIL" for one in told) else 0)
    assert main(["doctor", "--check", "nonsense"]) == 2
    assert "no check is called nonsense; there are capabilities" in capsys.readouterr().err
