"""The audit log: one line of JSON for every request, from which the least RBAC that an agent needs can be read."""

from __future__ import annotations

import os
from pathlib import Path

from kuberouterpy.lab.api.faults import Sight
from kuberouterpy.lab.api.metadata import micro_now
from kuberouterpy.lab.api.routes import Target
from kuberouterpy.lab.api.storage import encode


class AuditLog:
    """The file, or nothing."""

    def __init__(self, path: Path | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600) if path else -1

    def note(self, sight: Sight, target: Target | None, user: str, code: int) -> None:
        """Write down a request."""
        if self._fd < 0:
            return
        line = {
            "time": micro_now(),
            "verb": sight.verb,
            "group": target.resource.group if target else "",
            "resource": sight.resource,
            "subresource": target.subresource if target else "",
            "namespace": target.namespace if target else "",
            "name": target.name if target else "",
            "path": sight.path,
            "user": user,
            "user_agent": sight.agent,
            "code": code,
        }
        os.write(self._fd, encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
