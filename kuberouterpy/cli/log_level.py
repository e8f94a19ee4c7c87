"""``kuberouterpy log-level``: how much the agent of this node logs, now and for a while."""

from __future__ import annotations

import click

from kuberouterpy.answers.own import LogLevel
from kuberouterpy.cli import ExitCode
from kuberouterpy.cli.ask import act, socket_option
from kuberouterpy.flags import duration_text

_EXAMPLES = """\b
Examples:
  kuberouterpy log-level
  kuberouterpy log-level debug --for 10m
  kuberouterpy log-level info
"""


@click.command("log-level", context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.argument("level", required=False, type=click.Choice(["debug", "info", "warning", "error"]))
@click.option(
    "--for", "span", default="10m", show_default=True, metavar="DURATION", help="When it goes back by itself."
)
@socket_option
def log_level(level: str | None, span: str, agent_socket: str) -> int:
    """Show how much the agent of this node logs, or change it for a while; it goes back by itself."""
    words = {"level": [level], "for": [span]} if level else {}
    told = act(agent_socket, "log-level", LogLevel, **words)
    click.echo(told.level + (f", back in {duration_text(round(told.for_s))}" if told.for_s else ""))
    return ExitCode.FINE
