"""The scripts of the image, run with stand-ins for the programs they call."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.documents import ROOT

IMAGE = ROOT / "manifests" / "image"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that comes first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def stand_in(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def environment(folder: Path) -> dict[str, str]:
    return {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log")}


def test_gobgpd_is_ended_without_a_farewell(programs: Path, tmp_path: Path) -> None:
    """At TERM gobgpd tells its neighbors that it goes for good; it must never see one."""
    stand_in(programs, "gobgpd", 'trap "echo TERM >>$LOG; exit 0" TERM; echo "$@" >>$LOG; while :; do sleep 0.05; done')
    socket = tmp_path / "gobgp.sock"
    socket.write_text("left by the one before")
    sidecar = subprocess.Popen([IMAGE / "gobgpd-sidecar", str(socket)], env=environment(programs))
    log = programs / "log"
    while not log.exists() or not log.read_text():
        assert sidecar.poll() is None
    sidecar.send_signal(signal.SIGTERM)
    assert sidecar.wait(timeout=10) == 0
    assert log.read_text() == f"--api-hosts unix://{socket} --pprof-disable -l warn\n"
    assert not socket.exists()


def test_a_gobgpd_that_fails_is_told_to_the_kubelet(programs: Path, tmp_path: Path) -> None:
    stand_in(programs, "gobgpd", "exit 7")
    done = subprocess.run([IMAGE / "gobgpd-sidecar", str(tmp_path / "s")], env=environment(programs), check=False)
    assert done.returncode == 7


HINT = ":KUBE-IPTABLES-HINT - [0:0]"
CANARY = ":KUBE-KUBELET-CANARY - [0:0]"
RULES = "-A INPUT -j ACCEPT\n-A OUTPUT -j ACCEPT"


@pytest.mark.parametrize(
    ("nft", "legacy", "chosen"),
    [
        (HINT, RULES, "nft"),
        (CANARY, "", "nft"),
        ("", HINT, "legacy"),
        ("-A INPUT -j ACCEPT", CANARY, "legacy"),
        ("", RULES, "legacy"),
        (RULES, "-A INPUT -j ACCEPT", "nft"),
        (RULES, RULES, "nft"),
        ("", "", "nft"),
        (None, "", "legacy"),
        (None, None, "legacy"),
    ],
)
def test_the_iptables_of_the_host_is_chosen(programs: Path, nft: str | None, legacy: str | None, chosen: str) -> None:
    """``None``: the kernel has none of this variant."""
    for name, text in (("nft", nft), ("legacy", legacy)):
        script = "exit 3" if text is None else f"case $1 in *-save) echo '*mangle\n{text}\nCOMMIT' ;; esac"
        stand_in(programs, f"xtables-{name}-multi", script)
    done = subprocess.run(
        [IMAGE / "choose-iptables"], env=environment(programs), capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{chosen}\n"


def test_every_dependency_is_locked_with_hashes() -> None:
    import tomllib

    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (IMAGE / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", lock, re.MULTILINE))
    entries = re.split(r"^(?=[a-z0-9-]+==)", lock, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked)
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    for requirement in map(Requirement, wanted):
        assert locked[requirement.name] in requirement.specifier, requirement


def test_the_image_is_built_from_what_the_build_context_holds() -> None:
    """What the Dockerfile copies must be let in by .dockerignore, and be there."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for word in [one for one in line.split() if not one.startswith("--")][:-1]
    ]
    assert len(copied) > 8
    assert [one for one in copied if not (ROOT / one).exists()] == []
    assert [one for one in copied if not any(Path(one).is_relative_to(base) for base in allowed)] == []
