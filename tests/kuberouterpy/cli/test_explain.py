"""``explain``: owners, values, errors and the reasons for what is absent, by any name a person would ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kuberouterpy import answers
from kuberouterpy.cli import main
from kuberouterpy.cli.explain import joined, lines
from kuberouterpy.dataplane import Chain, RealServerKey
from kuberouterpy.drivers import fake
from kuberouterpy.loop import Loop
from kuberouterpy.text import kind_of, name_of
from tests.kuberouterpy.cli.test_plan import WORLD, agent, folder  # noqa: F401

POLICY = """\
---
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.1.1.3, podIPs: [{ip: 10.1.1.3}, {ip: "fd00:1:1::3"}]}
---
kind: NetworkPolicy
metadata: {name: shut}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
"""

Make = Callable[..., Loop]


@pytest.fixture
def loop(folder: Path, agent: Make) -> Loop:  # noqa: F811
    (folder / "policy.yaml").write_text(POLICY.removeprefix("---\n"))
    return agent()


def names(told: answers.Explained, kind: str) -> list[str]:
    return [view.name for view in told.objects if view.kind == kind]


def ask(loop: Loop, subject: str) -> answers.Explained:
    return answers.explain_one(loop, subject, now=1.0)


@pytest.mark.parametrize(
    ("subject", "server"),
    [
        ("10.96.0.10:80", "tcp 10.96.0.10:80"),
        ("tcp/10.96.0.10:80", "tcp 10.96.0.10:80"),
        ("tcp 10.96.0.10:80", "tcp 10.96.0.10:80"),
        ("10.96.0.10", "tcp 10.96.0.10:80"),
        ("[fd00:96::a]:80", "tcp [fd00:96::a]:80"),
        ("fd00:96:0::a", "tcp [fd00:96::a]:80"),
    ],
)
def test_a_virtual_server_is_found_by_every_spelling(loop: Loop, subject: str, server: str) -> None:
    told = ask(loop, subject)
    assert names(told, "virtual") == [server]
    view = next(view for view in told.objects if view.kind == "virtual")
    assert (view.state, view.owners, view.about["port"]) == ("ok", ("proxy/service/default/web",), "http")


def test_another_port_or_protocol_is_another_question(loop: Loop) -> None:
    for subject in ("10.96.0.10:81", "udp/10.96.0.10:80"):
        assert not [view for view in ask(loop, subject).objects if view.kind == "virtual"]


def test_a_service_shows_every_object_and_every_reason(loop: Loop) -> None:
    told = ask(loop, "service/default/web")
    assert len(names(told, "virtual")) == 2
    assert len(names(told, "real")) == 3
    assert "2 ready, 1 terminating" in "".join(told.facts)
    assert any(note.subject == "203.0.113.9" and "refused" in note.reason for note in told.notes)
    shown = "\n".join(lines(told, compared=True))
    assert "why not   203.0.113.9: external-ip-refused" in shown
    assert "(default/web-1)" in shown


def test_an_address_that_was_refused_says_why_it_is_absent(loop: Loop) -> None:
    told = ask(loop, "203.0.113.9:80")
    assert not told.objects
    assert [note.owner for note in told.notes if "external-ip-refused" in note.reason] == ["proxy/service/default/web"]


def test_a_pod_shows_its_chain_with_the_reason_of_each_rule_and_where_it_serves(loop: Loop) -> None:
    told = ask(loop, "pod/default/web-1")
    chains = [view for view in told.objects if view.kind == "chain"]
    assert {view.name[:2] for view in chains} == {"v4", "v6"}
    assert any("denied by shut" in rule.reason for view in chains for rule in view.rules)
    assert "tcp 10.96.0.10:80 -> 10.1.1.3:8080" in names(told, "real")
    assert "selected by policy/default/shut" in told.facts


def test_a_chain_says_who_uses_it(loop: Loop) -> None:
    policy = ask(loop, "policy/default/shut")
    chain = next(view.name for view in policy.objects if view.kind == "chain").split()[-1]
    told = ask(loop, chain)
    assert {view.kind for view in told.objects} <= {"chain", "jump"}
    assert all(view.used_by for view in told.objects if view.kind == "chain")


def test_a_set_shows_its_entries(loop: Loop) -> None:
    assert "kube-router-svip 10.96.0.10" in names(ask(loop, "set/kube-router-svip"), "set") + names(
        ask(loop, "kube-router-svip"), "entry"
    )


def test_a_failure_is_told_with_its_error_and_next_try(agent: Make) -> None:  # noqa: F811
    drivers = fake.kernel()
    ipvs = next(one for one in drivers if one.name == "ipvs")
    ipvs.fault = lambda op: 12 if isinstance(op.key, RealServerKey) else 0
    told = ask(agent(*drivers), "10.1.2.3:8080")
    shown = "\n".join(lines(told, compared=True))
    assert "MISSING" in shown
    assert "last error:" in shown
    assert "(try 1, next in " in shown


def test_a_wrong_name_is_told_with_the_near_one(loop: Loop) -> None:
    with pytest.raises(answers.UnknownSubject, match="did you mean service/default/web"):
        ask(loop, "service/default/wbe")


def test_a_kind_may_stand_before_its_name() -> None:
    assert joined(["neighbor", "10.0.0.9", "10.96.0.10:80"]) == ["neighbor/10.0.0.9", "10.96.0.10:80"]


def test_it_works_offline_and_does_not_claim_to_know_the_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.yaml").write_text(WORLD)
    assert main(["explain", "10.96.0.10:80", "-f", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "wanted    virtual   tcp 10.96.0.10:80 rr" in out
    assert "MISSING" not in out


def test_nothing_known_is_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.yaml").write_text(WORLD)
    assert main(["explain", "no-such-thing", "-f", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: nothing is known of no-such-thing; ask for service/")


def test_every_kind_of_object_can_be_listed(loop: Loop) -> None:
    told = answers.objects(loop, now=1.0)
    assert {view.state for view in told.objects} == {"ok"}
    with pytest.raises(answers.UnknownSubject, match="there are sysctl, fou, link"):
        answers.objects(loop, ["absurd"], now=1.0)


def test_every_object_is_explained_by_the_name_that_plan_prints(agent: Callable[..., Loop]) -> None:  # noqa: F811
    """Of every kind that stands in the world of these tests; and so is every rule by the id in its comment."""
    loop = agent()
    keys = list(loop.tracker.known())
    told = answers.explain(loop, [f"{kind_of(key)} {name_of(key)}" for key in keys], now=0.0)
    for key, one in zip(keys, told.answers, strict=True):
        named = [view for view in one.objects if (view.kind, view.name) == (kind_of(key), name_of(key))]
        assert [bool(view.owners) for view in named] == [True], (key, one)
    assert {kind_of(key) for key in keys} >= {
        *("sysctl", "link", "address", "set", "entry", "chain", "jump", "virtual", "real", "cni", "speaker", "path")
    }
    rules = [(value.key, rule.id) for value in loop.tracker.wanted_of((Chain,)) for rule in value.rules]
    for key, number in rules:
        names = [view.name for view in answers.explain_one(loop, f"kr:{number}", now=0.0).objects]
        assert name_of(key) in names


def test_words_are_joined_as_people_paste_them() -> None:
    assert joined(["neighbor", "10.0.0.9", "web"]) == ["neighbor/10.0.0.9", "web"]
    assert joined(["real", "tcp", "10.96.0.10:80", "->", "10.1.2.3:8080"]) == [
        "real tcp 10.96.0.10:80 -> 10.1.2.3:8080"
    ]


def test_a_setting_is_explained_in_both_spellings(agent: Callable[..., Loop]) -> None:  # noqa: F811
    loop = agent()
    dotted, slashed = (
        answers.explain_one(loop, text, now=0.0) for text in ("net.ipv4.ip_forward", "net/ipv4/ip_forward")
    )
    assert dotted.objects == slashed.objects
    assert dotted.objects[0].owners == ("proxy/base", "routing/base")
