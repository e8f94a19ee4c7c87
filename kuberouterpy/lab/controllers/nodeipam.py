"""Gives every node one pod CIDR per family, cut from the cluster's.

A node that has its CIDRs keeps them. A node whose name ends in a number gets the CIDR of that number while it is free
(``node-2`` gets 10.244.2.0/24): examples and tests can then name addresses. Others get the lowest free one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from kuberouterpy.lab.client import NODES, Key, Object, Resource
from kuberouterpy.lab.controllers.loop import WHOLE, Api, Controller, View

Network = IPv4Network | IPv6Network
_NODE_PREFIX: Final = {4: 24, 6: 64}


def controller(cluster_cidrs: Sequence[str]) -> Controller:
    """Return the controller for these cluster CIDRs, one per family, in the order nodes shall have them."""
    networks = tuple(ip_network(cidr) for cidr in cluster_cidrs)
    return Controller("node-ipam", _affected, partial(_reconcile, networks))


def assign(clusters: Sequence[Network], nodes: Iterable[Object]) -> dict[str, list[str]]:
    """Return the pod CIDRs of each node that has none yet, in order of their names.

    Errors: ValueError names the node that no free CIDR is left for.
    """
    nodes = list(nodes)
    used = {cidr for node in nodes for cidr in node["spec"].get("podCIDRs") or []}
    given: dict[str, list[str]] = {}
    for name in sorted(node["metadata"]["name"] for node in nodes if not node["spec"].get("podCIDRs")):
        given[name] = [str(_free(cluster, name, used)) for cluster in clusters]
        used.update(given[name])
    return given


def _free(cluster: Network, name: str, used: set[str]) -> Network:
    length = max(_NODE_PREFIX[cluster.version], cluster.prefixlen)
    count = 1 << (length - cluster.prefixlen)
    for index in _wishes(name, count):
        network = _nth(cluster, length, index)
        if str(network) not in used:
            return network
    raise ValueError(f"no free /{length} in {cluster} for node {name}")


def _wishes(name: str, count: int) -> Iterator[int]:
    number = re.search(r"(\d{1,6})$", name)
    if number and int(number[1]) < count:
        yield int(number[1])
    yield from range(count)


def _nth(cluster: Network, length: int, index: int) -> Network:
    size = cluster.max_prefixlen - length
    return type(cluster)((int(cluster.network_address) + (index << size), length))


def _affected(_view: View, resource: Resource, node: Object) -> list[Key]:
    return [WHOLE] if resource == NODES and not node["spec"].get("podCIDRs") else []


def _reconcile(clusters: Sequence[Network], view: View, api: Api, _key: Key) -> None:
    for name, cidrs in assign(clusters, view.all(NODES)).items():
        api.patch(NODES, ("", name), {"spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}})
