"""BGP of this node for people: neighbors, paths in both directions, and why a prefix goes where, or does not.

What is wanted, and by which policy, is the model's; the state of sessions is GoBGP's, given by the caller, and unknown where
the question is about a folder of YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from kuberouterpy.answers.subjects import UnknownSubject
from kuberouterpy.answers.views import NoteView
from kuberouterpy.cluster import BestPath, Ref
from kuberouterpy.dataplane import (
    Neighbor,
    Owner,
    Path,
    PathKey,
    Route,
    RouteKey,
    RoutePolicy,
    RoutePolicyKey,
    Speaker,
    SpeakerKey,
)
from kuberouterpy.gobgp.wire import WELL_KNOWN, community_text
from kuberouterpy.host import addresses_of
from kuberouterpy.loop import Loop
from routing import externals
from routing.prefixes import host_prefix, inside, length
from routing.verdicts import Verdict, judge

if TYPE_CHECKING:
    from kuberouterpy.sources.gobgp import NeighborState

States = Sequence["NeighborState"]
_MAIN: Final = 254
_ESTABLISHED: Final = "established"
_NAMES: Final = {community_text(number): name for name, number in WELL_KNOWN.items()}


class NeighborRow(Struct, frozen=True, omit_defaults=True):
    """One neighbor that is wanted, or that was asked for and is not."""

    address: str
    name: str
    """Node, or ``external``."""
    state: str
    """As GoBGP words it: established, active, idle, ...; ``unknown``; ``refused``: asked for and not wanted."""
    asn: int = 0
    port: int = 179
    local_address: str = ""
    since: float = 0.0
    """Unix time of the last change between established and not; 0: never."""
    received: int = 0
    """Prefixes it has told."""
    learned: int = 0
    """Of them, those that are best paths here."""
    password: bool = False
    """The session has one."""
    bfd: str = ""
    """State of BFD: up, down, ...; ``none``: the daemon has none; empty: not asked for."""
    role: str = ""
    """``client``: we reflect to it."""
    max_prefixes: int = 0
    problem: str = ""
    """What is wrong, in words."""
    owner: str = ""

    @property
    def up(self) -> bool:
        """Whether the session is established."""
        return self.state == _ESTABLISHED


class Neighbors(Struct, frozen=True, omit_defaults=True):
    """Answer to /v1/bgp-neighbors; problems first."""

    node: str
    asn: int = 0
    """0: this node has no speaker."""
    router_id: str = ""
    neighbors: tuple[NeighborRow, ...] = ()
    notes: tuple[NoteView, ...] = ()


class RouteRow(Struct, frozen=True, omit_defaults=True):
    """One prefix, announced by this node or learned from others."""

    prefix: str
    direction: str
    """``announced`` or ``learned``."""
    state: str
    """``ok``; ``pending``: on its way to GoBGP or the kernel; ``failing``; ``no-route``: kept out of the kernel."""
    next_hops: tuple[str, ...] = ()
    neighbors: tuple[str, ...] = ()
    """Announced: who is told. Learned: who told."""
    communities: tuple[str, ...] = ()
    local_preference: int = 0
    kernel: str = ""
    """Learned: the route in the kernel, as ``via ADDRESS`` or ``dev LINK``."""
    owner: str = ""
    problem: str = ""


class Routes(Struct, frozen=True, omit_defaults=True):
    """Answer to /v1/bgp-routes; problems first."""

    node: str
    routes: tuple[RouteRow, ...] = ()
    notes: tuple[NoteView, ...] = ()
    """Why something is not announced, or not a route."""


class Judgement(Struct, frozen=True, omit_defaults=True):
    """What the policies say of a prefix and one neighbor."""

    neighbor: str
    name: str
    up: bool
    told: bool
    """It is announced to this neighbor."""
    export: str
    """Which statement of the export policy decides."""
    believed: bool
    """It would be taken from this neighbor."""
    imports: str
    """Which statement of the import policy decides."""
    communities: tuple[str, ...] = ()
    prepends: int = 0


class Why(Struct, frozen=True, omit_defaults=True):
    """Answer to /v1/bgp-why."""

    prefix: str
    asked: str
    announced: RouteRow | None = None
    learned: RouteRow | None = None
    judgements: tuple[Judgement, ...] = ()
    notes: tuple[NoteView, ...] = ()


def neighbors(loop: Loop, states: States) -> Neighbors:
    """Return every neighbor that is wanted, and those that were asked for in vain."""
    speaker = loop.tracker.wanted(SpeakerKey())
    known = {one.address: one for one in states}
    learned = _learned_by(loop)
    rows = [_neighbor(loop, one, known, learned) for one in _wanted(loop)]
    rows += _refused(loop, {row.address for row in rows})
    rows.sort(
        key=lambda row: (not row.problem, row.up, ip_address(row.address).version, ip_address(row.address).packed)
    )
    return Neighbors(
        loop.config.node_name,
        speaker.asn if isinstance(speaker, Speaker) else 0,
        speaker.router_id if isinstance(speaker, Speaker) else "",
        tuple(rows),
        (*_notes(loop, ("base", "node", "peer")), *_without_bfd(rows)),
    )


def _without_bfd(rows: Sequence[NeighborRow]) -> Iterator[NoteView]:
    for row in rows:
        if row.bfd == "none":
            yield NoteView(
                row.owner, row.address, "no-bfd: GoBGP 3 has none, GoBGP 4 has; failures are found by the hold time"
            )


def routes(loop: Loop, states: States = ()) -> Routes:
    """Return every prefix announced or learned."""
    rows = [_announced(loop, one) for one in loop.tracker.wanted_of((Path,)) if isinstance(one, Path)]
    rows += [_learned(loop, one) for one in loop.store.paths]
    rows.sort(key=lambda row: (row.state == "ok", row.direction, *_place(row.prefix)))
    return Routes(loop.config.node_name, tuple(rows), tuple(_notes(loop, ("service", "prefix"))))


def why(loop: Loop, subject: str, states: States = ()) -> Why:
    """Return why a prefix is announced and learned, or is not. An address means the longest prefix known that holds it.

    Errors: UnknownSubject where it is neither.
    """
    asked = _prefix(subject)
    prefix = _known(loop, asked)
    path, best = loop.tracker.wanted(PathKey(prefix)), loop.store.paths.get(Ref("", prefix))
    up = {one.address for one in states if one.established}
    return Why(
        prefix,
        subject,
        _announced(loop, path) if isinstance(path, Path) else None,
        _learned(loop, best) if best is not None else None,
        tuple(_judgement(loop, one, prefix, up, own=path is not None, best=best) for one in _wanted(loop)),
        tuple(_notes_about(loop, prefix)),
    )


BGP: Final[Mapping[str, Callable[[Loop, Mapping[str, Sequence[str]], States], object]]] = {
    "bgp-neighbors": lambda loop, words, states: neighbors(loop, states),
    "bgp-routes": lambda loop, words, states: routes(loop, states),
    "bgp-why": lambda loop, words, states: why(loop, (words.get("prefix") or ("",))[0], states),
}
"""Questions that need the states of sessions, which the agent's source has."""


