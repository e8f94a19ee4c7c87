"""``policy``: the list, both voices about a connection, and denied packets as lines."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from kuberouterpy import offline
from kuberouterpy.answers import PolicyList
from kuberouterpy.answers.policed import Answer, Connection, Walked, connection, walked
from kuberouterpy.answers.subjects import UnknownSubject
from kuberouterpy.cli import ExitCode, main
from kuberouterpy.cli.denied import Names, lines
from kuberouterpy.cli.policy import explain_lines, list_lines
from kuberouterpy.config import Config
from kuberouterpy.dataplane import KINDS, Chain, ChainKey, Entry, EntryKey, Jump, JumpKey, Object
from kuberouterpy.drivers.nflog import Logged
from kuberouterpy.drivers.policy_counters import Counts
from kuberouterpy.errors import KubeRouterError
from kuberouterpy.family import Family
from kuberouterpy.loop import Loop
from kuberouterpy.tracing.world import World

CLUSTER = """\
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.0.0/24, "fd00:1::/64"]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: "fd00::1"}]}
---
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 80}]}]}
status: {phase: Running, podIPs: [{ip: 10.1.0.5}, {ip: "fd00:1::5"}]}
---
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {nodeName: n1}
status: {phase: Running, podIPs: [{ip: 10.1.0.6}, {ip: "fd00:1::6"}]}
---
kind: Pod
metadata: {name: elsewhere}
spec: {nodeName: n2}
status: {phase: Running, podIPs: [{ip: 10.1.1.6}]}
---
kind: Pod
metadata: {name: agent}
spec: {nodeName: n1, hostNetwork: true}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{port: 80}]}
---
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - {from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: http}]}
    - {from: [{ipBlock: {cidr: 10.1.0.0/16}}], ports: [{port: 443}]}
---
kind: NetworkPolicy
metadata: {name: trial, annotations: {kuberouterpy.io/policy-audit: "true"}}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Ingress]}
---
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {}}
  egress: [{name: no-test-net, action: Deny, to: [{networks: [192.0.2.0/24]}]}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


@pytest.fixture
def loop(folder: Path) -> Loop:
    facts = offline.read([folder])
    config = replace(Config(enable_ipv6=True), node_name=facts.node)
    return offline.build(config, facts, offline.links_of(facts))


def run(folder: Path, *words: str) -> int:
    return main(["policy", *words, "-f", str(folder), "--enable-ipv6"])


def explain(folder: Path, source: str, destination: str, port: str, *more: str) -> int:
    return run(folder, "explain", "--from", source, "--to", destination, "--port", port, *more)


def test_the_list_has_every_policy_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "list") == ExitCode.FINE
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["POLICY", "ORDER", "DIRECTIONS"],
        ["cnp/guard", "Admin", "5"],
        ["default/trial", "policy", "ingress"],
        ["default/web", "policy", "ingress"],
    ]


def test_the_wide_list_has_counters_and_chains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "list", "-o", "json") == ExitCode.FINE
    told = json.loads(capsys.readouterr().out)
    listed = msgspec.convert(told, PolicyList)
    chain = next(one.chains["ingress"] for one in listed.policies if one.name == "default/web")
    text = "\n".join(list_lines(listed, {chain: Counts(7, 3)}, wide=True))
    assert [line.split()[2:7] for line in text.splitlines() if line.startswith("default/web")] == [
        ["ingress", "1", "1", "7", "3"]
    ]
    assert "audited: denies nothing" in text


