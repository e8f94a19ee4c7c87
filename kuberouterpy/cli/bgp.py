"""``kuberouterpy bgp``: neighbors, routes in both directions, and why a prefix goes where, or does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click
import msgspec

from kuberouterpy.answers.bgp import BGP, Judgement, NeighborRow, Neighbors, RouteRow, Routes, Why
from kuberouterpy.answers.subjects import UnknownSubject
from kuberouterpy.cli import ExitCode, table
from kuberouterpy.cli.ask import (
    Refused,
    ask,
    offline_command,
    offline_loop,
    refuse_live_without_files,
    socket_option,
    yaml_options,
)
from kuberouterpy.cli.status import since
from kuberouterpy.cli.watch import EVERY_S, shown

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_FORMS: Final = ["table", "wide", "json", "yaml", "name"]


@click.group(
    "bgp",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="""\b
Examples:
  kuberouterpy bgp neighbors
  kuberouterpy bgp routes --announced
  kuberouterpy bgp why 10.96.0.10
""",
)
def bgp() -> None:
    """Show the BGP sessions of this node, what it announces and learns, and why, or why not."""


def _options(command: F) -> F:
    output = click.option(
        "-o", "--output", type=click.Choice(_FORMS), default="table", show_default=True, help="Form of the answer."
    )
    decorated: F = yaml_options(output(socket_option(command)))
    return decorated


def _answer(question: str, answer: type[T], options: dict[str, Any], **words: tuple[str, ...]) -> T:
    """Return the agent's answer, or that of a loop over YAML. Takes the options it knows out; the rest are flags of run."""
    files, node, links = options.pop("files"), options.pop("node"), options.pop("links")
    socket = options.pop("agent_socket")
    refuse_live_without_files(files, node, links, *options.values())
    if not files:
        return ask(socket, question, answer, **words)
    told = BGP[question](offline_loop(files, node, links, options), words, ())
    assert isinstance(told, answer)
    return told


def _print(told: Any, output: str, names: Iterator[str], screen: Iterator[str]) -> None:
    match output:
        case "json":
            click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
        case "yaml":
            import yaml

            plain = msgspec.json.decode(msgspec.json.encode(told))
            click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)
        case _:
            for line in names if output == "name" else screen:
                click.echo(line)


# --- neighbors --------------------------------------------------------------------------------------------------------


@_options
@click.option("-w", "--watch", is_flag=True, help=f"Show again every {EVERY_S:.0f} s until interrupted.")
@click.option("--exit-code", is_flag=True, help="Exit with 4 when a session is not established.")
def _neighbors(*, output: str, watch: bool, exit_code: bool, **options: Any) -> int:
    if watch:
        if options["files"] or output not in {"table", "wide"}:
            raise click.UsageError("-w shows what an agent has, as a table", click.get_current_context())
        return shown(lambda: _screen(_answer("bgp-neighbors", Neighbors, dict(options)), output), watch=True)
    told = _answer("bgp-neighbors", Neighbors, options)
    names = (f"neighbor/{one.address}" for one in told.neighbors)
    _print(told, output, names, _screen(told, output))
    down = any(not one.up for one in told.neighbors)
    return ExitCode.UNHEALTHY if exit_code and down else ExitCode.FINE


def _screen(told: Neighbors, output: str) -> Iterator[str]:
    return neighbor_lines(told, wide=output == "wide", now=time.time())


def neighbor_lines(told: Neighbors, *, wide: bool, now: float) -> Iterator[str]:
    """Yield the table of neighbors, problems first, then what was asked for in vain."""
    if not told.asn:
        yield "this node has no BGP speaker"
    elif not told.neighbors:
        yield f"AS {told.asn}, router ID {told.router_id}: no neighbors are asked for"
    heads = ["NEIGHBOR", "NAME", "ASN", "STATE", "SINCE", "RECEIVED", "LEARNED", "PROBLEM"]
    cells = [_neighbor(row, now) for row in told.neighbors]
    if wide:
        heads += ["LOCAL", "PORT", "MAX", "MD5", "BFD", "ROLE", "OWNER"]
        for cell, row in zip(cells, told.neighbors, strict=True):
            cell += [row.local_address or "-", str(row.port), str(row.max_prefixes or "-")]
            cell += ["yes" if row.password else "no", row.bfd or "-", row.role or "-", row.owner or "-"]
    yield from table.lines(heads, cells, columns=table.width())
    for note in told.notes:
        yield f"{table.paint('note', 'yellow')}  {note.subject}: {note.reason}   # {note.owner}"


def _neighbor(row: NeighborRow, now: float) -> list[str]:
    state = row.state if row.up or row.state == "unknown" else row.state.upper()
    age = since(max(0.0, now - row.since)) if row.since else "-"
    return [
        row.address,
        row.name,
        str(row.asn),
        state,
        age,
        str(row.received),
        str(row.learned),
        row.problem or "-",
    ]


# --- routes -----------------------------------------------------------------------------------------------------------


@_options
@click.option("--announced", is_flag=True, help="Only what this node announces.")
@click.option("--learned", is_flag=True, help="Only what others told.")
def _routes(*, output: str, announced: bool, learned: bool, **options: Any) -> int:
    told = _answer("bgp-routes", Routes, options)
    kept = {"announced"} if announced and not learned else {"learned"} if learned and not announced else set()
    if kept:
        told = msgspec.structs.replace(told, routes=tuple(one for one in told.routes if one.direction in kept))
    names = (f"{one.direction}/{one.prefix}" for one in told.routes)
    _print(told, output, names, route_lines(told, wide=output == "wide"))
    return ExitCode.FINE


