"""The fixture ``lab`` on kind: the same tests on a real kubelet and a real API server, nodes as containers of this kernel.

A place is a network namespace here too: that of a node's container, of a pod's sandbox in it, of a container outside. The names
of the lab's nodes are kept: ``node-1`` is the control plane. What only the embedded lab can do (faults, an API server that
dies, a GoBGP that stops) skips the test, and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from kuberouterpy.family import FAMILIES, Family, family_of
from kuberouterpy.lab.client import PODS, Client, Object, Resource
from tests.cluster import Lab, Place

CLUSTER: Final = "kuberouterpy-e2e"
IMAGE: Final = "kuberouterpy:0.1.0"
CONFIG: Final = Path(__file__).parent / "e2e" / "kind.yaml"
OVERLAY: Final = Path(__file__).parent / "e2e" / "kind"
CLIENT: Final = f"{CLUSTER}-client"
_NAMESPACE: Final = "kube-system"
_PYTHON: Final = "/opt/kuberouterpy/bin/python"
_READY_S: Final = 300


class Refused(Exception):
    """A command of kind, docker or kubectl failed."""


def run(*words: str, stdin: str = "") -> str:
    """Return what a command printed. Errors: Refused with its words and its own."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def lacks(modules: Path = Path("/sys/module")) -> list[str]:
    """Return what this machine lacks for kind, each with its mend; nothing where all is there."""
    found = [
        f"{program} is not installed: {mend}"
        for program, mend in (
            ("docker", "docs.docker.com/engine/install"),
            ("kind", "go install sigs.k8s.io/kind@latest"),
            ("kubectl", "kubernetes.io/docs/tasks/tools"),
            ("nsenter", "apt-get install util-linux"),
            ("ipvsadm", "apt-get install ipvsadm"),
        )
        if shutil.which(program) is None
    ]
    if os.geteuid():
        found.append("tests enter the nodes' network namespaces: run them as root")
    for module in ("ip_vs", "br_netfilter", "dummy"):
        if not (modules / module).exists():
            found.append(f"this kernel has no {module}, which all nodes share: modprobe {module}")
    if shutil.which("docker"):
        try:
            run("docker", "image", "inspect", IMAGE)
        except Refused as error:
            what = "docker does not answer" if "daemon" in str(error) else f"no image {IMAGE}"
            found.append(f"{what}: {'start it' if 'daemon' in str(error) else f'docker build --tag {IMAGE} .'}")
    return found


def create(kubeconfig: Path) -> None:
    """Make the cluster, load the image, apply the manifests, and wait until nodes and agents are ready. Errors: Refused."""
    run("kind", "create", "cluster", "--name", CLUSTER, "--config", str(CONFIG), "--kubeconfig", str(kubeconfig))
    run("kind", "load", "docker-image", IMAGE, "--name", CLUSTER)
    kubectl = ("kubectl", f"--kubeconfig={kubeconfig}")
    server = f"{CLUSTER}-control-plane"
    run(
        *kubectl, f"--namespace={_NAMESPACE}", "create", "configmap", "kuberouterpy-api",
        f"--from-literal=KUBERNETES_SERVICE_HOST={server}", "--from-literal=KUBERNETES_SERVICE_PORT=6443",
    )  # fmt: skip
    run(*kubectl, "apply", "--kustomize", str(OVERLAY))
    wait = f"--timeout={_READY_S}s"
    run(*kubectl, f"--namespace={_NAMESPACE}", "rollout", "status", "daemonset/kuberouterpy", wait)
    run(*kubectl, "wait", "--for=condition=Ready", "nodes", "--all", wait)
    run(*kubectl, "taint", "nodes", "--all", "node-role.kubernetes.io/control-plane:NoSchedule-")
    run(
        "docker",
        "run",
        "--detach",
        "--rm",
        "--name",
        CLIENT,
        "--network",
        "kind",
        "--entrypoint",
        "sleep",
        IMAGE,
        "infinity",
    )


