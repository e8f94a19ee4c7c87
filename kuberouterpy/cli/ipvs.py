"""``kuberouterpy ipvs``: the IPVS table of this node, with what the agent knows of each line.

The table is read from the kernel, always; the agent only adds names (Service, port, pod, owner) and what is wanted but missing.
Without an agent the table stands alone: what lies on the agent's own link is ours, the rest is shown as foreign.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kuberouterpy.answers import Objects, View
from kuberouterpy.cli import ExitCode, ipvsadm, table
from kuberouterpy.cli.ask import Unreachable, ask, asked_for, socket_option
from kuberouterpy.dataplane import VirtualServerKey
from kuberouterpy.drivers import ipvs_connections, ipvs_table
from kuberouterpy.drivers.ipvs_table import Counters, Real, Virtual
from kuberouterpy.host import DUMMY_LINK

F = TypeVar("F", bound=Callable[..., Any])
_WATCH_S: Final = 2.0
_CLEAR: Final = "\x1b[H\x1b[2J"
FOREIGN: Final = "(foreign)"
OURS: Final = "(ours)"
"""Whose a server is, where no agent tells its Service."""


class RealRow(Struct, frozen=True, omit_defaults=True):
    """A real server."""

    address: str
    port: int
    weight: int
    forward: str
    active: int
    inactive: int
    counters: Counters
    pod: str = ""
    node: str = ""
    note: str = ""
    """Why its weight is what it is, or that it is not wanted."""


class ServerRow(Struct, frozen=True, omit_defaults=True):
    """A virtual server."""

    name: str
    """``tcp 10.96.0.10:80``, as ``explain`` takes it."""
    scheduler: str
    whose: str
    """Service, ``(foreign)`` or ``(ours)``."""
    counters: Counters
    port_name: str = ""
    vip: str = ""
    """cluster-ip, node-port, external-ip, load-balancer-ip."""
    flags: str = ""
    persistence_s: int = 0
    owners: tuple[str, ...] = ()
    state: str = "ok"
    """``ok``, ``missing``, ``differs``, ``extra``, ``foreign``."""
    notes: tuple[str, ...] = ()
    reals: tuple[RealRow, ...] = ()


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


def _options(*forms: str) -> Callable[[F], F]:
    """Add what every listing takes: filters, form, watch, socket."""

    def add(command: F) -> F:
        options = [
            click.option("--service", default="", metavar="NAMESPACE/NAME", help="Only of this Service."),
            click.option("--vip", default="", metavar="ADDRESS", help="Only this address."),
            click.option("--port", default=0, metavar="NUMBER", type=click.IntRange(0, 65535), help="Only this port."),
            click.option(
                "--protocol", type=click.Choice(["tcp", "udp", "sctp"]), default=None, help="Only this protocol."
            ),
            click.option("-n", "--namespace", default="", metavar="NAME", help="Only of Services in this namespace."),
            click.option(
                "-A", "--all-namespaces", is_flag=True, help="Of all namespaces, and foreign ones: the default."
            ),
            click.option("-o", "--output", type=click.Choice(forms), default=forms[0], show_default=True, help="Form."),
            click.option("-w", "--watch", is_flag=True, help=f"Show again every {_WATCH_S:.0f} s until interrupted."),
            socket_option,
        ]
        for option in reversed(options):
            command = option(command)
        return command

    return add


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
    return _listing(ctx, ipvsadm.Form.SAVE if save else ipvsadm.Form.LIST, _list_table, **options)


@ipvs.command(
    epilog="""\b
Examples:
  kuberouterpy ipvs show 10.96.0.10:80
  kuberouterpy ipvs show tcp/[fd00:10:96::a]:80
  kuberouterpy ipvs show --service default/web
"""
)
@click.argument("server", required=False, default="", metavar="[SERVER]")
@_options(*_FORMS)
@click.pass_context
def show(ctx: click.Context, /, *, server: str, **options: Any) -> int:
    """Show virtual servers with each real server: its pod, weight and why, connections."""
    if server:
        options = options | dict(zip(("vip", "port", "protocol"), _parsed(server, ctx), strict=True))
    return _listing(ctx, ipvsadm.Form.LIST, _show_table, must_exist=bool(server), **options)


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
        return _stats_table(rows, rate=rate)

    return _listing(ctx, ipvsadm.Form.RATE if rate else ipvsadm.Form.STATS, body, **options)


@ipvs.command(
    epilog="""\b
