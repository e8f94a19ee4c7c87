"""Direct server return: the endpoint answers the client itself, and the node that took the connection sees requests only.

Annotation ``kube-router.io/service.dsr: tunnel``, for external IPs and load-balancer IPs. The node puts what it gets into a
tunnel to the pod (IP in IP); in the pod's network namespace a tunnel's end holds the VIP, so the pod answers from it::

    mangle PREROUTING, OUTPUT   -j KUBE-ROUTER-DSR
    KUBE-ROUTER-DSR             -j SET --map-set kube-router-dsr dst,dst --map-mark      the mark of a virtual server
                                (what IPVS sends on loses it again)
    ip rule                     fwmark <any of these marks> lookup 78                    table 78: local default dev lo
    (IPVS)                      virtual server by mark, real servers by tunnel
    in the pod                  kube-tunnel-if: local <pod>, VIP/32

The VIP stands on no node: a node that held it would refuse, as spoofed, the answers that its own pods send from it. Hence the
routing rule, which makes packets for the VIP local by their mark. ICMP for the VIP (errors, above all *fragmentation needed*)
is marked too: IPVS passes it on to the endpoint. Other ports of the VIP are refused in FORWARD, or they would circle between
this node and its router.

An answer's way back is not the request's, so no node's conntrack sees both: it calls packets INVALID, and masquerade, which
needs both, cannot be. Nothing on the way may drop for that: our own firewall does so only for packets from or to addresses of
pods. Strict reverse-path filtering would drop answers, so ``rp_filter`` 1 becomes 2.

The tunnel's header takes 20 bytes of a packet (IPv6: 40). Segments that fit are asked for in the only place where the client
learns it: the endpoint's SYN-ACK, as it leaves the node.

Chains, jumps, rule and route stand only while there is such a Service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kuberouterpy import sysctls
from kuberouterpy.cluster import Service
from kuberouterpy.config import Config
from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    Entry,
    EntryKey,
    Forward,
    Jump,
    JumpKey,
    NextHop,
    Object,
    PodTunnel,
    PodTunnelKey,
    RealServer,
    RealServerKey,
    Route,
    RouteKey,
    RoutingRule,
    RoutingRuleKey,
    Rule,
    Set,
    SetKey,
    Table,
    VirtualServer,
)
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import BRIDGE_LINK, Host
from kuberouterpy.protocol import Protocol
from proxy import marks
from proxy.endpoints import Backend
from proxy.masquerade import MAX_ELEMENTS, SERVICES_CHAIN, set_name

ANNOTATION: Final = "kube-router.io/service.dsr"
TUNNEL: Final = "tunnel"
"""The one method there is."""
CHAIN: Final = "KUBE-ROUTER-DSR"
TABLE: Final = 78
"""kube-router's table ``kube-router-dsr``."""
PRIORITY: Final = 32764
"""kube-router's."""
OLD_TABLE: Final = 79
"""kube-router's ``external_ip``, with a route for each such address; not used here, swept."""
OLD_PRIORITY: Final = 32765
"""Of the rule that leads everything to it."""

_PORTS: Final = "kube-router-dsr"
_VIPS: Final = "kube-router-dsr-vips"
_TYPES: Final = {_PORTS: "hash:ip,port", _VIPS: "hash:ip"}
SETS: Final = frozenset(set_name(name, family) for name in _TYPES for family in Family)
_SCHEDULER: Final = "kube-router.io/service.scheduler"
_EARLY: Final = -7
"""Before the marks of clients inside this node, which must win."""
_HEADERS_BYTES: Final = {Family.IPV4: 60, Family.IPV6: 100}
"""The tunnel's header, the packet's own and TCP's without options: 20+20+20, 40+40+20."""
_ERRORS: Final = marks.of_direct("icmp")
"""Mark of what no virtual server is asked for."""


def asks(service: Service) -> bool:
    """Return whether a Service asks for direct server return."""
    return service.annotations.get(ANNOTATION) == TUNNEL


def mark(service: Service, *parts: str) -> int:
    """Return the mark of a virtual server of a Service."""
    return marks.of_direct(str(service.ref), *parts)


# --- what all such Services share ---------------------------------------------------------------------------------------


def base(host: Host) -> Iterator[Object]:
    """Yield the sets."""
    for family in host.families:
        for name, type_ in _TYPES.items():
            yield Set(SetKey(set_name(name, family)), family, type_, max_elements=MAX_ELEMENTS, marks=name == _PORTS)


