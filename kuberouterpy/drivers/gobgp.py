"""Speaker, policies, neighbors and paths of the GoBGP sidecar, over gRPC.

The daemon is ours alone: whatever is configured in it is ours. It keeps no configuration of its own, so what it holds is
read back from it:

* a **neighbor** carries a digest of all it was made from in its description (``node-2 kr:B5KQ7MZA``). One that has the
  wanted digest is left alone: sending an equal neighbor again must never reset its session. A changed one is removed and
  added, which touches that session only.
* a **policy** is a version built beside the old one (:mod:`kuberouterpy.drivers.gobgp_policies`).
* a **path** we originate is compared by its attributes.
* the **speaker** cannot be changed in place: it is stopped and started, which loses everything else. ``lost`` is called then,
  so that the loop lists again and puts the rest back. GoBGP 4 does not survive a stop: there a change is refused with one
  clear error until its container is restarted.

What a neighbor looks like there (``gobgp neighbor -j``)::

    {"conf":{"description":"node-2 kr:B5KQ7MZA","neighbor_address":"10.1.0.2","peer_asn":64512}, ...}

Calls have deadlines of two seconds: a hung daemon is a DriverError. Passwords are in no error and no log line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

import msgspec

from kuberouterpy.dataplane import (
    Key,
    Neighbor,
    NeighborKey,
    Object,
    ObjectKind,
    Op,
    Path,
    PathKey,
    RoutePolicy,
    RoutePolicyKey,
    Speaker,
    SpeakerKey,
    Verb,
)
from kuberouterpy.drivers import gobgp_neighbors as neighbors
from kuberouterpy.drivers import gobgp_paths as paths
from kuberouterpy.drivers.gobgp_policies import NOTE_PREFIX, Policies
from kuberouterpy.drivers.gobgp_statements import neighbor_set, plain
from kuberouterpy.errors import DriverError
from kuberouterpy.family import Family
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp import wire
from kuberouterpy.gobgp.client import Fault, GobgpClient, GobgpError
from kuberouterpy.gobgp.dialect import V4, Shifted

_NOT_STARTED: Final = "hasn't started"
"""GoBGP's words when there is no speaker: then there is nothing to delete."""

Outcome = tuple[Op, DriverError | None]


