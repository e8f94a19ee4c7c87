"""The kind provider's commands, against stand-ins that answer in the form in which kind, docker, crictl and kubectl do."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from kuberouterpy.config import parse
from kuberouterpy.family import IPV4, IPV6
from tests import kind
from tests.cluster import Lab
from tests.e2e.objects import SHARED_PORTS, pod

NODES = f"{kind.CLUSTER}-control-plane\n{kind.CLUSTER}-worker2\n{kind.CLUSTER}-worker\n"
INSPECTED = [
    {
        "State": {"Pid": 4711},
        "NetworkSettings": {
            "Networks": {"kind": {"IPAddress": "172.18.0.3", "GlobalIPv6Address": "fc00:f853:ccd:e793::3"}},
        },
    }
]
SANDBOX = {
    "info": {
        "pid": 99,
        "runtimeSpec": {
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-5d2b0fbe-8a21"}],
            },
        },
    },
}
ANSWERS = {
    "kind get nodes": NODES,
    "kind get clusters": "kind\n",
    "docker inspect": json.dumps(INSPECTED),
    "docker exec": f"case \"$*\" in *inspectp*) cat <<'E'\n{json.dumps(SANDBOX)}\nE\n;; *) echo 3f1c9a ;; esac",
    "kubectl get": "pod/kuberouterpy-x7k2p\n",
    "kubectl logs": 'level=info event=started\nlevel=warning reason="nodes is forbidden: User x cannot list"\n',
}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins first on PATH; the file gets a line a call."""
    log = tmp_path / "calls"
    log.touch()
    for program in ("docker", "kind", "kubectl"):
        cases = ""
        for name, answer in ANSWERS.items():
            tool, word = name.split(" ", 1)
            if tool == program:
                body = answer if answer.startswith("case") else f"cat <<'EOF'\n{answer.rstrip()}\nEOF"
                cases += f'case " $* " in *" {word} "*)\n{body}\nexit 0;; esac\n'
        path = tmp_path / program
        path.write_text(f'#!/bin/sh\necho "{program} $*" >>{log}\n{cases}exit 0\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/bin")
    return log


def test_a_cluster_is_made_loaded_applied_and_waited_for(calls: Path, tmp_path: Path) -> None:
    kind.create(tmp_path / "kubeconfig")
    told = calls.read_text().splitlines()
    assert [" ".join(line.split()[:3]) for line in told if line.startswith("kind")] == [
        "kind create cluster",
        "kind load docker-image",
    ]
    text = "\n".join(told)
    order = [
        "kind create",
        "kind load",
        "create configmap",
        "apply --kustomize",
        "rollout status",
        "wait --for",
        "docker run",
    ]
    assert sorted(order, key=text.index) == order
    assert f"KUBERNETES_SERVICE_HOST={kind.CLUSTER}-control-plane" in text
    kind.delete()
    assert f"kind delete cluster --name {kind.CLUSTER}" in calls.read_text()


def test_places_addresses_and_logs_come_from_docker_crictl_and_kubectl(calls: Path, tmp_path: Path) -> None:
    cluster = kind.Kind(tmp_path / "kubeconfig", "http://127.0.0.1:9")
    assert cluster.nodes == tuple(sorted(NODES.split()))
    assert cluster.node("node-1") is cluster.node(f"{kind.CLUSTER}-control-plane")
    assert cluster.node("node-2").netns == "/proc/4711/ns/net"
    assert [cluster.address("node-3", family) for family in (IPV4, IPV6)] == ["172.18.0.3", "fc00:f853:ccd:e793::3"]
    assert cluster.client_address(IPV4) == "172.18.0.3"
    cluster.api.get = lambda *_: {"spec": {"nodeName": f"{kind.CLUSTER}-worker"}}  # type: ignore[method-assign]
    assert cluster.pod("e2e", "red").netns == "/proc/4711/root/var/run/netns/cni-5d2b0fbe-8a21"
    assert "event=started" in cluster.log("node-1")
    assert "logs pod/kuberouterpy-x7k2p --container=gobgpd" in (cluster.log("node-1", "gobgp") and calls.read_text())
    assert len(cluster.refused()) == 1
    cluster.close()


def test_a_pod_of_the_tests_runs_the_responder_for_real() -> None:
    item = kind.real(pod("red", "node-1", ports=SHARED_PORTS), {"node-1": "real-1"})
    container = item["spec"]["containers"][0]
    assert item["spec"]["nodeName"] == "real-1"
    assert container["image"] == kind.IMAGE
    assert container["command"][-4:] == ["red", "tcp/8080", "udp/8053", "sctp/9132"]


def test_what_a_machine_lacks_is_said_at_once_with_the_mend(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'Error: No such image' >&2\nexit 1\n")
    (tmp_path / "kind").unlink()
    told = "\n".join(kind.lacks(tmp_path / "modules"))
    assert "kind is not installed: go install" in told
    assert "this kernel has no ip_vs, which all nodes share: modprobe ip_vs" in told
    assert f"no image {kind.IMAGE}: docker build" in told
    with pytest.raises(pytest.UsageError, match="--cluster kind cannot run here:\n  kind is not installed"):
        next(kind.opened(tmp_path))


def test_a_command_that_fails_shows_its_own_words(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "kind").write_text(
        "#!/bin/sh\necho 'ERROR: failed to create cluster: node(s) already exist' >&2\nexit 1\n"
    )
    with pytest.raises(kind.Refused, match=r"kind create cluster .*exit 1: ERROR: failed to create cluster"):
        kind.create(tmp_path / "kubeconfig")


def test_kind_offers_everything_that_the_lab_offers() -> None:
    """What kind does not override would talk to a lab that is not there."""
    shared = {"node", "dataplane", "close"}  # only use places
    lab = {name for name, value in vars(Lab).items() if callable(value) and not name.startswith("_")}
    assert lab - set(vars(kind.Kind)) <= shared


def test_kinds_configuration_is_that_of_a_cluster_without_proxy_and_plugin() -> None:
    networking = yaml.safe_load(kind.CONFIG.read_text())["networking"]
    assert (networking["kubeProxyMode"], networking["disableDefaultCNI"], networking["ipFamily"]) == (
        "none",
        True,
        "dual",
    )
    if shutil.which("kubectl"):
        words = ["kubectl", "kustomize", str(kind.OVERLAY)]
        built = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        daemonset = next(one for one in yaml.safe_load_all(built) if one["kind"] == "DaemonSet")
        agent = next(one for one in daemonset["spec"]["template"]["spec"]["containers"] if one["name"] == "agent")
        given = dict(word.removeprefix("--").split("=", 1) for word in agent["args"][1:])
        assert parse(given, hostname="n").families == (IPV4, IPV6)
    image = yaml.safe_load((kind.OVERLAY / "../../../manifests/chart/Chart.yaml").read_text())["appVersion"]
    assert f"kuberouterpy:{image}" == kind.IMAGE
