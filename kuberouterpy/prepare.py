"""What a node needs before the agent runs: kernel modules, and the CNI plugins that the kubelet's runtime calls.

An init container does both with rights that the agent then does without: CAP_SYS_MODULE, and the runtime's folder of plugins.

Promises: a plugin that somebody else installed is never replaced, ours are, whenever the image brings another; each file
appears whole, for a runtime may call it at any moment. What is ours is written down beside the plugins, by its hash.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from kuberouterpy.errors import ConfigError

MODULES: Final = {
    "ip_vs": "virtual servers",
    "ip_vs_rr": "the default scheduler",
    "br_netfilter": "replies between pods of one bridge pass IPVS",
    "dummy": "the link that carries VIPs",
    "ip_set": "sets of addresses",
    "xt_set": "rules over sets",
    "xt_ipvs": "rules for what passes a virtual server",
    "nf_conntrack": "states of connections",
    "nf_conntrack_netlink": "cleaning UDP flows older than their VIP",
}
"""Modules, each with what for. A kernel may have one built in without a word."""
PLUGINS: Final = ("bridge", "host-local", "loopback", "portmap")
"""What the agent's CNI configuration calls, and what every runtime calls."""
LEDGER: Final = ".kuberouterpy.json"
"""File beside the plugins: name to hash of those that are ours."""


def load_modules() -> None:
    """Load the modules, as far as this process may. Errors: OSError, subprocess.TimeoutExpired."""
    subprocess.run(("modprobe", "-aq", *MODULES), check=False, capture_output=True, timeout=30)


def missing_modules(loaded: Path | None = None, builtin: Path | None = None) -> list[str]:
    """Return the modules that are neither loaded nor built into the kernel."""
    loaded = loaded or Path("/sys/module")
    builtin = builtin or Path("/lib/modules", os.uname().release, "modules.builtin")
    try:
        names = {Path(line).stem for line in builtin.read_text().split()}
    except OSError:
        names = set()
    return [one for one in MODULES if not (loaded / one).exists() and one not in names]


def install_plugins(source: Path, target: Path) -> Iterator[tuple[str, str]]:
    """Install the plugins; yield each with what was done: installed, replaced, kept (already so) or left (not ours).

    Errors: ConfigError where the source lacks one; OSError where the target cannot be written.
    """
    ledger = target / LEDGER
    ours = _read(ledger)
    for name in PLUGINS:
        try:
            content = (source / name).read_bytes()
        except OSError as error:
            raise ConfigError(f"CNI plugin {source / name}: {(error.strerror or str(error)).lower()}") from None
        wanted = hashlib.sha256(content).hexdigest()
        found = _hash(target / name)
        if found == wanted:
            yield name, "kept"
        elif found and found != ours.get(name):
            yield name, "left"
            continue
        else:
            _write(target / name, content, 0o755)
            yield name, "replaced" if found else "installed"
            ours[name] = wanted
    _write(ledger, msgspec.json.encode(ours), 0o644)


def _read(ledger: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(ledger.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}  # nothing is known to be ours, so nothing is replaced


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def _write(path: Path, content: bytes, mode: int) -> None:
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    fresh.replace(path)
