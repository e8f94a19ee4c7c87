"""The names that dashboards of kube-router and kube-proxy ask for (``--metrics-compat``), where the meaning exists here. Pure.

Left out, because nothing here is what they measure: kube-router's sync times of single steps it takes and we do not
(``controller_policy_chains_sync_time``, ``…_ipset_v4_restore_time``, ``controller_bgp_internal_peers_sync_time``, ...).
Durations of kube-router are seconds, as here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from kuberouterpy.dataplane import VirtualServerKey
from kuberouterpy.drivers.ipvs_table import Counters
from kuberouterpy.exposition import Metric, Sample, Type
from kuberouterpy.metrics import Place, Scrape, known_servers, programming

KUBE_ROUTER: Final = "kube-router"
KUBE_PROXY: Final = "kube-proxy"
STYLES: Final = (KUBE_ROUTER, KUBE_PROXY)

_SERVICE: Final[tuple[tuple[str, str, Callable[[Counters], int]], ...]] = (
    ("total_connections", "Total incoming connections made", lambda one: one.connections),
    ("packets_in", "Incoming packets", lambda one: one.packets_in),
    ("packets_out", "Outgoing packets", lambda one: one.packets_out),
    ("bytes_in", "Incoming bytes", lambda one: one.bytes_in),
    ("bytes_out", "Outgoing bytes", lambda one: one.bytes_out),
    ("pps_in", "Incoming packets per second", lambda one: one.packets_in_per_s),
    ("pps_out", "Outgoing packets per second", lambda one: one.packets_out_per_s),
    ("cps", "Connections per second", lambda one: one.connections_per_s),
    ("bps_in", "Incoming bytes per second", lambda one: one.bytes_in_per_s),
    ("bps_out", "Outgoing bytes per second", lambda one: one.bytes_out_per_s),
)
_GAUGES: Final = {
    "controller_ipvs_services": ("VirtualServer", "Number of ipvs services in the instance"),
    "controller_policy_chains": ("Chain", "Number of active policy chains"),
    "controller_policy_ipsets": ("Set", "Number of active policy ipsets"),
    "host_routes_synced": ("Route", "Number of routes in the system"),
}
_TIMES: Final = {
    "controller_ipvs_services_sync_time": ("ipvs", "Time it took for the ipvs sync loop to complete"),
    "controller_iptables_sync_time": ("iptables", "Time it took for the iptables sync loop to complete"),
    "controller_routes_sync_time": ("gobgp", "Time it took for controller to sync routes"),
    "host_routes_sync_time": ("routes", "Time it took for the host routes controller to sync to the system"),
}


def metrics(scrape: Scrape, styles: tuple[str, ...]) -> Iterator[Metric]:
    """Yield the metrics of the styles asked for."""
    if KUBE_ROUTER in styles:
        yield from kube_router(scrape)
    if KUBE_PROXY in styles:
        yield from kube_proxy(scrape)


def kube_router(scrape: Scrape) -> Iterator[Metric]:
    """Yield kube-router's metrics."""
    status, figures = scrape.status, scrape.figures
    labels = {"version": status.version, "goversion": ""}
    yield _metric("build_info", Type.GAUGE, "Expose version and other build information", [Sample(labels, 1)])
    known = list(known_servers(scrape))
    for name, help_, read in _SERVICE:
        samples = [Sample(_labels(one.key, place), read(one.counters)) for one, place in known if not one.key.fwmark]
        yield _metric(f"service_{name}", Type.GAUGE, help_, samples)
    for name, (kind, help_) in _GAUGES.items():
        yield _metric(name, Type.GAUGE, help_, [Sample({}, status.objects.get(kind, 0))])
    for name, (driver, help_) in _TIMES.items():
        apply = figures.calls.get((driver, "apply"))
        yield _metric(name, Type.HISTOGRAM, help_, [Sample({}, apply)] if apply else [])
    yield from _routes(scrape)
    yield _metric(
        "bgp_peer_info",
        Type.GAUGE,
        "BGP peer information",
        [
            Sample({"address": one.address, "type": "", "asn": str(one.asn), "state": one.state.upper()}, 1)
            for one in scrape.neighbors
        ],
    )


def _routes(scrape: Scrape) -> Iterator[Metric]:
    def done(kind: str, *verbs: str) -> list[Sample]:
        return [Sample({}, sum(scrape.figures.ops.get((kind, verb, "ok"), 0) for verb in verbs))]

    yield _metric("host_routes_added", Type.COUNTER, "Total count of host routes added", done("route", "create"))
    yield _metric("host_routes_removed", Type.COUNTER, "Total count of host routes removed", done("route", "delete"))
    yield _metric(
        "controller_bgp_advertisements_received",
        Type.COUNTER,
        "Best paths taken in since start",
        [Sample({}, scrape.figures.events.get("BestPath", 0))],
    )
    yield _metric(
        "controller_bgp_advertisements_sent",
        Type.COUNTER,
        "Paths announced since start",
        [Sample({"type": "total"}, done("path", "create", "update")[0].value)],
    )


def _metric(name: str, type_: Type, help_: str, samples: list[Sample]) -> Metric:
    return Metric(f"kube_router_{name}", type_, help_, tuple(samples))


def _labels(key: VirtualServerKey, place: Place) -> Mapping[str, str]:
    return {
        "svc_namespace": place.service.namespace,
        "service_name": place.service.name,
        "service_vip": key.address,
        "protocol": key.protocol.value,
        "port": str(key.port),
    }


def kube_proxy(scrape: Scrape) -> Iterator[Metric]:
    """Yield those of kube-proxy that an SLO or an alert is made of."""
    figures = scrape.figures
    yield programming("kubeproxy_", figures)
    name = "kubeproxy_sync_proxy_rules_duration_seconds"
    yield Metric(name, Type.HISTOGRAM, "SyncProxyRules latency in seconds", (Sample({}, figures.steps),))
    yield Metric(
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        Type.GAUGE,
        "The last time proxy rules were successfully synced",
        (Sample({}, scrape.status.settled_at),),
    )
