"""What ``trace`` says of a packet is what becomes of it: random worlds, many probes; and planted faults are named.

Each agent is asked for its traces over its socket; then curl tries the same from the same place. A verdict that depends on the
endpoint allows both ends of it, and is never asked to agree.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, NamedTuple

import pytest

from kuberouterpy.answers import Traces
from kuberouterpy.cli.ask import ask
from kuberouterpy.cli.tracelive import compare
from kuberouterpy.config import Config
from kuberouterpy.doctor import Agent, diagnose
from kuberouterpy.doctor.gather import gather
from kuberouterpy.lab.client import Object
from tests.cluster import REFUSED, TIMED_OUT, Lab, Place, eventually, url
from tests.e2e.conftest import Make, Pods, Serve, node_port, remove, vip
from tests.e2e.objects import HTTP, NAMESPACE, NETWORK_POLICIES, by_namespace, by_pod, policy, port, service

WORLDS: Final = 4
SEED: Final = 20261124
_CODES: Final = {
    "reaches": {0},
    "denied": {TIMED_OUT},
    "refused": {REFUSED},
    "lost": {REFUSED, TIMED_OUT},
}
_PATIENCE_S: Final = 2.5
"""An ICMPv6 error that comes while its client is still inside connect(), as between namespaces of one kernel, is lost on
it: the next SYN, a second later, is refused."""
PODS: Final = {"guest": NAMESPACE, "blue": NAMESPACE, "green": NAMESPACE, "stranger": "e2e-other"}


class Probe(NamedTuple):
    """One packet to try."""

    place: str
    """Who sends it: a pod, ``node-1`` or ``client``."""
    node: str
    """Whose agent is asked."""
    source: str
    """As ``trace`` takes it."""
    address: str
    port: int


def told(node: str, source: str, destination: str) -> Traces:
    """Return what a node's agent says of a packet."""
    path = f"/run/lab/nodes/{node}/agent.sock"
    return ask(path, "trace", Traces, source=[source], destination=[destination])


def predicted(probe: Probe) -> str:
    """Return the verdict of one probe."""
    address = f"[{probe.address}]" if ":" in probe.address else probe.address
    (one,) = told(probe.node, probe.source, f"{address}:{probe.port}").traces
    assert not one.doubts, one
    return one.verdict


def services() -> list[Object]:
    """Return Services of every kind a packet's way hangs on."""
    web = {"set": "web"}
    http = [port(80, HTTP)]
    return [
        service("cluster", http, web, type="NodePort"),
        service("local", http, {"name": "red"}, type="NodePort", externalTrafficPolicy="Local"),
        service("inside", http, {"name": "blue"}, internalTrafficPolicy="Local"),
        service("sticky", http, {"name": "green"}, sessionAffinity="ClientIP"),
        service("nobody", http, {"name": "none"}, type="NodePort"),
    ]


def policies(chance: random.Random) -> list[Object]:
    """Return a few NetworkPolicies at random."""
    peers = [by_pod(name="guest"), by_pod(name="blue"), by_pod(set="web"), by_namespace(team="other"), by_pod()]
    found = []
    for index in range(chance.randint(1, 3)):
        subject = chance.choice(
            ({"name": "red"}, {"name": "blue"}, {"name": "green"}, {"set": "web"}, {"name": "guest"})
        )
        rules = [{"from": chance.sample(peers, chance.randint(1, 2))} for _ in range(chance.randint(0, 2))]
        if chance.random() < 0.3:
            rules = [rule | {"ports": [{"protocol": "TCP", "port": chance.choice((HTTP, 81))}]} for rule in rules]
        outward = [{"to": chance.sample(peers, 1)}] if chance.random() < 0.3 else None
        found.append(policy(f"random-{index}", subject, ingress=rules, egress=outward))
    return found


def probes(lab: Lab, shared: Pods, items: list[Object]) -> list[Probe]:
    """Return every client against every Service and pod, both families."""
    found = []
    for family in lab.families:
        targets = [(vip(item, family), 80) for item in items]
        targets += [(shared.ip(name, family), HTTP) for name in ("red", "blue")]
        targets.append((vip(items[0], family), 22))
        for name, namespace in PODS.items():
            node = shared.node(name)
            found += [Probe(name, node, f"pod/{namespace}/{name}", *target) for target in targets]
        found += [Probe("node-1", "node-1", "node", *target) for target in targets]
        for item in items:
            if item["spec"]["type"] == "NodePort":
                client = lab.client_address(family)
                found += [
                    Probe("client", node, client, lab.address(node, family), node_port(item)) for node in lab.nodes[:2]
                ]
    return found


def disagreements(lab: Lab, shared: Pods, some: list[Probe]) -> list[str]:
    """Return what curl found other than was predicted."""
    by_place: dict[str, list[Probe]] = {}
    for probe in some:
        by_place.setdefault(probe.place, []).append(probe)
    places: dict[str, Place] = {
        name: lab.client if name == "client" else lab.node(name) if name.startswith("node-") else shared[name]
        for name in by_place
    }
    verdicts = {probe: predicted(probe) for probe in some}
    with ThreadPoolExecutor(len(places)) as pool:
        codes = pool.map(
            lambda name: places[name].codes(
                *(url(one.address, one.port) for one in by_place[name]), timeout_s=_PATIENCE_S
            ),
            by_place,
        )
        ordered = [probe for name in by_place for probe in by_place[name]]
        found = dict(zip(ordered, (code for told_codes in codes for code in told_codes), strict=True))
    return [
        f"{probe.source} -> {url(probe.address, probe.port)} at {probe.node}: predicted {verdicts[probe]}, curl {code}"
        for probe, code in found.items()
        if verdicts[probe] in _CODES and code not in _CODES[verdicts[probe]]
    ]


