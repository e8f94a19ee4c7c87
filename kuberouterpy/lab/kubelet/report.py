"""Tells the API a pod's status: only when it changed, again when the API was away, anew when another write was faster."""

from __future__ import annotations

import logging
import time
from typing import Final

from kuberouterpy.lab.client import PODS, ApiError, Client, Object, key_of
from kuberouterpy.lab.kubelet import status
from kuberouterpy.log import event

_RETRY_MAX_S: Final = 4.0

log = logging.getLogger(__name__)


class Reporter:
    """Remembers what one pod's status was last reported as."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._told: Object | None = None
        self._failures = 0
        self.again_at: float | None = None
        """When a report that failed is due again (monotonic)."""

    def report(self, pod: Object, seen: status.Seen) -> Object | None:
        """Report if there is news; return the pod as the API has it then, None where it is gone or another."""
        if self.again_at is not None and time.monotonic() < self.again_at:
            return pod
        made = status.status(pod, seen, stamp())
        told = {**made, "conditions": [one for one in made["conditions"] if one["type"] in status.OWN_CONDITIONS]}
        if told == self._told:
            self.again_at = None
            return pod
        # The version guards the conditions that others own: a merge patch replaces the whole list.
        meta = {"uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"]}
        try:
            answer = self._client.patch(PODS, *key_of(pod), {"metadata": meta, "status": made}, subresource="status")
        except ApiError as error:
            return self._refused(pod, error)
        self._told, self.again_at, self._failures = told, None, 0
        return answer

    def _refused(self, pod: Object, error: ApiError) -> Object | None:
        latest: Object | None = pod
        if error.status in {404, 409}:
            try:
                latest = self._client.get(PODS, *key_of(pod))
            except ApiError as again:
                error, latest = again, None if again.status == 404 else pod
        if latest is None or latest["metadata"]["uid"] != pod["metadata"]["uid"]:
            return None
        self._failures += 1
        wait_s = 0.0 if self._failures == 1 else min(0.1 * 2**self._failures, _RETRY_MAX_S)
        self.again_at = time.monotonic() + wait_s
        event(log, logging.DEBUG, "report-failed", key="/".join(key_of(pod)), error=str(error), retry_in_s=wait_s)
        return latest


def stamp() -> str:
    """Return the time as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
