"""``kuberouterpy ipvs``: the IPVS table of this node, with what the agent knows of each line.

The table is read from the kernel, always; the agent only adds names (Service, port, pod, owner) and what is wanted but missing.
Without an agent the table stands alone: what lies on the agent's own link is ours, the rest is shown as foreign.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import click
import msgspec
from msgspec.structs import replace

from kuberouterpy.answers import Objects
from kuberouterpy.cli import completion, ipvs_rows, ipvsadm, table
from kuberouterpy.cli.ask import Unreachable, ask, asked_for, socket_option
from kuberouterpy.cli.ipvs_rows import STATES, Known, ServerRow, identity, is_wanted, nobody, row_wanted, rows
from kuberouterpy.cli.ipvs_screens import RANKS, connection_lines, list_table, place, show_table, stats_table, top_table
from kuberouterpy.cli.watch import EVERY_S, shown
from kuberouterpy.drivers import ipvs_connections, ipvs_table

F = TypeVar("F", bound=Callable[..., Any])


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  kuberouterpy ipvs list
  kuberouterpy ipvs show 10.96.0.10:80
  kuberouterpy ipvs list -o ipvsadm
  kuberouterpy ipvs connections --service default/web
""",
)
def ipvs() -> None:
    """List the virtual and real servers of this node, with their Services and pods. Needs root."""


def _options(*forms: str, states: Sequence[str] = STATES) -> Callable[[F], F]:
    """Add what every listing takes: filters, form, watch, socket."""

    def add(command: F) -> F:
        options = [
            click.option(
                "--service",
                default="",
                metavar="NAMESPACE/NAME",
                help="Only of this Service.",
                shell_complete=completion.services,
            ),
            click.option("--vip", default="", metavar="ADDRESS", help="Only this address."),
            click.option("--port", default=0, metavar="NUMBER", type=click.IntRange(0, 65535), help="Only this port."),
            click.option(
                "--protocol", type=click.Choice(["tcp", "udp", "sctp"]), default=None, help="Only this protocol."
            ),
            click.option(
                "--state",
                type=click.Choice(states, case_sensitive=False),
                default=None,
                metavar="STATE",
                help=f"Only in this state: {', '.join(states)}.",
            ),
            click.option("-n", "--namespace", default="", metavar="NAME", help="Only of Services in this namespace."),
            click.option(
                "-A", "--all-namespaces", is_flag=True, help="Of all namespaces, and foreign ones: the default."
            ),
            click.option("-o", "--output", type=click.Choice(forms), default=forms[0], show_default=True, help="Form."),
            click.option("-w", "--watch", is_flag=True, help=f"Show again every {EVERY_S:.0f} s until interrupted."),
            socket_option,
        ]
        for option in reversed(options):
            command = option(command)
        return command

    return add


CONNECTION_STATES: Final = (
    *("ESTABLISHED", "SYN_RECV", "SYN_SENT", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "NONE", "UDP"),
)
"""As /proc/net/ip_vs_conn words them (ip_vs_proto_tcp.c: tcp_state_name_table)."""
_FORMS: Final = ("table", "wide", "json", "yaml", "name", "ipvsadm")


@ipvs.command(
    name="list",
    epilog="""\b
Examples:
  kuberouterpy ipvs list
  kuberouterpy ipvs list -n kube-system -o wide
  kuberouterpy ipvs list --service default/web -o json
  kuberouterpy ipvs list -o ipvsadm            as ipvsadm -Ln
  kuberouterpy ipvs list -o ipvsadm --save     as ipvsadm -Sn, for ipvsadm -R
""",
)
@_options(*_FORMS)
@click.option("--save", is_flag=True, help="With -o ipvsadm: as rules that ipvsadm -R takes.")
@click.pass_context
def list_(ctx: click.Context, /, *, save: bool, **options: Any) -> int:
    """List virtual servers, one a line, problems first."""
    if save and options["output"] != "ipvsadm":
        raise click.UsageError("--save goes with -o ipvsadm", ctx)
    return _listing(ctx, ipvsadm.Form.SAVE if save else ipvsadm.Form.LIST, list_table, **options)


