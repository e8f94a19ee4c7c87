"""Config: every setting of the agent, read and validated once, then never changed.

A field is the flag's name with underscores; durations are seconds and end in ``_s``; lists are tuples of canonical text.
Defaults are kube-router's. The table of flags, with forms and help, is :mod:`kuberouterpy.flags`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from kuberouterpy.errors import ConfigError
from kuberouterpy.family import IPV4, IPV6, Family, family_of
from kuberouterpy.flags import BY_NAME, FLAGS, Flag, duration_text, nearest

DEFAULT_ASN: Final = 64512
_PRIVATE_ASNS: Final = (range(64512, 65536), range(4200000000, 4294967295))
"""RFC 6996, with 65535 as kube-router has it."""
_HOLD_TIME_S: Final = (3, 65535)
"""RFC 4271 4.2: at least three seconds, 16 bits."""
_RESTART_TIME_S: Final = (1, 4095)
"""RFC 4724 3: 12 bits."""
_DEFERRAL_TIME_S: Final = (0, 65535)


class Config(Struct, frozen=True, kw_only=True):
    """Settings of one agent; flags are described in :data:`kuberouterpy.flags.FLAGS`."""

    # General
    node_name: str = ""
    """Resolved: --hostname-override, else NODE_NAME, else the host's name."""
    run_service_proxy: bool = True
    run_router: bool = True
    run_firewall: bool = True
    run_loadbalancer: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    hostname_override: str = ""
    kubeconfig: str = ""
    master: str = ""
    cache_sync_timeout_s: float = 60.0
    health_addr: str = ""
    health_port: int = 20244
    metrics_addr: str = ""
    proxy_health_port: int = 10256
    metrics_port: int = 20241
    metrics_path: str = "/metrics"
    metrics_compat: tuple[str, ...] = ()
    metrics_real_servers: bool = False
    cleanup_config: bool = False
    enable_pprof: bool = False
    v: int = 0
    log_format: str = "logfmt"
    sysctl_root: str = "/proc/sys"
    agent_socket: str = "/run/kuberouterpy/agent.sock"
    max_delete_ratio: float = 1.0
    record_dir: str = ""
    record_size_mib: int = 64

    # Service proxy
    service_cluster_ip_range: tuple[str, ...] = ("10.96.0.0/12",)
    service_external_ip_range: tuple[str, ...] = ()
    service_node_port_range: tuple[int, int] = (30000, 32767)
    strict_external_ip_validation: bool = True
    masquerade_all: bool = False
    hairpin_mode: bool = False
    nodeport_bindon_all_ip: bool = False
    nodeport_addresses: tuple[str, ...] = ()
    excluded_cidrs: tuple[str, ...] = ()
    ipvs_sync_period_s: float = 300.0
    ipvs_scheduler: str = "rr"
    ipvs_permit_all: bool = True
    ipvs_graceful_termination: bool = False
    ipvs_graceful_period_s: float = 30.0
    service_tcp_timeout_s: float = 0.0
    service_tcpfin_timeout_s: float = 0.0
    service_udp_timeout_s: float = 0.0
    runtime_endpoint: str = ""

    # Router
    cluster_asn: int = DEFAULT_ASN
    router_id: str = ""
    bgp_port: int = 179
    bgp_holdtime_s: float = 90.0
    bgp_graceful_restart: bool = True
    bgp_graceful_restart_time_s: float = 90.0
    bgp_graceful_restart_deferral_time_s: float = 360.0
    enable_ibgp: bool = True
    nodes_full_mesh: bool = True
    advertise_pod_cidr: bool = True
    advertise_cluster_ip: bool = False
    advertise_external_ip: bool = False
    advertise_loadbalancer_ip: bool = False
    advertise_local_preference: int = 0
    override_nexthop: bool = False
    drain_wait_s: float = 30.0
    peer_router_ips: tuple[str, ...] = ()
    peer_router_asns: tuple[int, ...] = ()
    peer_router_ports: tuple[int, ...] = ()
    peer_router_multihop_ttl: int = 0
    peer_router_passwords_file: str = ""
    peer_import_cidrs: tuple[str, ...] = ()
    peer_max_prefixes: int = 10_000
    routes_sync_period_s: float = 300.0
    injected_routes_sync_period_s: float = 60.0
    enable_overlay: bool = True
    overlay_type: str = "subnet"
    overlay_encap: str = "ipip"
    overlay_encap_port: int = 0
    """0: the usual one of the encapsulation, 5555 for fou and 4789 for vxlan."""
    enable_pod_egress: bool = True
    enable_cni: bool = True
    cni_conf_file: str = "/etc/cni/net.d/10-kuberouter.conflist"
    auto_mtu: bool = True
    disable_source_dest_check: bool = True
    enable_bfd: bool = False
    bfd_port: int = 3784
    bfd_detection_multiplier: int = 3
    bfd_desired_min_tx_interval_ms: int = 1000
    bfd_required_min_rx_interval_ms: int = 1000
    gobgp_socket: str = "/run/kuberouterpy/gobgp.sock"
    gobgp_admin_address: str = "127.0.0.1"
    gobgp_admin_port: int = 50051

    # Firewall
    iptables_sync_period_s: float = 300.0
    netpol_default_deny: bool = False
    netpol_cut_flows: bool = False
    use_nftables_for_netpol: bool = False

    # LoadBalancer allocator
    loadbalancer_ip_range: tuple[str, ...] = ()
    loadbalancer_default_class: bool = True
    loadbalancer_sync_period_s: float = 60.0

    @property
    def families(self) -> tuple[Family, ...]:
        """Families in use, IPv4 first."""
        return (IPV4,) * self.enable_ipv4 + (IPV6,) * self.enable_ipv6

    def cluster_ip_ranges(self, family: Family) -> tuple[str, ...]:
        """Return the ranges of cluster IPs of one family."""
        return tuple(one for one in self.service_cluster_ip_range if family_of(one) is family)


