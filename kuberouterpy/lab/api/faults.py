"""Faults to order: what a network or a bad API server does to a client, switched on and off at run time.

::

    curl -X POST   $SERVER/lab/faults -d '[{"kind": "status", "status": 429, "retry_after": 2, "resource": "pods", "count": 3}]'
    curl -X DELETE $SERVER/lab/faults

====================  ==========================================================================================
``drop``              close the connection without an answer
``delay``             wait ``seconds`` before answering
``status``            answer ``status`` (429 and 503 with Retry-After when ``retry_after`` is given)
``truncate``          say the true length, send half of the body, close
``garbage``           answer 200 with something that is no JSON
``hang``              never answer, keep the connection open
``cut``               break watches off after ``after`` events, those already running included
``mute``              keep watches open after ``after`` events but say nothing more (a half-open connection)
====================  ==========================================================================================
"""

from __future__ import annotations

import random
import re
import threading
from typing import Any, Final

import msgspec

from kuberouterpy.lab.api.errors import JsonObject, bad_request

KINDS: Final = ("drop", "delay", "status", "truncate", "garbage", "hang", "cut", "mute")
WATCH_KINDS: Final = frozenset({"cut", "mute"})
"""Kinds that act on a running watch, not on a request."""


class Sight(msgspec.Struct, frozen=True, eq=False):
    """What of a request a fault can be aimed at."""

    method: str
    """HTTP method."""
    path: str
    """Path, query included."""
    verb: str
    """API verb, ``watch`` among them."""
    resource: str
    """Plural, empty for paths that are no resource."""
    agent: str
    """User-Agent."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fault and what it is aimed at; a condition left out matches everything."""

    kind: str
    """One of ``KINDS``."""
    method: str = ""
    """HTTP method."""
    path: str = ""
    """Regular expression found in path and query."""
    verb: str = ""
    """API verb."""
    resource: str = ""
    """Plural."""
    agent: str = ""
    """Regular expression found in the User-Agent."""
    probability: float = 1.0
    """How often it strikes."""
    count: int = 0
    """How many times it strikes; 0 for ever."""
    seconds: float = 1.0
    """Length of a delay."""
    status: int = 500
    """HTTP status."""
    retry_after: int = 0
    """Retry-After header in seconds; 0 for none."""
    message: str = ""
    """Message of the Status."""
    after: int = 0
    """Events a watch delivers before it is cut or muted."""

    def aims_at(self, sight: Sight) -> bool:
        """Return whether the conditions hold."""
        return (
            (not self.method or self.method.upper() == sight.method)
            and (not self.verb or self.verb == sight.verb)
            and (not self.resource or self.resource == sight.resource)
            and (not self.path or re.search(self.path, sight.path) is not None)
            and (not self.agent or re.search(self.agent, sight.agent) is not None)
        )


class Faults:
    """The faults in force. Threads may share it."""

    def __init__(self, *, rng: random.Random | None = None) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._left: dict[int, int] = {}
        self._struck: dict[int, set[int]] = {}
        self._rng = rng or random.Random()

    def add(self, wanted: Any) -> None:
        """Add faults from JSON (one or a list). Errors: 400."""
        wanted = wanted if isinstance(wanted, list) else [wanted]
        try:
            faults = msgspec.convert(wanted, list[Fault])
            for fault in faults:
                if fault.kind not in KINDS:
                    raise ValueError(f"unknown kind {fault.kind!r}, known: {', '.join(KINDS)}")
                re.compile(fault.path)
                re.compile(fault.agent)
        except (msgspec.ValidationError, ValueError, re.error) as error:
            raise bad_request(f"fault: {error}") from error
        with self._lock:
            for fault in faults:
                self._faults.append(fault)
                self._left[id(fault)] = fault.count
                self._struck[id(fault)] = set()

    def clear(self) -> None:
        """Switch everything off."""
        with self._lock:
            self._faults.clear()
            self._left.clear()
            self._struck.clear()

    def shown(self) -> list[JsonObject]:
        """Return the faults in force."""
        with self._lock:
            return [msgspec.to_builtins(fault) for fault in self._faults]

    def strike(self, sight: Sight) -> list[Fault]:
        """Return the faults that strike this request: any delays, and at most one of the rest."""
        if not self._faults:
            return []
        struck: list[Fault] = []
        with self._lock:
            for fault in list(self._faults):
                if fault.kind in WATCH_KINDS or not fault.aims_at(sight) or self._rng.random() >= fault.probability:
                    continue
                if fault.kind != "delay" and any(one.kind != "delay" for one in struck):
                    continue
                self._use(fault)
                struck.append(fault)
        return struck

    def cuts(self, sight: Sight, sent: int) -> bool:
        """Return whether this watch is to be broken off now."""
        return self._on_watch("cut", sight, sent)

    def mutes(self, sight: Sight, sent: int) -> bool:
        """Return whether this watch is to say nothing more."""
        return self._on_watch("mute", sight, sent)

    def room(self, sight: Sight, sent: int) -> int | None:
        """Return how many events this watch may still deliver; None for any number."""
        if not self._faults:
            return None
        with self._lock:
            limits = [fault.after for fault in self._faults if fault.kind in WATCH_KINDS and fault.aims_at(sight)]
        return max(0, min(limits) - sent) if limits else None

    def _on_watch(self, kind: str, sight: Sight, sent: int) -> bool:
        if not self._faults:
            return False
        with self._lock:
            for fault in list(self._faults):
                if fault.kind != kind or sent < fault.after or not fault.aims_at(sight):
                    continue
                if id(sight) in self._struck[id(fault)]:
                    return True
                if self._rng.random() < fault.probability:
                    self._struck[id(fault)].add(id(sight))
                    if kind == "cut":
                        self._use(fault)
                    return True
        return False

    def _use(self, fault: Fault) -> None:
        """Count a strike; a fault that is used up is gone."""
        if not fault.count:
            return
        self._left[id(fault)] -= 1
        if self._left[id(fault)] <= 0:
            self._faults.remove(fault)
            del self._left[id(fault)]
            del self._struck[id(fault)]
