"""The page of metrics: names and labels, whatever state the agent is in, and promtool's verdict."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from kuberouterpy import offline
from kuberouterpy.cluster import (
    KUBERNETES_KINDS,
    Action,
    ClusterRule,
    Delete,
    Link,
    Record,
    Ref,
    Replace,
    Service,
    Upsert,
)
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Forward, RealServerKey, VirtualServerKey
from kuberouterpy.drivers import fake
from kuberouterpy.drivers.ipvs_table import Counters, Real, Table, Virtual
from kuberouterpy.drivers.readings import Readings
from kuberouterpy.family import FAMILIES, IPV4, IPV6
from kuberouterpy.labels import EVERYTHING, PodSelector
from kuberouterpy.loop import Loop
from kuberouterpy.metrics import PREFIX, Names, names
from kuberouterpy.metrics.scraper import Scraper
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from kuberouterpy.sources.gobgp import NeighborState
from proxy import CONTROLLER as PROXY
from tests.firewall.world import cluster_policy, namespace, pod, policy
from tests.kuberouterpy.test_exposition import lint
from tests.kuberouterpy.test_tally import WEB, slice_of

VIPS = {IPV4: "10.96.0.10", IPV6: "fd00:10:96::a"}
COUNTERS = Counters(3, 40, 41, 500, 501, 1, 2, 3, 4, 5)


def virtual(address: str, port: int = 80) -> Virtual:
    family = IPV6 if ":" in address else IPV4
    key = VirtualServerKey(family, Protocol.TCP, address, port)
    real = Real(
        RealServerKey(key, "10.1.0.1" if family is IPV4 else "fd00:10:1::1", 8080), Forward(0), 1, 7, 2, COUNTERS
    )
    return Virtual(key, "rr", 0, 0, "", "", COUNTERS, (real,))


READINGS = Readings(
    ipvs=Table("1.2.1", 4096, (*map(virtual, VIPS.values()), virtual("192.0.2.9"))),
    ipvs_connections=9,
    conntrack_entries=17,
    conntrack_limit=65536,
    memory_bytes=40_000_000,
    cpu_s=1.25,
    open_files=30,
)
NEIGHBORS = (
    NeighborState("10.0.0.9", "active", asn=64512),
    NeighborState("fd00::9", "established", 5.0, 12, 11, asn=64513),
)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop that runs over the fake kernel with one Service."""
    loop = Loop(
        config=Config(node_name="n", enable_ipv6=True, metrics_compat=("kube-router", "kube-proxy")),
        controllers=(PROXY,),
        drivers=tuple(Programmed(driver, period_s=300) for driver in fake.kernel()),
        expected=(*KUBERNETES_KINDS, Link),
        wall=lambda: 1_700_000_000.0,
    )
    for kind in KUBERNETES_KINDS:
        loop.put(Replace(kind, (WEB,) if kind is Service else ()))
    loop.put(Replace(Link, ()))
    for family in FAMILIES:
        loop.put(Replace(type(slice_of(family, "")), (slice_of(family, "2023-11-14T22:13:20Z"),)))
    loop.step(1.0)
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    yield loop
    stop.set()
    loop.put(None)
    thread.join(5)


def page(loop: Loop, readings: Readings = READINGS) -> str:
    scraper = Scraper(loop, neighbors=lambda: NEIGHBORS, events_dropped=lambda: 2, read=lambda _: readings)
    return scraper.text()


def test_servers_carry_the_names_of_their_services(loop: Loop) -> None:
    lines = page(loop).splitlines()
    for vip in VIPS.values():
        where = f'namespace="default",service="web",vip="{vip}",protocol="tcp",port="80"'
        assert f"kuberouterpy_service_connections_total{{{where}}} 3" in lines
        assert f'kuberouterpy_service_packets_total{{{where},direction="in"}} 40' in lines
        assert f'kuberouterpy_service_bytes_total{{{where},direction="out"}} 501' in lines
        compat = f'svc_namespace="default",service_name="web",service_vip="{vip}",protocol="tcp",port="80"'
        assert f"kube_router_service_pps_out{{{compat}}} 3" in lines
    assert "kuberouterpy_foreign_virtual_servers 1" in lines
    assert not any("192.0.2.9" in line for line in lines)


