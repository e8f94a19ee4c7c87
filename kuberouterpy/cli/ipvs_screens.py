"""How ``ipvs`` looks: its tables, one function a screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from kuberouterpy.cli import table
from kuberouterpy.cli.ipvs_rows import RealRow, ServerRow
from kuberouterpy.drivers.ipvs_connections import Connection
from kuberouterpy.drivers.ipvs_table import Counters


def list_table(listed: list[ServerRow], *, wide: bool) -> Iterator[str]:
    """Yield one line a virtual server."""
    heads = ["VIRTUAL SERVER", "SCHED", "SERVICE", "PORT", "VIP", "READY", "ACTIVE", "STATE"]
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
    """Return how many real servers take new connections, of how many, as kubectl writes it."""
    return f"{sum(bool(real.weight) for real in row.reals)}/{len(row.reals)}"


def _state(row: ServerRow) -> str:
    return row.state if row.state in {"ok", "foreign"} else row.state.upper()


def _flags(row: ServerRow) -> str:
    persistent = f"persistent {row.persistence_s}s" if row.persistence_s else ""
    return " ".join(filter(None, (row.flags, persistent)))


_SHORT: Final = {"masquerade": "masq"}
"""As ``ipvsadm`` has it; columns are scarce."""


def show_table(listed: list[ServerRow], *, wide: bool) -> Iterator[str]:
    """Yield each virtual server with its real servers."""
    for number, row in enumerate(listed):
        if number:
            yield ""
        words = [row.name, row.scheduler, _flags(row), row.whose, row.port_name, row.vip, _state(row)]
        yield "  ".join(filter(None, words))
        if row.owners:
            yield f"  wanted by {' and '.join(row.owners)}"
        for note in row.notes:
            yield f"  note: {note}"
        heads = ["  REAL SERVER", "WEIGHT", "FORWARD", "ACTIVE", "INACT", "POD", "NODE", "WHY"]
        cells = [
            [
                f"  {place(real.address, real.port)}",
                str(real.weight),
                _SHORT.get(real.forward, real.forward),
                str(real.active),
                str(real.inactive),
                real.pod or "-",
                real.node or "-",
                ", ".join(filter(None, (real.why, real.note))) or "-",
            ]
            for real in row.reals
        ]
        yield from table.lines(heads, cells, columns=table.width()) if cells else ("  no real servers: it refuses",)


def stats_table(listed: list[ServerRow], *, rate: bool) -> Iterator[str]:
    """Yield totals, or rates, of virtual and real servers."""
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
            [f"  -> {place(real.address, real.port)}", real.pod or "-", *_counts(real.counters, rate=rate)]
            for real in row.reals
        ]
    yield from table.lines(heads, cells, columns=table.width())


def _counts(counters: Counters, *, rate: bool) -> list[str]:
    values = list(msgspec.structs.astuple(counters))
    return [f"{value:,}" for value in (values[5:] if rate else values[:5])]


def place(address: str, port: int) -> str:
    """Return an address and port as people write them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def top_table(listed: list[ServerRow], *, wide: bool, sort: str, reals: bool) -> Iterator[str]:
    """Yield what is busiest first, in rates; as many lines as the terminal has, all in a pipe."""
    ranked = [
        (one.counters, active, whose, name) for row in listed for name, whose, active, one in _ranked(row, reals=reals)
    ]
    ranked.sort(key=lambda entry: (-_RANKS[sort](entry[0], entry[1]), entry[3]))
    heads = ["SERVER", "SERVICE OR POD", "ACTIVE", "CONNS/S", "PKTS/S IN", "OUT", "BYTES/S IN", "OUT"]
    cells = [[name, whose, f"{active:,}", *_counts(counters, rate=True)] for counters, active, whose, name in ranked]
    yield from table.lines(heads, cells[: table.height(len(cells))], columns=table.width())


_RANKS: Final[dict[str, Callable[[Counters, int], int]]] = {
    "connections": lambda counters, active: counters.connections_per_s,
    "packets": lambda counters, active: counters.packets_in_per_s + counters.packets_out_per_s,
    "bytes": lambda counters, active: counters.bytes_in_per_s + counters.bytes_out_per_s,
    "active": lambda counters, active: active,
}
RANKS: Final = tuple(_RANKS)
"""What ``top`` sorts by."""


def _ranked(row: ServerRow, *, reals: bool) -> Iterator[tuple[str, str, int, ServerRow | RealRow]]:
    if not reals:
        yield row.name, row.whose, sum(real.active for real in row.reals), row
        return
    for real in row.reals:
        yield f"{row.name} -> {place(real.address, real.port)}", real.pod or row.whose, real.active, real


def connection_lines(found: Iterable[Connection]) -> Iterator[str]:
    """Yield what ``ipvsadm -Lnc`` prints."""
    yield "IPVS connection entries"
    yield f"pro expire {'state':<11} {'source':<18} {'virtual':<18} destination"
    for one in found:
        expires = f"{one.expires_s // 60:02}:{one.expires_s % 60:02}"
        client, virtual = place(one.client, one.client_port), place(one.address, one.port)
        real = place(one.real_address, one.real_port)
        yield f"{one.protocol.upper():<3} {expires:<6} {one.state:<11} {client:<18} {virtual:<18} {real}"
