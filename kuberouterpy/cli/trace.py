"""``kuberouterpy trace``: where one packet goes, hop by hop in kernel order, and how the answer comes back."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec

from kuberouterpy.answers.traced import HopView, Trace, Traces, WayView
from kuberouterpy.answers.traced import trace as trace_of
from kuberouterpy.cli import ExitCode, completion, table
from kuberouterpy.cli.ask import (
    ask,
    offline_command,
    offline_loop,
    offline_options,
    recorded_loop,
    refuse_live_without_files,
    socket_option,
)

_GOOD: Final = frozenset({"reaches", "reaches the node", "leaves the cluster"})
_DENIED: Final = frozenset({"denied", "answer denied"})
_GLUE: Final = "\xa0"
"""A space at which no line breaks."""
_INDENT: Final = 10
"""Of what goes on below."""
_EXAMPLES: Final = """\b
Examples:
  kuberouterpy trace pod/default/client service/default/web:80
  kuberouterpy trace pod/default/client pod/default/web-1:8080 --protocol udp
  kuberouterpy trace 203.0.113.9 10.0.0.1:30080
  kuberouterpy trace node service/default/web --exit-code && echo open
  kuberouterpy trace pod/default/client service/default/web -f cluster/ --node worker-1 -o json
  kuberouterpy trace pod/default/client service/default/web --from node-1.rec --at 14:05
"""


@click.argument("source", shell_complete=completion.subjects)
@click.argument("destination", shell_complete=completion.subjects)
@offline_options
@click.option(
    "--protocol", type=click.Choice(["tcp", "udp", "sctp"]), default=None, help="Protocol; else the port's own."
)
@click.option(
    "--family", type=click.Choice(["4", "6"]), default=None, help="Only this family; else each that both have."
)
@click.option(
    "--live", is_flag=True, help="Compare with rules, sets and servers that stand in this kernel. Needs root."
)
@click.option("--exit-code", is_flag=True, help="Exit with 5 where a rule denies the packet, 1 where it gets lost.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form.")
@socket_option
def _trace(
    *,
    source: str,
    destination: str,
    files: tuple[str, ...],
    node: str,
    links: tuple[str, ...],
    recording: str,
    at: str,
    protocol: str | None,
    family: str | None,
    live: bool,
    exit_code: bool,
    output: str,
    agent_socket: str,
    **flags: Any,
) -> int:
    refuse_live_without_files(files, node, links, *flags.values())
    if files or recording:
        loop = recorded_loop(recording, at, flags) if recording else offline_loop(files, node, links, flags)
        told = trace_of(loop, source, destination, protocol=protocol or "", family=int(family or 0))
    else:
        words = {"source": [source], "destination": [destination]}
        words |= {"protocol": [protocol]} if protocol else {}
        words |= {"family": [family]} if family else {}
        told = ask(agent_socket, "trace", Traces, **words)
    differences: list[str] = []
    if live:
        from kuberouterpy.cli.tracelive import compare

        differences = [line for one in told.traces for line in compare(one, told.node)]
    if output == "json":
        shown = msgspec.to_builtins(told) | ({"live": differences} if live else {})
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    else:
        for line in (*_lines(told), *differences):
            click.echo(line)
    if any(line.startswith("MISMATCH") for line in differences):
        return ExitCode.DIFFERENCES
    return _code(told) if exit_code else ExitCode.FINE


def _code(told: Traces) -> ExitCode:
    verdicts = {way.verdict for one in told.traces for way in one.ways}
    if verdicts & _DENIED:
        return ExitCode.DENIED
    return ExitCode.ERROR if verdicts - _GOOD else ExitCode.FINE


def _lines(told: Traces) -> Iterator[str]:
    for number, one in enumerate(told.traces):
        if number:
            yield ""
        yield from lines(one)


def lines(one: Trace) -> Iterator[str]:
    """Yield one packet's way: the verdict first, then hops, then the answer; of several ways the first whole.

    On a terminal lines break where they would not fit; in a pipe each thing is one line.
    """
    yield from _verdict("", one.verdict, f"{one.packet} from {one.start}")
    shown = next((way for way in one.ways if way.verdict not in _GOOD), one.ways[0])
    yield from _way(shown)
    for way in one.ways:
        if way is not shown:
            yield from _verdict(f"  or {way.endpoint}: ", way.verdict, way.end)
    for doubt in one.doubts:
        yield from _broken("  not judged  ", doubt)


def _verdict(head: str, verdict: str, rest: str) -> Iterator[str]:
    word = verdict.upper()
    first, *more = _broken(f"{head}{word}  ", rest)
    colour = "green" if verdict in _GOOD else "yellow" if verdict.startswith("depends") else "red"
    yield first.replace(word, table.paint(word, colour), 1)
    yield from more


def _way(way: WayView) -> Iterator[str]:
    for number, hop in enumerate(way.hops, 1):
        yield from _hop(number, hop)
    seen = f", which sees {way.seen_as}" if way.seen_as and way.back else ""
    yield from _broken("  =>  ", f"{way.verdict}: {way.end}{seen}")
    if way.back:
        yield "  back"
    for number, hop in enumerate(way.back, len(way.hops) + 1):
        yield from _hop(number, hop)


def _hop(number: int, hop: HopView) -> Iterator[str]:
    owner = f"  #{_GLUE}{hop.owner}" if hop.owner else ""
    yield from _broken(f"  {number:>2}  {hop.node}  {hop.stage:<20} ", f"{hop.text}{owner}")
    if hop.path:
        yield from _broken("        ", " > ".join(hop.path))
        yield from _broken("        ", hop.rule)


def _broken(head: str, text: str) -> Iterator[str]:
    """Yield a line that begins with ``head``; what does not fit goes on below, further in."""
    columns = table.width()
    if not columns or len(head) + len(text) <= columns:
        yield (head + text).replace(_GLUE, " ")
        return
    indent = " " * _INDENT
    for line in textwrap.wrap(text, columns, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False):
        yield line.replace(_GLUE, " ")


trace = offline_command(
    "trace",
    _trace,
    short_help="Follow one packet through services, policy and routes, and back.",
    help="""Follow the first packet of a connection through IPVS, policy and routes of this node, and of the nodes after it,
    hop by hop in kernel order, each hop with its rule and its owner; then the answer on its way back.

    SOURCE is pod/NAMESPACE/NAME, node (this one), node/NAME or an address. DESTINATION is service/NAMESPACE/NAME[:PORT],
    pod/NAMESPACE/NAME:PORT, node/NAME:PORT or ADDRESS:PORT. A client outside is met first on this node.

    The verdict is that of what the agents want; --live compares it with what stands in this kernel, and exits with 3 where they
    differ. With -f it is answered from YAML.
    """,
    epilog=_EXAMPLES,
)
"""The command."""
