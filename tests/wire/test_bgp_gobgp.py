"""The stubs are what the proto says, and what daemons send is read: best paths, events, sessions, and when to trust a table."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from kuberouterpy import gobgp
from kuberouterpy.cluster import BestPath
from kuberouterpy.dataplane import Bfd, Neighbor, NeighborKey
from kuberouterpy.drivers.gobgp_neighbors import as_peer, fingerprint, read
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp import wire
from kuberouterpy.gobgp.dialect import V3, V4, Dialect, Shifted
from kuberouterpy.sources.gobgp import SETTLE_S, NeighborState, Settling, best_path, event_prefix, read_neighbor

FOLDER = Path(gobgp.__file__).parent
ROOT = FOLDER.parent.parent


def test_the_checked_in_stubs_are_what_the_proto_generates(tmp_path: Path) -> None:
    """Compared as descriptors: the text of generated code differs between generators, its meaning must not."""
    pytest.importorskip("grpc_tools")
    made = tmp_path / "set"
    arguments = ["-I", str(ROOT), f"--descriptor_set_out={made}", "kuberouterpy/gobgp/gobgp.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True, cwd=ROOT)
    (generated,) = FileDescriptorSet.FromString(made.read_bytes()).file
    checked_in = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(checked_in)
    # Only a descriptor set has the JSON names, which follow from the others.
    for file in (generated, checked_in):
        for message in _messages(file.message_type):
            for field in message.field:
                field.ClearField("json_name")
    assert generated == checked_in


def test_the_types_name_every_field() -> None:
    stub = (FOLDER / "gobgp_pb2.pyi").read_text()
    numbers = set(re.findall(r"\b([A-Z0-9_]+)_FIELD_NUMBER", stub))
    fields = {
        field.name.upper()
        for message in _messages(FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb).message_type)
        for field in message.field
    }
    assert numbers == fields


def _messages(found: Iterable[DescriptorProto]) -> list[DescriptorProto]:
    return [one for message in found for one in (message, *_messages(message.nested_type))]


def test_dialects_shift_the_enums_that_had_a_real_zero() -> None:
    assert [V3.number(Shifted.SET_NEIGHBOR), V4.number(Shifted.SET_NEIGHBOR)] == [1, 2]
    assert [V3.path("GetBgp"), V4.path("GetBgp")] == ["/apipb.GobgpApi/GetBgp", "/api.GoBgpService/GetBgp"]


# --- best paths -------------------------------------------------------------------------------------------------------


def heard(next_hop: str, *, prefix: str = "10.1.2.0/24", attributes: Sequence[str] = (), **fields: object) -> pb.Path:
    values: dict[str, object] = {"neighbor_ip": next_hop} | fields
    made = [*wire.encode(prefix, next_hop), *(bytes.fromhex(one) for one in attributes)]
    return pb.Path(nlri_binary=wire.encode_prefix(prefix), pattrs_binary=made, **values)  # type: ignore[arg-type]


LONGER = "40 02 06 02 01 00 00 fd e9"
WORSE_MED = "80 04 04 00 00 00 05"


def test_equally_good_paths_are_one_record() -> None:
    paths = [heard("10.0.0.3"), heard("10.0.0.2")]
    assert best_path(paths, IPV4) == BestPath("10.1.2.0/24", ("10.0.0.2", "10.0.0.3"), "10.0.0.3")


@pytest.mark.parametrize(
    "other",
    [
        heard("10.0.0.3", attributes=[LONGER]),
        heard("10.0.0.3", attributes=[WORSE_MED]),
        heard("10.0.0.3", attributes=["40 05 04 00 00 00 63"]),
        heard("10.0.0.3", is_from_external=True),
        heard("10.0.0.3", stale=True),
        heard("10.0.0.3", is_nexthop_invalid=True),
        heard("10.0.0.3", filtered=True),
        heard("10.0.0.3", neighbor_ip="<nil>"),
    ],
)
def test_a_path_that_is_worse_in_any_way_is_no_next_hop(other: pb.Path) -> None:
    assert best_path([heard("10.0.0.2"), other], IPV4) == BestPath("10.1.2.0/24", ("10.0.0.2",), "10.0.0.2")


@pytest.mark.parametrize("nobody", ["", "<nil>", "invalid IP", "0.0.0.0", "::"])
def test_our_own_best_path_is_not_told(nobody: str) -> None:
    """Every version writes something else where there is no neighbor."""
    assert best_path([heard("10.0.0.1", neighbor_ip=nobody), heard("10.0.0.2")], IPV4) is None


def test_an_ipv6_path_of_an_ipv4_session_has_its_ipv6_next_hop() -> None:
    path = heard("fd00::2", prefix="fd00:1:2::/64", neighbor_ip="10.0.0.2")
    assert best_path([path], IPV6) == BestPath("fd00:1:2::/64", ("fd00::2",), "10.0.0.2")


def test_a_path_that_cannot_be_read_counts_as_absent() -> None:
    assert best_path([pb.Path(nlri_binary=b"\x21", pattrs_binary=[b"\x40"], neighbor_ip="10.0.0.2")], IPV4) is None
    assert best_path([], IPV4) is None


@pytest.mark.parametrize("dialect", [V3, V4])
def test_the_prefix_of_an_event_is_read_in_either_dialect(dialect: Dialect) -> None:
    inner = pb.IPAddressPrefix(prefix_len=24, prefix="10.1.2.0")
    if dialect is V4:
        nlri = pb.OneofNlri(prefix=inner).SerializeToString()
    else:
        url = "type.googleapis.com/apipb.IPAddressPrefix"
        nlri = pb.AnyNlri(type_url=url, value=inner.SerializeToString()).SerializeToString()
    assert event_prefix(pb.Path(nlri=nlri), dialect) == "10.1.2.0/24"
    assert event_prefix(pb.Path(nlri=b"\xff\xff"), dialect) == ""


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_is_read_with_its_last_error() -> None:
    peer = pb.Peer(conf=pb.PeerConf(neighbor_address="10.0.0.2", peer_asn=64512), state=pb.PeerState(session_state=6))
    peer.afi_safis.add(state=pb.AfiSafiState(received=3, accepted=2)).mp_graceful_restart.state.enabled = True
    up = read_neighbor(peer, {})
    assert (up.state, up.received, up.accepted, up.told_all, up.asn) == ("established", 3, 2, False, 64512)
    peer.afi_safis[0].mp_graceful_restart.state.end_of_rib_received = True
    assert read_neighbor(peer, {}).told_all
    peer.state.session_state = 3
    down = read_neighbor(peer, {"10.0.0.2": up})
    assert (down.state, down.error) == ("active", "the session was lost")


@pytest.mark.parametrize(("who", "says"), [("sent", "this node refused its OPEN"), ("received", "it refused our OPEN")])
def test_an_open_that_is_refused_is_told_until_a_session_was_up(who: str, says: str) -> None:
    peer = pb.Peer(conf=pb.PeerConf(neighbor_address="fd00::2", peer_asn=64512))
    assert read_neighbor(peer, {}).error == ""
    getattr(peer.state.messages, who).notification = 1
    error = read_neighbor(peer, {"fd00::2": NeighborState("fd00::2", "established")}).error
    assert says in error
    assert "router ID" in error
    peer.timers.state.uptime.seconds = 1000
    assert read_neighbor(peer, {}).error == ""


def test_the_state_of_bfd_is_read_where_there_is_one() -> None:
    peer = pb.Peer(conf=pb.PeerConf(neighbor_address="10.0.0.2"), bfd=pb.BfdPeerConfig(enabled=True))
    peer.state.bfd_state.session_state = 1
    assert [read_neighbor(peer, {}, dialect).bfd for dialect in (V4, V3)] == ["up", "none"]
    peer.bfd.enabled = False
    assert read_neighbor(peer, {}, V4).bfd == ""


def test_bfd_is_written_in_microseconds_and_read_back() -> None:
    wanted = Neighbor(NeighborKey("10.0.0.2"), asn=64512, bfd=Bfd(3784, 3, 300, 400))
    peer = as_peer(wanted, 1)
    assert (peer.bfd.desired_minimum_tx_interval, peer.bfd.required_minimum_receive) == (300_000, 400_000)
    assert read("10.0.0.2", peer).bfd == wanted.bfd
    assert not as_peer(Neighbor(NeighborKey("10.0.0.2"), asn=64512), 1).HasField("bfd")


def test_a_password_changes_the_fingerprint_and_is_not_in_it() -> None:
    plain = Neighbor(NeighborKey("10.0.0.2"), asn=64512)
    secret = Neighbor(NeighborKey("10.0.0.2"), asn=64512, password="s3cret")
    assert fingerprint(plain) != fingerprint(secret)
    assert "s3cret" not in fingerprint(secret)
    assert fingerprint(secret) == fingerprint(Neighbor(NeighborKey("10.0.0.2"), asn=64512, password="s3cret"))


# --- when a table can be trusted --------------------------------------------------------------------------------------


def session(address: str, state: str = "established", *, told_all: bool = False) -> NeighborState:
    return NeighborState(address, state, told_all=told_all)


def test_a_restart_waits_for_those_who_were_there() -> None:
    """Not for one that was down before, nor for ever."""
    settling = Settling(frozenset({"10.0.0.2", "10.0.0.3"}), began=100, limit_s=90)
    assert not settling.over([], 101)
    assert not settling.over([session("10.0.0.2", told_all=True), session("10.0.0.9", "idle")], 102)
    assert not settling.over([session("10.0.0.2", told_all=True), session("10.0.0.3", "active")], 103)
    assert settling.over([session("10.0.0.2", told_all=True), session("10.0.0.3", told_all=True)], 104)


def test_without_end_of_rib_a_session_must_have_been_up_for_a_while() -> None:
    settling = Settling(frozenset({"10.0.0.2"}), began=100, limit_s=90)
    assert not settling.over([session("10.0.0.2")], 110)
    assert not settling.over([session("10.0.0.2")], 110 + SETTLE_S - 0.1)
    assert settling.over([session("10.0.0.2")], 110 + SETTLE_S)


def test_a_session_that_flaps_begins_anew() -> None:
    settling = Settling(frozenset({"10.0.0.2"}), began=100, limit_s=90)
    assert not settling.over([session("10.0.0.2")], 110)
    assert not settling.over([session("10.0.0.2", "active")], 112)
    assert not settling.over([session("10.0.0.2")], 114)
    assert not settling.over([session("10.0.0.2")], 116)
    assert settling.over([session("10.0.0.2")], 114 + SETTLE_S)


def test_the_restart_time_ends_the_wait() -> None:
    settling = Settling(frozenset({"10.0.0.2"}), began=100, limit_s=90)
    assert not settling.over([session("10.0.0.2", "active")], 189)
    assert settling.over([session("10.0.0.2", "active")], 190)


def test_a_fresh_daemon_is_given_time_to_be_configured() -> None:
    settling = Settling(None, began=100, limit_s=90)
    assert not settling.over([], 101)
    assert not settling.over([session("10.0.0.2", "active")], 120)
    assert settling.over([session("10.0.0.2", told_all=True)], 121)
    assert Settling(None, began=100, limit_s=90).over([], 100 + SETTLE_S)


def test_with_nobody_to_wait_for_the_table_is_trusted_at_once() -> None:
    assert Settling(frozenset(), began=100, limit_s=90).over([session("10.0.0.2", "active")], 100)
