"""What a configuration runs, and what of IPVS is ours: said once for the agent and for a plan without one."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import firewall
import proxy
import routing
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller
from kuberouterpy.dataplane import LocalAddressKey, VirtualServerKey
from kuberouterpy.host import DUMMY_LINK
from kuberouterpy.loop import Loop


def controllers(config: Config) -> Iterator[Controller]:
    """Yield the controllers that run."""
    if config.run_service_proxy:
        yield proxy.CONTROLLER
    if config.run_router:
        yield routing.CONTROLLER
    if config.run_firewall:
        yield firewall.CONTROLLER


def is_ours(loop: Loop, key: VirtualServerKey) -> bool:
    """Return whether a listed virtual server is one an agent made: on our dummy link, a node port on an own address, a mark."""
    config = loop.config
    if key.fwmark:
        return proxy.is_mark(key.fwmark)
    networks = (ip_network(prefix) for prefix in config.excluded_cidrs)
    if any(ip_address(key.address) in one for one in networks if one.version == key.family):
        return False
    if loop.tracker.wanted(key) is not None:  # an external IP that is an address of this node
        return True
    if loop.tracker.actual(LocalAddressKey(DUMMY_LINK, key.address, key.family.host_prefix)) is not None:
        return True
    first, last = config.service_node_port_range
    return key.address in {*loop.host.node_addresses, *loop.host.addresses} and first <= key.port <= last
