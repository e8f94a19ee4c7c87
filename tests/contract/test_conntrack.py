"""The conntrack driver on a real kernel; ``conntrack`` makes the entries and is the judge of what is left."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import pytest

from kuberouterpy.dataplane import Flows, FlowsKey, Object, Op, Verb, VirtualServer, VirtualServerKey
from kuberouterpy.drivers import conntrack
from kuberouterpy.drivers.conntrack import ConntrackDriver
from kuberouterpy.drivers.netlink import Message
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from kuberouterpy.protocol import Protocol
from tests.contract import suite

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns")]

CLIENT = {IPV4: "10.1.2.3", IPV6: "fd00:1:2::3"}
VIP = {IPV4: "10.96.0.10", IPV6: "fd00:96::10"}
OTHER_VIP = {IPV4: "10.96.0.11", IPV6: "fd00:96::11"}
POD = {IPV4: "10.1.2.9", IPV6: "fd00:1:2::9"}
OLD_POD = {IPV4: "10.1.2.8", IPV6: "fd00:1:2::8"}


@pytest.fixture
def driver() -> Iterator[ConntrackDriver]:
    with closing(ConntrackDriver()) as made:
        yield made


@pytest.fixture
def subject() -> Iterator[suite.Subject]:
    with ExitStack() as stack:
        samples = tuple(
            flows(family, *answering, port=port)
            for family in FAMILIES
            for port, answering in ((53, (POD[family],)), (54, ()))
        )
        servers = [
            VirtualServer(VirtualServerKey(one.key.family, Protocol.UDP, one.key.address, one.key.port))
            for one in samples
        ]

        def restart(_: Sequence[Object]) -> ConntrackDriver:
            return stack.enter_context(closing(ConntrackDriver()))

        yield suite.Subject(restart, samples, table, foreign=foreign, around=tuple(servers))


@pytest.mark.parametrize(
    "check",
    [
        suite.a_clean_place_lists_nothing,
        suite.deleting_what_never_was_succeeds,
        suite.operations_of_one_batch_follow_their_order,
        suite.objects_of_others_are_neither_listed_nor_touched,
    ],
    ids=suite.named,
)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


def foreign() -> None:
    for family in FAMILIES:
        plant(family, OTHER_VIP[family], 53, OTHER_VIP[family])
        plant(family, VIP[family], 80, VIP[family], protocol="tcp")
        plant(family, VIP[family], 5353, VIP[family])


def flows(family: Family, *answering: str, address: str = "", port: int = 53) -> Flows:
    return Flows(FlowsKey(family, Protocol.UDP, address or VIP[family], port), tuple(sorted(answering)))


def plant(
    family: Family,
    address: str,
    port: int,
    answerer: str,
    *,
    sport: int = 4000,
    protocol: str = "udp",
    seen: bool = False,
) -> None:
    """Make the entry of a client that asked an address and is, or is not yet, answered."""
    words = ["conntrack", "-I", "-p", protocol, "-s", CLIENT[family], "-d", address, "--sport", str(sport)]
    words += ["--dport", str(port), "-r", answerer, "-q", CLIENT[family], "--reply-port-src", str(port)]
    words += ["--reply-port-dst", str(sport), "--timeout", "300"]
    words += ["--state", "ESTABLISHED"] if protocol == "tcp" else []
    words += ["-u", "SEEN_REPLY"] if seen else []
    subprocess.run(words, check=True, capture_output=True)


def table() -> list[str]:
    """Return what asks what and who answers, one line an entry."""
    lines: list[str] = []
    for family in ("ipv4", "ipv6"):
        done = subprocess.run(["conntrack", "-L", "-f", family], check=True, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            fields = [
                word.partition("=")[2] for word in line.split() if word.startswith(("src=", "dst=", "sport=", "dport="))
            ]
            lines.append(f"{line.split()[0]} {fields[2]} -> {fields[1]} {fields[3]} by {fields[4]}")
    return sorted(lines)


def ops(verb: Verb, *objects: Flows) -> list[Op]:
    return [Op(verb, one.key, None if verb is Verb.DELETE else one) for one in objects]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_a_wrong_one_answers_is_deleted(driver: ConntrackDriver, family: Family) -> None:
    plant(family, VIP[family], 53, VIP[family], sport=1)  # older than the VIP
    plant(family, VIP[family], 53, OLD_POD[family], sport=2, seen=True)
    plant(family, VIP[family], 53, POD[family], sport=3, seen=True)
    plant(family, VIP[family], 54, VIP[family], sport=4)
    plant(family, OTHER_VIP[family], 53, OTHER_VIP[family], sport=5)
    plant(family, VIP[family], 53, VIP[family], sport=6, protocol="tcp")
    plant(family, POD[family], 53, POD[family], sport=7)
    suite.applied(driver, ops(Verb.CREATE, flows(family, POD[family])))
    vip, pod, other = VIP[family], POD[family], OTHER_VIP[family]
    assert table() == sorted(
        [
            f"udp 3 -> {vip} 53 by {pod}",
            f"udp 4 -> {vip} 54 by {vip}",
            f"udp 5 -> {other} 53 by {other}",
            f"tcp 6 -> {vip} 53 by {vip}",
            f"udp 7 -> {pod} 53 by {pod}",
        ]
    )
    assert driver.deleted == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_an_endpoint_that_goes_takes_its_entries_along_and_one_that_comes_takes_none(
    driver: ConntrackDriver, family: Family
) -> None:
    suite.applied(driver, ops(Verb.CREATE, flows(family, POD[family], OLD_POD[family])))
    plant(family, VIP[family], 53, OLD_POD[family], sport=2, seen=True)
    plant(family, VIP[family], 53, POD[family], sport=3, seen=True)
    suite.applied(driver, ops(Verb.UPDATE, flows(family, POD[family])))
    assert table() == [f"udp 3 -> {VIP[family]} 53 by {POD[family]}"]
    suite.applied(driver, ops(Verb.UPDATE, flows(family, POD[family], OLD_POD[family])))
    assert len(table()) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_first_endpoint_frees_the_flows_that_had_nobody(driver: ConntrackDriver, family: Family) -> None:
    suite.applied(driver, ops(Verb.CREATE, flows(family)))
    plant(family, VIP[family], 53, VIP[family])
    suite.applied(driver, ops(Verb.UPDATE, flows(family, POD[family])))
    assert table() == []


@pytest.mark.parametrize("family", FAMILIES)
def test_deleting_cuts_every_flow_of_the_port(driver: ConntrackDriver, family: Family) -> None:
    wanted = flows(family, POD[family])
    suite.applied(driver, ops(Verb.CREATE, wanted))
    plant(family, VIP[family], 53, POD[family], seen=True)
    plant(family, VIP[family], 54, POD[family], seen=True)
    suite.applied(driver, ops(Verb.DELETE, wanted))
    assert table() == [f"udp 4000 -> {VIP[family]} 54 by {POD[family]}"]
    assert driver.list() == {}


def test_a_restart_looks_once_at_what_it_finds() -> None:
    plant(IPV4, VIP[IPV4], 53, VIP[IPV4])
    with closing(ConntrackDriver()) as driver:
        assert driver.list() == {}
        assert len(table()) == 1
        wanted = flows(IPV4, POD[IPV4])
        suite.applied(driver, ops(Verb.CREATE, wanted))
        assert driver.list() == {wanted.key: wanted}
    assert table() == []


def test_many_objects_cost_one_dump_a_family(driver: ConntrackDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    dump = driver._netlink.dump
    monkeypatch.setattr(driver._netlink, "dump", lambda message: asked.append(message.body) or dump(message))  # type: ignore[func-returns-value]
    for number in range(30):
        plant(IPV4, VIP[IPV4], 1000 + number, VIP[IPV4])
    plant(IPV6, VIP[IPV6], 1000, VIP[IPV6])
    wanted = [flows(family, POD[family], port=1000 + number) for family in FAMILIES for number in range(250)]
    suite.applied(driver, ops(Verb.CREATE, *wanted))
    assert len(asked) == 2
    assert table() == []
    assert driver.deleted == 31


def test_a_thousand_flows_of_one_port_go_at_once(driver: ConntrackDriver) -> None:
    """As conntrack's own batch mode makes them: a process for each would take minutes here."""
    lines = "".join(
        f"-I -p udp -s {CLIENT[IPV4]} -d {VIP[IPV4]} --sport {number} --dport 53 -r {VIP[IPV4]} -q {CLIENT[IPV4]} "
        f"--reply-port-src 53 --reply-port-dst {number} --timeout 300\n"
        for number in range(2000, 2300)
    )
    subprocess.run(["conntrack", "-R", "-"], input=lines, text=True, check=True, capture_output=True)
    assert len(table()) == 300
    suite.applied(driver, ops(Verb.CREATE, flows(IPV4, POD[IPV4])))
    assert (table(), driver.deleted) == ([], 300)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_leaves_out_what_does_not_matter(driver: ConntrackDriver, family: Family) -> None:
    """CTA_FILTER is understood as meant; without it every entry of the family would come."""
    for number in (53, 54):
        plant(family, VIP[family], number, VIP[family])
    narrow = Message(conntrack._GET, 0, conntrack._narrow(flows(family).key))
    assert [conntrack.decode(body).key.port for body in driver._netlink.dump(narrow)] == [53]  # type: ignore[union-attr]


def test_without_filters_the_result_is_the_same(driver: ConntrackDriver) -> None:
    driver._filters = False
    plant(IPV6, VIP[IPV6], 53, VIP[IPV6])
    plant(IPV6, VIP[IPV6], 54, VIP[IPV6])
    suite.applied(driver, ops(Verb.CREATE, flows(IPV6, POD[IPV6])))
    assert table() == [f"udp 4000 -> {VIP[IPV6]} 54 by {VIP[IPV6]}"]