@ipvs.command(
    epilog="""\b
Examples:
  kuberouterpy ipvs show 10.96.0.10:80
  kuberouterpy ipvs show tcp/[fd00:10:96::a]:80
  kuberouterpy ipvs show fwmark/1073771904
  kuberouterpy ipvs show --service default/web
"""
)
@click.argument("server", required=False, default="", metavar="[SERVER]", shell_complete=completion.servers)
@_options(*_FORMS)
@click.pass_context
def show(ctx: click.Context, /, *, server: str, **options: Any) -> int:
    """Show virtual servers with each real server: its pod, weight and why, connections."""
    if server.startswith("fwmark"):
        options = options | {"name": " ".join(server.replace("/", " ").split())}
    elif server:
        options = options | dict(zip(("vip", "port", "protocol"), _parsed(server, ctx), strict=True))
    return _listing(ctx, ipvsadm.Form.LIST, show_table, must_exist=bool(server), **options)


@ipvs.command(
    epilog="""\b
Examples:
  kuberouterpy ipvs stats
  kuberouterpy ipvs stats --rate -w
  kuberouterpy ipvs stats -o ipvsadm           as ipvsadm -Ln --stats
  kuberouterpy ipvs stats -o ipvsadm --rate    as ipvsadm -Ln --rate
"""
)
@_options(*_FORMS)
@click.option("--rate", is_flag=True, help="Per second, as the kernel estimates, instead of totals.")
@click.pass_context
def stats(ctx: click.Context, /, *, rate: bool, **options: Any) -> int:
    """Show counters of virtual and real servers."""

    def body(rows: list[ServerRow], *, wide: bool) -> Iterator[str]:
        return stats_table(rows, rate=rate)

    return _listing(ctx, ipvsadm.Form.RATE if rate else ipvsadm.Form.STATS, body, **options)


@ipvs.command(
    epilog="""\b
Examples:
  kuberouterpy ipvs top                        until Ctrl-C
  kuberouterpy ipvs top --sort bytes --reals
  kuberouterpy ipvs top --once -n kube-system
"""
)
@_options("table", "wide", "json", "yaml")
@click.option("--sort", type=click.Choice(RANKS), default=RANKS[0], show_default=True, help="What is most comes first.")
@click.option("--reals", is_flag=True, help="Rank real servers instead of virtual ones.")
@click.option("--once", is_flag=True, help="Show once and end, as in a pipe.")
@click.pass_context
def top(ctx: click.Context, /, *, sort: str, reals: bool, once: bool, **options: Any) -> int:
    """Show the busiest servers, by the rates that the kernel estimates, again and again."""
    body = partial(top_table, sort=sort, reals=reals)
    options["watch"] = options["watch"] or (sys.stdout.isatty() and not once and options["output"] in {"table", "wide"})
    return _listing(ctx, ipvsadm.Form.RATE, body, **options)


@ipvs.command(
    epilog="""\b
Examples:
  kuberouterpy ipvs connections
  kuberouterpy ipvs connections --state ESTABLISHED --service default/web
  kuberouterpy ipvs connections --vip 10.96.0.10 --port 80
  kuberouterpy ipvs connections -o ipvsadm     as ipvsadm -Lnc
"""
)
@_options("table", "wide", "json", "yaml", "ipvsadm", states=CONNECTION_STATES)
@click.pass_context
def connections(ctx: click.Context, /, *, output: str, watch: bool, **options: Any) -> int:
    """Show connections that IPVS tracks, with Service and pod."""

    def once() -> Iterator[str]:
        found = list(ipvs_connections.connections())
        if output == "ipvsadm":
            yield from connection_lines(found)
            return
        known, _ = _known(ctx, options)
        rows = []
        for one in found:
            name = f"{one.protocol} {place(one.address, one.port)}"
            view = known.get(("real", f"{name} -> {place(one.real_address, one.real_port)}"))
            about = view.about if view else {}
            if not is_wanted(about.get("service", ""), str(one.protocol), one.address, one.port, options):
                continue
            if options["state"] not in {None, one.state}:
                continue
            row = one._asdict() | {"service": about.get("service", ""), "pod": about.get("pod", "")}
            rows.append(row)
        if output in {"json", "yaml"}:
            yield _encoded(rows, output)
            return
        cells = [
            [
                str(row["protocol"]),
                place(row["client"], row["client_port"]),
                place(row["address"], row["port"]),
                place(row["real_address"], row["real_port"]),
                row["state"],
                f"{row['expires_s']}s",
                row["service"] or "-",
                row["pod"] or "-",
            ]
            for row in rows
        ]
        heads = ("PROTO", "CLIENT", "VIRTUAL", "REAL", "STATE", "EXPIRES", "SERVICE", "POD")
        yield from table.lines(heads, cells, columns=table.width()) if cells else ("no connections",)

    return shown(once, watch=watch)


