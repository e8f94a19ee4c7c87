"""Every fact the agent was told, as it holds them, for a dump: secrets hidden."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from kuberouterpy import __version__, redact
from kuberouterpy.loop import Loop
from kuberouterpy.record import KINDS


class FactTables(Struct, frozen=True):
    """Answer to /v1/facts."""

    node: str
    version: str
    facts: dict[str, tuple[Any, ...]]
    """Records by kind: Service, EndpointSlice, Pod, Namespace, Node, NetworkPolicy, BestPath, Link."""
    config: Any
    """Settings in force, by field."""


def facts(loop: Loop) -> FactTables:
    """Return every fact of the kinds that a recording holds: passwords are not among them."""
    tables = {name: tuple(map(redact.record, loop.store.table(kind))) for name, kind in KINDS.items()}
    return FactTables(loop.config.node_name, __version__, tables, redact.tree(msgspec.to_builtins(loop.config)))
