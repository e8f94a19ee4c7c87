"""Asking an agent: the one client of its socket that every command shares, and where its answers come from instead."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import click
import msgspec

from kuberouterpy.cli import PROGRAM, ExitCode
from kuberouterpy.errors import KubeRouterError

if TYPE_CHECKING:
    from kuberouterpy.config import Config
    from kuberouterpy.loop import Loop

VARIABLE: Final = "KUBEROUTERPY_SOCKET"
"""Environment variable with the socket's path; the lab sets it on its nodes."""
DEFAULT: Final = "/run/kuberouterpy/agent.sock"
_TIMEOUT_S: Final = 15.0
"""Longer than the agent itself waits for its loop."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Unreachable(click.ClickException):
    """No agent answers, or not as one of this version does."""

    exit_code = ExitCode.UNREACHABLE


class Refused(KubeRouterError):
    """The agent answered that it cannot answer."""


def socket_option(command: F) -> F:
    """Add ``--agent-socket``."""
    return click.option(
        "--agent-socket",
        metavar="PATH",
        default=lambda: os.environ.get(VARIABLE, DEFAULT),
        show_default=f"{DEFAULT}, or ${VARIABLE}",
        help="Socket of the agent.",
    )(command)


def socket_of(config: Config, flags: dict[str, Any]) -> str:
    """Return the socket of the agent that a command with the flags of ``run`` means: as given, else as everywhere."""
    given = flags.get("flag_agent_socket")
    return config.agent_socket if given else os.environ.get(VARIABLE, config.agent_socket)


def asked_for(ctx: click.Context) -> bool:
    """Return whether a person named the socket: then its agent must answer."""
    return ctx.get_parameter_source("agent_socket") is click.core.ParameterSource.COMMANDLINE


def ask(path: str, question: str, answer: type[T], **words: Sequence[str]) -> T:
    """Return the agent's answer to a question, with its words.

    Errors: Unreachable where none answers; Refused with the agent's own words.
    """
    return _call(path, "GET", question, answer, words)


def raw(path: str, question: str) -> bytes:
    """Return the agent's answer to a question as it came. Errors: as of :func:`ask`."""
    status, body = _request(path, "GET", f"/v1/{question}")
    if status != http.HTTPStatus.OK:
        raise _refusal(path, status, body)
    return body


def act(path: str, verb: str, answer: type[T], **words: Sequence[str]) -> T:
    """Return the agent's answer to something it is to do. Errors: as of :func:`ask`."""
    return _call(path, "POST", verb, answer, words)


def _call(path: str, method: str, name: str, answer: type[T], words: Mapping[str, Sequence[str]]) -> T:
    query = urlencode(words, doseq=True)
    status, body = _request(path, method, f"/v1/{name}" + (f"?{query}" if query else ""))
    if status != http.HTTPStatus.OK:
        raise _refusal(path, status, body)
    try:
        return msgspec.json.decode(body, type=answer)
    except msgspec.DecodeError as error:
        raise Unreachable(f"what answers at {path} does not speak as an agent of this version ({error})") from None


def _refusal(path: str, status: int, body: bytes) -> Exception:
    try:
        told = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"what answers at {path} is no agent ({status})")
    if status == http.HTTPStatus.NOT_FOUND and str(told).startswith("no such path"):
        return Unreachable(f"the agent at {path} is of another version ({told}); use its own command line")
    return Unreachable(told) if status == http.HTTPStatus.SERVICE_UNAVAILABLE else Refused(told)


def _request(path: str, method: str, target: str) -> tuple[int, bytes]:
    connection = _Connection(path)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()
    except PermissionError:
        raise Unreachable(f"{path}: permission denied; run as root") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no agent answers at {path} ({_words(error)}); does {PROGRAM} run on this node?") from None
    finally:
        connection.close()


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {_TIMEOUT_S:.0f} s"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("agent", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


# --- or from YAML -----------------------------------------------------------------------------------------------------


def offline_command(name: str, callback: Callable[..., int], **settings: Any) -> click.Command:
    """Return a command with its own parameters, the offline ones, and every flag of ``run``, which stay out of its help."""
    from kuberouterpy.cli.run import FlagCommand, option
    from kuberouterpy.flags import FLAGS

    class OfflineCommand(FlagCommand):
        format_options = click.Command.format_options

    parameters = list(reversed(getattr(callback, "__click_params__", [])))
    taken = {text for parameter in parameters for text in parameter.opts}
    hidden = [option(flag, hidden=True) for flag in FLAGS]
    return OfflineCommand(
        name,
        callback=callback,
        params=[*parameters, *(one for one in hidden if not taken & set(one.opts))],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
        **settings,
    )


