"""Who of all agents works: the holder of one Lease, as client-go elects (15 s, 10 s, 2 s).

A candidate takes a Lease that nobody renewed for its duration *by the candidate's own clock*: clocks of two machines are never
compared. The holder renews every two seconds and stops to work when it has not succeeded for ten, five before another may
begin. A leader that is paused may still write after that; whoever relies on the election alone is wrong (see ``claims``).

Source: k8s.io/client-go/tools/leaderelection/leaderelection.go.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from kuberouterpy.balancer.api import CONFLICT, NOT_FOUND, Api, lease_path, leases_path
from kuberouterpy.errors import SourceError
from kuberouterpy.sources.transport import ApiError

NAME: Final = "kube-router-lballoc"
"""kube-router's, so that an agent of each kind never work at once."""
DURATION_S: Final = 15.0
DEADLINE_S: Final = 10.0
RETRY_S: Final = 2.0


class Election:
    """One candidate. Time is an argument."""

    def __init__(
        self, api: Api, namespace: str, identity: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """``identity``: unique among agents, also of this node's former lives. ``now``: for the Lease's text."""
        self._api: Final = api
        self._namespace: Final = namespace
        self._identity: Final = identity
        self._now: Final = now
        self._until = float("-inf")
        self._next = float("-inf")
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = float("-inf")
        self.trouble = ""
        """Why the last attempt failed; empty where it did not."""

    def leads(self, now: float) -> bool:
        """Return whether this candidate may work."""
        return now < self._until

    def next_attempt(self) -> float:
        """Return when :meth:`tick` has something to do."""
        return self._next

    def tick(self, now: float) -> bool:
        """Renew or campaign where it is time; return whether this candidate leads."""
        if now >= self._next:
            self._next = now + RETRY_S
            try:
                if self._attempt(now):
                    self._until = now + DEADLINE_S
                self.trouble = ""
            except (SourceError, msgspec.DecodeError) as error:
                self.trouble = str(error)
        return self.leads(now)

    def resign(self) -> None:
        """Let another begin at once."""
        if self._until == float("-inf"):
            return
        self._until = float("-inf")
        try:
            lease = self._read()
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                self._api.put(lease_path(self._namespace, NAME), lease)
        except (SourceError, msgspec.DecodeError):
            return

    def _attempt(self, now: float) -> bool:
        """Return whether the Lease is ours and renewed."""
        lease = self._read()
        if lease is None:
            return self._write(None)
        spec = lease.setdefault("spec", {})
        holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
        if (holder, renewed) != self._seen:
            self._seen, self._seen_at = (holder, renewed), now
        lasts_s = float(spec.get("leaseDurationSeconds") or DURATION_S)
        if holder not in {"", self._identity} and now < self._seen_at + lasts_s:
            self._until = float("-inf")
            return False
        return self._write(lease)

    def _read(self) -> dict[str, Any] | None:
        try:
            return dict(msgspec.json.decode(self._api.get(lease_path(self._namespace, NAME)).body))
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _write(self, lease: dict[str, Any] | None) -> bool:
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = lease["spec"] if lease else {}
        taken = before.get("holderIdentity") != self._identity
        spec = before | {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION_S),
            "renewTime": stamp,
            "acquireTime": stamp if taken else before.get("acquireTime", stamp),
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (taken and bool(lease)),
        }
        body = {**(lease or {"metadata": {"name": NAME, "namespace": self._namespace}}), "spec": spec}
        try:
            if lease is None:
                self._api.post(leases_path(self._namespace), body)
            else:
                self._api.put(lease_path(self._namespace, NAME), body)
        except ApiError as error:
            if error.status == CONFLICT:  # another was faster
                return False
            raise
        return True
