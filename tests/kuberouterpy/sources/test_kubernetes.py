"""The source against the lab's API server over real HTTP: whatever goes wrong on the way, the facts end up as the server's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    ClusterNetworkPolicy,
    EndpointSlice,
    Event,
    Kind,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Reachable,
    Ref,
    Replace,
    Service,
    Unreachable,
)
from kuberouterpy.config import Config
from kuberouterpy.lab import client as lab
from kuberouterpy.lab.api import config as api_config
from kuberouterpy.lab.api.server import ApiServer
from kuberouterpy.sources import reflector, transport
from kuberouterpy.sources.kubernetes import RESOURCES, KubernetesSource, kinds
from kuberouterpy.sources.reflector import Reflector
from kuberouterpy.sources.transport import Transport
from kuberouterpy.store import Store
from tests.documents import ROOT

OURS = "^kuberouterpy/"
DEFINITIONS = lab.Resource(
    "CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False
)
GUARDS = lab.Resource(
    "ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies", namespaced=False
)
POLICIES = lab.Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")


def service(name: str, port: int) -> dict[str, Any]:
    """Return a Service of namespace default."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
    }


class World:
    """An API server, a source that watches it, and the store behind it."""

    def __init__(self, read: tuple[Kind, ...] = KUBERNETES_KINDS, **settings: Any) -> None:
        self.kinds = read
        self.settings = settings
        self.store = Store(read)
        self.events: list[Event] = []
        self.changed = threading.Condition()
        self.server = self._serve(0)
        self.config = Config(master=self.server.url, node_name="n1")
        self.source = KubernetesSource(self.config, self._put, read=read)
        self.client = lab.Client(self.server.url)

    def _serve(self, port: int) -> ApiServer:
        server = ApiServer(api_config.Config(listen=(("127.0.0.1", port),), **self.settings))
        server.start()
        return server

    def _put(self, event: Event) -> None:
        with self.changed:
            self.events.append(event)
            self.store.apply(event)
            self.changed.notify_all()

    def until(self, holds: Callable[[], object], within_s: float = 20.0) -> None:
        """Wait for the facts, not for time."""
        with self.changed:
            assert self.changed.wait_for(holds, within_s), f"{len(self.events)} events, last {self.events[-3:]}"

    def facts(self) -> dict[Kind, dict[Ref, Any]]:
        """Return what the store has."""
        return {kind: {record.ref: record for record in self.store.table(kind)} for kind in self.kinds}

    def truth(self) -> dict[Kind, dict[Ref, Any]]:
        """Return what a fresh list of every kind says, faults off."""
        store = Store(self.kinds)
        fresh = Transport(self.config)
        for kind in self.kinds:
            if not RESOURCES[kind].optional:  # nobody has defined it here
                Reflector(RESOURCES[kind], fresh, store.apply, node_name="n1")._list()
        fresh.close()
        return {kind: {record.ref: record for record in store.table(kind)} for kind in self.kinds}

    def fault(self, kind: str, **aim: Any) -> None:
        self.server.core.faults.add({"kind": kind, "agent": OURS, **aim})

    def heal(self) -> None:
        self.server.core.faults.clear()
        self.server.core.unhang()

    def restart(self) -> None:
        """Start a server again on the port of the one that was stopped."""
        self.server = self._serve(self.server.port)

    def close(self) -> None:
        self.source.stop()
        self.client.close()
        self.server.stop()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "BACKOFF_S", (0.01, 0.05))
    monkeypatch.setattr(reflector, "WATCH_S", (2, 3))
    monkeypatch.setattr(reflector, "SILENCE_S", 0.3)
    monkeypatch.setattr(reflector, "_PAUSE_S", 0.005)
    monkeypatch.setattr(transport, "READ_S", 0.3)


@pytest.fixture
def world() -> Iterator[World]:
    one = World()
    one.source.start()
    yield one
    one.close()


def test_every_kind_arrives_and_stays_current(world: World) -> None:
    world.until(lambda: world.store.synced)
    world.client.create(lab.SERVICES, service("web", 80))
    world.until(lambda: world.store.services.get(Ref("default", "web")))
    world.client.create(
        lab.NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24"}}
    )
    world.until(lambda: world.store.nodes.get(Ref("", "n1")))
    world.client.delete(lab.SERVICES, "default", "web")
    world.until(lambda: world.store.services.get(Ref("default", "web")) is None)
    assert world.facts() == world.truth()
    assert [type(event) for event in world.events].count(Replace) == len(KUBERNETES_KINDS)


