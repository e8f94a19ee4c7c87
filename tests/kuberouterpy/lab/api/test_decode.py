"""Bodies: types, unknown fields, protobuf."""

from __future__ import annotations

from typing import Any

import pytest

from kuberouterpy.lab.api import decode
from kuberouterpy.lab.api.errors import StatusError

PROTOBUF = "application/vnd.kubernetes.protobuf"


def conform(body: dict[str, Any], kind: str = "Service") -> tuple[dict[str, Any], list[str]]:
    conformer = decode.Conformer()
    return conformer.conform(body, f"V1{kind}", kind), conformer.unknown


def test_unknown_fields_and_nulls_go_and_empty_values_stay() -> None:
    body = {"spec": {"podSelector": {}, "ingress": [], "egress": None, "funny": 1}, "extra": True}
    assert conform(body, "NetworkPolicy") == ({"spec": {"podSelector": {}, "ingress": []}}, ["spec.funny", "extra"])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"spec": {"ports": [{"port": "80"}]}}, "cannot unmarshal string into Go struct field Service.spec.ports.port"),
        ({"spec": {"ports": {"port": 80}}}, "cannot unmarshal object"),
        ({"spec": {"selector": {"a": 1}}}, "cannot unmarshal number"),
        ({"spec": {"publishNotReadyAddresses": "yes"}}, "cannot unmarshal string"),
        ({"spec": [1]}, "cannot unmarshal array"),
        ({"metadata": {"labels": {"a": True}}}, "cannot unmarshal bool"),
        ({"metadata": {"deletionTimestamp": "soon"}}, "cannot parse"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(body: dict[str, Any], text: str) -> None:
    with pytest.raises(StatusError) as refusal:
        conform(body)
    assert refusal.value.code == 400
    assert text in refusal.value.message


def test_ports_may_be_numbers_or_names_and_quantities_numbers() -> None:
    assert conform({"spec": {"ports": [{"port": 1, "targetPort": "a"}, {"port": 2, "targetPort": 3}]}})[1] == []
    container = {"name": "c", "resources": {"limits": {"cpu": 2, "memory": "1Gi"}}}
    kept, _ = conform({"spec": {"containers": [container]}}, "Pod")
    assert kept["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def envelope(version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\0" + field(1, field(1, version.encode()) + field(2, kind.encode())) + field(2, raw)


def test_a_service_in_protobuf_reads_as_in_json() -> None:
    meta = field(1, b"web") + field(2, b"") + field(7, 0) + field(8, b"") + field(11, field(1, b"a") + field(2, b"b"))
    port = field(1, b"http") + field(2, b"TCP") + field(3, 80) + field(4, field(1, 1) + field(3, b"web")) + field(5, 0)
    spec = field(1, port) + field(2, field(1, b"app") + field(2, b"x")) + field(4, b"NodePort") + field(20, 0)
    body = envelope("v1", "Service", field(1, meta) + field(2, spec))
    assert decode.body(body, PROTOBUF) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "labels": {"a": "b"}},
        "spec": {
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"}],
            "selector": {"app": "x"},
            "type": "NodePort",
            "allocateLoadBalancerNodePorts": False,
        },
    }


@pytest.mark.parametrize(
    "body",
    [b"", b"junk", b"k8s\0\xff\xff", envelope("v1", "Nope", b""), envelope("v1", "Pod", b"\x0a\xff"), b"k8s\0\x08\x01"],
)
def test_protobuf_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(StatusError) as refusal:
        decode.body(body, PROTOBUF)
    assert refusal.value.code == 400


def test_a_media_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(StatusError) as refusal:
        decode.body(b"{}", "application/cbor")
    assert refusal.value.code == 415
