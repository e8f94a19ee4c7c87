"""A kubelet small enough for a lab: one per node, several in one process, each a handful of threads that sleep.

``run`` registers the node, follows the pods bound to it and gives each a worker (``pod``), which makes the pod's network
namespace with the real CNI plugins (``sandbox``, ``cni``, ``netns``), runs its containers' commands as processes in it
(``view``, ``process``) or lets the built-in responder serve its ports, probes it (``probes``) and reports its status
(``status``). Decisions are pure functions in ``status`` and ``containers``.

Left out: images, volumes, resources, config maps and secrets, security contexts, exec and log streaming through the API.
"""

from __future__ import annotations

import logging
import queue
import resource
import shutil
import threading

from kuberouterpy.lab.client import PODS, Changed, Client, Deleted, Event, Listed, Object, Reflector
from kuberouterpy.lab.kubelet import cri
from kuberouterpy.lab.kubelet.netns import pod_netns
from kuberouterpy.lab.kubelet.node import become_ready, register, renew_lease
from kuberouterpy.lab.kubelet.plan import KubeletNode
from kuberouterpy.lab.kubelet.pod import PodWorker
from kuberouterpy.lab.kubelet.process import Reaper
from kuberouterpy.lab.kubelet.runs import Services
from kuberouterpy.lab.kubelet.sandbox import Sandbox
from kuberouterpy.lab.kubelet.view import pod_view
from kuberouterpy.lab.responder import Responder
from kuberouterpy.log import event

__all__ = ["KubeletNode", "pod_netns", "pod_view", "run"]

_END_S = 10.0

log = logging.getLogger(__name__)


def run(
    node: KubeletNode,
    server_url: str,
    stop: threading.Event,
    *,
    client: Client | None = None,
    responder: Responder | None = None,
) -> None:
    """Be the kubelet of ``node`` until ``stop`` is set; blocks, so start it in a thread of its own.

    Needs to be root in the network namespace that reaches the API server; the node's own namespace must exist. When it
    returns, no process, namespace or address of its pods is left; their objects and the Node stay.
    Several kubelets of one process may share a ``client`` (TLS, token) and a ``responder``.
    """
    _allow_many_files()
    client = client or Client(server_url)
    own = None if responder else Responder()
    services = Services(node, client, Reaper(), responder or own, threading.Lock())  # type: ignore[arg-type]
    register(client, node, stop)
    helpers = [
        threading.Thread(target=target, args=(client, node, stop), name=f"{node.name}-{name}", daemon=True)
        for name, target in (("ready", become_ready), ("lease", renew_lease))
    ]
    for helper in helpers:
        helper.start()
    pods = _Pods(services)
    runtime = cri.serve(node.cri_socket, pods.sandboxes)
    try:
        pods.follow(stop)
    finally:
        runtime.stop(grace=None)
        for helper in helpers:
            helper.join(timeout=1)
        services.reaper.close()
        if own:
            own.close()
        client.close()
        shutil.rmtree(node.cni_data, ignore_errors=True)


class _Pods:
    """The workers of one node's pods."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._inbox: queue.SimpleQueue[Event | str | None] = queue.SimpleQueue()
        self._workers: dict[str, PodWorker] = {}
        self._ended: set[str] = set()

    def follow(self, stop: threading.Event) -> None:
        """Give every pod of the node a worker until ``stop``; then end them all."""
        name = self._services.node.name
        reflector = Reflector(self._services.client, PODS, self._inbox.put, fieldSelector=f"spec.nodeName={name}")
        threading.Thread(target=self._wake_at, args=(stop,), name=f"{name}-stop", daemon=True).start()
        reflector.start()
        while not stop.is_set():
            self._take(self._inbox.get())
        reflector.stop()
        workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(_END_S)

    def sandboxes(self) -> list[Sandbox]:
        """Return the sandboxes of the pods that are here; any thread may ask."""
        return [worker.sandbox for worker in list(self._workers.values())]

    def _wake_at(self, stop: threading.Event) -> None:
        stop.wait()
        self._inbox.put(None)

    def _take(self, message: Event | str | None) -> None:
        match message:
            case Listed(items=items):
                present = {pod["metadata"]["uid"] for pod in items}
                for uid in (self._workers.keys() | self._ended) - present:
                    self._gone(uid)
                for pod in items:
                    self._put(pod)
            case Changed(item=pod):
                self._put(pod)
            case Deleted(item=pod):
                self._gone(pod["metadata"]["uid"])
            case str(uid):
                self._workers.pop(uid, None)
                self._ended.add(uid)
            case None:
                return

    def _gone(self, uid: str) -> None:
        self._ended.discard(uid)
        worker = self._workers.get(uid)
        if worker is not None:
            worker.vanished()

    def _put(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is not None:
            worker.update(pod)
            return
        if uid in self._ended:
            return  # what is heard late about a pod whose worker is through
        if pod.get("status", {}).get("phase") in {"Succeeded", "Failed"} and not pod["metadata"].get(
            "deletionTimestamp"
        ):
            return  # it ran its course under an earlier kubelet
        event(log, logging.INFO, "pod-started", key=f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")
        self._workers[uid] = worker = PodWorker(self._services, pod, self._inbox.put)
        worker.start()


def _allow_many_files() -> None:
    """Raise the limit of open files to what is allowed: every served port and connection is one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
