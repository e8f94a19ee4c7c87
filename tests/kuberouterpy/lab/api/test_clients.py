"""kubectl and the kubernetes package against the server, unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kuberouterpy.lab.api.__main__ import write_kubeconfig

from .conftest import Client

YAML = """
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  selector: {app: web}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80, name: http}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np}
spec: {podSelector: {}, ingress: []}
"""


class Kubectl:
    def __init__(self, api: Client, folder: Path) -> None:
        write_kubeconfig(folder / "kubeconfig", api.server.url)
        self._environment = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder)}

    def __call__(self, *arguments: str, stdin: str = "", fails: bool = False) -> str:
        done = subprocess.run(
            ["kubectl", *arguments],
            input=stdin, capture_output=True, text=True, timeout=20, check=False, env=self._environment,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def kubectl(api: Client, tmp_path: Path) -> Kubectl:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return Kubectl(api, tmp_path)


def test_kubectl_applies_gets_and_deletes(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=YAML).count("created") == 3
    assert kubectl("apply", "-f", "-", stdin=YAML).count("unchanged") == 3
    assert "service/web configured" in kubectl("apply", "-f", "-", stdin=YAML.replace("port: 80,", "port: 81,"))
    shown = kubectl("get", "svc,pods,netpol", "-o", "wide")
    assert "SELECTOR" in shown
    assert "53/UDP,81/TCP" in shown
    assert json.loads(kubectl("get", "svc", "web", "-o", "json"))["spec"]["ports"][1]["port"] == 81
    assert kubectl("get", "pods", "-l", "app=web", "-o", "name") == "pod/p\n"
    assert "Endpoints:" in kubectl("describe", "svc", "web")
    assert kubectl("delete", "-f", "-", stdin=YAML).count("deleted") == 3


def test_kubectl_patches_labels_and_scales(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "t")
    kubectl("-n", "t", "create", "deployment", "d", "--image=x", "--replicas=0")
    kubectl("-n", "t", "scale", "deployment", "d", "--replicas=4")
    kubectl("-n", "t", "label", "deployment", "d", "a=b")
    kubectl("-n", "t", "patch", "deployment", "d", "-p", '{"spec": {"template": {"spec": {"hostNetwork": true}}}}')
    made = json.loads(kubectl("-n", "t", "get", "deployment", "d", "-o", "json"))
    assert (made["spec"]["replicas"], made["metadata"]["labels"]["a"]) == (4, "b")
    assert made["spec"]["template"]["spec"]["hostNetwork"] is True
    kubectl("delete", "namespace", "t")
    assert "NotFound" in kubectl("get", "namespace", "t", fails=True)


def test_kubectl_applies_on_the_server_side(kubectl: Kubectl) -> None:
    assert kubectl("apply", "--server-side", "-f", "-", stdin=YAML).count("serverside-applied") == 3
    changed = YAML.replace("port: 80,", "port: 81,")
    kubectl("apply", "--server-side", "-f", "-", stdin=changed)
    ports = json.loads(kubectl("get", "svc", "web", "-o", "json"))["spec"]["ports"]
    assert [port["port"] for port in ports] == [53, 81]


def test_kubectl_waits_for_conditions_and_deletion(kubectl: Kubectl, api: Client) -> None:
    kubectl("apply", "-f", "-", stdin=YAML)
    status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    api.ask(
        "PATCH", "/api/v1/namespaces/default/pods/p/status", status, content="application/strategic-merge-patch+json"
    )
    assert "condition met" in kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=5s")
    kubectl("delete", "pod", "p", "--wait=true", "--timeout=5s")


def test_kubectl_shows_refusals_as_a_real_server_words_them(kubectl: Kubectl) -> None:
    bad = YAML.replace("port: 80,", "port: 99999,").replace("ingress: []", "ingres: []")
    answer = kubectl("apply", "-f", "-", stdin=bad, fails=True)
    assert 'Service "web" is invalid: spec.ports[1].port: Invalid value: 99999: must be between 1 and 65535' in answer
    assert "kuberouterpy lab exec" in kubectl("exec", "p", "--", "true", fails=True)


def test_the_python_client_lists_watches_and_patches(api: Client) -> None:
    import kubernetes.client
    import kubernetes.watch

    configuration = kubernetes.client.Configuration()
    configuration.host = api.server.url
    with kubernetes.client.ApiClient(configuration) as connection:
        core = kubernetes.client.CoreV1Api(connection)
        body: Any = {"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"k": "v"}}
        made = core.create_namespaced_config_map(namespace="default", body=body)
        assert made.data == {"k": "v"}
        core.patch_namespaced_config_map(name="a", namespace="default", body={"data": {"k": "w"}})
        listed = core.list_namespaced_config_map(namespace="default", label_selector="x=1", limit=1)
        assert [item.data for item in listed.items] == [{"k": "w"}]
        watch = kubernetes.watch.Watch()
        stream = watch.stream(
            core.list_namespaced_config_map, namespace="default", resource_version="0", timeout_seconds=5
        )
        for event in stream:
            assert (event["type"], event["object"].metadata.name) == ("ADDED", "a")
            watch.stop()
        with pytest.raises(kubernetes.client.ApiException) as refusal:
            core.read_namespaced_config_map(name="nope", namespace="default")
        assert refusal.value.status == 404
