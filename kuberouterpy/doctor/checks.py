"""The checks: each takes readings and yields what is wrong, why it matters and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final

from msgspec import Struct

from kuberouterpy.cluster import Link
from kuberouterpy.doctor.readings import Readings
from kuberouterpy.host import BRIDGE_LINK, TUNNEL_PREFIX
from kuberouterpy.prepare import MODULES

CAPABILITIES: Final = {"NET_ADMIN": "program IPVS, rules, sets, links and routes", "NET_RAW": "read and write iptables"}
"""What the agent cannot do without."""
PROGRAMS: Final = ("iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore", "ipset")
CNI_PLUGINS: Final = ("bridge", "host-local", "portmap")
PROGRAM: Final = "kuberouterpy"
_OLDEST: Final = (5, 9)
"""conn_reuse_mode=1 delays no client from here on (services.md P4)."""
_RP_FILTERS: Final = ("all", "default")
_BUSY: Final = 0.8
"""Part of the conntrack table from which on a burst fills it."""
_SMALLEST: Final = 65536
"""Conntrack entries below which a node with a few dozen busy pods runs full."""
_EPOCH: Final = 1_735_689_600.0
"""2025-01-01: a clock before this is wrong, and every certificate with it."""
_GOBGP_MAJORS: Final = ("3", "4")
_HEADERS: Final = {"ipip": 20, "ip6tnl": 40, "vxlan": 50}
"""Bytes a tunnel takes of the uplink's MTU."""


class Grade(IntEnum):
    """How bad a finding is."""

    FAIL = 0
    """Something does not work."""
    WARN = 1
    """Something may not work under load, or only partly."""
    OK = 2


class Finding(Struct, frozen=True, omit_defaults=True):
    """One thing that was looked at."""

    check: str
    grade: Grade
    text: str
    """What was found, and why it matters."""
    mend: str = ""
    """What to do about it."""


Check = Callable[[Readings], Iterator[Finding]]


def diagnose(seen: Readings) -> list[Finding]:
    """Return every finding, the worst first; a check without any says OK."""
    found = [one for name, check in CHECKS.items() for one in (list(check(seen)) or [Finding(name, Grade.OK, "fine")])]
    return sorted(found, key=lambda one: one.grade)


def _fail(check: str, text: str, mend: str) -> Finding:
    return Finding(check, Grade.FAIL, text, mend)


def _warn(check: str, text: str, mend: str) -> Finding:
    return Finding(check, Grade.WARN, text, mend)


# --- rights and kernel ------------------------------------------------------------------------------------------------


def capabilities(seen: Readings) -> Iterator[Finding]:
    """Look for the capabilities the agent names."""
    for name, what in CAPABILITIES.items():
        if name not in seen.capabilities:
            yield _fail(
                "capabilities", f"CAP_{name} is missing: nothing here can {what}", f"run as root, or add {name}"
            )


def kernel(seen: Readings) -> Iterator[Finding]:
    """Look at the kernel's version."""
    if seen.kernel < _OLDEST:
        number = ".".join(map(str, seen.kernel))
        yield _warn("kernel", f"{number} delays clients whose port comes again by 1 s", "use 5.9 or later")


def modules(seen: Readings) -> Iterator[Finding]:
    """Look for kernel modules."""
    for name, what in MODULES.items():
        if name in seen.modules:
            continue
        text = f"{name} is not loaded: needed for {what}"
        if name in seen.loadable:  # the agent loads it, or its first use does
            yield _warn("modules", text, f"modprobe {name}, or start the agent")
        else:
            yield _fail(
                "modules", f"{text}; this kernel has none", f"install the modules of this kernel: modprobe {name}"
            )


def programs(seen: Readings) -> Iterator[Finding]:
    """Look for the tools that drivers run."""
    for name in PROGRAMS:
        if name not in seen.programs:
            package = "ipset" if name == "ipset" else "iptables"
            yield _fail("programs", f"{name} is not on PATH", f"install the package {package}")


def sysctls(seen: Readings) -> Iterator[Finding]:
    """Compare settings with what the agent wants."""
    for one in seen.wanted:
        path, value = one.key.path, seen.sysctls.get(one.key.path)
        name = path.replace("/", ".")
        if path.startswith("net/bridge/"):
            continue  # its own check
        if value is None and not one.optional:
            yield _fail("sysctls", f"{name} does not exist: {one.reason}", "load the module it belongs to: ip_vs")
        elif value is not None and not one.satisfied_by(value):
            text = f"{name} is {value}, not {one.value}: {one.reason}"
            mend = f"sysctl -w {name}={one.value}" + ("" if seen.agent else ", or start the agent, which sets it")
            # Without an agent nobody has set it yet; with one, somebody keeps it from being set.
            yield (
                _fail("sysctls", text, mend)
                if seen.agent or not seen.writable_sysctls
                else _warn("sysctls", text, mend)
            )


