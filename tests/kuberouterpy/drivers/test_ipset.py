"""Text of ipset, without a kernel."""

from __future__ import annotations

import pytest

from kuberouterpy.dataplane import Entry, EntryKey, Op, Set, SetKey, Verb
from kuberouterpy.drivers import ipset
from kuberouterpy.errors import DriverError
from kuberouterpy.family import IPV4, IPV6

SAVED = """\
create kube-router-svip hash:ip family inet hashsize 1024 maxelem 65536 comment bucketsize 12 initval 0x9b0cbcf5
add kube-router-svip 10.96.0.10 comment "kube-system/kube-dns, nomatch"
add kube-router-svip 10.96.0.11
create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536 comment bucketsize 12 initval 0x1
add KUBE-CLUSTER-IP 10.96.0.1,tcp:443 comment "theirs"
create inet6:KUBE-SRC-ABCDEFGHIJKLMNOP hash:net family inet6 hashsize 64 maxelem 200 timeout 0 comment initval 0x2
add inet6:KUBE-SRC-ABCDEFGHIJKLMNOP fd00::/8 timeout 0 nomatch comment "except"
create kube-router-local-ips hash:ip family inet hashsize 1024 maxelem 65536 timeout 0 bucketsize 12 initval 0x3
create kube-router-counted hash:ip family inet hashsize 1024 maxelem 65536 counters comment
create TMP-ABCDEFGHIJKLMNOP hash:ip family inet hashsize 1024 maxelem 65536 comment
create kube-router-short hash:ip,port family inet hashsize 1024 maxelem 65536 comment skbinfo bucketsize 12 initval 0x4
add kube-router-short 10.0.0.1,tcp:30080 comment "default/web" skbmark 0x40007530
add kube-router-short 10.0.0.1,tcp:30081 skbmark 0x40007531/0xffff0000
create TMP-mine hash:ip family inet hashsize 1024 maxelem 65536 comment
"""

LISTED = """\
Name: kube-router-svip
Type: hash:ip
Revision: 6
Header: family inet hashsize 1024 maxelem 65536 timeout 600 comment bucketsize 12 initval 0xd3b20fab
Size in memory: 296
References: 1
Number of entries: 1

Name: a
Type: bitmap:port
Revision: 3
Header: range 0-65535
Size in memory: 524432
References: 0
Number of entries: 0
"""


def test_only_our_sets_are_read_and_those_we_would_not_create_so_differ() -> None:
    assert list(dict(ipset.parse(SAVED)).values()) == [
        Set(SetKey("kube-router-svip"), IPV4, "hash:ip"),
        Entry(EntryKey("kube-router-svip", "10.96.0.10"), "kube-system/kube-dns, nomatch"),
        Entry(EntryKey("kube-router-svip", "10.96.0.11")),
        Set(SetKey("inet6:KUBE-SRC-ABCDEFGHIJKLMNOP"), IPV6, "hash:net", 200, 0),
        Entry(EntryKey("inet6:KUBE-SRC-ABCDEFGHIJKLMNOP", "fd00::/8"), "except", nomatch=True),
        Set(SetKey("kube-router-local-ips"), IPV4, "hash:ip", 0, 0),
        Set(SetKey("kube-router-counted"), IPV4, "hash:ip", 0),
        Set(SetKey("TMP-ABCDEFGHIJKLMNOP"), IPV4, "hash:ip"),
        Set(SetKey("kube-router-short"), IPV4, "hash:ip,port", marks=True),
        Entry(EntryKey("kube-router-short", "10.0.0.1,tcp:30080"), "default/web", mark=0x40007530),
        Entry(EntryKey("kube-router-short", "10.0.0.1,tcp:30081"), mark=0x40007531),
    ]


def test_headers_of_all_sets_are_read() -> None:
    headers = dict(ipset.parse_headers(LISTED))
    assert headers == {
        "kube-router-svip": ipset.header_of(Set(SetKey("kube-router-svip"), IPV4, "hash:ip", timeout_s=600)),
        "a": ipset.Header("bitmap:port", "inet", 0, None, marks=False, plain=False),
    }


@pytest.mark.parametrize("comment", ["plain", 'say "hi"', "two\nlines", "ü" * 300, "x" * 256, "\x00"])
def test_comments_are_altered_until_a_set_can_hold_them(comment: str) -> None:
    text = ipset.clean(comment)
    assert len(text.encode()) <= ipset.COMMENT_LIMIT
    assert text.isprintable()
    assert '"' not in text
    assert ipset.clean(text) == text


@pytest.mark.parametrize(
    "key",
    [
        SetKey("x" * 32),
        SetKey("two words"),
        SetKey(""),
        EntryKey("kube-router-a", "fd00::1\nflush"),
        EntryKey("a b", "10.0.0.1"),
    ],
    ids=str,
)
def test_what_would_change_the_meaning_of_a_line_is_refused(key: SetKey | EntryKey) -> None:
    with pytest.raises(DriverError, match="not the text of a set or member"):
        ipset.check(Op(Verb.DELETE, key, None))


def test_an_ipv6_member_that_the_tool_prints_dotted_is_read_as_keys_spell_it() -> None:
    listed = dict(
        ipset.parse("add inet6:kube-router-svip-prt ::1.2.3.4,tcp:80\nadd inet6:KUBE-SRC-X ::1.2.0.0/112 nomatch\n")
    )
    assert [key.member for key in listed if isinstance(key, EntryKey)] == ["::102:304,tcp:80", "::102:0/112"]
