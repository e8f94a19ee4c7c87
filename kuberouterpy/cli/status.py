"""``kuberouterpy status``: what the agent of this node says of itself, problems first, on one screen."""

from __future__ import annotations

import http.client
import json
import shutil
import sys
from collections.abc import Iterator
from typing import Final

import click
import msgspec

from kuberouterpy.cli import ExitCode
from kuberouterpy.errors import KubeRouterError
from kuberouterpy.status import SourceStatus, Status

_TIMEOUT_S: Final = 5.0
_LABEL: Final = 12
"""Width of the first column."""

_EXAMPLES: Final = """\b
Examples:
  kuberouterpy status
  kuberouterpy status -o json
  kuberouterpy status --address 10.0.0.7 --exit-code && echo healthy
"""


class Unreachable(KubeRouterError):
    """No agent answers."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.option("--address", default="127.0.0.1", show_default=True, help="Address of the agent's health server.")
@click.option("--port", default=20244, show_default=True, type=click.IntRange(1, 65535), help="Its --health-port.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form.")
@click.option("--exit-code", is_flag=True, help="Exit with 4 where the agent is not ready or something fails.")
def status(address: str, port: int, output: str, exit_code: bool) -> int:
    """Show how the agent of this node is."""
    try:
        body = fetch(address, port, "/status.json")
        told = msgspec.json.decode(body, type=Status)
    except Unreachable as error:
        click.echo(f"error: {error}", err=True)
        return ExitCode.UNREACHABLE
    except msgspec.DecodeError as error:
        click.echo(f"error: {_where(address, port)} does not speak as an agent does ({error})", err=True)
        return ExitCode.UNREACHABLE
    if output == "json":
        click.echo(json.dumps(json.loads(body), indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        for line in lines(told):
            click.echo(line if not width or len(line) <= width else line[: width - 1] + "…")
    return ExitCode.UNHEALTHY if exit_code and not healthy(told) else ExitCode.FINE


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
