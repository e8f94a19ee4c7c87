"""One cluster, one set of pods for all e2e tests; around every test the kernels must come back to what they were."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest

from kuberouterpy.family import Family, family_of
from kuberouterpy.lab.client import NAMESPACES, PODS, SERVICES, ApiError, Object, Resource
from tests.cluster import Lab, Place, eventually, url
from tests.e2e.objects import NAMESPACE, OTHER_NAMESPACE, SHARED_PORTS, container_port, pod

Dataplane = dict[str, dict[str, list[str]]]
"""What every node's kernel holds, by node and tool."""

MARK = pytest.mark.lab(
    nodes=3,
    families="dual",
    subnets=2,
    rights="tests/e2e/rights.yaml",
    agent_args=(
        "--bgp-holdtime=12s",  # a node that is gone is forgotten soon enough for a test
        "--bgp-graceful-restart",  # as every manifest says
        "--bgp-graceful-restart-time=12s",
        "--service-external-ip-range=203.0.113.0/24,2001:db8:cb::/64",
        "--loadbalancer-ip-range=198.51.100.0/24,2001:db8:1b::/64,172.30.1.0/24,fd30:0:0:1::/64",  # node-1: K3
    ),
)
"""The lab of every e2e test; equal for all, so that there is one boot."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder for the lab."""
    for item in items:
        if item.path.parent.name == "e2e":
            item.add_marker(MARK)


class Pods:
    """The shared pods: three endpoints on three nodes, and who talks to them.

    ``red``, ``blue``, ``green`` are labelled ``set=web`` and run on node-1, node-2, node-3; ``guest`` is a neighbor of red on
    node-1, ``stranger`` one of blue on node-2, in another namespace (labelled ``team=other``); ``host`` runs on the host
    network of node-2. Every pod has the label ``name``.
    """

    def __init__(self, lab: Lab, found: Mapping[str, Object]) -> None:
        self._lab = lab
        self._found = found

    def __getitem__(self, name: str) -> Place:
        """Return a pod's place; for the pod on the host network that is its node."""
        meta = self._found[name]["metadata"]
        if self._found[name]["spec"].get("hostNetwork"):
            return self._lab.node(self.node(name))
        return self._lab.pod(meta["namespace"], name)

    def node(self, name: str) -> str:
        """Return the node a pod runs on."""
        node: str = self._found[name]["spec"]["nodeName"]
        return node

    def ip(self, name: str, family: Family) -> str:
        """Return a pod's address."""
        return ip_of(self._found[name], family)


def ip_of(item: Object, family: Family) -> str:
    """Return a pod's address in a family."""
    addresses: list[str] = [one["ip"] for one in item["status"]["podIPs"]]
    return next(one for one in addresses if family_of(one) is family)


def vip(item: Object, family: Family) -> str:
    """Return a Service's cluster IP in a family."""
    addresses: list[str] = item["spec"]["clusterIPs"]
    return next(one for one in addresses if family_of(one) is family)


def vip_urls(lab: Lab, item: Object, number: int = 80) -> list[str]:
    """Return a Service's cluster-IP URLs, one a family."""
    return [url(vip(item, family), number) for family in lab.families]


def node_port(item: Object, index: int = 0) -> int:
    """Return a Service's node port."""
    number: int = item["spec"]["ports"][index]["nodePort"]
    return number


def node_urls(lab: Lab, item: Object, index: int = 0) -> list[str]:
    """Return the node-port URLs of a Service on every node, in every family."""
    return [url(lab.address(node, family), node_port(item, index)) for node in lab.nodes for family in lab.families]


@pytest.fixture(scope="session")
def shared(lab: Lab) -> Iterator[Pods]:
    """The pods every test may use; they stay, so do not change them except through ``relabel``.

    When all tests are over, they go too, and the kernels must be as they were before the first of them came.
    """
    before = {node: lab.dataplane(node) for node in lab.nodes}
    found = _create(lab)
    yield Pods(lab, found)
    for item in found.values():
        remove(lab, PODS, item["metadata"]["name"], namespace=item["metadata"]["namespace"])
    for name in (NAMESPACE, OTHER_NAMESPACE):
        lab.api.delete(NAMESPACES, "", name)
    back(lab, before)
    refused = lab.refused()
    assert not refused, f"manifests/chart/templates/role.yaml gives too little: {refused}"


