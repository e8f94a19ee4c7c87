"""What the API says becomes records; what it should not say is named by field and never guessed at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kuberouterpy.annotations import NodeBgp
from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    IpBlock,
    Kind,
    LoadBalancerIngress,
    Namespace,
    NetworkPolicy,
    Node,
    NodeAddress,
    Pod,
    PolicyPort,
    PolicyRule,
    Ref,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
)
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.labels import EVERYTHING, PodSelector, selector, term
from kuberouterpy.protocol import Protocol
from kuberouterpy.sources.decode import Decoded, Garbage, decode

REF = Ref("default", "web")


def read(kind: Kind, *, meta: dict[str, Any] | None = None, node_name: str = "", **parts: Any) -> Decoded:
    """Decode an object named default/web."""
    metadata = {
        "name": "web",
        "namespace": "" if kind in {Node, Namespace} else "default",
        "uid": "u-1",
        **(meta or {}),
    }
    return decode(kind, json.dumps({"metadata": metadata, **parts}).encode(), node_name=node_name)


# --- Service ----------------------------------------------------------------------------------------------------------


def test_a_service_keeps_what_a_proxy_reads() -> None:
    spec = {
        "type": "LoadBalancer",
        "clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10", "FD00:10:96:0::A"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ports": [
            {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
        "externalIPs": ["192.0.2.1"],
        "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30999,
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 30}},
        "loadBalancerSourceRanges": [" 10.0.0.0/8 "],
    }
    status = {
        "loadBalancer": {
            "ingress": [{"ip": "192.0.2.9"}, {"hostname": "lb.example"}, {"ip": "192.0.2.10", "ipMode": "Proxy"}]
        }
    }
    labels = {"service.kubernetes.io/service-proxy-name": "", "app": "web"}
    annotations = {"kube-router.io/service.scheduler": "mh", "other/x": "y"}
    decoded = read(Service, meta={"labels": labels, "annotations": annotations}, spec=spec, status=status)
    assert decoded.problems == ()
    assert decoded.record == Service(
        ref=REF,
        type=ServiceType.LOAD_BALANCER,
        cluster_ips=("10.96.0.10", "fd00:10:96::a"),
        ports=(ServicePort("http", Protocol.TCP, 80, 30080), ServicePort("dns", Protocol.UDP, 53)),
        external_ips=("192.0.2.1",),
        load_balancer=(LoadBalancerIngress("192.0.2.9"), LoadBalancerIngress("192.0.2.10", proxy=True)),
        families=(IPV4, IPV6),
        internal_policy=TrafficPolicy.LOCAL,
        external_policy=TrafficPolicy.LOCAL,
        affinity_s=30,
        health_check_node_port=30999,
        source_ranges=("10.0.0.0/8",),
        proxy_name="",
        annotations={"kube-router.io/service.scheduler": "mh"},
        uid="u-1",
    )


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None"},
        {"clusterIPs": ["None"]},
        {"clusterIP": ""},
        {},
        {"type": "ExternalName", "clusterIP": "10.96.0.1"},
    ],
)
def test_headless_and_external_name_services_have_no_cluster_ip(spec: dict[str, Any]) -> None:
    record = read(Service, spec=spec).record
    assert isinstance(record, Service)
    assert record.cluster_ips == ()


def test_the_headless_label_is_seen() -> None:
    record = read(
        Service, meta={"labels": {"service.kubernetes.io/headless": ""}}, spec={"clusterIP": "10.96.0.1"}
    ).record
    assert isinstance(record, Service)
    assert record.headless_label


def test_affinity_without_timeout_has_the_apis_default() -> None:
    record = read(Service, spec={"clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP"}).record
    assert isinstance(record, Service)
    assert record.affinity_s == 10_800


def test_a_bad_part_of_a_service_is_left_out_and_named() -> None:
    decoded = read(
        Service,
        spec={
            "clusterIPs": ["010.096.000.001", "10.96.0.256"],
            "ports": [{"port": 0}, {"port": 80, "protocol": "ICMP"}, {"port": 80, "nodePort": 70000}],
            "externalIPs": ["::ffff:192.0.2.1", "nonsense", "fe80::1%eth0", "127.0.0.1"],
        },
    )
    assert isinstance(decoded.record, Service)
    assert decoded.record.cluster_ips == ("10.96.0.1",)
    assert decoded.record.ports == (ServicePort("", Protocol.TCP, 80),)
    assert decoded.record.external_ips == ("192.0.2.1",)
    assert [problem.partition(":")[0] for problem in decoded.problems] == [
        "spec.clusterIPs[1]",
        "spec.ports[0].port",
        "spec.ports[1].protocol",
        "spec.ports[2].nodePort",
        "spec.externalIPs[1]",
        "spec.externalIPs[2]",
        "spec.externalIPs[3]",
    ]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.1"]}, "spec.loadBalancerSourceRanges[1]"),
        ({"externalTrafficPolicy": "Nearby"}, "spec.externalTrafficPolicy"),
        ({"internalTrafficPolicy": "Nearby"}, "spec.internalTrafficPolicy"),
        ({"type": "Absurd"}, "spec.type"),
        ({"ports": [{"port": "80"}]}, "spec.ports[0].port"),
        ({"ports": {}}, "spec.ports"),
        ([], "spec"),
    ],
)
def test_a_service_that_cannot_be_read_safely_is_refused_whole(spec: Any, field: str) -> None:
    decoded = read(Service, spec=spec)
    assert decoded.record is None
    assert decoded.rejection is not None
    assert decoded.rejection.reason.startswith(f"{field}:")


# --- EndpointSlice ----------------------------------------------------------------------------------------------------


def _slice(**parts: Any) -> Decoded:
    return read(
        EndpointSlice, **{"addressType": "IPv4", "meta": {"labels": {"kubernetes.io/service-name": "web"}}, **parts}
    )


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (None, (True, True, False)),
        ({}, (True, True, False)),
        ({"ready": None, "serving": None, "terminating": None}, (True, True, False)),
        ({"ready": False}, (False, False, False)),
        ({"ready": False, "serving": True, "terminating": True}, (False, True, True)),
        ({"ready": True, "serving": False}, (True, False, False)),
    ],
)
def test_missing_conditions_mean_what_the_api_says(conditions: Any, expected: tuple[bool, bool, bool]) -> None:
    record = _slice(endpoints=[{"addresses": ["10.1.0.1"], "conditions": conditions}]).record
    assert isinstance(record, EndpointSlice)
    assert [(one.ready, one.serving, one.terminating) for one in record.endpoints] == [expected]


@pytest.mark.parametrize(("kind", "address"), [("IPv4", "10.1.0.1"), ("IPv6", "fd00::1")])
def test_a_slice_keeps_what_a_proxy_reads(kind: str, address: str) -> None:
    record = _slice(
        addressType=kind,
        ports=[{"name": None, "port": 8080}, {"name": "x", "port": None}, {"name": "u", "protocol": "UDP", "port": 53}],
        endpoints=[
            {
                "addresses": [address],
                "nodeName": "n1",
                "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]},
                "targetRef": {"kind": "Pod", "name": "web-1"},
            }
        ],
    ).record
    assert record == EndpointSlice(
        ref=REF,
        service=REF,
        family=IPV4 if kind == "IPv4" else IPV6,
        ports=(EndpointPort("", Protocol.TCP, 8080), EndpointPort("u", Protocol.UDP, 53)),
        endpoints=(
            Endpoint(
                address,
                "n1",
                for_nodes=frozenset({"n1"}),
                for_zones=frozenset({"a"}),
                pod=Ref("default", "web-1"),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("IPv4", "fd00::1"),
        ("IPv6", "10.1.0.1"),
        ("IPv6", "::ffff:10.1.0.1"),
        ("IPv4", "127.0.0.1"),
        ("IPv6", "::1"),
        ("IPv4", "0.0.0.0"),
        ("IPv4", "224.0.0.1"),
        ("IPv6", "fe80::1"),
        ("IPv4", ""),
        ("IPv4", "host.example"),
    ],
)
def test_a_bad_endpoint_is_left_out_and_the_others_stay(kind: str, bad: str) -> None:
    good = "10.1.0.9" if kind == "IPv4" else "fd00::9"
    decoded = _slice(addressType=kind, endpoints=[{"addresses": [bad]}, {"addresses": [good]}])
    assert isinstance(decoded.record, EndpointSlice)
    assert [one.address for one in decoded.record.endpoints] == [good]
    assert decoded.problems[0].startswith("endpoints[0].addresses: ")


def test_an_endpoint_without_addresses_is_left_out() -> None:
    decoded = _slice(endpoints=[{}, {"addresses": None}, {"addresses": []}])
    assert isinstance(decoded.record, EndpointSlice)
    assert decoded.record.endpoints == ()
    assert len(decoded.problems) == 3


@pytest.mark.parametrize(
    "parts",
    [{"addressType": "FQDN"}, {"meta": {"labels": {"service.kubernetes.io/headless": ""}}}],
    ids=["FQDN", "headless"],
)
def test_fqdn_and_headless_slices_are_as_if_they_were_not_there(parts: dict[str, Any]) -> None:
    decoded = _slice(**parts)
    assert (decoded.record, decoded.problems) == (None, ())


@pytest.mark.parametrize("labels", [None, {}, {"kubernetes.io/service-name": ""}])
def test_a_slice_without_service_name_belongs_to_no_service(labels: Any) -> None:
    record = _slice(meta={"labels": labels}).record
    assert isinstance(record, EndpointSlice)
    assert record.service is None


# --- Pod, Namespace, Node ---------------------------------------------------------------------------------------------

POD_PARTS: dict[str, Any] = {
    "meta": {
        "labels": {"app": "web"},
        "annotations": {"kube-router.io/x": "y", "other": "z"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {
        "nodeName": "n1",
        "containers": [{"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9}]}],
        "initContainers": [
            {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 15, "protocol": "SCTP"}]},
            {"ports": [{"name": "gone", "containerPort": 16}]},
        ],
    },
    "status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "FD00::0:1"}]},
}


def test_a_pod_of_this_node_is_kept_whole() -> None:
    record = read(Pod, node_name="n1", **POD_PARTS).record
    assert isinstance(record, Pod)
    assert record.addresses == ("10.1.0.1", "fd00::1")
    assert [(port.name, port.protocol, port.port) for port in record.ports] == [
        ("http", "tcp", 8080),
        ("side", "sctp", 15),
    ]
    assert (record.annotations, record.uid) == ({"kube-router.io/x": "y"}, "u-1")


def test_a_pod_of_another_node_keeps_only_what_policy_needs() -> None:
    here, there = read(Pod, node_name="n1", **POD_PARTS).record, read(Pod, node_name="n2", **POD_PARTS).record
    assert isinstance(here, Pod)
    assert isinstance(there, Pod)
    assert (there.annotations, there.uid) == ({}, "")
    assert (there.labels, there.addresses, there.ports, there.created) == (
        here.labels,
        here.addresses,
        here.ports,
        here.created,
    )


@pytest.mark.parametrize(
    ("phase", "finished"), [("Succeeded", True), ("Failed", True), ("Running", False), (None, False)]
)
def test_a_finished_pod_is_told_by_its_phase(phase: str | None, finished: bool) -> None:
    record = read(Pod, status={"phase": phase}).record
    assert isinstance(record, Pod)
    assert record.finished is finished


def test_an_old_pod_status_with_one_address_is_read() -> None:
    record = read(Pod, status={"podIP": "10.1.0.1"}).record
    assert isinstance(record, Pod)
    assert record.addresses == ("10.1.0.1",)


def test_a_namespace_is_its_labels() -> None:
    assert read(Namespace, meta={"labels": {"a": "b"}}).record == Namespace(Ref("", "web"), {"a": "b"})


def test_a_node_keeps_addresses_ranges_and_what_draining_needs() -> None:
    decoded = read(
        Node,
        meta={
            "labels": {"topology.kubernetes.io/zone": "a"},
            "annotations": {"kube-router.io/node.asn": "64513"},
            "deletionTimestamp": "2026-01-01T00:00:00Z",
        },
        spec={
            "podCIDR": "10.1.0.0/24",
            "podCIDRs": ["10.1.0.0/24", "FD00:1::/64"],
            "taints": [{"key": "b"}, {"key": "a"}],
        },
        status={
            "addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "ExternalIP", "address": "not-an-address"},
            ]
        },
    )
    assert decoded.record == Node(
        ref=Ref("", "web"),
        addresses=(NodeAddress("InternalIP", "10.0.0.1"),),
        pod_cidrs=("10.1.0.0/24", "fd00:1::/64"),
        zone="a",
        labels={"topology.kubernetes.io/zone": "a"},
        bgp=NodeBgp(asn=64513),
        taints=("a", "b"),
        deleting=True,
        uid="u-1",
    )
    assert [problem.partition(":")[0] for problem in decoded.problems] == ["status.addresses[2].address"]


@pytest.mark.parametrize(
    ("name", "condition", "since"),
    [
        ("web", {"reason": "Draining", "lastTransitionTime": "2026-01-02T03:04:05Z"}, 1767323045.0),
        ("web", {"reason": "Drained", "lastTransitionTime": "2026-01-02T03:04:05Z"}, 0.0),
        ("web", {"reason": "Draining", "lastTransitionTime": "soon"}, 0.0),
        ("web", {"reason": "Draining"}, 0.0),
        ("of-another", {"reason": "Draining", "lastTransitionTime": "2026-01-02T03:04:05Z"}, 0.0),
    ],
)
def test_a_drain_that_an_earlier_agent_began_is_read_from_its_condition(
    name: str, condition: dict[str, str], since: float
) -> None:
    """Only this node's, and only while it waits."""
    status = {"conditions": [{"type": "Ready"}, {"type": "kube-router.io/Drained", **condition}]}
    decoded = read(Node, node_name=name, status=status)
    assert isinstance(decoded.record, Node)
    assert decoded.record.draining_since == since
    assert decoded.problems == ()


