"""Explanations: who wants a thing, what stands of it, and why what is absent is absent."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kuberouterpy import __version__
from kuberouterpy.answers.facts import facts_of
from kuberouterpy.answers.subjects import FACTS, Subject, UnknownSubject
from kuberouterpy.answers.views import NoteView, View, Viewer, in_order, notes
from kuberouterpy.dataplane import (
    KINDS,
    Chain,
    ChainKey,
    EntryKey,
    Jump,
    Key,
    NeighborKey,
    Object,
    Owner,
    PathKey,
    RouteKey,
    RoutingRuleKey,
    SetKey,
    requires,
)
from kuberouterpy.loop import Loop
from kuberouterpy.text import kind_of, name_of

MOST: Final = 2000
"""Objects in one explanation; the rest is counted."""


class Explained(Struct, frozen=True):
    """Answer about one subject."""

    subject: str
    facts: tuple[str, ...]
    """What the cluster says."""
    objects: tuple[View, ...]
    notes: tuple[NoteView, ...]
    more: int = 0
    """Objects left out."""


class Explanations(Struct, frozen=True):
    """Answer to /v1/explain."""

    node: str
    version: str
    answers: tuple[Explained, ...]


def explain(loop: Loop, subjects: Collection[str], *, now: float) -> Explanations:
    """Return all that is known of each subject.

    Errors: UnknownSubject names the one nothing is known of, and what comes near.
    """
    return Explanations(
        loop.config.node_name, __version__, tuple(explain_one(loop, subject, now=now) for subject in subjects)
    )


def explain_one(loop: Loop, subject: str, *, now: float) -> Explained:
    """Return facts, objects and notes of one subject. Errors: UnknownSubject."""
    asked = Subject(subject)
    owners = _owners(loop, asked)
    # Notes of an owner are all told; of others those that name the subject, or stand for what it is.
    keys = {key for key in loop.tracker.known() if asked.names(key)} | _of_rule(loop, asked.rule)
    for owner in owners:
        keys.update(value.key for value in wanted_by(loop, owner))
    if asked.kind == "pod" and (pod := loop.store.pods.get(asked.ref)) and not pod.host_network:
        others = [Subject(address) for address in pod.addresses]
        keys.update(key for key in loop.tracker.known() if any(other.names(key) for other in others if _is_host(key)))
    facts = [fact for fact in facts_of(loop, asked) if fact]
    told = [note for note in notes(loop) if note.owner in {*map(str, owners)} or asked.noted(note.subject)]
    if not (keys or facts or told):
        raise UnknownSubject(f"nothing is known of {subject}{_near(loop, asked)}")
    users = _users(loop, keys) if any(isinstance(key, ChainKey | SetKey) for key in keys) and len(keys) < 50 else {}
    viewer = Viewer(loop, now)
    ordered = in_order(keys)
    return Explained(
        subject,
        tuple(facts),
        tuple(_used(viewer.view(key), users.get(key, ())) for key in ordered[:MOST]),
        tuple(told),
        max(0, len(ordered) - MOST),
    )


def _of_rule(loop: Loop, rule: str) -> set[Key]:
    """Return the chain or jump that holds a rule by its id, which stands in the rule's comment."""
    found: set[Key] = set()
    for value in loop.tracker.wanted_of((Chain, Jump)) if rule else ():
        match value:
            case Chain(key=key, rules=rules) if any(one.id == rule for one in rules):
                found.add(key)
            case Jump(key=key, rule=one) if one.id == rule:
                found.add(key)
            case _:
                pass
    return found


def _is_host(key: Key) -> bool:
    """Whether a key is of single addresses: a pod's own, not a range it happens to be in."""
    return not isinstance(key, RouteKey | PathKey | RoutingRuleKey)


def _owners(loop: Loop, asked: Subject) -> list[Owner]:
    """Return the owners that a subject names: of a Service, Pod, policy or node, or by an owner's own name."""
    every = dict.fromkeys(loop.tracker.owners()) | dict.fromkeys(loop.notes)
    for controller in loop.controllers.values():
        every |= dict.fromkeys(controller.owners(loop.store, loop.host, loop.config))
    if asked.kind in FACTS:
        name = asked.name if asked.kind == "node" else str(asked.ref)
        return sorted(owner for owner in every if owner.kind == asked.kind and owner.name == name)
    if asked.kind:
        return []
    return sorted(owner for owner in every if asked.name in {str(owner), f"{owner.kind}/{owner.name}"})


def wanted_by(loop: Loop, owner: Owner) -> Iterable[Object]:
    controller = loop.controllers.get(owner.controller)
    return controller.desired(owner, loop.store, loop.host, loop.config).objects if controller else ()


def _users(loop: Loop, keys: Collection[Key]) -> dict[Key, list[str]]:
    """Return what needs each chain or set; entries are part of a set, not users of it."""
    found: dict[Key, list[str]] = {}
    sought = {key for key in keys if isinstance(key, ChainKey | SetKey)}
    for value in loop.tracker.wanted_of(KINDS):
        if isinstance(value.key, EntryKey):
            continue
        for need in requires(value):
            if need in sought and value.key != need:
                found.setdefault(need, []).append(f"{kind_of(value.key)} {name_of(value.key)}")
    return found


def _used(view: View, users: Iterable[str]) -> View:
    return replace(view, used_by=tuple(sorted(users)))


def _near(loop: Loop, asked: Subject) -> str:
    """Return a hint with the names that come near, or an empty string."""
    names: dict[str, str] = {}
    for word, kind in FACTS.items():
        for ref in loop.store.table(kind).refs():
            names[f"{word}/{ref.namespace}/{ref.name}" if ref.namespace else f"{word}/{ref.name}"] = ref.name
    last = asked.name.rpartition("/")[2]
    same = [full for full, name in names.items() if name == last]
    wanted = f"{asked.kind}/{asked.ref.namespace}/{last}" if asked.kind else asked.name
    pool = [*names, *(name_of(key) for key in loop.tracker.known() if isinstance(key, SetKey | NeighborKey))]
    found = same[:3] or difflib.get_close_matches(wanted, pool, n=3, cutoff=0.7)
    if found:
        return f"; did you mean {' or '.join(found)}?"
    return "; ask for service/NAMESPACE/NAME, pod/..., policy/..., an address, ADDRESS:PORT, a prefix, a chain or a set"