def test_only_the_kinds_asked_for_are_read() -> None:
    one = World((Service, Node))
    one.source.start()
    one.until(lambda: one.store.synced)
    one.close()
    assert {event.kind for event in one.events if isinstance(event, Replace)} == {Service, Node}


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ({"run_firewall": False}, {Node, Service, EndpointSlice}),
        ({"run_firewall": False, "run_service_proxy": False}, {Node, Service, EndpointSlice}),
        (
            {"run_router": False, "run_service_proxy": False},
            {Node, Pod, Namespace, NetworkPolicy, ClusterNetworkPolicy},
        ),
        ({}, set(KUBERNETES_KINDS)),
    ],
)
def test_kinds_follow_the_controllers_that_run(running: dict[str, bool], expected: set[Kind]) -> None:
    assert set(kinds(Config(**running))) == expected


def test_a_long_list_comes_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "PAGE", 3)
    one = World((Service,))
    for number in range(10):
        one.client.create(lab.SERVICES, service(f"s{number}", 80))
    one.source.start()
    one.until(lambda: one.store.synced)
    assert one.facts() == one.truth()
    assert len(one.store.services) >= 10
    one.close()


@pytest.mark.parametrize(
    ("kind", "aim"),
    [
        ("status", {"status": 500, "count": 3}),
        ("status", {"status": 429, "count": 2, "retry_after": 1}),
        ("status", {"status": 410, "count": 3}),
        ("status", {"status": 410, "count": 2, "verb": "list"}),
        ("status", {"status": 401, "count": 3}),
        ("status", {"status": 504, "count": 3, "verb": "watch"}),
        ("drop", {"count": 3}),
        ("truncate", {"count": 3, "verb": "list"}),
        ("garbage", {"count": 3}),
        ("hang", {"count": 2}),
        ("delay", {"count": 3, "seconds": 0.02}),
        ("cut", {"after": 1, "count": 4}),
        ("mute", {"after": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(f"{one}" for one in value.values()),
)
def test_facts_survive_a_fault_and_follow_after_it(kind: str, aim: dict[str, Any], world: World) -> None:
    world.until(lambda: world.store.synced)
    world.client.create(lab.SERVICES, service("before", 80))
    world.until(lambda: world.store.services.get(Ref("default", "before")))
    before = world.facts()[Service]
    world.fault(kind, **aim, resource="services")
    # Breaks the watch that is open, so that the next request meets the fault.
    if kind not in {"cut", "mute"}:
        world.fault("cut", resource="services", count=1)
        world.server.core.storage.wake()
    for number in range(3):
        world.client.create(lab.SERVICES, service(f"s{number}", 80 + number))
        assert world.facts()[Service].items() >= before.items()
    world.client.delete(lab.SERVICES, "default", "s0")
    if kind in {"hang", "mute"}:
        world.heal()
    world.until(lambda: world.facts()[Service].keys() == {*before, Ref("default", "s1"), Ref("default", "s2")})
    assert world.facts()[Service].items() >= before.items()
    world.heal()
    assert world.facts() == world.truth()


def test_a_compacted_history_is_listed_again(world: World) -> None:
    world.until(lambda: world.store.synced)
    world.fault("status", status=503, resource="services")
    world.fault("cut", resource="services", count=1)
    world.client.create(lab.SERVICES, service("web", 80))
    world.server.core.storage.compact()
    world.heal()
    world.until(lambda: world.store.services.get(Ref("default", "web")))
    assert world.facts() == world.truth()


def test_an_api_that_goes_away_is_told_once_and_nothing_is_forgotten(tmp_path: Path) -> None:
    world = World(data=tmp_path / "journal")
    world.source.start()
    world.client.create(lab.SERVICES, service("web", 80))
    world.until(lambda: world.store.synced and world.store.services.get(Ref("default", "web")))
    before = world.facts()
    world.server.stop()
    world.until(lambda: any(isinstance(event, Unreachable) for event in world.events))
    assert world.facts() == before
    world.restart()
    world.until(lambda: any(isinstance(event, Reachable) for event in world.events))
    told = [event for event in world.events if isinstance(event, Reachable | Unreachable)]
    assert [type(event) for event in told] == [Unreachable, Reachable]
    assert all(event.source == "kubernetes" for event in told)
    world.client.create(lab.SERVICES, service("after", 80))
    world.until(lambda: world.store.services.get(Ref("default", "after")))
    assert world.facts() == world.truth()
    world.close()


def test_a_source_that_starts_before_the_api_waits_for_it() -> None:
    world = World((Service,))
    world.server.stop()
    world.source.start()
    world.until(lambda: world.events)
    assert [type(event) for event in world.events] == [Unreachable]
    world.restart()
    world.until(lambda: world.store.synced)
    world.close()


def test_a_token_that_changes_is_taken_up(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("old\n")
    server = ApiServer(api_config.Config(token_file=tokens))
    server.start()
    mine = tmp_path / "mine"
    mine.write_text("old")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        f"{{clusters: [{{name: k, cluster: {{server: '{server.url}'}}}}], users: [{{name: u, user: {{tokenFile: {mine}}}}}],"
        " contexts: [{name: c, context: {cluster: k, user: u}}], current-context: c}"
    )
    api = Transport(Config(kubeconfig=str(kubeconfig)))
    assert api.get("/api/v1/services").status == 200
    tokens.write_text("renewed\n")
    mine.write_text("renewed")
    assert api.get("/api/v1/services").status == 200
    api.close()
    server.stop()


def test_an_absurd_object_is_rejected_and_the_rest_goes_on(world: World) -> None:
    """The lab's server takes what a real one refuses when its validation is off."""
    world.server.stop()
    world.settings["validate"] = False
    world.restart()
    world.client.create(
        POLICIES,
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "bad", "namespace": "default"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}]},
        },
    )
    world.client.create(lab.SERVICES, service("good", 80))
    world.until(lambda: world.store.rejections and world.store.services.get(Ref("default", "good")))
    [(key, rejection)] = world.store.rejections.items()
    assert key == (NetworkPolicy, Ref("default", "bad"))
    assert rejection.reason.startswith("spec.ingress[0].from[0]: ")
    policy = world.store.policies.get(Ref("default", "bad"))
    assert policy is not None
    assert policy.ingress == ()


