"""Label selectors: parse, match, and the value types that indexes are built on.

``None`` and an empty selector differ in the API: an absent selector selects nothing by itself, ``{}`` selects everything.
Here absence is ``None`` and :data:`EVERYTHING` is the selector without terms.
Source: apimachinery ``LabelSelectorAsSelector``; NotIn and DoesNotExist are also true when the key is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct


class Operator(StrEnum):
    """How one term of a selector compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Term(Struct, frozen=True, order=True):
    """One requirement; all terms of a selector must hold."""

    key: str
    """Label key."""
    operator: Operator
    """Comparison."""
    values: tuple[str, ...] = ()
    """Sorted, without repeats; empty for Exists and DoesNotExist."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether this one requirement holds."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None


class Selector(Struct, frozen=True, order=True):
    """A conjunction of terms, in canonical order: equal meaning written alike compares equal."""

    terms: tuple[Term, ...] = ()
    """Sorted; empty matches everything."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether every term holds."""
        return all(term.matches(labels) for term in self.terms)

    def __str__(self) -> str:
        return ",".join(map(_text, self.terms)) or "<all>"


class PodSelector(Struct, frozen=True, order=True, tag="pods"):
    """Which pods a policy peer means: both selectors must hold.

    ``namespaces is None`` restricts to ``namespace``, the policy's own; otherwise namespaces are chosen by their labels and
    ``namespace`` is empty, so that equal selectors of different policies share one set.
    """

    pods: Selector
    """Which pods, by their labels."""
    namespace: str = ""
    """The one namespace meant; empty where ``namespaces`` chooses."""
    namespaces: Selector | None = None
    """Which namespaces, by their labels."""

    def __str__(self) -> str:
        where = f"namespace {self.namespace}" if self.namespaces is None else f"namespaces {self.namespaces}"
        return f"pods {self.pods} in {where}"


EVERYTHING: Final = Selector()
"""Matches every object."""


def selector(match_labels: Mapping[str, str] | None, expressions: tuple[Term, ...] = ()) -> Selector:
    """Return the canonical selector of ``matchLabels`` and ``matchExpressions``."""
    equal = (Term(key, Operator.IN, (value,)) for key, value in (match_labels or {}).items())
    return Selector(tuple(sorted({*equal, *expressions})))


def term(key: str, operator: str, values: tuple[str, ...] = ()) -> Term:
    """Return one canonical term.

    Errors: ValueError for an unknown operator, for In/NotIn without values and for Exists/DoesNotExist with some: the API
    server refuses those, and to guess would be to open or close something nobody asked for.
    """
    try:
        kind = Operator(operator)
    except ValueError:
        raise ValueError(f"selector operator {operator!r} is not one of {', '.join(Operator)}") from None
    if not key:
        raise ValueError(f"selector term with operator {operator} has no key")
    if (kind in {Operator.IN, Operator.NOT_IN}) != bool(values):
        raise ValueError(f"selector operator {operator} on {key!r} has {len(values)} values")
    return Term(key, kind, tuple(sorted(set(values))))


def _text(one: Term) -> str:
    match one.operator:
        case Operator.IN if len(one.values) == 1:
            return f"{one.key}={one.values[0]}"
        case Operator.IN:
            return f"{one.key} in ({','.join(one.values)})"
        case Operator.NOT_IN:
            return f"{one.key} notin ({','.join(one.values)})"
        case Operator.EXISTS:
            return one.key
        case Operator.DOES_NOT_EXIST:
            return f"!{one.key}"
