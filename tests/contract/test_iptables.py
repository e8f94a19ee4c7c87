"""The iptables driver keeps the contract on a real kernel with both variants of the programs, and its own promises."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from functools import cache

import pytest

from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    Jump,
    JumpKey,
    Key,
    Object,
    Op,
    Rule,
    Set,
    SetKey,
    Table,
    Verb,
)
from kuberouterpy.drivers import command
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.errors import DriverError, MissingCapability
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family
from tests.contract import suite

PROGRAM = {IPV4: "iptables", IPV6: "ip6tables"}


@cache
def available(variant: str) -> bool:
    """Whether this kernel knows the variant and we may make a namespace."""
    try:
        with suite.own_namespace():
            for program in PROGRAM.values():
                command.demand([f"{program}-{variant}", "-t", "nat", "-S"])
            command.demand(["ipset", "list"])
    except (OSError, DriverError):
        return False
    return True


@pytest.fixture(params=["legacy", "nft"])
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """A clean place for each variant."""
    if not available(request.param):
        pytest.skip(f"needs root and a kernel with ipset and iptables-{request.param}")
    with suite.own_namespace():
        command.demand(
            ["ipset", "restore"],
            text="".join(f"create {one.key.name} hash:ip family {one.family.ipset}\n" for one in SETS),
        )
        yield request.param


def tables(variant: str, *words: str, family: Family = IPV4) -> str:
    """What the real tool says."""
    return command.demand([f"{PROGRAM[family]}-{variant}", *words])


def restore(variant: str, text: str, *, family: Family = IPV4) -> None:
    """Load rules as another agent would."""
    command.demand([f"{PROGRAM[family]}-{variant}-restore", "--noflush"], text=text)


def outside(variant: str) -> list[str]:
    """Chains of every table, sorted, each with its rules in their order."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for program in PROGRAM.values():
        table = ""
        for line in command.demand([f"{program}-{variant}-save"]).splitlines():
            words = line.split()
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":") and words[1] == "-":
                found.setdefault((program, table, words[0][1:]), []).append("exists")
            elif line.startswith("-A"):
                found.setdefault((program, table, words[1]), []).append(line)
    return [f"{' '.join(place)} {line}" for place in sorted(found) for line in found[place]]


SETS = tuple(Set(SetKey(f"kube-router-svip{family.suffix}"), family, "hash:ip") for family in FAMILIES)


def chain(family: Family, table: Table, name: str, *rules: Rule) -> Chain:
    return Chain(ChainKey(family, table, name), rules)


def jump(family: Family, table: Table, parent: str, name: str, *match: str, first: bool = True, rank: int = 0) -> Jump:
    return Jump(JumpKey(family, table, parent, name), Rule(match, (name,), f"to {name}"), first, rank)


