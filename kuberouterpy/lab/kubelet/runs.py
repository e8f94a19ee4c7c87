"""Containers of a pod and their present runs: a process, or ports that the built-in responder serves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from kuberouterpy.lab.client import Client, Object
from kuberouterpy.lab.kubelet import containers, status
from kuberouterpy.lab.kubelet.plan import KubeletNode
from kuberouterpy.lab.kubelet.probes import Prober
from kuberouterpy.lab.kubelet.process import Reaper
from kuberouterpy.lab.responder import Responder

SERVE_ON_S: Final = 3.0
"""How long the built-in responder serves after it was asked to end, if its grace period is not over before."""


class Services(msgspec.Struct, frozen=True):
    """What all pods of a node share."""

    node: KubeletNode
    """The node."""
    client: Client
    """The API."""
    reaper: Reaper
    """Tells when processes end."""
    responder: Responder
    """Serves containers without a command."""
    turn: threading.Lock
    """One network plugin at a time."""


class Run(Protocol):
    """One run of a container."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


class Serving:
    """A run of the built-in responder; without ports it just stays."""

    def __init__(self, services: Services, key: str, *, linger: bool, ended: Callable[[int], None]) -> None:
        self._responder = services.responder
        self._key = key
        self._linger = linger
        self._ended = ended
        self._once = threading.Lock()

    def terminate(self) -> None:
        """Serve on for a moment, as a well-behaved server does, or until it is killed where it is to linger.

        Clients that chose it before every node had heard of its end would otherwise meet a closed port.
        """
        if not self._linger:
            timer = threading.Timer(SERVE_ON_S, self.kill)
            timer.daemon = True
            timer.start()

    def kill(self) -> None:
        """Close its sockets."""
        if self._once.acquire(blocking=False):  # never released: a timer and the kubelet may both come
            self._responder.remove(self._key)
            self._ended(0)


class Container:
    """One container and its present run."""

    def __init__(self, spec: Object, *, init: bool) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.init = init
        self.sidecar = init and containers.is_sidecar(spec)
        self.state = status.State()
        self.run: Run | None = None
        self.prober: Prober | None = None
        self.restart_at: float | None = None
        self.since = 0.0

    def drop(self) -> None:
        """End the present run, whatever becomes of it."""
        if self.prober is not None:
            self.prober.stop()
        if self.run is not None:
            self.run.kill()
        self.run = None

    @property
    def done(self) -> bool:
        """Whether it ended and will not run again."""
        return not self.state.running and self.state.exit_code is not None and self.restart_at is None

    @property
    def failed(self) -> bool:
        """Whether it ended badly and will not run again."""
        return self.done and self.state.exit_code != 0

    @property
    def initialized(self) -> bool:
        """Whether the next init container may start: a sidecar has come up, another one has ended."""
        return self.state.passed_startup if self.sidecar else self.done
