"""Every fact the agent was told, as it holds them, for a dump: secrets hidden."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from kuberouterpy import __version__, redact
from kuberouterpy.loop import Loop


class FactTables(Struct, frozen=True):
    """Answer to /v1/facts."""

    node: str
    version: str
    facts: dict[str, tuple[Any, ...]]
    """Records by kind: Service, EndpointSlice, Pod, Namespace, Node, NetworkPolicy, BestPath, Link."""
    config: Any
    """Settings in force, by field."""


def facts(loop: Loop) -> FactTables:
    """Return every fact."""
    tables = {kind.__name__: tuple(map(_shown, table)) for kind, table in loop.store.tables()}
    return FactTables(loop.config.node_name, __version__, tables, redact.tree(msgspec.to_builtins(loop.config)))


def _shown(record: Any) -> Any:
    annotations = getattr(record, "annotations", None)
    return msgspec.structs.replace(record, annotations=redact.mapping(annotations)) if annotations else record
