"""The ipset driver keeps the contract on a real kernel, and its own promises about batches that fail halfway."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence

import pytest

from kuberouterpy.dataplane import Entry, EntryKey, Object, Op, Set, SetKey
from kuberouterpy.drivers import Driver, command
from kuberouterpy.drivers.ipset import TEMPORARY, IpsetDriver
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from tests.contract import suite


def ipset(*words: str, text: str = "") -> str:
    """What the real tool says."""
    return command.demand(["ipset", *words], text=text)


def available() -> bool:
    """Whether this kernel has ipset and we may make a namespace."""
    try:
        with suite.own_namespace():
            ipset("list")
    except (OSError, DriverError):
        return False
    return True


pytestmark = pytest.mark.skipif(not available(), reason="needs root and a kernel with ipset")


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """A clean place for each test."""
    with suite.own_namespace():
        yield


def outside() -> list[str]:
    """All sets and members, without the random word and the size of the table; the kernel's order is that of a hash."""
    return sorted(re.sub(r" (initval|hashsize|bucketsize) \w+", "", line) for line in ipset("save").splitlines())


def samples(family: Family) -> tuple[Object, ...]:
    """Sets of the types in use, with members as ipset prints them."""
    four = family is IPV4
    prefix = "" if four else "inet6:"
    pods = Set(SetKey(f"{prefix}kube-router-local-pods"), family, "hash:ip")
    nets = Set(SetKey(f"{prefix}KUBE-SRC-ABCDEFGHIJKLMNOP"), family, "hash:net", 131072)
    ports = Set(SetKey(f"{prefix}kube-router-svip-prt"), family, "hash:ip,port", timeout_s=0)
    marks = Set(SetKey(f"{prefix}kube-router-marks"), family, "hash:ip,port", marks=True)
    return (
        marks,
        Entry(
            EntryKey(marks.key.name, "10.0.0.1,tcp:80" if four else "fd00::1,tcp:80"), "default/web", mark=0x40000001
        ),
        Entry(EntryKey(marks.key.name, "10.0.0.1,udp:80" if four else "fd00::1,udp:80"), mark=0x4B000001),
        pods,
        Entry(EntryKey(pods.key.name, "10.0.0.1" if four else "fd00::1"), "default/web-7f"),
        Entry(EntryKey(pods.key.name, "10.0.0.2" if four else "fd00:0:0:1::2")),
        nets,
        Entry(EntryKey(nets.key.name, "10.0.0.0/8" if four else "fd00::/8"), "peer it's"),
        Entry(EntryKey(nets.key.name, "10.1.0.0/16" if four else "fd01::/16"), "except: 'a\\b'", nomatch=True),
        Entry(EntryKey(nets.key.name, "10.1.2.3" if four else "fd01::1")),
        Entry(EntryKey(nets.key.name, family.halves[1])),
        ports,
        Entry(EntryKey(ports.key.name, "10.96.0.10,udp:53" if four else "fd96::a,udp:53"), "kube-system/kube-dns"),
        Entry(EntryKey(ports.key.name, "10.96.0.10,sctp:53" if four else "fd96::a,sctp:53")),
        Entry(EntryKey(ports.key.name, "10.96.0.10,tcp:8080" if four else "fd96::a,tcp:8080"), "ünï"),
    )


ALL = samples(IPV4) + samples(IPV6)


def changes() -> dict[object, Object]:
    """Another comment, the other flag, another maximum, another timeout."""
    found: dict[object, Object] = {}
    for value in ALL:
        match value:
            case Entry(key=key, comment=comment, nomatch=nomatch) if "/" in key.member:
                found[key] = Entry(key, comment, not nomatch)
            case Entry(key=key, mark=mark) if mark:
                found[key] = Entry(key, "another mark", mark=mark + 1)
            case Entry(key=key, comment=""):
                found[key] = Entry(key, "now with a comment")
            case Entry(key=key):
                found[key] = Entry(key)
            case Set(key=key, family=family, type="hash:ip"):
                found[key] = Set(key, family, "hash:ip", 200000)
            case Set(key=key, family=family, type="hash:net"):
                found[key] = Set(key, family, "hash:net", 131072, 600)
            case Set(key=key, family=family, type="hash:ip,port", marks=marks):
                found[key] = Set(key, family, "hash:ip,port", 1000, marks=marks)
    return found


def foreign() -> None:
    """Sets of others, one of them as good as ours by name."""
    ipset(
        "restore",
        text="create kube-routers hash:ip\ncreate cali40all-ipam hash:net\ncreate KUBE-CLUSTER-IP hash:ip,port comment\n"
        'add KUBE-CLUSTER-IP 10.96.0.1,tcp:443 comment "theirs"\nadd cali40all-ipam 10.0.0.0/8\n'
        "create TMP-mine hash:ip timeout 60 counters\ncreate inet6:other hash:net family inet6\nadd inet6:other fd00::/8\n",
    )