# --- NetworkPolicy ----------------------------------------------------------------------------------------------------


def _policy(**spec: Any) -> Decoded:
    return read(NetworkPolicy, spec=spec)


def _good(**spec: Any) -> NetworkPolicy:
    decoded = _policy(**spec)
    assert decoded.problems == ()
    assert isinstance(decoded.record, NetworkPolicy)
    return decoded.record


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, (), None),
        ({"ingress": None, "egress": None}, (), None),
        ({"egress": []}, (), None),
        ({"egress": [{}]}, (), (PolicyRule(),)),
        ({"ingress": [{}]}, (PolicyRule(),), None),
        ({"policyTypes": []}, (), None),
        ({"policyTypes": ["Egress"]}, None, ()),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, None, ()),
        ({"policyTypes": ["Ingress", "Egress"]}, (), ()),
    ],
)
def test_policy_types_and_absent_rules_mean_what_the_api_says(spec: dict[str, Any], ingress: Any, egress: Any) -> None:
    record = _good(podSelector={}, **spec)
    assert (record.ingress, record.egress) == (ingress, egress)


def test_absent_and_empty_selectors_differ_in_a_peer() -> None:
    record = _good(
        ingress=[
            {"from": [{"podSelector": {}}]},
            {"from": [{"namespaceSelector": {}}]},
            {"from": [{"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {"matchLabels": {"c": "d"}}}]},
            {"from": [{"namespaceSelector": None, "podSelector": {}}]},
        ]
    )
    assert record.ingress is not None
    assert [rule.peers for rule in record.ingress] == [
        (PodSelector(EVERYTHING, "default"),),
        (PodSelector(EVERYTHING, "", EVERYTHING),),
        (PodSelector(selector({"c": "d"}), "", selector({"a": "b"})),),
        (PodSelector(EVERYTHING, "default"),),
    ]


@pytest.mark.parametrize("absent", [{}, {"from": None, "ports": None}, {"from": [], "ports": []}])
def test_a_rule_without_peers_and_ports_is_for_all(absent: dict[str, Any]) -> None:
    assert _good(ingress=[absent]).ingress == (PolicyRule(),)


def test_ports_blocks_and_expressions_are_read() -> None:
    record = _good(
        podSelector={"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["2", "1"]}]},
        policyTypes=["Egress"],
        egress=[
            {
                "to": [{"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.1.0.0/16"]}}, {"ipBlock": {"cidr": "::/0"}}],
                "ports": [{}, {"port": 80, "endPort": 90, "protocol": "UDP"}, {"port": "http", "protocol": "SCTP"}],
            }
        ],
    )
    assert record.pods == selector(None, (term("a", "NotIn", ("1", "2")),))
    assert record.egress == (
        PolicyRule(
            (IpBlock("10.0.0.0/8", ("10.1.0.0/16",)), IpBlock("::/0")),
            (
                PolicyPort(Protocol.TCP),
                PolicyPort(Protocol.UDP, 80, 90),
                PolicyPort(Protocol.SCTP, "http"),
            ),
        ),
    )


BAD_RULES: list[Any] = [
    {"from": [{}]},
    {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]},
    {"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]},
    {"from": [{"ipBlock": {}}]},
    {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]},
    {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]},
    {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/64"]}}]},
    {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}]},
    {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]},
    {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["1"]}]}}]},
    {"from": [{"podSelector": {"matchLabels": {"": "x"}}}]},
    {"from": [{"podSelector": {"matchLabels": {"a": 5}}}]},
    {"from": "everybody"},
    {"to": [{"podSelector": {}}]},
    {"ports": [{"port": 0}]},
    {"ports": [{"port": 65536}]},
    {"ports": [{"port": -1}]},
    {"ports": [{"port": 80.5}]},
    {"ports": [{"port": "80"}]},
    {"ports": [{"port": ""}]},
    {"ports": [{"port": True}]},
    {"ports": [{"port": 80, "endPort": 79}]},
    {"ports": [{"port": 80, "endPort": 65536}]},
    {"ports": [{"port": "http", "endPort": 90}]},
    {"ports": [{"endPort": 90}]},
    {"ports": [{"protocol": "ICMP"}]},
    {"ports": [{"protocol": "tcp"}]},
    None,
    5,
]


