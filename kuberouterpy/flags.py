"""Every flag of ``kuberouterpy run`` as one table: command line, ``--help``, documents and validation are read from it.

Names and meanings are kube-router's, so its arguments can be used unchanged; flags of our own are marked. A flag without a
meaning here is accepted and carries the reason, which is told once at start.

The forms of values are Go's: ``5m0s`` for durations, ``--flag``, ``--flag=true`` and ``--flag=false`` for booleans, comma
lists that may also be repeated.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final

from msgspec import Struct

from kuberouterpy.family import canonical_address, canonical_prefix


class Section(StrEnum):
    """Heading a flag stands under in ``--help`` and in the documents."""

    GENERAL = "General"
    PROXY = "Service proxy"
    ROUTING = "Router"
    FIREWALL = "Firewall"
    BALANCER = "LoadBalancer allocator"


class Form(Struct, frozen=True):
    """How the text of a value is read. ``read`` raises ValueError with what is wrong and how to mend it."""

    metavar: str
    """Word for the value in ``--help``."""
    read: Callable[[str], object]
    """One text to one value."""
    many: bool = False
    """Comma list that may be repeated; the value is a tuple."""
    suffix: str = ""
    """What the name of the field in Config ends with: ``_s``."""


class Flag(Struct, frozen=True):
    """One flag."""

    name: str
    """Without the dashes."""
    form: Form
    """How its value is read."""
    section: Section
    """Where it is listed."""
    help: str
    """One sentence without full stop."""
    no_effect: str = ""
    """Why it does nothing here; empty: it is used."""
    ours: bool = False
    """Not a flag of kube-router."""
    short: str = ""
    """One-letter form."""
    secret: bool = False
    """Its value is neither kept nor shown."""

    @property
    def field(self) -> str:
        """Name in Config."""
        return self.name.replace("-", "_") + self.form.suffix


# --- forms of values --------------------------------------------------------------------------------------------------

_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_MAX_PORT: Final = 65535
_MAX_ASN: Final = 2**32 - 1


def boolean(text: str) -> bool:
    """Return what Go's ParseBool returns."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("is not a boolean; write true or false")


def duration(text: str) -> float:
    """Return the seconds of a duration in Go's notation, as ``1h2m``, ``5m0s``, ``90s``; ``0`` needs no unit."""
    if text == "0":
        return 0.0
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        mend = f"write {text}s for seconds" if text.isascii() and text.isdigit() else "write it as 90s, 5m or 1h30m"
        raise ValueError(f"is not a duration; {mend}")
    return round(sum(float(number) * _UNITS_S[unit] for number, unit in parts), 9)


def duration_text(seconds: float) -> str:
    """Return ``seconds`` in Go's notation."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    whole, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(whole), 60)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return f"{text}{rest:g}s"


def text_of(value: object) -> str:
    """Return a value of Config in the form a flag takes; empty where there is nothing to show."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case (int() as low, int() as high) if 0 < low <= high:
            return f"{low}-{high}"
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)


def default_text(flag: Flag, value: object) -> str:
    """Return the default of ``flag`` as ``--help`` shows it."""
    if flag.form is DURATION and isinstance(value, int | float):
        return duration_text(float(value))
    return text_of(value)


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
            raise ValueError(f"is not a whole number; write one from {low} to {high}")
        if not low <= int(text) <= high:
            raise ValueError(f"is out of range; write a number from {low} to {high}")
        return int(text)

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader of one of ``words``."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"is unknown; write {' or '.join(words)}")
        return text

    return read


def ratio(text: str) -> float:
    """Return a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("is not a number; write one from 0 to 1") from None
    if not 0 <= value <= 1:
        raise ValueError("is out of range; write a number from 0 to 1")
    return value


def address(text: str) -> str:
    """Return a canonical address."""
    try:
        return canonical_address(text)
    except ValueError:
        raise ValueError("is not an IP address; write it as 192.0.2.1 or 2001:db8::1") from None


def listen_address(text: str) -> str:
    """Return an address to listen on; empty means every address."""
    return address(text) if text else ""


def prefix(text: str) -> str:
    """Return a canonical prefix."""
    if "/" not in text:
        raise ValueError("has no prefix length; write it as 192.0.2.0/24 or 2001:db8::/64")
    try:
        return canonical_prefix(text)
    except ValueError:
        raise ValueError("is not a prefix; write it as 192.0.2.0/24 or 2001:db8::/64") from None


def port_range(text: str) -> tuple[int, int]:
    """Return the first and last port of ``30000-32767`` or ``30000:32767``."""
    first, _, last = text.replace(":", "-", 1).partition("-")
    read = whole(1, _MAX_PORT)
    try:
        low, high = read(first), read(last)
    except ValueError:
        raise ValueError("is not a range of ports; write it as 30000-32767") from None
    if low > high:
        raise ValueError(f"is a range that ends before it begins; write {high}-{low}")
    return low, high


def router_id(text: str) -> str:
    """Return an IPv4 address, ``generate``, or nothing: the node's IPv4 address."""
    if text in {"", "generate"}:
        return text
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise ValueError("is not a router ID; write an IPv4 address or generate") from None