def br_netfilter(seen: Readings) -> Iterator[Finding]:
    """Look whether packets between ports of a bridge meet netfilter."""
    for path in ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"):
        if path not in {one.key.path for one in seen.wanted}:
            continue
        value = seen.sysctls.get(path)
        if value != "1":
            name = path.replace("/", ".")
            state = "does not exist" if value is None else f"is {value}"
            mend = "modprobe br_netfilter" if value is None else f"sysctl -w {name}=1"
            text = f"{name} {state}: pods of one node reach one another past services and policy"
            yield (
                _fail("br_netfilter", text, mend) if seen.agent or value is None else _warn("br_netfilter", text, mend)
            )


def rp_filter(seen: Readings) -> Iterator[Finding]:
    """Look for strict reverse-path filters, which drop what comes in by another link than its answer leaves by."""
    common = int(seen.sysctls.get("net/ipv4/conf/all/rp_filter", "0") or 0)
    for link in seen.links:
        if not link.up or link.name == "lo" or not _carries_pods(link, seen):
            continue
        path = f"net/ipv4/conf/{link.name}/rp_filter"
        own = seen.sysctls.get(path)
        if own is not None and max(common, int(own)) == 1:
            whose = "all" if common == 1 else link.name
            text = f"{link.name} filters strictly by reverse path: answers that come by another link are dropped"
            yield _warn("rp_filter", text, f"sysctl -w net.ipv4.conf.{whose}.rp_filter=2")


def _carries_pods(link: Link, seen: Readings) -> bool:
    return link.name in {seen.default_link, BRIDGE_LINK} or link.name.startswith(TUNNEL_PREFIX)


# --- network ----------------------------------------------------------------------------------------------------------


def mtu(seen: Readings) -> Iterator[Finding]:
    """Look whether what pods may send fits the links it leaves by."""
    by_name = {link.name: link for link in seen.links}
    uplink, bridge = by_name.get(seen.default_link), by_name.get(BRIDGE_LINK)
    if uplink is None:
        return
    tunnels = [link for link in seen.links if link.name.startswith(TUNNEL_PREFIX)]
    for link in tunnels:
        room = uplink.mtu - _HEADERS.get(link.kind, 0)
        if link.mtu > room:
            text = f"{link.name} has MTU {link.mtu}, but {uplink.name} leaves {room}: large packets are lost"
            yield _fail("mtu", text, f"ip link set {link.name} mtu {room}, or raise the MTU of {uplink.name}")
    pods = [link for link in seen.links if link.kind == "veth" and link is not uplink and not link.addresses]
    wide = [link for link in pods if link.mtu > uplink.mtu]
    if wide:
        text = (
            f"{len(wide)} pods may send {max(link.mtu for link in wide)} bytes, but {uplink.name} carries {uplink.mtu}"
        )
        yield _fail("mtu", f"{text}: large packets are lost", f"raise the MTU of {uplink.name}, or restart these pods")
    limit = min((link.mtu for link in tunnels), default=uplink.mtu)
    if bridge is not None and bridge.mtu > min(limit, uplink.mtu):
        narrow = f"{uplink.name} carries" if uplink.mtu <= limit else "the tunnels carry"
        text = f"pods send {bridge.mtu} bytes, but {narrow} {min(limit, uplink.mtu)}: large packets are lost"
        yield _fail(
            "mtu", text, f"raise the MTU of {uplink.name}, or restart the agent so that it lowers kube-bridge's"
        )


def iptables(seen: Readings) -> Iterator[Finding]:
    """Look for rules in both variants: each sees only its own, and a packet meets both."""
    mine = {variant for variant, rules in seen.rules.items() if rules.ours}
    for variant in sorted(mine - {seen.iptables}):
        text = f"chains of ours stand in {variant}, while iptables is {seen.iptables}: old rules still judge packets"
        yield _fail("iptables", text, f"stop the agent; {PROGRAM} cleanup --yes sweeps both; start it again")
    others = {variant for variant, rules in seen.rules.items() if rules.total and variant != seen.iptables} - mine
    for variant in sorted(others):
        text = f"others keep {seen.rules[variant].total} rules in {variant}, while ours are in {seen.iptables}"
        yield _warn("iptables", text, "use one variant on a node: update-alternatives --config iptables")


def other_proxies(seen: Readings) -> Iterator[Finding]:
    """Look for a kube-proxy that serves the same VIPs."""
    chains = sum(rules.kube_proxy for rules in seen.rules.values())
    if chains and seen.agent:
        text = f"kube-proxy has {chains} chains here: two proxies answer for every Service"
        yield _warn("other proxies", text, "delete the DaemonSet kube-proxy, then run kube-proxy --cleanup on the node")
    if any(link.name == "kube-ipvs0" for link in seen.links):
        text = "kube-ipvs0 is there: kube-proxy in IPVS mode holds the VIPs"
        yield _fail("other proxies", text, "delete the DaemonSet kube-proxy, then ip link delete kube-ipvs0")