Examples:
  kuberouterpy ipvs connections
  kuberouterpy ipvs connections --vip 10.96.0.10 --port 80
  kuberouterpy ipvs connections -o ipvsadm     as ipvsadm -Lnc
"""
)
@_options("table", "wide", "json", "yaml", "ipvsadm")
@click.pass_context
def connections(ctx: click.Context, /, *, output: str, watch: bool, **options: Any) -> int:
    """Show connections that IPVS tracks, with Service and pod."""

    def once() -> Iterator[str]:
        found = list(ipvs_connections.connections())
        if output == "ipvsadm":
            yield from _connection_lines(found)
            return
        known, _ = _known(ctx, options)
        rows = []
        for one in found:
            name = f"{one.protocol} {_place(one.address, one.port)}"
            view = known.get(("real", f"{name} -> {_place(one.real_address, one.real_port)}"))
            about = view.about if view else {}
            if not _wanted(about.get("service", ""), str(one.protocol), one.address, one.port, options):
                continue
            row = one._asdict() | {"service": about.get("service", ""), "pod": about.get("pod", "")}
            rows.append(row)
        if output in {"json", "yaml"}:
            yield _encoded(rows, output)
            return
        cells = [
            [
                str(row["protocol"]),
                _place(row["client"], row["client_port"]),
                _place(row["address"], row["port"]),
                _place(row["real_address"], row["real_port"]),
                row["state"],
                f"{row['expires_s']}s",
                row["service"] or "-",
                row["pod"] or "-",
            ]
            for row in rows
        ]
        heads = ("PROTO", "CLIENT", "VIRTUAL", "REAL", "STATE", "EXPIRES", "SERVICE", "POD")
        yield from table.lines(heads, cells, columns=table.width()) if cells else ("no connections",)

    return _shown(once, watch=watch)


def _connection_lines(found: Iterable[ipvs_connections.Connection]) -> Iterator[str]:
    yield "IPVS connection entries"
    yield f"pro expire {'state':<11} {'source':<18} {'virtual':<18} destination"
    for one in found:
        expires = f"{one.expires_s // 60:02}:{one.expires_s % 60:02}"
        client, virtual = _place(one.client, one.client_port), _place(one.address, one.port)
        real = _place(one.real_address, one.real_port)
        yield f"{one.protocol.upper():<3} {expires:<6} {one.state:<11} {client:<18} {virtual:<18} {real}"


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
        if output == "ipvsadm" and not (filters["service"] or filters["namespace"]):
            kept = tuple(one for one in read.servers if _wanted("", *_identity(one.key), filters))
            yield from ipvsadm.lines(replace(read, servers=kept), form)
            return
        known, notes = _known(ctx, filters)
        listed = rows(read.servers, known, notes, ours=_nobody if known else _judge())
        kept_rows = [row for row in listed if _row_wanted(row, filters)]
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

    return _shown(once, watch=watch)


Known = dict[tuple[str, str], View]


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


Judge = Callable[[VirtualServerKey], bool]
"""Whether a server is an agent's, where none tells."""


def _judge() -> Judge:
    """Return what tells ours without an agent: the link that carries VIPs, and node ports of the default range."""
    from kuberouterpy.config import Config
    from kuberouterpy.offline import links_here

    first, last = Config().service_node_port_range
    vips, own = set[str](), set[str]()
    for link in links_here():
        held = {text.partition("/")[0] for text in link.addresses}
        (vips if link.name == DUMMY_LINK else own).update(held)
    return lambda key: key.address in vips or (key.address in own and first <= key.port <= last)


def _nobody(_: VirtualServerKey) -> bool:
    return False