@pytest.mark.parametrize("rule", BAD_RULES, ids=json.dumps)
def test_a_policy_with_a_bad_rule_is_refused_and_still_isolates_its_pods(rule: Any) -> None:
    """Leaving the rule out would close what it allows; taking it as empty would open everything."""
    chosen = {"matchLabels": {"app": "web"}}
    decoded = _policy(podSelector=chosen, ingress=[{"from": [{"podSelector": {}}]}, rule])
    assert decoded.record is None
    assert decoded.rejection is not None
    assert decoded.rejection.reason.startswith("spec.ingress")
    assert decoded.isolating == NetworkPolicy(REF, selector({"app": "web"}), (), None, {}, "u-1")


@pytest.mark.parametrize(
    ("spec", "isolated"),
    [
        ({"policyTypes": ["Egress", "Sideways"]}, (None, ())),
        ({"policyTypes": "Egress"}, ((), None)),
        ({"policyTypes": "Egress", "egress": [{}]}, ((), ())),
        ({"egress": "none"}, ((), ())),
        ({"policyTypes": ["Egress"], "egress": {}}, (None, ())),
    ],
)
def test_a_refused_policy_isolates_in_the_directions_it_states(spec: dict[str, Any], isolated: Any) -> None:
    decoded = _policy(podSelector={}, **spec)
    assert decoded.record is None
    assert decoded.isolating is not None
    assert (decoded.isolating.ingress, decoded.isolating.egress) == isolated


