"""A node is taken over from kube-proxy, owned, and given back, on a real kernel, while connections through the VIPs stay open.

Three namespaces: a client, the node, a pod. kube-proxy's objects are laid out as it lays them (tests/migrate/layout.py); the
agent is its own loop with its own drivers.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.migrate import layout
from tests.migrate.layout import BOTH, IPV6, Addresses

if TYPE_CHECKING:
    from kuberouterpy.migrate import kernel
    from tests.guest import Netns

pytestmark = [pytest.mark.kernel]


def facts() -> list[dict[str, Any]]:
    """Return the cluster: this node, and default/web with one endpoint in each family."""
    node = {
        "metadata": {"name": "node-1"},
        "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": one.node} for one in BOTH]},
    }
    service = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "clusterIP": BOTH[0].vip, "clusterIPs": [one.vip for one in BOTH], "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    }  # fmt: skip
    slices = [
        {
            "metadata": {
                "name": f"web-{one.family.value}", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": f"IPv{one.family.value}",
            "endpoints": [{"addresses": [one.pod], "nodeName": "node-1", "conditions": {"ready": True}}],
            "ports": [{"port": 8080, "protocol": "TCP"}],
        }
        for one in BOTH
    ]  # fmt: skip
    return [
        {"apiVersion": "v1", "kind": "Node"} | node,
        {"apiVersion": "v1", "kind": "Service"} | service,
        *({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"} | one for one in slices),
    ]


class World:
    """The three namespaces; the test's own is the node."""

    def __init__(self, netns: Netns, folder: Path) -> None:
        self.netns = netns
        self._folder = folder
        self._servers: list[socket.socket] = []
        for name in ("client", "pod"):
            netns.run("ip", "netns", "add", f"migrate-{name}")
        netns.run("ip", "-batch", "-", stdin=self._wires())
        for one in BOTH:
            self._serve(one)

    def _wires(self) -> str:
        lines = []
        for name in ("client", "pod"):
            lines += [
                f"link add {name} type veth peer name eth0 netns migrate-{name}",
                f"link set {name} up",
                f"-n migrate-{name} link set eth0 up",
                f"-n migrate-{name} link set lo up",
            ]
        text = "\n".join(line for line in lines if not line.startswith("-n")) + "\n"
        for name in ("client", "pod"):
            inside = "link set eth0 up\nlink set lo up\n"
            for one in BOTH:
                size = 64 if one.family is IPV6 else 24
                near, far = (one.node, one.client) if name == "client" else (one.gateway, one.pod)
                extra = " nodad" if one.family is IPV6 else ""
                text += f"address add {near}/{size} dev {name}{extra}\n"
                inside += f"address add {far}/{size} dev eth0{extra}\nroute add default via {near}\n"
            self.inside = getattr(self, "inside", {}) | {name: inside}
        return text

    def finish(self) -> None:
        """Set up what is inside the other two, and let the node forward."""
        for name, text in self.inside.items():
            self.netns.run("ip", "-n", f"migrate-{name}", "-batch", "-", stdin=text)
        for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/vs/conntrack"):
            Path("/proc/sys", path).write_text("1")

    def _serve(self, one: Addresses) -> None:
        from kuberouterpy.lab import fabric

        def listen() -> None:
            kind = socket.AF_INET6 if one.family is IPV6 else socket.AF_INET
            server = socket.socket(kind, socket.SOCK_STREAM)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if one.family is IPV6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.bind(("", 8080))
            server.listen()
            self._servers.append(server)
            threading.Thread(target=_echo_all, args=(server,), daemon=True).start()

        fabric.within("/run/netns/migrate-pod", listen)

    def connect(self, one: Addresses) -> socket.socket:
        """Return a connection of the client through the VIP."""
        from kuberouterpy.lab import fabric

        found: list[socket.socket] = []

        def dial() -> None:
            found.append(socket.create_connection((one.vip, 80), timeout=5))

        fabric.within("/run/netns/migrate-client", dial)
        return found[0]

    def facts(self) -> Path:
        """Return a file with the cluster."""
        path = self._folder / "cluster.json"
        path.write_text(json.dumps({"kind": "List", "items": facts()}))
        return path

    def agent(self, *, firewall: bool = False) -> Agent:
        """Return the agent, started: its first step is done."""
        return Agent(self.facts(), firewall=firewall)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for name in ("client", "pod"):
            self.netns.run("ip", "netns", "delete", f"migrate-{name}")


