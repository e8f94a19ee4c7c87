"""``kuberouterpy record``: what the flight recorder of this node holds."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from kuberouterpy.cli import ExitCode
from kuberouterpy.cli.moments import FOLDER, frames, moment
from kuberouterpy.errors import ConfigError

_HELP = {"help_option_names": ["-h", "--help"]}
_EXAMPLES = """\b
Examples:
  kuberouterpy record show --since 10m
  kuberouterpy record export -o node-1.rec
  kuberouterpy record show node-1.rec | grep default/web
  kuberouterpy plan --from node-1.rec --at 14:05
"""


@click.group(context_settings=_HELP, epilog=_EXAMPLES)
def record() -> None:
    """Read the flight recorder: what the agent knew and did.

    The agent writes it where `kuberouterpy run --record-dir` says; it need not run to read it.
    """


@record.command(context_settings=_HELP, epilog=_EXAMPLES, short_help="Show a recording, oldest first.")
@click.argument("path", default=FOLDER, metavar="[FILE|FOLDER]")
@click.option(
    "--since", default="", metavar="TIME", help="Leave out what is older: 10m, 14:05 or 2026-11-24T14:05:00Z."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form.")
def show(path: str, since: str, output: str) -> int:
    """Show a recording, one line a fact, an operation or an event, oldest first."""
    from kuberouterpy import record as recording

    after = moment(since, option="--since", now=datetime.now(UTC)) if since else float("-inf")
    found = (one for one in frames(path) if one.at >= after)
    for line in recording.lines(found):
        if output == "json":
            at, what, text = line.split(maxsplit=2)
            click.echo(json.dumps({"time": at, "what": what, "text": text}))
        else:
            click.echo(line)
    return ExitCode.FINE


@record.command(context_settings=_HELP, epilog=_EXAMPLES, short_help="Write the whole ring as one file.")
@click.argument("folder", default=FOLDER, metavar="[FOLDER]")
@click.option("-o", "--output", default="-", metavar="FILE", help="Where to; - writes to stdout.")
def export(folder: str, output: str) -> int:
    """Write the whole ring as one file, which plan, explain and record show read anywhere. It holds no secrets."""
    from kuberouterpy import recorder

    if not Path(folder).is_dir():
        raise ConfigError(f"{folder}: no such folder; does the agent run with --record-dir {folder}?")
    try:
        raw = recorder.exported(Path(folder))
    except PermissionError:
        raise ConfigError(f"{folder}: permission denied; run as root") from None
    if not raw:
        raise ConfigError(f"{folder}: no recording in it")
    if output == "-":
        if sys.stdout.isatty():
            raise ConfigError("a recording is no text; write it to a file with -o FILE")
        sys.stdout.buffer.write(raw)
    else:
        Path(output).write_bytes(raw)
        os.chmod(output, 0o600)
        click.echo(f"{output}: {len(raw):,} bytes", err=True)
    return ExitCode.FINE
