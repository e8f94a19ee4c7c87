"""Services before policies on a real kernel: what a Service leads to is judged as if it had been asked directly.

The proxy's own objects stand beside the firewall's: every pod has a Service, and so has the node itself, as a pod on the host
network would. Every place asks every cluster IP and node port, and the node directly, in TCP, UDP and SCTP and in both
families; what arrives must be what the oracle allows for the endpoint.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, Phase, given, settings

import firewall
import proxy
from kuberouterpy.cluster import (
    Action,
    ClusterRule,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    NodeSelector,
    Record,
    Ref,
    Service,
    ServicePort,
    ServiceType,
)
from kuberouterpy.dataplane import Chain, Entry, Jump, Link, LocalAddress, RealServer, Set, Sysctl, VirtualServer
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.drivers.links import LinksDriver
from kuberouterpy.drivers.sysctl import SysctlDriver
from kuberouterpy.family import FAMILIES, family_of
from kuberouterpy.host import Host
from kuberouterpy.labels import EVERYTHING, PodSelector
from kuberouterpy.protocol import Protocol
from kuberouterpy.tracker import Tracker
from tests.firewall.test_kernel import PLACES, PORTS, Agent, Network, _listen, clusters
from tests.firewall.test_kernel_denied import run
from tests.firewall.world import cluster_policy, namespace, node, pod
from tests.oracle.networkpolicy import Flow, Oracle

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns"), pytest.mark.timeout(300)]

NODE = ("10.1.0.1", "fd00:1::1")
SERVED = {"a": PLACES["a"], "b": PLACES["b"], "c": PLACES["c"], "node": NODE}
ASKING = {**PLACES, "node": NODE}
LISTENED = tuple(itertools.product(PORTS, Protocol))
_SERVICE_PORT, _FIRST_NODE_PORT = 1000, 30000


class ServiceAgent(Agent):
    """The proxy and the firewall over the real drivers."""

    controllers = (proxy.CONTROLLER, firewall.CONTROLLER)

    def __init__(self) -> None:
        super().__init__()
        self.here = Host("node-0", FAMILIES, NODE, pod_cidrs=("10.1.0.0/24", "fd00:1::/64"))
        self.drivers = {
            (Sysctl,): SysctlDriver(),
            (Link, LocalAddress): LinksDriver(tunnels=False),
            (Set, Entry): IpsetDriver(),
            (Chain, Jump): IptablesDriver(),
            (VirtualServer, RealServer): IpvsDriver(lambda key: True),
        }
        self.tracker = Tracker(tuple(self.drivers))

    def close(self) -> None:
        """Close the drivers' sockets."""
        for driver in self.drivers.values():
            if isinstance(driver, IpvsDriver | LinksDriver):
                driver.close()


@pytest.fixture
def agent() -> Iterator[ServiceAgent]:
    with closing(ServiceAgent()) as made:
        yield made


def vips(name: str) -> tuple[str, str]:
    number = list(SERVED).index(name) + 10
    return f"10.96.0.{number}", f"fd00:96::{number}"


def node_port(name: str, port: int, protocol: Protocol) -> int:
    return _FIRST_NODE_PORT + 100 * list(SERVED).index(name) + LISTENED.index((port, protocol))


def services() -> Iterator[Record]:
    for name, addresses in SERVED.items():
        ref = Ref("services", name)
        ports = tuple(
            ServicePort(f"{protocol}-{port}", protocol, _SERVICE_PORT + port, node_port(name, port, protocol))
            for port, protocol in LISTENED
        )
        yield Service(ref, ServiceType.NODE_PORT, vips(name), ports, families=FAMILIES)
        named = tuple(EndpointPort(f"{protocol}-{port}", protocol, port) for port, protocol in LISTENED)
        for address in addresses:
            family = family_of(address)
            slice_ref = Ref("services", f"{name}-{family:d}")
            yield EndpointSlice(slice_ref, ref, family, named, (Endpoint(address, "node-0"),))


def asked(round_: int) -> dict[Flow, Flow]:
    """Return every place's questions, with the connection that each means: by cluster IP, by node port, and of the node."""
    found = {}
    turn = itertools.count(round_)
    ways = itertools.product(ASKING.items(), SERVED.items(), (0, 1), Protocol)
    for (asking, sources), (name, addresses), version, protocol in ways:
        if asking == name:
            continue
        port = PORTS[next(turn) % len(PORTS)]
        source, text = sources[version], str(protocol)
        meant = Flow(source, addresses[version], text, port)
        found[Flow(source, vips(name)[version], text, _SERVICE_PORT + port)] = meant
        found[Flow(source, NODE[version], text, node_port(name, port, protocol))] = meant
        if name == "node":
            found[meant] = meant
    return found