@pytest.mark.parametrize("chosen", [5, [], {"matchLabels": []}, {"matchExpressions": [{"key": "a", "operator": "?"}]}])
def test_a_policy_whose_pods_cannot_be_read_isolates_nobody(chosen: Any) -> None:
    decoded = _policy(podSelector=chosen)
    assert (decoded.record, decoded.isolating) == (None, None)
    assert decoded.problems[0].startswith("spec.podSelector: ")


# --- rubbish ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KUBERNETES_KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"{}", b'{"metadata":{}}', b'{"metadata":{"name":5}}', b"{", b"\xff"]
)
def test_what_has_no_identity_is_garbage(kind: Kind, raw: bytes) -> None:
    with pytest.raises(Garbage):
        decode(kind, raw)


@pytest.mark.parametrize("kind", KUBERNETES_KINDS, ids=lambda kind: kind.__name__)
def test_depth_does_not_break_the_decoder(kind: Kind) -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    raw = b'{"metadata":{"name":"x","namespace":"d"},"spec":' + deep + b"}"
    try:
        decoded = decode(kind, raw)
    except Garbage:
        return
    assert decoded.record is None or kind is Namespace


FIELDS = [
    "address",
    "addressType",
    "addresses",
    "annotations",
    "cidr",
    "clientIP",
    "clusterIP",
    "clusterIPs",
    "conditions",
    "containers",
    "egress",
    "endPort",
    "endpoints",
    "except",
    "externalIPs",
    "externalTrafficPolicy",
    "forZones",
    "from",
    "hints",
    "ingress",
    "ip",
    "ipBlock",
    "ipFamilies",
    "ipMode",
    "key",
    "kind",
    "labels",
    "loadBalancer",
    "loadBalancerSourceRanges",
    "matchExpressions",
    "matchLabels",
    "metadata",
    "name",
    "namespace",
    "namespaceSelector",
    "nodeName",
    "nodePort",
    "operator",
    "phase",
    "podCIDRs",
    "podIP",
    "podIPs",
    "podSelector",
    "policyTypes",
    "port",
    "ports",
    "protocol",
    "ready",
    "sessionAffinity",
    "sessionAffinityConfig",
    "spec",
    "status",
    "taints",
    "targetRef",
    "timeoutSeconds",
    "to",
    "type",
    "uid",
    "values",
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(
        [
            "10.0.0.1",
            "fd00::1",
            "10.0.0.0/8",
            "::/0",
            "TCP",
            "IPv4",
            "IPv6",
            "Ingress",
            "In",
            "ClientIP",
            "None",
            "http",
        ]
    ),
)
JSONISH = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)),
    max_leaves=25,
)


