"""The steps of the demo, in order. A step returns the lines that show it held, or raises Broken with the reason."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from kuberouterpy.errors import LabError
from kuberouterpy.lab import control
from kuberouterpy.lab.demo.screen import Screen

_FOLDER: Final = Path(__file__).parent
_WEB, _POLICY = "web.yaml", "policy.yaml"
_PORT: Final = 30080
_ASKED: Final = 18
"""Requests for the spread: three rounds of round robin over six endpoints."""
_GONE_S: Final = 10.0
_POLICY_S: Final = 10.0
_WAIT_S: Final = 60.0
_LAB: Final = "kuberouterpy lab exec"

TRY: Final = (
    "kuberouterpy lab shell                                    a cluster like this one, for you",
    "kubectl get pods -A -o wide                               inside: real kubectl, real objects",
    "kuberouterpy lab exec node/node-1 -- ipvsadm -Ln          what the agent programmed",
    "kuberouterpy lab exec node/node-1 -- kuberouterpy status  how it is; or plan, explain, trace, doctor",
    "kuberouterpy lab run --apply your.yaml -- ./check.sh      your objects, your checks, an exit code",
)

Lines = Sequence[str]


class Broken(Exception):
    """A step did not hold; the text says what was expected and what was seen."""


class Story:
    """The demo in a lab that stands."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._broken = 0
        self._nodes: list[dict[str, Any]] = []
        self._before: dict[str, list[str]] = {}
        self._pods: dict[str, dict[str, Any]] = {}
        self._addresses: list[str] = []

    def tell(self) -> int:
        """Run every step; return 0 only if all held."""
        steps: tuple[tuple[str, Callable[[], Lines]], ...] = (
            ("six pods behind a ClusterIP and a NodePort, programmed on every node", self._apply),
            ("a pod reaches the ClusterIP; requests spread over endpoints on all nodes", self._from_pod),
            ("a node reaches the ClusterIP", self._from_node),
            ("the client outside reaches the NodePort of every node", self._from_client),
            ("IPVS of node-1 has a virtual server with six real servers", self._ipvs),
            ("BGP: every node is a neighbor of every other, pod routes are in the kernel", self._bgp),
            ("a NetworkPolicy: the stranger is refused, the friend is let in", self._policy),
            ("the agent says why: where the stranger's packet ends, and that nothing is left to do", self._why),
            ("an endpoint is killed: no node uses it any more", self._kill),
            ("everything is deleted: every node's kernel is as it was before", self._delete),
        )
        for text, step in steps:
            self._step(text, step)
        total = self._screen.elapsed_s
        if self._broken:
            self._screen.head(f"{self._broken} of {len(steps)} steps did not hold  ({total:.0f} s)")
            return 1
        self._screen.head(f"every step held  ({total:.0f} s)")
        self._screen.head("Try it yourself:")
        self._screen.lines(TRY)
        return 0

    def _step(self, text: str, step: Callable[[], Lines]) -> None:
        began = time.monotonic()
        try:
            lines = step()
        except (Broken, LabError) as error:
            self._broken += 1
            self._screen.failed(text, str(error), time.monotonic() - began)
            return
        self._screen.held(text, time.monotonic() - began)
        self._screen.lines(lines)

    # Steps

    def _apply(self) -> Lines:
        self._nodes = _kubectl_json("get", "nodes")
        self._before = self._kernels()
        self._kubectl("apply", "-f", _WEB)
        _settled("pods")
        _settled("agents")
        self._pods = {
            pod["metadata"]["name"]: pod for pod in _kubectl_json("get", "pods", "-n", "demo", "-l", "app=web")
        }
        service = _kubectl_json("get", "service", "web", "-n", "demo")[0]
        self._addresses = service["spec"]["clusterIPs"]
        spread = Counter(pod["spec"]["nodeName"] for pod in self._pods.values())
        if len(spread) != len(self._nodes):
            raise Broken(f"pods are on {sorted(spread)} only")
        return [f"pods: {_counted(spread)}   cluster IPs: {', '.join(self._addresses)}   node port: {_PORT}"]

    def _from_pod(self) -> Lines:
        return [line for address in self._addresses for line in self._spread("pod/demo/stranger", address)]

    def _spread(self, place: str, address: str) -> Lines:
        url = f"http://{_host(address)}/hostname?[1-{_ASKED}]"
        names = Counter(self._curl(place, url).split())
        unknown = names.keys() - self._pods.keys()
        if unknown or names.total() != _ASKED:
            raise Broken(f"{names.total()} of {_ASKED} answers from {address}: {_counted(names)}")
        nodes: Counter[str] = Counter(dict.fromkeys(self._names(), 0))
        for name, count in names.items():
            nodes[self._pods[name]["spec"]["nodeName"]] += count
        if not all(nodes.values()):
            raise Broken(f"answers of {address} came from {_counted(nodes)}: not from every node")
        return [f"{_ASKED} answers from {len(names)} pods: {_counted(nodes)}"]

    def _from_node(self) -> Lines:
        return [line for address in self._addresses for line in self._spread(f"node/{self._names()[-1]}", address)]

    def _from_client(self) -> Lines:
        lines: list[str] = []
        for node in self._nodes:
            for address in _node_addresses(node):
                said = self._curl("client", f"http://{_host(address)}:{_PORT}/hostname").split()
                if len(said) != 1 or said[0] not in self._pods:
                    raise Broken(f"{address}:{_PORT} answered {said}")
                lines.append(f"{node['metadata']['name']} {_host(address)}:{_PORT} -> {said[0]}")
        return lines

    def _ipvs(self) -> Lines:
        printed = self._run(_LAB, "node/node-1", "--", "ipvsadm", "-Ln").splitlines()
        wanted = {f"{_host(address)}:80" for address in self._addresses}
        shown: list[str] = []
        for address in sorted(wanted):
            start = next((n for n, line in enumerate(printed) if line.split()[1:2] == [address]), None)
            if start is None:
                raise Broken(f"no virtual server {address}")
            block = [printed[start]]
            for line in printed[start + 1 :]:
                if not line.startswith("  ->"):
                    break
                block.append(line)
            if len(block) != 1 + len(self._pods):
                raise Broken(f"{address} has {len(block) - 1} real servers")
            shown += block
        return shown

    def _bgp(self) -> Lines:
        socket = "unix:///run/lab/nodes/node-1/gobgp.sock"
        neighbors = self._run(_LAB, "node/node-1", "--", "gobgp", "--target", socket, "neighbor").splitlines()
        established = [line for line in neighbors if "Establ" in line]
        others = len(self._nodes) - 1
        if len(established) < others:
            raise Broken("\n".join([f"{len(established)} of {others} sessions are up", *neighbors]))
        shown = list(neighbors)
        for family in sorted({":" in address for address in self._addresses}):
            version = "-6" if family else "-4"
            routes = self._run(_LAB, "node/node-1", "--", "ip", version, "route", "show").splitlines()
            for node in self._nodes[1:]:
                for prefix in node["spec"]["podCIDRs"]:
                    if (":" in prefix) == family:
                        found = [line for line in routes if line.startswith(f"{prefix} ")]
                        if not found:
                            raise Broken(f"node-1 has no route to {prefix} of {node['metadata']['name']}")
                        shown += found
        return shown

    def _policy(self) -> Lines:
        url = f"http://{_host(self._addresses[0])}/hostname"
        if not self._try("pod/demo/stranger", url):
            raise Broken("the stranger was refused before there was a policy")
        self._kubectl("apply", "-f", _POLICY)
        began = time.monotonic()
        while self._try("pod/demo/stranger", url, quiet=True):
            if time.monotonic() - began > _POLICY_S:
                raise Broken(f"the stranger still gets in {_POLICY_S:g} s after the policy")
        took = time.monotonic() - began
        lines = [f"enforced {took:.1f} s after kubectl came back"]
        for address in self._addresses:
            url = f"http://{_host(address)}/hostname"
            if self._try("pod/demo/stranger", url):
                raise Broken(f"the stranger got in by {address}")
            lines.append(f"stranger -> {address}: refused")
            if not self._try("pod/demo/friend", url):
                raise Broken(f"the friend was refused by {address}")
            lines.append(f"friend   -> {address}: let in")
        return lines

    def _why(self) -> Lines:
        _settled("agents")
        stranger = _kubectl_json("get", "pod", "stranger", "-n", "demo")[0]
        place = f"node/{stranger['spec']['nodeName']}"
        words = ("trace", "pod/demo/stranger", "service/demo/web", "--family", "4")
        told = self._run(_LAB, place, "--", "kuberouterpy", *words).splitlines()
        if not told or not told[0].startswith("DENIED"):
            raise Broken("\n".join(["the trace should end in the policy", *told]))
        plan = self._run(_LAB, place, "--", "kuberouterpy", "plan").splitlines()
        if not plan or not plan[0].startswith("nothing to do"):
            raise Broken("\n".join(["the kernel should be as wanted", *plan]))
        hops = [line.strip() for line in told if re.match(r" +(\d|=>)", line)]
        return [told[0], *(f"  {hop}" for hop in hops), *plan]

    def _kill(self) -> Lines:
        name, pod = next((name, pod) for name, pod in sorted(self._pods.items()))
        addresses = [one["ip"] for one in pod["status"]["podIPs"]]
        self._kubectl("delete", "pod", name, "-n", "demo", "--wait=false", "--grace-period=0", "--force")
        began = time.monotonic()
        while users := [node for node in self._names() if _uses(node, addresses)]:
            if time.monotonic() - began > _GONE_S:
                raise Broken(f"{', '.join(users)} still use {addresses} after {_GONE_S:g} s")
        took = time.monotonic() - began
        _settled("pods")
        _settled("agents")
        return [
            f"{name} ({', '.join(addresses)}): unused on every node {took:.1f} s after kubectl came back; a new pod took over"
        ]

    def _delete(self) -> Lines:
        self._kubectl("delete", "namespace", "demo")
        deadline = time.monotonic() + _WAIT_S
        while True:
            _settled("agents")
            after = self._kernels()
            if after == self._before:
                return [
                    f"{node}: {len(lines)} lines of ipvsadm, ipset, iptables, routes and addresses alike"
                    for node, lines in after.items()
                ]
            if time.monotonic() > deadline:
                raise Broken("\n".join(_differences(self._before, after)))
            time.sleep(0.5)

    # Means

    def _names(self) -> list[str]:
        return [node["metadata"]["name"] for node in self._nodes]

    def _kernels(self) -> dict[str, list[str]]:
        return {name: kernel(name) for name in self._names()}

    def _kubectl(self, *words: str) -> None:
        self._screen.command(f"kubectl {shlex.join(words)}")
        done = subprocess.run(["kubectl", *words], cwd=_FOLDER, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Broken(f"kubectl: {done.stderr.strip()}")

    def _run(self, program: str, *words: str) -> str:
        self._screen.command(f"{program} {shlex.join(words)}")
        done = subprocess.run([*program.split(), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Broken(f"exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _curl(self, place: str, url: str) -> str:
        # A new connection for each request: IPVS chooses an endpoint for a connection, not for a request.
        words = ("curl", "-sS", "-m", "5", "-H", "Connection: close", "-w", r"\n", url)
        return self._run(_LAB, place, "--", *words)

    def _try(self, place: str, url: str, *, quiet: bool = False) -> bool:
        words = (place, "--", "curl", "-s", "-m", "1", "-o", "/dev/null", url)
        if not quiet:
            self._screen.command(f"{_LAB} {shlex.join(words)}")
        return subprocess.run([*_LAB.split(), *words], check=False, capture_output=True).returncode == 0


def kernel(node: str) -> list[str]:
    """Return what a node's kernel holds for the agent, in a form that two moments can be compared by.

    Counters, comments with times, the order of hashes and what the kernel itself keeps (link-local addresses, the bridge's
    carrier) are left out.
    """
    script = (
        "ipvsadm -Sn; ipset save -sorted; iptables-save; ip6tables-save;"
        " for v in 4 6; do ip -$v route show table all; ip -$v rule; done; ip -o address"
    )
    done = subprocess.run(
        ["ip", "netns", "exec", node, "sh", "-c", script], capture_output=True, text=True, check=False
    )
    return sorted(line for line in map(_plain, done.stdout.splitlines()) if line)


def _plain(line: str) -> str:
    if line.startswith("#") or "fe80::" in line or "ff00::" in line:
        return ""
    line = re.sub(r"\[\d+:\d+\]", "", line)
    line = re.sub(r" (initval 0x[0-9a-f]+|bucketsize \d+|hashsize \d+)", "", line)
    line = re.sub(r"^\d+: (\S+)", r"\1", line)
    return " ".join(line.replace(" linkdown", "").split())


def _uses(node: str, addresses: list[str]) -> bool:
    """Return whether new connections still go to one of the addresses: a weight of 0 only drains."""
    done = subprocess.run(["ip", "netns", "exec", node, "ipvsadm", "-Ln"], capture_output=True, text=True, check=False)
    rows = (line.split() for line in done.stdout.splitlines())
    return any(
        row[:1] == ["->"] and row[3:4] != ["0"] and row[1].rpartition(":")[0].strip("[]") in addresses for row in rows
    )


def _settled(what: str) -> None:
    control.ask("wait", what=what, timeout_s=_WAIT_S)


def _kubectl_json(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", *words, "-o", "json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(f"kubectl {shlex.join(words)}: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    items: list[dict[str, Any]] = answer.get("items", [answer])
    return items


def _node_addresses(node: dict[str, Any]) -> list[str]:
    return [one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP"]


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    lines: list[str] = []
    for node, lines_before in before.items():
        marks = difflib.unified_diff(lines_before, after.get(node, []), n=0, lineterm="")
        lines += [f"{node}: {line}" for line in marks if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return lines[:40]