def shared(services: Iterable[Service], host: Host, config: Config, *, pod_mtu: int) -> Iterator[Object]:
    """Yield chains, jumps, routing and settings; nothing but one setting where no Service asks.

    ``pod_mtu`` is the MTU in bytes of the way to pods, 0 where it is not known.
    """
    asking = [one for one in services if asks(one)]
    by_hash = any(one.annotations.get(_SCHEDULER, config.ipvs_scheduler) == "mh" for one in asking)
    # Without such a Service it goes back to 0, as kube-router has it.
    yield sysctls.SLOPPY_TCP.sysctl(value=str(int(by_hash)))
    if not asking:
        return
    for family in host.families:
        yield from _marking(family, pod_mtu)
        yield RoutingRule(RoutingRuleKey(family, PRIORITY, fwmark=marks.DIRECT, fwmask=marks.DIRECT_MASK), TABLE)
        yield Route(RouteKey(TABLE, family.everything), (NextHop(link="lo"),), kind="local")
    for link in dict.fromkeys(("all", BRIDGE_LINK, *(subnet.link for subnet in host.subnets))):
        yield sysctls.REVERSE_PATH.sysctl(link=link)


def _marking(family: Family, pod_mtu: int) -> Iterator[Object]:
    ports, vips = set_name(_PORTS, family), set_name(_VIPS, family)
    to_vip = ("-m", "set", "--match-set", vips, "dst")
    rules = [
        Rule(
            ("-m", "mark", "--mark", f"{marks.DIRECT:#x}/{marks.DIRECT_MASK:#x}", "-m", "ipvs", "--ipvs"),
            ("MARK", "--set-xmark", "0x0/0xffffffff"),
            "what IPVS sends on is routed anew by NAT, and must not come back by its mark",
        ),
        Rule(
            ("-p", family.icmp, *to_vip),
            ("MARK", "--set-xmark", f"{_ERRORS:#x}/0xffffffff"),
            "errors are for the endpoint",
        ),
        Rule((), ("SET", "--map-set", ports, "dst,dst", "--map-mark"), "to a Service with direct server return"),
    ]
    if pod_mtu:
        segment = pod_mtu - _HEADERS_BYTES[family]
        opening = ("-p", "tcp", "--tcp-flags", "SYN,RST", "SYN", "-m", "set", "--match-set", ports, "src,src")
        rules.append(Rule(opening, ("TCPMSS", "--set-mss", str(segment)), "the tunnel's header must fit as well"))
    yield Chain(ChainKey(family, Table.MANGLE, CHAIN), tuple(rules))
    for hook in ("PREROUTING", "OUTPUT"):
        jump = Rule((), (CHAIN,), "direct server return")
        yield Jump(JumpKey(family, Table.MANGLE, hook, CHAIN), jump, rank=_EARLY)
    unused = Rule(to_vip, (SERVICES_CHAIN,), "to a VIP that no node holds")
    yield Jump(JumpKey(family, Table.FILTER, "FORWARD", SERVICES_CHAIN), unused)


# --- what one Service wants ---------------------------------------------------------------------------------------------


def address_entry(address: str) -> Entry:
    """Return what marks an address as one that no node holds."""
    return Entry(EntryKey(set_name(_VIPS, family_of(address)), address))


def port_entry(address: str, port: int, protocol: Protocol, mark: int, *, reason: str) -> Entry:
    """Return what leads an address and port to the virtual server of ``mark``."""
    key = EntryKey(set_name(_PORTS, family_of(address)), f"{address},{protocol}:{port}")
    return Entry(key, comment=reason, mark=mark)


def obstacle(backend: Backend, port: int, hosts: Iterable[str]) -> str:
    """Return why no tunnel can lead to an endpoint, or an empty string. ``hosts`` are addresses of nodes."""
    if backend.address in hosts:
        return f"endpoint {backend.address} is on the host network, where a tunnel would take the node's own traffic"
    if backend.port != port:
        return f"endpoint {backend.address} listens on port {backend.port}: a tunnel changes no port"
    return ""


def servers(
    server: VirtualServer, weighed: Iterable[tuple[Backend, int]], port: int, hosts: Iterable[str]
) -> Iterator[Object]:
    """Yield a virtual server with its real servers: by tunnel, and masqueraded where none can be."""
    reals = [
        RealServer(
            RealServerKey(server.key, backend.address, backend.port),
            weight=weight,
            forward=Forward.MASQUERADE if obstacle(backend, port, hosts) else Forward.TUNNEL,
        )
        for backend, weight in weighed
    ]
    yield server
    yield from reals


def tunnels(address: str, port: int, found: Iterable[Backend], host: Host, hosts: Iterable[str]) -> Iterator[PodTunnel]:
    """Yield what lets endpoints on this node answer for an address.

    Other nodes may choose an endpoint that this one does not (hints, policy), so all that stand in a slice are prepared.
    """
    for backend in found:
        if backend.endpoint.node == host.name and not obstacle(backend, port, hosts):
            yield PodTunnel(PodTunnelKey(backend.address, address))