def test_a_denial_names_policy_and_near_miss_and_the_rules_agree(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(folder, "default/client", "default/web", "80/tcp", "--exit-code") == ExitCode.DENIED
    out = capsys.readouterr().out
    for text in (
        "pod default/client 10.1.0.6 -> pod default/web 10.1.0.5 80/tcp: DENIED",
        "pod default/client fd00:1::6 -> pod default/web fd00:1::5 80/tcp: DENIED",
        "isolated by default/web, no rule allows it",
        "policy default/web ingress[0]: pod default/client has app=client, not app=friend",
        "policy default/web ingress[1]: only tcp/443, asked was tcp/80",
        "ingress of default/web denied by web   # agrees",
    ):
        assert text in out
    assert "MISMATCH" not in out


@pytest.mark.parametrize(
    ("source", "destination", "port", "allowed"),
    [
        ("10.1.0.6", "default/web", "443", True),
        ("10.1.0.6", "pod/default/web", "tcp/443", True),
        ("192.0.2.1", "10.1.0.5", "443/tcp", False),
        ("n1", "default/web", "80", True),
        ("default/agent", "default/web", "9/sctp", True),
        ("default/client", "192.0.2.1", "icmp", False),
        ("default/client", "node/n1", "22", True),
        ("default/elsewhere", "192.0.2.1", "22", False),
        ("default/elsewhere", "default/client", "22", True),
    ],
)
def test_ends_are_found_by_any_name(folder: Path, source: str, destination: str, port: str, *, allowed: bool) -> None:
    expected = ExitCode.FINE if allowed else ExitCode.DENIED
    assert explain(folder, source, destination, port, "--exit-code") == expected


@pytest.mark.parametrize(
    ("source", "destination", "port", "text"),
    [
        ("web", "default/client", "80", "no node web"),
        ("other/web", "default/client", "80", "did you mean default/web?"),
        ("default/client", "10.96.0.10", "80", "VIP of Service default/web"),
        ("default/client", "default/web", "http", "write 80/tcp"),
        ("default/client", "default/web", "99999", "write 80/tcp"),
        ("10.1.0.6", "fd00:1::5", "80", "no address family in common"),
    ],
)
def test_what_cannot_be_asked_is_told(
    folder: Path, source: str, destination: str, port: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(folder, source, destination, port) == ExitCode.ERROR
    assert text in capsys.readouterr().err


def test_whatever_is_lost_that_matters_is_a_mismatch(loop: Loop) -> None:
    """Mutation: entries, rules, chains and jumps that these connections hang on, each taken away alone."""
    asked = [connection(loop, "10.1.0.6", "10.1.0.5", port) for port in ("443", "80")]
    whole = list(loop.tracker.wanted_of(KINDS))
    assert not any(mismatches(one, whole) for one in asked)
    lost = [number for number, one in enumerate(whole) if _matters(one)]
    assert len(lost) == 6
    for number in lost:
        rest = [*whole[:number], *whole[number + 1 :]]
        assert any(mismatches(one, rest) for one in asked), f"{whole[number].key} is missing and nobody says so"
    for number, chain in enumerate(whole):
        if isinstance(chain, Chain) and _matters(chain):
            for index in _deciding(chain):
                thinner = replace(chain, rules=(*chain.rules[:index], *chain.rules[index + 1 :]))
                broken = [*whole[:number], thinner, *whole[number + 1 :]]
                assert any(mismatches(one, broken) for one in asked), f"{chain.key}[{index}]: {chain.rules[index]}"


def _matters(one: Object) -> bool:
    """Whether the answer for 10.1.0.6 -> 10.1.0.5 hangs on it."""
    match one:
        case Entry(key=EntryKey(name, member)):
            return member == "10.1.0.0/16" or (member == "10.1.0.5" and name == "kube-router-local-pods")
        case Jump(key=JumpKey(family=Family.IPV4, chain="KUBE-ROUTER-FORWARD")):
            return True
        case Chain(key=ChainKey(family=Family.IPV4, name=name), rules=rules):
            about = {"TO-PODS": "default/web", "NWPLCY": "default/web ingress", "POD-FW": "ingress of default/web"}
            return any(part in name and any(text in rule.reason for rule in rules) for part, text in about.items())
        case _:
            return False


def _deciding(chain: Chain) -> list[int]:
    """Return the rules without which a verdict changes: the jump to the pod's chain, the mark for 443, drop and return."""
    sought = ("10.1.0.0/16", "denied by web", "a policy allows it", "policy default/web")
    return [
        index
        for index, rule in enumerate(chain.rules)
        if rule.reason == "default/web" or any(text in rule.reason for text in sought)
    ]


def mismatches(about: Connection, objects: list[Object]) -> bool:
    world = World(objects)
    return any(one.accepted != answer.here for answer in about.answers for one in walked(answer, about, world))


def test_a_mismatch_is_shown() -> None:
    answer = Answer("10.1.0.6", "10.1.0.5", True, (), True, ("FORWARD",), (Walked("FORWARD", False, "X[1] a drop"),))
    text = "\n".join(explain_lines(Connection("n1", "pod a/b", "pod c/d", "tcp", 80, (answer,)), live=True))
    assert answer.differs
    assert "kernel   denied   FORWARD on n1: X[1] a drop   # MISMATCH" in text


# --- denied packets ---------------------------------------------------------------------------------------------------


NAMES = {"10.1.0.5": "default/web", "10.0.0.2": "node n2"}


@pytest.mark.parametrize(
    ("prefix", "word", "by"),
    [
        ("in:default/web:deny,more", "DENIED", "ingress of default/web by deny,more"),
        ("out:default/web:cnp/guard", "DENIED", "egress of default/web by cnp/guard"),
        ("audit:in:default/web:trial", "WOULD DENY", "ingress of default/web by trial"),
        ("unseen", "DENIED", "a pod not seen yet"),
    ],
)
def test_a_denied_packet_is_a_line(prefix: str, word: str, by: str) -> None:
    packet = Logged(prefix, "10.0.0.2", "10.1.0.5", "tcp", 4000, 80)
    told = list(lines(packet, Names(lambda: NAMES, lambda: 0.0), "12:00:00"))
    assert told == [f"12:00:00 {word} node n2 (10.0.0.2) -> default/web (10.1.0.5) 80/tcp   # {by}"]


def test_names_are_asked_for_again_but_not_for_every_packet() -> None:
    asked: list[float] = []
    now = [0.0]

    def fetch() -> dict[str, str]:
        asked.append(now[0])
        if len(asked) == 2:
            raise KubeRouterError("away")
        return NAMES

    names = Names(fetch, lambda: now[0])
    assert [names.of("10.1.0.5"), names.of("10.9.9.9"), names.of("10.9.9.9")] == ["default/web", "", ""]
    now[0] = 9.0
    assert names.of("10.9.9.9") == ""
    assert names.of("10.1.0.5") == "default/web"
    assert asked == [0.0, 9.0]


def test_an_unknown_end_of_a_question_is_an_error(loop: Loop) -> None:
    with pytest.raises(UnknownSubject):
        connection(loop, "default/none", "default/web", "80")
