"""The Kubernetes API as a source of facts: one thread a kind, each a reflector, all of them onto one inbox.

``Unreachable`` and ``Reachable`` are put once per change of
state, for the API as a whole, not per kind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

from kuberouterpy import cluster
from kuberouterpy.cluster import (
    ClusterNetworkPolicy,
    EndpointSlice,
    Kind,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Reachable,
    Service,
    Unreachable,
)
from kuberouterpy.config import Config
from kuberouterpy.sources.reflector import Reflector, Resource
from kuberouterpy.sources.transport import Transport

NAME: Final = "kubernetes"
"""What ``Unreachable`` calls this source."""

RESOURCES: Final[dict[Kind, Resource]] = {
    resource.kind: resource
    for resource in (
        Resource(Namespace, "/api/v1/namespaces"),
        Resource(Node, "/api/v1/nodes"),
        Resource(Pod, "/api/v1/pods"),
        Resource(Service, "/api/v1/services"),
        Resource(EndpointSlice, "/apis/discovery.k8s.io/v1/endpointslices"),
        Resource(NetworkPolicy, "/apis/networking.k8s.io/v1/networkpolicies"),
        Resource(ClusterNetworkPolicy, "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies", optional=True),
    )
}


def kinds(config: Config) -> tuple[Kind, ...]:
    """Return the kinds that the controllers of ``config`` read; every one of them needs to know this node."""
    wanted: set[Kind] = {Node}
    if config.run_service_proxy or config.run_router:
        wanted |= {Service, EndpointSlice}
    if config.run_loadbalancer:
        wanted |= {Service}
    if config.run_firewall:
        wanted |= {Pod, Namespace, NetworkPolicy, ClusterNetworkPolicy}
    return tuple(kind for kind in RESOURCES if kind in wanted)


class KubernetesSource:
    """Lists and watches until stopped; ``put`` is called from several threads."""

    def __init__(
        self,
        config: Config,
        put: Callable[[cluster.Event], None],
        *,
        read: Iterable[Kind] | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Read credentials. ``read``: the kinds, where not those of the controllers of ``config``.

        Errors: ConfigError names the file and what is wrong with it.
        """
        self.transport: Final = transport or Transport(config)
        """The API server, for others that talk to it (Events)."""
        self._put: Final = put
        self._lock: Final = threading.Lock()
        self._failing: dict[Kind, str] = {}
        self._told = False
        self._reflectors: Final = [
            Reflector(RESOURCES[kind], self.transport, put, node_name=config.node_name, healthy=self._hear(kind))
            for kind in (kinds(config) if read is None else read)
        ]
        self._threads: Final = [
            threading.Thread(target=one.run, name=f"watch-{one.resource.kind.__name__}", daemon=True)
            for one in self._reflectors
        ]

    def start(self) -> None:
        """Begin to list and watch."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, within_s: float = 2.0) -> None:
        """End all watches; a thread that is still connecting is left to end by itself."""
        for reflector in self._reflectors:
            reflector.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(within_s / len(self._threads))
        self.transport.close()

    def _hear(self, kind: Kind) -> Callable[[str], None]:
        def hear(reason: str) -> None:
            with self._lock:
                if reason:
                    self._failing[kind] = reason
                else:
                    self._failing.pop(kind, None)
                if bool(self._failing) == self._told:
                    return
                self._told = bool(self._failing)
                # Inside the lock: the two must reach the inbox in the order they happened.
                self._put(Unreachable(NAME, reason) if reason else Reachable(NAME))

        return hear
