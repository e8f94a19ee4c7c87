"""``kuberouterpy lab``: a whole cluster on a real kernel, here, without root."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kuberouterpy.errors import ConfigError, LabError

if TYPE_CHECKING:
    from kuberouterpy.lab.options import LabOptions

F = TypeVar("F", bound=Callable[..., Any])
_COMMAND: Final = {"allow_interspersed_args": False}  # Options after the first argument are the command's own.
_SIGNALS: Final = ("TERM", "KILL", "INT", "HUP")
_INSIDE: Final = "Works inside `lab shell` and `lab run`."


@click.group(
    epilog="""\b
Examples:
  kuberouterpy lab demo
  kuberouterpy lab shell --nodes 2
  kuberouterpy lab run --apply web.yaml -- kubectl get pods -o wide
  kuberouterpy lab run -- kuberouterpy lab exec node/node-1 -- ipvsadm -Ln
""",
)
def lab() -> None:
    """Boot a whole cluster here: kernel, nodes, API server, agents, a router and a client outside.

    Needs no root: where this kernel has no IPVS, it boots one as an ordinary program (User-Mode Linux). The host's files are
    visible inside; what is written there is forgotten, except below --results. Where KUBEBUILDER_ASSETS names a folder with
    kube-apiserver and etcd, `run` and `shell` take these instead of the lab's own API server.
    """


def cluster_options(command: F) -> F:
    """Add the options that say which cluster to boot."""
    options = [
        click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True, help="Number of nodes."),
        click.option(
            "--families",
            type=click.Choice(["ipv4", "ipv6", "dual"]),
            default="dual",
            show_default=True,
            help="Address families of the cluster.",
        ),
        click.option(
            "--subnets",
            type=click.IntRange(1, 2),
            default=2,
            show_default=True,
            help="Subnets the nodes are spread over; with 2, every third node is on the second.",
        ),
        click.option(
            "--engine",
            type=click.Choice(["auto", "native", "uml", "qemu"]),
            default="auto",
            show_default=True,
            help="Kernel to run on.",
        ),
        click.option(
            "--apply", "files", multiple=True, metavar="FILE", help="Objects to apply first; may be repeated."
        ),
        click.option("--agent-args", default="", metavar="TEXT", help="Further flags of every agent, as one text."),
        click.option(
            "--rights", default="", metavar="FILE", help="Give the agents the rights of this manifest's account."
        ),
        click.option("--no-agents", is_flag=True, help="Start no agents: nodes will not be Ready."),
        click.option("--bare", is_flag=True, help="Only the kernel: no cluster at all."),
        click.option(
            "--results", multiple=True, metavar="DIR", help="Folder whose writes reach the host; may be repeated."
        ),
        click.option("--timeout", default=180.0, show_default=True, help="Seconds until all must be ready."),
        click.option("-v", "--verbose", is_flag=True, help="Tell what the start waits for."),
        click.option("-q", "--quiet", is_flag=True, help="Do not tell how the start goes."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@lab.command(
    context_settings=_COMMAND,
    epilog="""\b
Examples:
  kuberouterpy lab run -- kubectl get nodes -o wide
  kuberouterpy lab run --nodes 2 --families ipv4 --apply web.yaml -- ./check.sh
  kuberouterpy lab run --agent-args "--masquerade-all -v=1" -- kuberouterpy lab logs node-1
  kuberouterpy lab run --results out -- sh -c 'ipvsadm -Ln >out/ipvs.txt'
  kuberouterpy lab run --bare -- ipvsadm -Ln
""",
)
@cluster_options
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND [ARGUMENT]...")
def run(command: tuple[str, ...], **options: Any) -> int:
    """Boot, apply, wait until all is ready, run COMMAND inside, halt.

    COMMAND finds KUBECONFIG set and the current folder as outside. Its input, output and exit code pass through; the lab's
    own messages go to standard error.
    """
    return _boot(_words(command), **options)


@lab.command(
    epilog="""\b
Examples:
  kuberouterpy lab shell
  kuberouterpy lab shell --nodes 1 --families ipv6 --apply web.yaml
  kuberouterpy lab shell --bare
Inside:
  kubectl get pods -A -o wide
  kuberouterpy lab exec node/node-1 -- ipvsadm -Ln
""",
)
@cluster_options
def shell(**options: Any) -> int:
    """Boot a cluster and give a shell in it; leaving the shell halts it."""
    if sys.stdin.isatty():
        click.echo(
            "try: kubectl get nodes -o wide; kuberouterpy lab exec node/node-1 -- ipvsadm -Ln; exit halts it", err=True
        )
    inside = 'PS1="lab:\\w\\$ " exec bash --norc --noprofile -i' if sys.stdin.isatty() else "exec bash"
    return _boot(("sh", "-c", inside), **options)


@lab.command(
    epilog="""\b
Examples:
  kuberouterpy lab demo
  kuberouterpy lab demo --engine uml --families ipv4
