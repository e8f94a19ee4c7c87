"""``kuberouterpy migrate``: take a node over from kube-proxy or kube-router, step by step, and back."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kuberouterpy.cli import ExitCode
from kuberouterpy.cli.ask import Unreachable, ask, offline_command, offline_loop, socket_option, yaml_options
from kuberouterpy.errors import ConfigError

if TYPE_CHECKING:
    from kuberouterpy.answers import Objects
    from kuberouterpy.migrate.kernel import Standing
    from kuberouterpy.migrate.servers import Comparison, Server, Serving

_SHOWN: Final = 20
_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.group(
    epilog="""\b
On a node that kube-proxy serves:
  kubectl get nodes,services,endpointslices -A -o json \\
    | kuberouterpy migrate observe -f - --node worker-1     would the agent serve the same?
  (stop kube-proxy on the node, start the agent: docs/migrate.md)
  kuberouterpy migrate adopt                                it does; write down what is theirs
  kuberouterpy migrate own                                  remove what is theirs
  kuberouterpy migrate rollback                             put it back
"""
)
def migrate() -> None:
    """Take this node over from kube-proxy or kube-router; connections live on."""


def _observe(
    *, files: tuple[str, ...], node: str, links: tuple[str, ...], exit_code: bool, agent_socket: str, **flags: Any
) -> int:
    from kuberouterpy.migrate import kernel

    _need_root()
    standing = kernel.read()
    wanted = _wanted(files, node, links, flags, agent_socket)
    compared = _compare(standing, wanted)
    for line in _told(standing, compared):
        click.echo(line)
    return ExitCode.DIFFERENCES if exit_code and not compared.equal else ExitCode.FINE


_observe = yaml_options(
    click.option("--exit-code", is_flag=True, help="Exit with 3 where the agent would serve otherwise.")(
        socket_option(_observe)
    )
)
observe = offline_command(
    "observe",
    _observe,
    help="Compare what is served here with what the agent wants; change nothing.",
    epilog="Example: kuberouterpy migrate observe -f cluster/ --node worker-1",
)
migrate.add_command(observe)


@migrate.command(epilog="Example: kuberouterpy migrate adopt")
@click.option("--checkpoint", type=_FILE, default=None, help="Where to write down what is theirs.")
@socket_option
def adopt(checkpoint: Path | None, agent_socket: str) -> int:
    """See that the running agent serves what they served, and write down what is theirs for a rollback."""
    from kuberouterpy.migrate import kernel

    _need_root()
    wanted = _of_agent(agent_socket)
    standing = kernel.read()
    _refuse(kernel.running())
    _refuse(f"{one} is on kube-ipvs0 only; the agent has not programmed it yet" for one in _absent(standing, wanted))
    if standing.remains.empty:
        click.echo("nothing of kube-proxy is here")
        return ExitCode.FINE
    path = checkpoint or kernel.CHECKPOINT
    if not path.exists():  # a second adopt, half-way through own, must not forget what is gone by now
        kernel.save(kernel.checkpoint(standing, socket.gethostname()), path)
    for line in _told(standing, _compare(standing, wanted)):
        click.echo(line)
    click.echo(f"written down in {path}; next: kuberouterpy migrate own")
    return ExitCode.FINE


@migrate.command(epilog="Example: kuberouterpy migrate own")
@click.option("--checkpoint", type=_FILE, default=None, help="What adopt has written down.")
@socket_option
def own(checkpoint: Path | None, agent_socket: str) -> int:
    """Remove what is provably kube-proxy's, once it is gone and the agent serves."""
    from kuberouterpy.migrate import kernel

    _need_root()
    kernel.load(checkpoint or kernel.CHECKPOINT)
    wanted = _of_agent(agent_socket)
    standing = kernel.read()
    _refuse(kernel.running())
    _refuse(f"{one} is on kube-ipvs0 only; the agent has not programmed it yet" for one in _absent(standing, wanted))
    for done in kernel.remove(standing, wanted):
        click.echo(f"removed {done}")
    left = kernel.read().remains
    for reason in left.kept:
        click.echo(f"kept {reason}")
    click.echo("nothing of kube-proxy is left" if left.empty and not left.kept else "the rest stays, as said above")
    return ExitCode.FINE


