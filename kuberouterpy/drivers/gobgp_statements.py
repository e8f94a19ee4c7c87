"""Statements of a routing policy as GoBGP has them, and read back: pure conversions.

GoBGP's prefix sets hold one family, so a statement with prefixes of both becomes two; :func:`merged` makes them one again.
A set is named by a digest of its members: equal sets of two statements or two versions are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

import msgspec

from kuberouterpy.dataplane import PolicyStatement, PrefixMatch, RoutePolicy
from kuberouterpy.family import FAMILIES, Family, family_of
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp import wire
from kuberouterpy.gobgp.dialect import ACCEPT, REJECT, ROUTE_TYPE_INTERNAL, ROUTE_TYPE_LOCAL, Shifted
from kuberouterpy.names import digest

PREFIX: Final = "kr-"
"""Begins the names of policies and sets."""
_LAYOUT: Final = "1"
"""Part of every digest: raise it when a statement is written in another way, so that old ones are replaced."""


class Made(msgspec.Struct, frozen=True):
    """One statement for GoBGP with the sets it names."""

    statement: pb.Statement
    sets: tuple[pb.DefinedSet, ...]


def content(policy: RoutePolicy) -> str:
    """Return a digest of all that a policy says."""
    return digest(_LAYOUT, repr(msgspec.structs.astuple(plain(policy))))


def statements(statement: PolicyStatement, name: str, number: Callable[[Shifted], int]) -> Iterator[Made]:
    """Yield a statement as GoBGP has it: one a family, since its prefix sets hold one; none where a set is empty."""
    if statement.neighbors == () or statement.prefixes == ():
        return
    neighbors = neighbor_set(statement.neighbors, number) if statement.neighbors is not None else None
    groups: list[pb.DefinedSet | None] = [None]
    if statement.prefixes is not None:
        groups = [
            _prefix_set([one for one in statement.prefixes if family_of(one.prefix) is family], family, number)
            for family in FAMILIES
            if any(family_of(one.prefix) is family for one in statement.prefixes)
        ]
    for index, prefixes in enumerate(groups):
        conditions = pb.Conditions(route_type=_route_type(statement))
        for wanted, field in ((prefixes, conditions.prefix_set), (neighbors, conditions.neighbor_set)):
            if wanted is not None:
                field.CopyFrom(pb.MatchSet(type=number(Shifted.MATCH_ANY), name=wanted.name))
        made = pb.Statement(name=f"{name}-{index}", conditions=conditions, actions=_actions(statement, number))
        yield Made(made, tuple(one for one in (prefixes, neighbors) if one is not None))


def _route_type(statement: PolicyStatement) -> int:
    if statement.originated_here:
        return ROUTE_TYPE_LOCAL
    return ROUTE_TYPE_INTERNAL if statement.learned_inside else 0


def neighbor_set(neighbors: Sequence[str], number: Callable[[Shifted], int]) -> pb.DefinedSet:
    """Return the set of these neighbors."""
    members = sorted(neighbors)
    name = f"{PREFIX}neighbors-{digest(*members)}"
    return pb.DefinedSet(defined_type=number(Shifted.SET_NEIGHBOR), name=name, list=members)


def _prefix_set(prefixes: Sequence[PrefixMatch], family: Family, number: Callable[[Shifted], int]) -> pb.DefinedSet:
    members = sorted(prefixes)
    text = (f"{one.prefix} {one.low}..{one.high}" for one in members)
    return pb.DefinedSet(
        defined_type=number(Shifted.SET_PREFIX),
        name=f"{PREFIX}prefixes{family.suffix}-{digest(*text)}",
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


def merged(statements: Iterable[pb.Statement], sets: Mapping[str, pb.DefinedSet]) -> Iterator[PolicyStatement]:
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
        learned_inside=conditions.route_type == ROUTE_TYPE_INTERNAL,
    )


def plain(policy: RoutePolicy) -> RoutePolicy:
    """Return a policy in the one spelling in which written and read ones are compared."""
    found = (_plain_statement(one) for one in policy.statements)
    return msgspec.structs.replace(policy, statements=tuple(one for one in found if one is not None))


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
