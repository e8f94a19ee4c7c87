"""The GoBGP driver against real daemons; the daemon's own listing and a second daemon are the judges."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path as File

import pytest

from kuberouterpy.dataplane import (
    Key,
    Neighbor,
    NeighborKey,
    Object,
    Path,
    PathKey,
    PolicyStatement,
    PrefixMatch,
    RoutePolicy,
    RoutePolicyKey,
    Speaker,
    SpeakerKey,
)
from kuberouterpy.drivers import Driver
from kuberouterpy.drivers.gobgp import GobgpDriver
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp.dialect import DIRECTIONS, V3, Shifted
from tests.contract import gobgpd, suite

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
    pytest.mark.skipif(not gobgpd.BINARIES, reason="needs gobgpd (Debian package gobgpd)"),
]

SPEAKER = Speaker(
    SpeakerKey(),
    asn=64512,
    router_id="10.99.0.1",
    listen_port=1790,
    listen_addresses=("10.99.0.1", "fd00:99::1"),
    families=(IPV4, IPV6),
    graceful_restart_s=90,
    deferral_s=1,
)


def neighbor(address: str = "10.99.0.2", **fields: object) -> Neighbor:
    values: dict[str, object] = {
        "asn": 64512,
        "local_address": "10.99.0.1",
        "port": 1790,
        "families": (IPV4, IPV6),
        "description": "node-2",
        "connect_retry_s": 1,
        "graceful_restart_s": 90,
    }
    return Neighbor(NeighborKey(address), **(values | fields))  # type: ignore[arg-type]


def path(prefix: str, next_hop: str = "", **fields: object) -> Path:
    hop = next_hop or ("fd00:99::1" if ":" in prefix else "10.99.0.1")
    return Path(PathKey(prefix), hop, **fields)  # type: ignore[arg-type]


EXPORT = RoutePolicy(
    RoutePolicyKey("export"),
    (
        PolicyStatement(
            accept=True,
            neighbors=("10.99.0.2/32", "fd00:99::2/128"),
            prefixes=(PrefixMatch("10.1.0.0/24", 24, 24), PrefixMatch("fd00:1::/64", 64, 64)),
            originated_here=True,
        ),
        PolicyStatement(
            accept=True,
            neighbors=("10.99.0.3/32",),
            prefixes=(PrefixMatch("10.96.0.0/12", 32, 32),),
            communities=("64512:100", "65535:65281"),
            prepend_asn=64512,
            prepend_count=2,
            next_hop_self=True,
            originated_here=True,
        ),
    ),
)
OWN = PolicyStatement(accept=True, originated_here=True)
IMPORT = RoutePolicy(
    RoutePolicyKey("import"),
    (
        PolicyStatement(accept=False, prefixes=(PrefixMatch("0.0.0.0/0", 0, 0), PrefixMatch("::/0", 0, 0))),
        PolicyStatement(accept=False, neighbors=("10.99.0.3/32",)),
    ),
    accept_by_default=True,
)

SAMPLES: tuple[Object, ...] = (
    SPEAKER,
    EXPORT,
    IMPORT,
    neighbor(),
    neighbor("fd00:99::2", local_address="fd00:99::1", asn=64999, multihop_ttl=4, password="secret", description=""),
    path("10.1.0.0/24"),
    path("10.96.0.10/32", communities=("64512:100",), local_preference=200),
    path("fd00:1::/64", communities=("64512:100", "65535:65281")),
)
CHANGES = {
    EXPORT.key: RoutePolicy(EXPORT.key, EXPORT.statements[:1]),
    IMPORT.key: RoutePolicy(IMPORT.key, (OWN,), accept_by_default=False),
    NeighborKey("10.99.0.2"): neighbor(hold_time_s=30, passive=True),
    PathKey("10.1.0.0/24"): path("10.1.0.0/24", "10.99.0.3"),
    PathKey("fd00:1::/64"): path("fd00:1::/64", "fd00:99::3"),
}


def told(daemon: gobgpd.Daemon) -> list[str]:
    """Return all the daemon says of itself, as its own messages, without what only time changes."""
    client = daemon.client
    speaker = getattr(client.call("GetBgp", pb.GetBgpRequest(), pb.GetBgpResponse), "global")
    if not speaker.asn:
        return []
    lines = [str(speaker)]
    for answer in client.collect("ListPeer", pb.ListPeerRequest(), pb.ListPeerResponse):
        for part in ("state", "afi_safis"):
            answer.peer.ClearField(part)
        answer.peer.timers.ClearField("state")
        lines.append(f"{answer.peer}")
    for family in ((1, 1), (2, 1)):
        request = pb.ListPathRequest(
            table_type=client.dialect.number(Shifted.TABLE_GLOBAL), family=pb.Family(afi=family[0], safi=family[1])
        )
        for found in client.collect("ListPath", request, pb.ListPathResponse):
            for one in found.destination.paths:
                one.ClearField("best")
            lines.append(f"{found.destination.prefix}")
            lines += [str(one.nlri) + str(one.pattrs) for one in found.destination.paths]
    for direction in DIRECTIONS.values():
        asked = pb.ListPolicyAssignmentRequest(name="global", direction=direction)
        for held in client.collect("ListPolicyAssignment", asked, pb.ListPolicyAssignmentResponse):
            # A table nobody assigned anything to says so in more than one way.
            if held.assignment.policies:
                lines.append(f"{held.assignment}")
    for kind in (Shifted.SET_PREFIX, Shifted.SET_NEIGHBOR):
        asked_sets = pb.ListDefinedSetRequest(defined_type=client.dialect.number(kind))
        lines += [str(one) for one in client.collect("ListDefinedSet", asked_sets, pb.ListDefinedSetResponse)]
    return sorted(lines)


class Spoken(GobgpDriver):
    """The driver without the speaker, for daemons that cannot stop it: there it belongs to the place."""

    kinds = (RoutePolicy, Neighbor, Path)

    def list(self) -> Mapping[Key, Object]:
        """Return all but the speaker."""
        return {key: value for key, value in super().list().items() if not isinstance(key, SpeakerKey)}


@pytest.fixture(params=gobgpd.BINARIES, ids=gobgpd.version)
def subject(request: pytest.FixtureRequest, tmp_path: File) -> Iterator[suite.Subject]:
    with gobgpd.daemons([request.param], tmp_path) as (daemon,), ExitStack() as drivers:
        stoppable = daemon.client.dialect is V3

        def restart(wanted: Sequence[Object]) -> Driver:
            driver = (GobgpDriver if stoppable else Spoken)(daemon.socket)
            drivers.callback(driver.close)
            return driver

        if not stoppable:
            suite.applied(restart(()), [suite.create(SPEAKER)])
        yield suite.Subject(
            restart=restart,
            samples=SAMPLES[0 if stoppable else 1 :],
            around=() if stoppable else (SPEAKER,),
            changes=CHANGES,
            outside=lambda: told(daemon),
            examples=6,
        )


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)
