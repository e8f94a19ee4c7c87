"""The Node object of a kubelet: made at start, Ready once the network is configured, kept alive by a Lease.

Nothing else is written to it: on a lab that stands still, nodes are quiet.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from kuberouterpy.lab.client import LEASES, NAMESPACES, NODES, STRATEGIC, ApiError, Client, Object
from kuberouterpy.lab.kubelet.plan import KubeletNode
from kuberouterpy.log import event

_LEASE_NAMESPACE: Final = "kube-node-lease"
_LEASE_S: Final = 10.0
_RETRY_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
_LOOK_S: Final = (0.1, 1.0)
_LOOK_OFTEN: Final = 100

log = logging.getLogger(__name__)


def describe(node: KubeletNode) -> Object:
    """Return the Node object to create."""
    labels = {
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        **({"topology.kubernetes.io/zone": node.zone} if node.zone else {}),
        **node.labels,
    }
    return {"metadata": {"name": node.name, "labels": labels}, "spec": {}}


def status(node: KubeletNode, now: str, *, ready: bool) -> Object:
    """Return the Node's status."""
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "KubeletReady" if ready else "KubeletNotReady",
        "message": "the network is configured" if ready else f"no CNI configuration at {node.conflist} yet",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    capacity = {"cpu": str(os.cpu_count() or 1), "memory": "1Gi", "pods": "250"}
    addresses = [{"type": "InternalIP", "address": address} for address in node.addresses]
    return {
        "addresses": [*addresses, {"type": "Hostname", "address": node.name}],
        "conditions": [condition],
        "capacity": capacity,
        "allocatable": capacity,
        "nodeInfo": {
            "kubeletVersion": "kuberouterpy-lab",
            "kubeProxyVersion": "",
            "containerRuntimeVersion": "processes://1",
            "osImage": "kuberouterpy lab",
            "operatingSystem": "linux",
            "architecture": "amd64",
            "kernelVersion": os.uname().release,
            "machineID": node.name,
            "systemUUID": node.name,
            "bootID": node.name,
        },
    }


def register(client: Client, node: KubeletNode, stop: threading.Event) -> None:
    """Make or adopt the Node object; returns when that is done or ``stop`` is set."""
    made = describe(node)

    def write() -> None:
        try:
            client.create(NODES, made)
        except ApiError as error:
            if error.status != 409:
                raise
            client.patch(NODES, "", node.name, {"metadata": {"labels": made["metadata"]["labels"]}})
        _report(client, node, ready=Path(node.conflist).exists())

    insist(write, stop, "register")


def become_ready(client: Client, node: KubeletNode, stop: threading.Event) -> None:
    """Wait for the CNI configuration, then report Ready. Blocks."""
    looked = 0
    while not Path(node.conflist).exists():
        # A look costs one system call and ends with the start; inotify would need the folder to exist.
        looked += 1
        if stop.wait(_LOOK_S[looked > _LOOK_OFTEN]):
            return
    insist(lambda: _report(client, node, ready=True), stop, "report-ready")
    event(log, logging.INFO, "node-ready", kind="Node", key=node.name)


def renew_lease(client: Client, node: KubeletNode, stop: threading.Event) -> None:
    """Renew the node's Lease until ``stop``. Blocks."""
    while True:
        with suppress(ApiError):  # away or unwilling: the next renewal comes
            _renew(client, node)
        if stop.wait(_LEASE_S):
            return


def insist(write: Callable[[], None], stop: threading.Event, what: str) -> None:
    """Do a write until it succeeds or ``stop`` is set."""
    failures = 0
    while not stop.is_set():
        try:
            write()
            return
        except ApiError as error:
            wait_s = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
            failures += 1
            event(log, logging.DEBUG, f"{what}-failed", error=str(error), retry_in_s=wait_s)
            stop.wait(wait_s)


def _report(client: Client, node: KubeletNode, *, ready: bool) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    patch = status(node, now, ready=ready)
    # Addresses merge by type: two of InternalIP would be one, the other family's gone. kubelets replace the list, too.
    patch["addresses"].append({"$patch": "replace"})
    client.patch(NODES, "", node.name, {"status": patch}, subresource="status", form=STRATEGIC)


def _renew(client: Client, node: KubeletNode) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": node.name, "leaseDurationSeconds": 40, "renewTime": now}
    try:
        client.patch(LEASES, _LEASE_NAMESPACE, node.name, {"spec": spec})
    except ApiError as error:
        if error.status != 404:
            raise
        with suppress(ApiError):  # there already, as a rule
            client.create(NAMESPACES, {"metadata": {"name": _LEASE_NAMESPACE}})
        client.create(LEASES, {"metadata": {"namespace": _LEASE_NAMESPACE, "name": node.name}, "spec": spec})
