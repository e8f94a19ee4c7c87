"""Readings of this host: from /proc, /sys, netlink and the tools. Nothing is written, and what cannot be read is left empty."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kuberouterpy import __version__, offline
from kuberouterpy.cluster import Link
from kuberouterpy.config import Config
from kuberouterpy.dataplane import CHAIN_PREFIXES, Sysctl
from kuberouterpy.doctor.checks import CAPABILITIES, PROGRAMS
from kuberouterpy.doctor.readings import Agent, Listener, Readings, Rules
from kuberouterpy.errors import KubeRouterError
from kuberouterpy.prepare import MODULES, missing_modules

_BITS: Final = {"NET_ADMIN": 12, "NET_RAW": 13}  # include/uapi/linux/capability.h
_VARIANTS: Final = ("legacy", "nft")
_KUBE_PROXY: Final = (":KUBE-SERVICES ", ":KUBE-NODEPORTS ", ":KUBE-SVC-", ":KUBE-SEP-")
_CNI_FOLDERS: Final = ("/opt/cni/bin", "/usr/lib/cni")
_LISTEN: Final = "0A"
_TIME_ERROR: Final = 5  # include/uapi/linux/timex.h
_TIMEX_BYTES: Final = 256
"""More than struct timex has; zeros mean: only tell."""
_TOOL_S: Final = 10


def gather(config: Config, agent: Agent | None) -> Readings:
    """Return what this host is like; ``agent``: what its agent says, where one answers."""
    proc = Path("/proc")
    wanted = _wanted(config)
    links = _links()
    gobgpd, why = _gobgpd(config)
    return Readings(
        root=os.geteuid() == 0,
        version=__version__,
        kernel=_kernel(),
        capabilities=frozenset(_capabilities(proc)),
        modules=frozenset(MODULES) - frozenset(missing_modules()),
        loadable=frozenset(_loadable()),
        programs=frozenset(name for name in PROGRAMS if shutil.which(name)),
        wanted=wanted,
        sysctls=dict(_sysctls(proc / "sys", wanted, links)),
        writable_sysctls=os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK),
        links=links,
        default_link=_default_link(proc, links),
        iptables=_variant(),
        rules=dict(_rules()),
        conntrack=(_number(proc, "nf_conntrack_count"), _number(proc, "nf_conntrack_max")),
        clock_synchronized=_synchronized(),
        now=time.time(),
        listeners=tuple(_listeners(proc, {config.health_port, config.bgp_port})),
        health_port=config.health_port,
        bgp_port=config.bgp_port,
        run_router=config.run_router,
        gobgpd=gobgpd,
        gobgp_error=why,
        cni_plugins=_cni_plugins() if config.run_router and config.enable_cni else None,
        agent=agent,
    )


def _wanted(config: Config) -> tuple[Sysctl, ...]:
    """Return the settings that the agent's own controllers ask for."""
    name = config.node_name or os.uname().nodename
    loop = offline.build(config, offline.Facts(node=name), ())
    found = [one for one in loop.tracker.wanted_of((Sysctl,)) if isinstance(one, Sysctl)]
    return tuple(sorted(found, key=lambda one: one.key))


def _sysctls(root: Path, wanted: tuple[Sysctl, ...], links: tuple[Link, ...]) -> Iterator[tuple[str, str]]:
    paths = [one.key.path for one in wanted]
    paths += [f"net/ipv4/conf/{name}/rp_filter" for name in ("all", *(link.name for link in links))]
    for path in paths:
        try:
            yield path, " ".join((root / path).read_text().split())
        except OSError:
            continue


def _kernel() -> tuple[int, int]:
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return int(major), int(minor)


def _capabilities(proc: Path) -> Iterator[str]:
    text = (proc / "self/status").read_text()
    mask = int(re.findall(r"CapEff:\s*(\w+)", text)[0], 16)
    yield from (name for name in CAPABILITIES if mask >> _BITS[name] & 1)


def _loadable() -> Iterator[str]:
    try:
        lines = Path("/lib/modules", os.uname().release, "modules.dep").read_text().splitlines()
    except OSError:
        return
    yield from (Path(line.partition(":")[0]).name.partition(".")[0] for line in lines)