@pytest.fixture
def _every_refusal_is_sent(lab: Lab) -> Iterator[None]:
    """A kernel sends one ICMP error a second to each client; here clients meet many refusals at once."""
    limits = ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit")
    for node in lab.nodes:
        lab.node(node).run("; ".join(f"sysctl -qw {one}=0" for one in limits))
    yield
    for node in lab.nodes:
        lab.node(node).run("; ".join(f"sysctl -qw {one}=1000" for one in limits))


@pytest.mark.usefixtures("_every_refusal_is_sent")
def test_predictions_are_what_becomes_of_packets(lab: Lab, shared: Pods, make: Make, serve: Serve) -> None:
    """Four random worlds, some sixty probes each: pods, nodes and clients outside, Services and pods, both families."""
    chance = random.Random(SEED)
    items = [serve(item) for item in services()]
    some = probes(lab, shared, items)
    assert WORLDS * len(some) >= 200
    seen: set[str] = set()
    for _ in range(WORLDS):
        made = [make(NETWORK_POLICIES, item) for item in policies(chance)]

        def agree() -> None:
            wrong = disagreements(lab, shared, some)
            assert not wrong, "\n".join(wrong)

        eventually(agree)
        seen.update(predicted(probe) for probe in some)
        for item in made:
            remove(lab, NETWORK_POLICIES, item["metadata"]["name"])
    assert seen >= {"reaches", "denied", "refused"}


# --- planted faults ---------------------------------------------------------------------------------------------------


@contextmanager
def planted(place: Place, fault: str, mend: str) -> Iterator[None]:
    """Break something for a while."""
    place.run(fault)
    try:
        yield
    finally:
        place.run(mend)


def test_planted_faults_are_named(lab: Lab, shared: Pods, serve: Serve) -> None:
    """A removed rule, a foreign one, weight 0, a wrong sysctl, a small MTU: each by the verb that looks there."""
    item = serve(service("web", [port(80, HTTP)], {"set": "web"}))
    node = lab.node("node-1")

    def live(destination: str) -> list[str]:
        traces = told("node-1", f"pod/{NAMESPACE}/guest", destination).traces
        return node.within(lambda: [line for one in traces for line in compare(one, "node-1") if "live:" not in line])

    def doctor(check: str) -> list[str]:
        config = Config(node_name="node-1", enable_ipv6=True)
        found = node.within(lambda: diagnose(gather(config, Agent("", ready=True))))
        return [one.text for one in found if one.check == check]

    whole = f"service/{NAMESPACE}/web:80"
    eventually(lambda: _equal(live(whole), []))
    for family, tool, ipvs in zip(lab.families, ("iptables", "ip6tables"), ("{}", "[{}]"), strict=True):
        address, red = vip(item, family), shared.ip("red", family)
        server, real = f"{ipvs.format(address)}:80", f"{ipvs.format(red)}:{HTTP}"
        with planted(node, f"{tool} -I FORWARD -d {red} -j DROP", f"{tool} -D FORWARD -d {red} -j DROP"):
            (line,) = live(f"pod/{NAMESPACE}/red:{HTTP}")[:1]
            assert line.startswith("MISMATCH  FORWARD filter: wanted: FORWARD filter ACCEPT"), line
            assert "stands: FORWARD filter DROP by FORWARD[1]" in line
        with planted(node, f"ipvsadm -e -t {server} -r {real} -m -w 0", f"ipvsadm -e -t {server} -r {real} -m -w 1"):
            assert any(line.startswith("MISMATCH  ipvs:") and real in line for line in live(whole)), live(whole)
        saved = f"/tmp/{tool}.saved"
        with planted(
            node, f"{tool}-save > {saved}; {tool} -t nat -F KUBE-ROUTER-SERVICES-MASQ", f"{tool}-restore {saved}"
        ):
            assert any("MISMATCH  POSTROUTING nat" in line for line in live(whole)), live(whole)
        with planted(node, f"{tool} -F KUBE-ROUTER-OUTPUT", f"{tool}-restore {saved}"):
            assert any("MISMATCH  OUTPUT filter" in line for line in live(whole)), live(whole)
    with planted(node, "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1"):
        assert any("net.ipv4.ip_forward is 0, not 1" in text for text in doctor("sysctls"))
    uplink = node.run("ip -o -4 route show default || true; ip -o -4 address show scope global").split(" dev ")
    link = uplink[1].split()[0] if len(uplink) > 1 else "eth0"
    before = node.run(f"cat /sys/class/net/{link}/mtu").strip()
    with planted(node, f"ip link set {link} mtu 1400", f"ip link set {link} mtu {before}"):
        assert any("1400" in text and "large packets are lost" in text for text in doctor("mtu")), doctor("mtu")
    eventually(lambda: _equal(live(whole), []))


def _equal(actual: object, expected: object) -> None:
    assert actual == expected
