"""Speaker, policies, neighbors and paths of the GoBGP sidecar, over gRPC.

The daemon is ours alone: whatever is configured in it is ours. It keeps no configuration of its own, so what it holds is
read back from it:

* a **neighbor** carries a digest of all it was made from in its description (``node-2 kr:B5KQ7MZA``). One that has the
  wanted digest is left alone: sending an equal neighbor again must never reset its session. A changed one is removed and
  added, which touches that session only.
* a **policy** is a version: its name, and that of each of its sets, ends with a digest of its content. The new version is
  built beside the old one, takes its place by one ``SetPolicyAssignment`` - there is no moment without policy - and then the
  old one goes. Sessions get a soft reset of that direction, because GoBGP judges only what arrives later. GoBGP 3 sends what
  a wider export policy lets out, but does not withdraw what a narrower one holds back until the session begins anew.
* a **path** we originate is compared by its attributes.
* the **speaker** cannot be changed in place: it is stopped and started, which loses everything else. ``lost`` is called then,
  so that the loop lists again and puts the rest back. GoBGP 4 does not survive a stop: there a change is refused with one
  clear error until its container is restarted.

What a neighbor looks like there (``gobgp neighbor -j``)::

    {"conf":{"description":"node-2 kr:B5KQ7MZA","neighbor_address":"10.1.0.2","peer_asn":64512}, ...}

Calls have deadlines of two seconds: a hung daemon is a DriverError. Passwords are in no error and no log line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    PolicyStatement,
    PrefixMatch,
    RoutePolicy,
    RoutePolicyKey,
    Speaker,
    SpeakerKey,
    Verb,
)
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES, Family, family_of
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp import wire
from kuberouterpy.gobgp.client import Fault, GobgpClient, GobgpError, originated_here
from kuberouterpy.gobgp.dialect import ACCEPT, DIRECTIONS, GLOBAL_TABLE, REJECT, ROUTE_TYPE_LOCAL, V4, Shifted
from kuberouterpy.names import digest

_MARK: Final = " kr:"
"""Before the digest in a description."""
_DIGEST: Final = 8
_LAYOUT: Final = "1"
"""Part of every digest: raise it when a neighbor is written in another way, so that old ones are replaced."""
_POLICY_PREFIX: Final = "kr-"
_CHUNK: Final = 500
"""Paths in one message of AddPathStream."""
_IDLE_HOLD_S: Final = 5
"""GoBGP's pause after a session was reset; its default of 30 s would keep a rebooted neighbor out for as long."""

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
        self._lost = lost
        self._written: dict[Key, Object] = {}
        """What was carried out last, by key: gives back the spelling that was wanted where the daemon has another."""

    def list(self) -> Mapping[Key, Object]:
        """Return what the daemon holds. Errors: DriverError when it is absent, hung or of an unknown kind."""
        try:
            speaker = self._speaker()
            if speaker is None:
                return {}
            found: list[Object] = [speaker, *self._policies(), *self._neighbors(), *self._paths(speaker.families)]
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
                self._assign(policy)
            case RoutePolicyKey() as key, None:
                self._unassign(key.direction)
            case NeighborKey(address=address), None:
                self._remove_neighbor(address)
            case PathKey() as key, None:
                self._withdraw(key)
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
        for name in self._sets():
            if name.startswith(_NOTE_PREFIX):
                families, restart_s, deferral_s = name.removeprefix(_NOTE_PREFIX).split("-")
                return tuple(Family(int(digit)) for digit in families), int(restart_s), int(deferral_s)
        return (), 0, 0

    def _note(self, speaker: Speaker) -> None:
        families, restart_s, deferral_s = _noted(speaker)
        name = f"{_NOTE_PREFIX}{''.join(str(int(family)) for family in families)}-{restart_s}-{deferral_s}"
        for old, held in self._sets().items():
            if old.startswith(_NOTE_PREFIX):
                self._client.call(
                    "DeleteDefinedSet", pb.DeleteDefinedSetRequest(defined_set=held, all=True), pb.Nothing
                )
        note = _neighbor_set((f"{speaker.router_id}/32",), self._number)
        note.name = name
        self._client.call("AddDefinedSet", pb.AddDefinedSetRequest(defined_set=note), pb.Nothing)

    # --- neighbors -------------------------------------------------------------------------------------------------

    def _peers(self) -> dict[str, pb.Peer]:
        answers = self._client.collect("ListPeer", pb.ListPeerRequest(), pb.ListPeerResponse)
        return {answer.peer.conf.neighbor_address: answer.peer for answer in answers}

    def _neighbors(self) -> Iterator[Neighbor]:
        for address, peer in self._peers().items():
            written = self._written.get(NeighborKey(address))
            mark = _marked(peer)
            if isinstance(written, Neighbor) and mark == fingerprint(written):
                yield written
            else:
                yield _read_neighbor(address, peer)

    def _add_neighbors(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        try:
            peers = self._peers()
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
        if held is not None and _marked(held) == fingerprint(neighbor):
            return
        if held is not None:
            self._remove_neighbor(neighbor.key.address)
        self._client.call("AddPeer", pb.AddPeerRequest(peer=_peer(neighbor, deferral_s)), pb.Nothing)

    def _remove_neighbor(self, address: str) -> None:
        try:
            self._client.call("DeletePeer", pb.DeletePeerRequest(address=address), pb.Nothing)
        except GobgpError as error:
            # Every version has its own words for one that is not there.
            if error.fault is not Fault.REFUSED or address in self._peers():
                raise

    def _deferral_s(self) -> int:
        return self._noted()[2]

    # --- paths -----------------------------------------------------------------------------------------------------

    def _paths(self, families: Iterable[Family]) -> Iterator[Path]:
        for family in families or FAMILIES:
            request = pb.ListPathRequest(
                table_type=self._number(Shifted.TABLE_GLOBAL),
                family=_family(family),
                enable_only_binary=True,
                enable_nlri_binary=True,
                enable_attribute_binary=True,
            )
            for answer in self._client.collect("ListPath", request, pb.ListPathResponse):
                for path in answer.destination.paths:
                    if originated_here(path):
                        yield _read_path(path, family)

    def _announce(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        """Send paths as one stream; where it is refused, one by one, to learn which."""
        try:
            paths = [self._path(op.value) for op in ops]
            if len(ops) > 1:
                self._client.send("AddPathStream", self._chunks(paths), pb.Nothing)
                yield from ((op, None) for op in ops)
                return
        except GobgpError as error:
            if error.fault is not Fault.REFUSED:
                yield from ((op, DriverError(f"{op.verb} {_called(op.key)}: {error}")) for op in ops)
                return
        except ValueError:
            pass  # found again below, at the one that has it
        for op in ops:
            yield op, self._attempt(op, self._announce_one)

    def _announce_one(self, op: Op) -> None:
        request = pb.AddPathRequest(table_type=self._number(Shifted.TABLE_GLOBAL), path=self._path(op.value))
        self._client.call("AddPath", request, pb.Nothing)

    def _chunks(self, paths: Sequence[pb.Path]) -> Iterator[pb.AddPathStreamRequest]:
        table = self._number(Shifted.TABLE_GLOBAL)
        for start in range(0, len(paths), _CHUNK):
            yield pb.AddPathStreamRequest(table_type=table, paths=paths[start : start + _CHUNK])

    def _withdraw(self, key: PathKey) -> None:
        # Some versions want complete attributes to withdraw, though they look at the prefix alone.
        next_hop = "::" if key.family is Family.IPV6 else "0.0.0.0"  # noqa: S104 (no listening here)
        path = self._path(Path(key, next_hop))
        path.is_withdraw = True
        request = pb.DeletePathRequest(
            table_type=self._number(Shifted.TABLE_GLOBAL), family=_family(key.family), path=path
        )
        self._client.call("DeletePath", request, pb.Nothing)

    @staticmethod
    def _path(path: Object | None) -> pb.Path:
        assert isinstance(path, Path)
        prefix = path.key.prefix
        return pb.Path(
            family=_family(path.key.family),
            nlri_binary=wire.encode_prefix(prefix),
            pattrs_binary=wire.encode(
                prefix, path.next_hop, communities=path.communities, local_preference=path.local_preference
            ),
        )

    # --- policies --------------------------------------------------------------------------------------------------

    def _policies(self) -> Iterator[RoutePolicy]:
        sets = self._sets()
        policies = {
            answer.policy.name: answer.policy
            for answer in self._client.collect("ListPolicy", pb.ListPolicyRequest(), pb.ListPolicyResponse)
        }
        for direction in DIRECTIONS:
            assignment = self._assignment(direction)
            if assignment is None or not assignment.policies:
                continue
            names = [policy.name for policy in assignment.policies]
            statements = [one for name in names if name in policies for one in policies[name].statements]
            yield RoutePolicy(
                RoutePolicyKey(direction),
                tuple(_merged(statements, sets)),
                accept_by_default=assignment.default_action == ACCEPT,
            )

    def _assignment(self, direction: str) -> pb.PolicyAssignment | None:
        request = pb.ListPolicyAssignmentRequest(name=GLOBAL_TABLE, direction=DIRECTIONS[direction])
        answers = self._client.collect("ListPolicyAssignment", request, pb.ListPolicyAssignmentResponse)
        return answers[0].assignment if answers else None

    def _sets(self) -> dict[str, pb.DefinedSet]:
        found = {}
        for kind in (Shifted.SET_PREFIX, Shifted.SET_NEIGHBOR):
            request = pb.ListDefinedSetRequest(defined_type=self._number(kind))
            for answer in self._client.collect("ListDefinedSet", request, pb.ListDefinedSetResponse):
                found[answer.defined_set.name] = answer.defined_set
        return found

    def _assign(self, policy: RoutePolicy) -> None:
        direction = policy.key.direction
        assignment = self._assignment(direction)
        name = f"{_POLICY_PREFIX}{direction}-{_content(policy)}"
        held = [one.name for one in assignment.policies] if assignment is not None else []
        action = ACCEPT if policy.accept_by_default else REJECT
        if held != [name] or assignment is None or assignment.default_action != action:
            self._build(policy, name)
            wanted = pb.PolicyAssignment(
                name=GLOBAL_TABLE,
                direction=DIRECTIONS[direction],
                policies=[pb.Policy(name=name)],
                default_action=action,
            )
            self._client.call("SetPolicyAssignment", pb.SetPolicyAssignmentRequest(assignment=wanted), pb.Nothing)
            self._reset(Shifted.RESET_IN if direction == "import" else Shifted.RESET_OUT)
        self._sweep()

    def _unassign(self, direction: str) -> None:
        """Return to the state of a fresh speaker, which accepts everything."""
        if self._speaker() is None:
            return
        if getattr(self._assignment(direction), "policies", ()):
            empty = pb.PolicyAssignment(name=GLOBAL_TABLE, direction=DIRECTIONS[direction], default_action=ACCEPT)
            self._client.call("SetPolicyAssignment", pb.SetPolicyAssignmentRequest(assignment=empty), pb.Nothing)
        self._sweep()

    def _build(self, policy: RoutePolicy, name: str) -> None:
        """Make a version with its sets; parts that are there from a try that was cut short are taken as they are."""
        sets = self._sets()
        statements = []
        for index, statement in enumerate(policy.statements):
            for made in _statements(statement, f"{name}-{index:03d}", self._number):
                for wanted in made.sets:
                    if wanted.name not in sets:
                        self._client.call("AddDefinedSet", pb.AddDefinedSetRequest(defined_set=wanted), pb.Nothing)
                        sets[wanted.name] = wanted
                statements.append(made.statement)
        known = self._client.collect("ListPolicy", pb.ListPolicyRequest(), pb.ListPolicyResponse)
        if name not in {answer.policy.name for answer in known}:
            request = pb.AddPolicyRequest(policy=pb.Policy(name=name, statements=statements))
            self._client.call("AddPolicy", request, pb.Nothing)

    def _reset(self, direction: Shifted) -> None:
        """Let every established session judge again what it knows; none goes down."""
        for address, peer in self._peers().items():
            if peer.state.session_state == _ESTABLISHED:
                request = pb.ResetPeerRequest(address=address, soft=True, direction=self._number(direction))
                self._client.call("ResetPeer", request, pb.Nothing)

    def _sweep(self) -> None:
        """Delete versions and sets that nothing uses."""
        used = {
            policy.name for direction in DIRECTIONS for policy in getattr(self._assignment(direction), "policies", ())
        }
        used_sets: set[str] = set()
        for answer in self._client.collect("ListPolicy", pb.ListPolicyRequest(), pb.ListPolicyResponse):
            policy = answer.policy
            if policy.name in used:
                for statement in policy.statements:
                    used_sets |= {statement.conditions.prefix_set.name, statement.conditions.neighbor_set.name}
            else:
                self._client.call("DeletePolicy", pb.DeletePolicyRequest(policy=policy, all=True), pb.Nothing)
        for name, unused in self._sets().items():
            if name not in used_sets and not name.startswith(_NOTE_PREFIX):
                request = pb.DeleteDefinedSetRequest(defined_set=unused, all=True)
                self._client.call("DeleteDefinedSet", request, pb.Nothing)

    def _number(self, value: Shifted) -> int:
        return self._client.dialect.number(value)


# --- speaker and families ---------------------------------------------------------------------------------------------

_FAMILY_NUMBERS: Final = {Family.IPV4: 0, Family.IPV6: 1}
"""Global.families counts GoBGP's own list of families (IntToAfiSafiTypeMap), not AFI and SAFI."""
_NOTE_PREFIX: Final = "kr-speaker-"
_ESTABLISHED: Final = 6


def _family(family: Family) -> pb.Family:
    return pb.Family(afi=wire.AFI[family], safi=wire.UNICAST)


def _fixed(speaker: Speaker) -> tuple[object, ...]:
    """Return what a running speaker cannot change."""
    addresses = tuple(sorted(speaker.listen_addresses))
    return speaker.asn, speaker.router_id, speaker.listen_port, addresses, tuple(sorted(speaker.families))


def _noted(speaker: Speaker) -> tuple[tuple[Family, ...], int, int]:
    return tuple(sorted(speaker.families)), speaker.graceful_restart_s, speaker.deferral_s


# --- neighbors --------------------------------------------------------------------------------------------------------


def fingerprint(neighbor: Neighbor) -> str:
    """Return what stands in a neighbor's description for all that it was made from."""
    return digest(_LAYOUT, repr(msgspec.structs.astuple(neighbor)), length=_DIGEST)


def _marked(peer: pb.Peer) -> str:
    _, mark, text = peer.conf.description.rpartition(_MARK)
    return text if mark else ""


def _peer(neighbor: Neighbor, deferral_s: int) -> pb.Peer:
    restart = neighbor.graceful_restart_s > 0
    return pb.Peer(
        conf=pb.PeerConf(
            neighbor_address=neighbor.key.address,
            peer_asn=neighbor.asn,
            auth_password=neighbor.password,
            description=f"{neighbor.description}{_MARK}{fingerprint(neighbor)}",
        ),
        ebgp_multihop=pb.EbgpMultihop(enabled=neighbor.multihop_ttl > 0, multihop_ttl=neighbor.multihop_ttl),
        route_reflector=pb.RouteReflector(
            route_reflector_client=neighbor.reflector_client,
            route_reflector_cluster_id=neighbor.reflector_cluster,
        ),
        timers=pb.Timers(
            config=pb.TimersConfig(
                connect_retry=neighbor.connect_retry_s,
                hold_time=neighbor.hold_time_s,
                keepalive_interval=max(1, neighbor.hold_time_s // 3),
                idle_hold_time_after_reset=_IDLE_HOLD_S,
            )
        ),
        transport=pb.Transport(
            local_address=neighbor.local_address,
            remote_port=neighbor.port,
            passive_mode=neighbor.passive,
        ),
        graceful_restart=pb.GracefulRestart(
            enabled=restart,
            restart_time=neighbor.graceful_restart_s,
            # Without it GoBGP does not claim to forward while it restarts, and helpers drop our routes at once.
            local_restarting=restart,
            deferral_time=deferral_s if restart else 0,
        ),
        afi_safis=[
            pb.AfiSafi(
                config=pb.AfiSafiConfig(family=_family(family), enabled=True),
                mp_graceful_restart=pb.MpGracefulRestart(config=pb.MpGracefulRestartConfig(enabled=restart)),
            )
            for family in neighbor.families
        ],
    )


def _read_neighbor(address: str, peer: pb.Peer) -> Neighbor:
    conf, timers, transport = peer.conf, peer.timers.config, peer.transport
    reflector = peer.route_reflector
    afis = {one.config.family.afi for one in peer.afi_safis}
    description = conf.description.rpartition(_MARK)[0] if _marked(peer) else conf.description
    return Neighbor(
        NeighborKey(address),
        asn=conf.peer_asn,
        local_address=transport.local_address,
        port=transport.remote_port,
        families=tuple(family for family in FAMILIES if wire.AFI[family] in afis),
        description=description,
        hold_time_s=timers.hold_time,
        connect_retry_s=timers.connect_retry,
        passive=transport.passive_mode,
        multihop_ttl=peer.ebgp_multihop.multihop_ttl if peer.ebgp_multihop.enabled else 0,
        graceful_restart_s=peer.graceful_restart.restart_time if peer.graceful_restart.enabled else 0,
        reflector_client=reflector.route_reflector_client,
        # Without a client GoBGP 4 says "invalid IP" here.
        reflector_cluster=reflector.route_reflector_cluster_id if reflector.route_reflector_client else "",
        password=conf.auth_password,
    )


# --- paths ------------------------------------------------------------------------------------------------------------


def _read_path(path: pb.Path, family: Family) -> Path:
    attributes = wire.decode(path.pattrs_binary)
    return Path(
        PathKey(wire.decode_prefix(path.nlri_binary, family)),
        next_hop=attributes.next_hop,
        communities=attributes.communities,
        local_preference=attributes.local_preference,
    )


# --- policies ---------------------------------------------------------------------------------------------------------


class _Made(msgspec.Struct, frozen=True):
    """One statement for GoBGP with the sets it names."""

    statement: pb.Statement
    sets: tuple[pb.DefinedSet, ...]


def _content(policy: RoutePolicy) -> str:
    return digest(_LAYOUT, repr(msgspec.structs.astuple(_plain(policy))))


def _statements(statement: PolicyStatement, name: str, number: Callable[[Shifted], int]) -> Iterator[_Made]:
    """Yield a statement as GoBGP has it: one a family, since its prefix sets hold one; none where a set is empty."""
    if statement.neighbors == () or statement.prefixes == ():
        return
    neighbors = _neighbor_set(statement.neighbors, number) if statement.neighbors is not None else None
    groups: list[pb.DefinedSet | None] = [None]
    if statement.prefixes is not None:
        groups = [
            _prefix_set([one for one in statement.prefixes if family_of(one.prefix) is family], family, number)
            for family in FAMILIES
            if any(family_of(one.prefix) is family for one in statement.prefixes)
        ]
    for index, prefixes in enumerate(groups):
        conditions = pb.Conditions(route_type=ROUTE_TYPE_LOCAL if statement.originated_here else 0)
        for wanted, field in ((prefixes, conditions.prefix_set), (neighbors, conditions.neighbor_set)):
            if wanted is not None:
                field.CopyFrom(pb.MatchSet(type=number(Shifted.MATCH_ANY), name=wanted.name))
        made = pb.Statement(name=f"{name}-{index}", conditions=conditions, actions=_actions(statement, number))
        yield _Made(made, tuple(one for one in (prefixes, neighbors) if one is not None))


def _neighbor_set(neighbors: Sequence[str], number: Callable[[Shifted], int]) -> pb.DefinedSet:
    members = sorted(neighbors)
    name = f"{_POLICY_PREFIX}neighbors-{digest(*members)}"
    return pb.DefinedSet(defined_type=number(Shifted.SET_NEIGHBOR), name=name, list=members)


def _prefix_set(prefixes: Sequence[PrefixMatch], family: Family, number: Callable[[Shifted], int]) -> pb.DefinedSet:
    members = sorted(prefixes)
    text = (f"{one.prefix} {one.low}..{one.high}" for one in members)
    return pb.DefinedSet(
        defined_type=number(Shifted.SET_PREFIX),
        name=f"{_POLICY_PREFIX}prefixes{family.suffix}-{digest(*text)}",
        prefixes=[
            pb.Prefix(ip_prefix=one.prefix, mask_length_min=one.low, mask_length_max=one.high) for one in members
        ],
    )


def _actions(statement: PolicyStatement, number: Callable[[Shifted], int]) -> pb.Actions:
    actions = pb.Actions(route_action=ACCEPT if statement.accept else REJECT)
    if not statement.accept:
        return actions
    if statement.communities:
        texts = [wire.community_text(wire.community(text)) for text in statement.communities]
        actions.community.CopyFrom(pb.CommunityAction(type=number(Shifted.COMMUNITY_ADD), communities=texts))
    if statement.prepend_count:
        actions.as_prepend.CopyFrom(pb.AsPrependAction(asn=statement.prepend_asn, repeat=statement.prepend_count))
    if statement.next_hop_self:
        actions.nexthop.CopyFrom(pb.NexthopAction(own=True))
    return actions


def _merged(statements: Iterable[pb.Statement], sets: Mapping[str, pb.DefinedSet]) -> Iterator[PolicyStatement]:
    """Yield statements as they were wanted: those of both families that came from one become one again."""
    for _, parts in groupby(statements, key=lambda statement: statement.name.rpartition("-")[0]):
        first, *rest = (_read_statement(part, sets) for part in parts)
        prefixes = first.prefixes
        for other in rest:
            prefixes = (*(prefixes or ()), *(other.prefixes or ()))
        yield msgspec.structs.replace(first, prefixes=prefixes)


def _read_statement(statement: pb.Statement, sets: Mapping[str, pb.DefinedSet]) -> PolicyStatement:
    conditions, actions = statement.conditions, statement.actions
    neighbors = sets.get(conditions.neighbor_set.name) if conditions.neighbor_set.name else None
    prefixes = sets.get(conditions.prefix_set.name) if conditions.prefix_set.name else None
    return PolicyStatement(
        accept=actions.route_action == ACCEPT,
        neighbors=tuple(sorted(neighbors.list)) if neighbors is not None else None,
        prefixes=tuple(
            sorted(PrefixMatch(one.ip_prefix, one.mask_length_min, one.mask_length_max) for one in prefixes.prefixes)
        )
        if prefixes is not None
        else None,
        communities=tuple(actions.community.communities),
        prepend_asn=actions.as_prepend.asn,
        prepend_count=actions.as_prepend.repeat,
        next_hop_self=actions.nexthop.own,
        originated_here=conditions.route_type == ROUTE_TYPE_LOCAL,
    )


# --- comparing --------------------------------------------------------------------------------------------------------


def _plain(value: Object) -> Object:
    """Return a value in the one spelling in which written and read ones are compared."""
    match value:
        case RoutePolicy(statements=statements):
            plain = (_plain_statement(one) for one in statements)
            return msgspec.structs.replace(value, statements=tuple(one for one in plain if one is not None))
        case Path(communities=communities):
            texts = tuple(wire.community_text(wire.community(text)) for text in communities)
            return msgspec.structs.replace(value, communities=texts)
        case _:
            return value


def _plain_statement(statement: PolicyStatement) -> PolicyStatement | None:
    if statement.neighbors == () or statement.prefixes == ():
        return None
    communities = tuple(wire.community_text(wire.community(text)) for text in statement.communities)
    return msgspec.structs.replace(
        statement,
        neighbors=None if statement.neighbors is None else tuple(sorted(statement.neighbors)),
        prefixes=None if statement.prefixes is None else tuple(sorted(statement.prefixes)),
        communities=communities if statement.accept else (),
        prepend_asn=statement.prepend_asn if statement.prepend_count else 0,
    )


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
