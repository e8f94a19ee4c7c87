"""Counters of policies out of ``iptables-save --counters``."""

from __future__ import annotations

from kuberouterpy.drivers.policy_counters import Counts, Denied, drops, parse
from kuberouterpy.family import FAMILIES

SAVED = """\
*filter
:KUBE-POD-FW-A - [0:0]
[90:1] -A KUBE-POD-FW-A -m comment --comment "kr:AAAAAAAA ingress of d/a" -j MARK --set-xmark 0x0/0x80010000
[90:1] -A KUBE-POD-FW-A -m comment --comment "kr:AAAAAAAA policy cnp/g" -j KUBE-NWPLCY-G
[4:1] -A KUBE-POD-FW-A -m mark --mark 0x80010000/0x80010000 -j NFLOG --nflog-prefix "in:d/a:cnp/g" --nflog-group 100
[5:300] -A KUBE-POD-FW-A -m mark --mark 0x80010000/0x80010000 -m comment --comment "kr:AAAAAAAA denied" -j DROP
[1:1] -A KUBE-POD-FW-A -m mark --mark 0x10000/0x80010000 -j RETURN
[84:1] -A KUBE-POD-FW-A -j MARK --set-xmark 0x0/0x80010000
[84:1] -A KUBE-POD-FW-A -j KUBE-NWPLCY-P
[84:1] -A KUBE-POD-FW-A -j KUBE-NWPLCY-Q
[64:1] -A KUBE-POD-FW-A -m mark --mark 0x10000/0x10000 -j RETURN
[9:1] -A KUBE-POD-FW-A -m limit --limit 10/sec -j NFLOG --nflog-prefix "in:d/a:p,q" --nflog-group 100
[20:1200] -A KUBE-POD-FW-A -m comment --comment "kr:BBBBBBBB denied by p,q" -j DROP
[30:1] -A KUBE-POD-FW-B -m comment --comment "kr:AAAAAAAA ingress of d/b" -j MARK --set-xmark 0x0/0x10000
[30:1] -A KUBE-POD-FW-B -j KUBE-NWPLCY-T
[2:1] -A KUBE-POD-FW-B -m mark --mark 0x0/0x10000 -m limit --limit 10/sec -j NFLOG --nflog-prefix "audit:in:d/b:t"
[8:1] -A KUBE-POD-FW-B -m mark --mark 0x0/0x10000 -j MARK --set-xmark 0x0/0x10000
[30:1] -A KUBE-POD-FW-B -j MARK --set-xmark 0x0/0x10000
[1:1] -A KUBE-NWPLCY-G -m set --match-set S src -j MARK --set-xmark 0x10000/0x80010000
[5:1] -A KUBE-NWPLCY-G -j MARK --set-xmark 0x80010000/0x80010000
[7:1] -A KUBE-NWPLCY-G -j MARK --set-xmark 0x80000000/0x80010000
[60:1] -A KUBE-NWPLCY-P -m set --match-set S src -j MARK --set-xmark 0x10000/0x10000
[4:1] -A KUBE-NWPLCY-P -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x10000/0x10000
[22:1] -A KUBE-NWPLCY-T -j MARK --set-xmark 0x10000/0x10000
[77:1] -A FORWARD -j DROP
COMMIT
"""


def test_what_each_policy_allowed_and_denied() -> None:
    assert parse(SAVED) == {
        "KUBE-NWPLCY-G": Counts(allowed=1, denied=5),
        "KUBE-NWPLCY-P": Counts(allowed=64, denied=20),
        "KUBE-NWPLCY-Q": Counts(allowed=0, denied=20),
        "KUBE-NWPLCY-T": Counts(allowed=22, denied=8),
    }


def test_each_rule_that_drops_tells_its_chain_and_id() -> None:
    for family in FAMILIES:
        assert drops(SAVED, family) == (
            Denied(family, "KUBE-POD-FW-A", "AAAAAAAA", 5, 300),
            Denied(family, "KUBE-POD-FW-A", "BBBBBBBB", 20, 1200),
        )


def test_nothing_of_ours_counts_nothing() -> None:
    assert parse("*filter\n:FORWARD ACCEPT [0:0]\n[1:2] -A FORWARD -j ACCEPT\nCOMMIT\n") == {}
    assert drops("[1:2] -A FORWARD -j DROP\n", FAMILIES[0]) == ()
