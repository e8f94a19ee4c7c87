"""The cluster inside a guest: starts its parts, stops and restarts them, and knows when they are ready.

One object, owned by the guest; the commands ``kuberouterpy lab ...`` inside reach it over ``control``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from kuberouterpy.errors import ConfigError, LabError
from kuberouterpy.lab import assets, control, fabric, manifest, readiness, rights, router
from kuberouterpy.lab.client import Client
from kuberouterpy.lab.options import LabOptions
from kuberouterpy.lab.topology import API_PORT, ROUTER, Station, Topology, bracketed, plan
from kuberouterpy.lab.zygote import Child, Order, Zygote

RUN: Final = Path("/run/lab")
KUBECONFIG: Final = RUN / "kubeconfig"
AGENT_KUBECONFIG: Final = RUN / "agent.kubeconfig"
LOGS: Final = RUN / "logs"
_TERM_S: Final = 20.0
_API_S: Final = 60.0
_REAL_API_S: Final = 240.0
"""A real one makes some hundred objects before it is ready, and User-Mode Linux is slow."""
_POLL_S: Final = 0.1


class Cluster:
    """All parts of one lab."""

    def __init__(self, options: LabOptions, zygote: Zygote, *, note: Callable[[str], None]) -> None:
        self.options = options
        self.topology: Topology = plan(options.nodes, options.families, options.subnets, secure=bool(options.assets))
        self.client = assets.client(self.topology, timeout_s=10)
        self._zygote = zygote
        self.note = note
        self._parts: dict[str, Child] = {}

    def start(self, directory: str) -> dict[str, str]:
        """Build everything and wait until it is ready; return the variables a command inside needs.

        ``directory`` is where the names of files to apply count from.
        Errors: LabError says what did not come up.
        """
        fabric.build(self.topology)
        self.note(f"fabric of {self.options.nodes} nodes, router and client")
        if router.program():
            self._start_router()
        if self.options.assets:
            self._start_etcd()
        self.start_api()
        self.note(f"API up{self._which_api()}")
        if self.options.rights:
            account = rights.give(Path(directory, self.options.rights), self.client, self.topology, AGENT_KUBECONFIG)
            self.note(f"agents have the rights of {account}")
        self._run("controllers", "kuberouterpy.lab.parts:controllers", self._plan(), f"{LOGS}/pods")
        control.serve(self)
        if self.options.agents:
            for node in self.topology.nodes:
                self._start_gobgp(node)
            for node in self.topology.nodes:
                self.start_agent(node.name)
        deadline = time.monotonic() + self.options.wait_s
        if self.options.agents:
            # Without an agent nobody writes the CNI configuration, so no node would ever be Ready.
            readiness.wait("nodes", self, deadline)
            readiness.wait("agents", self, deadline)
            self.note(f"{self.options.nodes} agents in sync")
        for name in self.options.apply:
            self.apply(Path(directory, name))
        if self.options.apply and self.options.agents:
            lacks = [lack for what in ("pods", "agents") if (lack := readiness.settle(what, self, deadline))]
            self.note(f"warning: not ready, going on: {'; '.join(lacks)}" if lacks else "pods ready, agents in sync")
        return {"KUBECONFIG": str(KUBECONFIG)}

    def start_api(self) -> None:
        """Start the API server; it remembers what it stored before. Returns when it answers."""
        part = self._parts.get("api")
        if part is not None and part.code is None:
            raise LabError("the API server runs already")
        part = self._start_real_api() if self.options.assets else self._start_own_api()
        self._await("api", part, self.client, "/readyz")
        if self.options.assets:
            assets.write_kubeconfig(KUBECONFIG, self.topology)

    def kill_api(self) -> None:
        """Kill the API server, as a crash would."""
        self._end("api", signal.SIGKILL)

    def start_agent(self, node: str, arguments: Iterable[str] = ()) -> None:
        """Start a node's agent, with arguments besides those of every agent."""
        station = self._node(node)
        part = self._parts.get(f"agent/{node}")
        if part is not None and part.code is None:
            raise LabError(f"the agent of {node} runs already")
        environment = {
            "KUBE_ROUTER_CNI_CONF_FILE": f"{station.directory}/cni/net.d/10-kuberouter.conflist",
            "XTABLES_LOCKFILE": f"{station.directory}/xtables.lock",
            "NODE_NAME": node,
        }
        words = [
            f"--kubeconfig={AGENT_KUBECONFIG if self.options.rights else KUBECONFIG}",
            f"--hostname-override={node}",
            f"--gobgp-socket={station.directory}/gobgp.sock",
            f"--agent-socket={station.directory}/agent.sock",
            f"--record-dir={station.directory}/record",
            "--record-size=16",
            f"--runtime-endpoint=unix://{station.directory}/cri.sock",
            f"--service-cluster-ip-range={','.join(self.topology.service_cidrs)}",
            *(
                f"--enable-ipv{version}={str(any(family == version for family in self.topology.families)).lower()}"
                for version in (4, 6)
            ),
            *self.options.agent_args,
            *arguments,
        ]
        self._run(f"agent/{node}", "kuberouterpy.lab.parts:agent", *words, station=station, environment=environment)

    def stop_agent(self, node: str, number: int = signal.SIGTERM) -> int:
        """Signal a node's agent and wait for its end; return its exit code."""
        return self._end(f"agent/{self._node(node).name}", number)

    def restart_agent(self, node: str, number: int = signal.SIGTERM) -> None:
        """Stop a node's agent and start it again."""
        self.stop_agent(node, number)
        self.start_agent(node)

    def stop_gobgp(self, node: str, number: int = signal.SIGTERM) -> int:
        """Signal a node's GoBGP and wait for its end; return its exit code."""
        return self._end(f"gobgp/{self._node(node).name}", number)

    def start_gobgp(self, node: str) -> None:
        """Start a node's GoBGP, empty."""
        self._start_gobgp(self._node(node))

    def restart_gobgp(self, node: str, number: int = signal.SIGTERM) -> None:
        """Stop a node's GoBGP and start it again, empty."""
        self.stop_gobgp(node, number)
        self.start_gobgp(node)

    def apply(self, path: Path) -> None:
        """Apply the objects of a file, with kubectl where there is one. Errors: LabError with what was refused and why."""
        if not path.is_file():
            raise LabError(f"--apply {path}: no such file")
        if not shutil.which("kubectl"):
            manifest.apply(self.client, path)
            return
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={KUBECONFIG}", "apply", "-f", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"--apply {path}: {done.stderr.strip() or done.stdout.strip()}")

    def dead(self) -> list[str]:
        """Return the parts that ended without being asked to, with the end of their log."""
        return [f"{name} ended with {part.code}:\n{self._tail(name)}" for name, part in self._ended()]

    def status(self) -> dict[str, str]:
        """Return every part with its state."""
        return {
            name: f"runs, pid {part.pid}" if part.code is None else f"ended with {part.code}"
            for name, part in self._parts.items()
        }

    def _ended(self) -> Iterable[tuple[str, Child]]:
        return [(name, part) for name, part in self._parts.items() if part.code is not None]

    def _plan(self) -> str:
        return msgspec.json.encode(self.topology).decode()

    def _start_router(self) -> None:
        Path(router.DIRECTORY).mkdir(parents=True, exist_ok=True)
        path = Path(router.DIRECTORY, "bird.conf")
        path.write_text(router.configuration(self.topology))
        words = (router.program(), "-f", "-c", str(path), "-s", router.CONTROL, "-P", f"{router.DIRECTORY}/bird.pid")
        self._execute("router", words, str(fabric.NETNS / ROUTER))

    def _start_gobgp(self, station: Station) -> None:
        os.makedirs(station.directory, exist_ok=True)
        socket = f"{station.directory}/gobgp.sock"
        if os.path.exists(socket):
            os.remove(socket)
        words = ("gobgpd", "--api-hosts", f"unix://{socket}", "--pprof-disable", "-l", "warn")
        self._execute(f"gobgp/{station.name}", words, station.netns)

    def _start_own_api(self) -> Child:
        addresses = [address.address for address in self.topology.api]
        words = [
            *(f"--listen={bracketed(address)}:{API_PORT}" for address in (*addresses, "127.0.0.1")),
            f"--service-cidr={','.join(self.topology.service_cidrs)}",
            *(f"--advertise={bracketed(address)}:{API_PORT}" for address in addresses),
            f"--kubeconfig={KUBECONFIG}",
            f"--data={RUN / 'api.journal'}",
            f"--pod-log-dir={LOGS / 'pods'}",
        ]
        return self._run("api", "kuberouterpy.lab.parts:api", *words)

    def _start_real_api(self) -> Child:
        return self._execute("api", assets.apiserver(self.options.assets, self.topology))

    def _start_etcd(self) -> None:
        assets.prepare()
        part = self._execute("etcd", assets.etcd(self.options.assets))
        client = Client(assets.ETCD_URL, timeout_s=10)
        self._await("etcd", part, client, "/health")
        client.close()

    def _await(self, name: str, part: Child, client: Client, path: str) -> None:
        """Wait until a part answers. Errors: LabError with the end of its log when it has ended, or at the deadline."""
        deadline = time.monotonic() + (_REAL_API_S if self.options.assets else _API_S)
        while not _answers(client, path):
            if part.code is not None or time.monotonic() > deadline:
                told = "the API server" if name == "api" else name
                raise LabError(f"{told} did not come up:\n{self._tail(name)}")
            time.sleep(_POLL_S)

    def _which_api(self) -> str:
        """Return what the note of a start adds for a real API server: its version, and what it does not do."""
        if not self.options.assets:
            return ""
        version = self.client.request("GET", "/version").get("gitVersion", "of unknown version")
        return f": kube-apiserver {version} of {self.options.assets} ({assets.LIMITS})"

    def _run(
        self,
        name: str,
        function: str,
        *arguments: str,
        station: Station | None = None,
        environment: dict[str, str] | None = None,
    ) -> Child:
        netns = station.netns if station else ""
        order = Order(name, log_path(name), function, arguments, netns, environment or {})
        part = self._parts[name] = self._zygote.run(order)
        return part

    def _execute(self, name: str, words: tuple[str, ...], netns: str = "") -> Child:
        part = self._parts[name] = self._zygote.run(Order(name, log_path(name), arguments=words, netns=netns))
        return part

    def _end(self, name: str, number: int) -> int:
        part = self._parts.pop(name, None)
        if part is None or part.code is not None:
            raise LabError(f"{name} does not run")
        os.kill(part.pid, number)
        code = self._zygote.wait(part, _TERM_S)
        if code is None:
            os.kill(part.pid, signal.SIGKILL)
            self._zygote.wait(part, _TERM_S)
            raise LabError(f"{name} did not end within {_TERM_S:g} s of {signal.Signals(number).name}; it was killed")
        return code

    def _node(self, name: str) -> Station:
        for station in self.topology.nodes:
            if station.name == name:
                return station
        raise ConfigError(f"no node {name!r}; there are {', '.join(station.name for station in self.topology.nodes)}")

    def _tail(self, name: str) -> str:
        path = Path(log_path(name))
        lines = path.read_text(errors="replace").splitlines()[-10:] if path.exists() else []
        return "\n".join(f"  {line}" for line in lines)


def log_path(name: str) -> str:
    """Return the log of a part: ``agent/node-1`` writes to /run/lab/nodes/node-1/agent.log."""
    part, _, node = name.partition("/")
    return f"{RUN}/nodes/{node}/{part}.log" if node else f"{LOGS}/{part}.log"


def _answers(client: Client, path: str) -> bool:
    try:
        client.request("GET", path)
    except LabError as error:
        return getattr(error, "reason", "") == "Garbled"  # "ok" is no JSON, but it is an answer
    return True
