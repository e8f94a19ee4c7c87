"""Gives Services their addresses while it leads: claims first, then the status; on the way out, the status first.

Services are followed by the events of the agent's own source, claims by our own writes; both may be old. They only say *what to
look at*: everything is read again before it is written, in an order that DESIGN.md shows to be safe whoever else writes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from kuberouterpy.balancer.api import CONFLICT, NOT_FOUND, Api
from kuberouterpy.balancer.claims import Book, Claim, Claims
from kuberouterpy.balancer.election import Election
from kuberouterpy.balancer.pools import Choice, choose, is_ours
from kuberouterpy.cluster import Delete, Event, Ref, Replace, Service, Upsert
from kuberouterpy.config import Config
from kuberouterpy.errors import SourceError
from kuberouterpy.log import event as log_event
from kuberouterpy.sources.decode import decode
from kuberouterpy.sources.events import EventType, Occurrence
from kuberouterpy.sources.transport import ApiError

CONDITION: Final = "kube-router.io/AddressAllocated"
"""Condition of a Service that tells which addresses it got, or why none."""
_BACKOFF_S: Final = (0.5, 60.0)
_ROUNDS: Final = 50
"""Addresses tried in one go that turn out to be another's, before the claims are listed again."""
_log = logging.getLogger(__name__)


class Changed(Exception):
    """Something was not as we read it; it is to be looked at again."""