def _create(lab: Lab) -> dict[str, Object]:
    labels = {"team": "other", "name": OTHER_NAMESPACE}
    lab.api.create(NAMESPACES, {"metadata": {"name": NAMESPACE, "labels": {"team": "own"}}})
    lab.api.create(NAMESPACES, {"metadata": {"name": OTHER_NAMESPACE, "labels": labels}})
    web = {"set": "web"}
    wanted = [
        pod("red", "node-1", labels={**web, "name": "red"}, ports=(*SHARED_PORTS, container_port(8100, "alpha"))),
        pod("blue", "node-2", labels={**web, "name": "blue"}, ports=(*SHARED_PORTS, container_port(8101, "beta"))),
        pod("green", "node-3", labels={**web, "name": "green"}, ports=SHARED_PORTS),
        pod("guest", "node-1", labels={"name": "guest"}, ports=SHARED_PORTS),
        pod("stranger", "node-2", namespace=OTHER_NAMESPACE, labels={"name": "stranger"}, ports=SHARED_PORTS),
        pod(
            "host",
            "node-2",
            labels={"name": "host"},
            ports=(container_port(18080, "http"), container_port(18053, "dns", "UDP")),
            hostNetwork=True,
        ),
    ]
    for item in wanted:
        lab.api.create(PODS, item)
    found = {item["metadata"]["name"]: eventually(ready, lab, item) for item in wanted}
    eventually(_known, lab, found.values())
    return found


def _known(lab: Lab, pods: Iterable[Object]) -> None:
    """Assert that every agent knows the pods of its node."""
    sets = {node: lab.node(node).run("ipset save") for node in lab.nodes}
    for item in pods:
        if not item["spec"].get("hostNetwork"):
            for one in item["status"]["podIPs"]:
                assert f"kube-router-local-pods {one['ip']} " in sets[item["spec"]["nodeName"]]


def ready(lab: Lab, item: Object) -> Object:
    """Return a pod as it is now; it must be Ready."""
    now = lab.api.get(PODS, item["metadata"]["namespace"], item["metadata"]["name"])
    conditions = now.get("status", {}).get("conditions") or []
    assert any(one["type"] == "Ready" and one["status"] == "True" for one in conditions), now.get("status")
    return now


@pytest.fixture(scope="session")
def _baseline(lab: Lab, shared: Pods) -> Dataplane:
    return {node: lab.dataplane(node) for node in lab.nodes}


@pytest.fixture(autouse=True)
def unchanged(lab: Lab, _baseline: Dataplane) -> Iterator[Dataplane]:
    """What every kernel held before the test, and must hold again soon after it: everything deleted leaves nothing."""
    yield _baseline
    try:
        back(lab, _baseline)
    except AssertionError:
        _baseline.update({node: lab.dataplane(node) for node in lab.nodes})  # the next test is not to blame
        raise


def same(lab: Lab, before: Dataplane) -> None:
    """Assert that every node's kernel holds what it held."""
    for node in lab.nodes:
        same_on(lab, node, before)


def same_on(lab: Lab, node: str, before: Dataplane) -> None:
    """Assert that one node's kernel holds what it held."""
    now = lab.dataplane(node)
    text = "\n".join(
        line
        for judge, lines in now.items()
        for line in difflib.unified_diff(
            before[node][judge], lines, f"{node} {judge} before", "after", n=0, lineterm=""
        )
    )
    assert not text, text


def back(lab: Lab, before: Dataplane) -> None:
    """Assert that every node's kernel holds again what it held, soon."""
    for node in lab.nodes:  # one after the other: looking costs more than waiting
        eventually(same_on, lab, node, before)


Make = Callable[[Resource, Object], Object]


@pytest.fixture
def make(lab: Lab, unchanged: Dataplane) -> Iterator[Make]:
    """Create an object that is deleted after the test; returns it as stored."""
    made: list[tuple[Resource, str, str]] = []

    def create(resource: Resource, item: Object) -> Object:
        stored = lab.api.create(resource, item)
        made.append((resource, stored["metadata"].get("namespace", ""), stored["metadata"]["name"]))
        return stored

    yield create
    for resource, namespace, name in reversed(made):
        remove(lab, resource, name, namespace=namespace)


def remove(lab: Lab, resource: Resource, name: str, *, namespace: str = NAMESPACE) -> None:
    """Delete an object, at once; nothing to do where it is gone."""
    try:
        lab.api.delete(resource, namespace, name, grace_s=0 if resource is PODS else None)
    except ApiError as error:
        if error.status != 404:
            raise


@pytest.fixture
def serve(make: Make) -> Callable[[Object], Object]:
    """Create a Service that is deleted after the test."""
    return lambda item: make(SERVICES, item)


@pytest.fixture
def relabel(lab: Lab, shared: Pods, unchanged: Dataplane) -> Iterator[Callable[..., None]]:
    """Give a shared pod labels, or take them away with None, until the end of the test."""
    given: list[tuple[str, str, str]] = []

    def patch(name: str, /, namespace: str = NAMESPACE, **labels: str | None) -> None:
        given.extend((namespace, name, key) for key in labels)
        lab.api.patch(PODS, namespace, name, {"metadata": {"labels": labels}})

    yield patch
    for namespace, name, key in given:
        before = {"set": "web" if name in {"red", "blue", "green"} else None, "name": name}.get(key)
        lab.api.patch(PODS, namespace, name, {"metadata": {"labels": {key: before}}})


Serve = Callable[[Object], Object]
Relabel = Callable[..., None]