def test_stop_ends_every_thread_and_nothing_comes_after_it(world: World) -> None:
    world.until(lambda: world.store.synced)
    world.source.stop()
    assert not any(thread.is_alive() for thread in world.source._threads)
    count = len(world.events)
    world.client.create(lab.SERVICES, service("late", 80))
    assert len(world.events) == count


STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 3), st.integers(1, 3)),
    st.tuples(st.just("delete"), st.integers(0, 3)),
    st.tuples(st.just("compact")),
    st.tuples(
        st.just("fault"),
        st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["status", "drop", "truncate", "garbage", "cut"]),
                "status": st.sampled_from([410, 500, 503, 429]),
                "count": st.integers(1, 2),
                "after": st.integers(0, 2),
            }
        ),
    ),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=12))
def test_after_any_faults_the_facts_are_the_servers(steps: list[tuple[Any, ...]]) -> None:
    world = World((Service, Pod))
    world.source.start()
    try:
        world.until(lambda: world.store.synced)
        for step in steps:
            _take(world, step)
        world.heal()
        # A last change: once it is here, everything before it is.
        world.client.create(lab.SERVICES, service("last", 80))
        world.until(lambda: world.store.services.get(Ref("default", "last")))
        assert world.facts() == world.truth()
    finally:
        world.close()


def _take(world: World, step: tuple[Any, ...]) -> None:
    match step:
        case ("put", number, port):
            name = f"s{number}"
            try:
                world.client.create(lab.SERVICES, service(name, port))
            except lab.ApiError:
                world.client.patch(lab.SERVICES, "default", name, {"spec": {"ports": [{"port": port}]}})
        case ("delete", number):
            # It may not be there: the steps are random.
            with suppress(lab.ApiError):
                world.client.delete(lab.SERVICES, "default", f"s{number}")
        case ("compact",):
            world.server.core.storage.compact()
        case ("fault", aim):
            world.fault(**aim)


def test_a_kind_that_somebody_defines_is_found_and_followed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "ABSENT_S", 0.02)
    world.close()
    world = World((Node, ClusterNetworkPolicy))
    world.source.start()
    try:
        world.until(lambda: world.store.synced)
        definition = yaml.safe_load((ROOT / "tests/clusternetworkpolicies.yaml").read_text())
        world.client.create(DEFINITIONS, definition)
        spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}
        spec["egress"] = [{"action": "Deny", "to": [{"nodes": {}}]}]
        kind = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
        world.client.create(GUARDS, {**kind, "metadata": {"name": "guard"}, "spec": spec})
        world.until(lambda: world.store.cluster_policies.get(Ref("", "guard")))
        world.client.patch(GUARDS, "", "guard", {"spec": {"priority": 2}})
        world.until(lambda: (one := world.store.cluster_policies.get(Ref("", "guard"))) and one.priority == 2)
        world.client.delete(GUARDS, "", "guard")
        world.until(lambda: not len(world.store.cluster_policies))
    finally:
        world.close()