# --- neighbors --------------------------------------------------------------------------------------------------------


def _wanted(loop: Loop) -> list[Neighbor]:
    found = [one for one in loop.tracker.wanted_of((Neighbor,)) if isinstance(one, Neighbor)]
    return sorted(found, key=lambda one: one.key)


def _neighbor(
    loop: Loop, wanted: Neighbor, states: Mapping[str, NeighborState], learned: Mapping[str, int]
) -> NeighborRow:
    told = loop.tracker.explain(wanted.key)
    state = states.get(wanted.key.address)
    row = NeighborRow(
        wanted.key.address,
        wanted.description,
        state.state if state else "unknown",
        asn=wanted.asn,
        port=wanted.port,
        local_address=wanted.local_address,
        since=state.since if state else 0.0,
        received=state.received if state else 0,
        learned=learned.get(wanted.key.address, 0),
        password=bool(wanted.password),
        bfd=(state.bfd if state else "unknown") if wanted.bfd else "",
        role="client" if wanted.reflector_client else "",
        max_prefixes=wanted.max_prefixes,
        owner=str(told.wanted_by[0][0]),
    )
    if told.failure is not None:
        return _with(row, told.failure.error)
    if state is None or row.up:
        return row
    return _with(row, state.error or ("waits for it to connect" if wanted.passive else "does not answer"))


def _with(row: NeighborRow, problem: str) -> NeighborRow:
    return replace(row, problem=problem)


def _refused(loop: Loop, there: set[str]) -> Iterator[NeighborRow]:
    for peer in externals.peers(loop.host, loop.config):
        if peer.address in there:
            continue
        owner = Owner("routing", "peer", peer.address)
        problem = "; ".join(note.reason for note in loop.notes.get(owner, ()))
        yield NeighborRow(
            peer.address, externals.DESCRIPTION, "refused", peer.asn, peer.port, problem=problem, owner=str(owner)
        )


def _learned_by(loop: Loop) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in loop.store.paths:
        found[path.neighbor] = found.get(path.neighbor, 0) + 1
    return found


# --- routes -----------------------------------------------------------------------------------------------------------


