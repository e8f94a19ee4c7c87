"""The commands that the documents show: lines that begin with ``$`` in blocks marked ``console``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
_BLOCK: Final = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[list[str]]:
    """Return the commands of a document, each as words, comments left out."""
    blocks = _BLOCK.findall((ROOT / document).read_text())
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]


PAGES: Final = (
    "quickstart",
    "operate",
    "troubleshoot",
    "migrate",
    "performance",
    "concepts/proxy",
    "concepts/firewall",
)
"""Pages of docs/ with commands."""
DOCUMENTS: Final = ("README.md", "CONTRIBUTING.md", *(f"docs/{page}.md" for page in PAGES))
COMMANDS: Final = [command for document in DOCUMENTS for command in commands(document)]
