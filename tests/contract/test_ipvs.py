"""The IPVS driver on a real kernel; ``ipvsadm`` is the judge of what is there."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import pytest

from kuberouterpy.dataplane import (
    Forward,
    Key,
    Object,
    Op,
    RealServer,
    RealServerKey,
    Verb,
    VirtualServer,
    VirtualServerFlag,
    VirtualServerKey,
)
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.protocol import Protocol
from tests.contract import suite

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns")]

VIP = {IPV4: "10.96.0.10", IPV6: "fd00:96::10"}
POD = {IPV4: "10.1.2.3", IPV6: "fd00:1:2::3"}


@pytest.fixture
def driver() -> Iterator[IpvsDriver]:
    with closing(IpvsDriver(lambda key: True)) as made:
        yield made


@pytest.fixture
def subject() -> Iterator[suite.Subject]:
    with ExitStack() as stack:

        def restart(_: Sequence[Object]) -> IpvsDriver:
            return stack.enter_context(closing(IpvsDriver(lambda key: key.address in VIP.values() or key.fwmark == 77)))

        yield suite.Subject(restart, tuple(samples()), kernel, changes=changes(), foreign=foreign)


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


def samples() -> Iterator[Object]:
    for family in FAMILIES:
        for one in (server(family), server(family, Protocol.UDP, 53, scheduler="lc"), server(family, Protocol.SCTP, 9)):
            yield one
            yield real(one)
            yield real(one, port=8081, weight=0)
        marked = VirtualServer(VirtualServerKey(family, Protocol.TCP, "", 0, fwmark=77), persistence_s=60)
        yield marked
        yield RealServer(RealServerKey(marked.key, POD[family], 0), forward=Forward.TUNNEL)


def changes() -> dict[Key, Object]:
    changed: dict[Key, Object] = {}
    for family in FAMILIES:
        one = server(family, scheduler="sh", flags=VirtualServerFlag.SCHED1, persistence_s=10800)
        changed |= {one.key: one, real(one).key: real(one, weight=0)}
    return changed


def foreign() -> None:
    lines = (
        "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.1.2.3:8080 -m\n-A -f 78 -s wrr\n-A -t [fd00::9]:80 -s rr\n"
    )
    subprocess.run(["ipvsadm", "-R"], check=True, input=lines, text=True)


def server(family: Family = IPV4, protocol: Protocol = Protocol.TCP, port: int = 80, **fields: object) -> VirtualServer:
    return VirtualServer(VirtualServerKey(family, protocol, VIP[family], port), **fields)  # type: ignore[arg-type]


def real(of: VirtualServer, address: str = "", port: int = 8080, **fields: object) -> RealServer:
    return RealServer(RealServerKey(of.key, address or POD[of.key.family], port), **fields)  # type: ignore[arg-type]


def ops(verb: Verb, *objects: Object) -> list[Op]:
    return [Op(verb, item.key, None if verb is Verb.DELETE else item) for item in objects]


def errors(driver: IpvsDriver, wanted: Sequence[Op]) -> list[tuple[Key, DriverError]]:
    outcomes = list(driver.apply(wanted))
    assert [op for op, _ in outcomes] == list(wanted)
    return [(op.key, error) for op, error in outcomes if error is not None]


def create(driver: IpvsDriver, *objects: Object) -> None:
    assert errors(driver, ops(Verb.CREATE, *objects)) == []


def kernel() -> list[str]:
    return sorted(subprocess.run(["ipvsadm", "-Sn"], check=True, capture_output=True, text=True).stdout.splitlines())


def by_key(*objects: Object) -> dict[Key, Object]:
    return {item.key: item for item in objects}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", Protocol)
def test_what_was_created_is_listed_equal(driver: IpvsDriver, family: Family, protocol: Protocol) -> None:
    one = server(family, protocol)
    two = server(family, protocol, 81, scheduler="sh", flags=VirtualServerFlag.SCHED1 | VirtualServerFlag.SCHED2)
    three = server(family, protocol, 82, persistence_s=10800)
    wanted = (one, two, three, real(one), real(one, port=8081, weight=0), real(two, weight=65535))
    create(driver, *wanted)
    assert driver.list() == by_key(*wanted)


def test_ipvsadm_shows_the_same(driver: IpvsDriver) -> None:
    four, six = server(IPV4, persistence_s=60), server(IPV6, Protocol.UDP, scheduler="lc")
    marked = VirtualServer(VirtualServerKey(IPV6, Protocol.TCP, "", 0, fwmark=77))
    create(driver, four, real(four), real(four, "10.1.2.4", weight=0), six, real(six), marked)
    create(driver, RealServer(RealServerKey(marked.key, POD[IPV6], 0), forward=Forward.TUNNEL))
    assert kernel() == [
        "-A -f 77 -6 -s rr",
        "-A -t 10.96.0.10:80 -s rr -p 60",
        "-A -u [fd00:96::10]:80 -s lc",
        "-a -f 77 -6 -r [fd00:1:2::3]:0 -i -w 1 --tun-type ipip",
        "-a -t 10.96.0.10:80 -r 10.1.2.3:8080 -m -w 1",
        "-a -t 10.96.0.10:80 -r 10.1.2.4:8080 -m -w 0",
        "-a -u [fd00:96::10]:80 -r [fd00:1:2::3]:8080 -m -w 1",
    ]


def test_what_ipvsadm_made_is_listed(driver: IpvsDriver) -> None:
    made = "-A -t 10.96.0.10:80 -s wrr\n-a -t 10.96.0.10:80 -r 10.1.2.3:80 -g -w 7\n-A -f 9 -s rr\n-a -f 9 -r 10.1.2.3 -i\n"
    subprocess.run(["ipvsadm", "-R"], check=True, input=made, text=True)
    one = server(scheduler="wrr")
    marked = VirtualServer(VirtualServerKey(IPV4, Protocol.TCP, "", 0, fwmark=9))
    assert driver.list() == by_key(
        one,
        real(one, port=80, weight=7, forward=Forward.ROUTE),
        marked,
        RealServer(RealServerKey(marked.key, POD[IPV4], 0), forward=Forward.TUNNEL),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_creating_what_is_there_sets_it(driver: IpvsDriver, family: Family) -> None:
    before = server(family)
    create(driver, before, real(before))
    after = server(family, scheduler="lc", persistence_s=30)
    drained = real(after, weight=0)
    create(driver, after, drained)
    create(driver, after, drained)
    assert driver.list() == by_key(after, drained)


@pytest.mark.parametrize("family", FAMILIES)
def test_updating_what_is_missing_creates_it(driver: IpvsDriver, family: Family) -> None:
    one = server(family)
    assert errors(driver, ops(Verb.UPDATE, one, real(one))) == []
    assert driver.list() == by_key(one, real(one))


def test_update_changes_scheduler_flags_persistence_weight_and_forward(driver: IpvsDriver) -> None:
    before = server(scheduler="sh", flags=VirtualServerFlag.SCHED2, persistence_s=60)
    create(driver, before, real(before))
    after = server(scheduler="mh", flags=VirtualServerFlag.SCHED1)
    changed = real(after, weight=3, forward=Forward.TUNNEL)
    assert errors(driver, ops(Verb.UPDATE, after, changed)) == []
    assert driver.list() == by_key(after, changed)


@pytest.mark.parametrize("family", FAMILIES)
def test_deleting_what_is_gone_is_success(driver: IpvsDriver, family: Family) -> None:
    one = server(family)
    create(driver, one, real(one))
    # order matters: the virtual server takes its real servers along, then the real server's own deletion finds nothing
    assert errors(driver, ops(Verb.DELETE, one, real(one))) == []
    create(driver, one)
    assert errors(driver, ops(Verb.DELETE, real(one), one, one)) == []
    assert driver.list() == {}


def test_one_failing_operation_does_not_stop_the_others(driver: IpvsDriver) -> None:
    servers = [server(port=port) for port in range(1, 251)]
    servers[120] = server(port=121, scheduler="nonesuch")
    servers[200] = server(port=201, scheduler="tooold")
    failed = errors(driver, ops(Verb.CREATE, *servers))
    assert [key for key, _ in failed] == [servers[120].key, servers[200].key]
    assert str(failed[0][1]) == (
        "create virtual server tcp 10.96.0.10:121: no scheduler nonesuch: modprobe ip_vs_nonesuch (ENOENT)"
    )
    assert set(driver.list()) == {item.key for item in servers} - {key for key, _ in failed}


def test_a_real_server_without_its_virtual_server_says_so(driver: IpvsDriver) -> None:
    for verb in (Verb.CREATE, Verb.UPDATE):
        ((key, error),) = errors(driver, ops(verb, real(server())))
        assert (key, error.errno) == (real(server()).key, errno.ESRCH)
        assert str(error) == f"{verb} real server tcp 10.96.0.10:80 -> 10.1.2.3:8080: no such virtual server (ESRCH)"


def test_what_is_not_ours_is_not_listed() -> None:
    made = "-A -t 10.96.0.10:80 -s wrr\n-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.1.2.3:8080 -m\n"
    subprocess.run(["ipvsadm", "-R"], check=True, input=made, text=True)
    with closing(IpvsDriver(lambda key: key.address == VIP[IPV4])) as driver:
        assert list(driver.list().values()) == [server(scheduler="wrr")]
        assert driver.foreign == {"tcp 192.0.2.1:80": 1}


def test_what_this_driver_made_is_listed_though_its_address_does_not_tell() -> None:
    with closing(IpvsDriver(lambda key: False)) as driver:
        create(driver, server(), real(server()))
        assert driver.list() == by_key(server(), real(server()))
        assert errors(driver, ops(Verb.DELETE, server())) == []
        assert (driver.list(), driver.foreign) == ({}, {})


def test_ten_thousand_endpoints_of_one_service_come_back(driver: IpvsDriver) -> None:
    one = server()
    reals = [real(one, f"10.{n >> 8 & 255}.{n & 255}.1") for n in range(10_000)]
    create(driver, one, *reals)
    assert driver.list() == by_key(one, *reals)


def test_timeouts_are_set_and_zero_keeps_them(driver: IpvsDriver) -> None:
    driver.set_timeouts(tcp_s=900, fin_s=120, udp_s=300)
    driver.set_timeouts(tcp_s=0, fin_s=30, udp_s=0)
    assert driver.timeouts() == (900, 30, 300)


def test_timeouts_that_were_lost_are_set_again_at_the_next_listing(driver: IpvsDriver) -> None:
    driver.set_timeouts(tcp_s=901, fin_s=0, udp_s=301)
    subprocess.run(["ipvsadm", "--set", "7", "8", "9"], check=True)  # as after the module was loaded anew
    driver.list()
    assert driver.timeouts() == (901, 8, 301)
    subprocess.run(["ipvsadm", "--set", "0", "33", "0"], check=True)  # what no flag names is nobody's business
    driver.list()
    assert driver.timeouts() == (901, 33, 301)


def test_statistics_name_every_server(driver: IpvsDriver) -> None:
    one = server()
    create(driver, one, real(one))
    counted = driver.statistics()
    assert set(counted) == {one.key, real(one).key}
    assert set(counted[one.key]) == {0}


def test_check_passes_where_there_is_ipvs(driver: IpvsDriver) -> None:
    driver.check()
    assert kernel() == []
