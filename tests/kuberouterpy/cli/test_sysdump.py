"""``sysdump``: everything in one archive, and none of the secrets that were sown everywhere."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from kuberouterpy import answers, dump, offline
from kuberouterpy.annotations import NodeBgp, Peer
from kuberouterpy.answers.own import OWN
from kuberouterpy.cli import main
from kuberouterpy.cluster import Node, Passwords, Pod, Ref, Upsert
from kuberouterpy.config import Config
from kuberouterpy.dataplane import KINDS
from kuberouterpy.log import RECENT, LogfmtFormatter
from kuberouterpy.sources.socket import SocketSource
from tests.kuberouterpy.test_redact import PEM, TOKEN

SECRETS = ("hunter2", "aHVudGVyMg==", TOKEN, "MIIEowIBAAKCAQEA7", "c2VjcmV0a2V5", "s3cret")
"""Sown into annotations, logs, errors, programs' output, files and CNI configuration."""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A socket over a loop whose facts, and a host whose programs and files, are full of secrets."""
    config = Config(
        node_name="n1", metrics_port=0, run_router=False, enable_ipv6=True, record_dir=str(tmp_path / "none")
    )
    loop = offline.idle(config, [offline.Empty(KINDS)])
    annotations = {
        "kube-router.io/peer.passwords": "aHVudGVyMg==",
        "kube-router.io/peers": "- {asn: 1, password: hunter2}",
    }
    bgp = NodeBgp(peers=(Peer("10.0.0.9", 64512, password="hunter2"), Peer("fd00::9", 64512, password="hunter2")))
    for event in offline.events(offline.Facts(node="n1"), ()):
        loop.put(event)
    loop.put(Upsert(Node(Ref("", "n1"), annotations=annotations, bgp=bgp)))
    loop.put(Upsert(Pod(Ref("default", "web"), labels={"app": "web"}, annotations={"kube-router.io/token": TOKEN})))
    loop.put(Upsert(Passwords("/etc/passwords", ("hunter2",))))
    loop.step(0.0)
    monkeypatch.setattr(RECENT, "lines", lambda: [f'event=x error="Authorization: Bearer {TOKEN}"', "password=hunter2"])
    assert isinstance(RECENT.formatter, LogfmtFormatter)

    def answer(question: str, words: Mapping[str, Sequence[str]]) -> object:
        if question == "status":
            return loop.status
        return OWN[question](words) if question in OWN else answers.answer(loop, question, words, now=0.0)

    told = tmp_path / "told"
    told.write_text(f"{PEM}\nclient-key-data: c2VjcmV0a2V5\nhttps://user:s3cret@example.com/\nharmless 10.0.0.1\n")
    monkeypatch.setattr(dump, "COMMANDS", {"kernel/a.txt": ("cat", str(told)), "kernel/b.txt": ("no-such-program",)})
    monkeypatch.setattr(dump, "FILES", {"kernel/c.txt": str(told), "kernel/d.txt": str(tmp_path / "absent")})
    monkeypatch.setattr(dump, "_SYSCTLS", ("kernel/random",))
    source = SocketSource(str(tmp_path / "run" / "agent.sock"), answer)
    source.start()
    yield str(tmp_path / "run" / "agent.sock")
    source.stop()


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        members = {one.name.partition("/")[2]: tar.extractfile(one) for one in tar}
        return {name: file.read().decode() for name, file in members.items() if file}


def test_everything_is_in_it_and_no_secret_is(agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.tar.gz"
    assert main(["sysdump", "-o", str(target), "--agent-socket", agent]) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    found = contents(target)
    assert {f"agent/{name}.json" for name in ("version", "status", "plan", "objects", "facts", "logs")} <= {*found}
    for name, text in found.items():
        assert not [secret for secret in SECRETS if secret in text], name
    assert '"10.0.0.9"' in found["agent/facts.json"]
    assert "(hidden)" in found["agent/facts.json"]
    assert "(hidden)" in found["agent/logs.json"]
    assert "harmless 10.0.0.1" in found["kernel/a.txt"]
    assert "harmless 10.0.0.1" in found["kernel/c.txt"]
    assert "kuberouterpy 0." in found["versions/python.txt"]
    assert capsys.readouterr().out.startswith(f"{target}: ")


def test_what_cannot_be_read_is_told_in_its_place(agent: str, tmp_path: Path) -> None:
    target = tmp_path / "out.tar.gz"
    assert main(["sysdump", "-o", str(target), "--agent-socket", agent]) == 0
    found = contents(target)
    assert found["kernel/b.txt"].startswith("could not be read: ")
    assert "no-such-program" in found["kernel/b.txt"]
    assert "No such file" in found["kernel/d.txt"]


def test_without_an_agent_the_rest_is_still_there(
    agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.tar.gz"
    assert main(["sysdump", "-o", str(target), "--agent-socket", agent + ".none"]) == 0
    assert "no agent answers at" in capsys.readouterr().err
    found = contents(target)
    assert "no agent answers at" in found["agent/status.json"]
    assert "harmless" in found["kernel/a.txt"]


def test_the_default_name_has_node_and_time(agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sysdump", "--agent-socket", agent]) == 0
    (made,) = tmp_path.glob("kuberouterpy-n1-2*Z.tar.gz")
    with tarfile.open(made) as tar:
        assert all(name.startswith(made.name.removesuffix(".tar.gz") + "/") for name in tar.getnames())


def test_a_folder_that_cannot_be_written_is_one_line(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sysdump", "-o", "/no/such/folder/x.tar.gz", "--agent-socket", agent]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_nothing_that_holds_credentials_is_read() -> None:
    read = [*dump.FILES.values(), *(word for argv in dump.COMMANDS.values() for word in argv)]
    assert not [path for path in read if "kubeconfig" in path or "serviceaccount" in path or "passwords" in path]
