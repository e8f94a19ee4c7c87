"""What is refused, with the field that is named, and what is let through."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from kuberouterpy.lab.api import defaults, validation
from kuberouterpy.lab.api.resources import Catalog, Resource

CATALOG = Catalog()


def resource(kind: str) -> Resource:
    return next(one for one in CATALOG.all() if one.kind == kind)


def problems(kind: str, body: dict[str, Any], *, name: str = "x", old: dict[str, Any] | None = None) -> dict[str, str]:
    """Return what is wrong with an object after defaulting, message by field."""
    obj = {"metadata": {"name": name}, **deepcopy(body)}
    defaults.fill(resource(kind), obj, new=old is None)
    return {field: message for _, field, message in validation.check(resource(kind), obj, old)}


def service(**spec: Any) -> dict[str, Any]:
    return {"spec": {"ports": [{"port": 80}], **spec}}


GOOD_SERVICES = [
    service(),
    service(ports=[{"port": 53, "name": "a", "protocol": "UDP"}, {"port": 53, "name": "b"}]),
    service(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.1/8", "fd00::/8"], externalIPs=["192.0.2.1"]),
    service(externalIPs=["2001:db8::1"], externalTrafficPolicy="Local"),
    service(clusterIP="None", ports=None),
    service(type="ExternalName", externalName="a.example.com.", ports=None),
    service(ports=[{"port": 1, "targetPort": "http-alt"}], sessionAffinity="ClientIP"),
]


@pytest.mark.parametrize("body", GOOD_SERVICES)
def test_good_services(body: dict[str, Any]) -> None:
    assert problems("Service", body) == {}


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        (service(ports=[]), "spec.ports", "Required"),
        (service(ports=[{"port": 0}]), "spec.ports[0].port", "between 1 and 65535"),
        (service(ports=[{"port": 70_000}]), "spec.ports[0].port", "Invalid value: 70000"),
        (service(ports=[{"port": 1}, {"port": 2, "name": "b"}]), "spec.ports[0].name", "Required"),
        (service(ports=[{"port": 1, "name": "b"}, {"port": 2, "name": "b"}]), "spec.ports[1].name", "Duplicate"),
        (service(ports=[{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]), "spec.ports[1]", "Duplicate"),
        (service(ports=[{"port": 1, "protocol": "tcp"}]), "spec.ports[0].protocol", "Unsupported"),
        (service(ports=[{"port": 1, "targetPort": "a--b"}]), "spec.ports[0].targetPort", "consecutive hyphens"),
        (service(ports=[{"port": 1, "targetPort": 99_999}]), "spec.ports[0].targetPort", "between 1"),
        (service(ports=[{"port": 1, "nodePort": 30_000}]), "spec.ports[0].nodePort", "may not be used"),
        (service(type="Funny"), "spec.type", "Unsupported"),
        (service(type="NodePort", clusterIP="None"), "spec.clusterIPs[0]", "may not be set to 'None'"),
        (service(type="ExternalName", ports=None), "spec.externalName", "Required"),
        (service(externalIPs=["127.0.0.1"]), "spec.externalIPs[0]", "loopback"),
        (service(externalIPs=["0.0.0.0"]), "spec.externalIPs[0]", "unspecified"),
        (service(externalIPs=["fe80::1"]), "spec.externalIPs[0]", "link-local"),
        (service(externalIPs=["1.2.3"]), "spec.externalIPs[0]", "valid IP"),
        (service(externalTrafficPolicy="Local"), "spec.externalTrafficPolicy", "externally-accessible"),
        (service(internalTrafficPolicy="Near"), "spec.internalTrafficPolicy", "Unsupported"),
        (service(loadBalancerSourceRanges=["10.0.0.0/8"]), "spec.loadBalancerSourceRanges", "may only be used"),
        (
            service(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.0"]),
            "spec.loadBalancerSourceRanges[0]",
            "valid CIDR",
        ),
        (service(sessionAffinity="Sticky"), "spec.sessionAffinity", "Unsupported"),
        (
            service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86_401}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            "86400",
        ),
        (service(selector={"a b": "c"}), "spec.selector", "name part"),
        (service(selector={"a": "c!"}), "spec.selector", "valid label"),
        (service(ipFamilies=["IPv4", "IPv4"]), "spec.ipFamilies[1]", "Duplicate"),
        (service(ipFamilyPolicy="Both"), "spec.ipFamilyPolicy", "Unsupported"),
    ],
)
def test_bad_services(body: dict[str, Any], field: str, text: str) -> None:
    found = problems("Service", body)
    assert text in found[field], found


def policy(**spec: Any) -> dict[str, Any]:
    return {"spec": spec}


def rule(*peers: Any, ports: list[Any] | None = None) -> dict[str, Any]:
    return policy(ingress=[{"from": list(peers), "ports": ports or []}])


@pytest.mark.parametrize(
    "body",
    [
        policy(),
        policy(podSelector={}, ingress=[], egress=[]),
        policy(ingress=[{}]),
        rule({"podSelector": {}}, {"namespaceSelector": {}}, {"podSelector": {}, "namespaceSelector": {}}),
        rule({"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16", "10.2.0.1/24"]}}),
        rule({"ipBlock": {"cidr": "::/0", "except": ["fd00::/8"]}}),
        rule({"ipBlock": {"cidr": "010.001.0.0/16"}}),
        rule(ports=[{"port": 80, "endPort": 80}, {"port": "http"}, {"protocol": "SCTP"}, {}]),
        policy(podSelector={"matchExpressions": [{"key": "a", "operator": "NotIn", "values": [""]}]}),
    ],
)
def test_good_policies(body: dict[str, Any]) -> None:
    assert problems("NetworkPolicy", body) == {}


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        (rule({}), "spec.ingress[0].from[0]", "must specify a peer"),
        (rule({"ipBlock": {"cidr": "1.0.0.0/8"}, "podSelector": {}}), "spec.ingress[0].from[0]", "both ipBlock"),
        (rule({"ipBlock": {"cidr": ""}}), "spec.ingress[0].from[0].ipBlock.cidr", "Required"),
        (rule({"ipBlock": {"cidr": "10.0.0.0"}}), "spec.ingress[0].from[0].ipBlock.cidr", "valid CIDR"),
        (rule({"ipBlock": {"cidr": "10.0.0.0/33"}}), "spec.ingress[0].from[0].ipBlock.cidr", "valid CIDR"),
        *(
            (
                rule({"ipBlock": {"cidr": "10.0.0.0/8", "except": [hole]}}),
                "spec.ingress[0].from[0].ipBlock.except[0]",
                "strict subset",
            )
            for hole in ("10.0.0.0/8", "11.0.0.0/16", "10.0.0.0/7", "fd00::/64")
        ),
        (rule(ports=[{"port": 0}]), "spec.ingress[0].ports[0].port", "between 1"),
        (rule(ports=[{"port": "Http"}]), "spec.ingress[0].ports[0].port", "alpha-numeric"),
        (rule(ports=[{"port": "80"}]), "spec.ingress[0].ports[0].port", "at least one letter"),
        (rule(ports=[{"port": 80, "endPort": 79}]), "spec.ingress[0].ports[0].endPort", "greater than or equal"),
        (rule(ports=[{"endPort": 79}]), "spec.ingress[0].ports[0].port", "Required"),
        (rule(ports=[{"port": "a", "endPort": 79}]), "spec.ingress[0].ports[0].endPort", "non-numeric"),
        (rule(ports=[{"protocol": "ICMP"}]), "spec.ingress[0].ports[0].protocol", "Unsupported"),
        (policy(egress=[{"to": [{}]}]), "spec.egress[0].to[0]", "must specify a peer"),
        (policy(policyTypes=["ingress"]), "spec.policyTypes[0]", "Unsupported"),
        (
            policy(podSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
            "spec.podSelector.matchExpressions[0].values",
            "Required",
        ),
        (
            policy(podSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
            "spec.podSelector.matchExpressions[0].values",
            "may not be specified",
        ),
        (
            policy(podSelector={"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
            "spec.podSelector.matchExpressions[0].operator",
            "not a valid selector operator",
        ),
        (policy(podSelector={"matchLabels": {"-a": "b"}}), "spec.podSelector.matchLabels", "name part"),
    ],
)
def test_bad_policies(body: dict[str, Any], field: str, text: str) -> None:
    found = problems("NetworkPolicy", body)
    assert text in found[field], found


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ({}, ["Ingress"]),
        ({"egress": []}, ["Ingress"]),
        ({"egress": [{}]}, ["Ingress", "Egress"]),
        ({"policyTypes": ["Egress"]}, ["Egress"]),
    ],
)
def test_policy_types_are_egress_only_where_there_is_an_egress_rule(spec: dict[str, Any], types: list[str]) -> None:
    obj = {"metadata": {"name": "x"}, "spec": spec}
    defaults.fill(resource("NetworkPolicy"), obj, new=True)
    assert obj["spec"]["policyTypes"] == types


def endpoint_slice(*addresses: str, kind: str = "IPv4", **more: Any) -> dict[str, Any]:
    return {"addressType": kind, "endpoints": [{"addresses": list(addresses)}], **more}


@pytest.mark.parametrize(
    "body",
    [
        endpoint_slice("10.0.0.1"),
        endpoint_slice("fd00::1", kind="IPv6", ports=[{"port": 80}]),
        endpoint_slice("a.example.com", kind="FQDN"),
        {"addressType": "IPv4"},
        endpoint_slice("10.0.0.1", ports=[{"port": 99_999}]),
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}] * 1_000},
    ],
)
def test_good_endpoint_slices(body: dict[str, Any]) -> None:
    assert problems("EndpointSlice", body) == {}


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ({}, "addressType", "Required"),
        ({"addressType": "ipv4"}, "addressType", "Unsupported"),
        (endpoint_slice(), "endpoints[0].addresses", "at least 1"),
        (endpoint_slice(*["10.0.0.1"] * 101), "endpoints[0].addresses", "Too many: 101"),
        (endpoint_slice("fd00::1"), "endpoints[0].addresses[0]", "valid IPv4"),
        (endpoint_slice("10.0.0.1", kind="IPv6"), "endpoints[0].addresses[0]", "valid IPv6"),
        (endpoint_slice("127.0.0.1"), "endpoints[0].addresses[0]", "loopback"),
        (endpoint_slice("224.0.0.1"), "endpoints[0].addresses[0]", "multicast"),
        (endpoint_slice("nope", kind="FQDN"), "endpoints[0].addresses[0]", "two segments"),
        ({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"]}] * 1_001}, "endpoints", "Too many: 1001"),
        (endpoint_slice("10.0.0.1", ports=[{"port": 1}, {"port": 2}]), "ports[1].name", "Duplicate"),
        (endpoint_slice("10.0.0.1", ports=[{"name": "A", "port": 2}]), "ports[0].name", "RFC 1123"),
        (endpoint_slice("10.0.0.1", ports=[{"protocol": "X"}]), "ports[0].protocol", "Unsupported"),
    ],
)
def test_bad_endpoint_slices(body: dict[str, Any], field: str, text: str) -> None:
    found = problems("EndpointSlice", body)
    assert text in found[field], found


def test_the_address_type_of_a_slice_may_not_change() -> None:
    old = {"metadata": {"name": "x"}, "addressType": "IPv4"}
    assert "immutable" in problems("EndpointSlice", {"addressType": "IPv6"}, old=old)["addressType"]


def pod(*containers: Any, **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers) or [{"name": "c", "image": "x"}], **spec}}


def test_a_pod_gets_its_defaults_and_is_good() -> None:
    obj = {"metadata": {"name": "x"}, **pod({"name": "c", "image": "x", "ports": [{"containerPort": 80}]})}
    defaults.fill(resource("Pod"), obj, new=True)
    assert validation.check(resource("Pod"), obj, None) == []
    assert obj["spec"]["terminationGracePeriodSeconds"] == 30
    assert obj["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert obj["status"]["phase"] == "Pending"


@pytest.mark.parametrize(
    ("body", "field", "text"),
    [
        ({"spec": {"containers": []}}, "spec.containers", "Required"),
        (pod({"name": "c"}), "spec.containers[0].image", "Required"),
        (pod({"name": "C", "image": "x"}), "spec.containers[0].name", "RFC 1123"),
        (pod({"name": "c", "image": "x"}, {"name": "c", "image": "x"}), "spec.containers[1].name", "Duplicate"),
        (
            pod({"name": "c", "image": "x", "ports": [{"containerPort": 70_000}]}),
            "spec.containers[0].ports[0].containerPort",
            "between 1",
        ),
        (
            pod({"name": "c", "image": "x", "ports": [{"containerPort": 80, "hostPort": 81}]}, hostNetwork=True),
            "spec.containers[0].ports[0].containerPort",
            "must match `hostPort`",
        ),
        (pod(restartPolicy="Sometimes"), "spec.restartPolicy", "Unsupported"),
        (pod({"name": "c", "image": "x", "readinessProbe": {}}), "spec.containers[0].readinessProbe", "handler"),
    ],
)
def test_bad_pods(body: dict[str, Any], field: str, text: str) -> None:
    found = problems("Pod", body)
    assert text in found[field], found


@pytest.mark.parametrize(
    ("kind", "name", "good"),
    [
        ("Pod", "a.b-c", True),
        ("Pod", "A", False),
        ("Pod", "a" * 254, False),
        ("Service", "a.b", False),
        ("Service", "1a", False),
        ("Namespace", "a.b", False),
        ("Namespace", "1a", True),
        ("ClusterRole", "system:node", True),
        ("ClusterRole", "a/b", False),
    ],
)
def test_names(kind: str, name: str, good: bool) -> None:
    body = {"Pod": pod(), "Service": service()}.get(kind, {})
    assert ("metadata.name" not in problems(kind, body, name=name)) == good


@pytest.mark.parametrize(
    ("labels", "good"),
    [
        ({"a": ""}, True),
        ({"example.com/a": "b_c.d"}, True),
        ({"a/b/c": "d"}, False),
        ({"": "d"}, False),
        ({"a": "x" * 64}, False),
        ({"a": "-x"}, False),
    ],
)
def test_labels(labels: dict[str, str], good: bool) -> None:
    body = {"metadata": {"name": "x", "labels": labels}}
    assert ("metadata.labels" not in problems("ConfigMap", body)) == good


def test_a_node_keeps_its_pod_ranges() -> None:
    old = {"metadata": {"name": "x"}, "spec": {"podCIDRs": ["10.1.0.0/24"]}}
    assert "may not change" in problems("Node", {"spec": {"podCIDRs": ["10.2.0.0/24"]}}, old=old)["spec.podCIDRs"]
    assert problems("Node", {"spec": {"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.2.0.0/24", "fd00::/64"]}}) == {}


def test_a_workload_selects_the_pods_it_makes() -> None:
    template = {"metadata": {"labels": {"app": "b"}}, **pod()}
    body = {"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}}
    assert "does not match" in problems("Deployment", body)["spec.template.metadata.labels"]
