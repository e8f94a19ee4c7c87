"""What is done to an object before it is stored: defaults, addresses and ports, checks. One place, in the server's order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kuberouterpy.lab.api import defaults, validation
from kuberouterpy.lab.api.allocate import ServiceAllocator
from kuberouterpy.lab.api.errors import JsonObject, StatusError, invalid
from kuberouterpy.lab.api.resources import Resource
from kuberouterpy.lab.api.validation import custom
from kuberouterpy.lab.api.validation.report import Problem

_ENVELOPE = ("apiVersion", "kind", "metadata")
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
        obj = _custom(resource, obj)
        self._default_new(resource, obj)
        _refuse(resource, obj, validation.check(resource, obj, None))
        self._allocate_new(resource, obj)
        return obj

    def update(
        self, resource: Resource, old: JsonObject, new: JsonObject, subresource: str, *, validate: bool
    ) -> JsonObject:
        """Return a changed object as it is to be stored. Errors: 422."""
        if not validate:
            if subresource != "status" and new != old:
                for step in (self._default_changed, self._allocate_changed):
                    with suppress(*_ABSURD):
                        step(resource, old, new)
            return new
        new = _custom(resource, new)
        if subresource == "status":
            # A status must stay writable on an object that is wrong already: only new problems count.
            known = validation.check(resource, old, None)
            problems = [one for one in validation.check(resource, new, old) if one not in known]
            _refuse(resource, new, problems)
            return new
        self._default_changed(resource, old, new)
        _refuse(resource, new, validation.check(resource, new, old))
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


def _custom(resource: Resource, obj: JsonObject) -> JsonObject:
    """Return a custom object pruned and defaulted by its schema; other objects as they are."""
    if not resource.schema:
        return obj
    shaped = custom.prune_and_default({key: obj[key] for key in obj if key not in _ENVELOPE}, resource.schema)
    return {key: obj[key] for key in _ENVELOPE} | {key: shaped[key] for key in shaped if key not in _ENVELOPE}


def _refuse(resource: Resource, obj: JsonObject, problems: list[Problem]) -> None:
    if problems:
        raise invalid(resource.group, resource.kind, obj["metadata"].get("name", ""), problems)
