"""The socket over which commands inside a guest reach its cluster: one JSON line asks, one answers.

The asking side imports next to nothing, since every ``kuberouterpy lab exec`` pays for it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from kuberouterpy.errors import KubeRouterError, LabError

if TYPE_CHECKING:
    from kuberouterpy.lab.cluster import Cluster

SOCKET: Final = "/run/lab/control.sock"


def ask(operation: str, **arguments: Any) -> Any:
    """Have the guest's cluster do something; return its answer.

    Errors: LabError with the cluster's own words, or when there is no lab here.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(SOCKET)
    except OSError as error:
        raise LabError(
            "no lab runs here: this command works inside `kuberouterpy lab shell` and `kuberouterpy lab run`"
        ) from error
    with link, link.makefile("rwb") as stream:
        stream.write(json.dumps({"operation": operation, "arguments": arguments}).encode() + b"\n")
        stream.flush()
        answer = json.loads(stream.readline() or b'{"error": "the lab went away"}')
    if "error" in answer:
        raise LabError(answer["error"])
    return answer["result"]


def serve(cluster: Cluster) -> None:
    """Answer for a cluster, each question in a thread of its own; returns at once."""
    operations = _operations(cluster)
    with suppress(FileNotFoundError):
        os.remove(SOCKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET)
    listener.listen(16)

    def accept() -> None:
        while True:
            link, _ = listener.accept()
            threading.Thread(target=_answer, args=(link, operations), daemon=True).start()

    threading.Thread(target=accept, name="control", daemon=True).start()


def _operations(cluster: Cluster) -> dict[str, Callable[..., Any]]:
    from kuberouterpy.lab import readiness
    from kuberouterpy.lab.client import PODS

    def wait(what: str, timeout_s: float) -> None:
        readiness.wait(what, cluster, time.monotonic() + timeout_s)

    def fault(faults: list[dict[str, Any]]) -> Any:
        if cluster.options.assets:
            raise LabError(
                "lab fault: only the lab's own API server can misbehave; "
                f"this lab runs the kube-apiserver of {cluster.options.assets} (KUBEBUILDER_ASSETS)"
            )
        if faults:
            return cluster.client.request("POST", "/lab/faults", faults)  # type: ignore[arg-type]
        return cluster.client.request("DELETE", "/lab/faults")

    def node_of(namespace: str, name: str) -> str:
        pod = cluster.client.get(PODS, namespace, name)
        if not pod["spec"].get("hostNetwork"):
            raise LabError(f"pod {namespace}/{name} has no network namespace yet")
        return str(pod["spec"].get("nodeName", ""))

    def lab() -> dict[str, Any]:
        options = cluster.options
        return {
            "nodes": [node.name for node in cluster.topology.nodes],
            "server": cluster.topology.server,
            "families": options.families,
            "subnets": options.subnets,
        }

    return {
        "wait": wait,
        "start-agent": cluster.start_agent,
        "stop-agent": cluster.stop_agent,
        "restart-agent": cluster.restart_agent,
        "stop-gobgp": cluster.stop_gobgp,
        "start-gobgp": cluster.start_gobgp,
        "restart-gobgp": cluster.restart_gobgp,
        "kill-api": cluster.kill_api,
        "start-api": cluster.start_api,
        "fault": fault,
        "status": cluster.status,
        "lab": lab,
        "node-of": node_of,
    }


def _answer(link: socket.socket, operations: dict[str, Callable[..., Any]]) -> None:
    with link, link.makefile("rwb") as stream:
        try:
            asked = json.loads(stream.readline())
            call = operations[asked["operation"]]
            answer = {"result": call(**asked["arguments"])}
        except (KubeRouterError, OSError) as error:
            answer = {"error": str(error)}
        except (ValueError, KeyError, TypeError) as error:
            answer = {"error": f"not understood: {error!r}"}
        with suppress(OSError):
            stream.write(json.dumps(answer).encode() + b"\n")