@settings(max_examples=600, deadline=None)
@given(
    kind=st.sampled_from(KUBERNETES_KINDS),
    parts=st.dictionaries(
        st.sampled_from(["spec", "status", "addressType", "ports", "endpoints", "metadata"]), JSONISH
    ),
)
def test_no_object_whatever_breaks_the_decoder(kind: Kind, parts: dict[str, Any]) -> None:
    document = {"metadata": {"name": "web", "namespace": "default"}, **parts}
    try:
        decoded = decode(kind, json.dumps(document).encode())
    except Garbage:
        return
    assert decoded.record is None or type(decoded.record) is kind
    assert decoded.record is None or decoded.record.ref == decoded.ref
    if decoded.record is None and kind is not EndpointSlice:
        assert decoded.rejection is not None
        assert decoded.rejection.reason


@settings(max_examples=300, deadline=None)
@given(rule=JSONISH)
def test_a_refused_policy_never_allows_anything(rule: Any) -> None:
    decoded = _policy(podSelector={}, policyTypes=["Ingress", "Egress"], ingress=[rule], egress=[rule])
    if decoded.record is None:
        assert decoded.isolating is not None
        assert (decoded.isolating.ingress, decoded.isolating.egress) == ((), ())


def test_a_node_with_an_unreadable_pod_range_is_refused_whole_lest_its_range_be_withdrawn() -> None:
    decoded = read(Node, spec={"podCIDRs": ["10.244.1.0/24", "foo"]})
    assert decoded.record is None
    assert decoded.problems == ("spec.podCIDRs[1]: 'foo' has no prefix length",)
