"""Server-side apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kuberouterpy.lab.api.errors import JsonObject, not_implemented
from kuberouterpy.lab.api.routes import Target

Change = Callable[[JsonObject], JsonObject]


def tracked(obj: Any, manager: str) -> Any:
    return obj


def tracking(change: Change, manager: str, subresource: str) -> Change:
    return change


def change(target: Target, wanted: Any, *, manager: str, force: bool) -> Change:
    raise not_implemented("server-side apply")
