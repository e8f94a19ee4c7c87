"""What ``kubectl get`` prints: the server, not kubectl, chooses the columns."""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable
from typing import Any, Final

from kuberouterpy.lab.api import columns
from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.resources import Resource

Cells = list[Any]


def table(
    resource: Resource, objects: list[JsonObject], include: str, *, meta: JsonObject | None = None, version: str = ""
) -> JsonObject:
    """Return a ``Table`` of the objects; ``include`` says what each row carries besides its cells."""
    heads, cells = _layout(resource)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta if meta is not None else {"resourceVersion": version},
        "columnDefinitions": [_column(*head) for head in heads],
        "rows": [_row(obj, cells, len(heads), include) for obj in objects],
    }


def partial(obj: JsonObject) -> JsonObject:
    """Return the object's metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _column(name: str, priority: int = 0) -> JsonObject:
    shown = "name" if name == "Name" else ""
    return {"name": name, "type": "string", "format": shown, "description": name, "priority": priority}


def _row(obj: JsonObject, cells: Callable[[JsonObject], Cells], width: int, include: str) -> JsonObject:
    try:
        shown = cells(obj)
    except (AttributeError, KeyError, TypeError, ValueError):
        # An absurd object that came in past the validation must not hide the others.
        shown = [obj["metadata"]["name"], *["<invalid>"] * (width - 1)]
    row: JsonObject = {"cells": shown}
    if include != "None":
        row["object"] = obj if include == "Object" else partial(obj)
    return row


def _layout(resource: Resource) -> tuple[tuple[columns.Head, ...], Callable[[JsonObject], Cells]]:
    found = columns.LAYOUTS.get(resource.key)
    if found is None:
        return (("Name", 0), ("Age", 0)), lambda obj: [obj["metadata"]["name"], age(obj)]
    heads, cells = found
    index = next((i for i, (name, _) in enumerate(heads) if name == "Age"), None)
    if index is None:
        return heads, cells

    def with_age(obj: JsonObject) -> Cells:
        shown = cells(obj)
        return [*shown[:index], age(obj), *shown[index:]]

    return heads, with_age


def age(obj: JsonObject) -> str:
    """Return how long ago the object was created."""
    return since(obj["metadata"].get("creationTimestamp"))


def since(stamp: object) -> str:
    """Return how long ago a time was, as ``5m10s``."""
    try:
        began = calendar.timegm(time.strptime(str(stamp)[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return "<unknown>"
    return human(int(time.time() - began))


_DAY: Final = 86_400


def human(seconds: int) -> str:
    """Return a duration the way kubectl writes it: two units while it is short, one when it is long."""
    seconds = max(0, seconds)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // _DAY
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d"
