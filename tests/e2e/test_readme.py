"""The commands that README shows for use inside a lab do what it says, on the addresses it names."""

from __future__ import annotations

import re
import subprocess

from kuberouterpy.lab.client import PODS, SERVICES
from tests.cluster import Lab, eventually
from tests.documents import ROOT, commands
from tests.e2e.conftest import Make, ready
from tests.e2e.objects import container_port, pod, port, service

INSIDE = [command for command in commands("README.md") if command[:3] == ["kuberouterpy", "lab", "exec"]]


def test_the_readmes_commands_inside_a_lab_work(lab: Lab, make: Make) -> None:
    web = make(
        PODS, pod("web-1", "node-1", namespace="default", labels={"app": "web"}, ports=[container_port(8080, "http")])
    )
    item = service("web", [port(80, 8080, node_port=30080)], {"app": "web"}, type="NodePort", clusterIP="10.96.0.10")
    item["metadata"]["namespace"] = "default"
    make(SERVICES, item)
    eventually(lambda: ready(lab, web))

    def works(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, (command, done.stderr)
        assert ("10.96.0.10:80" if "ipvsadm" in command else "web-1") in done.stdout

    assert len(INSIDE) >= 3
    for command in INSIDE:
        eventually(lambda command=command: works(command))  # type: ignore[misc]


def test_the_readmes_screen_of_status_is_what_a_node_shows(lab: Lab) -> None:
    """Word by word, but for numbers, times and names."""
    found = re.search(r"^\$ kuberouterpy status\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None

    def alike() -> None:
        words = ["kuberouterpy", "lab", "exec", "node/node-1", "--", "kuberouterpy", "status"]
        told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        assert shape(told.stdout) == shape(found[1])

    eventually(alike)


def shape(screen: str) -> list[str]:
    """Return the lines of a screen with every number as N; a plural is as good as a singular."""
    lines = (re.sub(r"\d+(\.\d+)*( ?(ms|s|m|h|d))?\b", "N", line) for line in screen.splitlines())
    return [
        " ".join(re.sub(r"s\b", "", line).split()) for line in lines if not line.startswith(("api", "changed", "drift"))
    ]