def samples(family: Family) -> tuple[Object, ...]:
    """Chains and jumps of the shapes in use, whose text never comes back as written."""
    four = family is IPV4
    pod = "10.1.0.5" if four else "FD00::5"
    members = f"kube-router-svip{family.suffix}"
    services = chain(
        family,
        Table.FILTER,
        "KUBE-ROUTER-SERVICES",
        Rule(("-p", family.icmp), ("ACCEPT",), "ping"),
        Rule(
            ("-m", "set", "--match-set", members, "dst"),
            ("RETURN",),
            'default/web it\'s "quoted" and ünï\nlong ' + "x" * 300,
        ),
        Rule((), ("REJECT",), "no such port"),
    )
    firewall = chain(
        family,
        Table.FILTER,
        "KUBE-POD-FW-ABCDEFGHIJKLMNOP",
        Rule(("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED"), ("ACCEPT",)),
        Rule(("-m", "addrtype", "--src-type", "LOCAL", "-d", pod), ("ACCEPT",), "from this node"),
        Rule(
            ("-s", pod, "-p", "tcp", "-m", "multiport", "--dports", "80,443,8000:8100"),
            ("MARK", "--set-mark", "0x10000/0x10000"),
        ),
        Rule(
            ("-m", "mark", "!", "--mark", "0x10000/0x10000", "-m", "limit", "--limit", "10/minute"),
            ("NFLOG", "--nflog-group", "100", "--nflog-prefix", "denied by "),
        ),
        Rule(("-m", "mark", "!", "--mark", "0x10000/0x10000"), ("REJECT",)),
        Rule((), ("MARK", "--set-xmark", "0/0x10000")),
        Rule((), ("MARK", "--set-xmark", "0x20000/0x20000")),
    )
    inputs = chain(
        family,
        Table.FILTER,
        "KUBE-ROUTER-INPUT",
        Rule(("-d", pod), (firewall.key.name,), "default/web-7f"),
        Rule(("-m", "physdev", "--physdev-is-bridged", "-d", pod), (firewall.key.name,), "default/web-7f"),
        Rule((), (services.key.name,)),
    )
    hairpin = chain(
        family, Table.NAT, "KUBE-ROUTER-HAIRPIN", Rule(("-s", pod, "-d", pod), ("MASQUERADE",), "default/web")
    )
    dsr = chain(
        family,
        Table.MANGLE,
        "KUBE-ROUTER-DSR",
        Rule(("-d", pod, "-p", "udp", "--dport", "53"), ("MARK", "--set-mark", "77")),
    )
    return (
        services,
        firewall,
        inputs,
        hairpin,
        dsr,
        chain(family, Table.RAW, "KUBE-ROUTER-EMPTY"),
        jump(family, Table.FILTER, "INPUT", "KUBE-ROUTER-SERVICES", "-m", "set", "--match-set", members, "dst", rank=1),
        jump(family, Table.FILTER, "INPUT", "KUBE-ROUTER-INPUT"),
        jump(family, Table.FILTER, "FORWARD", "KUBE-ROUTER-INPUT", first=False),
        jump(family, Table.NAT, "POSTROUTING", "KUBE-ROUTER-HAIRPIN", "!", "-o", "kube-bridge"),
        jump(family, Table.MANGLE, "PREROUTING", "KUBE-ROUTER-DSR", first=False),
        jump(family, Table.RAW, "OUTPUT", "KUBE-ROUTER-EMPTY"),
    )


ALL = samples(IPV4) + samples(IPV6)


def changes() -> dict[Key, Object]:
    """Other rules, no rules, another order, another match."""
    found: dict[Key, Object] = {}
    for value in ALL:
        match value:
            case Chain(key=key, rules=rules) if len(rules) > 3:
                found[key] = Chain(key, tuple(reversed(rules)))
            case Chain(key=key, rules=()):
                found[key] = Chain(key, (Rule((), ("NOTRACK",)),))
            case Chain(key=key) if key.name == "KUBE-ROUTER-INPUT":
                found[key] = Chain(key)
            case Chain(key=key, rules=rules):
                found[key] = Chain(key, (*rules, Rule((), ("RETURN",), "last")))
            case Jump(key=key, rule=rule) if key.table is Table.NAT:
                found[key] = Jump(key, Rule(("-o", "eth0"), rule.target))
            case Jump(key=key, rule=rule) if key.parent == "OUTPUT":
                found[key] = Jump(key, Rule((), rule.target, "another reason"))
    return found


FOREIGN = """*filter
:KUBE-SERVICES - [0:0]
:KUBE-ROUTERS - [0:0]
:cali-INPUT - [0:0]
-A INPUT -m comment --comment "kr:ABCDEFGH -j KUBE-ROUTER-INPUT" -j cali-INPUT
-A INPUT -m comment --comment "a \\"quoted\\" comment" -j KUBE-ROUTERS
-A INPUT -j ACCEPT
-A FORWARD -m comment --comment plain -j KUBE-SERVICES
-A FORWARD
-A KUBE-SERVICES -p tcp -m multiport --dports 1:3 -j RETURN
COMMIT
*nat
:KUBE-POSTROUTING - [0:0]
-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -o lo -j ACCEPT
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
*mangle
-A PREROUTING -p tcp -j MARK --set-mark 1
COMMIT
*raw
-A OUTPUT -o lo -j ACCEPT
COMMIT
"""


def primed(variant: str, wanted: Sequence[Object]) -> IptablesDriver:
    """A driver without memory, told what is wanted."""
    driver = IptablesDriver(variant=variant)
    driver.expect(wanted)
    return driver


