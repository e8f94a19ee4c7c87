"""``bgp``: neighbors with problems first, routes both ways, and why a prefix goes where, or does not."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from kuberouterpy import offline
from kuberouterpy.answers.bgp import BGP, Neighbors, Routes, Why, neighbors, routes, why
from kuberouterpy.answers.subjects import UnknownSubject
from kuberouterpy.cli import ExitCode, main
from kuberouterpy.cli.bgp import neighbor_lines, route_lines, why_lines
from kuberouterpy.cluster import BestPath, Upsert
from kuberouterpy.config import Config
from kuberouterpy.loop import Loop
from kuberouterpy.sources.gobgp import NeighborState

SECRET = "c2VjcmV0"
CLUSTER = f"""\
kind: Node
metadata:
  name: n1
  annotations:
    kube-router.io/peers: |
      - {{remoteip: 10.0.0.254, remoteasn: 65001, password: {SECRET}, bfd: {{enabled: true}}}}
      - {{remoteip: 10.0.0.2, remoteasn: 65002}}
    kube-router.io/node.bgp.communities: "65000:7,no-export"
spec: {{podCIDRs: [10.1.0.0/24, "fd00:1::/64"]}}
status: {{addresses: [{{type: InternalIP, address: 10.0.0.1}}, {{type: InternalIP, address: "fd00::1"}}]}}
---
kind: Node
metadata: {{name: n2}}
spec: {{podCIDRs: [10.1.1.0/24, "fd00:1:0:1::/64"]}}
status: {{addresses: [{{type: InternalIP, address: 10.0.0.2}}, {{type: InternalIP, address: "fd00::2"}}]}}
---
kind: Service
metadata: {{name: web}}
spec:
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  externalIPs: [203.0.113.7]
  ports: [{{port: 80}}]