def _number(proc: Path, name: str) -> int:
    try:
        return int((proc / "sys/net/netfilter" / name).read_text())
    except (OSError, ValueError):
        return 0


def _synchronized() -> bool | None:
    """Return whether the kernel holds its clock to be right; ``None`` where it cannot be asked."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != _TIME_ERROR)


# --- links, ports -----------------------------------------------------------------------------------------------------


def _links() -> tuple[Link, ...]:
    try:
        return offline.links_here()
    except KubeRouterError:
        return ()


def _default_link(proc: Path, links: tuple[Link, ...]) -> str:
    """Return the link of the default route, else the first that looks like the way out."""
    try:
        rows = [line.split() for line in (proc / "thread-self/net/route").read_text().splitlines()[1:]]
    except OSError:
        rows = []
    found = next((row[0] for row in rows if row[1] == "00000000" and row[7] == "00000000"), "")
    own = (one for one in sorted(links, key=lambda one: one.index) if one.up and one.addresses)
    return found or next((one.name for one in own if not one.name.startswith(("lo", "kube-", "tun-"))), "")


def _listeners(proc: Path, wanted: set[int]) -> Iterator[Listener]:
    found: dict[str, tuple[int, str]] = {}
    for name in ("tcp", "tcp6"):
        try:
            rows = [line.split() for line in (proc / "thread-self/net" / name).read_text().splitlines()[1:]]
        except OSError:
            continue
        for row in rows:
            address, _, port = row[1].partition(":")
            if row[3] == _LISTEN and int(port, 16) in wanted:
                found[row[9]] = (int(port, 16), name if address.strip("0") else f"every address ({name})")
    holders = _holders(proc, {f"socket:[{inode}]" for inode in found}) if found else {}
    for inode, (number, where) in sorted(found.items(), key=lambda item: item[1]):
        yield Listener(number, where, holders.get(f"socket:[{inode}]", ""))


def _holders(proc: Path, sockets: set[str]) -> dict[str, str]:
    """Return the name of the process that holds each socket."""
    found: dict[str, str] = {}
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            held = {os.readlink(one) for one in (process / "fd").iterdir()} & sockets
            found |= dict.fromkeys(held, (process / "comm").read_text().strip()) if held else {}
        except OSError:
            continue  # ended meanwhile, or not ours to look at
    return found


# --- tools ------------------------------------------------------------------------------------------------------------


def _output(*words: str) -> str:
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=_TOOL_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _variant() -> str:
    told = _output("iptables", "--version")
    return "nft" if "nf_tables" in told else "legacy" if told else ""


def _rules() -> Iterator[tuple[str, Rules]]:
    for variant in _VARIANTS:
        lines = [line for head in ("ip", "ip6") for line in _output(f"{head}tables-{variant}-save").splitlines()]
        ours = sum(line.startswith(tuple(f":{prefix}" for prefix in CHAIN_PREFIXES)) for line in lines)
        kube_proxy = sum(line.startswith(_KUBE_PROXY) for line in lines)
        yield variant, Rules(ours, kube_proxy, sum(line.startswith("-A") for line in lines))


def _gobgpd(config: Config) -> tuple[str, str]:
    """Return the version of the sidecar, or of the program beside us, and why the sidecar does not answer."""
    if not config.run_router:
        return "", ""
    from kuberouterpy.gobgp.client import GobgpClient, GobgpError  # noqa: PLC0415  # grpc: only where it is asked

    program = re.findall(r"\d+(?:\.\d+)+", _output("gobgpd", "--version"))
    client = GobgpClient(config.gobgp_socket)
    try:
        dialect = "3" if "apipb" in client.dialect.service else "4"
    except GobgpError as error:
        return (program[0] if program else "", str(error))
    finally:
        client.close()
    return (program[0] if program and program[0].startswith(dialect) else dialect), ""


def _cni_plugins() -> frozenset[str] | None:
    folders = [Path(one) for one in _CNI_FOLDERS if Path(one).is_dir()]
    return frozenset(one.name for folder in folders for one in folder.iterdir()) if folders else None