@pytest.fixture
def subject(variant: str) -> suite.Subject:
    def foreign() -> None:
        for family in FAMILIES:
            restore(variant, FOREIGN, family=family)

    lost = Rule(("-m", "set", "--match-set", "kube-router-none", "src"), ("ACCEPT",))
    return suite.Subject(
        restart=lambda wanted: primed(variant, wanted),
        samples=ALL,
        outside=lambda: outside(variant),
        changes=changes(),
        foreign=foreign,
        around=SETS,
        orphans=(
            chain(IPV4, Table.FILTER, "KUBE-ROUTER-LOST", lost),
            chain(IPV6, Table.FILTER, "KUBE-ROUTER-LOST", Rule((), ("KUBE-ROUTER-NOWHERE",))),
            jump(IPV4, Table.NAT, "OUTPUT", "KUBE-ROUTER-NOWHERE"),
            jump(IPV6, Table.FILTER, "FORWARD", "KUBE-ROUTER-NOWHERE", first=False),
        ),
        examples=12,
    )


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


@pytest.mark.kernel
@pytest.mark.parametrize("variant", ["legacy"], indirect=True)
@pytest.mark.parametrize("check", suite.FEW, ids=suite.named)
def test_contract_in_a_guest(subject: suite.Subject, check: suite.Check) -> None:
    """The lab's own kernel is an older one and knows only legacy."""
    check(subject)


# --- Drift ------------------------------------------------------------------------------------------------------------

INPUT = chain(
    IPV4, Table.FILTER, "KUBE-ROUTER-INPUT", Rule(("-d", "10.0.0.1"), ("ACCEPT",), "web"), Rule((), ("RETURN",))
)
TO_INPUT = jump(IPV4, Table.FILTER, "INPUT", "KUBE-ROUTER-INPUT")


def test_a_rule_altered_under_its_comment_is_drift_and_is_mended(variant: str) -> None:
    driver = IptablesDriver(variant=variant)
    suite.applied(driver, [suite.create(INPUT)])
    assert dict(driver.list()) == {INPUT.key: INPUT}
    altered = tables(variant, "-S", "KUBE-ROUTER-INPUT").splitlines()[1].replace("10.0.0.1/32", "10.0.0.2/32")
    restore(variant, f"*filter\n{altered.replace('-A KUBE-ROUTER-INPUT', '-R KUBE-ROUTER-INPUT 1')}\nCOMMIT\n")
    listed = driver.list()[INPUT.key]
    assert isinstance(listed, Chain)
    assert listed.rules[0] == Rule(("-d", "10.0.0.2/32"), ("ACCEPT",), "web")
    suite.applied(driver, [suite.update(INPUT)])
    assert dict(driver.list()) == {INPUT.key: INPUT}


@pytest.mark.parametrize("words", ["-A KUBE-ROUTER-INPUT -j ACCEPT", "-F KUBE-ROUTER-INPUT", "-D KUBE-ROUTER-INPUT 1"])
def test_rules_added_or_removed_by_hand_are_drift(variant: str, words: str) -> None:
    driver = IptablesDriver(variant=variant)
    suite.applied(driver, [suite.create(INPUT)])
    tables(variant, *words.split())
    assert driver.list()[INPUT.key] != INPUT
    suite.applied(driver, [suite.update(INPUT)])
    assert driver.list()[INPUT.key] == INPUT


def test_a_driver_that_knows_nothing_lists_rules_in_their_own_words(variant: str) -> None:
    suite.applied(IptablesDriver(variant=variant), [suite.create(INPUT), suite.create(TO_INPUT)])
    rules = (Rule(("-d", "10.0.0.1/32"), ("ACCEPT",), "web"), Rule((), ("RETURN",)))
    assert dict(IptablesDriver(variant=variant).list()) == {INPUT.key: Chain(INPUT.key, rules), TO_INPUT.key: TO_INPUT}


def test_rules_of_others_are_counted_by_their_chain_and_ours_never(variant: str) -> None:
    restore(variant, FOREIGN)
    driver = IptablesDriver(variant=variant)
    suite.applied(driver, [suite.create(INPUT), suite.create(TO_INPUT)])
    assert set(driver.list()) == {INPUT.key, TO_INPUT.key}
    assert driver.foreign == {
        "v4 filter FORWARD": 2,
        "v4 filter INPUT": 3,
        "v4 filter KUBE-SERVICES": 1,
        "v4 mangle PREROUTING": 1,
        "v4 nat KUBE-POSTROUTING": 1,
        "v4 nat POSTROUTING": 2,
        "v4 raw OUTPUT": 1,
    }


