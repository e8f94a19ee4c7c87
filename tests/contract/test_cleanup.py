"""``cleanup`` on a real kernel: zero of ours, all of others, judged by the kernel's own tools."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from kuberouterpy import offline
from kuberouterpy.cleanup import Closing
from kuberouterpy.cli import main
from kuberouterpy.config import Config
from kuberouterpy.dataplane import (
    Link,
    LinkKey,
    LocalAddress,
    LocalAddressKey,
    NextHop,
    Object,
    Op,
    Route,
    RouteKey,
    RoutingRule,
    RoutingRuleKey,
    Sysctl,
    SysctlKey,
    Verb,
    VirtualServerKey,
)
from kuberouterpy.drivers import Driver
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.drivers.links import LinksDriver
from kuberouterpy.drivers.routes import RoutesDriver
from kuberouterpy.drivers.sysctl import SysctlDriver
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.text import name_of
from tests.guest import Netns

pytestmark = [pytest.mark.kernel]

WORLD = """\
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.1.0/24, "fd00:1:1::/64"]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: "fd00::1"}]}
---
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.1.1.3}, {ip: "fd00:1:1::3"}], phase: Running}
---
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::a"]
  ipFamilies: [IPv4, IPv6]
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 20}}
  ports: [{name: http, port: 80, protocol: TCP, nodePort: 30080}]
---
kind: EndpointSlice
metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.1.1.3], nodeName: n1, conditions: {ready: true}}]
---
kind: EndpointSlice
metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: ["fd00:1:1::3"], nodeName: n1, conditions: {ready: true}}]
---
kind: NetworkPolicy
metadata: {name: shut}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.9.0.0/16}}]}]}
"""
# Objects that no fact of this world asks for, of kinds that must go as well: an overlay's, an old policy's.
OTHERS: tuple[Object, ...] = (
    Link(LinkKey("tun-0123456789a"), "ipip", mtu=1480, local="10.0.0.1", remote="10.0.0.2"),
    Link(LinkKey("tun-0123456789b"), "ip6tnl", local="fd00::1", remote="fd00::2"),
    Link(LinkKey("tun-0123456789c"), "vxlan", 1450, "10.0.0.1", port=4789, vni=77, hardware="02:00:00:00:00:01"),
    LocalAddress(LocalAddressKey("kube-dummy-if", "10.96.77.77", 32)),
    Route(RouteKey(254, "10.1.9.0/24"), (NextHop("10.0.0.9"),)),
    Route(RouteKey(77, "fd00:1:9::/64"), (NextHop("fd00::9"),)),
    RoutingRule(RoutingRuleKey(IPV4, 32764, "10.1.1.0/24"), 77),
    RoutingRule(RoutingRuleKey(IPV6, 32764, "fd00:1:1::/64"), 77),
)
# What looks most like ours: our VIP's neighbors, a node port outside the range, a mark outside ours, names one letter off.
FOREIGN = """\
ip link add eth0 type dummy
ip address add 10.0.0.1/24 dev eth0
ip address add fd00::1/64 dev eth0 nodad
ip link set eth0 up
ip link add kube-bridge type bridge
ip link set kube-bridge up
ip link add tun-mine type ipip local 10.0.0.1 remote 10.0.0.7
ip link add kube-dummy type dummy
ip address add 10.96.0.99/32 dev kube-dummy
ip link set kube-dummy up
ip route add 10.7.0.0/16 via 10.0.0.7
ip route add 10.8.0.0/16 via 10.0.0.7 proto bird
ip -6 route add fd07::/64 via fd00::7 proto static
ip rule add from 10.7.0.0/16 lookup 100
ip -6 rule add fwmark 0x9 lookup 101
ipvsadm -A -t 10.96.0.99:80 -s wlc
ipvsadm -a -t 10.96.0.99:80 -r 10.7.0.1:80 -m
ipvsadm -A -t 10.0.0.1:80 -s rr
ipvsadm -A -t [fd00::1]:443 -s rr
ipvsadm -A -f 77 -s rr
ipset create kube-route hash:ip
ipset add kube-route 10.7.0.1
ipset create inet6:mine hash:net family inet6
iptables -N KUBE-SERVICES
iptables -A KUBE-SERVICES -s 10.7.0.0/16 -j DROP
iptables -A FORWARD -j KUBE-SERVICES
iptables -A INPUT -m set --match-set kube-route src -j ACCEPT
iptables -t nat -A POSTROUTING -s 10.7.0.0/16 -j MASQUERADE
iptables -t mangle -A PREROUTING -s 10.7.0.0/16 -j MARK --set-mark 0x9
ip6tables -A INPUT -s fd07::/64 -j ACCEPT
ip6tables -t nat -A POSTROUTING -s fd07::/64 -j MASQUERADE
ip6tables -t mangle -A OUTPUT -s fd07::/64 -j MARK --set-mark 0x9
"""
FOREIGN_SERVERS = {"tcp 10.96.0.99:80", "tcp 10.0.0.1:80", "tcp [fd00::1]:443", "fwmark 77 inet"}
Agent = Callable[[], dict[str, Driver]]
MEMORY = "net/ipv4/conf/all/arp_ignore"


def seen(netns: Netns) -> list[str]:
    """Return everything the tools print, without what the kernel counts or draws by lot."""
    commands = [
        "ipvsadm -Sn", "ipset save", "iptables-save", "ip6tables-save", "ip -d -o link", "ip -o address",
        "ip route show table all", "ip -6 route show table all", "ip rule", "ip -6 rule",
    ]  # fmt: skip
    lines = [line for command in commands for line in netns.run(*command.split()).splitlines()]
    lines.append(Path("/proc/sys", MEMORY).read_text())
    # Link numbers, addresses by lot, time stamps, packet counts, timers; fe80 and multicast are the kernel's own.
    noise = re.compile(r"initval \S+|\[\d+:\d+\]$|^\d+: |link/\S+ \S+|valid_lft.*|promiscuity.*")
    return sorted(noise.sub("", line).strip() for line in lines if not re.search(r"tunl0|ip6tnl0|fe80|ff00|^#", line))


@pytest.fixture
def agent(netns: Netns, tmp_path: Path) -> Iterator[Callable[[], dict[str, Driver]]]:
    """Return what programs the world and the other objects with the agent's own drivers, and returns these."""
    with ExitStack() as open_drivers:

        def program() -> dict[str, Driver]:
            drivers = _programmed(tmp_path, tmp_path / "sysctls.json")
            for driver in drivers.values():
                if isinstance(driver, Closing):
                    open_drivers.callback(driver.close)
            return drivers

        yield program