class GobgpDriver:
    """The driver. One thread calls it; it shares no state with the source."""

    name = "gobgp"
    kinds: tuple[ObjectKind, ...] = (Speaker, RoutePolicy, Neighbor, Path)

    def __init__(
        self, socket: str, *, lost: Callable[[], None] = lambda: None, client: GobgpClient | None = None
    ) -> None:
        """``lost`` is called when a changed speaker made everything else vanish: the agent puts ``Restarted("gobgp")``."""
        self._client = client or GobgpClient(socket)
        self._policies = Policies(self._client)
        self._lost = lost
        self._written: dict[Key, Object] = {}
        """What was carried out last, by key: gives back the spelling that was wanted where the daemon has another."""

    def list(self) -> Mapping[Key, Object]:
        """Return what the daemon holds. Errors: DriverError when it is absent, hung or of an unknown kind."""
        try:
            speaker = self._speaker()
            if speaker is None:
                return {}
            found: list[Object] = [
                speaker,
                *self._policies.list(),
                *self._neighbors(),
                *paths.list_paths(self._client, speaker.families),
            ]
        except GobgpError as error:
            raise DriverError(f"list what gobgpd holds: {error}") from None
        return {one.key: self._as_written(one) for one in found}

    def apply(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        """Carry out ``ops`` in order; runs of paths go as one stream."""
        for kind, run in groupby(ops, key=lambda op: (type(op.key), op.verb is Verb.DELETE)):
            batch = list(run)
            match kind:
                case (k, False) if k is PathKey:
                    outcomes = self._announce(batch)
                case (k, False) if k is NeighborKey:
                    outcomes = self._add_neighbors(batch)
                case _:
                    outcomes = ((op, self._attempt(op, self._one)) for op in batch)
            for op, error in outcomes:
                if error is None:
                    self._remember(op)
                yield op, error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _one(self, op: Op) -> None:
        match op.key, op.value:
            case _, Speaker() as speaker:
                self._start(speaker)
            case _, RoutePolicy() as policy:
                self._policies.assign(policy)
            case RoutePolicyKey() as key, None:
                if self._speaker() is not None:
                    self._policies.unassign(key.direction)
            case NeighborKey(address=address), None:
                self._remove_neighbor(address)
            case _, Path() as path:
                paths.announce(self._client, path)
            case PathKey() as key, None:
                paths.withdraw(self._client, key)
            case SpeakerKey(), None:
                self._stop()
            case _:
                raise AssertionError(f"gobgp has no {op.key!r}")

    # --- outcomes --------------------------------------------------------------------------------------------------

    def _attempt(self, op: Op, carry_out: Callable[[Op], None]) -> DriverError | None:
        try:
            carry_out(op)
        except (GobgpError, ValueError) as error:
            if op.verb is Verb.DELETE and _NOT_STARTED in str(error):
                return None
            return DriverError(f"{op.verb} {_called(op.key)}: {_without_secret(str(error), op.value)}")
        return None

    def _remember(self, op: Op) -> None:
        if op.value is None:
            self._written.pop(op.key, None)
        else:
            self._written[op.key] = op.value

    def _as_written(self, found: Object) -> Object:
        written = self._written.get(found.key)
        return written if written is not None and _plain(written) == _plain(found) else found

    # --- speaker ---------------------------------------------------------------------------------------------------

    def _speaker(self) -> Speaker | None:
        found = getattr(self._client.call("GetBgp", pb.GetBgpRequest(), pb.GetBgpResponse), "global")
        if found.asn == 0:
            return None
        families, restart_s, deferral_s = self._noted()
        return Speaker(
            SpeakerKey(),
            asn=found.asn,
            router_id=found.router_id,
            listen_port=found.listen_port,
            listen_addresses=tuple(sorted(found.listen_addresses)),
            families=families,
            graceful_restart_s=restart_s,
            deferral_s=deferral_s,
        )

    def _start(self, speaker: Speaker) -> None:
        held = self._speaker()
        if held is not None and _fixed(held) != _fixed(speaker):
            self._stop()
        if held is None or _fixed(held) != _fixed(speaker):
            settings = pb.Global(
                asn=speaker.asn,
                router_id=speaker.router_id,
                listen_port=speaker.listen_port,
                listen_addresses=speaker.listen_addresses,
                families=[_FAMILY_NUMBERS[family] for family in speaker.families],
                # The source finds ties among best paths itself, but only then is a change among them an event.
                use_multiple_paths=True,
            )
            self._client.call("StartBgp", pb.StartBgpRequest(**{"global": settings}), pb.Nothing)
            if held is not None:
                self._lost()
        if held is None or self._noted() != _noted(speaker):
            self._note(speaker)

    def _stop(self) -> None:
        if self._speaker() is None:
            return
        if self._client.dialect is V4:
            # Tried with 4.8: after StopBgp the process answers "server stopped" to everything for ever.
            raise GobgpError("GoBGP 4 cannot change a running speaker: restart the gobgpd container", Fault.REFUSED)
        self._client.call("StopBgp", pb.StopBgpRequest(), pb.Nothing)
        self._written.clear()

    def _noted(self) -> tuple[tuple[Family, ...], int, int]:
        """Return what GoBGP does not tell of its speaker: the name of a set that nothing uses says it."""
        for name in self._policies.sets():
            if name.startswith(NOTE_PREFIX):
                families, restart_s, deferral_s = name.removeprefix(NOTE_PREFIX).split("-")
                return tuple(Family(int(digit)) for digit in families), int(restart_s), int(deferral_s)
        return (), 0, 0

    def _note(self, speaker: Speaker) -> None:
        families, restart_s, deferral_s = _noted(speaker)
        name = f"{NOTE_PREFIX}{''.join(str(int(family)) for family in families)}-{restart_s}-{deferral_s}"
        for old, held in self._policies.sets().items():
            if old.startswith(NOTE_PREFIX):
                self._client.call(
                    "DeleteDefinedSet", pb.DeleteDefinedSetRequest(defined_set=held, all=True), pb.Nothing
                )
        note = neighbor_set((f"{speaker.router_id}/32",), self._client.dialect.number)
        note.name = name
        self._client.call("AddDefinedSet", pb.AddDefinedSetRequest(defined_set=note), pb.Nothing)

    # --- neighbors -------------------------------------------------------------------------------------------------

    def _neighbors(self) -> Iterator[Neighbor]:
        for address, peer in neighbors.peers(self._client).items():
            if self._gave_up(peer):
                continue  # listed as missing, so that every resync tries it again
            written = self._written.get(NeighborKey(address))
            mark = neighbors.marked(peer)
            if isinstance(written, Neighbor) and mark == neighbors.fingerprint(written):
                yield written
            else:
                yield neighbors.read(address, peer)

    def _add_neighbors(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        try:
            peers = neighbors.peers(self._client)
            deferral_s = self._deferral_s()
        except GobgpError as error:
            for op in ops:
                yield op, DriverError(f"{op.verb} {_called(op.key)}: {error}")
            return
        for op in ops:
            yield op, self._attempt(op, lambda one: self._add_neighbor(one, peers, deferral_s))

    def _add_neighbor(self, op: Op, peers: Mapping[str, pb.Peer], deferral_s: int) -> None:
        neighbor = op.value
        assert isinstance(neighbor, Neighbor)
        held = peers.get(neighbor.key.address)
        if held is not None and neighbors.marked(held) == neighbors.fingerprint(neighbor) and not self._gave_up(held):
            return
        if held is not None:
            self._remove_neighbor(neighbor.key.address)
        self._client.call("AddPeer", pb.AddPeerRequest(peer=neighbors.as_peer(neighbor, deferral_s)), pb.Nothing)

    def _remove_neighbor(self, address: str) -> None:
        try:
            self._client.call("DeletePeer", pb.DeletePeerRequest(address=address), pb.Nothing)
        except GobgpError as error:
            # Every version has its own words for one that is not there.
            if error.fault is not Fault.REFUSED or address in neighbors.peers(self._client):
                raise

    def _gave_up(self, peer: pb.Peer) -> bool:
        """Return whether GoBGP ended a session for good because it brought too many prefixes."""
        return bool(peer.state.admin_state == self._client.dialect.number(Shifted.ADMIN_TOO_MANY_PREFIXES))

    def _deferral_s(self) -> int:
        return self._noted()[2]

    # --- paths -----------------------------------------------------------------------------------------------------

    def _announce(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        """Send paths as one stream; where it is refused, one by one, to learn which."""
        try:
            if len(ops) > 1:
                paths.announce_all(self._client, [op.value for op in ops if isinstance(op.value, Path)])
                yield from ((op, None) for op in ops)
                return
        except GobgpError as error:
            if error.fault is not Fault.REFUSED:
                yield from ((op, DriverError(f"{op.verb} {_called(op.key)}: {error}")) for op in ops)
                return
        except ValueError:
            pass  # found again below, at the one that has it
        for op in ops:
            yield op, self._attempt(op, self._one)


# --- speaker and families ---------------------------------------------------------------------------------------------

_FAMILY_NUMBERS: Final = {Family.IPV4: 0, Family.IPV6: 1}
"""Global.families counts GoBGP's own list of families (IntToAfiSafiTypeMap), not AFI and SAFI."""


def _fixed(speaker: Speaker) -> tuple[object, ...]:
    """Return what a running speaker cannot change."""
    addresses = tuple(sorted(speaker.listen_addresses))
    return speaker.asn, speaker.router_id, speaker.listen_port, addresses, tuple(sorted(speaker.families))


def _noted(speaker: Speaker) -> tuple[tuple[Family, ...], int, int]:
    return tuple(sorted(speaker.families)), speaker.graceful_restart_s, speaker.deferral_s


# --- comparing --------------------------------------------------------------------------------------------------------


def _plain(value: Object) -> Object:
    """Return a value in the one spelling in which written and read ones are compared."""
    match value:
        case RoutePolicy():
            return plain(value)
        case Path(communities=communities):
            texts = tuple(wire.community_text(wire.community(text)) for text in communities)
            return msgspec.structs.replace(value, communities=texts)
        case _:
            return value


def _called(key: Key) -> str:
    match key:
        case NeighborKey(address=address):
            return f"neighbor {address}"
        case PathKey(prefix=prefix):
            return f"path {prefix}"
        case RoutePolicyKey(direction=direction):
            return f"{direction} policy"
        case _:
            return "speaker"


def _without_secret(text: str, value: Object | None) -> str:
    if isinstance(value, Neighbor) and value.password:
        return text.replace(value.password, "***")
    return text
