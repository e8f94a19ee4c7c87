"""The CNI driver on files in a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from kuberouterpy.dataplane import CniConfig, CniConfigKey, Object, Op, Verb
from kuberouterpy.drivers.cni import CniDriver
from tests.contract import suite


def config(path: Path, *ranges: str, mtu: int = 1450) -> CniConfig:
    return CniConfig(CniConfigKey(str(path)), "kube-bridge", ranges or ("10.1.2.0/24", "fd00:1:2::/64"), mtu)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.d" / "10-kuberouter.conflist"


@pytest.fixture
def subject(path: Path) -> suite.Subject:
    single = path.with_name("20-single.conf")
    broken = path.with_name("30-broken.conflist")
    broken.parent.mkdir()
    broken.write_text("{")

    def restart(wanted: Sequence[Object]) -> CniDriver:
        driver = CniDriver()
        driver.expect(wanted)
        return driver

    return suite.Subject(
        restart,
        (config(path), config(single)),
        lambda: [f"{file.name}: {file.read_text()}" for file in sorted(path.parent.iterdir())],
        changes={config(path).key: config(path, "10.1.9.0/24", "10.2.0.0/24", mtu=1400)},
        orphans=(config(broken),),
        delete_leaves_value=True,
    )


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


def write(wanted: CniConfig) -> str | None:
    ((_, error),) = CniDriver().apply([Op(Verb.CREATE, wanted.key, wanted)])
    return str(error) if error else None


def test_a_missing_file_is_made_with_bridge_and_portmap(path: Path) -> None:
    assert write(config(path)) is None
    assert json.loads(path.read_text()) == {
        "cniVersion": "1.0.0",
        "name": "kuberouterpy",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "kube-bridge",
                "isDefaultGateway": True,
                "hairpinMode": True,
                "mtu": 1450,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }
    assert path.stat().st_mode & 0o777 == 0o644
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_keys_and_plugins_of_others_stay(path: Path) -> None:
    path.parent.mkdir()
    bandwidth = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    bridge = {"type": "bridge", "bridge": "br0", "promiscMode": True}
    ranges = [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9"}], [{"subnet": "10.9.0.0/24"}]]
    ipam = {"type": "host-local", "routes": [{"dst": "192.0.2.0/24"}], "dataDir": "/run/cni", "ranges": ranges}
    path.write_text(json.dumps({"name": "mine", "x": 1, "plugins": [bandwidth, {**bridge, "ipam": ipam}]}))
    assert write(config(path, mtu=0)) is None
    ipam["ranges"] = [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9"}], [{"subnet": "fd00:1:2::/64"}]]
    assert json.loads(path.read_text()) == {
        "name": "mine",
        "x": 1,
        "plugins": [bandwidth, {**bridge, "bridge": "kube-bridge", "ipam": ipam}],
    }


def test_a_single_range_of_the_old_form_becomes_one_of_the_ranges(path: Path) -> None:
    """host-local would else serve it beside ours."""
    path.parent.mkdir()
    ipam = {"type": "host-local", "subnet": "10.1.2.0/24", "gateway": "10.1.2.1"}
    single = path.with_suffix(".conf")
    single.write_text(json.dumps({"name": "mine", "type": "bridge", "ipam": ipam}))
    assert write(config(single)) is None
    assert json.loads(single.read_text())["ipam"] == {
        "type": "host-local",
        "ranges": [[{"subnet": "10.1.2.0/24", "gateway": "10.1.2.1"}], [{"subnet": "fd00:1:2::/64"}]],
    }


def test_several_ranges_of_one_family_share_a_range_set(path: Path) -> None:
    """Each set gives a pod one address."""
    assert write(config(path, "10.1.2.0/24", "10.1.3.0/24", "fd00:1:2::/64")) is None
    assert json.loads(path.read_text())["plugins"][0]["ipam"]["ranges"] == [
        [{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.3.0/24"}],
        [{"subnet": "fd00:1:2::/64"}],
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "x",\n  "plugins": [}', "not JSON at line 2 column 15: expecting value"),
        ("[]", "not a JSON object"),
        ('{"plugins": [{"type": "macvlan"}]}', "it has no bridge plugin"),
        ('{"plugins": 7}', "it has no bridge plugin"),
        ('{"type": "bridge", "ipam": {"type": "dhcp"}}', "the ipam of its bridge plugin is not host-local"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_an_unusable_file_is_named_and_left_alone(path: Path, text: str, reason: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    assert write(config(path)) == f"read {path}: {reason}"
    assert path.read_text() == text


def test_what_is_already_so_is_not_written(path: Path) -> None:
    assert write(config(path)) is None
    before = path.stat().st_ino
    assert write(config(path)) is None
    assert path.stat().st_ino == before


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "net.d").write_text("a file")
    path = tmp_path / "net.d" / "x.conflist"
    assert write(config(path)) == f"read {path}: not a directory (ENOTDIR)"