def _programmed(folder: Path, memory: Path) -> dict[str, Driver]:
    (folder / "world.yaml").write_text(WORLD)
    facts = offline.read([folder / "world.yaml"])
    config = Config(node_name="n1", enable_ipv6=True)
    loop = offline.build(config, facts, offline.links_of(facts))
    drivers: list[Driver] = [SysctlDriver(memory=memory), LinksDriver(), IpsetDriver(), IptablesDriver()]
    drivers += [IpvsDriver(lambda key: str(key) not in FOREIGN_SERVERS), RoutesDriver()]
    wanted = [op for op in loop.tracker.plan() if "kube-bridge" not in name_of(op.key)]  # kept: pods hang on it
    wanted += [Op(Verb.CREATE, value.key, value) for value in OTHERS]
    for driver in drivers:
        errors = [error for _, error in driver.apply([op for op in wanted if type(op.value) in driver.kinds]) if error]
        assert not [error for error in errors if "sysctl" not in str(error)]
    return {driver.name: driver for driver in drivers}


@pytest.fixture
def host(netns: Netns, tmp_path: Path) -> Callable[..., int]:
    """Plant what is foreign; return what runs ``cleanup``."""
    for command in FOREIGN.splitlines():
        netns.run(*command.split())
    sockets = ["--agent-socket", str(tmp_path / "agent.sock"), "--cni-conf-file", str(tmp_path / "net.conflist")]

    def cleanup(*words: str) -> int:
        return main([*(words or ("cleanup", "--yes")), *sockets])

    return cleanup


