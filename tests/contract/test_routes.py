"""The routes driver on a real kernel; ``ip`` is the judge."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import pytest

from kuberouterpy.dataplane import Key, NextHop, Object, Op, Route, RouteKey, RoutingRule, RoutingRuleKey, Verb
from kuberouterpy.drivers.routes import RoutesDriver
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from tests.contract import suite

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("fabric")]

POD = {IPV4: "10.1.4.0/24", IPV6: "fd00:1:4::/64"}
NODE = {IPV4: ("10.0.0.4", "10.0.0.5"), IPV6: ("fd00::4", "fd00::5")}
OWN = {IPV4: "10.0.0.1", IPV6: "fd00::1"}


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def ip_batch(*lines: str, family: Family = IPV4) -> str:
    """Run several ``ip`` commands in one process: a fork is what costs in the guest."""
    command = ["ip", f"-{family:d}", "-o", "-batch", "-"] if lines and "show" in lines[0] else ["ip", "-batch", "-"]
    return subprocess.run(command, check=True, capture_output=True, text=True, input="\n".join(lines)).stdout


@pytest.fixture
def fabric(netns: object) -> None:
    """Two links with an address of each family, no duplicate address detection."""
    lines = []
    for link, four, six in (("eth0", "10.0.0.1/24", "fd00::1/64"), ("eth1", "10.9.0.1/24", "fd09::1/64")):
        lines += [f"link add {link} type bridge", f"link set {link} up"]
        lines += [f"address add {four} dev {link}", f"address add {six} dev {link} nodad"]
    ip_batch(*lines)


@pytest.fixture
def place() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def driver(place: ExitStack) -> RoutesDriver:
    return place.enter_context(closing(RoutesDriver()))


def route(family: Family, *hops: NextHop, table: int = 254, **fields: str) -> Route:
    chosen = hops or (NextHop(NODE[family][0]),)
    return Route(RouteKey(table, POD[family]), chosen, **fields)


def samples() -> Iterator[Object]:
    for family in FAMILIES:
        one, two = (NextHop(gateway) for gateway in NODE[family])
        host = f"{NODE[family][0]}/{family.host_prefix}"
        yield route(family)
        yield route(family, one, two, table=300)
        yield Route(RouteKey(77, host), (NextHop(link="eth1"),))
        yield Route(
            RouteKey(254, f"{NODE[family][1]}/{family.host_prefix}"), (NextHop(link="eth0"),), source=OWN[family]
        )
        yield Route(RouteKey(78, family.everything), (NextHop(link="lo"),), kind="local")
        yield RoutingRule(RoutingRuleKey(family, 32764, POD[family]), 77)
        yield RoutingRule(RoutingRuleKey(family, 32763, fwmark=0x2001), 78)
        yield RoutingRule(RoutingRuleKey(family, 32763, fwmark=0x50000000, fwmask=0xF001C000), 78)


def changes() -> dict[Key, Object]:
    changed: dict[Key, Object] = {}
    for family in FAMILIES:
        one, two = (NextHop(gateway) for gateway in NODE[family])
        rule = RoutingRule(RoutingRuleKey(family, 32764, POD[family]), 79)
        for value in (route(family, one, two), route(family, two, table=300), rule):
            changed[value.key] = value
    return changed


def outside() -> list[str]:
    shown = "".join(ip_batch("route show table all", "rule show", family=family) for family in FAMILIES)
    return sorted(line for line in shown.replace(" \n\t", " ").splitlines() if " proto kernel " not in line)


@pytest.fixture
def subject(place: ExitStack) -> suite.Subject:
    def restart(wanted: Sequence[Object]) -> RoutesDriver:
        driver = place.enter_context(closing(RoutesDriver()))
        driver.expect(wanted)
        return driver

    def foreign() -> None:
        ip_batch(
            "route add 10.1.4.0/24 via 10.9.0.2 metric 5 proto static",
            "route add 10.1.99.0/24 via 10.9.0.2 proto bird",
            "route add fd00:1:4::/64 via fd09::2 metric 5 proto static",
            "route add 10.1.4.0/24 via 10.9.0.2 table 79",
            "rule add from 10.1.4.0/24 priority 32764 lookup 200",
            "rule add iif eth0 priority 32763 lookup 77",
        )

    return suite.Subject(
        restart,
        tuple(samples()),
        outside,
        changes=changes(),
        foreign=foreign,
        orphans=(Route(RouteKey(254, "10.1.5.0/24"), (NextHop("192.0.2.1"),)),),
        examples=5,
    )


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


def errors(driver: RoutesDriver, verb: Verb, *objects: Object) -> list[tuple[Key, DriverError]]:
    ops = [Op(verb, item.key, None if verb is Verb.DELETE else item) for item in objects]
    return [(op.key, error) for op, error in driver.apply(ops) if error]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gateway_that_no_link_reaches_is_named_and_stops_no_other(driver: RoutesDriver, family: Family) -> None:
    far = {IPV4: "192.0.2.1", IPV6: "2001:db8::1"}[family]
    bad = Route(RouteKey(254, {IPV4: "10.1.5.0/24", IPV6: "fd00:1:5::/64"}[family]), (NextHop(far),))
    ((key, error),) = errors(driver, Verb.CREATE, bad, route(family))
    assert key == bad.key
    assert error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH}
    assert str(error).startswith(f"create route {bad.key.destination} via {far}: ")
    assert driver.list() == {route(family).key: route(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_link_is_named(driver: RoutesDriver, family: Family) -> None:
    ((_, error),) = errors(driver, Verb.CREATE, route(family, NextHop(link="tun-gone")))
    assert str(error) == f"create route {POD[family]} dev tun-gone: no link tun-gone (ENODEV)"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_route_of_another_protocol_is_never_replaced(driver: RoutesDriver, family: Family) -> None:
    gateway = {IPV4: "10.9.0.2", IPV6: "fd09::2"}[family]
    ip(f"-{family:d}", "route", "add", POD[family], "via", gateway, "proto", "static")
    ((_, error),) = errors(driver, Verb.CREATE, route(family))
    assert str(error).endswith("a route of another protocol is there (EEXIST)")
    assert errors(driver, Verb.DELETE, route(family)) == []
    assert gateway in ip(f"-{family:d}", "route", "show", POD[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_next_hops_change_in_place(driver: RoutesDriver, family: Family) -> None:
    one, two = (NextHop(gateway) for gateway in NODE[family])
    for hops in ((one,), (one, two), (two,), (NextHop(link="eth1"),), (one, two)):
        wanted = route(family, *hops)
        assert errors(driver, Verb.UPDATE, wanted) == []
        assert driver.list() == {wanted.key: wanted}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_memoryless_driver_leaves_out_the_link_of_a_gateway(driver: RoutesDriver, family: Family) -> None:
    both = route(family, NextHop(NODE[family][0], "eth0"))
    assert errors(driver, Verb.CREATE, both) == []
    assert driver.list() == {both.key: both}
    with closing(RoutesDriver()) as second:
        assert second.list() == {both.key: route(family)}
        second.expect([both])
        assert second.list() == {both.key: both}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rule_of_kube_router_is_adopted_and_deleted(driver: RoutesDriver, family: Family) -> None:
    rule = RoutingRule(RoutingRuleKey(family, 32764, POD[family]), 77)
    ip(f"-{family:d}", "rule", "add", "from", POD[family], "priority", "32764", "lookup", "77")
    assert driver.list() == {rule.key: rule}
    assert errors(driver, Verb.DELETE, rule) == []
    assert driver.list() == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_kube_router_made_with_ip_route_is_adopted_and_swept_and_nothing_like_it(
    driver: RoutesDriver, family: Family
) -> None:
    alone = f"{NODE[family][0]}/{family.host_prefix}"
    theirs = [
        "local default dev lo table 78",
        f"{alone} dev kube-bridge table 79",
    ]
    foreign = [
        f"{POD[family]} dev eth1 table 78",
        f"local {alone} dev lo table 78",
        f"{NODE[family][1]} dev eth0 table 79",
        f"{POD[family]} dev kube-bridge table 79",
        "local default dev lo table 80",
    ]
    ip_batch("link add kube-bridge type bridge", "link set kube-bridge up")
    for one in (*theirs, *foreign):
        ip(f"-{family:d}", "route", "add", *one.split())
    before = {table: ip(f"-{family:d}", "route", "show", "table", table) for table in ("78", "79", "80")}
    direct = Route(RouteKey(78, family.everything), (NextHop(link="lo"),), kind="local")
    assert driver.list() == {
        direct.key: direct,
        RouteKey(79, alone): Route(RouteKey(79, alone), (NextHop(link="kube-bridge"),)),
    }
    suite.applied(driver, [suite.create(direct)])  # it serves as it stands
    assert ip(f"-{family:d}", "route", "show", "table", "78") == before["78"]
    suite.applied(driver, [Op(Verb.DELETE, key, None) for key in driver.list()])
    assert driver.list() == {}
    after = {table: ip(f"-{family:d}", "route", "show", "table", table) for table in before}
    gone = {(table, line) for table in before for line in {*before[table].splitlines()} - {*after[table].splitlines()}}
    assert sorted((table, line.split()[:3]) for table, line in gone) == [
        ("78", ["local", "default", "dev"]),
        ("79", [NODE[family][0], "dev", "kube-bridge"]),
    ]


def test_five_thousand_routes_come_back(driver: RoutesDriver) -> None:
    routes = [Route(RouteKey(254, f"10.{100 + (n >> 8)}.{n & 255}.0/24"), (NextHop("10.0.0.4"),)) for n in range(5000)]
    assert errors(driver, Verb.CREATE, *routes) == []
    assert driver.list() == {item.key: item for item in routes}
    assert errors(driver, Verb.DELETE, *routes) == []
    assert driver.list() == {}
