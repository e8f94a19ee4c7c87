"""What is denied is told by the kernel: NFLOG, counters, and ``policy explain`` against rules another hand has changed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest
from msgspec.structs import replace

from firewall.pod_chains import NFLOG_GROUP
from firewall.policies import AUDIT, Direction, policy_chain_name
from kuberouterpy import offline
from kuberouterpy.answers.policed import connection, walked
from kuberouterpy.cli.standing import filter_world
from kuberouterpy.cluster import Action, ClusterRule, IpBlock, Kind, Link, PolicyPort, PolicyRule, Record
from kuberouterpy.config import Config
from kuberouterpy.drivers import policy_counters
from kuberouterpy.drivers.nflog import Logged, NflogReader
from kuberouterpy.drivers.policy_counters import Counts
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from kuberouterpy.loop import Loop
from kuberouterpy.protocol import Protocol
from tests.firewall.test_kernel import PLACES, Agent, Network
from tests.firewall.world import cluster_policy, namespace, pod, policy
from tests.oracle.networkpolicy import Flow

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns"), pytest.mark.timeout(400)]

EVERY = PodSelector(EVERYTHING, namespaces=EVERYTHING)
ONLY_B = PolicyRule((PodSelector(selector({"app": "b"}), "x"),), (PolicyPort(Protocol.TCP, 80),))
BASE: tuple[Record, ...] = (
    namespace("x"),
    *(pod(f"x/{name}", addresses=PLACES[name], labels={"app": name}) for name in ("a", "b", "c")),
)
SHUT = policy("x/shut", selector({"app": "a"}), ingress=(ONLY_B,))
TRIAL = policy("x/trial", selector({"app": "b"}), ingress=(), annotations={AUDIT: "true"})
GUARD = cluster_policy(
    "guard", EVERY, egress=(ClusterRule(Action.DENY, (IpBlock("192.0.2.0/24"), IpBlock("2001:db8::/32"))),)
)
EVERYTHING_OF_IT = (*BASE, SHUT, TRIAL, GUARD)


def flow(source: str, destination: str, version: int, port: int = 80) -> Flow:
    return Flow(PLACES[source][version], PLACES[destination][version], "tcp", port)


def test_denied_packets_are_told_and_counted() -> None:
    network, agent = Network(), Agent()
    agent.program(EVERYTHING_OF_IT)
    flows = [
        flow(*ends, version)
        for ends in (("c", "a"), ("b", "a"), ("c", "b"), ("a", "world"), ("a", "c"))
        for version in (0, 1)
    ]
    denied = {flow(*ends, version) for ends in (("c", "a"), ("a", "world")) for version in (0, 1)}
    with closing(NflogReader(NFLOG_GROUP)) as reader:
        with pytest.raises(DriverError, match="another program reads it"):
            NflogReader(NFLOG_GROUP)
        arrived = network.arrived(flows, [one for one in flows if one not in denied])
        told = set(reader.packets(timeout_s=0.5))
    assert set(flows) - arrived == denied
    expected = {("in:x/a:shut", "c", "a"), ("audit:in:x/b:trial", "c", "b"), ("out:x/a:cnp/guard", "a", "world")}
    assert {ends(one) for one in told} == {(*one, version) for one in expected for version in (0, 1)}
    assert {(one.protocol, one.port) for one in told} == {("tcp", 80)}
    counts = policy_counters.read(FAMILIES)
    shut, trial, guard = (
        counts[policy_chain_name(one, direction)]
        for one, direction in ((SHUT, Direction.INGRESS), (TRIAL, Direction.INGRESS), (GUARD, Direction.EGRESS))
    )
    assert shut.allowed == 2
    assert (trial.allowed, guard.allowed) == (0, 0)
    # A client that is not answered asks again.
    assert all(one.denied >= 2 for one in (shut, trial, guard)), (shut, trial, guard, Counts())


def ends(one: Logged) -> tuple[str, str, str, int]:
    source, destination = (
        next((name, both.index(address)) for name, both in PLACES.items() if address in both)
        for address in (one.source, one.destination)
    )
    assert source[1] == destination[1]
    return one.prefix, source[0], destination[0], source[1]


# --- another hand -----------------------------------------------------------------------------------------------------


def answering(records: Iterable[Record]) -> Loop:
    """Return a loop that answers as an agent of the host would."""
    kept: dict[Kind, list[Record]] = {}
    for one in records:
        kept.setdefault(type(one), []).append(one)
    facts = offline.Facts(node="node-0", records=kept)  # type: ignore[arg-type]
    return offline.build(replace(Config(enable_ipv6=True), node_name="node-0"), facts, (Link("eth0", 2),))


def saved() -> dict[tuple[str, int], list[str]]:
    """Return the rules of every chain of ours, by program."""
    found: dict[tuple[str, int], list[str]] = {}
    for version, program in ((0, "iptables-save"), (1, "ip6tables-save")):
        for line in run(program, "-t", "filter").splitlines():
            if match := re.match(r"-A (KUBE-\S+) ", line):
                found.setdefault((match[1], version), []).append(line)
    return found


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def mismatch(loop: Loop, asked: Iterable[Flow]) -> bool:
    world = filter_world()
    told = [connection(loop, one.source, one.destination, f"{one.port}/{one.protocol}") for one in asked]
    return any(
        one.accepted != answer.here
        for about in told
        for answer in about.answers
        for one in walked(answer, about, world)
    )


ASKED = [
    flow(*one, version)
    for one in (("c", "a", ), ("b", "a"), ("a", "world"), ("world", "a"))
    for version in (0, 1)
]  # fmt: skip


def mutations() -> Iterator[tuple[str, ...]]:
    """Yield programs that take away one entry or one rule that a verdict of ``ASKED`` hangs on."""
    for line in run("ipset", "save").splitlines():
        words = line.split()
        if words[0] == "add" and (
            words[2] in {*PLACES["a"], *PLACES["b"]} or words[2] in {"192.0.2.0/24", "2001:db8::/32"}
        ):
            if "kube-router-local-pods" in words[1] and words[2] in PLACES["b"]:
                continue  # b is the client only: its own policy is under audit, a's node judges by a's address
            yield ("ipset", "del", words[1], words[2])
    deciding = ("denied by shut", "x/shut ingress[0]", "policy x/shut", "a policy allows it", "cnp/guard egress[0]")
    for (chain, version), lines in saved().items():
        texts = ("from a pod of this host", "to a pod of this host") if chain == "KUBE-ROUTER-FORWARD" else deciding
        for number, line in enumerate(lines, 1):
            if any(text in line for text in texts):
                yield ("ip6tables" if version else "iptables", "-D", chain, str(number))


def test_whatever_another_hand_takes_away_is_a_mismatch_and_is_repaired() -> None:
    agent, loop = Agent(), answering(EVERYTHING_OF_IT)
    agent.program(EVERYTHING_OF_IT)
    assert agent.drift() == []
    assert not mismatch(loop, ASKED)
    done = list(mutations())
    assert len(done) > 15
    for words in done:
        run(*words)
        assert mismatch(loop, ASKED), f"after {' '.join(words)} nothing is told"
        assert agent.drift(), f"after {' '.join(words)} nothing is seen"
        agent.repair()
    assert not agent.drift()
    assert not mismatch(loop, ASKED)


def test_sets_and_chains_destroyed_by_another_hand_come_back() -> None:
    agent, loop = Agent(), answering(EVERYTHING_OF_IT)
    agent.program(EVERYTHING_OF_IT)
    for program in ("iptables", "ip6tables"):
        run(program, "-F")
        run(program, "-X")
    run("ipset", "destroy")
    assert mismatch(loop, ASKED)
    assert agent.drift()
    agent.repair()
    assert not agent.drift()
    assert not mismatch(loop, ASKED)


def test_a_set_that_another_hand_left_too_small_has_room_before_a_deny_relies_on_it() -> None:
    """A block that finds no room would be let through: sets are as large as what they hold before anything is added."""
    network, agent = Network(), Agent()
    many = tuple(IpBlock(one) for one in ("198.51.100.0/24", "2001:db8:1::/48", "203.0.113.0/24", "2001:db8:2::/48"))
    world = tuple(IpBlock(one) for one in ("192.0.2.0/24", "2001:db8::/64"))
    guard = cluster_policy("guard", EVERY, egress=(ClusterRule(Action.DENY, (*many, *world)),))
    agent.program((*BASE, guard))
    names = re.findall(r"^create (\S*KUBE-SRC-\S+) hash:net family (\S+)", run("ipset", "save"), re.MULTILINE)
    assert len(names) == 2
    agent.program(BASE)
    for name, family in names:
        run("ipset", "create", name, "hash:net", "family", family, "maxelem", "1", "comment")
    again = Agent()
    again.drift()  # the first listing
    again.program((*BASE, guard))
    flows = [flow("a", "world", version) for version in (0, 1)]
    assert network.arrived(flows, ()) == set()
    assert again.drift() == []