def route_lines(told: Routes, *, wide: bool) -> Iterator[str]:
    """Yield the table of prefixes, problems first; wide adds why others are not there."""
    if not told.routes:
        yield "nothing is announced or learned"
    heads = ["PREFIX", "DIRECTION", "NEXT HOP", "NEIGHBORS", "STATE", "PROBLEM"]
    cells = [_route(row) for row in told.routes]
    if wide:
        heads += ["KERNEL", "COMMUNITIES", "OWNER"]
        for cell, row in zip(cells, told.routes, strict=True):
            cell += [row.kernel or "-", " ".join(row.communities) or "-", row.owner or "-"]
    yield from table.lines(heads, cells, columns=table.width())
    if wide:
        for note in told.notes:
            yield f"{table.paint('not there', 'yellow')}  {note.subject}: {note.reason}   # {note.owner}"
    elif told.notes:
        yield f"{len(told.notes)} more are not there; -o wide says why"


def _route(row: RouteRow) -> list[str]:
    return [
        row.prefix,
        row.direction,
        " ".join(row.next_hops),
        " ".join(row.neighbors) or "-",
        row.state if row.state == "ok" else row.state.upper(),
        row.problem or "-",
    ]


# --- why --------------------------------------------------------------------------------------------------------------


@click.argument("prefix")
@_options
def _why(*, prefix: str, output: str, **options: Any) -> int:
    try:
        told = _answer("bgp-why", Why, options, prefix=(prefix,))
    except (UnknownSubject, Refused) as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    _print(told, output, iter((f"prefix/{told.prefix}",)), why_lines(told))
    return ExitCode.FINE


def why_lines(told: Why) -> Iterator[str]:
    """Yield what is known of a prefix: who announces it, to whom, what the kernel has, and what is in the way."""
    yield (
        told.prefix
        if told.prefix in {told.asked, f"{told.asked}/32", f"{told.asked}/128"}
        else (f"{told.prefix} holds {told.asked}")
    )
    yield from _own(told.announced, told)
    yield from _others(told.learned, told)
    for note in told.notes:
        yield f"  {table.paint('why not', 'yellow')}   {note.subject}: {note.reason}   # {note.owner}"


def _own(row: RouteRow | None, told: Why) -> Iterator[str]:
    if row is None:
        yield "  not announced by this node" + ("" if told.notes or told.learned else ": nothing here asks for it")
        return
    also = "".join((f", communities {' '.join(row.communities)}" if row.communities else "", _preference(row)))
    yield f"  announced ({row.state}), next hop {row.next_hops[0]}{also}   # {row.owner}"
    if row.problem:
        yield f"    last error: {row.problem}"
    for one in told.judgements:
        yield f"    {_told(one)}"


def _preference(row: RouteRow) -> str:
    return f", local preference {row.local_preference}" if row.local_preference else ""


def _told(one: Judgement) -> str:
    extra = "".join(
        (
            f"; communities {' '.join(one.communities)}" if one.communities else "",
            f"; AS path prepended {one.prepends} times" if one.prepends else "",
            "" if one.up or not one.told else "; the session is not known to be up",
        )
    )
    word = table.paint("to", "green") if one.told else table.paint("not to", "yellow")
    return f"{word} {one.neighbor} {one.name}: {one.export}{extra}"


def _others(row: RouteRow | None, told: Why) -> Iterator[str]:
    if row is not None:
        yield f"  learned from {' '.join(row.neighbors) or '?'}, next hop {' '.join(row.next_hops)}   # {row.owner}"
        yield f"    kernel: {row.kernel or 'no route'} ({row.state})" + (f": {row.problem}" if row.problem else "")
        return
    yield "  not learned from others" + ("" if told.judgements else ": there are no neighbors")
    for one in told.judgements:
        word = "would be believed" if one.believed else "would be refused"
        yield f"    from {one.neighbor} {one.name}: {word}: {one.imports}"


bgp.add_command(
    offline_command(
        "neighbors",
        _neighbors,
        short_help="List sessions, those with problems first.",
        help="""List every neighbor that is wanted, and those that were asked for in vain: state, since when, how many prefixes
    it told (RECEIVED) and how many of them are best paths here (LEARNED). With -f the list is made from YAML, without
    states.""",
        epilog="""\b
Examples:
  kuberouterpy bgp neighbors
  kuberouterpy bgp neighbors -o wide
  kuberouterpy bgp neighbors -w
  kuberouterpy bgp neighbors --exit-code >/dev/null || echo "a session is down"
  kuberouterpy bgp neighbors -f cluster/ --node worker-1 --peer-router-ips 192.0.2.1 --peer-router-asns 65001
""",
    )
)
bgp.add_command(
    offline_command(
        "routes",
        _routes,
        short_help="List what is announced and what is learned.",
        help="""List every prefix this node announces, and to whom, and every best path that others told, with the way it takes
    in the kernel. Wide adds communities, owners, and why something is not there.""",
        epilog="""\b
Examples:
  kuberouterpy bgp routes
  kuberouterpy bgp routes --announced -o wide
  kuberouterpy bgp routes --learned -o json
""",
    )
)
bgp.add_command(
    offline_command(
        "why",
        _why,
        short_help="Say why a prefix is announced and learned, or why not.",
        help="""Say who asks for a prefix to be announced, which neighbors are told, and which statement of the export policy
    decides; from whom it is learned and what became of it in the kernel; and what is in the way of either. An address
    means the longest known prefix that holds it.""",
        epilog="""\b
Examples:
  kuberouterpy bgp why 10.96.0.10
  kuberouterpy bgp why 10.244.2.0/24
  kuberouterpy bgp why fd00:10:96::a -o json
""",
    )
)
