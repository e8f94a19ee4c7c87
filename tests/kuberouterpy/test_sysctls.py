"""The table of kernel settings is the only place of them, and holds together."""

from __future__ import annotations

import pytest

from kuberouterpy.dataplane import Sysctl
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.sysctls import REVERSE_PATH, SLOPPY_TCP, TABLE, always
from tests.documents import ROOT


def paths(controller: str, *families: Family) -> set[str]:
    return {one.key.path for one in always(controller, families)}


def test_no_controller_makes_a_setting_of_its_own() -> None:
    files = [path for name in ("proxy", "routing", "firewall") for path in (ROOT / name).rglob("*.py")]
    assert files
    assert [path.name for path in files if "Sysctl(" in path.read_text()] == []


def test_controllers_agree_on_every_value_and_every_row_has_a_reason() -> None:
    values = dict[str, str]()
    for one in TABLE:
        assert values.setdefault(one.path, one.value) == one.value
        assert one.reason
        assert set(one.controllers) <= {"proxy", "routing", "firewall"}
    rows = [(one.path, controller) for one in TABLE for controller in one.controllers]
    assert len(rows) == len(set(rows))


def test_a_family_that_is_not_in_use_is_left_as_it_is() -> None:
    assert paths("routing", IPV4) == {"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"}
    assert paths("routing", IPV6) == {"net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables"}
    assert paths("firewall", *FAMILIES) == {f"net/bridge/bridge-nf-call-{one}" for one in ("iptables", "ip6tables")}
    assert "net/ipv4/vs/conntrack" in paths("proxy", IPV6)  # IPVS has its settings there for both families


def test_only_the_firewall_cannot_do_without_the_bridges_settings() -> None:
    optional = {one.key.path: one.optional for one in always("proxy", FAMILIES)}
    assert optional["net/bridge/bridge-nf-call-iptables"]
    assert not any(one.optional for one in always("firewall", FAMILIES))


def test_settings_under_a_condition_are_asked_for_by_name() -> None:
    conditional = {one.path for one in TABLE if one.when}
    assert not conditional & {*paths("proxy", *FAMILIES), *paths("firewall", *FAMILIES)}
    assert SLOPPY_TCP.sysctl(value="1").value == "1"
    assert REVERSE_PATH.sysctl(link="eth0.100").key.path == "net/ipv4/conf/eth0.100/rp_filter"


@pytest.mark.parametrize(("value", "enough"), [("0", True), ("1", False), ("2", True)])
def test_only_a_strict_filter_is_made_loose(value: str, enough: bool) -> None:
    assert REVERSE_PATH.sysctl(link="eth0").satisfied_by(value) is enough


def test_numbers_are_compared_whatever_separates_them() -> None:
    assert Sysctl(SLOPPY_TCP.sysctl().key, "1024\t65000").satisfied_by("1024 65000")
