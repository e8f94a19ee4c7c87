"""Everything that helps to understand a node, as named texts without secrets: what ``sysdump`` puts into its archive.

Each piece is made by itself: what cannot be had (no agent, no program, no right) is told in its place, and the rest goes on.
Every text passes :mod:`kuberouterpy.redact` on its way out; nothing is read from files that hold credentials (kubeconfig,
service account, passwords file), only that they are set.
"""

from __future__ import annotations

import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from kuberouterpy import __version__, redact
from kuberouterpy.drivers import command
from kuberouterpy.errors import DriverError, KubeRouterError

_TIMEOUT_S: Final = 20.0
_LONGEST: Final = 32 << 20
"""Bytes of one text; the end of a longer one is left out."""
_PACKAGES: Final = ("kuberouterpy", "kubernetes", "msgspec", "pyroute2", "grpcio", "protobuf", "click", "urllib3")
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "kernel/links.txt": ("ip", "-d", "-s", "link"),
    "kernel/addresses.txt": ("ip", "addr"),
    "kernel/routes-4.txt": ("ip", "-4", "route", "show", "table", "all"),
    "kernel/routes-6.txt": ("ip", "-6", "route", "show", "table", "all"),
    "kernel/rules-4.txt": ("ip", "-4", "rule"),
    "kernel/rules-6.txt": ("ip", "-6", "rule"),
    "kernel/ipset.txt": ("ipset", "save"),
    "kernel/iptables.txt": ("iptables-save", "-c"),
    "kernel/ip6tables.txt": ("ip6tables-save", "-c"),
    "kernel/conntrack.txt": ("conntrack", "-S"),
    "versions/iptables.txt": ("iptables", "--version"),
    "versions/ipset.txt": ("ipset", "--version"),
    "versions/ip.txt": ("ip", "-V"),
    "versions/gobgpd.txt": ("gobgpd", "--version"),
}
FILES: Final = {
    "kernel/modules.txt": "/proc/modules",
    "kernel/ipvs.txt": "/proc/net/ip_vs",
    "kernel/ipvs-stats.txt": "/proc/net/ip_vs_stats",
    "kernel/softnet.txt": "/proc/net/softnet_stat",
    "kernel/snmp.txt": "/proc/net/snmp",
    "kernel/netstat.txt": "/proc/net/netstat",
    "versions/os.txt": "/etc/os-release",
    "versions/kernel.txt": "/proc/version",
}
_SYSCTLS: Final = ("net/ipv4/vs", "net/ipv4/conf", "net/ipv6/conf", "net/bridge", "net/netfilter")
_QUESTIONS: Final = ("version", "status", "plan", "objects", "facts", "logs")


class Piece(NamedTuple):
    """One file of the archive."""

    name: str
    body: bytes


Ask = Callable[[str], bytes]
"""A path of the agent's socket gives its answer. Errors: KubeRouterError, OSError, or click's."""


def pieces(ask: Ask, *, more: Iterable[tuple[str, Callable[[], bytes]]] = ()) -> Iterator[Piece]:
    """Yield every piece, made one after the other; ``more``: others, by name."""
    makers: list[tuple[str, Callable[[], bytes]]] = [
        *((f"agent/{name}.json", _asked(ask, name)) for name in _QUESTIONS),
        *((name, _ran(argv)) for name, argv in COMMANDS.items()),
        *((name, _file(path)) for name, path in FILES.items()),
        ("kernel/sysctls.txt", _sysctls),
        ("kernel/tables.txt", _sizes),
        ("versions/python.txt", _versions),
        ("cni.txt", _cni),
        *more,
    ]
    for name, make in makers:
        yield Piece(name, _made(make))


def _made(make: Callable[[], bytes]) -> bytes:
    try:
        return make()[:_LONGEST]
    except Exception as error:  # whatever is odd about one piece, the others may say why
        return f"could not be read: {redact.text(str(error) or type(error).__name__)}\n".encode()


def archive(made: Iterable[Piece], folder: str, when: float, tell: Callable[[str], None] = lambda _: None) -> bytes:
    """Return the pieces as a gzipped tar whose members lie in ``folder``; ``tell`` hears each name before it is made."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for piece in made:
            tell(piece.name)
            member = tarfile.TarInfo(f"{folder}/{piece.name}")
            member.size, member.mode, member.mtime = len(piece.body), 0o600, int(when)
            tar.addfile(member, io.BytesIO(piece.body))
    return out.getvalue()


def _asked(ask: Ask, name: str) -> Callable[[], bytes]:
    def make() -> bytes:
        return json.dumps(redact.tree(json.loads(ask(name))), indent=1).encode() + b"\n"

    return make


def _ran(argv: tuple[str, ...]) -> Callable[[], bytes]:
    def make() -> bytes:
        try:
            done = command.run(argv, timeout_s=_TIMEOUT_S)
        except DriverError as error:
            raise KubeRouterError(str(error)) from None
        return redact.text(f"{done.stdout}{done.stderr}").encode()

    return make


def _file(path: str) -> Callable[[], bytes]:
    return lambda: redact.text(Path(path).read_text(errors="replace")).encode()


def _sysctls() -> bytes:
    found = (path for top in _SYSCTLS for path in sorted(Path("/proc/sys", top).rglob("*")) if path.is_file())
    return "".join(f"{path.relative_to('/proc/sys')} = {_value(path)}\n" for path in found).encode()


def _value(path: Path) -> str:
    try:
        return "(hidden)" if redact.is_secret(path.name) else path.read_text(errors="replace").strip()
    except OSError as error:
        return f"({error.strerror})"


def _sizes() -> bytes:
    """Return sizes of tables; of connections only how many, by state: whom clients talk to is their affair."""
    lines = [f"conntrack entries {_value(Path('/proc/sys/net/netfilter/nf_conntrack_count'))}"]
    states: dict[str, int] = {}
    try:
        for line in Path("/proc/net/ip_vs_conn").read_text().splitlines()[1:]:
            words = line.split()
            key = f"{words[0]} {words[7]}" if len(words) > 7 else "other"
            states[key] = states.get(key, 0) + 1
    except OSError as error:
        lines.append(f"IPVS connections: {error.strerror}")
    lines += [f"IPVS connections {state}: {count}" for state, count in sorted(states.items())]
    return "\n".join((*lines, "")).encode()


def _versions() -> bytes:
    lines = [
        f"kuberouterpy {__version__}",
        f"python {platform.python_version()}",
        f"time {time.strftime('%FT%TZ', time.gmtime())}",
    ]
    for name in _PACKAGES:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} is not installed")
    lines.append(f"user {os.geteuid()}")
    return "\n".join((*lines, "")).encode()


def _cni() -> bytes:
    """Return the CNI configurations; kubeconfigs that plugins leave beside them are only named."""
    parts = []
    for path in sorted(Path("/etc/cni/net.d").glob("*")):
        if path.suffix in {".conf", ".conflist", ".json"} and path.is_file():
            told = redact.tree(yaml.safe_load(path.read_text()))
            parts.append(f"# {path}\n{json.dumps(told, indent=1)}\n")
        else:
            parts.append(f"# {path}: not read\n")
    return "".join(parts).encode() or b"no CNI configuration\n"