def rows(
    servers: Iterable[Virtual],
    known: Known,
    notes: dict[str, tuple[str, ...]],
    *,
    ours: Judge = _nobody,
) -> list[ServerRow]:
    """Return one row a virtual server: those of the kernel, and those wanted but missing; problems first, then by key."""
    listed = [_row(server, known, notes, ours=ours) for server in sorted(servers, key=lambda one: one.key)]
    there = {row.name for row in listed}
    missing = [_missing(view) for (kind, name), view in known.items() if kind == "virtual" and name not in there]
    return sorted((*missing, *listed), key=lambda row: row.state in {"ok", "foreign"})


def _row(server: Virtual, known: Known, notes: dict[str, tuple[str, ...]], *, ours: Judge) -> ServerRow:
    name = str(server.key)
    view = known.get(("virtual", name))
    flags = ipvsadm.scheduler_flags(server)
    mine = ours(server.key)
    row = ServerRow(
        name,
        server.scheduler,
        OURS if mine else FOREIGN,
        server.counters,
        flags=",".join(filter(None, (flags, "ops" if server.flags & 4 else ""))),
        persistence_s=server.persistence_s if server.persistent else 0,
        state="ok" if mine else "foreign",
        reals=tuple(_real(one, known, foreign=bool(known) and view is None) for one in server.reals),
    )
    if view is None:
        return row
    told = [note for owner in view.owners for note in notes.get(owner, ()) if server.key.address in note.split()]
    return replace(
        row,
        whose=view.about.get("service") or OURS,
        port_name=view.about.get("port", ""),
        vip=view.about.get("vip", ""),
        owners=view.owners,
        state=view.state if view.state != "missing" else "ok",
        notes=tuple(filter(None, (view.error, *told))),
    )


def _missing(view: View) -> ServerRow:
    return ServerRow(
        view.name,
        view.wanted.split(" ")[0],
        view.about.get("service") or OURS,
        Counters(),
        port_name=view.about.get("port", ""),
        vip=view.about.get("vip", ""),
        owners=view.owners,
        state="missing",
        notes=(view.error,) if view.error else (),
    )


def _real(one: Real, known: Known, *, foreign: bool) -> RealRow:
    view = known.get(("real", str(one.key)))
    about = view.about if view else {}
    note = about.get("note", "") or ("" if view is None or view.state in {"ok", "missing"} else view.state)
    if known and view is None and not foreign:
        note = "not the agent's"
    return RealRow(
        one.key.address,
        one.key.port,
        one.weight,
        one.forward.name.lower(),
        one.active,
        one.inactive,
        one.counters,
        pod=about.get("pod", ""),
        node=about.get("node", ""),
        note=note or ("draining" if not one.weight else ""),
    )


# --- which ------------------------------------------------------------------------------------------------------------


def _parsed(text: str, ctx: click.Context) -> tuple[str, int, str | None]:
    from kuberouterpy.answers import read_socket

    address, port, protocol = read_socket(text)
    if not address:
        raise click.UsageError(
            f"{text} is no virtual server; write 10.96.0.10:80, tcp/10.96.0.10:80 or an address", ctx
        )
    return address, port, protocol or None


def _identity(key: VirtualServerKey) -> tuple[str, str, int]:
    return str(key.protocol), key.address, key.port


def _row_wanted(row: ServerRow, filters: dict[str, Any]) -> bool:
    protocol, _, place = row.name.partition(" ")
    host, _, port = place.rpartition(":")
    if protocol == "fwmark":
        host, port = "", "0"
    service = row.whose if not row.whose.startswith("(") else ""
    return _wanted(service, protocol, host.strip("[]"), int(port or 0), filters)


def _wanted(service: str, protocol: str, address: str, port: int, filters: dict[str, Any]) -> bool:
    from ipaddress import ip_address

    if filters["service"] and service != (
        filters["service"] if "/" in filters["service"] else f"default/{filters['service']}"
    ):
        return False
    if filters["namespace"] and service.partition("/")[0] != filters["namespace"]:
        return False
    if filters["vip"]:
        try:
            wanted = str(ip_address(filters["vip"].strip("[]")))
        except ValueError:
            raise click.UsageError(f"--vip {filters['vip']} is no address", click.get_current_context()) from None
        if address != wanted:
            return False
    return (not filters["port"] or port == filters["port"]) and filters["protocol"] in {None, protocol}


