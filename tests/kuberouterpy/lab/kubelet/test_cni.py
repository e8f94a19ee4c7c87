"""The CNI runtime: what plugins are given; and, as root, the real plugins in namespaces of our own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kuberouterpy.lab.kubelet import cni, netns

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/lib/cni/bridge").exists(), reason="needs root and containernetworking-plugins"
)
ATTACHMENT = cni.Attachment(
    "uid", "/run/netns/pod", "/run/netns/node", "/data", capabilities=(("portMappings", [{"hostPort": 1}]),)
)
RANGES = [[{"subnet": "10.244.7.0/24"}], [{"subnet": "fd00:10:244:7::/64"}]]
CONFLIST: dict[str, Any] = {
    "cniVersion": "0.3.1",
    "name": "mynet",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "kube-bridge",
            "isDefaultGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": RANGES},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ],
}


def test_a_plugin_reads_its_own_part_with_the_name_version_and_previous_result() -> None:
    config = cni.plugin_config(CONFLIST, CONFLIST["plugins"][1], ATTACHMENT, {"ips": []})
    assert config == {
        "cniVersion": "0.3.1",
        "name": "mynet",
        "type": "portmap",
        "snat": True,
        "runtimeConfig": {"portMappings": [{"hostPort": 1}]},
        "prevResult": {"ips": []},
    }


def test_capabilities_are_given_only_to_those_who_declare_them() -> None:
    config = cni.plugin_config(CONFLIST, CONFLIST["plugins"][0], ATTACHMENT, None)
    assert "runtimeConfig" not in config
    assert "prevResult" not in config


def test_host_local_counts_per_node_unless_the_list_says_where() -> None:
    plugin = CONFLIST["plugins"][0]
    assert cni.plugin_config(CONFLIST, plugin, ATTACHMENT, None)["ipam"]["dataDir"] == "/data"
    told = {**plugin, "ipam": {**plugin["ipam"], "dataDir": "/own"}}
    assert cni.plugin_config(CONFLIST, told, ATTACHMENT, None)["ipam"]["dataDir"] == "/own"


@pytest.mark.parametrize(
    ("text", "complaint"), [("{", "truncated"), ("[]", "no name"), ('{"name":"a","plugins":[{}]}', "without type")]
)
def test_an_unusable_list_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "10-x.conflist"
    path.write_text(text)
    with pytest.raises(cni.CniError, match=complaint) as raised:
        cni.load(str(path))
    assert str(path) in str(raised.value)


def test_a_single_configuration_is_a_list_of_one(tmp_path: Path) -> None:
    path = tmp_path / "10-x.conf"
    path.write_text('{"cniVersion":"0.3.1","name":"a","type":"bridge"}')
    assert [one["type"] for one in cni.load(str(path))["plugins"]] == ["bridge"]


def test_names_of_pod_namespaces_are_predictable_and_fit_a_file() -> None:
    assert netns.pod_netns("ns", "web-1", "0123abcd-4567-89ab") == "/run/netns/pod-ns-web-1-0123abcd"
    long = [Path(netns.pod_netns("n" * 63, "p" * 252 + end, "0123abcd-4")).name for end in "ab"]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= 255


@pytest.fixture
def node(tmp_path: Path) -> Iterator[str]:
    """A node's namespace, gone afterwards with everything in it."""
    path = f"/run/netns/kubelet-test-{os.getpid()}"
    netns.create(path)
    yield path
    netns.remove(path)


def within(path: str, action: Callable[[], Any]) -> Any:
    """Do something in a namespace in a thread of its own, so that a failure leaves this one where it is."""
    found: list[Any] = []

    def work() -> None:
        netns.enter(path)
        found.append(action())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def links() -> list[str]:
    return sorted(name for _index, name in socket.if_nameindex())


@needs_root
def test_real_plugins_attach_a_pod_in_both_families_and_leave_nothing(node: str, tmp_path: Path) -> None:
    pod = f"{node}-pod"
    attachment = cni.Attachment("uid-1", pod, node, str(tmp_path / "data"), args=(("IgnoreUnknown", "1"),))
    netns.create(pod)
    try:
        result = cni.add(CONFLIST, attachment)
        assert cni.addresses(result) == ["10.244.7.2", "fd00:10:244:7::2"]
        assert within(pod, links) == ["eth0", "lo"]
        assert any(name.startswith("veth") for name in within(node, links))

        def connect() -> list[str]:
            found = []
            for address in cni.addresses(result):
                with socket.create_connection((address, 80), timeout=5) as client:
                    found.append(client.getpeername()[0])
            return found

        listener = within(pod, lambda: socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True))
        with listener:
            assert within(node, connect) == cni.addresses(result)
        cni.delete(CONFLIST, attachment, result)
        assert within(node, links) == ["kube-bridge", "lo"]
        assert [one.name for one in (tmp_path / "data/mynet").iterdir() if one.name[0].isdigit()] == []
    finally:
        netns.remove(pod)


@needs_root
def test_a_plugin_that_refuses_is_quoted(node: str, tmp_path: Path) -> None:
    broken = msgspec.json.decode(msgspec.json.encode(CONFLIST))
    broken["plugins"][0]["ipam"]["ranges"] = [[{"subnet": "10.244.7.0/99"}]]
    with pytest.raises(cni.CniError, match=r"CNI plugin bridge ADD: .*10\.244\.7\.0/99"):
        cni.add(broken, cni.Attachment("uid-2", node, node, str(tmp_path)))


def test_a_plugin_that_is_not_there_is_named_with_the_package(tmp_path: Path) -> None:
    with pytest.raises(cni.CniError, match=r"nothing-of-that-kind: not found in .*containernetworking-plugins"):
        cni.add({"name": "x", "plugins": [{"type": "nothing-of-that-kind"}]}, ATTACHMENT)


def test_portmap_is_started_only_for_pods_with_host_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNI_PATH", str(tmp_path))
    conflist = {**CONFLIST, "plugins": CONFLIST["plugins"][1:]}
    plain = cni.Attachment("uid", "/run/netns/pod", "/run/netns/node", "/data")
    assert cni.add(conflist, plain) == {}
    with pytest.raises(cni.CniError, match="portmap: not found"):
        cni.add(conflist, ATTACHMENT)
