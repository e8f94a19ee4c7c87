"""The little controllers a cluster needs, in one thread, working only through the API.

node-ipam, scheduler, Deployments, ReplicaSets, DaemonSets, StatefulSets, EndpointSlices. Removing what belongs to a
deleted owner or namespace is the lab's API server's own job.
"""

from __future__ import annotations

import threading

import msgspec

from kuberouterpy.lab.client import (
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICES,
    STATEFUL_SETS,
    Client,
)
from kuberouterpy.lab.controllers import (
    daemonsets,
    deployments,
    endpointslices,
    loop,
    nodeipam,
    replicasets,
    scheduler,
    statefulsets,
)


class Config(msgspec.Struct, frozen=True):
    """What the controllers are told."""

    cluster_cidrs: tuple[str, ...] = ("10.244.0.0/16", "fd00:10:244::/56")
    """Where pod CIDRs are cut from, one per family, in the order nodes shall list them."""


def run(server_url: str, config: Config, stop: threading.Event, *, client: Client | None = None) -> None:
    """Run every controller until ``stop`` is set; blocks. An API server that is not there yet is waited for.

    ``client`` is for a server that wants TLS or a token; by default plain HTTP to ``server_url``.
    """
    controllers = (
        nodeipam.controller(config.cluster_cidrs),
        deployments.controller(),
        replicasets.controller(),
        daemonsets.controller(),
        statefulsets.controller(),
        scheduler.controller(),
        endpointslices.controller(),
    )
    resources = (NODES, PODS, SERVICES, ENDPOINT_SLICES, DEPLOYMENTS, REPLICA_SETS, DAEMON_SETS, STATEFUL_SETS)
    used = client or Client(server_url)
    try:
        loop.run(used, controllers, resources, stop)
    finally:
        used.close()
