"""The commands that README shows for use inside a lab do what it says, on the addresses it names."""

from __future__ import annotations

import subprocess

from kuberouterpy.lab.client import PODS, SERVICES
from tests.cluster import Lab, eventually
from tests.documents import commands
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
