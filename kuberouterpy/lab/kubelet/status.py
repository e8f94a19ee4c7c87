"""What a kubelet reports of a pod, computed from the states of its containers. Pure; times are arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kuberouterpy.lab.client import Object
from kuberouterpy.lab.kubelet.containers import is_sidecar

OWN_CONDITIONS: Final = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
_BACKOFF_S: Final = (0.2, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)


class State(msgspec.Struct):
    """One container, as its pod's worker knows it."""

    running: bool = False
    """Whether it runs."""
    started_at: str = ""
    """When it last started, RFC 3339."""
    exit_code: int | None = None
    """How it last ended; None where it never did."""
    finished_at: str = ""
    """When it last ended."""
    reason: str = "ContainerCreating"
    """Why it waits, while it neither runs nor ended for good."""
    message: str = ""
    """More about that."""
    restarts: int = 0
    """How often it was started again."""
    passed_startup: bool = False
    """Whether its startup probe passed, or it has none."""
    passed_readiness: bool = False
    """Whether its readiness probe passes, or it has none."""
    previous: Object | None = None
    """The terminated state before this run."""

    @property
    def ready(self) -> bool:
        """Whether it counts as ready."""
        return self.running and self.passed_startup and self.passed_readiness


class Seen(msgspec.Struct):
    """Everything a pod's status is made of."""

    states: dict[str, State]
    """By container name; init containers too."""
    pod_ips: tuple[str, ...] = ()
    """Addresses, in the order of the CNI result."""
    host_ips: tuple[str, ...] = ()
    """The node's addresses."""
    started_at: str = ""
    """When the kubelet took the pod up."""
    initialized: bool = False
    """Whether all init containers ended well and sidecars started."""
    over: bool = False
    """Whether no container runs nor will run again, because they ended or the pod is being deleted."""


def backoff_s(restarts: int) -> float:
    """Return how long a container that ended waits before it runs again."""
    return _BACKOFF_S[min(restarts, len(_BACKOFF_S) - 1)]


def restarts_again(pod: Object, container: Object, code: int, *, init: bool = False) -> bool:
    """Return whether a container that ended with ``code`` is to run again."""
    policy = pod["spec"].get("restartPolicy", "Always")
    if init:
        return is_sidecar(container) or (code != 0 and policy != "Never")
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def phase(pod: Object, seen: Seen) -> str:
    """Return Pending, Running, Succeeded or Failed."""
    containers = pod["spec"].get("containers") or []
    states = [seen.states[one["name"]] for one in containers]
    if seen.over:
        inits = [one for one in pod["spec"].get("initContainers") or [] if not is_sidecar(one)]
        codes = [state.exit_code for state in states] + [seen.states[one["name"]].exit_code or 0 for one in inits]
        return "Failed" if any(code is None or code != 0 for code in codes) else "Succeeded"
    if not seen.initialized or any(state.exit_code is None and not state.running for state in states):
        return "Pending"
    return "Running"


def status(pod: Object, seen: Seen, now: str) -> Object:
    """Return the whole status to report; conditions that others own are kept, transition times where nothing turned."""
    spec = pod["spec"]
    made: Object = {
        "phase": phase(pod, seen),
        "conditions": _conditions(pod, seen, now),
        "containerStatuses": [_container(one, seen.states[one["name"]]) for one in spec.get("containers") or []],
    }
    if spec.get("initContainers"):
        made["initContainerStatuses"] = [_container(one, seen.states[one["name"]]) for one in spec["initContainers"]]
    if seen.host_ips:
        made["hostIP"], made["hostIPs"] = seen.host_ips[0], [{"ip": one} for one in seen.host_ips]
    if seen.pod_ips:
        made["podIP"], made["podIPs"] = seen.pod_ips[0], [{"ip": one} for one in seen.pod_ips]
    if seen.started_at:
        made["startTime"] = seen.started_at
    return made


def _conditions(pod: Object, seen: Seen, now: str) -> list[Object]:
    before = {one["type"]: one for one in pod.get("status", {}).get("conditions") or []}
    containers = _all_ready(pod, seen)
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
    closed = [gate for gate in gates if before.get(gate, {}).get("status") != "True"]
    values = {
        "PodScheduled": "",
        "Initialized": "" if seen.initialized else "ContainersNotInitialized",
        "ContainersReady": "" if containers else "ContainersNotReady",
        "Ready": "ContainersNotReady" if not containers else "ReadinessGatesNotReady" if closed else "",
    }
    if seen.over and phase(pod, seen) == "Succeeded":
        values |= dict.fromkeys(("ContainersReady", "Ready"), "PodCompleted")
    foreign = [one for kind, one in before.items() if kind not in OWN_CONDITIONS]
    return [_condition(kind, reason, before.get(kind, {}), now) for kind, reason in values.items()] + foreign


def _all_ready(pod: Object, seen: Seen) -> bool:
    sidecars = [one for one in pod["spec"].get("initContainers") or [] if is_sidecar(one)]
    counted = [*(pod["spec"].get("containers") or []), *sidecars]
    return seen.initialized and not seen.over and all(seen.states[one["name"]].ready for one in counted)


def _condition(kind: str, reason: str, before: Mapping[str, str], now: str) -> Object:
    value = "False" if reason else "True"
    since = before.get("lastTransitionTime") if before.get("status") == value else None
    made: Object = {"type": kind, "status": value, "lastTransitionTime": since or now}
    return {**made, "reason": reason} if reason else made


def _container(container: Object, state: State) -> Object:
    made: Object = {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "ready": state.ready,
        "started": state.running and state.passed_startup,
        "restartCount": state.restarts,
        "state": _state(state),
        "lastState": {"terminated": state.previous} if state.previous else {},
    }
    return made


def _state(state: State) -> Object:
    if state.running:
        return {"running": {"startedAt": state.started_at}}
    if state.exit_code is None or state.reason == "CrashLoopBackOff":
        waiting = {"reason": state.reason, "message": state.message}
        return {"waiting": {key: value for key, value in waiting.items() if value}}
    return {"terminated": terminated(state)}


def terminated(state: State) -> Object:
    """Return the terminated state of a container that ended."""
    code = state.exit_code or 0
    return {
        "exitCode": code,
        "reason": "Completed" if code == 0 else "Error",
        **({"message": state.message} if state.message else {}),
        "startedAt": state.started_at or state.finished_at,
        "finishedAt": state.finished_at,
    }


def gate_conditions(pod: Object) -> dict[str, str]:
    """Return the values of the conditions that others own: a change of one is a reason to look again."""
    found: Iterable[Object] = pod.get("status", {}).get("conditions") or []
    return {one["type"]: one.get("status", "") for one in found if one["type"] not in OWN_CONDITIONS}
