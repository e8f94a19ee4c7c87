"""Rows of ``ipvs``: each virtual server of the kernel with its real servers, and what the agent knows of them.

Without an agent the table stands alone: what lies on the agent's own link is ours, the rest is shown as foreign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import click
from msgspec import Struct
from msgspec.structs import replace

from kuberouterpy.answers import View
from kuberouterpy.cli import ipvsadm
from kuberouterpy.dataplane import VirtualServerKey
from kuberouterpy.drivers.ipvs_table import Counters, Real, Virtual
from kuberouterpy.host import DUMMY_LINK

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
    why: str = ""
    """Why its weight is what it is: ``ready``, ``terminating``, ``not ready``; empty where nobody says."""
    note: str = ""
    """What is wrong with it: ``differs``, ``extra``, ``not the agent's``."""


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


Known = dict[tuple[str, str], View]
STATES: Final = ("ok", "missing", "differs", "extra", "foreign", "draining", "empty")
"""What ``--state`` takes: of a virtual server, or ``draining`` (a real server has weight 0), ``empty`` (it refuses)."""
Judge = Callable[[VirtualServerKey], bool]
"""Whether a server is an agent's, where none tells."""


def judge() -> Judge:
    """Return what tells ours without an agent: the link that carries VIPs, and node ports of the default range."""
    from kuberouterpy.config import Config
    from kuberouterpy.offline import links_here

    first, last = Config().service_node_port_range
    vips, own = set[str](), set[str]()
    for link in links_here():
        held = {text.partition("/")[0] for text in link.addresses}
        (vips if link.name == DUMMY_LINK else own).update(held)
    return lambda key: key.address in vips or (key.address in own and first <= key.port <= last)


def nobody(_: VirtualServerKey) -> bool:
    return False


def rows(
    servers: Iterable[Virtual],
    known: Known,
    notes: dict[str, tuple[str, ...]],
    *,
    ours: Judge = nobody,
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
    note = (
        "" if view is None or view.state in {"ok", "missing"} else f"{view.state}: wanted {view.wanted or 'by nobody'}"
    )
    if view is not None and not note and f"weight {one.weight} " not in f"{view.wanted} ":
        note = f"changed by another hand: wanted {view.wanted}"
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
        why=_why(one.weight, about, ours=view is not None),
        note=note,
    )


def _why(weight: int, about: dict[str, str], *, ours: bool) -> str:
    """Return why a real server has its weight, as far as the endpoint tells."""
    state = about.get("note", "")
    if weight:
        return f"{state}, but no other is ready" if state else "ready" if ours else ""
    return f"{state}, drains" if state else "drains"


# --- which ------------------------------------------------------------------------------------------------------------


def identity(key: VirtualServerKey) -> tuple[str, str, int]:
    return str(key.protocol), key.address, key.port


def row_wanted(row: ServerRow, filters: dict[str, Any]) -> bool:
    """Return whether a row passes every filter."""
    if not f"{row.name} ".startswith(f"{filters.get('name', '')} ".lstrip()):
        return False
    protocol, _, place = row.name.partition(" ")
    host, _, port = place.rpartition(":")
    if protocol == "fwmark":
        host, port = "", "0"
    service = row.whose if not row.whose.startswith("(") else ""
    return _in_state(row, filters["state"]) and is_wanted(service, protocol, host.strip("[]"), int(port or 0), filters)


def _in_state(row: ServerRow, state: str | None) -> bool:
    match state:
        case None:
            return True
        case "draining":
            return any(not real.weight for real in row.reals)
        case "empty":
            return not any(real.weight for real in row.reals)
        case _:
            return row.state == state


def is_wanted(service: str, protocol: str, address: str, port: int, filters: dict[str, Any]) -> bool:
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