def conntrack(seen: Readings) -> Iterator[Finding]:
    """Look at the size of the conntrack table."""
    count, limit = seen.conntrack
    if not limit:
        return
    mend = f"sysctl -w net.netfilter.nf_conntrack_max={max(2 * limit, 4 * _SMALLEST)}"
    if count >= _BUSY * limit:
        yield _fail("conntrack", f"{count:,} of {limit:,} entries: new connections will be dropped", mend)
    elif limit < _SMALLEST:
        yield _warn("conntrack", f"at most {limit:,} entries: a burst fills it and drops new connections", mend)


def clock(seen: Readings) -> Iterator[Finding]:
    """Look at the clock, by which certificates and tokens are judged."""
    if seen.now < _EPOCH:
        yield _fail("clock", "it is before 2025: certificates of the API server are refused", "set the time")
    elif seen.clock_synchronized is False:
        yield _warn("clock", "the kernel says it is not synchronized", "run chrony or systemd-timesyncd")


# --- programs beside us -----------------------------------------------------------------------------------------------


def ports(seen: Readings) -> Iterator[Finding]:
    """Look who listens where the agent and its sidecar must."""
    for one in seen.listeners:
        who = one.process or "a process of another PID namespace"
        if one.port == seen.health_port and seen.agent is None:
            text = f"{who} listens on {one.port} and is no agent that answers here: health checks fail"
            yield _fail("ports", text, f"stop it, or give the agent another --health-port than {one.port}")
        if seen.run_router and one.port == seen.bgp_port and one.process not in {"", "gobgpd"}:
            text = f"{who} listens on {one.port}: gobgpd cannot, and no neighbor connects"
            yield _fail("ports", text, f"stop {who}, or give both another --bgp-port")


def gobgpd(seen: Readings) -> Iterator[Finding]:
    """Look for the sidecar and its version."""
    if not seen.run_router:
        return
    if seen.gobgpd and seen.gobgpd.split(".", maxsplit=1)[0] not in _GOBGP_MAJORS:
        yield _fail("gobgpd", f"version {seen.gobgpd} is not spoken here", "use 3.10 to 4.x")
    elif seen.agent is not None:
        # It knows where its sidecar is; we may look at another socket than it was told.
        for one in filter(_of_sidecar, seen.agent.unreachable):
            yield _fail("gobgpd", f"{one}: no routes, no announcements", "start the sidecar gobgpd")
    elif not seen.gobgpd and seen.gobgp_error:
        yield _warn(
            "gobgpd", f"neither a sidecar nor a program gobgpd ({seen.gobgp_error})", "start the sidecar gobgpd"
        )


def _of_sidecar(unreachable: str) -> bool:
    return unreachable.startswith("gobgp:")


def cni(seen: Readings) -> Iterator[Finding]:
    """Look for the plugins that the CNI file names."""
    if seen.cni_plugins is None:
        return
    for name in CNI_PLUGINS:
        if name not in seen.cni_plugins:
            yield _fail(
                "cni", f"the plugin {name} is missing: no pod starts", f"{PROGRAM} prepare --cni-bin-dir /opt/cni/bin"
            )


def agent(seen: Readings) -> Iterator[Finding]:
    """Look at the agent itself."""
    if seen.agent is None:
        yield _warn("agent", "none answers on its socket", f"start it: {PROGRAM} run, or the DaemonSet")
        return
    if seen.agent.version != seen.version:
        text = f"it is {seen.agent.version}, this program is {seen.version}"
        yield _warn("agent", text, "use the program of the agent's own image")
    for one in (one for one in seen.agent.unreachable if not _of_sidecar(one)):
        yield _fail("agent", f"unreachable: {one}", f"{PROGRAM} status")
    for one in seen.agent.failing:
        yield _fail("agent", f"not programmed: {one}", f"{PROGRAM} status, {PROGRAM} explain")
    if not seen.agent.ready:
        yield _fail("agent", "it is not ready", f"{PROGRAM} status says what it waits for")


CHECKS: Final[dict[str, Check]] = {
    "capabilities": capabilities,
    "kernel": kernel,
    "modules": modules,
    "programs": programs,
    "sysctls": sysctls,
    "br_netfilter": br_netfilter,
    "rp_filter": rp_filter,
    "mtu": mtu,
    "iptables": iptables,
    "other proxies": other_proxies,
    "conntrack": conntrack,
    "clock": clock,
    "ports": ports,
    "gobgpd": gobgpd,
    "cni": cni,
    "agent": agent,
}
"""Every check by name, in the order shown among equals."""