def _announced(loop: Loop, path: Path) -> RouteRow:
    told = loop.tracker.explain(path.key)
    receivers = (one.key.address for one in _wanted(loop) if _export(loop, one, path.key.prefix, own=True).accepted)
    state = "ok" if told.actual == path else "failing" if told.failure else "pending"
    return RouteRow(
        path.key.prefix,
        "announced",
        state,
        (path.next_hop,),
        tuple(receivers),
        tuple(_NAMES.get(one, one) for one in path.communities),
        path.local_preference,
        owner=" and ".join(str(owner) for owner, _ in told.wanted_by),
        problem=told.failure.error if told.failure else "",
    )


def _learned(loop: Loop, path: BestPath) -> RouteRow:
    owner = Owner("routing", "prefix", path.prefix)
    told = loop.tracker.explain(RouteKey(_MAIN, path.prefix))
    problem = "; ".join(note.reason for note in loop.notes.get(owner, ()))
    if not told.wanted_by:
        state = "no-route"
    elif told.failure:
        state, problem = "failing", told.failure.error
    else:
        state = "ok" if told.actual == told.wanted_by[0][1] else "pending"
    return RouteRow(
        path.prefix,
        "learned",
        state,
        path.next_hops,
        (path.neighbor,) if path.neighbor else (),
        kernel=_kernel(told.wanted_by[0][1]) if told.wanted_by else "",
        owner=str(owner),
        problem=problem,
    )


def _kernel(route: object) -> str:
    assert isinstance(route, Route)
    return ", ".join(
        " ".join(filter(None, (hop.gateway and f"via {hop.gateway}", hop.link and f"dev {hop.link}")))
        for hop in route.next_hops
    )


# --- why --------------------------------------------------------------------------------------------------------------


def _judgement(
    loop: Loop, neighbor: Neighbor, prefix: str, up: set[str], *, own: bool, best: BestPath | None
) -> Judgement:
    inside_told = best is not None and _is_node(loop, best.neighbor) and best.neighbor != neighbor.key.address
    export = _export(loop, neighbor, prefix, own=own, inside=inside_told)
    imports = _judge(loop, "import", prefix, neighbor)
    return Judgement(
        neighbor.key.address,
        neighbor.description,
        neighbor.key.address in up,
        export.accepted and (own or inside_told),
        export.because if own or best is not None else "this node does not know it",
        imports.accepted,
        imports.because,
        tuple(_NAMES.get(one, one) for one in export.communities),
        export.prepends,
    )


def _export(loop: Loop, neighbor: Neighbor, prefix: str, *, own: bool, inside: bool = False) -> Verdict:
    return _judge(loop, "export", prefix, neighbor, own=own, inside=inside)


def _judge(
    loop: Loop, direction: str, prefix: str, neighbor: Neighbor, *, own: bool = False, inside: bool = False
) -> Verdict:
    policy = loop.tracker.wanted(RoutePolicyKey(direction))
    if not isinstance(policy, RoutePolicy):
        return Verdict(False, f"there is no {direction} policy yet")
    return judge(policy, prefix, neighbor.key.address, originated_here=own, learned_inside=inside)


def _is_node(loop: Loop, address: str) -> bool:
    return any(address in addresses_of(node) for node in loop.store.nodes.by("address", address))


def _prefix(text: str) -> str:
    try:
        return str(ip_network(text, strict=False)) if "/" in text else host_prefix(str(ip_address(text)))
    except ValueError:
        raise UnknownSubject(
            f"{text!r} is no prefix and no address; write 10.96.0.10, 10.244.1.0/24 or fd00::/64"
        ) from None


def _known(loop: Loop, prefix: str) -> str:
    """Return the longest prefix announced or learned that holds ``prefix``; itself where there is none."""
    paths = (one.key.prefix for one in loop.tracker.wanted_of((Path,)) if isinstance(one, Path))
    holding = [one for one in (*paths, *(one.prefix for one in loop.store.paths)) if inside(prefix, (one,))]
    return max(holding, key=length, default=prefix)


def _notes_about(loop: Loop, prefix: str) -> Iterator[NoteView]:
    for note in _notes(loop, ("node", "service", "prefix")):
        try:
            about = host_prefix(note.subject) if "/" not in note.subject else note.subject
            if inside(prefix, (about,)):
                yield note
        except ValueError:
            continue  # about a Service or an annotation


def _notes(loop: Loop, kinds: Sequence[str]) -> Iterator[NoteView]:
    for owner, held in sorted(loop.notes.items()):
        if owner.controller == "routing" and owner.kind in kinds:
            yield from (NoteView(str(owner), note.subject, note.reason) for note in held)


def _place(prefix: str) -> tuple[int, bytes, int]:
    network = ip_network(prefix)
    return network.version, network.network_address.packed, network.prefixlen
