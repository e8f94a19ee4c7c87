"""Check that a tag is the version that every file names; print what is not, and exit 1.

    python .github/version.py v0.1.0

The version is static: a checkout without tags (a tarball, a shallow clone) builds the same wheel, and no build needs git.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PLACES = {
    "pyproject.toml": r'^version = "(.*)"$',
    "kuberouterpy/__init__.py": r'^__version__(?:: Final)? = "(.*)"$',
    "manifests/chart/Chart.yaml": r'^version: "?([^"\n]*)"?$',
    "manifests/chart/Chart.yaml (appVersion)": r'^appVersion: "?([^"\n]*)"?$',
    "Dockerfile": r"^ARG VERSION=(.*)$",
}


def versions(root: Path) -> dict[str, str]:
    """Return the version that each file names; empty where it names none."""
    found = {}
    for place, pattern in PLACES.items():
        match = re.search(pattern, (root / place.split(" ")[0]).read_text(), re.MULTILINE)
        found[place] = match[1] if match else ""
    return found


def main(tag: str) -> int:
    """Compare; return the exit code."""
    wrong = {place: one for place, one in versions(Path(__file__).parent.parent).items() if f"v{one}" != tag}
    for place, one in wrong.items():
        sys.stderr.write(f"{place} says {one or 'nothing'}, the tag is {tag}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
