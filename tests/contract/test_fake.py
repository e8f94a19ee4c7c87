"""The fake passes the contract, and its own rules hold: they are what loop and controllers are tested against."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from kuberouterpy.dataplane import (
    KINDS,
    Chain,
    ChainKey,
    CniConfig,
    CniConfigKey,
    Entry,
    EntryKey,
    FarEnd,
    FarEndKey,
    FouPort,
    FouPortKey,
    Jump,
    JumpKey,
    Link,
    LinkKey,
    LocalAddress,
    LocalAddressKey,
    Neighbor,
    NeighborKey,
    NextHop,
    Object,
    Path,
    PathKey,
    RealServer,
    RealServerKey,
    Route,
    RouteKey,
    RoutePolicy,
    RoutePolicyKey,
    RoutingRule,
    RoutingRuleKey,
    Rule,
    Set,
    SetKey,
    Speaker,
    SpeakerKey,
    Sysctl,
    SysctlKey,
    Table,
    VirtualServer,
    VirtualServerKey,
)
from kuberouterpy.drivers import Driver
from kuberouterpy.drivers.fake import ALWAYS, FakeDriver, FakeKernel, kernel
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.protocol import Protocol
from tests.contract import suite

ADDRESS = {IPV4: "10.0.0.1", IPV6: "fd00::1"}
PREFIX = {IPV4: "10.0.0.0/24", IPV6: "fd00::/64"}


def samples(family: Family) -> tuple[Object, ...]:
    """One or two objects of every kind that has a family."""
    members = Set(SetKey(f"kube-router-members{family.suffix}"), family, "hash:ip")
    inner = Chain(ChainKey(family, Table.FILTER, "KUBE-ROUTER-INNER"), (Rule((), ("ACCEPT",), "all"),))
    outer = Chain(
        ChainKey(family, Table.FILTER, "KUBE-ROUTER-OUTER"),
        (Rule(("-m", "set", "--match-set", members.key.name, "src"), (inner.key.name,)),),
    )
    address = ADDRESS[family]
    server = VirtualServer(VirtualServerKey(family, Protocol.TCP, address, 80))
    return (
        members,
        Entry(EntryKey(members.key.name, address), "a pod"),
        inner,
        outer,
        Jump(JumpKey(family, Table.FILTER, "INPUT", outer.key.name), Rule((), (outer.key.name,))),
        LocalAddress(LocalAddressKey("kube-dummy-if", address, family.host_prefix)),
        server,
        RealServer(RealServerKey(server.key, address, 8080)),
        FouPort(FouPortKey(family, 5555)),
        FarEnd(FarEndKey("kube-dummy-if", address), "02:00:00:00:00:01", address),
        Route(RouteKey(254, PREFIX[family]), (NextHop(address),)),
        RoutingRule(RoutingRuleKey(family, 32764), 77),
        Neighbor(NeighborKey(address), 64512),
        Path(PathKey(PREFIX[family]), address),
    )


ALL: tuple[Object, ...] = (
    Sysctl(SysctlKey("net/ipv4/ip_forward"), "1"),
    Link(LinkKey("kube-dummy-if"), "dummy"),
    CniConfig(CniConfigKey("/etc/cni/net.d/10-kuberouter.conflist"), "kube-bridge", ("10.0.0.0/24",)),
    Speaker(SpeakerKey(), 64512, "10.0.0.1"),
    RoutePolicy(RoutePolicyKey("export"), ()),
    *(value for family in FAMILIES for value in samples(family)),
)


@pytest.fixture
def subject() -> suite.Subject:
    """A fake of all kinds, whose outside is the shared kernel itself."""
    shared = FakeKernel()

    def restart(_: Sequence[Object]) -> Driver:
        return FakeDriver(kernel=shared)

    def outside() -> list[str]:
        return sorted(
            map(str, (*(v for values in shared.objects.values() for v in values.values()), *shared.foreign.values()))
        )

    def foreign() -> None:
        shared.plant(
            Set(SetKey("cali40all"), IPV4, "hash:ip"),
            VirtualServer(VirtualServerKey(IPV4, Protocol.UDP, "9.9.9.9", 53)),
        )

    server = VirtualServer(VirtualServerKey(IPV4, Protocol.TCP, "10.0.0.1", 80))
    return suite.Subject(
        restart=restart,
        samples=ALL,
        outside=outside,
        changes={
            server.key: VirtualServer(server.key, "sh"),
            SetKey("kube-router-members-4"): Set(SetKey("kube-router-members-4"), IPV4, "hash:ip", 131072),
            ALL[0].key: Sysctl(SysctlKey("net/ipv4/ip_forward"), "0"),
        },
        foreign=foreign,
        orphans=(Entry(EntryKey("kube-router-none", "10.0.0.1")), RealServer(RealServerKey(server.key, "10.0.0.9", 1))),
        examples=60,
    )


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


def test_the_drivers_of_one_kernel_cover_every_kind_once() -> None:
    assert sorted(kind.__name__ for driver in kernel() for kind in driver.kinds) == sorted(
        kind.__name__ for kind in KINDS
    )


def filled() -> dict[str, FakeDriver]:
    """All samples in one kernel, by driver name."""
    drivers = kernel()
    for driver in drivers:
        suite.applied(driver, [suite.create(value) for value in ALL if type(value) in driver.kinds])
    return {driver.name: driver for driver in drivers}


def test_rules_hold_across_drivers() -> None:
    drivers = filled()
    members = SetKey("kube-router-members-4")
    answers = suite.outcomes(drivers["ipset"], [suite.delete(Set(members, IPV4, "hash:ip"))])
    assert answers[members].errno == errno.EBUSY  # type: ignore[union-attr]
    assert drivers["ipset"].list()[members]


def test_what_cannot_be_without_its_parent_goes_with_it() -> None:
    drivers = filled()
    server = VirtualServerKey(IPV6, Protocol.TCP, "fd00::1", 80)
    suite.applied(drivers["ipvs"], [suite.delete(VirtualServer(server))])
    assert RealServerKey(server, "fd00::1", 8080) not in drivers["ipvs"].list()
    suite.applied(drivers["gobgp"], [suite.delete(Speaker(SpeakerKey(), 1, ""))])
    assert dict(drivers["gobgp"].list()) == {}
    suite.applied(drivers["links"], [suite.delete(Link(LinkKey("kube-dummy-if"), "dummy"))])
    assert dict(drivers["links"].list()) == {}


def test_a_full_set_takes_no_more() -> None:
    driver = FakeDriver()
    small = Set(SetKey("kube-router-small"), IPV4, "hash:ip", 1)
    first, second = (Entry(EntryKey(small.key.name, f"10.0.0.{n}")) for n in (1, 2))
    answers = suite.outcomes(driver, [suite.create(small), suite.create(first), suite.create(second)])
    assert answers[second.key].errno == errno.ENOSPC  # type: ignore[union-attr]
    assert answers[first.key] is None


def test_a_setting_keeps_its_value_when_deleted() -> None:
    driver = FakeDriver()
    suite.applied(driver, [suite.create(ALL[0]), suite.delete(ALL[0])])
    assert dict(driver.list()) == {}
    assert driver.kernel.values == {"net/ipv4/ip_forward": "1"}


def test_faults_come_as_often_as_asked() -> None:
    driver = FakeDriver()
    link = ALL[1]
    driver.fail(link.key, errno.ENOBUFS, times=2)
    answers = [suite.outcomes(driver, [suite.create(link)])[link.key] for _ in range(3)]
    assert [error.errno if error else 0 for error in answers] == [errno.ENOBUFS, errno.ENOBUFS, 0]
    assert len(driver.attempts) == 3
    assert driver.log == [suite.create(link)]


def test_a_listing_can_fail() -> None:
    driver = FakeDriver()
    driver.fail_list(times=ALWAYS)
    with pytest.raises(DriverError):
        driver.list()
    driver.heal()
    assert dict(driver.list()) == {}


def test_reaching_for_a_foreign_object_is_refused_and_told() -> None:
    driver = FakeDriver()
    theirs = Link(LinkKey("eth0"), "")
    driver.kernel.plant(theirs)
    assert suite.outcomes(driver, [suite.delete(theirs)])[theirs.key].errno == errno.EPERM  # type: ignore[union-attr]
    assert driver.kernel.intrusions == [suite.delete(theirs)]
    assert driver.kernel.get(theirs.key) == theirs