@migrate.command(epilog="Example: kuberouterpy migrate rollback")
@click.option("--checkpoint", type=_FILE, default=None, help="What adopt has written down.")
@socket_option
def rollback(checkpoint: Path | None, agent_socket: str) -> int:
    """Put back what adopt has written down; stop the agent first, start kube-proxy after."""
    from kuberouterpy.migrate import kernel
    from kuberouterpy.status import Status

    _need_root()
    path = checkpoint or kernel.CHECKPOINT
    found = kernel.load(path)
    try:
        ask(agent_socket, "status", Status)
    except Unreachable:
        pass
    else:
        raise ConfigError(f"an agent runs here ({agent_socket}); stop it first, or both would serve")
    for done in kernel.restore(found):
        click.echo(f"put back {done}")
    path.rename(path.with_suffix(".done"))
    click.echo(f"{found.mode} finds what it left; start it now, then: kuberouterpy cleanup --yes")
    return ExitCode.FINE


def wanted_of(told: Objects) -> dict[Server, frozenset[tuple[str, int]]]:
    """Return the virtual servers an agent wants, with the real servers that take new connections."""
    found: dict[Server, set[tuple[str, int]]] = {}
    for view in told.objects:
        if not view.wanted or view.name.startswith("fwmark"):
            continue
        server, _, real = view.name.partition(" -> ")
        protocol, _, place = server.partition(" ")
        servers = found.setdefault((protocol, *_place(place)), set())
        if real and " weight 0" not in f" {view.wanted} ":
            servers.add(_place(real))
    return {server: frozenset(real) for server, real in found.items()}


def _place(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    return address.strip("[]"), int(port)


def _wanted(
    files: tuple[str, ...], node: str, links: tuple[str, ...], flags: dict[str, Any], agent_socket: str
) -> Serving:
    if not files:
        return _of_agent(agent_socket)
    from kuberouterpy.answers import objects

    return wanted_of(objects(offline_loop(files, node, links, flags), ("virtual", "real"), now=0.0))


def _of_agent(agent_socket: str) -> Serving:
    from kuberouterpy.answers import Objects

    return wanted_of(ask(agent_socket, "objects", Objects, kind=["virtual", "real"]))


def _absent(standing: Standing, wanted: Serving) -> list[str]:
    from kuberouterpy.migrate import kernel

    return kernel.missing_addresses(standing, wanted)


def _compare(standing: Standing, wanted: Serving) -> Comparison:
    from kuberouterpy.migrate.servers import compare, from_rules

    stands = standing.serving or from_rules(standing.rules)
    return compare(stands, wanted)


def _told(standing: Standing, compared: Comparison) -> Iterable[str]:
    theirs = standing.remains
    yield f"found    {theirs.mode or 'neither kube-proxy nor kube-router'}"
    if not theirs.empty:
        yield (
            f"theirs   {len(theirs.chains)} chains, {len(theirs.jumps)} jumps to them, {len(theirs.sets)} sets, "
            f"{len(theirs.addresses)} addresses on kube-ipvs0"
        )
    if theirs.kube_router:
        yield f"shared   {len(theirs.kube_router)} chains and sets by the names of kube-router: the agent adopts them"
    yield (
        f"virtual  {len(compared.same)} the same, {len(compared.differ)} differ, "
        f"{len(compared.theirs)} only theirs, {len(compared.ours)} only ours"
    )
    yield from _shortened(_differences(compared))
    for reason in theirs.kept:
        yield f"kept     {reason}"


def _differences(compared: Comparison) -> Iterable[str]:
    for server, without, besides in compared.differ:
        words = [f"-{_shown(*one)}" for one in without] + [f"+{_shown(*one)}" for one in besides]
        yield f"~ {server[0]} {_shown(*server[1:])}  real servers {' '.join(words)}"
    yield from (f"- {protocol} {_shown(address, port)}" for protocol, address, port in compared.theirs)
    yield from (f"+ {protocol} {_shown(address, port)}" for protocol, address, port in compared.ours)


def _shortened(lines: Iterable[str]) -> Iterable[str]:
    every = list(lines)
    yield from every[:_SHOWN]
    if len(every) > _SHOWN:
        yield f"... and {len(every) - _SHOWN} more"


def _shown(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _refuse(reasons: Iterable[str]) -> None:
    told = list(reasons)
    if told:
        raise ConfigError("\n".join(told))


def _need_root() -> None:
    if os.geteuid():
        raise ConfigError("migrate needs root: it reads and changes what the kernel holds")
