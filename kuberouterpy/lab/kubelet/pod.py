"""One pod on its node, from its binding to its removal. One thread per pod, which sleeps on its inbox.

Everything that happens to the pod (a process ended, a probe turned, the API says it is deleted, a back-off is over) is a
message; the thread takes one at a time, so nothing here needs a lock. The status is reported after each message that
changed it, and tried again while the API is away.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Final

from kuberouterpy.lab.client import PODS, ApiError, Object, revision
from kuberouterpy.lab.kubelet import containers, status
from kuberouterpy.lab.kubelet.cni import CniError
from kuberouterpy.lab.kubelet.probes import Kind, Prober, Target
from kuberouterpy.lab.kubelet.process import Command, Process
from kuberouterpy.lab.kubelet.report import Reporter, stamp
from kuberouterpy.lab.kubelet.runs import Container, Run, Services, Serving
from kuberouterpy.lab.kubelet.sandbox import Sandbox
from kuberouterpy.lab.responder import open_sockets
from kuberouterpy.log import event

LINGER: Final = "kuberouterpy.io/linger"
"""Annotation: with ``"true"`` the built-in responder serves on until the grace period ends, as slow programs do."""
_RETRY_S: Final = 0.5
_RETRY_MAX_S: Final = 4.0
_STEADY_S: Final = 60.0
_CANNOT_START: Final = 128

log = logging.getLogger(__name__)


class Leaving(IntEnum):
    """Why a pod goes; a higher reason overrides a lower one."""

    NO = 0
    DELETED = 1
    """The API asks for it: with grace, and its object is ours to remove."""
    VANISHED = 2
    """Its object is gone already."""
    STOPPED = 3
    """The kubelet ends."""


class PodWorker:
    """The life of one pod. Other threads call ``start``, ``update``, ``vanished``, ``stop`` and ``join``."""

    def __init__(self, services: Services, pod: Object, over: Callable[[str], None]) -> None:
        self._services = services
        self._pod = pod
        self._over = over
        self._uid: str = pod["metadata"]["uid"]
        self._key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.sandbox = Sandbox(services.node, pod, services.turn)
        """Its network; any thread may look at it."""
        spec = pod["spec"]
        self._inits = [Container(one, init=True) for one in spec.get("initContainers") or []]
        self._mains = [Container(one, init=False) for one in spec.get("containers") or []]
        states = {one.name: one.state for one in (*self._inits, *self._mains)}
        self._seen = status.Seen(states, host_ips=services.node.addresses, started_at=stamp())
        self._leaving = Leaving.NO
        self._reporter = Reporter(services.client)
        self._thread = threading.Thread(target=self._live, name=f"pod-{self._key[1]}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def update(self, pod: Object) -> None:
        """Take a newer value of the pod in."""
        self._inbox.put(lambda: self._updated(pod))

    def vanished(self) -> None:
        """Its object is gone: end at once."""
        self._inbox.put(lambda: self._leave(Leaving.VANISHED))

    def stop(self) -> None:
        """The kubelet ends: end at once, and leave the object."""
        self._inbox.put(lambda: self._leave(Leaving.STOPPED))

    def join(self, timeout_s: float) -> None:
        """Wait until nothing of the pod is left here."""
        self._thread.join(timeout=timeout_s)

    # The story.

    def _live(self) -> None:
        try:
            self._updated(self._pod)
            for one in (*self._inits, *self._mains):  # what a namesake before it said
                Path(self._services.node.log_path(*self._key, one.name)).unlink(missing_ok=True)
            if self._attach() and self._initialize():
                for one in self._mains:
                    self._start(one)
            self._wait(lambda: self._finished() or bool(self._leaving))
            if not self._leaving:
                self._finish()
                self._wait(lambda: bool(self._leaving))
            self._end()
        finally:
            self._over(self._uid)

    def _attach(self) -> bool:
        wait_s = _RETRY_S
        while not self._leaving:
            try:
                self.sandbox.attach()
            except (CniError, OSError) as error:
                event(
                    log, logging.WARNING, "attach-failed", key="/".join(self._key), error=str(error), retry_in_s=wait_s
                )
                for one in (*self._inits, *self._mains):
                    one.state.message = str(error)
                self._pause(wait_s)
                wait_s = min(wait_s * 2, _RETRY_MAX_S)
                continue
            for one in (*self._inits, *self._mains):
                one.state.message = ""
            self._seen.pod_ips = self.sandbox.addresses
            return True
        return False

    def _initialize(self) -> bool:
        """Run the init containers in order; return whether all ended well and the pod is still wanted."""
        for one in self._inits:
            self._start(one)
            self._wait_for(one)
            if self._leaving or one.failed:
                return False
        self._seen.initialized = True
        return True

    def _wait_for(self, one: Container) -> None:
        self._wait(lambda: one.initialized or bool(self._leaving))

    def _finished(self) -> bool:
        """Whether the pod ran to its end by itself."""
        failed = any(one.failed for one in self._inits if not one.sidecar)
        return failed or (self._seen.initialized and all(one.done for one in self._mains))

    def _finish(self) -> None:
        self._halt(self._inits, time.monotonic() + self._grace_s())
        self._seen.over = True
        self._report()
        if not self._leaving:
            self.sandbox.detach()

    def _end(self) -> None:
        """Stop what runs, give the network back, and remove the object if that is ours to do."""
        if self._leaving is Leaving.DELETED:
            deadline = time.monotonic() + self._grace_s()
            self._prepare_stop(deadline)
            self._halt(self._mains, deadline)
            self._halt(self._inits, max(deadline, time.monotonic() + 1))
            self._seen.over = True
            self._report()
        for one in (*self._mains, *self._inits):
            one.drop()
        self.sandbox.detach(node_goes=self._leaving is Leaving.STOPPED)
        event(log, logging.INFO, "pod-ended", key="/".join(self._key), reason=self._leaving.name.lower())
        if self._leaving is Leaving.DELETED:
            self._remove_object()

    # Stopping.

    def _grace_s(self) -> float:
        meta, spec = self._pod["metadata"], self._pod["spec"]
        asked = meta.get("deletionGracePeriodSeconds")
        return float(asked if asked is not None else spec.get("terminationGracePeriodSeconds", 30))

    def _prepare_stop(self, deadline: float) -> None:
        """Run the preStop hooks side by side."""
        hooks = {one.name: (one.spec.get("lifecycle") or {}).get("preStop") or {} for one in self._mains if one.run}
        left: set[Process] = set()
        for one in self._mains:
            words = (hooks.get(one.name, {}).get("exec") or {}).get("command")
            if words:
                with suppress(OSError):  # a hook that cannot run stops nothing
                    left.add(
                        self._launch(self._command(one, tuple(words)), lambda process, _code: left.discard(process))
                    )
        pauses = [float(hook["sleep"].get("seconds", 0)) for hook in hooks.values() if hook.get("sleep")]
        until = min(time.monotonic() + max(pauses, default=0.0), deadline)
        self._wait(lambda: time.monotonic() >= until or self._urgent(), until)
        self._wait(lambda: not left or self._urgent(), deadline)

    def _halt(self, those: Iterable[Container], deadline: float) -> None:
        """Ask to end, wait for the grace period, then make it end. Containers that restart no more are left alone."""
        those = list(those)
        for one in those:
            one.restart_at = None
            if one.run is not None:
                one.run.terminate()
        self._wait(lambda: not _any_runs(those) or self._urgent(), deadline)
        for one in those:
            if one.run is not None:
                one.run.kill()
        self._wait(lambda: not _any_runs(those), time.monotonic() + 5)

    def _urgent(self) -> bool:
        return self._leaving > Leaving.DELETED

    def _leave(self, why: Leaving) -> None:
        self._leaving = max(self._leaving, why)

    def _remove_object(self) -> None:
        wait_s = _RETRY_S
        while not self._urgent():
            try:
                self._services.client.delete(PODS, *self._key, grace_s=0, uid=self._uid)
                return
            except ApiError as error:
                if error.status in {404, 409}:
                    return
                self._pause(wait_s)
                wait_s = min(wait_s * 2, _RETRY_MAX_S)

    # Running.

    def _start(self, one: Container) -> None:
        """Start a run; one that cannot be started counts as ended."""
        state = one.state
        one.restart_at = None
        state.started_at, one.since = stamp(), time.monotonic()
        state.passed_startup = Kind.STARTUP not in one.spec
        state.passed_readiness = Kind.READINESS not in one.spec
        state.message = ""
        try:
            one.run = self._begin(one)
        except OSError as error:
            event(log, logging.WARNING, "start-failed", key="/".join(self._key), kind=one.name, error=str(error))
            self._end_run(one, _CANNOT_START, error.strerror or str(error))
            return
        state.running = True
        if any(kind in one.spec for kind in Kind):
            target = Target(
                address=self._seen.pod_ips[0],
                node_netns=self._services.node.netns,
                execute=lambda words, timeout_s: self._execute(one, words, timeout_s),
            )
            run = one.run

            def tell(kind: Kind, passed: bool) -> None:
                self._post(one, run, lambda: self._probed(one, kind, passed))

            one.prober = Prober(one.spec, target, tell)

    def _begin(self, one: Container) -> Run:
        command = self._command(one)
        if command.argv:
            return self._launch(command, lambda run, code: self._end_run(one, code) if one.run is run else None)
        key = f"{self._uid}/{one.name}"
        linger = (self._pod["metadata"].get("annotations") or {}).get(LINGER) == "true"
        sockets = []
        ports = containers.responder_ports(one.spec)
        if ports:
            sockets = self.sandbox.within(lambda: open_sockets(ports))
        self._services.responder.add(key, self._key[1], sockets)
        run: list[Run] = []
        serving = Serving(
            self._services,
            key,
            linger=linger,
            ended=lambda code: self._post(one, run[0], lambda: self._end_run(one, code)),
        )
        run.append(serving)
        return serving

    def _command(self, one: Container, words: tuple[str, ...] = ()) -> Command:
        facts = containers.Facts(self._seen.pod_ips, self._services.node.addresses)
        variables = containers.environment(self._pod, one.spec, facts)
        return Command(
            words or containers.argv(one.spec, variables),
            variables,
            one.spec.get("workingDir") or "/",
            self._services.node.log_path(*self._key, one.name),
        )

    def _launch(self, command: Command, ended: Callable[[Process, int], None]) -> Process:
        process = self.sandbox.start(command)
        self._services.reaper.watch(process, lambda code: self._inbox.put(lambda: ended(process, code)))
        return process

    def _execute(self, one: Container, words: tuple[str, ...], timeout_s: float) -> bool:
        """Run a probe's command; called from probe threads."""
        process = self.sandbox.start(self._command(one, words))
        codes: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._services.reaper.watch(process, codes.put)
        try:
            return codes.get(timeout=timeout_s) == 0
        except queue.Empty:
            process.kill()
            return False

    def _post(self, one: Container, run: Run | None, message: Callable[[], None]) -> None:
        """Hand a message on, unless by then that run is no longer the present one."""
        self._inbox.put(lambda: message() if one.run is run else None)

    def _end_run(self, one: Container, code: int, message: str = "") -> None:
        state = one.state
        if one.prober is not None:
            one.prober.stop()
        if isinstance(one.run, Process):
            one.run.kill_group()
        one.run = one.prober = None
        state.running = state.passed_readiness = False
        # A shell's numbering: 128 and the signal.
        state.exit_code, state.finished_at, state.message = code if code >= 0 else 128 - code, stamp(), message
        leaving = self._leaving or self._seen.over
        if leaving or not status.restarts_again(self._pod, one.spec, state.exit_code, init=one.init):
            state.reason = ""
            return
        steady = time.monotonic() - one.since > _STEADY_S
        state.previous = status.terminated(state)
        state.reason = "CrashLoopBackOff"
        one.restart_at = time.monotonic() + (0.0 if steady else status.backoff_s(state.restarts))

    def _probed(self, one: Container, kind: Kind, passed: bool) -> None:
        if kind is Kind.READINESS:
            one.state.passed_readiness = passed
            return
        if kind is Kind.STARTUP and passed:
            one.state.passed_startup = True
        elif not passed and not self._leaving and one.run is not None:
            event(log, logging.INFO, "probe-failed", key="/".join(self._key), kind=f"{one.name} {kind}")
            one.run.kill()

    # The inbox.

    def _wait(self, until: Callable[[], bool], deadline: float | None = None) -> None:
        """Handle messages until a condition holds or a time (monotonic) has come."""
        while True:
            self._restart_due()
            if until():
                break
            self._report()
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                break
            times = [deadline, self._reporter.again_at, *(one.restart_at for one in (*self._inits, *self._mains))]
            next_at = min((at for at in times if at is not None), default=None)
            try:
                self._inbox.get(timeout=None if next_at is None else max(0.0, next_at - now))()
                while True:  # what came meanwhile is reported together
                    self._inbox.get_nowait()()
            except queue.Empty:
                continue

    def _pause(self, seconds: float) -> None:
        before = self._leaving
        self._wait(lambda: self._leaving > before, time.monotonic() + seconds)

    def _restart_due(self) -> None:
        if self._leaving or self._seen.over:
            return
        for one in (*self._inits, *self._mains):
            if one.restart_at is not None and one.restart_at <= time.monotonic():
                one.state.restarts += 1
                self._start(one)

    def _updated(self, pod: Object) -> None:
        if revision(pod) >= revision(self._pod):
            self._pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._leave(Leaving.DELETED)

    def _report(self) -> None:
        if self._urgent():
            return
        pod = self._reporter.report(self._pod, self._seen)
        if pod is None:
            self._leave(Leaving.VANISHED)
        else:
            self._updated(pod)


def _any_runs(those: Iterable[Container]) -> bool:
    return any(one.run is not None for one in those)
