"""When a lab is ready: nodes Ready, pods Ready, agents in sync. Each check returns what is still missing, in words.

An agent is in sync when its ``/readyz`` says so, nothing is pending, nothing changed for a moment, and the kernel of its node
has a route to every other node's pods.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kuberouterpy.errors import LabError
from kuberouterpy.lab import fabric
from kuberouterpy.lab.client import DAEMON_SETS, DEPLOYMENTS, NODES, PODS, REPLICA_SETS, STATEFUL_SETS, Client, Object
from kuberouterpy.lab.topology import Station

if TYPE_CHECKING:
    from kuberouterpy.lab.cluster import Cluster

HEALTH_PORT: Final = 20244
_POLL_S: Final = 0.25
_QUIET_S: Final = 1.0
_ASK_S: Final = 5.0
_PATIENCE_S: Final = 25.0
"""Longer than a pod takes from one sign of progress to the next, on a machine four times too busy."""
_LAST_LINES: Final = 15


def wait(what: str, cluster: Cluster, deadline: float) -> None:
    """Wait until nothing is missing. Errors: LabError names what is, at the deadline or when a part has died."""
    told = ""
    while True:
        missing = list(CHECKS[what](cluster))
        if not missing:
            return
        if cluster.options.verbose and (text := "; ".join(missing)) != told:
            told = text
            cluster.note(f"waiting: {text}")
        if dead := cluster.dead():
            raise LabError("\n".join(dead))
        if time.monotonic() > deadline:
            raise LabError("\n".join((f"still not ready: {'; '.join(missing)}", *_last_words(cluster))))
        time.sleep(_POLL_S)


def settle(what: str, cluster: Cluster, deadline: float) -> str:
    """Wait like ``wait``, but return what is missing, in words, once it has not changed for long: some of it may be meant.

    A cluster to test with may hold a pod that never gets ready, or an object that an agent must refuse.
    Errors: LabError when a part has died.
    """
    told, since = "", time.monotonic()
    while missing := list(CHECKS[what](cluster)):
        text = "; ".join(missing)
        if dead := cluster.dead():
            raise LabError("\n".join(dead))
        now = time.monotonic()
        if text != told:
            told, since = text, now
            if cluster.options.verbose:
                cluster.note(f"waiting: {text}")
        if now > deadline or now - since > _PATIENCE_S:
            return text
        time.sleep(_POLL_S)
    return ""


def nodes(cluster: Cluster) -> Iterator[str]:
    """Yield the nodes that are not Ready."""
    found = {item["metadata"]["name"]: item for item in _list(cluster.client, NODES)}
    for station in cluster.topology.nodes:
        if station.name not in found:
            yield f"{station.name} has no Node"
        elif not _condition(found[station.name], "Ready"):
            yield f"{station.name} is not Ready"


def pods(cluster: Cluster) -> Iterator[str]:
    """Yield the pods that are not Ready, and the sets that have not their pods yet."""
    for resource in (DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS, DAEMON_SETS):
        for item in _list(cluster.client, resource):
            if lack := _short_of(item):
                yield f"{resource.kind} {_name(item)}: {lack}"
    for pod in _list(cluster.client, PODS):
        done = pod.get("status", {}).get("phase") == "Succeeded"
        if not done and not pod["metadata"].get("deletionTimestamp") and not _condition(pod, "Ready"):
            yield f"pod {_name(pod)} is not Ready"


def agents(cluster: Cluster) -> Iterator[str]:
    """Yield the agents that are not in sync; agents that were stopped on purpose are not asked."""
    running = {name.partition("/")[2] for name in cluster.status() if name.startswith("agent/")}
    ranges = _pod_cidrs(cluster)
    for station in cluster.topology.nodes:
        if station.name in running:
            yield from _agent(station, cluster, ranges)


def ask(station: Station, path: str, port: int = HEALTH_PORT) -> tuple[int, bytes]:
    """Return status and body of a GET on a node's own loopback; status 0 where nobody answers."""
    family = socket.AF_INET6 if ":" in station.addresses[0].address else socket.AF_INET
    sockets: list[socket.socket] = []
    fabric.within(station.netns, lambda: sockets.append(socket.socket(family, socket.SOCK_STREAM)))
    connection = http.client.HTTPConnection("localhost", port, timeout=_ASK_S)
    try:
        sockets[0].settimeout(_ASK_S)
        sockets[0].connect(("::1" if family is socket.AF_INET6 else "127.0.0.1", port))
        connection.sock = sockets[0]
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        sockets[0].close()