def path(text: str) -> str:
    """Return an absolute path."""
    if text and not text.startswith("/"):
        raise ValueError("is not an absolute path; begin it with /")
    return text


def anything(text: str) -> str:
    """Return the text."""
    return text


BOOL: Final = Form("BOOL", boolean)
TEXT: Final = Form("TEXT", anything)
FILE: Final = Form("FILE", anything)
PATH: Final = Form("PATH", path)
DURATION: Final = Form("DURATION", duration, suffix="_s")
MILLISECONDS: Final = Form("MS", whole(1, 60_000), suffix="_ms")
PORT: Final = Form("PORT", whole(1, _MAX_PORT))
PORT_OR_NONE: Final = Form("PORT", whole(0, _MAX_PORT))
LISTEN: Final = Form("ADDRESS", listen_address)
ADDRESSES: Final = Form("ADDRESS,...", address, many=True)
PREFIXES: Final = Form("CIDR,...", prefix, many=True)
NUMBER: Final = Form("NUMBER", whole(0, 2**31 - 1))

SCHEDULERS: Final = ("rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "mh", "lblc", "lblcr", "fo", "ovf")
"""Every scheduler of the kernel (net/netfilter/ipvs)."""

_G, _P, _R, _F, _L = Section.GENERAL, Section.PROXY, Section.ROUTING, Section.FIREWALL, Section.BALANCER

_GOBGP_SOCKET: Final = "the GoBGP sidecar is reached through the unix socket of --gobgp-socket only"

FLAGS: Final[tuple[Flag, ...]] = (
    # General
    Flag("run-service-proxy", BOOL, _G, "Program IPVS for Services"),
    Flag("run-router", BOOL, _G, "Announce and learn routes by BGP"),
    Flag("run-firewall", BOOL, _G, "Enforce NetworkPolicies"),
    Flag("run-loadbalancer", BOOL, _G, "Give addresses to Services of type LoadBalancer"),
    Flag("enable-ipv4", BOOL, _G, "Serve IPv4"),
    Flag("enable-ipv6", BOOL, _G, "Serve IPv6"),
    Flag("hostname-override", TEXT, _G, "Name of this node; else the environment's NODE_NAME, else the host's name"),
    Flag("kubeconfig", FILE, _G, "Kubeconfig file; default: the pod's service account"),
    Flag("master", TEXT, _G, "URL of the API server; overrides the kubeconfig's"),
    Flag("cache-sync-timeout", DURATION, _G, "How long the first list may take before a warning"),
    Flag("health-addr", LISTEN, _G, "Address the health server listens on; default: all"),
    Flag("health-port", PORT_OR_NONE, _G, "Port of the health server; 0: none"),
    Flag(
        "proxy-health-port",
        PORT_OR_NONE,
        _G,
        "Port of /healthz as kube-proxy has it, for load balancers; 0: none",
        ours=True,
    ),
    Flag("metrics-addr", LISTEN, _G, "Address the metrics server listens on; default: all"),
    Flag("metrics-port", PORT_OR_NONE, _G, "Port of the metrics server; 0: none"),
    Flag("metrics-path", PATH, _G, "Path of the metrics"),
    Flag(
        "metrics-compat",
        Form("STYLE,...", one_of("kube-router", "kube-proxy"), many=True),
        _G,
        "Export metrics under the names of kube-router, kube-proxy as well",
        ours=True,
    ),
    Flag("metrics-real-servers", BOOL, _G, "Export metrics of each real server as well", ours=True),
    Flag("cleanup-config", BOOL, _G, "Remove what the agent programmed, then exit, as kuberouterpy cleanup --yes"),
    Flag("enable-pprof", BOOL, _G, "Go profiler", "this agent is not a Go program"),
    Flag("v", NUMBER, _G, "Verbosity: 0 tells changes, 1 and more every operation", short="v"),
    Flag("log-format", Form("FORMAT", one_of("logfmt", "json")), _G, "Form of log lines: logfmt or json", ours=True),
    Flag("sysctl-root", PATH, _G, "Where /proc/sys is: a pod sees its own read-only, the host's is mounted", ours=True),
    Flag("agent-socket", PATH, _G, "Unix socket on which the agent answers plan, explain and ipvs", ours=True),
    Flag(
        "max-delete-ratio",
        Form("RATIO", ratio),
        _G,
        "Refuse to delete more than this part of what stands in one step; 1: never refuse",
        ours=True,
    ),
    Flag(
        "record-dir", PATH, _G, "Folder of the flight recorder, as /var/lib/kuberouterpy/record; none: off", ours=True
    ),
    Flag("record-size", Form("MIB", whole(1, 1 << 20), suffix="_mib"), _G, "Most MiB the recorder keeps", ours=True),
    # Service proxy
    Flag("service-cluster-ip-range", PREFIXES, _P, "Ranges of cluster IPs, at most one a family"),
    Flag("service-external-ip-range", PREFIXES, _P, "Ranges of external IPs and load-balancer IPs that may be served"),
    Flag("service-node-port-range", Form("FIRST-LAST", port_range), _P, "Range of node ports"),
    Flag("strict-external-ip-validation", BOOL, _P, "Refuse external addresses outside the configured ranges"),
    Flag("masquerade-all", BOOL, _P, "SNAT all traffic to Services"),
    Flag("hairpin-mode", BOOL, _P, "SNAT pods that reach themselves", "it is always on: a Service needs it"),
    Flag("nodeport-bindon-all-ip", BOOL, _P, "Serve node ports on every address of the node"),
    Flag("nodeport-addresses", PREFIXES, _P, "Serve node ports only on addresses in these ranges", ours=True),
    Flag("excluded-cidrs", PREFIXES, _P, "Virtual servers in these ranges are never touched"),
    Flag(
        "ipvs-scheduler",
        Form("SCHEDULER", one_of(*SCHEDULERS)),
        _P,
        "Scheduler of Services that name none by annotation kube-router.io/service.scheduler",
        ours=True,
    ),
    Flag("ipvs-sync-period", DURATION, _P, "How often IPVS is listed and compared"),
    Flag("ipvs-permit-all", BOOL, _P, "Accept traffic to VIPs, reject their unused ports"),
    Flag("ipvs-graceful-termination", BOOL, _P, "Drain real servers", "always so: terminating endpoints get weight 0"),
    Flag("ipvs-graceful-period", DURATION, _P, "How long to drain", "a real server drains until its endpoint is gone"),
    Flag("service-tcp-timeout", DURATION, _P, "IPVS timeout of idle TCP connections; 0: the kernel's"),
    Flag("service-tcpfin-timeout", DURATION, _P, "IPVS timeout of TCP connections after FIN; 0: the kernel's"),
    Flag("service-udp-timeout", DURATION, _P, "IPVS timeout of UDP flows; 0: the kernel's"),
    Flag("runtime-endpoint", TEXT, _P, "CRI socket, for direct server return; default: containerd's or CRI-O's"),
    # Router
    Flag("cluster-asn", Form("ASN", whole(0, _MAX_ASN)), _R, "ASN of the cluster; 0: 64512"),
    Flag("router-id", Form("ADDRESS", router_id), _R, "BGP router ID; generate: hashed from the node's address"),
    Flag("bgp-port", PORT, _R, "Port BGP listens on"),
    Flag("bgp-holdtime", DURATION, _R, "BGP hold time"),
    Flag("bgp-graceful-restart", BOOL, _R, "Offer BGP graceful restart"),
    Flag("bgp-graceful-restart-time", DURATION, _R, "How long neighbors keep our routes while we restart"),
    Flag(
        "bgp-graceful-restart-deferral-time",
        DURATION,
        _R,
        "How long to wait for End-of-RIB after a restart",
        "always 1 s: we announce nothing of others, so there is nothing to wait for",
    ),
    Flag("enable-ibgp", BOOL, _R, "Peer with the other nodes"),
    Flag("nodes-full-mesh", BOOL, _R, "Peer with every other node, not only those of the same ASN"),
    Flag("advertise-pod-cidr", BOOL, _R, "Announce pod CIDRs to external neighbors"),
    Flag("advertise-cluster-ip", BOOL, _R, "Announce cluster IPs"),
    Flag("advertise-external-ip", BOOL, _R, "Announce external IPs"),
    Flag(
        "drain-wait", DURATION, _R, "Time between GRACEFUL_SHUTDOWN and withdrawal of a draining node's VIPs", ours=True
    ),
    Flag("advertise-loadbalancer-ip", BOOL, _R, "Announce load-balancer IPs"),
    Flag(
        "advertise-local-preference",
        Form("NUMBER", whole(0, _MAX_ASN)),
        _R,
        "Local preference of what this node announces, for neighbors of the same AS; 0: none",
        ours=True,
    ),
    Flag("override-nexthop", BOOL, _R, "Announce ourselves as next hop to external neighbors"),
    Flag("peer-router-ips", ADDRESSES, _R, "Addresses of external neighbors"),
    Flag(
        "peer-router-asns",
        Form("ASN,...", whole(1, _MAX_ASN), many=True),
        _R,
        "ASNs of external neighbors",
    ),
    Flag(
        "peer-router-ports",
        Form("PORT,...", whole(1, _MAX_PORT), many=True),
        _R,
        "Ports of external neighbors",
    ),
    Flag(
        "peer-router-multihop-ttl",
        Form("TTL", whole(0, 255)),
        _R,
        "TTL of sessions with external neighbors",
    ),
    Flag(
        "peer-router-passwords-file",
        FILE,
        _R,
        "File with the passwords of external neighbors: base64, a comma between them; read again when it changes",
    ),
    Flag(
        "peer-router-passwords",
        Form("BASE64,...", anything, many=True),
        _R,
        "Passwords of external neighbors",
        "every process can read a command line; use --peer-router-passwords-file",
        secret=True,
    ),
    Flag(
        "peer-import-cidrs",
        PREFIXES,
        _R,
        "Prefixes that external neighbors may announce to us",
        ours=True,
    ),
    Flag(
        "peer-max-prefixes",
        NUMBER,
        _R,
        "End the session of an external neighbor that announces more prefixes of a family than this; 0: never",
        ours=True,
    ),
    Flag("routes-sync-period", DURATION, _R, "How often BGP is listed and compared"),
    Flag("injected-routes-sync-period", DURATION, _R, "How often kernel routes are listed and compared"),
    Flag("enable-overlay", BOOL, _R, "Tunnel to nodes of other subnets"),
    Flag(
        "overlay-type",
        Form("TYPE", one_of("subnet", "full")),
        _R,
        "Tunnel to nodes of other subnets (subnet) or to all (full)",
    ),
    Flag(
        "overlay-encap",
        Form("ENCAP", one_of("ipip", "fou", "vxlan")),
        _R,
        "Encapsulation: ipip, fou or vxlan",
    ),
    Flag(
        "overlay-encap-port",
        PORT_OR_NONE,
        _R,
        "UDP port of fou (else 5555) and vxlan (else 4789)",
    ),
    Flag("enable-pod-egress", BOOL, _R, "SNAT pods that talk to the outside"),
    Flag("enable-cni", BOOL, _R, "Write the CNI configuration"),
    Flag("cni-conf-file", PATH, _R, "CNI configuration; else the environment's KUBE_ROUTER_CNI_CONF_FILE", ours=True),
    Flag("auto-mtu", BOOL, _R, "Write the MTU of the node's link into the CNI configuration"),
    Flag(
        "disable-source-dest-check",
        BOOL,
        _R,
        "Switch off the source/destination check of AWS",
        "this agent does not talk to clouds: set it in the instance's own configuration",
    ),
    Flag("enable-bfd", BOOL, _R, "BFD with external neighbors; needs GoBGP 4"),
    Flag("bfd-port", PORT, _R, "Port of BFD"),
    Flag("bfd-detection-multiplier", Form("NUMBER", whole(1, 255)), _R, "Missed BFD packets until down"),
    Flag("bfd-desired-min-tx-interval", MILLISECONDS, _R, "Interval BFD packets are sent at, in ms"),
    Flag("bfd-required-min-rx-interval", MILLISECONDS, _R, "Interval BFD packets are expected at, in ms"),
    Flag("gobgp-socket", PATH, _R, "Unix socket of the GoBGP sidecar", ours=True),
    Flag("gobgp-admin-address", LISTEN, _R, "Address of GoBGP's gRPC server", _GOBGP_SOCKET),
    Flag("gobgp-admin-port", PORT_OR_NONE, _R, "Port of GoBGP's gRPC server", _GOBGP_SOCKET),
    # Firewall
    Flag("iptables-sync-period", DURATION, _F, "How often iptables and ipset are listed and compared"),
    Flag(
        "netpol-default-deny",
        BOOL,
        _F,
        "Deny pods the agent has not seen yet",
    ),
    Flag("netpol-cut-flows", BOOL, _F, "End established connections that a changed policy denies", ours=True),
    Flag("use-nftables-for-netpol", BOOL, _F, "nftables backend", "iptables (legacy or nft variant) enforces policies"),
    # LoadBalancer allocator
    Flag("loadbalancer-ip-range", PREFIXES, _L, "Ranges of load-balancer IPs that may be served"),
    Flag("loadbalancer-default-class", BOOL, _L, "Serve Services without a class"),
    Flag("loadbalancer-sync-period", DURATION, _L, "How often to look for Services without address"),
)

BY_NAME: Final = {flag.name: flag for flag in FLAGS}


def nearest(name: str, known: Iterable[str] = BY_NAME) -> str:
    """Return the known flag whose name is most like ``name``, or an empty string."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")
