"""Rows of README.md that no other test shows: what policies mean at their edges, by the rules and by the oracle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kuberouterpy.cluster import IpBlock, Pod, PolicyPort, PolicyRule, Record
from kuberouterpy.labels import EVERYTHING, PodSelector, selector, term
from kuberouterpy.protocol import Protocol
from kuberouterpy.sources.decode import decode
from tests.firewall.world import Cluster, namespace, node, pod, policy, replaced
from tests.oracle.networkpolicy import Flow
from tests.test_tables import named

TESTS = Path(__file__).parent.parent
A, B = ("10.1.0.5", "fd00:1::5"), ("10.1.0.6", "fd00:1::6")
AWAY = ("10.1.1.5", "fd00:1:1::5")
CLIENT, NODE_1 = ("192.0.2.1", "2001:db8::1"), ("10.0.0.2", "fd00::2")
VIPS = IpBlock("10.96.0.0/12"), IpBlock("fd00:96::/108")
BASE: tuple[Record, ...] = (
    namespace("x", team="red"),
    namespace("y", team="blue"),
    node("node-0", "10.0.0.1", "fd00::1"),
    node("node-1", *NODE_1),
    pod("x/a", addresses=A, labels={"app": "a"}),
    pod("x/b", addresses=B, labels={"app": "b"}),
    pod("y/away", node="node-1", addresses=AWAY, labels={"app": "b"}),
)
TEAM_RED = PodSelector(EVERYTHING, namespaces=selector({"team": "red"}))
APP_A = selector({"app": "a"})


def whole(address: str) -> IpBlock:
    return IpBlock(f"{address}/{128 if ':' in address else 32}")


def passes(
    records: tuple[Record, ...], source: tuple[str, str], to: tuple[str, str], *, port: int = 80, vip: bool = False
) -> bool:
    """Return what becomes of a connection in both families: by the rules and by the oracle, which must agree."""
    cluster = Cluster(records)
    found = set()
    for version in (0, 1):
        flow = Flow(source[version], to[version], "tcp", port)
        found |= {cluster.connect(flow, through_vip=vip)[0], cluster.oracle.allowed(flow)}
    (same,) = found
    return same


def test_a_pod_that_reaches_itself_through_its_service_must_be_allowed_to() -> None:
    def with_rule(*peers: PodSelector) -> tuple[Record, ...]:
        rule = (PolicyRule(peers),)
        return (*BASE, policy("x/p", APP_A, ingress=rule, egress=rule))

    assert passes(with_rule(PodSelector(APP_A, "x")), A, A, vip=True)
    assert not passes(with_rule(PodSelector(selector({"app": "b"}), "x")), A, A, vip=True)


def test_a_block_of_vips_allows_nothing_and_a_block_of_the_endpoint_does() -> None:
    def out(*blocks: IpBlock) -> tuple[Record, ...]:
        return (*BASE, policy("x/out", APP_A, egress=(PolicyRule(blocks),)))

    assert not passes(out(*VIPS), A, AWAY, vip=True)
    assert passes(out(*map(whole, AWAY)), A, AWAY, vip=True)


def test_the_port_that_counts_is_the_pods_and_not_the_services() -> None:
    """A Service maps 80 to 8080: when its endpoint is chosen the packet carries 8080."""

    def on(number: int) -> tuple[Record, ...]:
        ports = (PolicyPort(Protocol.TCP, number),)
        return (*BASE, policy("x/in", selector({"app": "b"}), ingress=(PolicyRule((), ports),)))

    assert passes(on(8080), A, B, port=8080, vip=True)
    assert not passes(on(80), A, B, port=8080, vip=True)


def test_an_isolated_pod_reaches_the_api_server_by_a_block_of_its_node_and_port_only() -> None:
    def out(*rules: PolicyRule) -> tuple[Record, ...]:
        return (*BASE, policy("x/out", APP_A, egress=rules))

    of_api = PolicyRule(tuple(map(whole, NODE_1)), (PolicyPort(Protocol.TCP, 6443),))
    for vip in (True, False):
        assert not passes(out(), A, NODE_1, port=6443, vip=vip)
        assert passes(out(of_api), A, NODE_1, port=6443, vip=vip)
        assert not passes(out(of_api), A, NODE_1, port=6444, vip=vip)


def test_a_client_outside_is_let_in_by_its_address_and_not_by_that_of_a_node_that_stands_for_it() -> None:
    """externalTrafficPolicy Local keeps the client; with Cluster the pod's node sees the node that took it in."""
    records = (*BASE, policy("x/in", APP_A, ingress=(PolicyRule(tuple(map(whole, CLIENT))),)))
    assert passes(records, CLIENT, A)
    assert not passes(records, NODE_1, A)


