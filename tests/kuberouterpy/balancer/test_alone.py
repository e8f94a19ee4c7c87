"""``--run-loadbalancer`` alone: a whole agent that needs no kernel and no root, against an API server on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuberouterpy.lab.api.__main__ import write_kubeconfig
from kuberouterpy.lab.api.config import Config
from kuberouterpy.lab.api.server import ApiServer
from kuberouterpy.lab.client import LEASES, SERVICES, Client

FLAGS = (
    "--run-service-proxy=false",
    "--run-router=false",
    "--run-firewall=false",
    "--run-loadbalancer",
    "--loadbalancer-ip-range=198.51.100.0/30,2001:db8:1b::/126",
    "--enable-ipv6",
    "--health-port=0",
    "--hostname-override=node-1",
)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    started = ApiServer(Config())
    started.start()
    yield started
    started.stop()


def test_an_agent_that_only_allocates_gives_addresses_and_resigns_when_it_ends(
    server: ApiServer, tmp_path: Path
) -> None:
    write_kubeconfig(tmp_path / "kubeconfig", server.url, token="")
    client = Client(server.url)
    spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    client.create(SERVICES, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    words = [sys.executable, "-m", "kuberouterpy", "run", *FLAGS]
    words += [f"--kubeconfig={tmp_path}/kubeconfig", f"--agent-socket={tmp_path}/agent.sock"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("POD_")}
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        agent = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not _addresses(client) and agent.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _addresses(client) == ["198.51.100.1"], (tmp_path / "log").read_text()
    finally:
        agent.send_signal(signal.SIGTERM)
        code = agent.wait(20)
    told = (tmp_path / "log").read_text()
    assert code == 0, told
    assert client.get(LEASES, "kube-system", "kube-router-lballoc")["spec"]["holderIdentity"] == ""
    assert _addresses(client) == ["198.51.100.1"], "the address stays"
    assert "level=warning" not in told, told
    client.close()


def _addresses(client: Client) -> list[str]:
    status = client.get(SERVICES, "default", "web")["status"]
    return [one["ip"] for one in status["loadBalancer"].get("ingress") or ()]