def delete() -> None:
    """Delete the cluster and the client, whatever is left of them."""
    for words in (("docker", "rm", "--force", CLIENT), ("kind", "delete", "cluster", "--name", CLUSTER)):
        subprocess.run(words, capture_output=True, check=False)


class KindPlace(Place):
    """A network namespace by its path under /proc."""

    def _enter(self) -> list[str]:
        return ["nsenter", f"--net={self.netns}"]


class KindApi(Client):
    """The API through ``kubectl proxy``; pods of the tests get an image, and the lab's responder as their command."""

    def __init__(self, server: str, names: Mapping[str, str]) -> None:
        super().__init__(server, timeout_s=30)
        self._names = names

    def create(self, resource: Resource, item: Object) -> Object:
        """Create an object."""
        return super().create(resource, real(item, self._names) if resource is PODS else item)


def real(item: Object, names: Mapping[str, str]) -> Object:
    """Return a pod of the tests as a real kubelet runs it, on the node that has the lab's name."""
    spec = dict(item["spec"])
    if "nodeName" in spec:
        spec["nodeName"] = names.get(spec["nodeName"], spec["nodeName"])
    spec["containers"] = [
        container
        | {
            "image": IMAGE,
            "command": [
                _PYTHON, "-m", "kuberouterpy.lab.responder", item["metadata"]["name"],
                *(f"{port.get('protocol', 'TCP').lower()}/{port['containerPort']}" for port in container.get("ports", ())),
            ],
        }
        for container in spec["containers"]
    ]  # fmt: skip
    return item | {"spec": spec}


class Kind(Lab):
    """The cluster."""

    def __init__(self, kubeconfig: Path, server: str) -> None:
        self.kubeconfig = kubeconfig
        self.families = FAMILIES
        self.nodes = tuple(sorted(run("kind", "get", "nodes", "--name", CLUSTER).split()))
        self._names = {f"node-{number}": node for number, node in enumerate(self.nodes, 1)}
        self.api = KindApi(server, self._names)
        self._nodes = {name: KindPlace(f"node/{name}", _netns(name)) for name in self.nodes}
        self._nodes |= {alias: self._nodes[name] for alias, name in self._names.items()}
        self.client = KindPlace("client", _netns(CLIENT))
        self._pods: dict[str, Place] = {}

    def pod(self, namespace: str, name: str) -> Place:
        """Return a pod that has its network."""
        node = self.api.get(PODS, namespace, name)["spec"]["nodeName"]
        found = run(
            "docker",
            "exec",
            node,
            "crictl",
            "pods",
            "--quiet",
            "--state=ready",
            f"--namespace={namespace}",
            f"--name=^{name}$",
        )
        sandbox = json.loads(run("docker", "exec", node, "crictl", "inspectp", found.split()[0]))
        namespaces = sandbox["info"]["runtimeSpec"]["linux"]["namespaces"]
        path = next(one["path"] for one in namespaces if one["type"] == "network")
        netns = f"/proc/{_pid(node)}/root{path}"
        return self._pods.setdefault(netns, KindPlace(f"pod/{namespace}/{name}", netns))

    def address(self, node: str, family: Family) -> str:
        """Return a node's own address."""
        return _address(self._names.get(node, node), family)

    def client_address(self, family: Family) -> str:
        """Return the address of the client outside."""
        return _address(CLIENT, family)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Run kubectl; return what it printed."""
        return run("kubectl", f"--kubeconfig={self.kubeconfig}", *words, stdin=stdin)

    def log(self, node: str, part: str = "agent") -> str:
        """Return the log of a node's agent or GoBGP."""
        container = {"gobgp": "gobgpd"}.get(part, part)
        name = self._names.get(node, node)
        pod = self.kubectl(
            f"--namespace={_NAMESPACE}", "get", "pods", "--selector=app.kubernetes.io/name=kuberouterpy",
            f"--field-selector=spec.nodeName={name}", "--output=name",
        ).strip()  # fmt: skip
        return self.kubectl(f"--namespace={_NAMESPACE}", "logs", pod, f"--container={container}")

    def refused(self) -> list[str]:
        """Return what the API server refused the agents, as they log it."""
        return sorted({line for node in self.nodes for line in self.log(node).splitlines() if "is forbidden" in line})

    def start_agent(self, node: str, *arguments: str) -> None:
        """Only the embedded lab starts agents one by one."""
        _only_in_the_lab("agents started one by one")

    def stop_agent(self, node: str, number: int = 15) -> int:
        """Only the embedded lab stops agents one by one."""
        _only_in_the_lab("agents stopped one by one")

    def stop_gobgp(self, node: str, number: int = 9) -> None:
        """Only the embedded lab stops GoBGP."""
        _only_in_the_lab("a GoBGP that stops")

    def start_gobgp(self, node: str) -> None:
        """Only the embedded lab starts GoBGP."""
        _only_in_the_lab("a GoBGP that starts")

    def restart_gobgp(self, node: str, number: int = 15) -> None:
        """Only the embedded lab restarts GoBGP."""
        _only_in_the_lab("a GoBGP that restarts")

    def parts(self) -> dict[str, int]:
        """Only the embedded lab knows its processes."""
        _only_in_the_lab("processes by their number")

    def kill_api(self) -> None:
        """Only the embedded lab's API server may die."""
        _only_in_the_lab("an API server that dies")

    def start_api(self) -> None:
        """Only the embedded lab's API server may die."""
        _only_in_the_lab("an API server that dies")

    def fault(self, *faults: dict[str, Any]) -> None:
        """Only the embedded lab's API server misbehaves."""
        _only_in_the_lab("an API server that misbehaves")

    def wait(self, what: str, timeout_s: float = 60) -> None:
        """Wait until nodes, pods or agents are ready."""
        wait = f"--timeout={timeout_s:g}s"
        if what == "agents":
            self.kubectl(f"--namespace={_NAMESPACE}", "rollout", "status", "daemonset/kuberouterpy", wait)
        else:
            everywhere = ("--all-namespaces",) if what == "pods" else ()
            self.kubectl("wait", "--for=condition=Ready", what, "--all", *everywhere, wait)