"""
FLAGS = ("--enable-ipv6", "--advertise-cluster-ip", "--service-cluster-ip-range", "10.96.0.0/16,fd00:96::/112")
CONFIG = Config(
    node_name="n1",
    enable_ipv6=True,
    advertise_cluster_ip=True,
    service_cluster_ip_range=("10.96.0.0/16", "fd00:96::/112"),
)
UP = NeighborState("10.0.0.2", "established", 1000.0, received=2)
DOWN = NeighborState("10.0.0.254", "idle", error="hold timer expired")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


@pytest.fixture
def loop(file: Path) -> Loop:
    """A node with a neighbor that is up and one that is down; two paths learned, one of them harmful."""
    facts = offline.read([file], node="n1")
    built = offline.build(CONFIG, facts, offline.links_of(facts))
    for path in (
        BestPath("10.1.1.0/24", ("10.0.0.2",), "10.0.0.2"),
        BestPath("10.96.0.9/32", ("10.0.0.2",), "10.0.0.2"),
    ):
        built.put(Upsert(path))
    built.step(1.0)
    return built


def test_neighbors_with_problems_stand_first_and_no_password_is_told(loop: Loop) -> None:
    told = neighbors(loop, (UP, DOWN))
    text = list(neighbor_lines(told, wide=True, now=1060.0))
    assert [row.address for row in told.neighbors] == ["10.0.0.254", "10.0.0.2"]
    assert text[1].split()[:4] == ["10.0.0.254", "external", "65001", "IDLE"]
    assert "hold timer expired" in text[1]
    assert "yes" in text[1]
    assert text[2].split()[:7] == ["10.0.0.2", "n2", "64512", "established", "60s", "2", "2"]
    assert any("is-a-node: n2 has this address" in line for line in text[3:])
    assert any("password-in-annotation" in line for line in text[3:])
    assert "secret" not in repr(told) + "".join(text)
    assert SECRET not in "".join(text)


def test_bfd_is_shown_where_it_is_asked_for_and_a_daemon_without_it_is_named(loop: Loop) -> None:
    """GoBGP 3 says ``none`` of every neighbor; only one that wants BFD is told of it."""

    def shown(bfd: str) -> tuple[list[str], list[str]]:
        states = [msgspec.structs.replace(one, bfd=bfd) for one in (UP, DOWN)]
        told = neighbors(loop, states)
        return [row.bfd for row in told.neighbors], [one.subject for one in told.notes if "no-bfd" in one.reason]

    assert shown("down") == (["down", ""], [])
    assert shown("none") == (["none", ""], ["10.0.0.254"])


def test_routes_say_who_is_told_and_what_the_kernel_does(loop: Loop) -> None:
    told = routes(loop)
    rows = {(row.direction, row.prefix): row for row in told.routes}
    assert rows["announced", "10.1.0.0/24"].neighbors == ("10.0.0.2", "10.0.0.254")
    assert rows["announced", "10.96.0.10/32"].neighbors == ("10.0.0.254",)
    assert rows["announced", "fd00:96::10/128"].next_hops == ("fd00::1",)
    assert rows["learned", "10.1.1.0/24"].kernel == "via 10.0.0.2"
    assert rows["learned", "10.96.0.9/32"].state == "no-route"
    assert rows["learned", "10.96.0.9/32"].problem == "service-range: inside 10.96.0.0/16"
    text = list(route_lines(told, wide=True))
    assert any(line.startswith("not there  203.0.113.7: not-advertised") for line in text)


def test_why_names_the_owner_the_statements_and_what_is_added(loop: Loop) -> None:
    text = "\n".join(why_lines(why(loop, "10.96.0.10", (UP,))))
    assert text.startswith("10.96.0.10/32\n  announced (pending), next hop 10.0.0.1   # routing/service/default/web")
    assert "not to 10.0.0.2 n2: no export statement is about it" in text
    assert "to 10.0.0.254 external: export statement 2 accepts hosts of 10.96.0.0/16" in text
    assert "communities 65000:7 no-export; the session is not known to be up" in text
    assert "from 10.0.0.2 n2: would be refused: import statement 3 refuses parts of 10.96.0.0/16" in text


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        ("203.0.113.7", "why not   203.0.113.7: not-advertised"),
        ("10.1.1.77", "10.1.1.0/24 holds 10.1.1.77"),
        ("10.1.1.0/24", "kernel: via 10.0.0.2 (pending)"),
        ("0.0.0.0/0", "from 10.0.0.2 n2: would be refused: import statement 2 refuses 0.0.0.0/0"),
        ("192.0.2.0/24", "from 10.0.0.254 external: would be refused: no import statement is about it"),
        ("fd00:96::10", "announced (pending), next hop fd00::1"),
    ],
)
def test_why_not(loop: Loop, subject: str, says: str) -> None:
    assert says in "\n".join(why_lines(why(loop, subject)))


def test_why_of_no_prefix_is_a_usage_error(loop: Loop, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownSubject, match="no prefix and no address"):
        why(loop, "web")
    assert main(["bgp", "why", "web", "-f", str(file), "--node", "n1"]) == ExitCode.USAGE
    assert "'web' is no prefix and no address; write 10.96.0.10" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["neighbors"], ["routes"], ["why", "10.96.0.10"]])
@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "name"])
def test_every_form_of_every_answer(
    words: list[str], form: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bgp", *words, "-f", str(file), "--node", "n1", *FLAGS, "-o", form]) == ExitCode.FINE
    out = capsys.readouterr().out
    assert "10.0.0.254" in out or form == "name" or words == ["routes"]
    assert "secret" not in out
    assert SECRET not in out
    if form == "json":
        assert json.loads(out)
    if form == "name":
        first = {"neighbors": "neighbor/10.0.0.2", "routes": "announced/10.1.0.0/24", "why": "prefix/10.96.0.10/32"}
        assert first[words[0]] in out.splitlines()


def test_sessions_that_are_down_and_an_agent_that_is_away_have_exit_codes_of_their_own(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offline_words = ["-f", str(file), "--node", "n1", *FLAGS]
    assert main(["bgp", "neighbors", "--exit-code", *offline_words]) == ExitCode.UNHEALTHY
    assert main(["bgp", "neighbors", "--agent-socket", str(tmp_path / "none")]) == ExitCode.UNREACHABLE
    assert main(["bgp", "routes", "--node", "n1"]) == ExitCode.USAGE
    assert "no agent answers" in capsys.readouterr().err


def test_questions_of_the_socket_are_these(loop: Loop) -> None:
    answers = [
        BGP[name](loop, {"prefix": ["10.96.0.10"]}, (UP,)) for name in ("bgp-neighbors", "bgp-routes", "bgp-why")
    ]
    assert [type(one) for one in answers] == [Neighbors, Routes, Why]
