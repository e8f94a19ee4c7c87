"""``kuberouterpy cleanup``: take away what an agent programmed here, and nothing else; the plan first, then ``--yes``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from msgspec.structs import replace

from kuberouterpy.cli import PROGRAM, ExitCode, table
from kuberouterpy.cli.ask import Refused, Unreachable, ask, offline_command, socket_of
from kuberouterpy.errors import ConfigError

if TYPE_CHECKING:
    from kuberouterpy.cleanup import Plan
    from kuberouterpy.config import Config
    from kuberouterpy.dataplane import Op

_WHY: Final = {
    "sysctl": "put back as the agent found it",
    "link": "its name is ours",
    "fou": "a tunnel of ours sends to it",
    "address": "it is on our link",
    "set": "its name is ours",
    "entry": "its set's name is ours",
    "chain": "its name is ours",
    "jump": "it leads to a chain of ours",
    "virtual": "on our VIP or node port, or with a mark of ours",
    "real": "its virtual server is ours",
    "route": "protocol 17",
    "rule": "it looks up a table of ours",
}
"""How each kind is recognised; what is not named here stands in the sidecar, which is ours alone."""
_SHOWN: Final = 200
"""Lines of a plan on a terminal; a pipe and -o json have all."""


@click.option("--yes", is_flag=True, help="Do it; without, only the plan is shown.")
@click.option("--bridge", is_flag=True, help="Delete kube-bridge as well: pods lose their network.")
@click.option("--exit-code", is_flag=True, help="Without --yes: exit with 3 where there is something to remove.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form.")
def _cleanup(*, yes: bool, bridge: bool, exit_code: bool, output: str, **flags: Any) -> int:
    from kuberouterpy.cli.run import config_of

    config = config_of(flags)
    config = replace(config, agent_socket=socket_of(config, flags))
    if yes:
        refuse_beside_an_agent(config)
    return remove(config, yes=yes, bridge=bridge, exit_code=exit_code, as_json=output == "json")


def refuse_beside_an_agent(config: Config) -> None:
    """Refuse where an agent runs, by its socket or its health server: it would put back what goes. Errors: ConfigError."""
    for where in filter(None, (_on_the_socket(config), _on_the_health_port(config))):
        raise ConfigError(f"an agent runs here ({where}) and would put everything back; stop it first")


def _on_the_socket(config: Config) -> str:
    from kuberouterpy.status import Status

    try:
        return config.agent_socket if config.agent_socket and ask(config.agent_socket, "status", Status) else ""
    except (Unreachable, Refused):
        return ""


def _on_the_health_port(config: Config) -> str:
    from kuberouterpy.cli.status import fetch
    from kuberouterpy.status import Status

    try:
        msgspec.json.decode(fetch("127.0.0.1", config.health_port, "/status.json"), type=Status)
    except (Unreachable, msgspec.DecodeError):
        return ""
    return f"port {config.health_port}"


def remove(config: Config, *, yes: bool, bridge: bool = False, exit_code: bool = False, as_json: bool = False) -> int:
    """Show the plan, carry it out where ``yes``, and return the exit code. Errors: ConfigError without root."""
    if os.geteuid():
        raise ConfigError("cleanup needs root: what is ours can neither be listed nor removed without")
    from kuberouterpy import cleanup

    with cleanup.planned(config, bridge=bridge) as plan:
        _show(_as_json(plan) if as_json else list(_lines(plan)))
        for name, reason in plan.unlisted.items():
            click.echo(f"warning: {name}: {reason}", err=True)
        if yes and not plan.empty:
            return _carried_out(plan)
        if not plan.empty:
            click.echo(f"nothing was removed; run {PROGRAM} cleanup --yes to do it", err=True)
        if plan.unlisted:
            return ExitCode.ERROR
        return ExitCode.DIFFERENCES if exit_code and not plan.empty else ExitCode.FINE


def _show(lines: list[str]) -> None:
    room = _SHOWN if table.width() else len(lines)
    for line in lines[:room]:
        click.echo(line)
    if len(lines) > room:
        click.echo(f"and {len(lines) - room} more lines")


def _carried_out(plan: Plan) -> int:
    from kuberouterpy import cleanup

    outcomes = [error for _, error in cleanup.carry_out(plan)]
    outcomes += [error for _, error in cleanup.delete_files(plan)]
    errors = [error for error in outcomes if error is not None]
    for error in errors[:_SHOWN]:
        click.echo(f"error: {error}", err=True)
    click.echo(f"{len(outcomes) - len(errors)} done, {len(errors)} failed", err=True)
    return ExitCode.ERROR if errors or plan.unlisted else ExitCode.FINE


def _lines(plan: Plan) -> Iterator[str]:
    from kuberouterpy.cli.plan import line

    changes = [change for step in plan.steps for change in _changes(step.ops, step.standing)]
    yield from (line(change) for change in changes)
    yield from (f"{f'- file      {path}':<72} # the agent made it" for path in plan.files)
    counts = Counter(change.kind for change in changes)
    told = [f"{count} {kind}" for kind, count in counts.items()] + ([f"{len(plan.files)} file"] if plan.files else [])
    yield f"{', '.join(told)} to remove" if told else "nothing of ours is here"


def _changes(ops: tuple[Op, ...], standing: Any) -> Iterator[Any]:
    from kuberouterpy.answers import ChangeView, summary
    from kuberouterpy.text import kind_of, name_of

    for op in ops:
        kind = kind_of(op.key)
        actual = summary(standing.get(op.key))
        yield ChangeView(
            str(op.verb), kind, name_of(op.key), summary(op.value), actual, reason=_WHY.get(kind, "in our sidecar")
        )


def _as_json(plan: Plan) -> list[str]:
    changes = [change for step in plan.steps for change in _changes(step.ops, step.standing)]
    told = {"changes": changes, "files": plan.files, "unlisted": plan.unlisted}
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode().splitlines()


cleanup = offline_command(
    "cleanup",
    _cleanup,
    short_help="Remove what the agent programmed here, and nothing else.",
    help="""Remove what an agent, or kube-router, programmed on this host: virtual servers, VIPs, chains, sets, routes, routing
    rules, tunnels; settings are put back as the agent found them. What others made is left as it is.

    Shows what it would do; --yes does it. Needs root, and neither an API server nor a configuration. Stop the agent first.
    """,
    epilog="""\b
Examples:
  kuberouterpy cleanup
  kuberouterpy cleanup --exit-code && echo nothing of ours is here
  kuberouterpy cleanup --yes
  kuberouterpy cleanup --yes --bridge
""",
)
"""The command."""
