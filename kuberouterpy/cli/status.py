"""``kuberouterpy status``: what the agent of this node says of itself, problems first, on one screen."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterable, Iterator
from typing import Final

import click
import msgspec

from kuberouterpy.answers.overview import ForeignView, Overview
from kuberouterpy.cli import PROGRAM, ExitCode, table
from kuberouterpy.cli.ask import Unreachable as AskUnreachable
from kuberouterpy.cli.ask import ask, asked_for, socket_option
from kuberouterpy.status import SourceStatus, Status

_TIMEOUT_S: Final = 5.0
_LABEL: Final = 12
"""Width of the first column."""

_EXAMPLES: Final = """\b
Examples:
  kuberouterpy status
  kuberouterpy status -o json
  kuberouterpy status --exit-code || kuberouterpy doctor
  kuberouterpy status --address 10.0.0.7 --exit-code && echo healthy
"""


class Unreachable(AskUnreachable):
    """No agent answers."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.option(
    "--address", default="", metavar="ADDRESS", help="Ask the agent's health server there instead of its socket."
)
@click.option("--port", default=20244, show_default=True, type=click.IntRange(1, 65535), help="Its --health-port.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form.")
@click.option("--exit-code", is_flag=True, help="Exit with 4 where the agent is not ready or something fails.")
@socket_option
@click.pass_context
def status(ctx: click.Context, /, *, address: str, port: int, output: str, exit_code: bool, agent_socket: str) -> int:
    """Show how the agent of this node is, on one screen, problems first.

    Asks its socket, which only root may; else its health server, which knows less.
    """
    remote = bool(address) or ctx.get_parameter_source("port") is click.core.ParameterSource.COMMANDLINE
    told = _remote(address or "127.0.0.1", port) if remote else _told(ctx, agent_socket)
    state = told.status if isinstance(told, Overview) else told
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    else:
        width = table.width()
        for line in screen(told) if isinstance(told, Overview) else lines(told):
            click.echo(line if not width or len(line) <= width else line[: width - 1] + "…")
    return ExitCode.UNHEALTHY if exit_code and not healthy(state) else ExitCode.FINE


def _told(ctx: click.Context, agent_socket: str) -> Overview | Status:
    """Return what the agent says on its socket, else on its health server, where the socket was not asked for."""
    try:
        return ask(agent_socket, "overview", Overview)
    except AskUnreachable:
        if asked_for(ctx):
            raise
        return _remote("127.0.0.1", 20244)


def _remote(address: str, port: int) -> Status:
    try:
        return msgspec.json.decode(fetch(address, port, "/status.json"), type=Status)
    except msgspec.DecodeError as error:
        raise Unreachable(f"{_where(address, port)} does not speak as an agent does ({error})") from None


def screen(told: Overview) -> Iterator[str]:
    """Yield the screen: the node, what is wrong, a line a controller, what to look at next."""
    state = told.status
    word = "Ready" if state.ready else "NOT READY"
    kernel = os.uname().release
    yield _row("node", f"{state.node}   agent {state.version}   kernel {kernel}   up {since(state.up_s)}   {word}")
    yield from _problems(state)
    yield from (_row("LEFT ALONE", f"{one}: another hand changes it again and again") for one in state.contested)
    if state.guard:
        yield _row("GUARD", state.guard)
    if state.drain != "serving":
        yield _row("DRAIN", state.drain)
    api = next((one for one in state.sources if one.name == "kubernetes"), None)
    if state.synced and (api is None or api.ok):  # a source is named once it has been away
        yield _row("api", f"ok   {_counts(state.records)}")
    yield from _controllers(told)
    repaired = _counts(state.drift_repaired)
    yield _row("drift", f"{told.drift} now" + (f", repaired {repaired}" if repaired else ", none repaired"))
    if told.foreign:
        yield _row("foreign", _left_alone(told.foreign))
    if state.last_change_s is not None:
        change = f"{since(state.last_change_s)} ago, in {state.last_took_ms:.0f} ms"
        yield _row("changed", f"{change}   pending {state.pending}   {sum(state.objects.values()):,} objects stand")
    yield from (_row("next", f"{PROGRAM} {one}") for one in _next(told))


