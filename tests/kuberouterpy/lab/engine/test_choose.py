"""The choice of an engine says which, and why."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine import uml
from kuberouterpy.lab.engine.choose import Engine, choose
from kuberouterpy.lab.engine.plan import GuestPlan


class Stub:
    def __init__(self, name: str, lack: str) -> None:
        self.name = name
        self._lack = lack

    def missing(self) -> str:
        return self._lack

    def version(self) -> str:
        return self.name

    def start(self, plan: GuestPlan, folder: Path, channel: socket.socket) -> subprocess.Popen[bytes]:
        raise AssertionError("nothing is started")


def engines(**lacks: str) -> dict[str, Engine]:
    return {name: Stub(name, lack) for name, lack in lacks.items()}


def test_auto_takes_the_first_that_can_run_and_says_why_not_the_others() -> None:
    choice = choose(engines=engines(native="not root", uml="", qemu=""))
    assert (choice.engine.name, choice.reason) == ("uml", "no native: not root")


def test_nothing_at_all_names_every_lack_and_the_mend() -> None:
    with pytest.raises(LabError, match=r"not root.*no linux.uml.*user-mode-linux"):
        choose(engines=engines(native="not root", uml="no linux.uml"))


def test_an_engine_that_was_asked_for_is_not_replaced() -> None:
    here = engines(native="not root", uml="")
    with pytest.raises(LabError, match="engine native cannot run here: not root"):
        choose("native", here)
    with pytest.raises(LabError, match="no engine 'xen'"):
        choose("xen", here)


def test_an_unpacked_package_does_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = tmp_path / "usr/bin/linux.uml"
    kernel.parent.mkdir(parents=True)
    kernel.touch(mode=0o755)
    modules = tmp_path / "usr/lib/uml/modules/6.9.9"
    modules.mkdir(parents=True)
    monkeypatch.setenv("KUBEROUTERPY_UML", str(tmp_path))
    assert uml.Uml().missing() == ""
    assert uml.Uml().version() == "User-Mode Linux 6.9.9"


def test_a_memory_size_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEROUTERPY_UML_MEM_MIB", "lots")
    with pytest.raises(LabError, match="KUBEROUTERPY_UML_MEM_MIB=lots"):
        uml.memory()