# --- what is there ----------------------------------------------------------------------------------------------------


def _listing(
    ctx: click.Context,
    form: ipvsadm.Form,
    body: Callable[..., Iterator[str]],
    *,
    output: str,
    watch: bool,
    must_exist: bool = False,
    **filters: Any,
) -> int:
    def once() -> Iterator[str]:
        read = ipvs_table.read()
        if output == "ipvsadm" and not (
            filters["service"] or filters["namespace"] or filters["state"] or "name" in filters
        ):
            kept = tuple(one for one in read.servers if is_wanted("", *identity(one.key), filters))
            yield from ipvsadm.lines(replace(read, servers=kept), form)
            return
        known, notes = _known(ctx, filters)
        listed = rows(read.servers, known, notes, ours=nobody if known else ipvs_rows.judge())
        kept_rows = [row for row in listed if row_wanted(row, filters)]
        if must_exist and not kept_rows:
            raise click.ClickException("no such virtual server here; kuberouterpy explain says why one is absent")
        match output:
            case "json" | "yaml":
                yield _encoded(msgspec.to_builtins(kept_rows), output)
            case "name":
                yield from (row.name.replace(" ", "/", 1) for row in kept_rows)
            case "ipvsadm":
                names = {row.name for row in kept_rows}
                chosen = tuple(one for one in read.servers if str(one.key) in names)
                yield from ipvsadm.lines(replace(read, servers=chosen), form)
            case _:
                yield from body(kept_rows, wide=output == "wide") if kept_rows else ("no virtual servers",)

    return shown(once, watch=watch)


def _known(ctx: click.Context, filters: dict[str, Any]) -> tuple[Known, dict[str, tuple[str, ...]]]:
    """Return what the agent knows of servers, by kind and name, and its notes by owner; nothing where no agent runs.

    Errors: Unreachable where the agent was asked for, by its socket or by a filter that only it can answer.
    """
    try:
        told = ask(filters["agent_socket"], "objects", Objects, kind=["virtual", "real"])
    except Unreachable as error:
        if asked_for(ctx) or filters["service"] or filters["namespace"]:
            raise
        click.echo(f"note: {error.format_message()} Shown is what the kernel alone tells.", err=True)
        return {}, {}
    notes: dict[str, tuple[str, ...]] = {}
    for note in told.notes:
        notes[note.owner] = (*notes.get(note.owner, ()), f"{note.subject}: {note.reason}")
    return {(view.kind, view.name): view for view in told.objects}, notes


def _parsed(text: str, ctx: click.Context) -> tuple[str, int, str | None]:
    from kuberouterpy.answers import read_socket

    address, port, protocol = read_socket(text)
    if not address:
        raise click.UsageError(
            f"{text} is no virtual server; write 10.96.0.10:80, tcp/10.96.0.10:80 or an address", ctx
        )
    return address, port, protocol or None


def _encoded(value: Any, form: str) -> str:
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    import yaml

    plain = msgspec.json.decode(msgspec.json.encode(value))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)).rstrip("\n")