# --- Places of jumps --------------------------------------------------------------------------------------------------


def input_rules(variant: str) -> list[str]:
    """Targets in INPUT, in order."""
    return [line.rpartition(" -j ")[2] for line in tables(variant, "-S", "INPUT").splitlines()[1:]]


def test_jumps_stand_before_foreign_rules_in_the_order_of_their_rank(variant: str) -> None:
    tables(variant, "-A", "INPUT", "-j", "ACCEPT")
    chains: list[Object] = [chain(IPV4, Table.FILTER, f"KUBE-ROUTER-{letter}") for letter in "ABCD"]
    jumps: list[Object] = [
        jump(IPV4, Table.FILTER, "INPUT", "KUBE-ROUTER-A", rank=2),
        jump(IPV4, Table.FILTER, "INPUT", "KUBE-ROUTER-B", rank=1),
        jump(IPV4, Table.FILTER, "INPUT", "KUBE-ROUTER-C", first=False),
        jump(IPV4, Table.FILTER, "INPUT", "KUBE-ROUTER-D", rank=1),
    ]
    driver = IptablesDriver(variant=variant)
    suite.applied(driver, [suite.create(value) for value in (*chains, *jumps)])
    assert input_rules(variant) == ["KUBE-ROUTER-B", "KUBE-ROUTER-D", "KUBE-ROUTER-A", "ACCEPT", "KUBE-ROUTER-C"]
    assert dict(driver.list()) == suite.as_dict([*chains, *jumps])
    moved = jump(IPV4, Table.FILTER, "INPUT", "KUBE-ROUTER-A", rank=0)
    suite.applied(driver, [suite.update(moved)])
    assert input_rules(variant)[:3] == ["KUBE-ROUTER-A", "KUBE-ROUTER-B", "KUBE-ROUTER-D"]
    assert driver.list()[moved.key] == moved


def test_a_jump_pushed_back_by_others_is_drift_and_moves_to_the_front_again(variant: str) -> None:
    last = jump(IPV4, Table.FILTER, "INPUT", "KUBE-ROUTER-LAST", first=False)
    driver = IptablesDriver(variant=variant)
    suite.applied(
        driver,
        [suite.create(v) for v in (INPUT, Chain(ChainKey(IPV4, Table.FILTER, "KUBE-ROUTER-LAST")), TO_INPUT, last)],
    )
    tables(variant, "-I", "INPUT", "-j", "ACCEPT")
    tables(variant, "-A", "INPUT", "-j", "DROP")
    listed = driver.list()
    assert listed[TO_INPUT.key] != TO_INPUT
    assert listed[last.key] != last
    suite.applied(driver, [suite.update(TO_INPUT), suite.update(last)])
    assert input_rules(variant) == ["KUBE-ROUTER-INPUT", "ACCEPT", "DROP", "KUBE-ROUTER-LAST"]
    assert driver.list()[TO_INPUT.key] == TO_INPUT


def test_doubled_jumps_become_one(variant: str) -> None:
    driver = IptablesDriver(variant=variant)
    suite.applied(driver, [suite.create(INPUT), suite.create(TO_INPUT)])
    rule = tables(variant, "-S", "INPUT").splitlines()[1]
    restore(variant, f"*filter\n{rule}\n{rule}\nCOMMIT\n")
    assert driver.list()[TO_INPUT.key] != TO_INPUT
    suite.applied(driver, [suite.update(TO_INPUT)])
    assert input_rules(variant) == ["KUBE-ROUTER-INPUT"]
    restore(variant, f"*filter\n{rule}\n{rule}\nCOMMIT\n")
    suite.applied(driver, [suite.delete(TO_INPUT)])
    assert input_rules(variant) == []


def test_jumps_of_kube_router_are_adopted_in_place(variant: str) -> None:
    theirs = '-A INPUT -m comment --comment "kube-router netpol - 4IA2OSFRMVNDXBVV" -j KUBE-ROUTER-INPUT'
    restore(
        variant,
        f"*filter\n:KUBE-ROUTER-INPUT - [0:0]\n{theirs}\n-A INPUT -j ACCEPT\n-A KUBE-ROUTER-INPUT -j DROP\nCOMMIT\n",
    )
    driver = primed(variant, [INPUT, TO_INPUT])
    listed = driver.list()
    assert listed.keys() == {INPUT.key, TO_INPUT.key}
    assert listed[INPUT.key] != INPUT
    assert listed[TO_INPUT.key] != TO_INPUT
    suite.applied(driver, [suite.update(INPUT), suite.update(TO_INPUT)])
    assert input_rules(variant) == ["KUBE-ROUTER-INPUT", "ACCEPT"]
    assert dict(driver.list()) == suite.as_dict([INPUT, TO_INPUT])


