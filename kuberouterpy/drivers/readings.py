"""Figures that the kernel keeps and that a scrape reads: counters of servers, of denied packets, sizes of tables.

Nothing here is remembered and nothing shared: a scrape reads on its own thread, with sockets of its own. What cannot be read is
left out, so that a scrape always answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

from kuberouterpy.drivers import ipvs_table, policy_counters
from kuberouterpy.drivers.policy_counters import Denied
from kuberouterpy.errors import DriverError
from kuberouterpy.family import Family

_PROC: Final = Path("/proc/sys/net/netfilter")
_CONNECTIONS: Final = Path("/proc/net/ip_vs_conn")


class Readings(Struct, frozen=True):
    """What one scrape reads; ``None`` where it could not be read."""

    ipvs: ipvs_table.Table | None = None
    ipvs_connections: int | None = None
    denied: tuple[Denied, ...] = ()
    conntrack_entries: int | None = None
    conntrack_limit: int | None = None
    memory_bytes: int | None = None
    """Resident memory of this process."""
    cpu_s: float = 0.0
    """Processor time of this process."""
    open_files: int | None = None


def read(*, ipvs: bool, reals: bool, families: Iterable[Family], denied: bool) -> Readings:
    """Return what can be read now. ``reals``: also the counters of each real server, one more listing each virtual server."""
    times = os.times()
    return Readings(
        ipvs=_table(reals) if ipvs else None,
        ipvs_connections=_connections() if ipvs else None,
        denied=tuple(one for family in families for one in _denied(family)) if denied else (),
        conntrack_entries=_number(_PROC / "nf_conntrack_count"),
        conntrack_limit=_number(_PROC / "nf_conntrack_max"),
        memory_bytes=_resident(),
        cpu_s=times.user + times.system,
        open_files=_open_files(),
    )


def _table(reals: bool) -> ipvs_table.Table | None:
    try:
        return ipvs_table.read(reals=reals)
    except DriverError:
        return None


def _connections() -> int | None:
    try:
        with _CONNECTIONS.open("rb") as lines:
            return max(0, sum(1 for _ in lines) - 1)
    except OSError:
        return None


def _denied(family: Family) -> tuple[Denied, ...]:
    try:
        return policy_counters.read_drops(family)
    except DriverError:
        return ()


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _resident() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _open_files() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None
