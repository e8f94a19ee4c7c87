"""Kubelets and controllers together, against the lab's API server: real namespaces, real CNI plugins, real processes.

Needs root. Everything happens in network namespaces of this run's own; nothing is waited for by sleeping: each wait is
woken by the API's own events.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from kuberouterpy.lab import controllers
from kuberouterpy.lab.api.config import Config
from kuberouterpy.lab.api.server import ApiServer
from kuberouterpy.lab.client import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    NODES,
    PODS,
    SERVICES,
    Cache,
    Client,
    Event,
    Reflector,
    Resource,
)
from kuberouterpy.lab.controllers.objects import ready
from kuberouterpy.lab.kubelet import KubeletNode, netns, pod_netns, run

Object = dict[str, Any]
WAIT_S = 20.0

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/lib/cni/bridge").exists(), reason="needs root and containernetworking-plugins"
)


class Lab:
    """Two nodes, their kubelets, the controllers and the API server; and what the API holds."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kuberouterpy-", dir="/run"))
        networks = (ip_network("10.96.0.0/16"), ip_network("fd00:10:96::/112"))
        self.server = ApiServer(Config(service_cidrs=networks))
        self.server.start()
        self.client = Client(self.server.url)
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._caches = {one: Cache() for one in (NODES, PODS, DEPLOYMENTS, ENDPOINT_SLICES)}
        self._reflectors = [Reflector(self.client, one, self._hear) for one in self._caches]
        self.nodes = [self._node(number) for number in (1, 2)]
        jobs: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            (controllers.run, (self.server.url, controllers.Config(), self._stop)),
            *((run, (node, self.server.url, self._stop)) for node in self.nodes),
        ]
        self._threads = [threading.Thread(target=target, args=arguments) for target, arguments in jobs]
        for thread in self._threads:
            thread.start()
        for reflector in self._reflectors:
            reflector.start()

    def _node(self, number: int) -> KubeletNode:
        name = f"node-{number}"
        directory = self.directory / name
        directory.mkdir()
        path = f"/run/netns/{self.directory.name}-{name}"
        netns.create(path)
        addresses = (f"192.0.2.{number}", f"2001:db8::{number}")
        return KubeletNode(name, path, addresses, str(directory), f"{directory}/10-x.conflist", zone=f"zone-{number}")

    def configure_network(self) -> None:
        """Write each node's CNI list, as the routing controller would."""
        for node in self.nodes:
            spec = self._caches[NODES].objects["", node.name]["spec"]
            bridge = {
                "type": "bridge",
                "bridge": "kube-bridge",
                "isDefaultGateway": True,
                "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": cidr}] for cidr in spec["podCIDRs"]]},
            }
            conflist = {"cniVersion": "0.3.1", "name": "mynet", "plugins": [bridge]}
            Path(node.conflist).write_text(json.dumps(conflist))

    def close(self) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()
        for reflector in self._reflectors:
            reflector.stop()
        self.client.close()
        self.server.stop()
        for node in self.nodes:
            netns.remove(node.netns)
        shutil.rmtree(self.directory)

    def _hear(self, event: Event) -> None:
        with self._news:
            self._caches[event.resource].apply(event)
            self._news.notify_all()

    def wait(self, resource: Resource, until: Callable[[list[Object]], Any]) -> Any:
        """Return what ``until`` makes of all objects of a kind, once that is true."""
        deadline = time.monotonic() + WAIT_S
        with self._news:
            while not (found := until(list(self._caches[resource].objects.values()))):
                if not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"in vain: {json.dumps(list(self._caches[resource].objects.values()))}")
            return found

    def pod(self, name: str, until: Callable[[Object], Any] = ready) -> Object:
        """Return a pod once ``until`` holds for it."""
        found: list[Object] = self.wait(PODS, lambda pods: [pod for pod in pods if named(pod, name) and until(pod)])
        return found[0]

    def gone(self, name: str) -> None:
        """Return when no such pod is left."""
        self.wait(PODS, lambda pods: not any(named(pod, name) for pod in pods))

    def create(
        self, name: str, *, labels: Object | None = None, annotations: Object | None = None, **spec: Any
    ) -> Object:
        """Create a pod; containers need no image."""
        meta = {"namespace": "default", "name": name, "labels": labels or {}, "annotations": annotations or {}}
        for container in (*spec.get("containers", ()), *spec.get("initContainers", ())):
            container |= {"name": container.get("name", "c"), "image": "none"}
        return self.client.create(PODS, {"metadata": meta, "spec": {"terminationGracePeriodSeconds": 1, **spec}})

    def log(self, pod: Object) -> str:
        """Return what the pod's container ``c`` wrote."""
        node = next(node for node in self.nodes if node.name == pod["spec"]["nodeName"])
        return Path(node.log_path("default", pod["metadata"]["name"], "c")).read_text()

    def ask(self, node: KubeletNode, address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> str:
        """Return the answer to a line that is no HTTP, sent from a node."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with netns.entered(node.netns):
            client = socket.socket(family, kind)
        with client:
            client.settimeout(5)
            client.connect((address, port))
            client.sendall(b"?\n")
            return client.recv(200).decode()


def named(item: Object, name: str) -> bool:
    return bool(item["metadata"]["name"] == name)


def phase(wanted: str) -> Callable[[Object], bool]:
    return lambda pod: bool(pod.get("status", {}).get("phase") == wanted)


def restarted(pod: Object) -> bool:
    return any(one["restartCount"] for one in pod.get("status", {}).get("containerStatuses") or [])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    one = Lab()
    try:
        one.wait(NODES, lambda nodes: len([node for node in nodes if node["spec"].get("podCIDRs")]) == 2)
        one.configure_network()
        one.wait(NODES, lambda nodes: all(map(ready, nodes)))
        yield one
    finally:
        one.close()
    left = [path.name for path in netns.DIRECTORY.iterdir() if path.name.startswith("pod-default-t-")]
    assert left == []


def test_a_deployment_is_spread_served_and_in_the_slices_of_both_families(lab: Lab) -> None:
    ports = [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]
    template = {
        "metadata": {"labels": {"app": "t"}},
        "spec": {"containers": [{"name": "c", "image": "none", "ports": ports}]},
    }
    spec = {"replicas": 4, "selector": {"matchLabels": {"app": "t"}}, "template": template}
    lab.client.create(DEPLOYMENTS, {"metadata": {"namespace": "default", "name": "t-web"}, "spec": spec})
    service = {"ipFamilyPolicy": "RequireDualStack", "selector": {"app": "t"}, "ports": [{"port": 80}]}
    lab.client.create(SERVICES, {"metadata": {"namespace": "default", "name": "t-web"}, "spec": service})
    lab.wait(
        DEPLOYMENTS, lambda found: [one for one in found if (one.get("status") or {}).get("availableReplicas") == 4]
    )
    pods = lab.wait(PODS, lambda found: [pod for pod in found if pod["metadata"]["labels"].get("app") == "t"])
    assert sorted(pod["spec"]["nodeName"] for pod in pods) == ["node-1", "node-1", "node-2", "node-2"]

    def endpoints(slices: list[Object]) -> set[str]:
        made = [one for found in slices for one in found.get("endpoints") or [] if one["conditions"]["ready"]]
        return {address for one in made if one.get("targetRef") for address in one["addresses"]}

    addresses = {one["ip"] for pod in pods for one in pod["status"]["podIPs"]}
    assert len(addresses) == 8
    lab.wait(ENDPOINT_SLICES, lambda slices: endpoints(slices) == addresses)
    for pod in pods:
        node = next(node for node in lab.nodes if node.name == pod["spec"]["nodeName"])
        for one in pod["status"]["podIPs"]:
            assert lab.ask(node, one["ip"], 80).split()[0] == pod["metadata"]["name"]
            assert lab.ask(node, one["ip"], 53, socket.SOCK_DGRAM).split()[0] == pod["metadata"]["name"]
    lab.client.patch(DEPLOYMENTS, "default", "t-web", {"spec": {"replicas": 0}})
    lab.wait(PODS, lambda found: not any(pod["metadata"]["labels"].get("app") == "t" for pod in found))
    lab.wait(ENDPOINT_SLICES, lambda slices: endpoints(slices) == set())


def test_a_pod_that_runs_to_its_end_reports_how(lab: Lab) -> None:
    env = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    script = {"command": ["sh", "-c"], "args": ["echo $(IP) $HOSTNAME; ls /sys/class/net; exit 3"], "env": env}
    lab.create("t-once", restartPolicy="Never", containers=[script])
    pod = lab.pod("t-once", phase("Failed"))
    (state,) = pod["status"]["containerStatuses"]
    assert state["state"]["terminated"]["exitCode"] == 3
    assert lab.log(pod).split() == [pod["status"]["podIP"], "t-once", "eth0", "lo"]
    lab.client.delete(PODS, "default", "t-once")
    lab.gone("t-once")


def test_init_containers_come_first_and_a_sidecar_stays(lab: Lab) -> None:
    inits = [
        {"name": "one", "command": ["sh", "-c", "echo one >> /tmp/order"]},
        {"name": "side", "command": ["sh", "-c", "echo side >> /tmp/order; exec sleep 600"], "restartPolicy": "Always"},
        {"name": "two", "command": ["sh", "-c", "until grep -q side /tmp/order; do :; done; echo two >> /tmp/order"]},
    ]
    main = {"command": ["sh", "-c", "cat /tmp/order"]}
    lab.create("t-init", restartPolicy="Never", initContainers=inits, containers=[main])
    pod = lab.pod("t-init", phase("Succeeded"))
    assert lab.log(pod).split() == ["one", "side", "two"]
    assert not Path("/tmp/order").exists()
    lab.client.delete(PODS, "default", "t-init")
    lab.gone("t-init")


def test_each_pod_has_a_tmp_of_its_own_that_its_probes_see(lab: Lab) -> None:
    probe = {"exec": {"command": ["test", "-e", "/tmp/t-ready"]}, "periodSeconds": 1}
    for name, command in (("t-yes", "touch /tmp/t-ready; sleep 600"), ("t-no", "sleep 600")):
        lab.create(name, containers=[{"command": ["sh", "-c", command], "readinessProbe": probe}])
    lab.pod("t-yes")
    assert not ready(lab.pod("t-no", phase("Running")))
    for name in ("t-yes", "t-no"):
        lab.client.delete(PODS, "default", name)
        lab.gone(name)


def test_a_container_that_fails_its_liveness_probe_or_ends_runs_again(lab: Lab) -> None:
    liveness = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    lab.create("t-live", containers=[{"command": ["sleep", "600"], "livenessProbe": liveness}])
    lab.create("t-crash", containers=[{"command": ["false"]}])
    lab.pod("t-live", restarted)
    pod = lab.pod("t-crash", restarted)
    assert pod["status"]["phase"] == "Running"
    for name in ("t-live", "t-crash"):
        lab.client.delete(PODS, "default", name, grace_s=0)
        lab.gone(name)


def test_a_terminating_pod_stays_ready_while_it_serves_and_goes_when_its_grace_ends(lab: Lab) -> None:
    lab.create(
        "t-linger", annotations={"kuberouterpy.io/linger": "true"}, containers=[{"ports": [{"containerPort": 80}]}]
    )
    pod = lab.pod("t-linger")
    node = next(node for node in lab.nodes if node.name == pod["spec"]["nodeName"])
    lab.client.delete(PODS, "default", "t-linger")
    pod = lab.pod("t-linger", lambda one: one["metadata"].get("deletionTimestamp"))
    assert ready(pod)
    assert lab.ask(node, pod["status"]["podIP"], 80).startswith("t-linger ")
    lab.gone("t-linger")
    assert not Path(pod_netns("default", "t-linger", pod["metadata"]["uid"])).exists()


def test_a_host_network_pod_has_the_nodes_addresses(lab: Lab) -> None:
    probe = {"tcpSocket": {"port": 8088, "host": "127.0.0.1"}, "periodSeconds": 1}
    container = {"ports": [{"containerPort": 8088}], "readinessProbe": probe}
    lab.create("t-host", nodeName="node-2", hostNetwork=True, containers=[container])
    pod = lab.pod("t-host")
    assert [one["ip"] for one in pod["status"]["podIPs"]] == ["192.0.2.2", "2001:db8::2"]
    lab.client.delete(PODS, "default", "t-host")
    lab.gone("t-host")


def test_a_readiness_gate_is_opened_by_its_owner(lab: Lab) -> None:
    lab.create("t-gate", readinessGates=[{"conditionType": "example.com/blue"}], containers=[{}])
    pod = lab.pod("t-gate", phase("Running"))
    assert not ready(pod)
    gate = {"type": "example.com/blue", "status": "True"}
    conditions = [*pod["status"]["conditions"], gate]
    lab.client.patch(PODS, "default", "t-gate", {"status": {"conditions": conditions}}, subresource="status")
    pod = lab.pod("t-gate")
    assert gate["type"] in {one["type"] for one in pod["status"]["conditions"]}
    lab.client.delete(PODS, "default", "t-gate")
    lab.gone("t-gate")