def expected(oracle: Oracle, question: Flow, meant: Flow) -> bool:
    """Return what must come of a question."""
    if meant.source in NODE:
        return True  # a node always reaches its own pods
    if meant.destination in NODE and question != meant:
        return True  # DESIGN.md: behind a VIP the node itself is not seen by any table that may drop
    return oracle.allowed(meant)


def test_services_lead_where_the_oracle_allows_it(agent: ServiceAgent) -> None:
    network = Network()
    for address in NODE:
        network.serve_also(_listen(address))
    always: tuple[Record, ...] = (node("node-0", *NODE), *services())
    agent.program(always)
    questions = asked(0)
    assert network.arrived([*questions], questions) == set(questions), "without policies everything must arrive"
    seen = {True: 0, False: 0}
    rounds = itertools.count()

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(clusters())
    def judge(records: tuple[Record, ...]) -> None:
        oracle = agent.program((*always, *records))
        some = asked(next(rounds))
        allowed = {question for question, meant in some.items() if expected(oracle, question, meant)}
        assert network.arrived([*some], allowed) == allowed
        seen[True] += len(allowed)
        seen[False] += len(some) - len(allowed)

    judge()
    assert min(seen.values()) > 50, f"the random policies prove little: {seen}"


TABLES = ("mangle", "filter", "nat")


def counted(chains: Iterable[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
    """Return which counting rules have seen a packet."""
    found = set()
    for program, table, chain in chains:
        for line in run(f"{program}-save", "-c", "-t", table).splitlines():
            if line.startswith("[") and f"-A {chain} " in line and "seen " in line and not line.startswith("[0:"):
                found.add((table, chain, line.split("seen ")[1].split('"')[0]))
    return found


def test_behind_a_vip_the_node_itself_is_seen_by_no_table_that_may_drop(agent: ServiceAgent) -> None:
    """IPVS takes a packet at LOCAL_IN behind mangle and filter, and gives one for this host on from there to nat only.

    So INPUT has seen the VIP when the endpoint becomes known, OUTPUT is not passed, and nat refuses to drop. The answer too has
    the VIP as its source when filter sees it: only mangle sees the endpoint, when the question has long been taken.
    Source: net/netfilter/ipvs/ip_vs_xmit.c: ip_vs_nat_send_or_cont (``local``: NF_ACCEPT); ip_vs_core.c: ip_vs_ops4.
    """
    network = Network()
    for address in NODE:
        network.serve_also(_listen(address))
    everybody = PodSelector(EVERYTHING, namespaces=EVERYTHING)
    shut = ClusterRule(Action.DENY, (NodeSelector(EVERYTHING),))
    agent.program(
        (
            node("node-0", *NODE),
            *services(),
            namespace("x"),
            pod("x/a", addresses=PLACES["a"]),
            cluster_policy("shut", everybody, egress=(shut,)),
        )
    )
    programs = ("iptables", "ip6tables")
    for version, program in enumerate(programs):
        for table, chain in itertools.product(TABLES, ("INPUT", "OUTPUT")):
            side = "-d" if chain == "INPUT" else "-s"
            for name, address in (("vip", vips("node")[version]), ("endpoint", NODE[version])):
                comment = ("-m", "comment", "--comment", f"seen {name}")
                run(program, "-t", table, "-I", chain, side, address, "-p", "udp", *comment)
    direct, proxied = (
        [Flow(PLACES["a"][version], to[version], "udp", port) for version in (0, 1)]
        for to, port in ((NODE, 80), (vips("node"), _SERVICE_PORT + 80))
    )
    assert network.arrived(direct, ()) == set()
    for program in programs:
        run(program, "-t", "mangle", "-Z")
        run(program, "-t", "filter", "-Z")
        run(program, "-t", "nat", "-Z")
    assert network.arrived(proxied, proxied) == set(proxied)
    for program in programs:
        assert counted((program, table, chain) for table in TABLES for chain in ("INPUT", "OUTPUT")) == {
            ("mangle", "INPUT", "vip"),
            ("filter", "INPUT", "vip"),
            ("nat", "INPUT", "endpoint"),
            ("mangle", "OUTPUT", "endpoint"),
            ("filter", "OUTPUT", "vip"),
        }
        with pytest.raises(subprocess.CalledProcessError):
            run(program, "-t", "nat", "-A", "INPUT", "-j", "DROP")
