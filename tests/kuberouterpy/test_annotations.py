"""BGP annotations of a Node: what is read, what is refused and named, what stays, and that no password shows."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.annotations import BfdWish, NodeBgp, Peer, Prepend, read_bgp, settled, without_bgp
from kuberouterpy.cluster import Node, Ref, Replace, Upsert
from kuberouterpy.store import Store

SECRET = "hunter2-and-more"
ENCODED = base64.b64encode(SECRET.encode()).decode()


def read(*, own: bool = True, **texts: str) -> NodeBgp:
    """Read annotations; ``_`` in a name is ``.``, ``__`` is ``-``."""
    named = {f"kube-router.io/{key.replace('__', '-').replace('_', '.')}": text for key, text in texts.items()}
    return read_bgp(named, own=own)


def test_the_yaml_names_neighbors_of_both_families() -> None:
    text = f"""
- remoteip: 192.0.2.1
  remoteasn: 65001
  password: {ENCODED}
- remoteip: 2001:DB8::1
  remoteasn: 4200000001
  localip: 2001:db8::2
  port: 1790
  bfd: {{enabled: true, port: 4000, detection_multiplier: 5, desired_min_tx_interval: 300, required_min_rx_interval: 400}}
"""
    found = read(peers=text)
    assert found.peers == (
        Peer("192.0.2.1", 65001, password=SECRET),
        Peer("2001:db8::1", 4200000001, port=1790, local_address="2001:db8::2", bfd=BfdWish(True, 4000, 5, 300, 400)),
    )
    assert found.malformed == ()


def test_the_lists_name_the_same_neighbors() -> None:
    found = read(
        peer_ips="192.0.2.1, 2001:db8::1",
        peer_asns="65001,65002",
        peer_ports=",1790",
        peer_passwords=f"{ENCODED},",
        peer_localips=",2001:db8::2",
    )
    assert found.peers == (
        Peer("192.0.2.1", 65001, password=SECRET),
        Peer("2001:db8::1", 65002, port=1790, local_address="2001:db8::2"),
    )


def test_every_other_field() -> None:
    found = read(
        node_asn="65100",
        rr_server="42",
        rr_client="10.0.0.7",
        node_bgp_communities="65000:1, 4259840001, no-export",
        node_bgp_customimportreject="10.0.0.1/8,2001:db8::/32",
        path__prepend_as="65100",
        path__prepend_repeat__n="3",
        bgp__local__addresses="10.0.0.1,FD00::1",
        pod__cidrs="10.1.0.0/24,10.1.1.0/24,fd00:1::/64",
        node_bgp_local__preference="200",
    )
    assert found == NodeBgp(
        asn=65100,
        reflector="0.0.0.42",
        client_of="10.0.0.7",
        communities=("65000:1", "65000:1", "65535:65281")[1:],
        import_reject=("10.0.0.0/8", "2001:db8::/32"),
        prepend=Prepend(65100, 3),
        listen=("10.0.0.1", "fd00::1"),
        pod_cidrs=("10.1.0.0/24", "10.1.1.0/24", "fd00:1::/64"),
        local_preference=200,
    )


def test_absent_and_empty_annotations_leave_every_field_as_it_is() -> None:
    assert read(peers="", node_asn=" ") == read_bgp({}) == NodeBgp()


def test_external_neighbors_of_other_nodes_are_not_kept() -> None:
    text = "[{remoteip: 192.0.2.1, remoteasn: 65001}]"
    assert read(own=False, peers=text, node_asn="65100") == NodeBgp(asn=65100)


def test_what_is_read_does_not_stay_as_text() -> None:
    given_texts = {
        "kube-router.io/peers": ENCODED,
        "kube-router.io/peer.passwords": ENCODED,
        "kube-router.io/drain": "true",
        "other.io/x": "y",
    }
    assert without_bgp(given_texts) == {"kube-router.io/drain": "true"}


@pytest.mark.parametrize(
    ("texts", "annotation", "reason"),
    [
        ({"peers": "[{remoteip: 192.0.2.1}]"}, "peers", "[0].remoteasn: is missing"),
        ({"peers": "[{remoteip: 192.0.2.300, remoteasn: 1}]"}, "peers", "[0].remoteip: '192.0.2.300' does not appear"),
        ({"peers": "[{remoteip: 127.0.0.1, remoteasn: 1}]"}, "peers", "loopback"),
        ({"peers": "[{remoteip: 192.0.2.1, remoteasn: 0}]"}, "peers", "[0].remoteasn: '0' is not a number from 1"),
        ({"peers": "[{remoteip: 192.0.2.1, remoteasn: 1, port: 99999}]"}, "peers", "[0].port: '99999'"),
        ({"peers": "[{remoteip: 192.0.2.1, remoteasn: 1, pasword: x}]"}, "peers", "[0].pasword: is no field"),
        ({"peers": f"[{{remoteip: 192.0.2.1, remoteasn: 1, password: '{SECRET}'}}]"}, "peers", "[0].password: is not"),
        ({"peers": "[{remoteip: 192.0.2.1, remoteasn: 1, bfd: yes}]"}, "peers", "[0].bfd"),
        ({"peers": "[{remoteip: 192.0.2.1, remoteasn: 1, bfd: {enabled: 1}}]"}, "peers", "[0].bfd: is not a mapping"),
        ({"peers": "[{remoteip: 192.0.2.1, remoteasn: 1, bfd: {prot: 1}}]"}, "peers", "[0].bfd.prot: is no field"),
        (
            {"peers": "[{remoteip: 192.0.2.1, remoteasn: 1, bfd: {detection_multiplier: 256}}]"},
            "peers",
            "[0].bfd.detection_multiplier: '256' is not a number from 1 to 255",
        ),
        ({"peers": "[{remoteip: 192.0.2.1, remoteasn: 1}, {remoteip: 192.0.2.1, remoteasn: 2}]"}, "peers", "twice"),
        ({"peers": "- a: [\n- b"}, "peers", "is not YAML (line 2)"),
        ({"peers": "just words"}, "peers", "is not a list of peers"),
        ({"peers": "[5]"}, "peers", "[0]: is not a peer"),
        ({"peer_ips": "192.0.2.1,192.0.2.2", "peer_asns": "65001"}, "peer.asns", "has 1 items for 2 of peer.ips"),
        ({"peer_ips": "192.0.2.1"}, "peer.ips", "peer.asns is missing"),
        ({"peer_asns": "65001"}, "peer.asns", "peer.ips is missing"),
        ({"peer_ips": "192.0.2.1", "peer_asns": "65001", "peer_ports": "http"}, "peer.ports", "[0]: 'http'"),
        ({"peer_ips": "192.0.2.1", "peer_asns": "1", "peer_passwords": SECRET}, "peer.passwords", "[0]: is not text"),
        ({"peer_ips": "192.0.2.1", "peer_asns": "1", "peer_localips": "here"}, "peer.localips", "[0]: 'here'"),
        ({"node_asn": "AS65001"}, "node.asn", "'AS65001' is not a number from 1"),
        ({"rr_server": "many"}, "rr.server", "is not a cluster id"),
        ({"rr_client": "4294967296"}, "rr.client", "is not a cluster id"),
        ({"node_bgp_communities": "65000:1,70000:1"}, "node.bgp.communities", "[1]: '70000:1' is not a community"),
        ({"node_bgp_customimportreject": "10.0.0.0"}, "node.bgp.customimportreject", "[0]: '10.0.0.0' has no prefix"),
        ({"path__prepend_as": "65100"}, "path-prepend.as", "path-prepend.repeat-n is missing"),
        ({"path__prepend_as": "65100", "path__prepend_repeat__n": "256"}, "path-prepend.repeat-n", "from 1 to 255"),
        ({"bgp__local__addresses": "0.0.0.0"}, "bgp-local-addresses", "[0]: '0.0.0.0' is unspecified"),
        ({"pod__cidrs": "10.1.0.0/24,0.0.0.0/0"}, "pod-cidrs", "[1]: '0.0.0.0/0' is everything"),
        ({"pod__cidr": "nonsense"}, "pod-cidr", "[0]: 'nonsense' has no prefix length"),
        ({"node_bgp_local__preference": "-1"}, "node.bgp.local-preference", "'-1' is not a number"),
    ],
)
def test_a_malformed_field_is_named_with_the_place_and_the_reason(
    texts: dict[str, str], annotation: str, reason: str
) -> None:
    (wrong,) = read(**texts).malformed
    assert wrong.annotation == f"kube-router.io/{annotation}"
    assert reason in wrong.reason
    assert SECRET not in wrong.reason


@given(st.text(max_size=60), st.sampled_from(["peers", "peer_passwords", "node_asn", "pod__cidrs", "rr_server"]))
def test_no_text_crashes_the_reader(text: str, name: str) -> None:
    found = read(**{name: text})
    assert not found.malformed or found.peers == ()


def test_one_bad_field_leaves_the_others() -> None:
    found = read(node_asn="65100", node_bgp_communities="none of those", rr_server="1")
    assert (found.asn, found.reflector, found.communities) == (65100, "0.0.0.1", ())


def test_the_last_good_value_of_a_malformed_field_stays_and_only_that() -> None:
    good = read(peers="[{remoteip: 192.0.2.1, remoteasn: 65001}]", node_asn="65100", rr_server="1")
    bad = read(peers="[{remoteip: 192.0.2.1, remoteasn: x}]", node_asn="65200")
    kept = settled(bad, good)
    assert (kept.peers, kept.asn, kept.reflector) == (good.peers, 65200, "")
    assert kept.malformed == bad.malformed


def test_the_store_remembers_through_edits_and_lists() -> None:
    """Controllers see the last good value in the record; when it is taken away on purpose it is gone."""
    store, ref = Store(), Ref("", "node-1")
    good, bad, none = (read(pod__cidrs=text) for text in ("10.1.0.0/24", "10.1.0.0", ""))

    def held() -> NodeBgp:
        node = store.nodes.get(ref)
        assert node is not None
        return node.bgp

    store.apply(Upsert(Node(ref, bgp=good)))
    store.apply(Upsert(Node(ref, bgp=bad)))
    assert (held().pod_cidrs, len(held().malformed)) == (("10.1.0.0/24",), 1)
    assert store.apply(Upsert(Node(ref, bgp=bad))) == []
    store.apply(Replace(Node, (Node(ref, bgp=bad),)))
    assert held().pod_cidrs == ("10.1.0.0/24",)
    store.apply(Upsert(Node(ref, bgp=none)))
    assert held() == NodeBgp()


def test_no_password_shows() -> None:
    found = read(peers=f"[{{remoteip: 192.0.2.1, remoteasn: 65001, password: {ENCODED}}}]")
    assert found.peers[0].password == SECRET
    assert SECRET not in repr(Node(Ref("", "node-1"), bgp=found))
