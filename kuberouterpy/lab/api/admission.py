"""What is done to an object before it is stored: defaults, addresses and ports, checks. One place, in the server's order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kuberouterpy.lab.api import defaults
from kuberouterpy.lab.api.allocate import ServiceAllocator
from kuberouterpy.lab.api.errors import JsonObject, StatusError, invalid
from kuberouterpy.lab.api.resources import Resource

_ABSURD = (AttributeError, KeyError, TypeError, ValueError, StatusError)


class Admission:
    """The way of every object into the storage."""

    def __init__(self, services: ServiceAllocator) -> None:
        self._services = services

    @contextmanager
    def transaction(self, *, keep: bool) -> Iterator[None]:
        """Give back what was allocated inside when the write fails, or is not to be kept (a dry run)."""
        self._services.begin()
        try:
            yield
        except BaseException:
            self._services.rollback()
            raise
        if keep:
            self._services.commit()
        else:
            self._services.rollback()

    def create(self, resource: Resource, obj: JsonObject, *, validate: bool) -> JsonObject:
        """Return a new object as it is to be stored. Errors: 422.

        With ``validate`` off, an absurd object passes: what can be defaulted and allocated is, the rest stays as given.
        """
        if not validate:
            for step in (self._default_new, self._allocate_new):
                with suppress(*_ABSURD):
                    step(resource, obj)
            return obj
        self._default_new(resource, obj)
        _check(resource, obj, None)
        self._allocate_new(resource, obj)
        return obj

    def update(
        self, resource: Resource, old: JsonObject, new: JsonObject, subresource: str, *, validate: bool
    ) -> JsonObject:
        """Return a changed object as it is to be stored. Errors: 422."""
        if subresource == "status" or new == old:
            if validate and subresource == "status":
                _check(resource, new, old)
            return new
        if not validate:
            for step in (self._default_changed, self._allocate_changed):
                with suppress(*_ABSURD):
                    step(resource, old, new)
            return new
        self._default_changed(resource, old, new)
        _check(resource, new, old)
        self._allocate_changed(resource, old, new)
        return new

    def released(self, resource: Resource, obj: JsonObject) -> None:
        """Give back what a removed object held."""
        if resource.key == "services":
            with suppress(*_ABSURD):
                self._services.release(obj)

    def _default_new(self, resource: Resource, obj: JsonObject) -> None:
        defaults.fill(resource, obj, new=True)

    def _default_changed(self, resource: Resource, old: JsonObject, new: JsonObject) -> None:
        if resource.key == "services":
            self._services.carry_over(old, new)
        defaults.fill(resource, new, new=False)

    def _allocate_new(self, resource: Resource, obj: JsonObject) -> None:
        if resource.key == "services":
            self._services.create(obj)

    def _allocate_changed(self, resource: Resource, old: JsonObject, new: JsonObject) -> None:
        if resource.key == "services":
            self._services.update(old, new)


def _check(resource: Resource, obj: JsonObject, old: JsonObject | None) -> None:
    from kuberouterpy.lab.api import validation

    problems = validation.check(resource, obj, old)
    if problems:
        raise invalid(resource.group, resource.kind, obj["metadata"].get("name", ""), problems)
