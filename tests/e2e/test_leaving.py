"""A load balancer's address from the allocator to an outside router, and a node that leaves: as BIRD and kubectl see it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from kuberouterpy.family import Family
from kuberouterpy.lab.router import CONTROL
from tests.cluster import Lab, eventually, url
from tests.e2e.conftest import Pods
from tests.e2e.objects import NAMESPACE
from tests.e2e.test_overlays import restart
from tests.e2e.test_routes import pod_cidrs
from tests.e2e.test_services import EVERYONE, covers

FLAGS = (
    "--run-loadbalancer",
    "--peer-router-ips=172.30.1.1,fd30:0:0:1::1",
    "--peer-router-asns=64500,64500",
    "--advertise-loadbalancer-ip",
    "--drain-wait=4s",
)
SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {{set: web}}
  ports: [{{port: 80, targetPort: http}}]
"""


def bird(prefix: str) -> dict[str, bool]:
    """Return the next hops the router has for a prefix, each with whether its path says GRACEFUL_SHUTDOWN."""
    words = ["birdc", "-s", CONTROL, "show", "route", "all", "for", prefix]
    text = subprocess.run(words, check=False, capture_output=True, text=True).stdout
    found: dict[str, bool] = {}
    for part in re.split(r"(?=unicast \[)", text)[1:]:
        hop = re.search(r"^\s+via (\S+)", part, re.MULTILINE)
        if hop and f"{prefix} " in text:
            found[hop.group(1)] = "(65535,0)" in part.replace("(65535, 0)", "(65535,0)")
    return found


@pytest.fixture
def balancing(lab: Lab, shared: Pods, unchanged: object) -> Iterator[None]:
    """Agents that allocate, announce to the router, and drain soon."""
    restart(lab, *FLAGS)
    yield
    lab.kubectl("uncordon", "node-1")
    lab.kubectl("delete", "service", "-n", NAMESPACE, "--ignore-not-found", "front", "back")
    eventually(_no_claims, lab)
    restart(lab)


def _claims(lab: Lab) -> set[str]:
    text = lab.kubectl("get", "leases", "-n", "kube-system", "-l", "kube-router.io/balancer=claim", "-o", "json")
    return {one["metadata"]["annotations"]["kube-router.io/address"] for one in json.loads(text)["items"]}


def _no_claims(lab: Lab) -> None:
    assert _claims(lab) == set()


def _serve(lab: Lab, name: str) -> list[str]:
    """Create a Service with kubectl and return its addresses, once it has them."""
    lab.kubectl("apply", "-f", "-", stdin=SERVICE.format(name=name, namespace=NAMESPACE))
    return eventually(_addresses, lab, name)


def _addresses(lab: Lab, name: str) -> list[str]:
    told = lab.kubectl("get", "service", "-n", NAMESPACE, name, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
    found = told.split()
    assert len(found) == len(lab.families), found
    return found


def _announced(lab: Lab, addresses: list[str], nodes: tuple[str, ...], *, leaving: tuple[str, ...] = ()) -> None:
    """Assert who announces addresses to the router, and who of them says that it leaves."""
    for family, address in zip(lab.families, addresses, strict=True):
        wanted = {lab.address(node, family): node in leaving for node in nodes}
        assert bird(f"{address}/{family.host_prefix}") == wanted, address


@pytest.mark.timeout(300)
def test_addresses_are_given_announced_and_withdrawn_gracefully(lab: Lab, shared: Pods, balancing: None) -> None:
    front = _serve(lab, "front")
    assert front == ["198.51.100.1", "2001:db8:1b::1"]
    assert _claims(lab) == set(front)
    assert "198.51.100.1" in lab.kubectl("get", "service", "-n", NAMESPACE, "front")
    eventually(_announced, lab, front, lab.nodes)
    urls = [url(address, 80) for address in front]
    eventually(covers, lab.client, urls, EVERYONE)

    lab.kubectl("cordon", "node-1")
    eventually(_announced, lab, front, lab.nodes, leaving=("node-1",))
    covers(lab.client, urls, EVERYONE)
    lab.kubectl("wait", "--for=condition=kube-router.io/Drained", "node/node-1", "--timeout=60s")
    _announced(lab, front, ("node-2", "node-3"))
    covers(lab.client, urls, EVERYONE)
    for family, cidr in zip(lab.families, pod_cidrs(lab, "node-1"), strict=True):
        assert bird(cidr) == {lab.address("node-1", family): True}, "pods keep their route"
    events = lab.kubectl("get", "events", "-n", "default", "--field-selector", "involvedObject.name=node-1")
    assert "Draining" in events
    assert "Drained" in events
    told = lab.kubectl("get", "node", "node-1", "-o", "json")
    conditions = {one["type"]: one["status"] for one in json.loads(told)["status"]["conditions"]}
    assert (conditions["NetworkUnavailable"], conditions["kube-router.io/Drained"]) == ("False", "True")

    lab.kubectl("uncordon", "node-1")
    eventually(_announced, lab, front, lab.nodes)

    leader = _leader(lab)
    lab.stop_agent(leader)
    back = _serve(lab, "back")
    assert back == ["198.51.100.2", "2001:db8:1b::2"]
    assert _leader(lab) != leader
    lab.start_agent(leader, *FLAGS)
    lab.kubectl("delete", "service", "-n", NAMESPACE, "front")
    eventually(_gone, lab, front)
    eventually(_announced, lab, back, lab.nodes)
    assert _claims(lab) == set(back)


def _leader(lab: Lab) -> str:
    holder = lab.kubectl(
        "get", "lease", "-n", "kube-system", "kube-router-lballoc", "-o", "jsonpath={.spec.holderIdentity}"
    )
    return holder.partition("_")[0]


def _gone(lab: Lab, addresses: list[str]) -> None:
    for family, address in zip(lab.families, addresses, strict=True):
        assert bird(f"{address}/{Family(family).host_prefix}") == {}
    assert not _claims(lab) & set(addresses)
