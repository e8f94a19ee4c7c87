"""EndpointSlices from Services and Pods, as upstream's controller writes them."""

from __future__ import annotations

from typing import Any

import pytest

from kuberouterpy.lab.controllers import endpointslices as es

Object = dict[str, Any]


def service(**spec: Any) -> Object:
    base = {
        "clusterIP": "10.96.0.10",
        "ipFamilies": ["IPv4"],
        "selector": {"app": "web"},
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
    }
    return {"metadata": {"namespace": "default", "name": "web", "uid": "u-svc"}, "spec": {**base, **spec}}


def pod(
    name: str,
    *,
    ips: tuple[str, ...] = ("10.244.1.2", "fd00::2"),
    node: str = "node-1",
    ready: bool = True,
    **meta: Any,
) -> Object:
    return {
        "metadata": {"namespace": "default", "name": name, "uid": f"u-{name}", "labels": {"app": "web"}, **meta},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "p", "containerPort": 9000}]}]},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


NODES = {
    name: {"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}}
    for name, zone in (("node-1", "a"), ("node-2", "b"))
}


def stored(writes: es.Writes) -> list[Object]:
    named = []
    for number, one in enumerate(writes.create):
        named.append({**one, "metadata": {**one["metadata"], "name": f"web-{number}", "resourceVersion": "1"}})
    return named


def only(writes: es.Writes) -> Object:
    assert (writes.replace, writes.delete) == ([], [])
    (one,) = writes.create
    return one


def conditions(svc: Object, one: Object) -> tuple[bool, bool, bool]:
    made = es.endpoint(svc, one, "IPv4", None)
    assert made is not None
    found = made["conditions"]
    return found["ready"], found["serving"], found["terminating"]


LEAVING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("published", "ready", "meta", "expected"),
    [
        (False, True, {}, (True, True, False)),
        (False, False, {}, (False, False, False)),
        (False, True, LEAVING, (False, True, True)),
        (False, False, LEAVING, (False, False, True)),
        (True, False, {}, (True, False, False)),
        (True, True, LEAVING, (True, True, True)),
        (True, False, LEAVING, (True, False, True)),
    ],
)
def test_conditions_are_upstreams(
    published: bool, ready: bool, meta: Object, expected: tuple[bool, bool, bool]
) -> None:
    assert expected == conditions(service(publishNotReadyAddresses=published), pod("a", ready=ready, **meta))


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_finished_pods_are_never_endpoints_even_when_not_ready_ones_are_published(phase: str) -> None:
    gone = pod("a")
    gone["status"]["phase"] = phase
    one = only(es.plan(service(publishNotReadyAddresses=True), [gone], NODES, []))
    assert one["endpoints"] == []


