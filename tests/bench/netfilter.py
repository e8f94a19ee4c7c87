"""What the ipset and iptables drivers cost beside the plain programs fed with ready text, in a network namespace of its own.

Run as root: ``python -m tests.bench.netfilter``. Prints figures; asserts nothing. Each figure is the best of five; a ratio of
1.0 means that Python adds nothing to the program it starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    Entry,
    EntryKey,
    Jump,
    JumpKey,
    Object,
    Op,
    Rule,
    Set,
    SetKey,
    Table,
    Verb,
)
from kuberouterpy.drivers import Driver, command
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.errors import DriverError
from kuberouterpy.family import IPV4
from tests.contract.suite import own_namespace

ENTRIES = 100_000
CHAINS = 500
RULES = 20
ROUNDS = 5


def best(work: Callable[[], object]) -> float:
    """Return the shortest of several runs, in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        times.append((time.perf_counter() - begun) * 1000)
    return min(times)


def show(name: str, ours: float, plain: float) -> None:
    """Print one line: ours, the plain program, the ratio."""
    print(f"{name:<52} {ours:9.1f} ms {plain:9.1f} ms   x{ours / plain:.2f}")


def applied(driver: Driver, ops: Sequence[Op]) -> None:
    """Apply, and make sure it was done."""
    assert not [error for _, error in driver.apply(ops) if error]


def ipset() -> None:
    """Sets: 100,000 entries in, listed, one more."""
    driver = IpsetDriver()
    pods = Set(SetKey("kube-router-pods"), IPV4, "hash:ip", 131072)
    entries = [
        Entry(EntryKey(pods.key.name, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"), "default/web")
        for n in range(1, ENTRIES)
    ]
    values: list[Object] = [pods, *entries]
    ops = [Op(Verb.CREATE, value.key, value) for value in values]
    header = f"create {pods.key.name} hash:ip family inet maxelem 131072 comment\n"
    text = header + "".join(f'add {pods.key.name} {one.key.member} comment "default/web"\n' for one in entries)
    line = text.splitlines()[1]
    one = [Op(Verb.UPDATE, entries[0].key, entries[0])]

    def restore(lines: str) -> None:
        command.demand(["ipset", "-exist", "restore"], text=lines)

    show(f"ipset: {ENTRIES:,} entries", best(lambda: applied(driver, ops)), best(lambda: restore(text)))
    show("ipset: one entry more", best(lambda: applied(driver, one)), best(lambda: restore(line)))
    show(f"ipset: list {ENTRIES:,}", best(driver.list), best(lambda: command.demand(["ipset", "save"])))


def chains() -> list[Object]:
    """Pod chains, one chain that calls them all, and its jump."""
    pods = [
        Chain(
            ChainKey(IPV4, Table.FILTER, f"KUBE-POD-FW-{n:016}"),
            tuple(
                Rule(
                    ("-s", f"10.{n >> 8}.{n & 255}.{m}/32", "-p", "tcp", "--dport", "80"), ("RETURN",), f"default/p{m}"
                )
                for m in range(RULES)
            ),
        )
        for n in range(CHAINS)
    ]
    top = Chain(
        ChainKey(IPV4, Table.FILTER, "KUBE-ROUTER-FORWARD"),
        tuple(Rule(("-d", f"10.9.{n >> 8}.{n & 255}/32"), (pod.key.name,)) for n, pod in enumerate(pods)),
    )
    jump = Jump(JumpKey(IPV4, Table.FILTER, "FORWARD", top.key.name), Rule((), (top.key.name,)))
    return [*pods, top, jump]


def iptables(variant: str) -> None:
    """Chains: all at once, one of them, listed."""
    driver = IptablesDriver([IPV4], variant=variant)
    values = chains()
    ops = [Op(Verb.CREATE, value.key, value) for value in values]
    applied(driver, ops)
    saved = command.demand([f"iptables-{variant}-save", "-t", "filter"])
    ours = [
        line for line in saved.splitlines() if not line.startswith((":INPUT", ":FORWARD", ":OUTPUT", "-A FORWARD", "#"))
    ]
    some = f"KUBE-POD-FW-{7:016} "
    few = [line for line in ours if (some in line and "FORWARD" not in line) or line in {"*filter", "COMMIT"}]

    def restore(lines: Sequence[str]) -> None:
        command.demand([f"iptables-{variant}-restore", "--noflush", "-w", "5"], text="\n".join((*lines, "")))

    count = CHAINS * (RULES + 1)
    show(
        f"{variant}: {count:,} rules in {CHAINS} chains",
        best(lambda: applied(driver, ops)),
        best(lambda: restore(ours)),
    )
    show(f"{variant}: one chain of {CHAINS}", best(lambda: applied(driver, ops[7:8])), best(lambda: restore(few)))
    show(
        f"{variant}: list {count:,} rules",
        best(driver.list),
        best(lambda: command.demand([f"iptables-{variant}-save"])),
    )
    assert len(driver.list()) == len(values)


def main() -> None:
    """Print every figure this kernel can give."""
    print(f"{'':<52} {'driver':>12} {'program':>12}   ratio")
    with own_namespace():
        ipset()
    for variant in ("legacy", "nft"):
        with own_namespace():
            try:
                iptables(variant)
            except DriverError as error:
                print(f"{variant}: not here: {error}")


if __name__ == "__main__":
    main()
