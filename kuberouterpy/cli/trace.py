"""``kuberouterpy trace``: where one packet goes, hop by hop in kernel order, and how the answer comes back."""

from __future__ import annotations

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
    refuse_live_without_files,
    socket_option,
)

_GOOD: Final = frozenset({"reaches", "reaches the node", "leaves the cluster"})
_DENIED: Final = frozenset({"denied", "answer denied"})
_EXAMPLES: Final = """\b
Examples:
  kuberouterpy trace pod/default/client service/default/web:80
  kuberouterpy trace pod/default/client pod/default/web-1:8080 --protocol udp
  kuberouterpy trace 203.0.113.9 10.0.0.1:30080
  kuberouterpy trace node service/default/web --exit-code && echo open
  kuberouterpy trace pod/default/client service/default/web -f cluster/ --node worker-1 -o json
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
    protocol: str | None,
    family: str | None,
    live: bool,
    exit_code: bool,
    output: str,
    agent_socket: str,
    **flags: Any,
) -> int:
    refuse_live_without_files(files, node, links, *flags.values())
    if files:
        loop = offline_loop(files, node, links, flags)
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
    """Yield one packet's way: the verdict first, then hops, then the answer; of several ways the first whole."""
    yield _verdict(one.verdict, f"{one.packet} from {one.start}")
    shown = next((way for way in one.ways if way.verdict not in _GOOD), one.ways[0])
    yield from _way(shown)
    for way in one.ways:
        if way is not shown:
            yield f"  or {way.endpoint}: " + _verdict(way.verdict, way.end)
    for doubt in one.doubts:
        yield f"  {table.paint('not judged', 'yellow')}  {doubt}"


def _verdict(verdict: str, rest: str) -> str:
    colour = "green" if verdict in _GOOD else "yellow" if verdict.startswith("depends") else "red"
    return f"{table.paint(verdict.upper(), colour)}  {rest}"


def _way(way: WayView) -> Iterator[str]:
    for number, hop in enumerate(way.hops, 1):
        yield from _hop(number, hop)
    yield f"  =>  {way.verdict}: {way.end}" + (f", which sees {way.seen_as}" if way.seen_as and way.back else "")
    if way.back:
        yield "  back"
    for number, hop in enumerate(way.back, len(way.hops) + 1):
        yield from _hop(number, hop)


def _hop(number: int, hop: HopView) -> Iterator[str]:
    owner = f"   # {hop.owner}" if hop.owner else ""
    head = f"  {number:>2}  {hop.node}  {hop.stage:<20} "
    yield _fitted(f"{head}{hop.text}", owner)
    if hop.path:
        yield _fitted(f"        {' > '.join(hop.path)}", "")
    if hop.path and hop.rule:
        yield _fitted(f"        {hop.rule}", "")


def _fitted(text: str, owner: str) -> str:
    room = table.width()
    whole = f"{text:<72}{owner}" if owner else text
    return whole if not room or len(whole) <= room else whole[: room - 1] + "…"


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
