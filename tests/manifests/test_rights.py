"""The agent works with the rights of its manifest, and the manifest gives no more than the agent uses.

Sources and Events run against the lab's API server, which judges the manifest's service account by its RBAC objects; what was
asked stands in the audit log. A new call of the agent without a right in manifests/chart/templates/role.yaml fails here, and so
does a right that no call uses.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kuberouterpy import cluster
from kuberouterpy.balancer.allocator import Allocator
from kuberouterpy.cluster import Ref, Replace, Service
from kuberouterpy.config import Config, parse
from kuberouterpy.lab.api import config as api_config
from kuberouterpy.lab.api.__main__ import write_kubeconfig
from kuberouterpy.lab.api.authorizer import ACCOUNT
from kuberouterpy.lab.api.server import ApiServer
from kuberouterpy.lab.client import NODES, SERVICES, ApiError, Client, Resource
from kuberouterpy.sources.conditions import NodeReporter
from kuberouterpy.sources.decode import decode
from kuberouterpy.sources.events import EventRecorder, Occurrence
from kuberouterpy.sources.kubernetes import KubernetesSource, kinds
from kuberouterpy.sources.transport import Transport
from kuberouterpy.status import Status
from manifests import render
from tests.documents import ROOT

BALANCER = "all with the allocator"
USER = f"{ACCOUNT}kube-system:kuberouterpy"
Right = tuple[str, str, str]
"""API group, resource, verb."""
_RBAC = "rbac.authorization.k8s.io/v1"
_DEFINITIONS = Resource(
    "CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False
)
_RESOURCES = {
    "ClusterRole": Resource("ClusterRole", _RBAC, "clusterroles", namespaced=False),
    "ClusterRoleBinding": Resource("ClusterRoleBinding", _RBAC, "clusterrolebindings", namespaced=False),
    "Role": Resource("Role", _RBAC, "roles"),
    "RoleBinding": Resource("RoleBinding", _RBAC, "rolebindings"),
}


class Judged:
    """An API server with the RBAC objects of one variant."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.audit = folder / "audit"
        self.kubeconfig = folder / "kubeconfig"
        self.server = ApiServer(api_config.Config(audit_log=self.audit))
        self.server.start()
        self.admin = Client(self.server.url)
        # The kind that a cluster need not have is asked for where it has it.
        self.admin.create(_DEFINITIONS, yaml.safe_load((ROOT / "tests/clusternetworkpolicies.yaml").read_text()))
        texts = [render.template(name, _values(variant)) for name in (*render.BASE, *render.FEATURES)]
        objects = [one for text in texts for one in yaml.safe_load_all(text)]
        self.objects = [one for one in objects if one["kind"] in _RESOURCES]
        for one in self.objects:
            self.admin.create(_RESOURCES[one["kind"]], one)
        write_kubeconfig(self.kubeconfig, self.server.url, token=USER)
        flags = {
            words[0].removeprefix("--"): words[2] for words in (text.partition("=") for text in _arguments(variant))
        }
        self.config: Config = parse(flags | {"kubeconfig": str(self.kubeconfig)}, hostname="node-1")

    def given(self) -> set[Right]:
        """Return every right that the variant's roles give."""
        return {
            (group, resource, verb)
            for one in self.objects
            for rule in one.get("rules", ())
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    def asked(self) -> set[Right]:
        """Return what the service account asked for, and check that none of it was refused."""
        lines = [line for line in map(json.loads, self.audit.read_text().splitlines()) if line["user"] == USER]
        assert [line for line in lines if line["code"] == 403] == []
        return {
            (line["group"], "/".join(filter(None, (line["resource"], line["subresource"]))), line["verb"])
            for line in lines
        }

    def close(self) -> None:
        self.admin.close()
        self.server.stop()


def _values(variant: str) -> dict[str, Any]:
    """Return the chart's values of a variant; of the one with the allocator, which needs a range of the user's."""
    if variant != BALANCER:
        return render.values(variant)
    found = render.values()
    found["features"]["loadbalancer"] = True
    found["flags"]["loadbalancer-ip-range"] = "198.51.100.0/30"
    return found


def _arguments(variant: str) -> list[str]:
    pod = yaml.safe_load(render.template("daemonset", _values(variant)))["spec"]["template"]["spec"]
    arguments: list[str] = next(one for one in pod["containers"] if one["name"] == "agent")["args"]
    return arguments[1:]


@pytest.fixture(params=[*render.VARIANTS, BALANCER])
def judged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Judged]:
    here = Judged(tmp_path, request.param)
    yield here
    here.close()


