"""``kuberouterpy run``: every flag of the table as an option, read as kube-router reads them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Final

import click

from kuberouterpy import config as configs
from kuberouterpy import log as logs
from kuberouterpy.flags import BOOL, FLAGS, Flag, Section, default_text

log = logging.getLogger(__name__)

_BOOLEANS: Final = frozenset(f"--{flag.name}" for flag in FLAGS if flag.form is BOOL)

_EXAMPLES: Final = """\b
Examples:
  kuberouterpy run
  kuberouterpy run --kubeconfig /etc/kubernetes/admin.conf --hostname-override worker-1
  kuberouterpy run --enable-ipv6 --service-cluster-ip-range 10.96.0.0/12,fd00:10:96::/112
  kuberouterpy run --run-router=false --run-firewall=false --ipvs-sync-period 1m30s
"""


class FlagCommand(click.Command):
    """A command whose options are the table's, with Go's manners: ``--flag`` is ``--flag=true``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite bare booleans and ``-v=2``, then parse as usual."""
        return super().parse_args(ctx, list(_spelled(args)))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags under their sections."""
        for section in Section:
            with formatter.section(section):
                formatter.write_dl([_row(flag) for flag in FLAGS if flag.section is section])


def _spelled(args: list[str]) -> Iterator[str]:
    words = iter(args)
    for word in words:
        if word in _BOOLEANS:
            yield f"{word}=true"
        elif word.startswith("-v="):
            yield f"-v{word.removeprefix('-v=')}"
        else:
            yield word
        if word == "--":
            yield from words


def _row(flag: Flag) -> tuple[str, str]:
    default = "" if flag.secret else default_text(flag, configs.DEFAULTS[flag.field])
    note = f"  [default: {default}]" if default else ""
    no_effect = f"  (no effect: {flag.no_effect})" if flag.no_effect else ""
    return f"{_names(flag)} {flag.form.metavar}", flag.help + note + no_effect


def _names(flag: Flag) -> str:
    return f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"


def option(flag: Flag, *, hidden: bool = False) -> click.Option:
    """Return a flag as an option."""
    names = [f"--{flag.name}", *([f"-{flag.short}"] if flag.short else [])]
    # Texts, not values: Config reads them all, so that all errors are told together and in one form.
    return click.Option(
        [*names, _parameter(flag)], multiple=True, metavar=flag.form.metavar, help=flag.help, hidden=hidden
    )


def _parameter(flag: Flag) -> str:
    return f"flag_{flag.name.replace('-', '_')}"


_BY_PARAMETER: Final = {_parameter(flag): flag.name for flag in FLAGS}


def config_of(texts: Mapping[str, tuple[str, ...]]) -> configs.Config:
    """Return the Config that the values of this command's parameters mean. Errors: ConfigError."""
    given = {_BY_PARAMETER[name]: values for name, values in texts.items() if values}
    return configs.parse(given, environ=os.environ, hostname=socket.gethostname())


def _run(**texts: tuple[str, ...]) -> int:
    given = {_BY_PARAMETER[name]: values for name, values in texts.items() if values}
    config = configs.parse(given, environ=os.environ, hostname=socket.gethostname())
    if config.cleanup_config:
        from kuberouterpy.cli import cleanup

        cleanup.refuse_beside_an_agent(config)
        return cleanup.remove(config, yes=True)
    logs.configure(config.v, as_json=config.log_format == "json")
    for flag, reason in configs.without_effect(given):
        logs.event(log, logging.WARNING, "flag_without_effect", key=f"--{flag.name}", reason=reason)
    from kuberouterpy.agent import run as run_agent

    return run_agent(config)


run = FlagCommand(
    "run",
    callback=_run,
    params=[option(flag) for flag in FLAGS],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    short_help="Run the agent on this node.",
    help="""Run the agent on this node until SIGTERM, which leaves what it programmed standing.

    Flags are kube-router's. Durations are written 5m0s or 90s, lists a,b or repeated, booleans --flag or --flag=false.
    """,
    epilog=_EXAMPLES,
)
"""The command."""
