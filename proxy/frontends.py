"""Where a Service listens on this host: its addresses and ports, and why it does not get some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Struct

from kuberouterpy.cluster import Service, ServicePort, ServiceType, TrafficPolicy
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Note
from kuberouterpy.family import Family, family_of
from kuberouterpy.host import Host
from proxy import dsr
from proxy.rivals import NONE, Rivals

PROXY_NAMES: Final = frozenset({"kube-router", "kuberouterpy"})
"""Values of label service.kubernetes.io/service-proxy-name that mean us."""
_SKIP_LB_IPS: Final = "kube-router.io/service.skiplbips"
_LOCAL: Final = "kube-router.io/service.local"


class Vip(StrEnum):
    """What kind of address a frontend has."""

    CLUSTER_IP = "cluster-ip"
    NODE_PORT = "node-port"
    EXTERNAL_IP = "external-ip"
    LOAD_BALANCER_IP = "load-balancer-ip"


class Frontend(Struct, frozen=True):
    """One address and port this host listens on for one service port."""

    vip: Vip
    address: str
    number: int
    """Port listened on: ``port``, or ``nodePort`` for a node port."""
    port: ServicePort
    bound: bool = True
    """Whether the address is a VIP that must be bound, all its other ports refused. An address of this node never is:
    its other ports are the node's."""
    direct: bool = False
    """Whether endpoints answer from it themselves. Such an address is a VIP, but stands on no node."""

    @property
    def family(self) -> Family:
        """Family of the address."""
        return family_of(self.address)

    def __str__(self) -> str:
        return f"{self.port.protocol} {self.address} port {self.number}"


def ignored(service: Service) -> str:
    """Return why a proxy must not touch a Service, or an empty string (services.md 0.1)."""
    if service.type is ServiceType.EXTERNAL_NAME:
        return "external-name"
    if not service.cluster_ips:
        return "headless"
    if service.headless_label:
        return "headless-label"
    if service.proxy_name is not None and service.proxy_name not in PROXY_NAMES:
        return f"another-proxy: {service.proxy_name or 'empty name'}"
    return ""


def policy_of(service: Service, vip: Vip) -> TrafficPolicy:
    """Return the traffic policy that rules a kind of address; the two policies are independent (D18)."""
    local = service.annotations.get(_LOCAL) == "true"
    if vip is Vip.CLUSTER_IP:
        return TrafficPolicy.CLUSTER if local else service.internal_policy
    return TrafficPolicy.LOCAL if local else service.external_policy


def listening(service: Service, host: Host, config: Config, rivals: Rivals = NONE) -> tuple[list[Frontend], list[Note]]:
    """Return every frontend of a Service on this host, and a note for each address or port that it does not get."""
    frontends, notes = _claimed(service, host, config, rivals)
    holders = {
        (one.address, one.number, one.port.protocol): rival.ref
        for rival in reversed(rivals.services)
        if not ignored(rival)
        for one in _claimed(rival, host, config, rivals)[0]
    }
    granted: list[Frontend] = []
    for one in frontends:
        holder = holders.get((one.address, one.number, one.port.protocol))
        if holder is None:
            granted.append(one)
        else:
            notes.append(Note(str(one), f"contested: {holder} has it", event=True))
    return granted, notes


def _claimed(service: Service, host: Host, config: Config, rivals: Rivals) -> tuple[list[Frontend], list[Note]]:
    notes: list[Note] = []
    vips = [(Vip.CLUSTER_IP, address) for address in service.cluster_ips]
    vips += [(Vip.EXTERNAL_IP, one) for one in service.external_ips if _allowed(one, Vip.EXTERNAL_IP, config, notes)]
    vips += [
        (Vip.LOAD_BALANCER_IP, one)
        for one in _ingress(service, notes)
        if _allowed(one, Vip.LOAD_BALANCER_IP, config, notes)
    ]
    own = {*host.node_addresses, *host.addresses}
    frontends: list[Frontend] = []
    for vip, address in vips:
        if _inside(address, config.excluded_cidrs):
            notes.append(
                Note(address, f"{vip}-excluded: inside --excluded-cidrs, left to whoever serves it", event=True)
            )
        elif address in rivals.nodes and address not in own:
            notes.append(Note(address, f"{vip}-refused: the address of node {rivals.nodes[address]}, which serves it"))
        elif family_of(address) in host.families:
            direct = dsr.asks(service) and vip is not Vip.CLUSTER_IP and not {address} & (own | rivals.plain)
            bound = not direct and address not in own
            frontends += [Frontend(vip, address, port.port, port, bound, direct) for port in service.ports]
    node_ports = [port for port in service.ports if port.node_port]
    for address in _node_port_addresses(service, host, config) if node_ports else ():
        frontends += [Frontend(Vip.NODE_PORT, address, port.node_port, port, bound=False) for port in node_ports]
    return frontends, notes


def _ingress(service: Service, notes: list[Note]) -> Iterator[str]:
    """Yield the load balancer's addresses that nodes serve.

    A status that outlived a change of type counts no more, whoever ought to have emptied it (F1).
    """
    if service.type is not ServiceType.LOAD_BALANCER or service.annotations.get(_SKIP_LB_IPS) == "true":
        return
    for one in service.load_balancer:
        if one.proxy:
            notes.append(Note(one.address, "ip-mode-proxy: nodes leave it to the load balancer"))
        else:
            yield one.address


def _allowed(address: str, vip: Vip, config: Config, notes: list[Note]) -> bool:
    """Whether a VIP that anyone who may write Services can claim is inside the configured ranges (CVE-2020-8554)."""
    if _inside(address, config.service_cluster_ip_range):
        notes.append(Note(address, f"{vip}-refused: inside --service-cluster-ip-range", event=True))
        return False
    if not config.strict_external_ip_validation:
        return True
    flag = "--service-external-ip-range" if vip is Vip.EXTERNAL_IP else "--loadbalancer-ip-range"
    ranges = config.service_external_ip_range if vip is Vip.EXTERNAL_IP else config.loadbalancer_ip_range
    if _inside(address, ranges):
        return True
    missing = f"add {address}/{family_of(address).host_prefix} or a range around it"
    reason = f"{vip}-refused: outside {flag} {','.join(ranges) or '(not set)'}: {missing}"
    notes.append(Note(address, reason, event=True))
    return False


def _node_port_addresses(service: Service, host: Host, config: Config) -> tuple[str, ...]:
    families = service.families or tuple(family_of(address) for address in service.cluster_ips)
    # A Node that tells no address (yet, or no more) must not close the ports of those that are there.
    candidates: Iterable[str] = host.node_addresses or host.addresses
    if config.nodeport_bindon_all_ip or config.nodeport_addresses:
        candidates = (*host.node_addresses, *host.addresses)
    if config.nodeport_addresses:
        candidates = (one for one in candidates if _inside(one, config.nodeport_addresses))
    served = (one for one in candidates if family_of(one) in families and not _inside(one, config.excluded_cidrs))
    return tuple(dict.fromkeys(served))


def _inside(address: str, ranges: Iterable[str]) -> bool:
    wanted = ip_address(address)
    networks = (ip_network(prefix) for prefix in ranges)
    return any(wanted.version == network.version and wanted in network for network in networks)