# --- Batches that are rejected ----------------------------------------------------------------------------------------


def test_a_bad_rule_fails_its_chain_and_keeps_its_old_content(variant: str) -> None:
    driver = IptablesDriver(variant=variant)
    suite.applied(driver, [suite.create(INPUT), suite.create(TO_INPUT)])
    before = outside(variant)
    bad = Chain(INPUT.key, (Rule(("-p", "tcp"), ("ACCEPT",)), Rule(("--bogus",), ("ACCEPT",))))
    others = [
        chain(family, table, "KUBE-ROUTER-OTHER", Rule((), ("RETURN",))) for family in FAMILIES for table in Table
    ]
    answers = suite.outcomes(driver, [suite.update(bad), *map(suite.create, others)])
    refused = answers.pop(INPUT.key)
    assert isinstance(refused, command.CommandError)
    assert refused.errno == errno.EINVAL
    assert "update chain KUBE-ROUTER-INPUT in filter of ipv4: unknown option" in str(refused)
    assert "--bogus" in refused.context
    assert not any(answers.values())
    assert set(before) < set(outside(variant))
    assert dict(driver.list()) == suite.as_dict([INPUT, TO_INPUT, *others])


def test_rules_only_the_kernel_refuses_are_found_among_many(variant: str) -> None:
    """Legacy then names only the COMMIT of the table: halves find them."""
    masquerade, reset = ("KUBE-POD-FW-00000000000000M", "KUBE-POD-FW-00000000000000R")
    good = [chain(IPV4, Table.FILTER, f"KUBE-POD-FW-{n:016}", Rule((), ("ACCEPT",))) for n in range(20)]
    bad = [
        chain(IPV4, Table.FILTER, masquerade, Rule((), ("MASQUERADE",))),
        chain(IPV4, Table.FILTER, reset, Rule(("-p", "udp"), ("REJECT", "--reject-with", "tcp-reset"))),
    ]
    caller = chain(IPV4, Table.FILTER, "KUBE-ROUTER-INPUT", *(Rule((), (value.key.name,)) for value in good))
    nat = chain(IPV4, Table.NAT, "KUBE-ROUTER-NAT", Rule((), ("MASQUERADE",)))
    values: list[Object] = [caller, *good[:7], bad[0], *good[7:15], bad[1], *good[15:], nat, TO_INPUT]
    driver = IptablesDriver(variant=variant)
    answers = suite.outcomes(driver, list(map(suite.create, values)))
    assert {key for key, error in answers.items() if error} == {value.key for value in bad}
    assert {answers[value.key].errno for value in bad} == {errno.EINVAL}  # type: ignore[union-attr]
    assert dict(driver.list()) == suite.as_dict([caller, *good, nat, TO_INPUT])


def test_many_chains_without_their_set_fail_in_one_go(variant: str) -> None:
    lost = Rule(("-m", "set", "--match-set", "kube-router-none", "src"), ("ACCEPT",))
    bad = [chain(IPV4, Table.FILTER, f"KUBE-NWPLCY-{n:016}", lost) for n in range(50)]
    driver = IptablesDriver(variant=variant)
    answers = suite.outcomes(driver, [*map(suite.create, bad), suite.create(INPUT)])
    assert [answers[value.key].errno for value in bad] == [errno.ENOENT] * 50  # type: ignore[union-attr]
    assert "Set kube-router-none doesn't exist" in str(answers[bad[0].key])
    assert dict(driver.list()) == {INPUT.key: INPUT}


def test_a_chain_that_is_jumped_to_cannot_go(variant: str) -> None:
    driver = IptablesDriver(variant=variant)
    suite.applied(driver, [suite.create(INPUT), suite.create(TO_INPUT)])
    other = chain(IPV4, Table.FILTER, "KUBE-ROUTER-OTHER", Rule((), ("KUBE-ROUTER-INPUT",)))
    suite.applied(driver, [suite.create(other)])
    answers = suite.outcomes(driver, [suite.delete(INPUT), suite.delete(TO_INPUT)])
    assert answers[INPUT.key].errno == errno.EBUSY  # type: ignore[union-attr]
    assert answers[TO_INPUT.key] is None
    assert dict(driver.list()) == suite.as_dict([INPUT, other])
    suite.applied(driver, [suite.delete(INPUT), suite.delete(other)])
    assert dict(driver.list()) == {}


