"""The command line: parse, call, and turn errors into one line and an exit code. Only here is anything printed.

Exit codes: 0 fine, 1 error, 2 usage (flags, files, a missing capability), 3 differences, 4 unhealthy, 5 denied,
6 unreachable, 130 interrupted.

Commands are imported when they are called, so that ``--help`` and ``--version`` answer within 150 ms: this module imports
nothing but click.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import IntEnum
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from kuberouterpy import __version__
from kuberouterpy.errors import ConfigError, KubeRouterError, MissingCapability

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM: Final = "kuberouterpy"


class ExitCode(IntEnum):
    """What the shell is told."""

    FINE = 0
    ERROR = 1
    USAGE = 2
    DIFFERENCES = 3
    UNHEALTHY = 4
    DENIED = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


class Lazy(NamedTuple):
    """A command that is imported when it is called."""

    module: str
    """Module to import."""
    attribute: str
    """The click command in it."""
    summary: str
    """One line for ``--help``."""


COMMANDS: Final[dict[str, Lazy]] = {
    "run": Lazy("kuberouterpy.cli.run", "run", "Run the agent on this node."),
    "status": Lazy("kuberouterpy.cli.status", "status", "Show how the agent of this node is."),
    "ipvs": Lazy("kuberouterpy.cli.ipvs", "ipvs", "List virtual and real servers with their Services and pods."),
    "plan": Lazy("kuberouterpy.cli.plan", "plan", "Show what would change now, and why."),
    "explain": Lazy("kuberouterpy.cli.explain", "explain", "Say why a thing is there, or why it is not."),
    "trace": Lazy(
        "kuberouterpy.cli.trace", "trace", "Follow one packet through services, policy and routes, and back."
    ),
    "doctor": Lazy("kuberouterpy.cli.doctor", "doctor", "Look what on this host keeps the agent from working."),
    "config": Lazy("kuberouterpy.cli.config", "config", "Translate the configuration of kube-router or kube-proxy."),
    "migrate": Lazy("kuberouterpy.cli.migrate", "migrate", "Take this node over from kube-proxy or kube-router."),
    "prepare": Lazy(
        "kuberouterpy.cli.prepare", "prepare", "Load modules and install CNI plugins, before the agent runs."
    ),
    "cleanup": Lazy("kuberouterpy.cli.cleanup", "cleanup", "Remove what the agent programmed here, and nothing else."),
    "sysdump": Lazy("kuberouterpy.cli.sysdump", "sysdump", "Write one archive for whoever is to help, secrets hidden."),
    "record": Lazy("kuberouterpy.cli.record", "record", "Read the flight recorder: what the agent knew and did."),
    "log-level": Lazy(
        "kuberouterpy.cli.log_level", "log_level", "Show how much the agent logs, or change it for a while."
    ),
    "bgp": Lazy("kuberouterpy.cli.bgp", "bgp", "List BGP neighbors and routes, and say why or why not."),
    "policy": Lazy("kuberouterpy.cli.policy", "policy", "List policies, explain a connection, watch what is denied."),
    "completion": Lazy("kuberouterpy.cli.completion", "completion", "Print what a shell sources to complete commands."),
    "lab": Lazy("kuberouterpy.cli.lab", "lab", "Boot a whole cluster here, to try things out."),
}


class LazyGroup(click.Group):
    """Lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order a person needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported now, or ``None``."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = getattr(import_module(lazy.module), lazy.attribute)
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so, without importing one, then our own options."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=one.summary) for name, one in COMMANDS.items() if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` name; an unknown one is told with the nearest."""
        if args and args[0] not in COMMANDS:
            raise click.UsageError(_unknown("command", args[0], COMMANDS), ctx)
        return super().resolve_command(ctx, args)


@click.group(
    PROGRAM,
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"""\b
Examples:
  {PROGRAM} lab demo                          a cluster here, and what it does
  {PROGRAM} run --kubeconfig /etc/kubernetes/admin.conf
  {PROGRAM} run --run-router=false --run-firewall=false
  {PROGRAM} run --help                        every flag, as kube-router names it
  {PROGRAM} status                            what the agent says of itself
  {PROGRAM} ipvs list                         virtual servers with their Services
  {PROGRAM} plan -f cluster/ --node worker-1  what it would do, from a folder of YAML
  {PROGRAM} explain service/default/web       why it is there, or why it is not
  {PROGRAM} trace pod/default/a service/default/web
  {PROGRAM} doctor                            what on this host is in the way
  {PROGRAM} policy explain --from a/x --to b/y --port 80/tcp
""",
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def cli(debug: bool) -> None:
    """Service proxy (IPVS), BGP router and NetworkPolicy firewall of a Kubernetes node."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; errors are one line each on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    _never_fail_to_print()
    try:
        result = cli.main(given, prog_name=PROGRAM, standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and later; the message is the help page
            click.echo(error.format_message(), err=True)
            return ExitCode.USAGE
        return _told(error, error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone: nobody is left to tell.
        sys.stderr.close()
        return ExitCode.ERROR
    except Exception as error:
        if "--debug" in given:
            raise
        return _told(error, _code(error))
    return result if isinstance(result, int) else ExitCode.FINE


def _never_fail_to_print() -> None:
    """Let what a locale cannot write become a question mark: a table's ellipsis is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _code(error: Exception) -> ExitCode:
    match error:
        case ConfigError() | MissingCapability():
            return ExitCode.USAGE
        case _:
            return ExitCode.ERROR


def _told(error: Exception, code: int) -> int:
    for line in _lines(error):
        click.echo(f"error: {line}", err=True)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(f"see: {error.ctx.command_path} --help", err=True)
    return code


def _lines(error: Exception) -> list[str]:
    match error:
        case click.NoSuchOption():
            return [_no_such_option(error)]
        case click.ClickException():
            return [_plain(error.format_message())]
        case KubeRouterError():
            return str(error).splitlines() or [type(error).__name__]
        case OSError():
            return [_plain(str(error))]
        case _:
            # A bug of ours: still no traceback unless a person asks for it.
            return [f"{type(error).__name__}: {_plain(str(error))} (a bug; run again with {PROGRAM} --debug)"]


def _no_such_option(error: click.NoSuchOption) -> str:
    path = error.ctx.command_path if error.ctx else PROGRAM
    known = [name for parameter in (error.ctx.command.params if error.ctx else ()) for name in parameter.opts]
    text = _unknown("flag", error.option_name, known)
    if path == PROGRAM:
        from kuberouterpy.flags import BY_NAME

        if error.option_name.lstrip("-") in BY_NAME:
            text = f"{error.option_name} belongs to the command run; write {PROGRAM} run {error.option_name}"
    return text


def _unknown(what: str, name: str, known: Sequence[str] | dict[str, Lazy]) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"no such {what}: {name}" + (f"; did you mean {near[0]}?" if near else "")


def _plain(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