class Allocator:
    """One candidate with all it knows. ``put`` may be called from any thread, the rest from one."""

    def __init__(
        self,
        api: Api,
        config: Config,
        *,
        namespace: str,
        identity: str,
        record: Callable[[Occurrence], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``namespace``: of the Leases. ``identity``: see :class:`Election`. ``record`` takes Events."""
        self._api: Final = api
        self._config: Final = config
        self._record: Final = record
        self._clock: Final = clock
        self._now: Final = now
        self._claiming: Final = Claims(api, namespace)
        self.election: Final = Election(api, namespace, identity, now=now)
        self._inbox: Final[queue.SimpleQueue[Event | None]] = queue.SimpleQueue()
        self._services: dict[Ref, Service] = {}
        self._shown: dict[str, set[Ref]] = {}
        self._claims = Book()
        self._dirty: dict[Ref, None] = {}
        self._retries: dict[Ref, tuple[float, float]] = {}
        self._listed = False
        self._audit_at = float("-inf")
        self._led = False
        self._stop: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self.run, name="balancer", daemon=True)

    # --- the thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to campaign."""
        self._thread.start()

    def stop(self, *, within_s: float = 2.0) -> None:
        """End; another may begin at once. Addresses stay."""
        self._stop.set()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(within_s)

    def put(self, event: Event) -> None:
        """Take an event of the agent's source; those of Services count."""
        self._inbox.put(event)

    def run(self) -> None:
        """Work until stopped."""
        while not self._stop.is_set():
            wait_s = max(0.0, self.turn() - self._clock())
            try:
                self._take(self._inbox.get(timeout=wait_s))
            except queue.Empty:
                continue
        self.election.resign()

    def turn(self) -> float:
        """Take everything in, campaign, do what there is to do; return when to come back at the latest."""
        while not self._inbox.empty():
            self._take(self._inbox.get_nowait())
        leads = self._campaign()
        if leads and self._listed:
            self._audit()
            self._work()
        deadlines = [self.election.next_attempt()]
        if leads:
            deadlines += [self._audit_at, *(at for at, _ in self._retries.values())]
        return min(deadlines)

    def _campaign(self) -> bool:
        leads = self.election.tick(self._clock())
        if leads != self._led:
            self._led = leads
            self._audit_at = float("-inf")  # what was known of claims is of another time
            log_event(_log, logging.INFO, "balancer", reason="leads" if leads else self.election.trouble or "follows")
        return leads

    # --- what is known -------------------------------------------------------------------------------------------

    def _take(self, event: Event | None) -> None:
        match event:
            case Upsert(Service() as service):
                self._know(service.ref, service)
            case Delete(kind, ref) if kind is Service:
                self._know(ref, None)
            case Replace(kind, records, rejected) if kind is Service:
                kept = {one.ref for one in rejected}
                found = {one.ref: one for one in records if isinstance(one, Service)}
                for ref in [ref for ref in self._services if ref not in found and ref not in kept]:
                    self._know(ref, None)
                for ref, service in found.items():
                    self._know(ref, service)
                self._listed = True

    def _know(self, ref: Ref, service: Service | None) -> None:
        before = self._services.pop(ref, None)
        for address in _addresses(before):
            self._shown[address].discard(ref)
        if service is not None:
            self._services[ref] = service
            for address in _addresses(service):
                self._shown.setdefault(address, set()).add(ref)
        if before != service:
            self._dirty[ref] = None

    def _audit(self) -> None:
        """List the claims again where it is time, and look at every Service that is not as it should be."""
        if self._clock() < self._audit_at:
            return
        try:
            self._claims = self._claiming.list()
        except (SourceError, msgspec.DecodeError) as error:
            log_event(_log, logging.WARNING, "balancer", reason="claims not listed", error=error)
            self._audit_at = self._clock() + _BACKOFF_S[0]
            return
        self._audit_at = self._clock() + self._config.loadbalancer_sync_period_s
        self._dirty |= dict.fromkeys((*self._services, *(one.service for one in self._claims)))

    # --- what is done --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        now = self._clock()
        due = [ref for ref, (at, _) in self._retries.items() if at <= now]
        dirty, self._dirty = {**self._dirty, **dict.fromkeys(due)}, {}
        for ref in sorted(dirty):
            if not self._campaign():
                self._dirty |= dirty  # for when we lead again
                return
            if self._is_well(ref):
                self._retries.pop(ref, None)
                continue
            try:
                self._settle(ref)
            except (SourceError, msgspec.DecodeError, Changed) as error:
                self._again(ref, error)
            else:
                self._retries.pop(ref, None)

    def _again(self, ref: Ref, error: Exception) -> None:
        """Look at a Service again later; sooner where somebody was only faster than we."""
        _, wait_s = self._retries.get(ref, (0.0, _BACKOFF_S[0]))
        self._retries[ref] = (self._clock() + wait_s, min(2 * wait_s, _BACKOFF_S[1]))
        log_event(_log, logging.WARNING, "balancer", key=ref, error=error, retry_in_s=wait_s)

    def _is_well(self, ref: Ref) -> bool:
        """Return whether, by all we know, there is nothing to do for a Service."""
        service = self._services.get(ref)
        claims = self._claims.of(ref)
        if service is None or not is_ours(service, self._config):
            return not claims
        if service.deleting:
            return True
        shown = {one.address for one in service.load_balancer}
        held = {claim.address for claim in claims if claim.uid == service.uid and not claim.released}
        choice = self._choose(service)
        return not choice.problem and set(choice.addresses) == shown == held and len(held) == len(claims)

    def _choose(self, service: Service) -> Choice:
        def may_have(address: str) -> bool:
            claim = self._claims.at(address)
            if claim is not None:
                return claim.uid == service.uid and not claim.released
            # Unclaimed, as by an allocator of before: whoever shows it keeps it, and claims it in its turn.
            return address in shown or not self._shown.get(address)

        shown = {one.address for one in service.load_balancer}
        own = [one.address for one in self._claims.of(service.ref)]
        return choose(service, self._config, may_have=may_have, own=own)

    def _settle(self, ref: Ref) -> None:
        """Make a Service's status and claims what they should be.

        Errors: SourceError, or Changed, where it is to be looked at again; then nothing is half done that could do harm.
        """
        raw = self._read(ref)
        service = _decoded(raw) if raw is not None else None
        if raw is not None and service is None:
            return  # unreadable: it keeps what it has
        for claim in self._claims.of(ref):
            if service is None or claim.uid != service.uid:
                self._forget(claim)  # its Service is gone, and its uid will never return
        if raw is None or service is None or service.deleting:
            return  # one that is being deleted keeps its addresses until it is gone
        ours = is_ours(service, self._config)
        choice = self._claimed(service) if ours else Choice()
        surplus = [one for one in self._claims.of(ref) if one.address not in choice.addresses]
        if surplus:
            self._let_go(ref, surplus)
        elif ours:
            self._show(raw, service, choice)

    def _claimed(self, service: Service) -> Choice:
        """Return what a Service is to have, every address of it claimed for it *after* the Service was read."""
        for _ in range(_ROUNDS):
            choice = self._choose(service)
            if all(self._hold(address, service) for address in choice.addresses):
                return choice
        self._audit_at = float("-inf")
        raise Changed("addresses are claimed faster than they are found")

    def _hold(self, address: str, service: Service) -> bool:
        """Return whether an address is this Service's now, as the API server says."""
        claim = None
        if self._claims.at(address) is None:
            claim = self._claiming.make(address, service.ref, service.uid)
        claim = claim or self._claiming.get(address)
        if claim is None:
            self._claims.drop(address)
            return False
        self._claims.note(claim)
        return claim.uid == service.uid and not claim.released

    def _let_go(self, ref: Ref, claims: Iterable[Claim]) -> None:
        """Give addresses of a Service that lives back.

        order matters: marked, so that nobody shows it anew; then a new version of the Service without it, so that whoever
        was about to show it is refused; then deleted.
        """
        marked = [claim if claim.released else self._claiming.release(claim) for claim in claims]
        for claim in marked:
            self._claims.note(claim)
        raw = self._read(ref)
        service = _decoded(raw) if raw is not None else None
        if raw is None or service is None or {claim.uid for claim in marked} != {service.uid}:
            raise Changed("it went, or became unreadable, while it was looked at")
        going = [claim.address for claim in marked]
        if is_ours(service, self._config):
            choice = self._claimed(service)
        else:  # what another put there is not ours to take
            choice = Choice(tuple(one.address for one in service.load_balancer if one.address not in going))
        freed = ", ".join(sorted(going))
        before = raw["metadata"]["resourceVersion"]
        if self._show(raw, service, choice, freed=freed) == before:
            raise Changed("its version did not change")
        for claim in marked:
            self._forget(claim)

    def _forget(self, claim: Claim) -> None:
        self._claiming.delete(claim)
        self._claims.drop(claim.address)
        log_event(_log, logging.INFO, "address-released", key=claim.address, owner=claim.service)
        # Whoever got nothing may get this one.
        for ref, (_, wait_s) in self._retries.items():
            self._retries[ref] = (self._clock(), wait_s)

    def _show(self, raw: dict[str, Any], service: Service, choice: Choice, *, freed: str = "") -> str:
        """Write the status in the version that was read, where it differs or something was freed; return the version then.

        Errors: Changed where the choice is not what was asked for: the Service is to be looked at again.
        """
        status = raw.get("status") or {}
        entries = (status.get("loadBalancer") or {}).get("ingress") or []
        known = {entry.get("ip"): entry for entry in entries if isinstance(entry, dict)}
        condition = self._condition(choice, freed)
        conditions = [one for one in status.get("conditions") or () if isinstance(one, dict)]
        told = next((one for one in conditions if one.get("type") == CONDITION), {})
        stands = all(told.get(key) == condition[key] for key in ("status", "reason", "message"))
        version = str(raw["metadata"]["resourceVersion"])
        if freed or not stands or tuple(one.address for one in service.load_balancer) != choice.addresses:
            ingress = [known.get(address, {"ip": address}) for address in choice.addresses]
            others = [one for one in conditions if one.get("type") != CONDITION]
            raw["status"] = {**status, "loadBalancer": {"ingress": ingress}, "conditions": [*others, condition]}
            version = self._write(service, raw)
            self._tell(service, choice)
        if choice.problem:
            raise Changed(choice.problem)
        return version

    def _condition(self, choice: Choice, freed: str) -> dict[str, str]:
        given = ", ".join(choice.addresses)
        words = (given, choice.problem, f"gave back {freed}" if freed else "")
        return {
            "type": CONDITION,
            "status": str(bool(choice.addresses)),
            "reason": choice.reason or ("Allocated" if choice.addresses else "Released"),
            "message": "; ".join(word for word in words if word),
            "lastTransitionTime": self._now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _tell(self, service: Service, choice: Choice) -> None:
        before = {one.address for one in service.load_balancer}
        new = [address for address in choice.addresses if address not in before]
        log_event(_log, logging.INFO, "addresses", key=service.ref, reason=", ".join(choice.addresses) or "none")
        told = [("AddressAllocated", ", ".join(new), EventType.NORMAL)] if new else []
        told += [(choice.reason, choice.problem, EventType.WARNING)] if choice.problem else []
        for reason, message, kind in told:
            self._record(Occurrence(Service, service.ref, reason, message, service.uid, kind))

    # --- the API -------------------------------------------------------------------------------------------------

    def _read(self, ref: Ref) -> dict[str, Any] | None:
        try:
            return dict(msgspec.json.decode(self._api.get(_path(ref)).body))
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _write(self, service: Service, raw: dict[str, Any]) -> str:
        try:
            body = self._api.put(f"{_path(service.ref)}/status", raw).body
        except ApiError as error:
            if error.status in {CONFLICT, NOT_FOUND}:
                raise Changed(f"it changed while it was looked at ({error.status})") from None
            raise
        return str(msgspec.json.decode(body)["metadata"]["resourceVersion"])


def _path(ref: Ref) -> str:
    return f"/api/v1/namespaces/{ref.namespace}/services/{ref.name}"


def _decoded(raw: dict[str, Any]) -> Service | None:
    record = decode(Service, msgspec.json.encode(raw)).record
    return record if isinstance(record, Service) else None


def _addresses(service: Service | None) -> Iterator[str]:
    if service is not None:
        yield from dict.fromkeys((*(one.address for one in service.load_balancer), *service.external_ips))
