"""Tables that are shown again and again: ``-w`` of every command that has it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Final

import click

from kuberouterpy.cli import ExitCode

EVERY_S: Final = 2.0
_CLEAR: Final = "\x1b[H\x1b[2J"


def shown(once: Callable[[], Iterable[str]], *, watch: bool, wait: Callable[[float], None] = time.sleep) -> int:
    """Print the lines of ``once``; with ``watch`` again every :data:`EVERY_S`, on a screen of its own, until interrupted."""
    while True:
        # Whole, then printed: an error in the middle must not leave half a table.
        text = "".join(f"{line}\n" for line in once())
        click.echo((_CLEAR if watch and sys.stdout.isatty() else "") + text, nl=False)
        if not watch:
            return ExitCode.FINE
        wait(EVERY_S)