@pytest.fixture
def subject() -> suite.Subject:
    def restart(_: Sequence[Object]) -> Driver:
        return IpsetDriver()

    return suite.Subject(
        restart=restart,
        samples=ALL,
        outside=outside,
        changes=changes(),  # type: ignore[arg-type]
        foreign=foreign,
        orphans=tuple(
            Entry(EntryKey(f"kube-router-none{family.suffix}", "10.0.0.1" if family is IPV4 else "fd00::1"))
            for family in FAMILIES
        ),
        examples=25,
    )


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


@pytest.mark.kernel
@pytest.mark.parametrize("check", suite.FEW, ids=suite.named)
def test_contract_in_a_guest(subject: suite.Subject, check: suite.Check) -> None:
    """The lab's own kernel is an older one."""
    check(subject)


# --- Batches that fail halfway ----------------------------------------------------------------------------------------


def entry(name: str, n: int, comment: str = "") -> Entry:
    """The n-th address."""
    return Entry(EntryKey(name, f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"), comment)


MEMBERS = Set(SetKey("kube-router-members"), IPV4, "hash:ip")


def test_a_bad_line_loses_nothing_of_its_neighbours() -> None:
    """A member the tool cannot read throws away what ipset had gathered: it is sent again."""
    driver = IpsetDriver()
    good = [entry("kube-router-members", n) for n in range(1, 200)]
    bad = Entry(EntryKey("kube-router-members", "fd00::1"))
    removed = Entry(good[0].key)
    ops = [
        suite.create(MEMBERS),
        *map(suite.create, good),
        suite.delete(removed),
        suite.create(bad),
        suite.create(entry("kube-router-members", 500)),
    ]
    answers = suite.outcomes(driver, ops)
    refused = answers.pop(bad.key)
    assert isinstance(refused, command.CommandError)
    assert refused.errno == errno.EINVAL
    assert "create entry fd00::1 of set kube-router-members" in str(refused)
    assert ">   202 add kube-router-members fd00::1" in refused.context
    assert not any(answers.values())
    assert dict(driver.list()) == suite.as_dict([MEMBERS, *good[1:], entry("kube-router-members", 500)])


def test_a_missing_set_between_two_others_fails_only_its_entries() -> None:
    """ipset loses what it had gathered for the set before when the next one is missing."""
    driver = IpsetDriver()
    suite.applied(driver, [suite.create(MEMBERS)])
    lost = [entry("kube-router-none", n) for n in range(3)]
    good = [entry("kube-router-members", n) for n in range(1, 6)]
    ops = [
        *map(suite.create, good[:3]),
        *map(suite.create, lost),
        *map(suite.create, good[3:]),
        suite.delete(entry("kube-router-none", 7)),
    ]
    answers = suite.outcomes(driver, ops)
    assert [answers[value.key].errno for value in lost] == [errno.ENOENT] * 3  # type: ignore[union-attr]
    assert not any(error for key, error in answers.items() if key not in {value.key for value in lost})
    assert dict(driver.list()) == suite.as_dict([MEMBERS, *good])


def test_a_full_set_refuses_the_rest_and_keeps_what_it_has() -> None:
    driver = IpsetDriver()
    small = Set(MEMBERS.key, IPV4, "hash:ip", 64)
    values = [entry("kube-router-members", n) for n in range(1, 101)]
    other = Set(SetKey("kube-router-other"), IPV4, "hash:ip")
    answers = suite.outcomes(driver, [suite.create(small), *map(suite.create, values), suite.create(other)])
    failed = [error for error in answers.values() if error]
    assert {error.errno for error in failed} == {errno.ENOSPC}
    listed = driver.list()
    assert len([key for key in listed if isinstance(key, EntryKey)]) == 64
    assert len(failed) == 36
    assert other.key in listed


def test_growing_the_maximum_keeps_the_members() -> None:
    driver = IpsetDriver()
    values = [entry("kube-router-members", n, f"pod {n}") for n in range(1, 51)]
    suite.applied(driver, [suite.create(MEMBERS), *map(suite.create, values)])
    grown = Set(MEMBERS.key, IPV4, "hash:ip", 100000)
    suite.applied(driver, [suite.update(grown), suite.create(entry("kube-router-members", 1000))])
    assert dict(driver.list()) == suite.as_dict([grown, *values, entry("kube-router-members", 1000)])
    assert TEMPORARY not in ipset("save")


def test_shrinking_below_the_members_fails_and_leaves_the_set_as_it_was() -> None:
    driver = IpsetDriver()
    values = [entry("kube-router-members", n) for n in range(1, 101)]
    suite.applied(driver, [suite.create(MEMBERS), *map(suite.create, values)])
    before = outside()
    answers = suite.outcomes(driver, [suite.update(Set(MEMBERS.key, IPV4, "hash:ip", 64))])
    assert answers[MEMBERS.key].errno == errno.ENOSPC  # type: ignore[union-attr]
    assert outside() == before


def test_a_set_a_rule_matches_on_cannot_go_but_can_grow() -> None:
    driver = IpsetDriver()
    suite.applied(driver, [suite.create(MEMBERS), suite.create(entry("kube-router-members", 1))])
    command.demand(["iptables", "-A", "INPUT", "-m", "set", "--match-set", "kube-router-members", "src"])
    later = Set(SetKey("kube-router-later"), IPV4, "hash:ip")
    answers = suite.outcomes(driver, [suite.delete(MEMBERS), suite.create(later)])
    assert answers[MEMBERS.key].errno == errno.EBUSY  # type: ignore[union-attr]
    assert "delete set kube-router-members" in str(answers[MEMBERS.key])
    assert answers[later.key] is None
    suite.applied(driver, [suite.update(Set(MEMBERS.key, IPV4, "hash:ip", 200000))])
    assert entry("kube-router-members", 1).key in driver.list()
    retyped = Set(MEMBERS.key, IPV4, "hash:net")
    assert suite.outcomes(driver, [suite.update(retyped)])[MEMBERS.key].errno == errno.EBUSY  # type: ignore[union-attr]
    assert TEMPORARY not in ipset("save")


def test_another_type_replaces_a_set_nothing_matches_on() -> None:
    driver = IpsetDriver()
    suite.applied(driver, [suite.create(MEMBERS), suite.create(entry("kube-router-members", 1))])
    retyped = Set(MEMBERS.key, IPV6, "hash:net")
    suite.applied(driver, [suite.update(retyped)])
    assert dict(driver.list()) == {retyped.key: retyped}


def test_a_set_of_kube_router_without_comments_is_taken_over_with_its_members() -> None:
    ipset(
        "restore",
        text="create kube-router-members hash:ip family inet timeout 0\nadd kube-router-members 10.0.0.1 timeout 0\n",
    )
    driver = IpsetDriver()
    assert driver.list()[MEMBERS.key] != MEMBERS
    assert Set(MEMBERS.key, IPV4, "hash:ip", timeout_s=0) not in driver.list().values()
    suite.applied(driver, [suite.update(MEMBERS), suite.create(entry("kube-router-members", 1, "now a comment"))])
    assert dict(driver.list()) == suite.as_dict([MEMBERS, entry("kube-router-members", 1, "now a comment")])


def test_temporary_sets_left_by_a_crash_are_listed_and_swept() -> None:
    ipset(
        "restore",
        text=f"create TMP-ABCDEFGHIJKLMNOP hash:ip\ncreate {TEMPORARY}ABC hash:ip\nadd {TEMPORARY}ABC 1.1.1.1\n",
    )
    driver = IpsetDriver()
    listed = driver.list()
    assert len(listed) == 3
    suite.applied(driver, [suite.delete(value) for value in reversed(list(listed.values()))])
    assert ipset("save") == ""


def test_comments_that_a_set_cannot_hold_are_altered_and_listed_as_asked() -> None:
    driver = IpsetDriver()
    value = entry("kube-router-members", 1, 'say "hi"\n' + "ü" * 300)
    suite.applied(driver, [suite.create(MEMBERS), suite.create(value)])
    assert driver.list()[value.key] == value
    (line,) = (line for line in ipset("save").splitlines() if line.startswith("add"))
    assert """comment "say 'hi' üü""" in line
    ipset("restore", "-exist", text='add kube-router-members 10.0.0.1 comment "by hand"\n')
    assert driver.list()[value.key] != value


@pytest.mark.parametrize(
    "member", ["example.org", "10.0.0.1 timeout 5", "10.0.0.300", "", "10.0.0.1\ndestroy", "-exist"]
)
def test_what_is_no_address_never_reaches_the_resolver(member: str) -> None:
    bad = Entry(EntryKey("kube-router-members", member))
    driver = IpsetDriver()
    answers = suite.outcomes(
        driver, [suite.create(MEMBERS), suite.create(bad), Op(suite.delete(bad).verb, bad.key, None)]
    )
    assert isinstance(answers[bad.key], DriverError)
    assert answers[bad.key].errno == errno.EINVAL  # type: ignore[union-attr]
    assert dict(driver.list()) == {MEMBERS.key: MEMBERS}


def test_a_hundred_thousand_entries_go_in_at_once() -> None:
    driver = IpsetDriver()
    big = Set(MEMBERS.key, IPV4, "hash:ip", 131072)
    values = [entry("kube-router-members", n, "default/web") for n in range(1, 100_001)]
    suite.applied(driver, [suite.create(big), *map(suite.create, values)])
    assert dict(driver.list()) == suite.as_dict([big, *values])


def test_a_missing_program_is_told() -> None:
    with pytest.raises(DriverError, match="install the package ipset"):
        IpsetDriver(program="/nowhere/ipset").list()
