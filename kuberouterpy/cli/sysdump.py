"""``kuberouterpy sysdump``: one archive with everything that helps to understand this node, secrets hidden."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from kuberouterpy.cli import ExitCode
from kuberouterpy.cli.ask import Unreachable, raw, socket_option
from kuberouterpy.errors import ConfigError

_TIMEOUT_S: Final = 10.0
_EXAMPLES: Final = """\b
Examples:
  kuberouterpy sysdump
  kuberouterpy sysdump -o - | ssh elsewhere 'cat > node-1.tar.gz'
  tar xzf kuberouterpy-node-1-*.tar.gz && less kuberouterpy-node-1-*/agent/status.json
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.option(
    "-o", "--output", default="", metavar="FILE", help="Where to; - is stdout; default: a name with node and time."
)
@socket_option
def sysdump(output: str, agent_socket: str) -> int:
    """Write one archive with what the agent knows and what stands in kernel and GoBGP, for whoever is to help.

    Secrets are hidden, but addresses, names and labels are not. Works without an agent, too: its part is missing then.
    """
    from kuberouterpy import dump, redact

    if output == "-" and sys.stdout.isatty():
        raise ConfigError("an archive is no text; write it to a file with -o FILE")
    settings = _settings(agent_socket)
    node = str(settings.get("node_name") or os.uname().nodename)
    when = time.time()
    folder = f"kuberouterpy-{node}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(when))}"
    made = dump.pieces(lambda name: raw(agent_socket, name), more=_more(settings, redact.text))
    tell = _progress()
    body = dump.archive(made, folder, when, tell)
    tell("")
    if output == "-":
        sys.stdout.buffer.write(body)
        return ExitCode.FINE
    path = Path(output or f"{folder}.tar.gz")
    # Made private before anything is in it; an old one of the same name is replaced at once or not at all.
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(body)
    part.replace(path)
    click.echo(f"{path}: {len(body):,} bytes; secrets are hidden, addresses and names are not")
    return ExitCode.FINE


def _settings(path: str) -> dict[str, Any]:
    """Return the agent's settings; none where it does not answer, which is told."""
    try:
        found = json.loads(raw(path, "facts")).get("config")
    except (Unreachable, ValueError) as error:
        click.echo(f"note: {error}; its part will be missing", err=True)
        return {}
    return found if isinstance(found, dict) else {}


def _more(settings: dict[str, Any], hide: Callable[[str], str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield what depends on the agent's settings."""
    if port := settings.get("metrics_port"):
        path = str(settings.get("metrics_path"))
        yield "agent/metrics.txt", lambda: _fetch(str(settings.get("metrics_addr") or "127.0.0.1"), int(port), path)
    if settings.get("run_router"):
        yield "gobgp.txt", lambda: hide(_gobgp(str(settings["gobgp_socket"]))).encode()
    if folder := settings.get("record_dir"):
        yield "recording.rec", lambda: _recording(str(folder))


def _fetch(address: str, port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(address, port, timeout=_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


def _recording(folder: str) -> bytes:
    from kuberouterpy.recorder import exported

    return exported(Path(folder))


def _gobgp(path: str) -> str:
    """Return GoBGP's own view: the speaker and its neighbors."""
    from kuberouterpy.gobgp import gobgp_pb2 as pb
    from kuberouterpy.gobgp.client import GobgpClient

    with contextlib.closing(GobgpClient(path)) as client:
        speaker = client.call("GetBgp", pb.GetBgpRequest(), pb.GetBgpResponse)
        peers = client.collect("ListPeer", pb.ListPeerRequest(enable_advertised=True), pb.ListPeerResponse)
    return "\n".join((str(speaker), *(f"# neighbor\n{one.peer}" for one in peers)))


def _progress() -> Callable[[str], None]:
    if not sys.stderr.isatty():
        return lambda _: None
    return lambda name: click.echo(f"\r\033[K{name}", nl=False, err=True)