def test_a_chain_is_replaced_and_its_former_target_deleted_in_one_transaction(variant: str) -> None:
    old, new = (chain(IPV4, Table.FILTER, f"KUBE-POD-FW-{word}", Rule((), ("ACCEPT",))) for word in ("OLD", "NEW"))
    caller = chain(IPV4, Table.FILTER, "KUBE-ROUTER-INPUT", Rule((), (old.key.name,)))
    driver = IptablesDriver(variant=variant)
    suite.applied(driver, [suite.create(old), suite.create(caller)])
    flipped = Chain(caller.key, (Rule((), (new.key.name,)),))
    suite.applied(driver, [suite.update(flipped), suite.create(new), suite.delete(old)])
    assert dict(driver.list()) == suite.as_dict([new, flipped])


@pytest.mark.parametrize(
    "value",
    [
        Chain(ChainKey(IPV4, Table.FILTER, "INPUT")),
        Chain(ChainKey(IPV4, Table.FILTER, "KUBE-SERVICES")),
        Chain(ChainKey(IPV4, Table.FILTER, "KUBE-ROUTER-X - [0:0]\n:INPUT")),
        Chain(ChainKey(IPV4, Table.FILTER, "KUBE-ROUTER-X"), (Rule(("-s", "1.1.1.1\nCOMMIT"), ("ACCEPT",)),)),
        jump(IPV4, Table.FILTER, "INPUT", "cali-INPUT"),
        jump(IPV4, Table.FILTER, "KUBE-ROUTER-A", "KUBE-ROUTER-B"),
    ],
    ids=str,
)
def test_chains_of_others_are_never_flushed_whatever_is_asked(variant: str, value: Object) -> None:
    restore(variant, FOREIGN)
    before = outside(variant)
    driver = IptablesDriver(variant=variant)
    for op in (suite.create(value), suite.delete(value)):
        if value.key == ChainKey(IPV4, Table.FILTER, "KUBE-ROUTER-X") and op.verb is Verb.DELETE:
            continue
        assert isinstance(suite.outcomes(driver, [op])[value.key], DriverError)
    assert outside(variant) == before


def test_comments_stay_within_what_nftables_takes(variant: str) -> None:
    value = samples(IPV4)[0]
    suite.applied(IptablesDriver(variant=variant), [suite.create(value)])
    (line,) = (line for line in outside(variant) if "default/web" in line)
    comment = line.partition('--comment "')[2].partition('"')[0]
    assert comment.startswith(f"kr:{value.rules[1].id} default/web it s  quoted  and ünï long xxx")  # type: ignore[union-attr]
    assert 110 < len(comment.encode()) <= 120


def test_a_missing_program_matters_only_for_the_family_that_uses_it(
    variant: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        IptablesDriver,
        "_program",
        lambda self, name: f"/nowhere/{name}" if name[:3] == "ip6" else name.replace("-", f"-{variant}-"),
    )
    driver = IptablesDriver([IPV4])
    six = chain(IPV6, Table.FILTER, "KUBE-ROUTER-SIX")
    answers = suite.outcomes(driver, [suite.create(six), suite.create(INPUT)])
    assert isinstance(answers[six.key], MissingCapability)
    assert answers[INPUT.key] is None
    assert dict(driver.list()) == suite.as_dict([INPUT])
    with pytest.raises(MissingCapability, match="install the package iptables"):
        IptablesDriver(FAMILIES).list()


def test_one_batch_is_one_restore_for_each_family(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    run = command.run

    def counted(argv: Sequence[str], **more: object) -> command.Output:
        started.append(argv[0])
        return run(argv, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "run", counted)
    list(IptablesDriver(variant=variant).apply([Op(Verb.CREATE, value.key, value) for value in ALL]))
    assert sorted(started) == sorted(
        f"{PROGRAM[family]}-{variant}-{word}" for family in FAMILIES for word in ("save", "restore")
    )
