"""What containers are told."""

from __future__ import annotations

from typing import Any

import pytest

from kuberouterpy.lab.kubelet.containers import Facts, argv, environment, expand, port_number, responder_ports
from kuberouterpy.lab.responder import Port

FACTS = Facts(("10.0.0.2", "fd00::2"), ("192.0.2.1",))
POD: dict[str, Any] = {
    "metadata": {"namespace": "ns", "name": "web-1", "uid": "u", "labels": {"app": "web"}},
    "spec": {"nodeName": "node-1"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a $(B) c", "a b c"), ("$$(B)", "$(B)"), ("$(NO)", "$(NO)"), ("$B ${B}", "$B ${B}"), ("$(B)$(B)", "bb")],
)
def test_references_are_expanded_as_the_api_says(text: str, expected: str) -> None:
    assert expand(text, {"B": "b"}) == expected


def test_variables_see_those_before_them_and_the_downward_api() -> None:
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "URL", "value": "http://$(IP)/"},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ]
    found = environment(POD, {"env": env}, FACTS)
    assert [found[name] for name in ("URL", "APP", "IPS", "NODE", "HOSTNAME")] == [
        "http://10.0.0.2/",
        "web",
        "10.0.0.2,fd00::2",
        "node-1",
        "web-1",
    ]


def test_arguments_follow_the_command_and_are_nothing_without_one() -> None:
    assert argv({"command": ["sh", "-c"], "args": ["echo $(A)"]}, {"A": "b"}) == ("sh", "-c", "echo b")
    assert argv({"args": ["netexec"]}, {}) == ()


def test_the_responder_serves_every_container_port_once() -> None:
    ports = [{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]
    assert responder_ports({"ports": ports}) == (Port("TCP", 80), Port("UDP", 53))


def test_probe_ports_may_be_names() -> None:
    container = {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}
    assert [port_number(container, port) for port in ("http", 80, "81")] == [8080, 80, 81]
    with pytest.raises(ValueError, match="no port named 'x'"):
        port_number(container, "x")
