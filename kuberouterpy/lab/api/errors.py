"""Refusals of the API server, each of which is a Kubernetes ``Status`` object with its HTTP code."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]
"""An API object as decoded from JSON."""


class StatusError(Exception):
    """A request is refused; ``status()`` is the body of the answer."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: JsonObject | None = None, meta: JsonObject | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        """HTTP status."""
        self.reason = reason
        """Machine-readable reason, as ``NotFound``."""
        self.message = message
        """Sentence for a person."""
        self.details = details
        """Name, kind and causes."""
        self.meta = meta or {}
        """List metadata (the continue token of an expired list)."""

    def status(self) -> JsonObject:
        """Return the ``Status`` object."""
        body: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.meta,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            body["details"] = self.details
        body["code"] = self.code
        return body


def _details(group: str, kind: str, name: str) -> JsonObject:
    return {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}


def _qualified(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> StatusError:
    """Return 404 for an object that does not exist."""
    message = f'{_qualified(plural, group)} "{name}" not found'
    return StatusError(404, "NotFound", message, details=_details(group, plural, name))


def no_such_path() -> StatusError:
    """Return 404 for a path that is not served."""
    return StatusError(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(group: str, plural: str, name: str) -> StatusError:
    """Return 409 for a name that is taken."""
    message = f'{_qualified(plural, group)} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, details=_details(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str = "") -> StatusError:
    """Return 409 for a write that was based on an old version, or whose precondition fails."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {_qualified(plural, group)} "{name}": {why}'
    return StatusError(409, "Conflict", message, details=_details(group, plural, name))


def forbidden(group: str, plural: str, name: str, why: str, *, cause: str = "") -> StatusError:
    """Return 403 with its reason."""
    details = _details(group, plural, name)
    if cause:
        details["causes"] = [{"reason": cause, "message": why, "field": "metadata.namespace"}]
    subject = f' "{name}"' if name else ""
    return StatusError(403, "Forbidden", f"{_qualified(plural, group)}{subject} is forbidden: {why}", details=details)


def bad_request(message: str) -> StatusError:
    """Return 400 for a request that cannot be understood."""
    return StatusError(400, "BadRequest", message)


def unsupported_media_type(given: str, supported: tuple[str, ...]) -> StatusError:
    """Return 415 naming the types that are understood."""
    message = (
        "the body of the request was in an unknown format - accepted media types include: "
        f"{', '.join(supported)} (given: {given or 'none'})"
    )
    return StatusError(415, "UnsupportedMediaType", message)


def method_not_allowed(what: str) -> StatusError:
    """Return 405 for a verb that the resource does not have."""
    return StatusError(
        405, "MethodNotAllowed", f"the server does not allow this method on the requested resource: {what}"
    )


def expired(message: str, *, proceed: str = "", version: str = "") -> StatusError:
    """Return 410: the history that was asked for is compacted. ``proceed`` is a token to go on with, inconsistently."""
    meta = {"continue": proceed, "resourceVersion": version} if proceed else {}
    return StatusError(410, "Expired", message, meta=meta)


def too_large_version(asked: int, current: int) -> StatusError:
    """Return 504 for a resourceVersion that does not exist yet."""
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return StatusError(504, "Timeout", message, details={"causes": causes, "retryAfterSeconds": 1})


def not_implemented(message: str) -> StatusError:
    """Return 501 for what the lab does not do."""
    return StatusError(501, "NotImplemented", message)


def unauthorized() -> StatusError:
    """Return 401."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def invalid(group: str, kind: str, name: str, causes: list[tuple[str, str, str]]) -> StatusError:
    """Return 422 from ``(reason, field, message)`` triples, worded as kubectl's users know them."""
    texts = [f"{field}: {message}" for _, field, message in causes]
    joined = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    qualified = f"{kind}.{group}" if group else kind
    details = _details(group, kind, name)
    details["causes"] = [{"reason": reason, "message": message, "field": field} for reason, field, message in causes]
    return StatusError(422, "Invalid", f'{qualified} "{name}" is invalid: {joined}', details=details)