class Agent:
    """The loop of an agent that proxies services, with real drivers, on the facts of a file."""

    def __init__(self, path: Path, *, firewall: bool) -> None:
        from kuberouterpy import offline, wiring
        from kuberouterpy.cluster import KUBERNETES_KINDS, Link
        from kuberouterpy.config import parse
        from kuberouterpy.drivers.ipset import IpsetDriver
        from kuberouterpy.drivers.iptables import IptablesDriver
        from kuberouterpy.drivers.ipvs import IpvsDriver
        from kuberouterpy.drivers.links import LinksDriver
        from kuberouterpy.drivers.sysctl import SysctlDriver
        from kuberouterpy.loop import Loop
        from kuberouterpy.programmed import Programmed
        from kuberouterpy.sources.socket import SocketSource

        config = parse({
            "run-router": "false", "run-firewall": str(firewall).lower(),
            "enable-ipv6": "true", "hostname-override": "node-1",
            "service-cluster-ip-range": "10.96.0.0/16,fd00:96::/112",
        })  # fmt: skip
        self._links = LinksDriver(dummy=True, tunnels=False)
        self._ipvs = IpvsDriver(lambda key: wiring.is_ours(self.loop, key))
        drivers = (SysctlDriver(), self._links, IpsetDriver(), IptablesDriver(config.families), self._ipvs)
        self.loop = Loop(
            config=config,
            controllers=tuple(wiring.controllers(config)),
            drivers=[Programmed(driver, period_s=1e9) for driver in drivers],
            expected=(*KUBERNETES_KINDS, Link),
        )
        for event in offline.events(offline.read([path]), offline.links_here()):
            self.loop.put(event)
        self.loop.step(0.0)
        self.socket = str(path.with_name("agent.sock"))
        self._source = SocketSource(self.socket, self._answer)
        self._source.start()

    def _answer(self, question: str, words: Any) -> object:
        from kuberouterpy import answers

        return self.loop.status if question == "status" else answers.answer(self.loop, question, words, now=0.0)

    def stop(self) -> None:
        """End the agent; what it programmed stays."""
        self._source.stop()
        self._links.close()
        self._ipvs.close()

    def wanted(self) -> dict[Any, Any]:
        """Return the virtual servers it wants."""
        from kuberouterpy.answers import objects
        from kuberouterpy.cli.migrate import wanted_of

        return wanted_of(objects(self.loop, ("virtual", "real"), now=0.0))