def _only_in_the_lab(what: str) -> NoReturn:
    pytest.skip(f"only the embedded lab has {what}")


def _inspect(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("docker", "inspect", container))[0]
    return found


def _pid(container: str) -> int:
    pid: int = _inspect(container)["State"]["Pid"]
    return pid


def _netns(container: str) -> str:
    return f"/proc/{_pid(container)}/ns/net"


def _address(container: str, family: Family) -> str:
    network = _inspect(container)["NetworkSettings"]["Networks"]["kind"]
    return next(one for one in (network["IPAddress"], network["GlobalIPv6Address"]) if one and family_of(one) is family)


def opened(folder: Path, make: Callable[[Path], None] = create) -> Iterator[Kind]:
    """Yield the cluster, made for this session and deleted after it; KEEP_KIND=1 keeps it, and takes one that is there."""
    missing = lacks()
    if missing:
        raise pytest.UsageError("--cluster kind cannot run here:\n  " + "\n  ".join(missing))
    kubeconfig = folder / "kubeconfig"
    keep = bool(os.environ.get("KEEP_KIND"))
    if keep and CLUSTER in run("kind", "get", "clusters").split():
        run("kind", "export", "kubeconfig", "--name", CLUSTER, "--kubeconfig", str(kubeconfig))
    else:
        make(kubeconfig)
    words = ["kubectl", f"--kubeconfig={kubeconfig}", "proxy", "--port=0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        told = proxy.stdout.readline()  # Starting to serve on 127.0.0.1:40571
        here = Kind(kubeconfig, f"http://{told.split()[-1]}")
        try:
            yield here
        finally:
            here.close()
            proxy.terminate()
            if not keep:
                delete()
