"""What the agent finds out about its host at start."""

from __future__ import annotations

from pathlib import Path

from kuberouterpy.agent import _missing_modules


def test_modules_that_are_neither_loaded_nor_built_in_are_missing(tmp_path: Path) -> None:
    loaded, builtin = tmp_path / "sys", tmp_path / "modules.builtin"
    for name in ("ip_vs", "dummy", "ip_set", "xt_set", "xt_ipvs"):
        (loaded / name).mkdir(parents=True)
    builtin.write_text("kernel/net/netfilter/nf_conntrack.ko\nkernel/net/bridge/br_netfilter.ko\n")
    assert _missing_modules(loaded, builtin) == ["ip_vs_rr", "nf_conntrack_netlink"]


def test_a_host_that_does_not_say_what_is_built_in_is_judged_by_what_is_loaded(tmp_path: Path) -> None:
    assert "ip_vs" in _missing_modules(tmp_path, tmp_path / "absent")