def _left_alone(foreign: Iterable[ForeignView]) -> str:
    found = [one for one in foreign if one.count]
    if not found:
        return "nothing of others"
    counts = ", ".join(f"{one.count:,} {one.kind if one.count > 1 else one.kind.removesuffix('s')}" for one in found)
    names = ", ".join(name for one in found for name in one.named)
    return f"{counts} left alone: {names}" + (" ..." if any(one.more for one in found) else "")


def _controllers(told: Overview) -> Iterator[str]:
    if "proxy" in told.controllers:
        draining = f" ({told.draining:,} draining)" if told.draining else ""
        schedulers = "/".join(told.schedulers) or "no virtual servers"
        yield _row(
            "proxy", f"ok   {told.services:,} services  {told.real_servers:,} real servers{draining}  {schedulers}"
        )
    if "firewall" in told.controllers:
        yield _row("firewall", f"ok   {told.protected:,} pods protected, {told.waiting:,} waiting for an address")
    if "routing" in told.controllers:
        down = [one for one in told.neighbors if not one.up]
        up = f"{len(told.neighbors) - len(down)} of {len(told.neighbors)} neighbors up"
        named = ", ".join(f"{one.name or 'external'} {one.address} {one.state}" for one in down)
        yield _row("routing", f"{'WARN' if down else 'ok'}   {up}" + (f"   {named}" if named else ""))


def _next(told: Overview) -> Iterator[str]:
    """Yield the commands that tell more of what is wrong, at most three."""
    found = [f"explain {one.key}" for one in told.status.failing[:1]]
    found += [f"explain neighbor {one.address}" for one in told.neighbors if not one.up][:1]
    found += ["plan"] if told.drift and not found else []
    found += ["doctor"] if not healthy(told.status) else []
    yield from found[:3]


def fetch(address: str, port: int, path: str) -> bytes:
    """Return what the agent's health server answers. Errors: Unreachable names the mend."""
    connection = http.client.HTTPConnection(address, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreachable(
            f"no agent answers at {_where(address, port)} ({words.lower()}); does kuberouterpy run there on this port?"
        ) from None
    finally:
        connection.close()
    if response.status != 200:
        raise Unreachable(f"{_where(address, port)}{path} answers {response.status}; is it an agent of this version?")
    return body


def healthy(told: Status) -> bool:
    """Return whether a person need not look."""
    return told.ready and not told.failing_total and not told.bugs and all(source.ok for source in told.sources)


def lines(told: Status) -> Iterator[str]:
    """Yield the screen: the node, what is wrong, what runs."""
    state = "ready" if told.ready else "NOT READY"
    yield _row("node", f"{told.node}   agent {told.version}   up {since(told.up_s)}   {state}")
    yield from _problems(told)
    for source in told.sources:
        if source.ok:
            yield _row(source.name, f"ok   for {since(source.since_s)}")
    yield _row("facts", _counts(told.records) or "none yet")
    yield _row("programmed", f"{_counts(told.objects) or 'nothing yet'}   pending {told.pending}")
    if told.last_change_s is not None:
        yield _row("changed", f"{since(told.last_change_s)} ago, in {told.last_took_ms:.0f} ms")
    yield _row("drift", f"{_counts(told.drift_repaired)} repaired" if told.drift_repaired else "none")


def _problems(told: Status) -> Iterator[str]:
    if told.waiting_for:
        yield _row("WAITING", f"for the first list of {', '.join(told.waiting_for)}")
    elif not told.settled:
        yield _row("WAITING", "for the first pass over the kernel")
    yield from (_row("UNREACHABLE", _down(source)) for source in told.sources if not source.ok)
    for one in told.failing:
        yield _row("FAILING", f"{one.key}: {one.error}   (try {one.attempt}, next in {since(one.retry_in_s)})")
        yield _row("", f"wanted by {', '.join(one.owners)}")
    if told.failing_total > len(told.failing):
        yield _row("", f"and {told.failing_total - len(told.failing)} more")
    yield from (_row("REJECTED", one) for one in told.rejected)
    yield from (_row("BUG", f"{owner}: its last objects stay; please report it") for owner in told.bugs)


def _down(source: SourceStatus) -> str:
    return f"{source.name} for {since(source.since_s)}: {source.reason}"


def _row(label: str, text: str) -> str:
    return f"{label:{_LABEL}}{text}"


def _counts(counts: dict[str, int]) -> str:
    return "  ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if count)


def since(seconds: float) -> str:
    """Return a span as people say it: ``40s``, ``12m``, ``3h``, ``5d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def _where(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
