"""``trace`` against the oracle of NetworkPolicy: its verdict of any packet between pods, or from outside, is the API's."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kuberouterpy import answers, offline
from kuberouterpy.cluster import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Namespace,
    NetworkPolicy,
    Node,
    NodeAddress,
    Pod,
    Record,
    Ref,
    Service,
    ServicePort,
    ServiceType,
)
from kuberouterpy.config import Config
from kuberouterpy.family import FAMILIES, family_of
from kuberouterpy.protocol import Protocol
from tests.oracle.networkpolicy import Flow, Oracle
from tests.properties.test_firewall import clusters

NODES = [
    Node(
        Ref("", f"node-{index}"),
        addresses=(NodeAddress("InternalIP", f"10.0.0.{index + 1}"), NodeAddress("InternalIP", f"fd00::{index + 1}")),
        pod_cidrs=(f"10.1.{index}.0/24", f"fd00:1:{index}::/64"),
    )
    for index in range(3)
]
VIPS = {4: "10.96.0.10", 6: "fd00:96::a"}
PROTOCOLS = ("tcp", "udp", "sctp")


def placed(pod: Pod) -> Pod:
    """Return a pod on the node whose ranges hold its addresses, as nodes have it."""
    index = pod.addresses[0].split(".")[2]
    host = int(pod.addresses[0].rpartition(".")[2])
    return replace(
        pod, node=f"node-{index}", addresses=(pod.addresses[0], str(ip_address(f"fd00:1:{index}::{host:x}")))
    )


def facts_of(records: tuple[Record, ...]) -> tuple[offline.Facts, list[Pod], Oracle]:
    """Return the facts with three nodes and a Service that every living pod serves; the pods; the judge."""
    pods = [placed(one) for one in records if isinstance(one, Pod)]
    living = [pod for pod in pods if not pod.finished and not pod.host_network]
    spaces = [one for one in records if isinstance(one, Namespace)]
    policies = list({one.ref: one for one in records if isinstance(one, NetworkPolicy)}.values())
    ports = tuple(ServicePort(one.value, one, 80) for one in Protocol)
    service = Service(Ref("p", "all"), type=ServiceType.CLUSTER_IP, cluster_ips=tuple(VIPS.values()), ports=ports)
    slices = [
        EndpointSlice(
            Ref("p", f"all-{family:d}"),
            service.ref,
            family,
            tuple(EndpointPort(one.value, one, 80) for one in Protocol),
            tuple(Endpoint(one, pod.node) for pod in living for one in pod.addresses if family_of(one) is family),
        )
        for family in FAMILIES
    ]
    facts = offline.Facts(
        "node-0",
        {Node: NODES, Pod: pods, Namespace: spaces, NetworkPolicy: policies, Service: [service], EndpointSlice: slices},
    )
    return facts, living, Oracle(pods, spaces, policies)


def world(records: tuple[Record, ...]) -> tuple[offline.PlanningLoop, list[Pod], Oracle]:
    """Return a loop over the facts, the pods, the judge."""
    facts, living, oracle = facts_of(records)
    config = Config(node_name="node-0", enable_ipv6=True, service_cluster_ip_range=("10.96.0.0/12", "fd00:96::/112"))
    loop = offline.build(config, facts, offline.links_of(facts))
    return loop, living, oracle


@settings(max_examples=60, deadline=None)
@given(clusters(), st.data())
def test_a_trace_decides_as_the_oracle_does(records: tuple[Record, ...], data: st.DataObject) -> None:
    """Directly and through a Service, whose every endpoint is a way of its own; both families."""
    loop, pods, oracle = world(records)
    if not pods:
        return
    for _ in range(6):
        version = data.draw(st.sampled_from((0, 1)))
        sources = [*(pod.addresses[version] for pod in pods), ("192.0.2.1", "2001:db8::1")[version]]
        source = data.draw(st.sampled_from(sources))
        target = data.draw(st.sampled_from(pods)).addresses[version]
        protocol, port = data.draw(st.sampled_from(PROTOCOLS)), data.draw(st.sampled_from((80, 81, 443)))
        shown = f"[{target}]" if ":" in target else target
        if source != target:
            (one,) = answers.trace(loop, source, f"{shown}:{port}", protocol=protocol).traces
            expected = oracle.allowed(Flow(source, target, protocol, port))
            assert one.verdict == ("reaches" if expected else "denied"), one
            assert not one.doubts

        vip = f"[{VIPS[6]}]:80" if version else f"{VIPS[4]}:80"
        (one,) = answers.trace(loop, source, vip, protocol=protocol).traces
        assert not one.doubts
        assert len(one.ways) == len(pods)
        for way in one.ways:
            address = way.endpoint.rpartition(":")[0].strip("[]")
            here = source.startswith(("10.1.", "fd00:1:"))
            # A client outside is masqueraded: the policy of an endpoint on another node sees this node instead.
            seen = source if here or _on_this_node(pods, address) else ("10.0.0.1", "fd00::1")[version]
            expected = oracle.allowed(Flow(seen, address, protocol, 80))
            assert (way.verdict == "reaches") == expected, (source, way)


def _on_this_node(pods: list[Pod], address: str) -> bool:
    return any(address in pod.addresses and pod.node == "node-0" for pod in pods)
