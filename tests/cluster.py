"""The fixture ``lab``: a cluster to test against, with the places in it from which tests look at it.

What a test uses is small on purpose: places that run commands, the API, and the parts that can be stopped and started. Another
kind of cluster can implement the same. Here it is the embedded lab, and pytest itself runs inside its guest (tests/guest.py).

Commands run in one shell per place that lives as long as the session: under User-Mode Linux every process started costs a
tenth of a second, so a test sends a place all it wants to know in one script, and ``curl`` all its URLs in one process.
"""

from __future__ import annotations

import itertools
import os
import selectors
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from socket import socket as Socket  # noqa: N812  (Place has a method of that name)
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

import pytest

from kuberouterpy.family import Family, family_of
from kuberouterpy.lab import control, fabric, places
from kuberouterpy.lab.client import Client, Object
from kuberouterpy.lab.topology import Topology, plan

T = TypeVar("T")
P = ParamSpec("P")
SCTP: Final = 132
REFUSED, TIMED_OUT = 7, 28
"""Exit codes of curl."""
_SETTLE_S: Final = 60.0
_POLL_S: Final = 0.1
_marks = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of cluster."""
    parser.getgroup("lab").addoption(
        "--cluster", default="lab", choices=["lab", "kind"], help="where cluster tests run: the embedded lab, or kind"
    )


class Done(NamedTuple):
    """How a script ended."""

    code: int
    text: str
    """Standard output and error."""


class Answer(NamedTuple):
    """What one URL gave."""

    code: int
    """Exit code of curl: 0, REFUSED, TIMED_OUT, ..."""
    text: str
    """The body without its last line end; curl's own words where there is none."""


