"""The file with the passwords of external neighbors as a fact: read at start, and again whenever its content changes.

The form is kube-router's: items in base64 with commas between them, in the order of ``--peer-router-ips``; an empty item is a
neighbor without password. A mounted Secret is changed by moving a symbolic link, so the content is compared, not a time.

A file that vanishes or cannot be read as that changes nothing: the last good passwords stay, and ``Unreachable`` tells why,
without a word of what stands in the file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kuberouterpy.annotations import password
from kuberouterpy.cluster import Event, Passwords, Reachable, Replace, Unreachable

NAME: Final = "passwords"
"""What events call it."""
PERIOD_S: Final = 2.0
"""How often the file is looked at: a few hundred bytes."""
_MOST_BYTES: Final = 1 << 20


class PasswordSource:
    """Follows a file; without one it only tells that there are no passwords. ``count``: how many there must be."""

    def __init__(self, path: str, count: int, put: Callable[[Event], None], *, period_s: float = PERIOD_S) -> None:
        self._path = path
        self._count = count
        self._put = put
        self._period_s = period_s
        self._told: Event | None = None
        self._bad = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-Passwords", daemon=True)

    def start(self) -> None:
        """Tell what there is now, before any other source is heard, then follow."""
        if not self._path:
            self._put(Replace(Passwords, ()))
            return
        self.look()
        self._thread.start()

    def stop(self, *, within_s: float = 2.0) -> None:
        """End; what was told stays."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(within_s)

    def look(self) -> None:
        """Read the file and tell what is new."""
        try:
            found = Replace(Passwords, (Passwords(self._path, self._read()),))
        except (OSError, ValueError) as error:
            if not self._bad:
                reason = (error.strerror or "cannot be read").lower() if isinstance(error, OSError) else str(error)
                self._put(Unreachable(NAME, f"{self._path}: {reason}; the last good passwords stay"))
            self._bad = True
            return
        if self._bad or self._told is None:
            self._put(Reachable(NAME))
        self._bad = False
        if found != self._told:
            self._told = found
            self._put(found)

    def _read(self) -> tuple[str, ...]:
        with Path(self._path).open("rb") as file:
            text = file.read(_MOST_BYTES).decode(errors="replace").strip()
        items = [item.strip() for item in text.split(",")]
        if len(items) != self._count:
            raise ValueError(f"has {len(items)} items for {self._count} --peer-router-ips")
        return tuple(_item(number, item) for number, item in enumerate(items, 1))

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self.look()


def _item(number: int, text: str) -> str:
    try:
        return password(text) if text else ""
    except ValueError as error:
        raise ValueError(f"item {number} {error}") from None
