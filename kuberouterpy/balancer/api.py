"""What the allocator asks of the API server; :class:`kuberouterpy.sources.transport.Transport` does it."""

from __future__ import annotations

from typing import Final, Protocol

from kuberouterpy.sources.transport import Query, Reply

NOT_FOUND: Final = 404
CONFLICT: Final = 409


class Api(Protocol):
    """Whole requests. Errors: ApiError for a bad status, SourceError where no whole answer came: then it may be done or not."""

    def get(self, path: str, query: Query | None = None) -> Reply:
        """Read."""
        ...

    def post(self, path: str, body: object) -> Reply:
        """Create."""
        ...

    def put(self, path: str, body: object) -> Reply:
        """Replace; with a resourceVersion, only that version."""
        ...

    def delete(self, path: str, body: object | None = None) -> Reply:
        """Delete; ``body`` has the preconditions."""
        ...


def leases_path(namespace: str) -> str:
    """Return where Leases are."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def lease_path(namespace: str, name: str) -> str:
    """Return where a Lease is."""
    return f"{leases_path(namespace)}/{name}"
