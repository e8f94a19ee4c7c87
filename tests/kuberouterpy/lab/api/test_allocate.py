from __future__ import annotations

from copy import deepcopy
from ipaddress import ip_network
from typing import Any

import pytest

from kuberouterpy.lab.api.admission import Admission
from kuberouterpy.lab.api.allocate import ServiceAllocator
from kuberouterpy.lab.api.errors import StatusError
from kuberouterpy.lab.api.resources import Catalog

V4, V6 = ip_network("10.96.0.0/24"), ip_network("fd00:96::/112")
SERVICES = Catalog().find("", "v1", "services")


class Cluster:
    def __init__(self, *cidrs: Any, ports: tuple[int, int] = (30_000, 30_040)) -> None:
        self.allocator = ServiceAllocator(cidrs, ports)
        self._admission = Admission(self.allocator)

    def create(self, *, dry: bool = False, **spec: Any) -> dict[str, Any]:
        spec.setdefault("ports", [{"port": 80}])
        obj = {"metadata": {"name": "s"}, "spec": spec}
        with self._admission.transaction(keep=not dry):
            return self._admission.create(SERVICES, obj, validate=True)

    def update(self, old: dict[str, Any], **changes: Any) -> dict[str, Any]:
        new = deepcopy(old)
        for field, value in changes.items():
            if value is None:
                new["spec"].pop(field, None)
            else:
                new["spec"][field] = value
        with self._admission.transaction(keep=True):
            return self._admission.update(SERVICES, old, new, "", validate=True)

    def release(self, obj: dict[str, Any]) -> None:
        self._admission.released(SERVICES, obj)


def refused(run: Any) -> str:
    with pytest.raises(StatusError) as refusal:
        run()
    assert refusal.value.code == 422
    return refusal.value.message


@pytest.mark.parametrize(("first", "family"), [(V4, "IPv4"), (V6, "IPv6")])
def test_a_service_gets_an_address_of_the_first_range(first: Any, family: str) -> None:
    spec = Cluster(first, V4 if first is V6 else V6).create()["spec"]
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == ([family], "SingleStack")
    assert spec["clusterIPs"] == [spec["clusterIP"]]


def test_addresses_are_unique_and_come_back_after_release() -> None:
    cluster = Cluster(ip_network("10.0.0.0/29"))
    services = [cluster.create() for _ in range(6)]
    assert len({one["spec"]["clusterIP"] for one in services}) == 6
    with pytest.raises(StatusError) as refusal:
        cluster.create()
    assert refusal.value.code == 500
    cluster.release(services[2])
    assert cluster.create()["spec"]["clusterIP"] == services[2]["spec"]["clusterIP"]


def test_an_address_asked_for_is_honoured_once_and_only_in_range() -> None:
    cluster = Cluster(V4)
    assert cluster.create(clusterIP="10.96.0.9")["spec"]["clusterIPs"] == ["10.96.0.9"]
    assert "provided IP is already allocated" in refused(lambda: cluster.create(clusterIP="10.96.0.9"))
    assert "not in the valid range" in refused(lambda: cluster.create(clusterIP="10.97.0.9"))
    assert "must be a valid IP address" in refused(lambda: cluster.create(clusterIP="10.96.0"))


def test_a_dry_run_and_a_refusal_take_nothing() -> None:
    cluster = Cluster(V4)
    cluster.create(dry=True, clusterIP="10.96.0.9", type="NodePort", ports=[{"port": 1, "nodePort": 30_005}])
    refused(lambda: cluster.create(clusterIP="10.96.0.9", type="NodePort", ports=[{"port": 1, "nodePort": 1}]))
    cluster.create(clusterIP="10.96.0.9", type="NodePort", ports=[{"port": 1, "nodePort": 30_005}])