class Place:
    """A network namespace of the cluster to run things in: a node, a pod, the client outside."""

    def __init__(self, target: str, netns: str) -> None:
        self.target = target
        self.netns = netns
        self._shell: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return self.target

    def sh(self, script: str, *, timeout_s: float = 30) -> Done:
        """Run a shell script here."""
        shell = self._started()
        assert shell.stdin is not None
        assert shell.stdout is not None
        mark = f"--{os.getpid()}-{next(_marks)}--"
        shell.stdin.write(f'(\n{script}\n) </dev/null 2>&1\necho "{mark} $?"\n'.encode())
        shell.stdin.flush()
        data, deadline = b"", time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(shell.stdout, selectors.EVENT_READ)
            while mark.encode() not in data or not data.endswith(b"\n"):
                ready = selector.select(max(deadline - time.monotonic(), 0))
                more = os.read(shell.stdout.fileno(), 1 << 16) if ready else b""
                if not more:
                    self.close()
                    pytest.fail(f"{self}: no end within {timeout_s:g} s: {script}\n{data.decode(errors='replace')}")
                data += more
        text, _, code = data.decode(errors="replace").rpartition(f"{mark} ")
        return Done(int(code), text)

    def run(self, script: str, *, timeout_s: float = 30) -> str:
        """Run a script that must succeed; return what it printed."""
        done = self.sh(script, timeout_s=timeout_s)
        assert done.code == 0, f"{self}: {script}: exit {done.code}\n{done.text}"
        return done.text

    def curl(self, *urls: str, timeout_s: float = 3) -> list[Answer]:
        """Fetch URLs one after the other, each over a connection of its own."""
        if not urls:
            return []
        words = ["curl", "-gs0", "-m", f"{timeout_s:g}", "-w", r"'\n=%{exitcode} %{errormsg}\n'", *urls]
        done = self.sh(" ".join(words), timeout_s=20 + len(urls) * timeout_s)
        answers: list[Answer] = []
        body: list[str] = []
        for line in done.text.splitlines():
            if line.startswith("="):
                code, _, told = line[1:].partition(" ")
                answers.append(Answer(int(code), "\n".join(body).strip() or told))
                body = []
            else:
                body.append(line)
        assert len(answers) == len(urls), f"{self}: curl {' '.join(urls)}\n{done.text}"
        return answers

    def codes(self, *urls: str, timeout_s: float = 3) -> list[int]:
        """Fetch URLs all at once; return curl's exit code for each: 0, REFUSED, TIMED_OUT, ..."""
        words = [
            "curl",
            "-Zgs0",
            "--no-progress-meter",
            "--parallel-immediate",
            "-m",
            f"{timeout_s:g}",
            "-w",
            r"'%{urlnum} %{exitcode}\n'",
        ]
        text = self.sh(" ".join((*words, *(f"-o /dev/null {one}" for one in urls))), timeout_s=20 + timeout_s).text
        told = [line.split() for line in text.splitlines()]
        found = {int(number): int(code) for number, code in told}
        assert len(found) == len(urls), f"{self}: curl {' '.join(urls)}\n{text}"
        return [found[number] for number in range(len(urls))]

    def names(self, url: str, count: int, *, timeout_s: float = 3) -> Counter[str]:
        """Return who answers how often when a URL is fetched again and again; failures count as ``curl exit N``."""
        found = self.curl(*(f"{url}/hostname" for _ in range(count)), timeout_s=timeout_s)
        return Counter(answer.text if answer.code == 0 else f"curl exit {answer.code}" for answer in found)

    def socket(self, address: str, kind: int, protocol: int = 0) -> Socket:
        """Return a socket of this place for talking to an address."""
        family = socket.AF_INET if family_of(address) is Family.IPV4 else socket.AF_INET6
        return self.within(lambda: Socket(family, kind, protocol))

    def within(self, call: Callable[[], T]) -> T:
        """Call something in this place's network; sockets it opens stay there."""
        found: list[T] = []
        fabric.within(self.netns, lambda: found.append(call()))
        return found[0]

    def datagram(self, address: str, port: int, *, payload: bytes = b"x", timeout_s: float = 2) -> str:
        """Send one UDP datagram from a fresh port; return who answers, or ``refused`` or ``silence``."""
        with self.socket(address, socket.SOCK_DGRAM) as sock:
            return ask(sock, address, port, payload, timeout_s=timeout_s)

    def datagrams(self, address: str, port: int, count: int) -> Counter[str]:
        """Return who answers how often."""
        return Counter(name_in(self.datagram(address, port)) for _ in range(count))

    def sctp(self, address: str, port: int, *, timeout_s: float = 3) -> str:
        """Open an SCTP association and return what the other side says to one message, or ``refused`` or ``silence``."""
        with self.socket(address, socket.SOCK_STREAM, SCTP) as sock:
            return ask(sock, address, port, b"x\n", timeout_s=timeout_s)

    def connect(self, address: str, port: int, *, timeout_s: float = 3) -> Socket:
        """Return an open TCP connection; the responder answers each line with who it is and whom it sees."""
        sock = self.socket(address, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """End the shell."""
        if self._shell is not None:
            self._shell.kill()
            self._shell.wait()
            for stream in (self._shell.stdin, self._shell.stdout):
                assert stream is not None
                stream.close()
            self._shell = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._shell is None or self._shell.poll() is not None:
            self._shell = subprocess.Popen(
                [*self._enter(), "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        return self._shell

    def _enter(self) -> list[str]:
        """Return the words that come before a command to run it here."""
        view = places.VIEWS / Path(self.netns).name
        if view.exists():
            return ["nsenter", f"--net={self.netns}", f"--mount={view}"]
        return ["ip", "netns", "exec", Path(self.netns).name]


def ask(sock: Socket, address: str, port: int, payload: bytes = b"x\n", *, timeout_s: float = 2) -> str:
    """Send a payload over a socket, connecting it first where it is not; return the answer, ``refused`` or ``silence``."""
    sock.settimeout(timeout_s)
    try:
        sock.connect((address, port))
        return say(sock, payload)
    except (ConnectionRefusedError, PermissionError):  # EPERM: refused by a rule of this very host
        return "refused"
    except TimeoutError:
        return "silence"


def say(sock: Socket, payload: bytes = b"x\n") -> str:
    """Send over a connected socket and return the answer. Errors: OSError as it comes."""
    sock.send(payload)
    return sock.recv(65536).decode().strip()


def name_in(answer: str) -> str:
    """Return the name in an answer ``NAME ADDRESS:PORT`` of the responder."""
    return answer.split(maxsplit=1)[0]


def source_in(answer: str) -> str:
    """Return the client's address in an answer of the responder."""
    return answer.split()[1].rpartition(":")[0].strip("[]")


def url(address: str, port: int) -> str:
    """Return ``http://ADDRESS:PORT``."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def eventually(check: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Return what a check returns once its assertions hold; at the deadline its failure is the test's."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        try:
            return check(*arguments, **named)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


class Lab:
    """The cluster."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.families = topology.families
        self.nodes = tuple(station.name for station in topology.nodes)
        self.client = Place("client", topology.client.netns)
        self.api = Client(topology.server, timeout_s=15)
        self._nodes = {station.name: Place(f"node/{station.name}", station.netns) for station in topology.nodes}
        self._pods: dict[str, Place] = {}

    def node(self, name: str) -> Place:
        """Return a node."""
        return self._nodes[name]

    def pod(self, namespace: str, name: str) -> Place:
        """Return a pod that has its network."""
        netns = places.netns(f"pod/{namespace}/{name}")
        if netns not in self._pods:
            self._pods[netns] = Place(f"pod/{namespace}/{name}", netns)
        return self._pods[netns]

    def address(self, node: str, family: Family) -> str:
        """Return a node's own address."""
        station = next(one for one in self.topology.nodes if one.name == node)
        return next(one.address for one in station.addresses if one.family is family)

    def client_address(self, family: Family) -> str:
        """Return the address of the client outside."""
        return next(one.address for one in self.topology.client.addresses if one.family is family)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Run kubectl; return what it printed."""
        done = subprocess.run(["kubectl", *words], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    def start_agent(self, node: str, *arguments: str) -> None:
        """Start a node's agent, with further arguments."""
        control.ask("start-agent", node=node, arguments=arguments)

    def stop_agent(self, node: str, number: int = signal.SIGTERM) -> int:
        """Stop a node's agent; return its exit code."""
        code: int = control.ask("stop-agent", node=node, number=int(number))
        return code

    def stop_gobgp(self, node: str, number: int = signal.SIGKILL) -> None:
        """Stop a node's GoBGP."""
        control.ask("stop-gobgp", node=node, number=int(number))

    def start_gobgp(self, node: str) -> None:
        """Start a node's GoBGP, empty."""
        control.ask("start-gobgp", node=node)

    def restart_gobgp(self, node: str, number: int = signal.SIGTERM) -> None:
        """Stop a node's GoBGP and start it again, empty."""
        control.ask("restart-gobgp", node=node, number=int(number))

    def parts(self) -> dict[str, int]:
        """Return the process number of every part that runs."""
        told: dict[str, str] = control.ask("status")
        return {name: int(state.rpartition(" ")[2]) for name, state in told.items() if state.startswith("runs")}

    def kill_api(self) -> None:
        """Kill the API server."""
        control.ask("kill-api")

    def start_api(self) -> None:
        """Start the API server; it still knows what it stored."""
        control.ask("start-api")
        self.api.close()

    def fault(self, *faults: dict[str, Any]) -> None:
        """Have the API server misbehave; with none, behave again."""
        control.ask("fault", faults=list(faults))

    def wait(self, what: str, timeout_s: float = 60) -> None:
        """Wait until nodes, pods or agents are ready."""
        control.ask("wait", what=what, timeout_s=timeout_s)

    def refused(self) -> list[str]:
        """Return what the API server refused the agents: it tells so in its log."""
        path = Path("/run/lab/logs/api.log")
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return sorted({line for line in lines if "is forbidden: User" in line})

    def log(self, node: str, part: str = "agent") -> str:
        """Return the log of a node's part."""
        return Path(f"/run/lab/nodes/{node}/{part}.log").read_text(errors="replace")

    def dataplane(self, node: str) -> dict[str, list[str]]:
        """Return what a node's kernel holds, as the tools print it, without counters, dates, hash seeds and pods' links."""
        text = self.node(node).run("\n".join(f"echo '# {name}'; {command}" for name, command in _JUDGES.items()))
        found: dict[str, list[str]] = {}
        for line in text.splitlines():
            if line.startswith("# ") and line[2:] in _JUDGES:
                lines = found.setdefault(line[2:], [])
            elif kept := _clean(line):
                lines.append(kept)
        return {name: _ordered(name, lines) for name, lines in found.items()}

    def close(self) -> None:
        """End every shell and connection."""
        self.api.close()
        for place in (self.client, *self._nodes.values(), *self._pods.values()):
            place.close()


_SHOW: Final = "address show\nroute show table all\nrule show\n"
_JUDGES: Final = {
    "ipvsadm": "ipvsadm -Sn",
    "ipset": "ipset save",
    "iptables": "iptables-save",
    "ip6tables": "ip6tables-save",
    "ip": f"ip -4 -o -batch - <<END\n{_SHOW}END",
    "ip -6": f"ip -6 -o -batch - <<END\n{_SHOW}END",
}
_VOLATILE: Final = {"initval", "hashsize", "bucketsize", "maxelem"}


def _clean(line: str) -> str:
    """Return a line without what differs between two kernels that do the same; empty where nothing is left."""
    if line.startswith(("#", "COMMIT")) or "veth" in line or "expires" in line or "cache" in line:
        return ""
    if line.startswith(":"):  # a chain with its counters
        return line.partition(" [")[0]
    words = [word for word in line.split() if word != "linkdown"]  # a bridge without pods
    if words[0][0].isdigit() and words[0].endswith(":") and len(words) > 2 and words[2] in {"inet", "inet6"}:
        words = words[1:]  # the index of a link that was made again
    if words[:1] == ["create"]:
        words = [word for before, word in zip(("", *words), words, strict=False) if not {before, word} & _VOLATILE]
    if "fe80::" in line or words[:1] == [
        "multicast"
    ]:  # link-local addresses are drawn at random and come with a carrier
        return ""
    return " ".join(words)


def _ordered(name: str, lines: Iterable[str]) -> list[str]:
    """Return lines in an order that is the same for the same content: rules keep theirs within a chain, all else is sorted."""
    if not name.endswith("tables"):
        return sorted(lines)
    table, found = "", []
    for number, line in enumerate(lines):
        table = line if line.startswith("*") else table
        words = line.split()
        chain, place = (words[1], number) if words[0] == "-A" else ("", 0)
        found.append(((table, chain, place, line), f"{table} {line}"))
    return [line for _, line in sorted(found)]


class Steady:
    """A client that connects anew, asks and closes, over and over, until it is stopped: does anything get lost?"""

    def __init__(self, place: Place, targets: Sequence[tuple[str, int]]) -> None:
        import threading

        self.lost: list[str] = []
        self.asked = 0
        self.answered: Counter[tuple[str, int]] = Counter()
        self.targets = targets
        self._place = place
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def answered_since(self, before: Counter[tuple[str, int]]) -> None:
        """Assert that every target has answered a new connection since then."""
        assert all(self.answered[one] > before[one] for one in self.targets), (before, self.answered, self.lost)

    def _run(self) -> None:
        for address, port in itertools.cycle(self.targets):
            if self._stop.wait(0.02):
                return
            began = time.monotonic()
            try:
                with self._place.connect(address, port, timeout_s=5) as sock:
                    say(sock)
                self.answered[address, port] += 1
            except OSError as error:
                took = time.monotonic() - began
                self.lost.append(f"{address} port {port} at {time.strftime('%H:%M:%S')} after {took:.1f} s: {error!r}")
            self.asked += 1


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The cluster this session runs in, or the one of kind."""
    from tests.guest import INSIDE

    if request.config.getoption("--cluster") == "kind":
        from tests import kind

        yield from kind.opened(tmp_path_factory.mktemp("kind"))
        return

    assert INSIDE, "the fixture lab is for tests marked lab"
    told = control.ask("lab")
    here = Lab(plan(len(told["nodes"]), told["families"], told["subnets"]))
    yield here
    here.close()


__all__ = ["Answer", "Counter", "Lab", "Object", "Place", "Steady", "eventually"]