def test_sessions_tables_work_and_trouble_are_measured(loop: Loop) -> None:
    lines = page(loop).splitlines()
    for line in (
        'kuberouterpy_neighbor_up{neighbor="10.0.0.9",asn="64512"} 0',
        'kuberouterpy_neighbor_state{neighbor="fd00::9",asn="64513",state="established"} 1',
        'kuberouterpy_neighbor_prefixes_accepted{neighbor="fd00::9",asn="64513"} 11',
        'kube_router_bgp_peer_info{address="10.0.0.9",type="",asn="64512",state="ACTIVE"} 1',
        'kuberouterpy_operations_total{kind="virtual",verb="create",result="ok"} 2',
        'kuberouterpy_objects{kind="VirtualServer"} 2',
        "kuberouterpy_events_dropped_total 2",
        "kuberouterpy_conntrack_entries 17",
        "kuberouterpy_ipvs_connections 9",
        "kuberouterpy_ready 1",
        "kuberouterpy_deletes_refused 0",
        'kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1',
        'kuberouterpy_network_programming_duration_seconds_bucket{ip_family="IPv6",le="0.25"} 1',
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds 1700000000",
    ):
        assert line in lines


def test_promtool_finds_no_fault_with_our_names(loop: Loop) -> None:
    ours = [line for line in page(loop).splitlines() if f" {PREFIX}" in line or line.startswith(PREFIX)]
    assert lint("".join(f"{line}\n" for line in ours)) == []


def test_promtool_can_read_the_names_of_others_as_well(loop: Loop) -> None:
    """Their names break the rules (``host_routes_added`` is a counter without ``_total``); the format must not."""
    assert not any("error" in line and "parsing" in line for line in lint(page(loop)))


def test_each_name_is_there_once(loop: Loop) -> None:
    names = [line.split()[2] for line in page(loop).splitlines() if line.startswith("# TYPE")]
    assert sorted(set(names)) == sorted(names)


def test_what_cannot_be_read_is_left_out_and_the_rest_is_told(loop: Loop) -> None:
    lines = page(loop, Readings()).splitlines()
    assert "kuberouterpy_ready 1" in lines
    assert not any("service_connections" in line or "conntrack_entries" in line or "foreign" in line for line in lines)


def test_a_loop_that_does_not_answer_delays_no_scrape_for_long_and_old_names_serve() -> None:
    config = Config(node_name="n")
    stuck = Loop(config=config, controllers=(PROXY,), drivers=(), expected=())
    assert "kuberouterpy_build_info" in page(stuck)


def test_names_are_made_anew_only_when_one_is_new(loop: Loop) -> None:
    """And then at once: a server must not go by the name of the Service that had its address before."""
    scraper = Scraper(loop, read=lambda _: READINGS)
    first = scraper.scrape().names
    assert scraper.scrape().names is first
    loop.put(Upsert(replace(slice_of(IPV4, ""), endpoints=())))
    assert scraper.scrape().names is first
    loop.put(Delete(Service, WEB.ref))
    loop.put(Upsert(replace(WEB, ref=Ref("default", "heir"))))
    assert {place.service.name for place in scraper.scrape().names.services.values()} == {"heir"}


def test_without_compat_there_are_no_names_of_others(loop: Loop) -> None:
    loop.config = replace(loop.config, metrics_compat=())
    assert all(line.split()[2].startswith(PREFIX) for line in page(loop).splitlines() if line.startswith("# TYPE"))


def test_only_the_configured_path_has_metrics(loop: Loop) -> None:
    scraper = Scraper(loop, read=lambda _: READINGS)
    assert scraper.page("/") is None
    found = scraper.page("/metrics")
    assert found is not None
    assert found.type == "text/plain; version=0.0.4; charset=utf-8"


def test_a_pod_that_two_tiers_deny_has_a_series_for_each() -> None:
    """One chain, two rules that drop: told apart by their ids, or the scrape would hold one series twice."""
    everybody = PodSelector(EVERYTHING, namespaces=EVERYTHING)
    records = (
        namespace("x"),
        pod("x/a", addresses=("10.1.0.5",)),
        policy("x/shut", EVERYTHING, ingress=()),
        cluster_policy("guard", everybody, ingress=(ClusterRule(Action.DENY, (everybody,)),)),
    )
    facts: dict[type, list[Record]] = {}
    for one in records:
        facts.setdefault(type(one), []).append(one)
    loop = offline.build(
        replace(Config(), node_name="node-0"), offline.Facts("node-0", facts), (offline.link("eth0=10.0.0.1/24"),)
    )
    deniers = names(loop, Names()).deniers
    assert sorted(one.policies for one in deniers.values()) == ["cnp/guard", "shut"]
    assert {(str(one.pod), one.direction) for one in deniers.values()} == {("x/a", "ingress")}