# --- how it looks -----------------------------------------------------------------------------------------------------


def _list_table(listed: list[ServerRow], *, wide: bool) -> Iterator[str]:
    heads = ["VIRTUAL SERVER", "SCHED", "SERVICE", "PORT", "VIP", "REAL", "ACTIVE", "STATE"]
    cells = [
        [
            row.name,
            row.scheduler,
            row.whose,
            row.port_name or "-",
            row.vip or "-",
            _how_many(row),
            str(sum(real.active for real in row.reals)),
            _state(row),
        ]
        for row in listed
    ]
    if wide:
        heads += ["INACTIVE", "FLAGS", "OWNER", "NOTES"]
        for cell, row in zip(cells, listed, strict=True):
            inactive = str(sum(real.inactive for real in row.reals))
            cell += [inactive, _flags(row) or "-", " and ".join(row.owners) or "-", "; ".join(row.notes) or "-"]
    yield from table.lines(heads, cells, columns=table.width())


def _how_many(row: ServerRow) -> str:
    draining = sum(not real.weight for real in row.reals)
    return f"{len(row.reals)}" + (f" ({draining} draining)" if draining else "")


def _state(row: ServerRow) -> str:
    return row.state if row.state in {"ok", "foreign"} else row.state.upper()


def _flags(row: ServerRow) -> str:
    persistent = f"persistent {row.persistence_s}s" if row.persistence_s else ""
    return " ".join(filter(None, (row.flags, persistent)))


def _show_table(listed: list[ServerRow], *, wide: bool) -> Iterator[str]:
    for number, row in enumerate(listed):
        if number:
            yield ""
        words = [row.name, row.scheduler, _flags(row), row.whose, row.port_name, row.vip, _state(row)]
        yield "  ".join(filter(None, words))
        if row.owners:
            yield f"  wanted by {' and '.join(row.owners)}"
        for note in row.notes:
            yield f"  note: {note}"
        heads = ["  REAL SERVER", "WEIGHT", "FORWARD", "ACTIVE", "INACTIVE", "POD", "NODE", "NOTE"]
        cells = [
            [
                f"  {_place(real.address, real.port)}",
                str(real.weight),
                real.forward,
                str(real.active),
                str(real.inactive),
                real.pod or "-",
                real.node or "-",
                real.note or "-",
            ]
            for real in row.reals
        ]
        yield from table.lines(heads, cells, columns=table.width()) if cells else ("  no real servers: it refuses",)


def _stats_table(listed: list[ServerRow], *, rate: bool) -> Iterator[str]:
    per = "/S" if rate else ""
    heads = [
        "SERVER",
        "SERVICE OR POD",
        *(f"{word}{per}" for word in ("CONNS", "PKTS IN", "PKTS OUT", "BYTES IN", "BYTES OUT")),
    ]
    cells = []
    for row in listed:
        cells.append([row.name, row.whose, *_counts(row.counters, rate=rate)])
        cells += [
            [f"  -> {_place(real.address, real.port)}", real.pod or "-", *_counts(real.counters, rate=rate)]
            for real in row.reals
        ]
    yield from table.lines(heads, cells, columns=table.width())


def _counts(counters: Counters, *, rate: bool) -> list[str]:
    values = list(msgspec.structs.astuple(counters))
    return [f"{value:,}" for value in (values[5:] if rate else values[:5])]


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _encoded(value: Any, form: str) -> str:
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    import yaml

    plain = msgspec.json.decode(msgspec.json.encode(value))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)).rstrip("\n")


def _shown(once: Callable[[], Iterator[str]], *, watch: bool) -> int:
    while True:
        # Whole, then printed: an error in the middle must not leave half a table.
        text = "".join(f"{line}\n" for line in once())
        click.echo((_CLEAR if watch and sys.stdout.isatty() else "") + text, nl=False)
        if not watch:
            return ExitCode.FINE
        time.sleep(_WATCH_S)
