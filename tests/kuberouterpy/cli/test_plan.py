"""``plan``: from YAML against nothing, from an agent that has done its work, and from one that could not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kuberouterpy import answers, offline
from kuberouterpy.cli import main
from kuberouterpy.cli.plan import line, lines
from kuberouterpy.config import Config
from kuberouterpy.dataplane import VirtualServerKey
from kuberouterpy.drivers import fake
from kuberouterpy.errors import ConfigError
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.wiring import controllers

WORLD = """\
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.1.0/24, "fd00:1:1::/64"]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: "fd00::1"}]}
---
kind: Service
metadata: {name: web}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::a"]
  ipFamilies: [IPv4, IPv6]
  externalIPs: [203.0.113.9]
  ports: [{name: http, port: 80, protocol: TCP}]
---
kind: EndpointSlice
metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.1.1.3], nodeName: n1, conditions: {ready: true}, targetRef: {kind: Pod, name: web-1}}
- {addresses: [10.1.2.3], nodeName: n2, conditions: {ready: false, serving: true, terminating: true}}
---
kind: EndpointSlice
metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: ["fd00:1:1::3"], nodeName: n1, conditions: {ready: true}, targetRef: {kind: Pod, name: web-1}}
"""
BOTH = ["--enable-ipv6", "--service-cluster-ip-range=10.96.0.0/12,fd00:96::/112"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "world.yaml").write_text(WORLD)
    return tmp_path


@pytest.fixture
def agent(folder: Path) -> Callable[..., Loop]:
    """Return what makes an agent over a fake kernel that knows the world."""

    def make(*drivers: fake.FakeDriver) -> Loop:
        config = Config(node_name="n1", enable_ipv6=True)
        loop = Loop(
            config=config,
            controllers=tuple(controllers(config)),
            drivers=[Programmed(one, period_s=1e9) for one in drivers or fake.kernel()],
            expected=(),
        )
        facts = offline.read([folder])
        for event in offline.events(facts, offline.links_of(facts)):
            loop.put(event)
        loop.step(1.0)
        return loop

    return make


def test_against_nothing_everything_of_both_families_is_new(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(folder), *BOTH]) == 0
    out = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    owner = "# proxy/service/default/web"
    assert f"+ virtual tcp 10.96.0.10:80 rr {owner}" in out
    assert f"+ virtual tcp [fd00:96::a]:80 rr {owner}" in out
    assert f"+ real tcp 10.96.0.10:80 -> 10.1.2.3:8080 weight 0 masq {owner}" in out
    assert f"+ real tcp [fd00:96::a]:80 -> [fd00:1:1::3]:8080 weight 1 masq {owner}" in out
    assert out[-1].endswith("to create on n1")


def test_flags_of_run_are_those_of_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "-f", str(folder), "--run-router=false", "--run-firewall=false"])
    out = capsys.readouterr().out
    assert "# proxy/" in out
    assert "routing/" not in out
    assert "firewall/" not in out


def test_changes_pending_are_an_exit_code_where_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(folder), "--exit-code"]) == 3


def test_json_says_verb_kind_name_value_and_owners(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(folder), "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["node"] == "n1"
    assert {
        "verb": "create",
        "kind": "virtual",
        "name": "tcp 10.96.0.10:80",
        "wanted": "rr",
        "owners": ["proxy/service/default/web"],
    } in told["changes"]


def test_an_agent_that_did_its_work_has_nothing_to_do(agent: Callable[..., Loop]) -> None:
    told = answers.plan(agent())
    assert told.changes == ()
    assert lines(told) == ["nothing to do on n1"]


def test_the_plan_is_what_the_agent_then_does(folder: Path, agent: Callable[..., Loop]) -> None:
    facts = offline.read([folder])
    planned = answers.plan(offline.build(Config(node_name="n1", enable_ipv6=True), facts, offline.links_of(facts)))
    drivers = fake.kernel()
    agent(*drivers)
    done = {(str(op.verb), type(op.key), op.key) for driver in drivers for op in driver.log}
    assert len(planned.changes) == len(done)


def test_a_key_that_failed_stays_in_the_plan_with_the_reason(agent: Callable[..., Loop]) -> None:
    drivers = fake.kernel()
    ipvs = next(one for one in drivers if one.name == "ipvs")
    ipvs.fault = lambda op: 16 if isinstance(op.key, VirtualServerKey) and op.key.port == 80 else 0
    told = answers.plan(agent(*drivers))
    shown = [line(change) for change in told.changes if change.kind == "virtual"]
    assert len(shown) == 2
    assert "# proxy/service/default/web (failed 1 times: " in shown[0]


def test_what_nobody_wants_any_more_goes_and_says_so(agent: Callable[..., Loop], folder: Path) -> None:
    drivers = fake.kernel()
    agent(*drivers)
    (folder / "deep" / "world.yaml").write_text(WORLD.split("---\n", maxsplit=1)[0])
    facts = offline.read([folder])
    left = offline.build(Config(node_name="n1", enable_ipv6=True), facts, offline.links_of(facts), drivers)
    gone = [line(change) for change in answers.plan(left).changes if change.kind == "virtual"]
    assert [" ".join(text.split()) for text in gone] == [
        "- virtual tcp [fd00:96::a]:80 rr # nobody wants it",
        "- virtual tcp 10.96.0.10:80 rr # nobody wants it",
    ]


def test_a_plan_never_applies(folder: Path) -> None:
    drivers = fake.kernel()
    facts = offline.read([folder])
    offline.build(Config(node_name="n1"), facts, offline.links_of(facts), drivers)
    assert [driver.attempts for driver in drivers] == [[] for _ in drivers]


def test_a_driver_that_cannot_list_is_told_and_left_out(folder: Path) -> None:
    drivers = fake.kernel()
    next(one for one in drivers if one.name == "gobgp").fail_list()
    facts = offline.read([folder])
    told = answers.plan(offline.build(Config(node_name="n1"), facts, offline.links_of(facts), drivers))
    assert list(told.unlisted) == ["gobgp"]
    assert not [change for change in told.changes if change.kind in {"speaker", "path", "neighbor", "policy"}]
    assert lines(told)[0].startswith("UNKNOWN gobgp: list gobgp")


def test_no_agent_is_exit_code_six(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--agent-socket", str(tmp_path / "none")]) == 6
    assert capsys.readouterr().err.startswith("error: no agent answers at ")


def test_offline_options_without_files_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--live"]) == 2
    assert "need -f" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind: [", "line 2: not YAML"),
        ("- 1\n", "without kind"),
        ("kind: Node\nmetadata: {name: a}\n---\nkind: Node\nmetadata: {name: b}\n", "name one of a, b"),
        ("kind: Service\nmetadata: {name: a}\n", "no Node among these objects"),
    ],
)
def test_files_that_cannot_be_used_are_one_clear_error(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        offline.read([path])


def test_a_list_of_kubectl_is_its_items(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"kind": "List", "items": [{"kind": "Node", "metadata": {"name": "n7"}}]}))
    assert offline.read([path]).node == "n7"


def test_what_had_to_be_assumed_is_told_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("kind: Service\nmetadata: {name: a}\nspec: {type: Odd}\n---\nkind: Deployment\n")
    assert main(["plan", "-f", str(path), "--node", "n1"]) == 0
    told = capsys.readouterr().err
    assert "Service default/a cannot be used" in told
    assert "1 Deployment" in told
    assert "no Node n1" in told
