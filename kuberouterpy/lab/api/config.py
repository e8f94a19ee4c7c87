"""Settings of the API server, and the tokens it takes."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec

from kuberouterpy.lab.api.addresses import Network
from kuberouterpy.lab.api.authorizer import ACCOUNT


class Config(msgspec.Struct, frozen=True):
    """How an API server is set up."""

    listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 0),)
    """Addresses and ports; port 0 takes a free one."""
    listen_open: tuple[tuple[str, int], ...] = ()
    """Further addresses where no token is asked for: kubectl sends none over plain HTTP."""
    service_cidrs: tuple[Network, ...] = (ipaddress.ip_network("10.96.0.0/16"),)
    """One service range, or one of each family; the first is the default family."""
    node_ports: tuple[int, int] = (30_000, 32_767)
    """First and last node port."""
    advertise: tuple[tuple[str, int], ...] = ()
    """Endpoints of the ``kubernetes`` service; port 0 stands for the port served."""
    data: Path | None = None
    """Journal file; without one everything is forgotten at the end."""
    window: int = 10_000
    """Changes remembered for each resource."""
    validate: bool = True
    """Whether objects are checked."""
    token_file: Path | None = None
    """Bearer tokens that are let in, ``TOKEN[,USER]`` a line; without a file everybody is, as administrator or as the service
    account that the token names."""
    audit_log: Path | None = None
    """File that gets a line of JSON for every request."""


class Tokens:
    """The bearer tokens of a file, read again whenever it changes."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp = (-1, -1)
        self._users: dict[str, str] = {}

    def user(self, authorization: str) -> str | None:
        """Return who an Authorization header belongs to; None where it is not let in."""
        scheme, _, token = authorization.partition(" ")
        if self._path is None:
            return token if token.startswith(ACCOUNT) else "system:admin"
        self._refresh(self._path)
        return self._users.get(token.strip()) if scheme.lower() == "bearer" and token.strip() else None

    def _refresh(self, path: Path) -> None:
        try:
            found = path.stat()
            if (found.st_mtime_ns, found.st_size) == self._stamp:
                return
            lines = path.read_text().splitlines()
        except FileNotFoundError:
            self._users, self._stamp = {}, (-1, -1)
            return
        pairs = (line.strip().split(",") for line in lines if line.strip() and not line.startswith("#"))
        self._users = {pair[0].strip(): pair[1].strip() if len(pair) > 1 else "token-user" for pair in pairs}
        self._stamp = (found.st_mtime_ns, found.st_size)
