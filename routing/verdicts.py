"""What a policy decides about one path, and by which statement: GoBGP's own judgement, told without asking it."""

from __future__ import annotations

from typing import NamedTuple

from kuberouterpy.dataplane import PolicyStatement, PrefixMatch, RoutePolicy
from kuberouterpy.family import family_of
from routing.prefixes import host_prefix, inside, length


class Verdict(NamedTuple):
    """A decision with its reason."""

    accepted: bool
    because: str
    """The statement that decides, for people."""
    communities: tuple[str, ...] = ()
    """Added to the path."""
    prepends: int = 0
    """How often the AS path is prepended."""


def judge(
    policy: RoutePolicy, prefix: str, neighbor: str, *, originated_here: bool = False, learned_inside: bool = False
) -> Verdict:
    """Return what ``policy`` decides about a path to or from a neighbor: the first statement whose conditions all hold."""
    for number, statement in enumerate(policy.statements, 1):
        if statement.originated_here and not originated_here:
            continue
        if statement.learned_inside and not learned_inside:
            continue
        if statement.neighbors is not None and host_prefix(neighbor) not in statement.neighbors:
            continue
        found = _match(prefix, statement)
        if found is None:
            continue
        word = "accepts" if statement.accept else "refuses"
        because = f"{policy.key.direction} statement {number} {word} {found}"
        return Verdict(statement.accept, because, statement.communities, statement.prepend_count)
    word = "accepts" if policy.accept_by_default else "refuses"
    return Verdict(policy.accept_by_default, f"no {policy.key.direction} statement is about it, the default {word}")


def _match(prefix: str, statement: PolicyStatement) -> str | None:
    """Return which prefixes of a statement hold ``prefix``, for people; ``None``: none."""
    if statement.prefixes is None:
        return "everything"
    return next((_words(one) for one in statement.prefixes if _holds(one, prefix)), None)


def _holds(match: PrefixMatch, prefix: str) -> bool:
    return bool(inside(prefix, (match.prefix,))) and match.low <= length(prefix) <= match.high


def _words(match: PrefixMatch) -> str:
    if match.low == match.high == length(match.prefix):
        return match.prefix
    if match.low == match.high == family_of(match.prefix).host_prefix:
        return f"hosts of {match.prefix}"
    return f"parts of {match.prefix}"