def test_a_pod_of_a_namespace_that_is_not_known_yet_is_let_in_by_nobodys_labels() -> None:
    """NotIn matches where the key is missing: an unknown namespace must not look like one without labels."""
    not_blue = selector({}, (term("team", "NotIn", ("blue",)),))
    rule = PolicyRule((PodSelector(EVERYTHING, namespaces=not_blue),))
    stray = pod("z/stray", addresses=("10.1.0.9", "fd00:1::9"))
    records = (*BASE, stray, policy("x/in", APP_A, ingress=(rule,)))
    assert not passes(records, stray.addresses, A)  # type: ignore[arg-type]
    assert passes((*records, namespace("z")), stray.addresses, A)  # type: ignore[arg-type]


def test_a_namespace_that_comes_back_with_other_labels_is_judged_by_those() -> None:
    """Pods of the old one may linger: they have the labels of the namespace that has their name now, or none."""
    records = (*BASE, policy("y/in", EVERYTHING, ingress=(PolicyRule((TEAM_RED,)),)))
    assert passes(records, A, AWAY)
    assert not passes(tuple(one for one in records if one != BASE[0]), A, AWAY)
    assert not passes(replaced(records, namespace("x", team="green")), A, AWAY)


@pytest.mark.parametrize("phase", ["Running", "Succeeded", "Failed"])
def test_a_pod_that_terminates_is_judged_until_it_has_ended(phase: str) -> None:
    leaving = {
        "metadata": {
            "namespace": "x",
            "name": "b",
            "labels": {"app": "b"},
            "deletionTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": "node-0"},
        "status": {"phase": phase, "podIPs": [{"ip": one} for one in B]},
    }
    record = decode(Pod, json.dumps(leaving).encode(), node_name="node-0").record
    assert isinstance(record, Pod)
    rule = PolicyRule((PodSelector(selector({"app": "b"}), "x"),))
    records = replaced(BASE, record, policy("x/in", APP_A, ingress=(rule,)))
    assert passes(records, B, A) is (phase == "Running")


def test_a_selector_that_excludes_takes_pods_without_the_label() -> None:
    not_b = PodSelector(selector({}, (term("app", "NotIn", ("b",)),)), "x")
    plain = pod("x/plain", addresses=("10.1.0.9", "fd00:1::9"))
    records = (*BASE, plain, policy("x/in", APP_A, ingress=(PolicyRule((not_b,)),)))
    assert passes(records, plain.addresses, A)  # type: ignore[arg-type]
    assert not passes(records, B, A)


# --- the table --------------------------------------------------------------------------------------------------------

_LINE = re.compile(r"^\| (\d+) \|(.*)\|(.*)\|$", re.MULTILINE)
ROWS = {int(number): (words.strip(), shown.strip()) for number, words, shown in _LINE.findall(
    (TESTS / "firewall" / "README.md").read_text()
)}  # fmt: skip


def test_every_row_is_there_once_in_order() -> None:
    assert list(ROWS) == list(range(1, 51))


@pytest.mark.parametrize("row", range(1, 51))
def test_a_row_names_tests_that_exist_or_a_reason(row: int) -> None:
    words, shown = ROWS[row]
    assert words
    found: dict[str, set[str]] = {}
    file = ""
    for path, test in re.findall(r"`(?:([\w/.]+)::)?(test_\w+)`", shown):
        file = path or file
        found.setdefault(file, set()).add(test)
    assert found or shown.startswith("no test: "), row
    assert {test for tests in found.values() for test in tests} == named(shown)
    for path, tests in found.items():
        known: Any = set(re.findall(r"^def (test_\w+)", (TESTS / path).read_text(), re.MULTILINE))
        assert tests <= known, f"{path} has no {tests - known}"
