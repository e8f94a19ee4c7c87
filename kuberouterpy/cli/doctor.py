"""``kuberouterpy doctor``: what on this host keeps the agent from working, and the mend, problems first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from msgspec.structs import replace

from kuberouterpy.cli import ExitCode, table
from kuberouterpy.cli.ask import Refused, Unreachable, ask, offline_command, socket_of

if TYPE_CHECKING:
    from kuberouterpy.config import Config
    from kuberouterpy.doctor import Agent, Finding

_COLOURS: Final = {"FAIL": "red", "WARN": "yellow", "OK": "green"}
_GRADE: Final = 6
_CHECK: Final = 14


@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form.")
@click.option("--check", "only", multiple=True, metavar="NAME", help="Only this check; may be repeated.")
def _doctor(*, output: str, only: tuple[str, ...], **flags: Any) -> int:
    from kuberouterpy.cli.run import config_of
    from kuberouterpy.doctor import CHECKS, Grade, diagnose
    from kuberouterpy.doctor.gather import gather

    unknown = [name for name in only if name not in CHECKS]
    if unknown:
        raise click.UsageError(f"no check is called {unknown[0]}; there are {', '.join(CHECKS)}")
    config = config_of(flags)
    config = replace(config, agent_socket=socket_of(config, flags))
    found = [one for one in diagnose(gather(config, _agent(config))) if not only or one.check in only]
    if output == "json":
        told = [msgspec.to_builtins(one) | {"grade": one.grade.name} for one in found]
        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    else:
        for line in lines(found):
            click.echo(line)
    return ExitCode.UNHEALTHY if any(one.grade is Grade.FAIL for one in found) else ExitCode.FINE


def _agent(config: Config) -> Agent | None:
    from kuberouterpy.doctor import Agent
    from kuberouterpy.status import Status

    if not config.agent_socket:
        return None
    try:
        told = ask(config.agent_socket, "status", Status)
    except (Unreachable, Refused):
        return None
    return Agent(
        told.version,
        told.ready,
        tuple(f"{one.key}: {one.error}" for one in told.failing),
        tuple(f"{one.name}: {one.reason}" for one in told.sources if not one.ok),
    )


def lines(found: Iterable[Finding]) -> Iterator[str]:
    """Yield findings as lines, each problem with its mend; they fit the terminal by breaking, never by cutting."""
    columns = table.width()
    counts = dict.fromkeys(_COLOURS, 0)
    for one in found:
        word = one.grade.name
        counts[word] += 1
        head = f"{table.paint(f'{word:<{_GRADE}}', _COLOURS[word])}{one.check:<{_CHECK}}"
        yield from _broken(head, one.text, columns)
        if one.mend:
            yield from _broken(f"{'':<{_GRADE}}{'':<{_CHECK - 6}}mend: ", one.mend, columns)
    fine = "nothing keeps the agent from working" if not counts["FAIL"] else f"{counts['FAIL']} to mend"
    yield from _broken("", f"{fine}; warnings: {counts['WARN']}, fine: {counts['OK']}", columns)


def _broken(head: str, text: str, columns: int) -> Iterator[str]:
    indent = _GRADE + _CHECK if head else 0
    parts = textwrap.wrap(text, columns - indent, break_on_hyphens=False) if columns else [text]
    yield head + parts[0]
    yield from (f"{'':<{indent}}{part}" for part in parts[1:])


doctor = offline_command(
    "doctor",
    _doctor,
    short_help="Look what on this host keeps the agent from working.",
    help="""Look what on this host keeps the agent from working, or will under load: rights, modules, settings, MTU, iptables,
    conntrack, clock, ports, sidecar, CNI plugins, the agent itself. Problems first, each with its mend. Nothing is changed.

    Exits with 4 where something fails. Flags of `kuberouterpy run` say how the agent is, or will be, run.
    """,
    epilog="""\b
Examples:
  kuberouterpy doctor
  kuberouterpy doctor --check mtu --check iptables
  kuberouterpy doctor --run-router=false -o json
""",
)
"""The command."""