def yaml_options(command: F) -> F:
    """Add what says which YAML and which node."""
    options = [
        click.option(
            "-f", "--filename", "files", multiple=True, metavar="PATH", help="File or folder of YAML; - reads stdin."
        ),
        click.option(
            "--node", default="", metavar="NAME", help="With -f: the node to answer for, where there are several."
        ),
        click.option(
            "--link",
            "links",
            multiple=True,
            metavar="NAME=ADDRESS/LEN,...",
            help="With -f: a link of that node; else its addresses are taken to be on eth0, /24 and /64.",
        ),
    ]
    for one in reversed(options):
        command = one(command)
    return command


def offline_options(command: F) -> F:
    """Add what says which YAML and which node, or which recording and when."""
    options = [
        click.option(
            "--from",
            "recording",
            default="",
            metavar="FILE",
            help="Answer from a flight recording (a file or a ring's folder) instead, as things were then.",
        ),
        click.option(
            "--at", default="", metavar="TIME", help="With --from: when; 2026-11-24T14:05:00Z, 14:05 or 10m (ago)."
        ),
    ]
    for one in reversed(options):
        command = one(command)
    return yaml_options(command)


def offline_loop(
    files: Sequence[str], node: str, links: Sequence[str], flags: dict[str, Any], *, live: bool = False
) -> Loop:
    """Return a loop over YAML, compared with nothing or with this kernel. Tells on stderr what had to be assumed.

    Errors: ConfigError names the file, line or flag.
    """
    from msgspec.structs import replace

    from kuberouterpy import offline
    from kuberouterpy.cli.run import config_of

    # What a driver or a listing logs is told in the answer; a second voice on stderr only confuses.
    logging.getLogger("kuberouterpy").addHandler(logging.NullHandler())
    facts = offline.read(map(Path, files), node=node)
    config = replace(config_of(flags), node_name=facts.node)
    if live:
        from kuberouterpy import live as kernel

        loop: Loop = kernel.build(config, facts)
    else:
        given = [offline.link(text, index) for index, text in enumerate(links, 2)]
        loop = offline.build(config, facts, given or offline.links_of(facts))
    for one in _assumed(facts):
        click.echo(f"note: {one}", err=True)
    return loop


def recorded_loop(recording: str, at: str, flags: dict[str, Any]) -> Loop:
    """Return a loop over what a recording knew at a moment, with the agent's settings of then and flags given now.

    Tells on stderr which moment it is. Errors: ConfigError, RecordError.
    """
    from msgspec import convert
    from msgspec.structs import asdict, replace

    from kuberouterpy import offline
    from kuberouterpy.cli.moments import facts_of, replayed
    from kuberouterpy.cli.run import config_of
    from kuberouterpy.cluster import Link
    from kuberouterpy.config import DEFAULTS, Config
    from kuberouterpy.record import stamp

    logging.getLogger("kuberouterpy").addHandler(logging.NullHandler())
    known = replayed(recording, at)
    given = {name: value for name, value in asdict(config_of(flags)).items() if value != DEFAULTS.get(name)}
    config = replace(convert({**known.config, **given}, Config), node_name=known.node)
    click.echo(f"note: {known.node} as it was at {stamp(known.at)}, agent {known.version}", err=True)
    links = tuple(one for one in known.tables[Link].values() if isinstance(one, Link))
    return offline.build(config, facts_of(known), links)


def _assumed(facts: Any) -> list[str]:
    from kuberouterpy.cluster import EndpointSlice, Node, Service

    told = [f"{one.kind.__name__} {one.ref} cannot be used as it is: {one.reason}" for one in facts.rejected]
    if facts.passed_over:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(facts.passed_over.items()))
        told.append(f"passed over, as the agent does not watch them: {kinds}")
    if not facts.records.get(Node):
        told.append(f"no Node {facts.node} in the files: it has no addresses and no pod CIDRs here")
    if facts.records.get(Service) and not facts.records.get(EndpointSlice):
        told.append("no EndpointSlices in the files: virtual servers have no real servers")
    return told


def refuse_live_without_files(files: Sequence[str], *given: object) -> None:
    """Refuse options that mean nothing without -f. Errors: UsageError."""
    context = click.get_current_context()
    recording, at = context.params.get("recording"), context.params.get("at")
    if at and not recording:
        raise click.UsageError("--at needs --from FILE", context)
    if recording and (files or context.params.get("node") or context.params.get("links") or context.params.get("live")):
        raise click.UsageError("--from stands alone: it has the node, its links and its facts in it", context)
    if not files and not recording and any(given):
        raise click.UsageError("--node, --link, --live and the flags of run need -f PATH", context)


def now() -> float:
    """Return the time that retries are counted from."""
    return time.monotonic()