""",
)
@click.option("--nodes", type=click.IntRange(2, 9), default=3, show_default=True, help="Number of nodes.")
@click.option("--families", type=click.Choice(["ipv4", "ipv6", "dual"]), default="dual", show_default=True)
@click.option("--engine", type=click.Choice(["auto", "native", "uml", "qemu"]), default="auto", show_default=True)
def demo(nodes: int, families: str, engine: str) -> int:
    """Show the main job on a real kernel, step by step; exit 0 only if every step held."""
    from kuberouterpy.lab.demo import outside

    return outside(nodes=nodes, families=families, engine=engine)


@lab.command(
    name="exec",
    context_settings=_COMMAND,
    epilog="""\b
Examples:
  kuberouterpy lab exec node/node-1 -- ipvsadm -Ln
  kuberouterpy lab exec pod/default/web-1 -- curl -s http://10.96.0.20/hostname
  kuberouterpy lab exec router -- birdc -s /run/lab/router/bird.ctl show protocols
  kuberouterpy lab exec client -- curl -s http://172.30.1.11:30080/
""",
)
@click.argument("target", metavar="node/NAME|pod/NAMESPACE/NAME|router|client")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND [ARGUMENT]...")
def execute(target: str, command: tuple[str, ...]) -> int:
    """Run COMMAND on a node, in a pod, on the router or on the client outside. Inside a lab only."""
    from kuberouterpy.lab.places import enter

    words = _words(command)
    enter(target)
    try:
        os.execvp(words[0], words)  # noqa: S606 (the command is the user's own)
    except OSError as error:
        click.echo(f"{words[0]}: {error.strerror}", err=True)
        return 127 if isinstance(error, FileNotFoundError) else 126


@lab.command(
    epilog="""\b
Examples:
  kuberouterpy lab wait
  kuberouterpy lab wait --for pods --timeout 30
"""
)
@click.option("--for", "what", type=click.Choice(["all", "nodes", "pods", "agents"]), default="all", show_default=True)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds.")
def wait(what: str, timeout: float) -> None:
    """Wait until nodes and pods are Ready and agents in sync. Inside a lab only."""
    deadline = time.monotonic() + timeout
    for one in ("nodes", "pods", "agents") if what == "all" else (what,):
        _ask("wait", what=one, timeout_s=max(deadline - time.monotonic(), 0.0))


def _signal_option(command: F) -> F:
    return click.option(
        "--signal", "name", type=click.Choice(_SIGNALS), default="TERM", show_default=True, help="How to stop it."
    )(command)


@lab.command(name="restart-agent", epilog="Example: kuberouterpy lab restart-agent node-1 --signal KILL")
@click.argument("node")
@_signal_option
def restart_agent(node: str, name: str) -> None:
    """Stop a node's agent and start it again. Inside a lab only."""
    _ask("restart-agent", node=node, number=_number(name))


@lab.command(name="stop-agent", epilog="Example: kuberouterpy lab stop-agent node-1")
@click.argument("node")
@_signal_option
def stop_agent(node: str, name: str) -> None:
    """Stop a node's agent; what it programmed stays. Inside a lab only."""
    _ask("stop-agent", node=node, number=_number(name))


@lab.command(
    name="start-agent",
    context_settings=_COMMAND,
    epilog="""\b
Examples:
  kuberouterpy lab start-agent node-1
  kuberouterpy lab start-agent node-1 --ipvs-sync-period=5s
""",
)
@click.argument("node")
@click.argument("arguments", nargs=-1, metavar="[FLAG]...")
def start_agent(node: str, arguments: tuple[str, ...]) -> None:
    """Start a node's agent again, with flags of its own if wanted. Inside a lab only."""
    _ask("start-agent", node=node, arguments=arguments)


@lab.command(name="restart-gobgp", epilog="Example: kuberouterpy lab restart-gobgp node-1 --signal KILL")
@click.argument("node")
@_signal_option
def restart_gobgp(node: str, name: str) -> None:
    """Stop a node's GoBGP sidecar and start it again, empty. Inside a lab only."""
    _ask("restart-gobgp", node=node, number=_number(name))


@lab.command(name="kill-api", epilog="Example: kuberouterpy lab kill-api")
def kill_api() -> None:
    """Kill the API server, as a crash would. Inside a lab only."""
    _ask("kill-api")


@lab.command(name="start-api", epilog="Example: kuberouterpy lab start-api")
def start_api() -> None:
    """Start the API server again; it still knows what it stored. Inside a lab only."""
    _ask("start-api")


