"""Print what the image is made of, as CycloneDX: Debian packages from dpkg, Python distributions from their metadata."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from urllib.parse import quote

Component = dict[str, object]


def debian() -> Iterator[Component]:
    """Yield the installed Debian packages."""
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    for line in sorted(listed.splitlines()):
        status, name, version, architecture = line.split("\t")
        if status.startswith("ii"):
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={architecture}"
            yield {"type": "library", "name": name, "version": version, "purl": purl}


def python() -> Iterator[Component]:
    """Yield the distributions that this interpreter sees."""
    for found in sorted(distributions(), key=lambda one: one.metadata["Name"].lower()):
        name, version = found.metadata["Name"], found.version
        yield {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name.lower()}@{version}"}


def main() -> None:
    """Print the document; the same content gives the same bytes."""
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "kuberouterpy"}},
        "components": [*debian(), *python()],
    }
    json.dump(document, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