def _echo_all(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(1024):
            connection.sendall(data)


def alive(connections: list[socket.socket], word: str) -> None:
    """Assert that every connection still carries words both ways."""
    for connection in connections:
        connection.sendall(word.encode())
    assert [connection.recv(1024).decode() for connection in connections] == [word] * len(connections)


@pytest.fixture
def world(netns: Netns, tmp_path: Path) -> Iterator[World]:
    here = World(netns, tmp_path)
    here.finish()
    yield here
    here.close()


def lay(netns: Netns, form: str) -> None:
    """Lay out kube-proxy's objects, and somebody else's beside them."""
    for one in BOTH:
        if form == "ipvs_rules":
            netns.run("ipset", "restore", stdin=layout.ipset(one))
            netns.run("ipvsadm", "-R", stdin=layout.ipvs(one))
        netns.run(one.family.restore, "--noflush", stdin=getattr(layout, form)(one))
        netns.run(one.family.restore, "--noflush", stdin=layout.FOREIGN)
    if form == "ipvs_rules":
        netns.run("ip", "-batch", "-", stdin=layout.link())


def dump(netns: Netns) -> dict[str, list[str]]:
    """Return chains, rules, sets and links of kube-proxy and somebody else, sorted, without what is the agent's."""
    found = {
        "sets": [" ".join(line.split()[:3]) for line in netns.run("ipset", "save").splitlines() if " KUBE-" in line]
    }
    for one in BOTH:
        table, lines = "", []
        for line in netns.run(one.family.save).splitlines():
            table = line if line.startswith("*") else table
            if ("KUBE-" in line or "MINE" in line) and "KUBE-ROUTER" not in line:
                lines.append(f"{table} {line.partition(' [')[0]}")
        found[one.family.save] = lines
    found["addresses"] = [
        line
        for line in netns.run("ip", "-o", "address", "show").splitlines()
        if "kube-ipvs0" in line and "fe80" not in line
    ]
    return {name: sorted(" ".join(line.split()) for line in lines) for name, lines in found.items()}


def without_index(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return a dump without the index of kube-ipvs0, which was made again."""
    return found | {"addresses": sorted(line.partition(" ")[2] for line in found["addresses"])}


def same(one: kernel.Checkpoint, other: kernel.Checkpoint) -> bool:
    """Return whether two checkpoints hold the same; ipset draws a seed for every set it makes."""
    from msgspec.structs import replace

    def plain(found: kernel.Checkpoint) -> kernel.Checkpoint:
        sets = sorted(" ".join(line.split()[:3]) for line in found.sets.splitlines())
        servers = tuple(sorted(found.servers, key=lambda each: each.key))
        real = tuple(sorted(found.real, key=lambda each: each.key))
        addresses = tuple(sorted(found.addresses))
        return replace(found, sets="\n".join(sets), addresses=addresses, servers=servers, real=real)

    return plain(one) == plain(other)


def migrate(*words: str) -> int:
    """Run the command line; return its exit code."""
    from kuberouterpy import cli

    return int(cli.main(["migrate", *words]))


@pytest.mark.parametrize("form", ["ipvs_rules", "iptables_rules"])
def test_no_connection_is_lost_from_kube_proxy_to_the_agent_and_back(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    from kuberouterpy.migrate import kernel

    netns = world.netns
    ipvs = form == "ipvs_rules"
    lay(netns, form)
    before = dump(netns)
    connections = [world.connect(one) for one in BOTH]
    alive(connections, "kube-proxy alone")

    # observe: kube-proxy stands still, the agent has not begun.
    path = str(world.facts())
    flags = (
        "--run-router=false",
        "--run-firewall=false",
        "--enable-ipv6=true",
        "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
    )
    assert migrate("observe", "-f", path, *flags, "--exit-code") == (3 if ipvs else 0)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"found    kube-proxy ({'ipvs' if ipvs else 'iptables'})"
    assert f"virtual  2 the same, 0 differ, {2 if ipvs else 0} only theirs, 0 only ours" in told
    assert (f"- tcp {BOTH[0].gone}:80" in told) is ipvs
    assert dump(netns) == before

    # adopt: the agent takes over what stands; before it has, nothing is written down.
    notes, asked = str(tmp_path / "migration.json"), f"--agent-socket={tmp_path / 'agent.sock'}"
    assert migrate("adopt", asked, f"--checkpoint={notes}") == 6
    assert "no agent answers" in capsys.readouterr().err
    agent = world.agent()
    alive(connections, "both")
    assert migrate("own", asked, f"--checkpoint={notes}") == 2
    assert "run kuberouterpy migrate adopt first" in capsys.readouterr().err
    assert migrate("adopt", asked, f"--checkpoint={notes}") == 0
    wanted = agent.wanted()
    standing = kernel.read()
    assert {server: standing.serving[server] for server in wanted} == wanted
    assert dump(netns) == before
    saved = kernel.load(Path(notes))
    connections += [world.connect(one) for one in BOTH]

    # own: what is theirs goes, what is somebody else's stays.
    assert migrate("own", asked, f"--checkpoint={notes}") == 0
    assert "nothing of kube-proxy is left" in capsys.readouterr().out
    alive(connections, "the agent alone")
    assert kernel.read().serving == wanted
    told = " ".join(line for lines in dump(netns).values() for line in lines)
    assert not [name for name in ("KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-CLUSTER-IP", "kube-ipvs0") if name in told]
    for one in BOTH:
        text = netns.run(one.family.save)
        assert "-A INPUT -j MINE" in text
        assert "-A MINE -p tcp -m tcp --dport 22 -j ACCEPT" in text
        if ipvs:
            assert ":KUBE-FIREWALL" in text  # the kubelet's
            assert ":KUBE-KUBELET-CANARY" in text
    connections += [world.connect(one) for one in BOTH]
    alive(connections, "also new ones")
    assert migrate("own", asked, f"--checkpoint={notes}") == 0  # again: nothing to do
    assert "removed" not in capsys.readouterr().out

    # rollback: all is as kube-proxy left it. Not beside the agent.
    assert migrate("rollback", asked, f"--checkpoint={notes}") == 2
    assert "stop it first" in capsys.readouterr().err
    agent.stop()
    assert migrate("rollback", asked, f"--checkpoint={notes}") == 0
    alive(connections, "rolled back")
    assert without_index(dump(netns)) == without_index(before)
    assert same(kernel.checkpoint(kernel.read(), saved.node), saved)
    list(kernel.restore(saved))  # a second time changes nothing
    assert without_index(dump(netns)) == without_index(before)
    connections += [world.connect(one) for one in BOTH]
    alive(connections, "the end")
    for connection in connections:
        connection.close()


def test_no_connection_is_lost_when_the_agent_takes_kube_routers_place(world: World) -> None:
    """Its names are ours: what is wanted is adopted, what is not is swept at the first pass; a foreign rule stays."""
    from kuberouterpy.migrate import kernel

    netns = world.netns
    for one in BOTH:
        netns.run("ipset", "restore", stdin=layout.kube_router_ipset(one))
        netns.run("ipvsadm", "-R", stdin=layout.ipvs(one))
        netns.run(one.family.restore, "--noflush", stdin=layout.kube_router_rules(one))
        netns.run(one.family.restore, "--noflush", stdin=layout.FOREIGN)
    netns.run("ip", "-batch", "-", stdin=layout.kube_router_link())
    connections = [world.connect(one) for one in BOTH]
    alive(connections, "kube-router")
    found = kernel.read().remains
    assert found.mode == "kube-router"
    assert found.empty  # nothing that own would remove

    agent = world.agent(firewall=True)
    alive(connections, "the agent")
    connections += [world.connect(one) for one in BOTH]
    alive(connections, "also new ones")
    standing = kernel.read()
    assert standing.serving == agent.wanted()  # default/gone is no Service: swept
    assert standing.ours == {one.vip for one in BOTH}
    for one in BOTH:
        text = netns.run(one.family.save)
        swept = (
            "KUBE-POD-FW-54JPDRM2LCXQHPLM",
            "KUBE-NWPLCY-3GKQWFJNDZGKZAYI",
            "TEMCG2JMHZYE7H7T",
        )
        assert [name for name in swept if name in text] == []
        assert "-A INPUT -j MINE" in text
    sets = netns.run("ipset", "list", "-name").split()
    assert [name for name in sets if name.endswith(("KUBE-SRC-2J5BWRT4LCEDUPS4", "kube-router-local-ips"))] == []
    agent.stop()
    for connection in connections:
        connection.close()