@lab.command(
    epilog="""\b
Examples:
  kuberouterpy lab fault status status=429 retry_after=2 resource=pods count=3
  kuberouterpy lab fault cut resource=services after=1
  kuberouterpy lab fault delay seconds=5 verb=list probability=0.5
  kuberouterpy lab fault clear
"""
)
@click.argument(
    "kind", type=click.Choice(["drop", "delay", "status", "truncate", "garbage", "hang", "cut", "mute", "clear"])
)
@click.argument("conditions", nargs=-1, metavar="[KEY=VALUE]...")
def fault(kind: str, conditions: tuple[str, ...]) -> None:
    """Have the API server misbehave, or behave again. Inside a lab only.

    Conditions choose what is struck: method, path, verb, resource, agent, probability, count. Values: seconds (delay), status,
    retry_after, message (status), after (cut, mute).
    """
    values: dict[str, Any] = {}
    for condition in conditions:
        key, equals, text = condition.partition("=")
        if not equals:
            raise ConfigError(f"lab fault: {condition!r} is not KEY=VALUE")
        values[key] = _typed(key, text)
    _ask("fault", faults=[] if kind == "clear" else [{"kind": kind, **values}])


@lab.command(
    epilog="""\b
Examples:
  kuberouterpy lab logs node-1
  kuberouterpy lab logs node-1 --of gobgp
  kuberouterpy lab logs --of api
"""
)
@click.argument("node", required=False, default="")
@click.option("--of", "part", default="agent", show_default=True, help="agent, gobgp; api, controllers, router.")
def logs(node: str, part: str) -> None:
    """Print the log of a node's agent, or of another part. Inside a lab only."""
    path = Path(f"/run/lab/nodes/{node}/{part}.log" if node else f"/run/lab/logs/{part}.log")
    if not path.exists():
        raise LabError(f"no log {path}; give a node (kuberouterpy lab logs node-1) or --of api, controllers or router")
    sys.stdout.flush()
    sys.stdout.buffer.write(path.read_bytes())


@lab.command(epilog="Example: kuberouterpy lab status")
def status() -> None:
    """Print the parts of this lab and how they are. Inside a lab only."""
    parts: dict[str, str] = _ask("status")
    width = max(map(len, parts), default=0)
    for name, state in sorted(parts.items()):
        click.echo(f"{name:{width}}  {state}")


def _boot(
    command: tuple[str, ...],
    *,
    engine: str,
    bare: bool,
    results: tuple[str, ...],
    quiet: bool,
    **cluster: Any,
) -> int:
    from kuberouterpy.lab.engine import boot, choose
    from kuberouterpy.lab.engine.plan import GuestPlan

    directory = _here()
    options = None if bare else _lab_options(**cluster)
    choice = choose(engine)
    tell = _Teller(quiet)
    tell(f"engine {choice.engine.name}: {choice.engine.version()} ({choice.reason})")
    plan = GuestPlan(
        command=command,
        directory=directory,
        environment=dict(os.environ),
        engine=choice.engine.name,
        results="",
        writable=tuple(_made(Path(folder)) for folder in results),
        lab=options,
    )
    return boot(choice.engine, plan, note=tell)


def _lab_options(
    *,
    nodes: int,
    families: str,
    subnets: int,
    files: tuple[str, ...],
    agent_args: str,
    rights: str,
    no_agents: bool,
    timeout: float,
    verbose: bool,
) -> LabOptions:
    from kuberouterpy.lab import assets, manifest
    from kuberouterpy.lab.options import LabOptions

    for name in files:
        if not Path(name).is_file():
            raise ConfigError(f"--apply {name}: no such file")
        manifest.check(Path(name))
    if rights:
        if not Path(rights).is_file():
            raise ConfigError(f"--rights {rights}: no such file")
        manifest.check(Path(rights))
    try:
        words = tuple(shlex.split(agent_args))
    except ValueError as error:
        raise ConfigError(f"--agent-args {agent_args!r}: {error}") from error
    return LabOptions(
        nodes=nodes,
        families=families,
        subnets=subnets,
        agents=not no_agents,
        agent_args=words,
        rights=rights,
        apply=files,
        wait_s=timeout,
        assets=assets.folder(os.environ),
        verbose=verbose,
    )


def _words(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command without the ``--`` before it: click leaves it in where options end at the first argument."""
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise ConfigError("no COMMAND after --")
    return words


class _Teller:
    """Prints the lab's own progress on standard error, with the time since the start."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        if not self._quiet or text.startswith("warning"):
            click.echo(f"lab {time.monotonic() - self._began:5.1f}s  {text}", err=True)


def _here() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise LabError(f"the current folder: {error.strerror}") from error


def _made(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder.resolve())


def _ask(operation: str, **arguments: Any) -> Any:
    from kuberouterpy.lab.control import ask

    return ask(operation, **arguments)


def _number(name: str) -> int:
    import signal

    return int(signal.Signals[f"SIG{name}"])


def _typed(key: str, text: str) -> Any:
    kinds: dict[str, Callable[[str], Any]] = {
        "probability": float,
        "seconds": float,
        "count": int,
        "status": int,
        "retry_after": int,
        "after": int,
    }
    try:
        return kinds.get(key, str)(text)
    except ValueError as error:
        raise ConfigError(f"lab fault: {key}={text}: not a number") from error
