"""What a real API server refuses with 422, for the kinds that reach the agent."""

from __future__ import annotations

from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.resources import Resource


def check(resource: Resource, obj: JsonObject, old: JsonObject | None) -> list[tuple[str, str, str]]:
    """Return everything wrong with an object as ``(reason, field, message)``; ``old`` is what it replaces."""
    return []
