"""Objects as people see them: what is wanted, what stands, who wants it, and why something is not there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from msgspec import Struct

import proxy.frontends
from kuberouterpy import __version__
from kuberouterpy.answers.subjects import UnknownSubject
from kuberouterpy.cluster import Endpoint, Ref, Service
from kuberouterpy.dataplane import (
    KIND_OF_KEY,
    KINDS,
    Chain,
    Key,
    Note,
    Object,
    Owner,
    RealServerKey,
    VirtualServerKey,
)
from kuberouterpy.loop import Loop
from kuberouterpy.text import kind_of, line, name_of, word_of

_ORDER: Final = {kind: index for index, kind in enumerate(KINDS)}


class View(Struct, frozen=True, omit_defaults=True):
    """One object: what is wanted, what stands, who wants it."""

    kind: str
    """virtual, real, chain, set, entry, route, ..."""
    name: str
    """As people write it; with ``kind`` it names one object."""
    state: str
    """``ok``, ``missing`` (wanted, not there), ``differs``, ``extra`` (there, not wanted)."""
    owners: tuple[str, ...] = ()
    """Who wants it; the first decides its value."""
    wanted: str = ""
    """The wanted value as one line; a chain's rules follow in ``rules``."""
    actual: str = ""
    """What stands, as one line."""
    error: str = ""
    """What the kernel or GoBGP said last, where the last try failed."""
    attempt: int = 0
    """How often it was tried since its wanted value last changed."""
    retry_in_s: float = 0.0
    """Seconds until the next try."""
    about: dict[str, str] = {}
    """For people: service, port, vip, pod, node, note."""
    rules: tuple[RuleView, ...] = ()
    """Of a chain, in order."""
    used_by: tuple[str, ...] = ()
    """Objects that cannot be without it."""


class RuleView(Struct, frozen=True):
    """One rule of a chain."""

    rule: str
    """Match and target as iptables reads them."""
    reason: str
    """Why it is there."""


class NoteView(Struct, frozen=True):
    """Why something is not there."""

    owner: str
    subject: str
    reason: str


class Objects(Struct, frozen=True):
    """Answer to /v1/objects."""

    node: str
    version: str
    objects: tuple[View, ...]
    notes: tuple[NoteView, ...] = ()


def objects(loop: Loop, kinds: Collection[str] = (), *, now: float) -> Objects:
    """Return every object of some kinds (of all, where none is named), and the notes of their owners.

    Errors: UnknownSubject names a kind that is none.
    """
    words = {word_of(kind): kind for kind in KINDS}
    for kind in kinds:
        if kind not in words:
            raise UnknownSubject(f"no kind of object is called {kind}; there are {', '.join(words)}")
    wanted = {words[kind] for kind in kinds} or set(KINDS)
    keys = in_order(key for key in loop.tracker.known() if KIND_OF_KEY[type(key)] in wanted)
    viewer = Viewer(loop, now)
    return Objects(loop.config.node_name, __version__, tuple(map(viewer.view, keys)), tuple(notes(loop)))


def notes(loop: Loop) -> Iterator[NoteView]:
    """Yield every reason for something that is not there."""
    for owner, held in sorted(loop.notes.items()):
        for note in held:
            if isinstance(note, Note):
                yield NoteView(str(owner), note.subject, note.reason)


class Viewer:
    """Makes views, remembering what it found out about each Service."""

    def __init__(self, loop: Loop, now: float) -> None:
        self._loop = loop
        self._now = now
        self._frontends: dict[Ref, dict[tuple[str, str, int], dict[str, str]]] = {}
        self._endpoints: dict[Ref, dict[str, Endpoint]] = {}

    def view(self, key: Key) -> View:
        """Return all that is known of one object."""
        told = self._loop.tracker.explain(key)
        wanted = told.wanted_by[0][1] if told.wanted_by else None
        failure = told.failure
        return View(
            kind=kind_of(key),
            name=name_of(key),
            state=_state(wanted, told.actual),
            owners=tuple(str(owner) for owner, _ in told.wanted_by),
            wanted=summary(wanted),
            actual=summary(told.actual),
            error=failure.error if failure else "",
            attempt=failure.attempt if failure else 0,
            retry_in_s=round(max(0.0, failure.retry_at - self._now), 1) if failure else 0.0,
            about=self._about(key, told.wanted_by[0][0]) if told.wanted_by else {},
            rules=_rules(wanted or told.actual),
        )

    def _about(self, key: Key, owner: Owner) -> dict[str, str]:
        if owner.controller != "proxy" or owner.kind != "service":
            return {}
        namespace, _, name = owner.name.partition("/")
        service = self._loop.store.services.get(Ref(namespace, name))
        match key:
            case VirtualServerKey() if service:
                return {"service": owner.name, **self._frontend(service, key)}
            case RealServerKey(server, address, _) if service:
                return {"service": owner.name, **self._frontend(service, server), **self._endpoint(service, address)}
            case _:
                return {"service": owner.name}

    def _frontend(self, service: Service, key: VirtualServerKey) -> dict[str, str]:
        known = self._frontends.get(service.ref)
        if known is None:
            listening, _ = proxy.frontends.listening(service, self._loop.host, self._loop.config)
            known = self._frontends[service.ref] = {
                (one.port.protocol, one.address, one.number): _about_frontend(one) for one in reversed(listening)
            }
        if key.fwmark:
            return {"vip": "short-circuit"}
        return known.get((key.protocol, key.address, key.port), {})

    def _endpoint(self, service: Service, address: str) -> dict[str, str]:
        known = self._endpoints.get(service.ref)
        if known is None:
            known = self._endpoints[service.ref] = {
                one.address: one for piece in self._loop.store.slices_of(service.ref) for one in piece.endpoints
            }
        one = known.get(address)
        if one is None:
            return {}
        state = "terminating" if one.terminating else "" if one.ready else "not ready"
        found = {"pod": str(one.pod) if one.pod else "", "node": one.node or "", "note": state}
        return {word: text for word, text in found.items() if text}


def summary(value: Object | None) -> str:
    """Return an object's value as one line without kind and name; a chain's is how many rules it has."""
    match value:
        case None:
            return ""
        case Chain():
            return f"{len(value.rules)} rules"
        case _:
            head = f"{kind_of(value.key):<9} {name_of(value.key)}"
            return line(value).removeprefix(head).strip() or "present"


def _about_frontend(frontend: proxy.frontends.Frontend) -> dict[str, str]:
    port = {"port": frontend.port.name} if frontend.port.name else {}
    return {"vip": str(frontend.vip), **port}


def _state(wanted: Object | None, actual: Object | None) -> str:
    if wanted is None:
        return "extra"
    if actual is None:
        return "missing"
    return "ok" if wanted == actual else "differs"


def _rules(value: Object | None) -> tuple[RuleView, ...]:
    if not isinstance(value, Chain):
        return ()
    return tuple(RuleView(" ".join((*rule.match, "-j", *rule.target)), rule.reason) for rule in value.rules)


def in_order(keys: Iterable[Key]) -> list[Key]:
    return sorted(keys, key=lambda key: (_ORDER[KIND_OF_KEY[type(key)]], key))
