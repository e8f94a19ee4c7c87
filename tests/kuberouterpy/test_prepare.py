"""What is made ready before the agent runs: modules and CNI plugins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kuberouterpy.errors import ConfigError
from kuberouterpy.prepare import PLUGINS, install_plugins, missing_modules


def test_modules_that_are_neither_loaded_nor_built_in_are_missing(tmp_path: Path) -> None:
    loaded, builtin = tmp_path / "sys", tmp_path / "modules.builtin"
    for name in ("ip_vs", "dummy", "ip_set", "xt_set", "xt_ipvs"):
        (loaded / name).mkdir(parents=True)
    builtin.write_text("kernel/net/netfilter/nf_conntrack.ko\nkernel/net/bridge/br_netfilter.ko\n")
    assert missing_modules(loaded, builtin) == ["ip_vs_rr", "nf_conntrack_netlink"]


def test_a_host_that_does_not_say_what_is_built_in_is_judged_by_what_is_loaded(tmp_path: Path) -> None:
    assert "ip_vs" in missing_modules(tmp_path, tmp_path / "absent")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return plugins(tmp_path / "image", "1")


def plugins(folder: Path, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in PLUGINS:
        (folder / name).write_text(f"{name} {version}")
    return folder


def test_plugins_are_installed_once_and_replaced_only_where_they_are_ours(tmp_path: Path, image: Path) -> None:
    target = tmp_path / "opt"
    target.mkdir()
    (target / "loopback").write_text("another's")
    first = dict(install_plugins(image, target))
    assert first == {"bridge": "installed", "host-local": "installed", "loopback": "left", "portmap": "installed"}
    assert os.access(target / "bridge", os.X_OK)
    assert dict(install_plugins(image, target))["bridge"] == "kept"

    newer = dict(install_plugins(plugins(image, "2"), target))
    assert newer == {"bridge": "replaced", "host-local": "replaced", "loopback": "left", "portmap": "replaced"}
    assert (target / "loopback").read_text() == "another's"
    assert sorted(one.name for one in target.iterdir()) == [".kuberouterpy.json", *sorted(PLUGINS)]


def test_a_plugin_of_ours_that_another_replaced_is_theirs(tmp_path: Path, image: Path) -> None:
    target = tmp_path / "opt"
    target.mkdir()
    list(install_plugins(image, target))
    (target / "bridge").write_text("the distribution's")
    assert dict(install_plugins(plugins(image, "2"), target))["bridge"] == "left"


def test_an_image_without_a_plugin_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent/bridge: no such file or directory"):
        list(install_plugins(tmp_path / "absent", tmp_path))