def test_one_endpoint_says_everything_about_its_pod() -> None:
    one = only(es.plan(service(), [pod("a")], NODES, []))
    assert one["endpoints"] == [
        {
            "addresses": ["10.244.1.2"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "a", "uid": "u-a"},
            "nodeName": "node-1",
            "zone": "a",
        }
    ]
    assert one["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    assert one["metadata"]["labels"] == {
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert one["metadata"]["ownerReferences"][0]["uid"] == "u-svc"


def test_each_family_of_the_service_has_slices_of_its_own() -> None:
    writes = es.plan(service(ipFamilies=["IPv6", "IPv4"]), [pod("a")], NODES, [])
    found = [(one["addressType"], one["endpoints"][0]["addresses"]) for one in writes.create]
    assert found == [("IPv6", ["fd00::2"]), ("IPv4", ["10.244.1.2"])]


def test_slices_of_a_family_the_service_lost_are_deleted() -> None:
    before = stored(es.plan(service(ipFamilies=["IPv4", "IPv6"]), [pod("a")], NODES, []))
    writes = es.plan(service(), [pod("a")], NODES, before)
    assert (writes.create, writes.replace, [one["addressType"] for one in writes.delete]) == ([], [], ["IPv6"])


def test_no_change_writes_nothing() -> None:
    pods = [pod(f"p{number}", ips=(f"10.244.1.{number}",)) for number in range(2, 200)]
    before = stored(es.plan(service(), pods, NODES, []))
    assert [len(one["endpoints"]) for one in before] == [100, 98]
    assert es.Writes([], [], []) == es.plan(service(), pods, NODES, before)


def test_a_pod_turning_not_ready_replaces_only_its_slice() -> None:
    pods = [pod(f"p{number}", ips=(f"10.244.1.{number}",)) for number in range(2, 200)]
    before = stored(es.plan(service(), pods, NODES, []))
    pods[-1] = pod("p199", ips=("10.244.1.199",), ready=False)
    writes = es.plan(service(), pods, NODES, before)
    assert (writes.create, [one["metadata"]["name"] for one in writes.replace], writes.delete) == ([], ["web-1"], [])


def test_named_ports_are_looked_up_in_each_pod() -> None:
    """A3 of services.md: one service port, two pods that give its name different numbers or do not know it."""
    svc = service(ports=[{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "p"}])
    other, ignorant = pod("b", ips=("10.244.1.3",)), pod("c", ips=("10.244.1.4",))
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = 9001
    ignorant["spec"]["containers"][0]["ports"] = []
    writes = es.plan(svc, [pod("a"), other, ignorant], NODES, [])
    found = [
        ([port["port"] for port in one["ports"]], one["endpoints"][0]["targetRef"]["name"]) for one in writes.create
    ]
    assert found == [([9000], "a"), ([9001], "b"), ([], "c")]


def test_a_named_port_may_be_a_sidecars_and_must_have_the_protocol() -> None:
    svc = service(ports=[{"name": "d", "protocol": "UDP", "port": 53, "targetPort": "p"}])
    one = pod("a")
    side = {"name": "s", "restartPolicy": "Always", "ports": [{"name": "p", "protocol": "UDP", "containerPort": 53}]}
    one["spec"]["initContainers"] = [side]
    assert es.ports(svc, one) == (("d", "UDP", 53, ""),)


def test_a_service_without_endpoints_keeps_one_empty_slice() -> None:
    before = stored(es.plan(service(), [pod("a")], NODES, []))
    writes = es.plan(service(), [], NODES, before)
    assert (writes.replace, [one["metadata"]["name"] for one in writes.delete]) == ([], ["web-0"])
    (empty,) = writes.create
    assert (empty["endpoints"], empty["ports"]) == ([], [])
    assert es.Writes([], [], []) == es.plan(service(), [], NODES, stored(writes))


@pytest.mark.parametrize("spec", [{"type": "ExternalName"}, {"selector": None}])
def test_slices_go_when_the_service_no_longer_selects(spec: Object) -> None:
    before = stored(es.plan(service(), [pod("a")], NODES, []))
    assert es.Writes([], [], before) == es.plan(service(**spec), [pod("a")], NODES, before)


@pytest.mark.parametrize(
    ("distribution", "hints"),
    [
        ("PreferClose", {"forZones": [{"name": "a"}]}),
        ("PreferSameZone", {"forZones": [{"name": "a"}]}),
        ("PreferSameNode", {"forZones": [{"name": "a"}], "forNodes": [{"name": "node-1"}]}),
        (None, None),
    ],
)
def test_traffic_distribution_gives_hints_to_ready_endpoints(distribution: str | None, hints: Object | None) -> None:
    svc = service(trafficDistribution=distribution)
    pods = [pod("a"), pod("b", ips=("10.244.1.3",), ready=False)]
    found = [made.get("hints") for made in only(es.plan(svc, pods, NODES, []))["endpoints"]]
    assert [hints, None] == found


def test_headless_slices_say_so_and_carry_hostnames() -> None:
    one = pod("a")
    one["spec"] |= {"hostname": "zero", "subdomain": "web"}
    made = only(es.plan(service(clusterIP="None"), [one], NODES, []))
    assert made["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
    assert made["endpoints"][0]["hostname"] == "zero"


def test_labels_of_the_service_are_copied_and_followed() -> None:
    before = stored(es.plan(service(), [pod("a")], NODES, []))
    svc = service()
    svc["metadata"]["labels"] = {"team": "x", "service.kubernetes.io/headless": "nonsense"}
    (one,) = es.plan(svc, [pod("a")], NODES, before).replace
    assert one["metadata"]["labels"]["team"] == "x"
    assert "service.kubernetes.io/headless" not in one["metadata"]["labels"]


def test_pods_of_a_node_that_is_gone_are_left_out_unless_not_ready_ones_are_published() -> None:
    assert only(es.plan(service(), [pod("a", node="gone")], NODES, []))["endpoints"] == []
    published = service(publishNotReadyAddresses=True)
    assert len(only(es.plan(published, [pod("a", node="gone")], NODES, []))["endpoints"]) == 1


def test_the_trigger_time_is_the_first_change_not_yet_told() -> None:
    svc, one = service(), pod("a")
    svc["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    one["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:05Z"
    seen: dict[str, str] = {}
    assert es.trigger_time(svc, [one], seen) == "2026-01-01T00:00:00Z"
    assert es.trigger_time(svc, [one], seen) == ""
    one["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:01:00Z"
    assert es.trigger_time(svc, [one], seen) == "2026-01-01T00:01:00Z"