def test_zero_of_ours_is_left_and_all_of_others(
    netns: Netns, tmp_path: Path, agent: Agent, host: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every kind, both families; a plan first writes nothing, and the second cleanup finds nothing."""
    before = seen(netns)
    drivers = agent()
    (error,) = (one for _, one in drivers["sysctl"].apply([_sysctl("1")]))
    assert error is None
    (tmp_path / "net.conflist").write_text('{"name": "kuberouterpy", "plugins": []}')
    during = seen(netns)
    kinds = {type(key).__name__ for driver in drivers.values() for key in driver.list()}
    assert kinds >= {"SysctlKey", "LinkKey", "LocalAddressKey", "SetKey", "EntryKey", "ChainKey", "JumpKey"}
    assert kinds >= {"VirtualServerKey", "RealServerKey", "RouteKey", "RoutingRuleKey"}

    assert host("cleanup", "--exit-code") == 3
    assert seen(netns) == during
    plan = capsys.readouterr().out
    assert all(f"- {kind} " in plan for kind in ("link", "set", "chain", "jump", "virtual", "real", "route", "rule"))
    assert f"~ sysctl    {MEMORY} = 1 -> = 0" in plan
    assert not [
        word for word in ("10.96.0.99", "10.0.0.1:80", "KUBE-SERVICES", "kube-dummy ", "tun-mine") if word in plan
    ]

    assert host() == 0, capsys.readouterr().err
    assert seen(netns) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world.yaml"]
    assert host() == 0
    assert "nothing of ours is here" in capsys.readouterr().out
    assert host("cleanup", "--exit-code") == 0


def test_run_cleanup_config_is_the_same(
    netns: Netns, tmp_path: Path, agent: Agent, host: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = seen(netns)
    agent()
    assert host("run", "--cleanup-config") == 0, capsys.readouterr().err
    assert seen(netns) == before


@pytest.mark.parametrize("missing", [("ipvs", "links"), ("iptables", "ipset", "routes")])
def test_a_half_configured_host_is_cleaned_as_well(
    netns: Netns,
    tmp_path: Path,
    agent: Agent,
    host: Callable[..., int],
    missing: Sequence[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Somebody has flushed a part by hand: the rest goes all the same."""
    before = seen(netns)
    drivers = agent()
    for name in missing:
        keys = [key for key in drivers[name].list() if not _stands_in_the_way(key)]
        list(drivers[name].apply([Op(Verb.DELETE, key, None) for key in reversed(keys)]))
    assert host() == 0, capsys.readouterr().err
    assert seen(netns) == before


def _stands_in_the_way(key: object) -> bool:
    return key == LinkKey("kube-dummy-if")  # without it nobody can tell whose a virtual server is


def test_the_bridge_goes_only_when_asked_for(netns: Netns, host: Callable[..., int]) -> None:
    assert host() == 0
    assert "kube-bridge" in netns.run("ip", "link")
    assert host("cleanup", "--yes", "--bridge") == 0
    assert "kube-bridge" not in netns.run("ip", "link")


def test_a_virtual_server_that_cannot_go_keeps_the_address_that_marks_it(
    netns: Netns, tmp_path: Path, agent: Agent, host: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent()
    real = IpvsDriver.apply

    def refusing(self: IpvsDriver, ops: Sequence[Op]) -> object:
        from kuberouterpy.errors import DriverError

        for op in ops:
            if isinstance(op.key, VirtualServerKey) and op.key.address == "10.96.0.10":
                yield op, DriverError("delete virtual server: busy")
            else:
                yield from real(self, [op])

    monkeypatch.setattr(IpvsDriver, "apply", refusing)
    assert host() == 1
    assert "10.96.0.10/32" in netns.run("ip", "address", "show", "kube-dummy-if")
    monkeypatch.undo()
    assert host() == 0
    assert "10.96.0.10:80" not in netns.run("ipvsadm", "-Sn")
    assert "kube-dummy-if" not in netns.run("ip", "link")


def test_one_protocol_number_and_one_node_port_are_told_apart_from_ours(netns: Netns, host: Callable[..., int]) -> None:
    """A node port of ours on an address of the node goes; the same address outside the range stays."""
    netns.run("ipvsadm", "-A", "-t", "10.0.0.1:30080")
    assert host() == 0
    rules = netns.run("ipvsadm", "-Sn")
    assert "10.0.0.1:30080" not in rules
    assert "10.0.0.1:80" in rules


def _sysctl(value: str) -> Op:
    key = SysctlKey(MEMORY)
    return Op(Verb.CREATE, key, Sysctl(key, value))