DEFAULTS: Final[dict[str, object]] = {field.name: field.default for field in msgspec.structs.fields(Config)}
"""Default of every field."""


def parse(
    given: Mapping[str, str | Sequence[str]], *, environ: Mapping[str, str] | None = None, hostname: str = ""
) -> Config:
    """Return the Config that flags and environment mean.

    ``given`` maps flag names without dashes to their texts; a flag that was not given is absent. Of a repeated flag the last
    text counts, but lists add up.
    Errors: ConfigError with one line for each thing that is wrong: flag, value and mend.
    """
    environ = environ or {}
    values: dict[str, object] = {}
    wrong: list[str] = []
    for name, texts in given.items():
        flag = BY_NAME.get(name)
        if flag is None:
            hint = nearest(name)
            wrong.append(f"--{name} is not a flag" + (f"; did you mean --{hint}?" if hint else ""))
            continue
        try:
            value = _read(flag, [texts] if isinstance(texts, str) else texts)
        except ValueError as error:
            wrong.append(str(error))
            continue
        if not flag.secret:
            values[flag.field] = value
    _resolve(values, environ, hostname)
    config = msgspec.convert(values, Config)
    wrong.extend(_contradictions(config))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config


def without_effect(given: Mapping[str, object]) -> list[tuple[Flag, str]]:
    """Return the given flags that do nothing here, each with the reason, in the table's order."""
    return [(flag, flag.no_effect) for flag in FLAGS if flag.no_effect and flag.name in given]


def _read(flag: Flag, texts: Sequence[str]) -> object:
    if flag.form.many:
        parts = [part.strip() for text in texts for part in text.split(",")]
        items = [_one(flag, part) for part in parts if part]
        return tuple(dict.fromkeys(items) if _distinct(flag) else items)
    return _one(flag, texts[-1] if texts else "")


def _distinct(flag: Flag) -> bool:
    # Lists that stand beside --peer-router-ips are aligned with it: a repeated ASN is not a repeat.
    return not flag.name.startswith("peer-router-")


def _one(flag: Flag, text: str) -> object:
    try:
        return flag.form.read(text)
    except ValueError as error:
        shown = "(hidden)" if flag.secret else repr(text)
        raise ValueError(f"--{flag.name} {shown} {error}") from None


def _resolve(values: dict[str, object], environ: Mapping[str, str], hostname: str) -> None:
    values["node_name"] = values.get("hostname_override") or environ.get("NODE_NAME") or hostname.lower()
    values["cluster_asn"] = values.get("cluster_asn") or DEFAULT_ASN
    if not values.get("cni_conf_file"):
        values["cni_conf_file"] = environ.get("KUBE_ROUTER_CNI_CONF_FILE") or DEFAULTS["cni_conf_file"]


def _contradictions(config: Config) -> Iterator[str]:
    """Yield what is wrong between settings, or out of the range that a standard gives."""
    if not config.families:
        yield "--enable-ipv4=false --enable-ipv6=false leave no address family; enable one"
    if not (config.run_service_proxy or config.run_router or config.run_firewall or config.run_loadbalancer):
        yield "nothing is to run; give --run-service-proxy, --run-router, --run-firewall or --run-loadbalancer"
    if config.run_loadbalancer and not config.loadbalancer_ip_range:
        yield "--run-loadbalancer has no addresses to give; set --loadbalancer-ip-range"
    for family in (IPV4, IPV6):
        ranges = config.cluster_ip_ranges(family)
        if len(ranges) > 1:
            yield f"--service-cluster-ip-range has {' and '.join(ranges)}; give one IPv{family} range"
    if not any(config.cluster_asn in asns for asns in _PRIVATE_ASNS):
        yield f"--cluster-asn {config.cluster_asn} is not private; take 64512-65535 or 4200000000-4294967294"
    yield from _seconds("bgp-holdtime", config.bgp_holdtime_s, *_HOLD_TIME_S)
    yield from _seconds("bgp-graceful-restart-time", config.bgp_graceful_restart_time_s, *_RESTART_TIME_S)
    yield from _seconds(
        "bgp-graceful-restart-deferral-time", config.bgp_graceful_restart_deferral_time_s, *_DEFERRAL_TIME_S
    )
    for name in (
        "ipvs-sync-period",
        "iptables-sync-period",
        "routes-sync-period",
        "injected-routes-sync-period",
        "loadbalancer-sync-period",
    ):
        period_s = getattr(config, BY_NAME[name].field)
        if period_s < 1:
            yield f"--{name} {duration_text(period_s)} is too short; give at least 1s"
    yield from _unaligned(config)


def _seconds(name: str, value_s: float, low: int, high: int) -> Iterator[str]:
    if not low <= value_s <= high:
        yield f"--{name} {duration_text(value_s)} is out of range; give {duration_text(low)} to {duration_text(high)}"


def _unaligned(config: Config) -> Iterator[str]:
    neighbors = len(config.peer_router_ips)
    if len(config.peer_router_asns) != neighbors:
        yield f"--peer-router-asns has {len(config.peer_router_asns)} items for {neighbors} --peer-router-ips; give as many"
    if config.peer_router_ports and len(config.peer_router_ports) != neighbors:
        yield f"--peer-router-ports has {len(config.peer_router_ports)} items for {neighbors} --peer-router-ips; give as many"