def test_dual_stack_gives_both_families_in_the_order_asked_for() -> None:
    cluster = Cluster(V4, V6)
    plain = cluster.create(ipFamilyPolicy="PreferDualStack")["spec"]
    assert plain["ipFamilies"] == ["IPv4", "IPv6"]
    turned = cluster.create(ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6"])["spec"]
    assert turned["ipFamilies"] == ["IPv6", "IPv4"]
    assert ":" in turned["clusterIP"]
    assert ":" not in turned["clusterIPs"][1]
    inferred = cluster.create(clusterIP="fd00:96::9", clusterIPs=["fd00:96::9", "10.96.0.9"])["spec"]
    assert (inferred["ipFamilies"], inferred["ipFamilyPolicy"]) == (["IPv6", "IPv4"], "RequireDualStack")


def test_dual_stack_on_a_single_stack_cluster() -> None:
    cluster = Cluster(V4)
    assert cluster.create(ipFamilyPolicy="PreferDualStack")["spec"]["ipFamilies"] == ["IPv4"]
    assert "not configured for dual-stack" in refused(lambda: cluster.create(ipFamilyPolicy="RequireDualStack"))
    assert "not configured on this cluster" in refused(lambda: cluster.create(ipFamilies=["IPv6"]))


def test_a_service_moves_between_one_and_two_families() -> None:
    cluster = Cluster(V4, V6)
    single = cluster.create()
    dual = cluster.update(single, ipFamilyPolicy="PreferDualStack")
    assert dual["spec"]["clusterIPs"][0] == single["spec"]["clusterIP"]
    assert dual["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    second = dual["spec"]["clusterIPs"][1]
    back = cluster.update(dual, ipFamilyPolicy="SingleStack")
    assert back["spec"]["clusterIPs"] == [single["spec"]["clusterIP"]]
    assert back["spec"]["ipFamilies"] == ["IPv4"]
    assert cluster.create(clusterIP=second)["spec"]["clusterIP"] == second


def test_the_address_of_a_service_may_not_change() -> None:
    cluster = Cluster(V4)
    made = cluster.create()
    assert "may not change once set" in refused(lambda: cluster.update(made, clusterIP="10.96.0.77"))
    assert cluster.update(made, clusterIP=None, clusterIPs=None)["spec"]["clusterIP"] == made["spec"]["clusterIP"]


def test_headless_services_hold_no_address() -> None:
    cluster = Cluster(V4, V6)
    headless = cluster.create(clusterIP="None", selector={"a": "b"})["spec"]
    assert (headless["clusterIPs"], headless["ipFamilies"]) == (["None"], ["IPv4"])
    bare = cluster.create(clusterIP="None", ports=None)["spec"]
    assert (bare["ipFamilies"], bare["ipFamilyPolicy"]) == (["IPv4", "IPv6"], "RequireDualStack")


def test_an_external_name_gives_its_address_up_and_gets_one_again() -> None:
    cluster = Cluster(V4)
    made = cluster.create(clusterIP="10.96.0.9")
    named = cluster.update(made, type="ExternalName", externalName="example.com")
    assert "clusterIP" not in named["spec"]
    assert cluster.create(clusterIP="10.96.0.9")
    assert cluster.update(named, type="ClusterIP", externalName=None)["spec"]["clusterIP"]


def test_node_ports_are_unique_and_shared_by_the_protocols_of_one_port() -> None:
    cluster = Cluster(V4)
    ports = [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "h", "port": 80}]
    given = [port["nodePort"] for port in cluster.create(type="NodePort", ports=ports)["spec"]["ports"]]
    assert given[0] == given[1] != given[2]
    asked = [{"port": 1, "nodePort": given[2]}]
    assert "provided port is already allocated" in refused(lambda: cluster.create(type="NodePort", ports=asked))
    outside = [{"port": 1, "nodePort": 29_999}]
    assert "not in the valid range" in refused(lambda: cluster.create(type="NodePort", ports=outside))


def test_node_ports_stay_with_their_ports_and_go_with_the_type() -> None:
    cluster = Cluster(V4)
    made = cluster.create(type="NodePort", ports=[{"port": 80, "nodePort": 30_007}])
    more = cluster.update(made, ports=[{"name": "a", "port": 443}, {"name": "b", "port": 80}])
    assert [port["port"] for port in more["spec"]["ports"] if port["nodePort"] == 30_007] == [80]
    less = cluster.update(more, type="ClusterIP")
    assert all("nodePort" not in port for port in less["spec"]["ports"])
    assert "externalTrafficPolicy" not in less["spec"]
    cluster.create(type="NodePort", ports=[{"port": 1, "nodePort": 30_007}])


def test_a_load_balancer_with_local_traffic_gets_a_health_check_port() -> None:
    cluster = Cluster(V4)
    made = cluster.create(type="LoadBalancer", externalTrafficPolicy="Local")
    spec = made["spec"]
    assert spec["healthCheckNodePort"] not in {0, spec["ports"][0]["nodePort"]}
    assert spec["allocateLoadBalancerNodePorts"] is True
    changed = cluster.update(made, externalTrafficPolicy="Cluster")["spec"]
    assert "healthCheckNodePort" not in changed


def test_a_load_balancer_may_do_without_node_ports() -> None:
    spec = Cluster(V4).create(type="LoadBalancer", allocateLoadBalancerNodePorts=False)["spec"]
    assert "nodePort" not in spec["ports"][0]


def test_what_stored_services_hold_is_held_after_a_restart() -> None:
    made = Cluster(V4).create(type="NodePort", clusterIP="10.96.0.9", ports=[{"port": 80, "nodePort": 30_007}])
    cluster = Cluster(V4)
    cluster.allocator.restore(made)
    refused(lambda: cluster.create(clusterIP="10.96.0.9"))
    refused(lambda: cluster.create(type="NodePort", ports=[{"port": 80, "nodePort": 30_007}]))
