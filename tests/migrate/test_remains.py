"""What is told to be kube-proxy's, and what it serves, from the text of the kernel's own tools."""

from __future__ import annotations

import pytest

from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.migrate.remains import Chain, Remains, parse, recognise
from kuberouterpy.migrate.servers import compare, from_rules
from tests.migrate import layout
from tests.migrate.layout import BOTH, V4, V6

LINK = {"kube-ipvs0": (f"{V4.vip}/32", f"{V6.vip}/128"), "eth0": ("192.0.2.1/24",)}
SETS = tuple(layout.set_name(f"KUBE-{name}", one) for one in BOTH for name in ("CLUSTER-IP", "LOOP-BACK", "IPVS-IPS"))


def of(form: str, *, sets: tuple[str, ...] = SETS, more: str = "", link: dict[str, tuple[str, ...]] = LINK) -> Remains:
    rules = {one.family: getattr(layout, form)(one) + layout.FOREIGN + more for one in BOTH}
    return recognise(parse(rules), sets, link)


def test_ipvs_mode_is_recognised_with_everything_that_is_its_own() -> None:
    found = of("ipvs_rules")
    assert found.mode == "kube-proxy (ipvs)"
    assert found.addresses == LINK["kube-ipvs0"]
    assert set(found.sets) == set(SETS)
    assert {chain.name for chain in found.chains} == {
        "KUBE-PROXY-CANARY", "KUBE-LOAD-BALANCER", "KUBE-MARK-MASQ", "KUBE-NODE-PORT", "KUBE-POSTROUTING", "KUBE-SERVICES",
        "KUBE-FORWARD", "KUBE-IPVS-FILTER", "KUBE-PROXY-FIREWALL",
    }  # fmt: skip
    assert len(found.jumps) == 2 * 8
    assert found.kept == ()


@pytest.mark.parametrize("form", ["ipvs_rules", "iptables_rules"])
def test_the_kubelets_chains_and_those_of_others_are_not_theirs(form: str) -> None:
    names = {chain.name for chain in of(form).chains}
    assert not names & {"KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "MINE"}


def test_iptables_mode_is_recognised_and_means_virtual_servers() -> None:
    found = of("iptables_rules", sets=(), link={})
    assert found.mode == "kube-proxy (iptables)"
    served = from_rules(parse({one.family: layout.iptables_rules(one) for one in BOTH}))
    assert served == {("tcp", one.vip, 80): frozenset({(one.pod, 8080)}) for one in BOTH}


def test_a_chain_that_somebody_else_uses_stays_with_all_it_needs() -> None:
    more = "*nat\n:MY-CHAIN - [0:0]\n-A MY-CHAIN -j KUBE-SERVICES\nCOMMIT\n"
    found = of("ipvs_rules", more=more)
    kept = {
        Chain(family, "nat", name)
        for family in (4, 6)
        for name in ("KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-NODE-PORT")
    }
    assert not kept & set(found.chains)
    assert "chain KUBE-SERVICES (IPv4 nat): chain MY-CHAIN leads to it" in found.kept
    assert Chain(IPV4, "nat", "KUBE-POSTROUTING") in found.chains
    # What the kept chains match on stays as well.
    assert "KUBE-CLUSTER-IP" not in found.sets
    assert "set KUBE-CLUSTER-IP: a rule of somebody else uses it" in found.kept


def test_names_of_our_own_are_never_theirs() -> None:
    ours = "*filter\n:KUBE-ROUTER-INPUT - [0:0]\n:KUBE-POD-FW-ABCDEFGHIJKLMNOP - [0:0]\n-A INPUT -j KUBE-ROUTER-INPUT\nCOMMIT\n"
    found = recognise(
        parse({IPV4: ours, IPV6: ""}), ("kube-router-local-pods", "KUBE-SRC-ABC", "KUBE-DST-ABC"), {"kube-dummy-if": ()}
    )
    assert found.empty
    assert found.mode == "kube-router"
    assert len(found.kube_router) == 5


def test_a_host_without_any_of_them_is_empty() -> None:
    found = recognise(parse({IPV4: layout.FOREIGN, IPV6: layout.FOREIGN}), ("mine",), {"eth0": ("192.0.2.1/24",)})
    assert found == Remains()
    assert found.mode == ""


def test_two_tables_of_virtual_servers_are_compared_by_who_takes_new_connections() -> None:
    one, two, three = ("tcp", "10.96.0.1", 443), ("udp", "10.96.0.2", 53), ("tcp", "10.96.0.3", 80)
    a, b = ("10.0.0.1", 1), ("10.0.0.2", 2)
    told = compare(
        {one: frozenset({a}), two: frozenset({a})}, {one: frozenset({a}), two: frozenset({b}), three: frozenset()}
    )
    assert told.same == (one,)
    assert told.differ == ((two, (a,), (b,)),)
    assert told.theirs == ()
    assert told.ours == (three,)
    assert not told.equal
    assert compare({one: frozenset({a})}, {one: frozenset({a})}).equal