CHECKS: Final[dict[str, Callable[[Cluster], Iterator[str]]]] = {"nodes": nodes, "pods": pods, "agents": agents}


def _last_words(cluster: Cluster) -> Iterator[str]:
    """Yield the ends of the agents' logs: why a node is not ready mostly stands there."""
    for station in cluster.topology.nodes:
        path = Path(f"/run/lab/nodes/{station.name}/agent.log")
        if path.exists():
            yield f"-- end of {path} --"
            yield from path.read_text(errors="replace").splitlines()[-_LAST_LINES:]


def _agent(station: Station, cluster: Cluster, ranges: dict[str, list[str]]) -> Iterator[str]:
    code, body = ask(station, "/readyz")
    if code != 200:
        yield f"agent of {station.name}: {body.decode(errors='replace').strip() or 'does not answer'}"
        return
    _, body = ask(station, "/status.json")
    status = msgspec.json.decode(body or b"{}")
    if status.get("pending", 0):
        yield f"agent of {station.name}: {status['pending']} pending"
    elif (changed := _changed_s(status)) < _QUIET_S:
        yield f"agent of {station.name}: changed {changed:.1f} s ago"
    elif status.get("failing_total", 0):
        yield f"agent of {station.name}: failing: {', '.join(one['key'] for one in status['failing'])}"
    elif _routes_wanted(cluster):
        have = _routes(station)
        for name, prefixes in ranges.items():
            for prefix in prefixes:
                if name != station.name and prefix not in have:
                    yield f"{station.name} has no route to the pods of {name} ({prefix})"


def _changed_s(status: dict[str, Any]) -> float:
    """Return how long ago an agent last changed something; a status is as old as the loop's last step."""
    changed: float | None = status.get("last_change_s")
    return float("inf") if changed is None else changed + time.monotonic() - float(status["heartbeat"])


def _routes_wanted(cluster: Cluster) -> bool:
    """Return whether agents exchange routes: not where an argument switched that off."""
    off = ("--run-router=false", "--enable-ibgp=false")
    return not any(word in off for word in cluster.options.agent_args)


def _pod_cidrs(cluster: Cluster) -> dict[str, list[str]]:
    return {item["metadata"]["name"]: item["spec"].get("podCIDRs") or [] for item in _list(cluster.client, NODES)}


def _routes(station: Station) -> set[str]:
    """Return every IPv4 and IPv6 prefix the node's main table routes, read without a process."""
    texts: list[str] = []

    def read() -> None:
        for name in ("route", "ipv6_route"):
            path = Path("/proc/thread-self/net", name)
            texts.append(path.read_text() if path.exists() else "")

    fabric.within(station.netns, read)
    found: set[str] = set()
    for line in texts[0].splitlines()[1:]:
        words = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(words[n]), "little") for n in (1, 7))
        found.add(str(ip_network((address, mask.bit_count()), strict=False)))
    for line in texts[1].splitlines():
        words = line.split()
        found.add(str(ip_network((bytes.fromhex(words[0]), int(words[1], 16)), strict=False)))
    return found


def _list(client: Client, resource: Any) -> list[Object]:
    items, _ = client.list(resource)
    return items


def _condition(item: Object, kind: str) -> bool:
    conditions = item.get("status", {}).get("conditions") or []
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


def _short_of(item: Object) -> str:
    status = item.get("status", {})
    if status.get("observedGeneration", 0) < item["metadata"].get("generation", 1):
        return "not looked at yet"
    wanted = (
        status.get("desiredNumberScheduled") if "desiredNumberScheduled" in status else item["spec"].get("replicas", 1)
    )
    ready = status.get("numberReady") if "numberReady" in status else status.get("readyReplicas", 0)
    return "" if ready == wanted else f"{ready} of {wanted} ready"


def _name(item: Object) -> str:
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
