"""The way from a pod's address to its network namespace: our client against the lab's own runtime, and real ones' words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kuberouterpy.cri import cri_pb2 as pb
from kuberouterpy.cri.client import CriError, Runtime, _paths
from kuberouterpy.lab.kubelet import cri


class Pod:
    """A sandbox as the lab's kubelet has it."""

    def __init__(self, name: str, netns: str, *own_addresses: str) -> None:
        self.namespace, self.name, self.uid = "default", name, f"uid-{name}"
        self.netns, self.own_addresses = netns, own_addresses


WEB = Pod("web", "/run/netns/web", "10.1.3.4", "fd00:1:3:0::4")
DNS = Pod("dns", "/run/netns/dns", "10.1.3.5")
HOST = Pod("host", "/run/netns/node-1")


@pytest.fixture
def pods() -> list[Pod]:
    return [WEB, HOST]


@pytest.fixture
def socket(tmp_path: Path, pods: list[Pod]) -> Iterator[str]:
    server = cri.serve(f"{tmp_path}/cri.sock", lambda: pods)  # type: ignore[arg-type, return-value]
    yield f"{tmp_path}/cri.sock"
    server.stop(grace=None)


def test_every_address_of_a_pod_leads_to_its_namespace(socket: str, pods: list[Pod]) -> None:
    runtime = Runtime(f"unix://{socket}")
    assert runtime.namespaces() == {"10.1.3.4": ("/run/netns/web",), "fd00:1:3::4": ("/run/netns/web",)}
    pods[:] = [DNS]
    assert runtime.namespaces() == {"10.1.3.5": ("/run/netns/dns",)}


def test_a_runtime_that_is_not_there_is_named_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(CriError, match=r"no container runtime on .*/none.sock; set dsr.enabled in the chart, or name"):
        Runtime(f"{tmp_path}/none.sock").namespaces()


def test_a_socket_of_something_else_is_an_error_not_an_empty_node(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CriError, match="ask the container runtime"):
        Runtime(f"{tmp_path}/file", timeout_s=0.3).namespaces()


@pytest.mark.parametrize(
    ("verbose", "paths"),
    [
        (
            '{"pid":4711,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/var/run/netns/c"}]}}}',
            ["/var/run/netns/c", "/proc/4711/ns/net"],
        ),
        ('{"pid":4711}', ["/proc/4711/ns/net"]),
        ('{"runtimeSpec":{"linux":{"namespaces":[{"type":"network"}]}}}', []),
        ("", []),
        ("[1]", []),
    ],
)
def test_a_pin_counts_before_a_process_and_nonsense_for_nothing(verbose: str, paths: list[str]) -> None:
    assert list(_paths(verbose)) == paths


def test_field_numbers_are_those_of_the_api() -> None:
    reply = pb.PodSandboxStatusResponse(status=pb.PodSandboxStatus(network=pb.PodSandboxNetworkStatus(ip="10.1.3.4")))
    # runtime.v1: PodSandboxStatusResponse.status = 1, PodSandboxStatus.network = 5, PodSandboxNetworkStatus.ip = 1
    assert reply.SerializeToString() == b"\x0a\x0c\x2a\x0a\x0a\x0810.1.3.4"