class Watched:
    """Everything the agent reads, and the Events it writes."""

    def __init__(self, config: Config) -> None:
        self._changed = threading.Condition()
        self._listed: set[Any] = set()
        self.source = KubernetesSource(config, self._put)
        hours = itertools.count(step=3600)
        self.events = EventRecorder(self.source.transport, config.node_name, clock=lambda: float(next(hours)))
        self.reporter = NodeReporter(self.source.transport, "node-1", self.events.record)

    def _put(self, event: cluster.Event) -> None:
        with self._changed:
            if isinstance(event, Replace):
                self._listed.add(event.kind)
            self._changed.notify_all()

    def until_listed(self, wanted: set[Any]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._listed >= wanted, 20), wanted - self._listed


def allocate(judged: Judged, api: Transport) -> None:
    """Let an allocator give an address and take it back, twice: from a Service that changes its type, and one that goes."""
    clock = itertools.count(step=100)
    for name in ("lives", "goes"):
        spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
        judged.admin.create(SERVICES, {"metadata": {"name": name, "namespace": "default"}, "spec": spec})
    allocator = Allocator(api, judged.config, namespace="kube-system", identity="one", clock=lambda: float(next(clock)))

    def settled(addresses: int) -> None:
        for _ in range(8):
            items, _ = judged.admin.list(SERVICES)
            records = (decode(Service, json.dumps(item).encode()).record for item in items)
            allocator.put(Replace(Service, tuple(one for one in records if one is not None)))
            allocator.turn()
        shown = [
            one for item in judged.admin.list(SERVICES)[0] for one in item["status"]["loadBalancer"].get("ingress", ())
        ]
        assert len(shown) == addresses

    settled(2)
    change = {"spec": {"type": "ClusterIP", "allocateLoadBalancerNodePorts": None}}
    judged.admin.patch(SERVICES, "default", "lives", change)
    judged.admin.delete(SERVICES, "default", "goes")
    settled(0)


def test_the_agent_asks_for_what_its_role_gives_and_for_nothing_else(judged: Judged) -> None:
    watched = Watched(judged.config)
    watched.source.start()
    watched.events.start()
    watched.until_listed(set(kinds(judged.config)))
    told = Occurrence(Service, Ref("default", "web"), "Rejected", "a reason")
    watched.events.record(told)
    watched.events.record(told)  # the same again, much later: a patch counts it
    if judged.config.run_router:
        judged.admin.create(NODES, {"metadata": {"name": "node-1"}})
        watched.reporter.see(Status("node-1", "", settled=True, network_up=True))
        assert watched.reporter.write()
    if judged.config.run_loadbalancer:
        allocate(judged, watched.source.transport)
    wanted = judged.given()
    deadline = threading.Event()
    for _ in range(200):
        if judged.asked() >= wanted:
            break
        deadline.wait(0.05)
    watched.events.stop()
    watched.source.stop()
    assert judged.asked() == wanted


def test_another_account_and_another_verb_are_refused(judged: Judged) -> None:
    nodes = Resource("Node", "v1", "nodes", namespaced=False)
    agent, stranger = (Client(judged.server.url, token=user) for user in (USER, f"{ACCOUNT}default:default"))
    agent.list(nodes)
    with pytest.raises(ApiError, match="cannot delete resource") as refused:
        agent.delete(nodes, "", "node-1")
    assert refused.value.status == 403
    with pytest.raises(ApiError, match='nodes is forbidden: User "system:serviceaccount:default:default" cannot list'):
        stranger.list(nodes)
    judged.admin.delete(_RESOURCES["ClusterRoleBinding"], "", "kuberouterpy")
    with pytest.raises(ApiError, match="forbidden"):
        agent.list(nodes)
    agent.close()
    stranger.close()
