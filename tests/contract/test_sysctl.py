"""The sysctl driver on a folder that looks like /proc/sys, and on the real one in a network namespace."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from kuberouterpy.dataplane import Object, Op, Sysctl, SysctlKey, Verb
from kuberouterpy.drivers.sysctl import SysctlDriver
from tests.contract import suite

SAMPLES = (
    Sysctl(SysctlKey("net/ipv4/vs/conntrack"), "1", "netfilter must see the flows"),
    Sysctl(SysctlKey("net/ipv4/conf/eth0.100/rp_filter"), "2"),
    Sysctl(SysctlKey("net/ipv4/ip_local_port_range"), "1024 65000"),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for item in SAMPLES:
        path = tmp_path / item.key.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0\n")
    return tmp_path


@pytest.fixture
def subject(root: Path) -> suite.Subject:
    def restart(wanted: Sequence[Object]) -> SysctlDriver:
        driver = SysctlDriver(root)
        driver.expect(wanted)
        return driver

    return suite.Subject(
        restart,
        SAMPLES,
        lambda: [f"{item.key.path}={(root / item.key.path).read_text().strip()}" for item in SAMPLES],
        changes={SAMPLES[0].key: Sysctl(SAMPLES[0].key, "0", SAMPLES[0].reason)},
        orphans=(Sysctl(SysctlKey("net/ipv4/vs/nonesuch"), "1"),),
        delete_leaves_value=True,
    )


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


def errors(driver: SysctlDriver, *wanted: Sysctl) -> list[str]:
    return [str(error) for _, error in driver.apply([Op(Verb.CREATE, item.key, item) for item in wanted]) if error]


@pytest.mark.parametrize(("before", "after"), [("0", "0"), ("1", "2"), ("2", "2")])
def test_what_is_wanted_instead_of_one_value_leaves_every_other(root: Path, before: str, after: str) -> None:
    path = root / SAMPLES[1].key.path
    path.write_text(f"{before}\n")
    wanted = Sysctl(SAMPLES[1].key, "2", instead_of="1")
    driver = SysctlDriver(root)
    driver.expect([wanted])
    assert (wanted.key in driver.list()) == (before == after)
    assert errors(driver, wanted) == []
    assert path.read_text().strip() == after
    assert driver.list() == {wanted.key: wanted}


def test_what_is_already_so_is_not_written(root: Path) -> None:
    path = root / SAMPLES[2].key.path
    path.write_text("1024\t65000\n")
    before = path.stat().st_mtime_ns
    assert errors(SysctlDriver(root), SAMPLES[2]) == []
    assert path.stat().st_mtime_ns == before


def test_an_absent_setting_is_an_error_that_names_it_and_an_absent_optional_one_is_none(root: Path) -> None:
    absent = Sysctl(SysctlKey("net/ipv4/vs/sloppy"), "1")
    optional = Sysctl(SysctlKey("net/bridge/bridge-nf-call-iptables"), "1", optional=True)
    driver = SysctlDriver(root)
    assert errors(driver, absent, optional) == [
        (
            "write '1' to sysctl net/ipv4/vs/sloppy: no such file or directory: "
            "this kernel does not have it, or its module is not loaded (ENOENT)"
        )
    ]
    assert driver.list() == {optional.key: optional}


def test_a_value_changed_by_another_hand_is_listed_as_it_is(root: Path) -> None:
    driver = SysctlDriver(root)
    assert errors(driver, *SAMPLES) == []
    (root / SAMPLES[0].key.path).write_text("7\n")
    assert driver.list()[SAMPLES[0].key] == Sysctl(SAMPLES[0].key, "7", SAMPLES[0].reason)


def test_restore_writes_back_what_was_found_first(root: Path) -> None:
    driver = SysctlDriver(root)
    changed = Sysctl(SAMPLES[0].key, "5")
    assert errors(driver, SAMPLES[0], changed) == []
    assert driver.originals == {SAMPLES[0].key.path: "0"}
    assert list(driver.restore()) == []
    assert (root / SAMPLES[0].key.path).read_text() == "0"


def test_a_restarted_driver_restores_what_stood_before_the_first_one(root: Path, tmp_path: Path) -> None:
    memory = tmp_path / "run" / "sysctls.json"
    assert errors(SysctlDriver(root, memory), SAMPLES[0]) == []
    second = SysctlDriver(root, memory)
    assert errors(second, Sysctl(SAMPLES[0].key, "5"), SAMPLES[2]) == []
    third = SysctlDriver(root, memory)
    assert third.originals == {SAMPLES[0].key.path: "0", SAMPLES[2].key.path: "0"}
    assert list(third.restore()) == []
    assert (root / SAMPLES[0].key.path).read_text() == "0"
    assert not memory.exists()
    assert SysctlDriver(root, memory).originals == {}


def test_a_memory_that_cannot_be_read_or_written_stops_nothing(root: Path, tmp_path: Path) -> None:
    memory = tmp_path / "sysctls.json"
    memory.write_text("{")
    assert SysctlDriver(root, memory).originals == {}
    blocked = memory / "below-a-file"
    assert errors(SysctlDriver(root, blocked), SAMPLES[0]) == []
    assert (root / SAMPLES[0].key.path).read_text() == "1"


def test_a_setting_that_cannot_be_written_is_named() -> None:
    # Even root cannot write here: the kernel made this file read-only.
    fixed = Sysctl(SysctlKey("kernel/ostype"), "Plan 9")
    ((_, error),) = SysctlDriver().apply([Op(Verb.CREATE, fixed.key, fixed)])
    assert error is not None
    assert error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}
    assert str(error).startswith("write 'Plan 9' to sysctl kernel/ostype: ")
    same = Sysctl(SysctlKey("kernel/ostype"), "Linux")
    assert errors(SysctlDriver(), same) == []
