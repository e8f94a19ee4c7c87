"""The manifests are one source in several forms, valid, and as small in rights as the agent allows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kuberouterpy.config import DEFAULTS, parse
from kuberouterpy.lab.api.__main__ import write_kubeconfig
from kuberouterpy.lab.api.config import Config
from kuberouterpy.lab.api.server import ApiServer
from kuberouterpy.lab.client import Client
from manifests import render

Objects = dict[tuple[str, str], dict[str, Any]]
VARIANTS = pytest.mark.parametrize("variant", render.VARIANTS)
ROOT = render.ROOT


def objects(text: str) -> Objects:
    """Return the objects of a manifest by kind and name."""
    found = [one for one in yaml.safe_load_all(text) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def daemonset(variant: str) -> dict[str, Any]:
    spec: dict[str, Any] = objects(render.plain(variant))["DaemonSet", "kuberouterpy"]["spec"]["template"]["spec"]
    return spec


def agent(variant: str) -> dict[str, Any]:
    container: dict[str, Any] = next(one for one in daemonset(variant)["containers"] if one["name"] == "agent")
    return container


def flags_of(container: dict[str, Any]) -> dict[str, str]:
    command, *flags = container["args"]
    assert command == "run"
    return {name: value for name, _, value in (one.removeprefix("--").partition("=") for one in flags)}


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def test_every_file_is_as_the_chart_says() -> None:
    stale = [path for path, text in render.files() if not path.exists() or path.read_text() != text]
    assert stale == [], "run python manifests/render.py"


@VARIANTS
def test_kustomize_builds_what_the_plain_manifest_has(variant: str) -> None:
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(ROOT / "overlays" / variant)], capture_output=True, text=True, check=True
    )
    assert objects(done.stdout) == objects((ROOT / f"{variant}.yaml").read_text())


@VARIANTS
def test_helm_renders_what_the_plain_manifest_has(variant: str, tmp_path: Path) -> None:
    """Helm itself, where it is installed; elsewhere the chart is evaluated by manifests/gotemplate.py alone."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(render.values(variant)))
    words = [tool("helm"), "template", "x", str(ROOT / "chart"), "--namespace=kube-system", "--kube-version=1.32.0"]
    done = subprocess.run([*words, f"--values={values}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert objects(done.stdout) == objects((ROOT / f"{variant}.yaml").read_text())


def test_the_chart_names_the_api_server_where_it_is_told() -> None:
    values = render.values()
    assert render.template("apiserver", values).strip() == ""
    values["apiServer"] = {"host": "2001:db8::1", "port": 6443}
    values["image"] |= {"pullSecrets": ["mine"], "tag": "9"}
    values["flags"] = {"peer-router-ips": "192.0.2.1,2001:db8::1", "advertise-cluster-ip": "true"}
    made = yaml.safe_load(render.template("apiserver", values))
    assert made["data"] == {"KUBERNETES_SERVICE_HOST": "2001:db8::1", "KUBERNETES_SERVICE_PORT": "6443"}
    pod = yaml.safe_load(render.template("daemonset", values))["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "mine"}]
    assert {one["image"] for one in pod["containers"]} == {"kuberouterpy:9"}
    arguments = next(one for one in pod["containers"] if one["name"] == "agent")["args"]
    assert arguments[-2:] == ["--advertise-cluster-ip=true", "--peer-router-ips=192.0.2.1,2001:db8::1"]
    reference = next(one for one in pod["containers"] if one["name"] == "agent")["envFrom"][0]["configMapRef"]
    assert reference == {"name": made["metadata"]["name"], "optional": True}


def test_the_schema_refuses_what_the_chart_does_not_know() -> None:
    schema = render.schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {*yaml.safe_load((ROOT / "chart/values.yaml").read_text()), "global"}
    flags = schema["properties"]["flags"]
    assert flags["additionalProperties"] is False
    assert "peer-router-ips" in flags["properties"]
    assert "run-router" not in flags["properties"]  # features.router says it
    assert "peer-router-passwords" not in flags["properties"]
    pattern = flags["properties"]["bgp-holdtime"]["pattern"]
    assert [bool(re.match(pattern, text)) for text in ("90s", "5m0s", "0", "90")] == [True, True, True, False]


@VARIANTS
def test_the_agent_understands_the_arguments_of_its_container(variant: str) -> None:
    config = parse(flags_of(agent(variant)), hostname="n")
    wanted = {name: variant in {"all", name} for name in ("proxy", "router", "firewall")}
    assert wanted == {
        "proxy": config.run_service_proxy,
        "router": config.run_router,
        "firewall": config.run_firewall,
    }
    assert config.bgp_graceful_restart  # a rolling update must not withdraw routes


@VARIANTS
def test_nothing_runs_with_more_than_it_names(variant: str) -> None:
    pod = daemonset(variant)
    assert pod["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert not {"hostPID", "hostIPC"} & set(pod)
    rights = {}
    for container in (*pod["initContainers"], *pod["containers"]):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert "privileged" not in context
        assert context["capabilities"]["drop"] == ["ALL"]
        rights[container["name"]] = context["capabilities"]["add"]
    gobgpd = {"gobgpd": ["NET_BIND_SERVICE"]} if variant in {"all", "router"} else {}
    assert rights == {"prepare": ["SYS_MODULE"], "agent": ["NET_ADMIN", "NET_RAW"], **gobgpd}


def test_direct_server_return_adds_what_it_needs_and_nothing_else() -> None:
    values = render.values()
    plain = yaml.safe_load(render.template("daemonset", values))
    values["dsr"] = {"enabled": True, "socket": "/run/crio/crio.sock"}
    found = yaml.safe_load(render.template("daemonset", values))
    pod = found["spec"]["template"]["spec"]
    container = next(one for one in pod["containers"] if one["name"] == "agent")
    assert parse(flags_of(container), hostname="n").runtime_endpoint == "unix:///run/cri.sock"
    container["args"].remove("--runtime-endpoint=unix:///run/cri.sock")
    container["securityContext"]["capabilities"]["add"].remove("SYS_ADMIN")
    mounts = container["volumeMounts"]
    added = [one for one in mounts if one["name"] in {"cri", "netns"}]
    assert added == [
        {"name": "cri", "mountPath": "/run/cri.sock"},
        {"name": "netns", "mountPath": "/run/netns", "mountPropagation": "HostToContainer"},
    ]
    container["volumeMounts"] = [one for one in mounts if one not in added]
    volumes = [one for one in pod["volumes"] if one["name"] in {"cri", "netns"}]
    assert volumes == [
        {"name": "cri", "hostPath": {"path": "/run/crio/crio.sock", "type": "Socket"}},
        {"name": "netns", "hostPath": {"path": "/run/netns", "type": "DirectoryOrCreate"}},
    ]
    pod["volumes"] = [one for one in pod["volumes"] if one not in volumes]
    assert found == plain


@VARIANTS
def test_every_mount_has_its_volume_and_every_volume_a_mount(variant: str) -> None:
    pod = daemonset(variant)
    mounted = {
        mount["name"] for one in (*pod["initContainers"], *pod["containers"]) for mount in one.get("volumeMounts", ())
    }
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_probes_ask_the_port_the_agent_serves() -> None:
    probes = [agent("all")[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} == {DEFAULTS["health_port"]}
    assert [probe["path"] for probe in probes] == ["/livez", "/livez", "/readyz"]


@VARIANTS
def test_the_api_server_takes_every_object_strictly(variant: str, tmp_path: Path) -> None:
    """As ``kubectl apply --dry-run=server`` asks: unknown and duplicate fields are refused."""
    server = ApiServer(Config())
    server.start()
    try:
        write_kubeconfig(tmp_path / "kubeconfig", server.url)
        environment = {**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig"), "HOME": str(tmp_path)}
        words = [tool("kubectl"), "apply", "--dry-run=server", "--validate=strict", "-f", str(ROOT / f"{variant}.yaml")]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("created (server dry run)") == 4
        wrong = (ROOT / f"{variant}.yaml").read_text().replace("readOnlyRootFilesystem", "readOnlyRootFileSystem")
        words[-1] = "-"
        done = subprocess.run(
            words, input=wrong, capture_output=True, text=True, check=False, env=environment, timeout=60
        )
        assert "readOnlyRootFileSystem" in done.stderr
    finally:
        server.stop()
        Client(server.url).close()


def test_flags_that_the_manifests_give_are_documented_in_the_chart() -> None:
    assert json.loads((ROOT / "chart/values.schema.json").read_text()) == render.schema()
