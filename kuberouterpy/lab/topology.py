"""The plan of a lab as pure data: names, namespaces, links and addresses. Nothing here touches a kernel.

::

    client (external)          api (the guest's own namespace)
     172.31.0.10                172.30.0.10
        |                           |
        +---------- router ---------+        172.3x.y.1 on every subnet; BGP speaker, AS 64500
                    |    |
         172.30.1.1 |    | 172.30.2.1
         fabric-1 --+    +-- fabric-2        two subnets, each a bridge
           |    |              |
        node-1 node-2        node-3          172.30.S.(10 + number of the node)

IPv6 has the same shape: ``fd30:0:0:S::(10 + number)``, the client in ``fd31::/64``. With one subnet all nodes are on the first
and the second has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from kuberouterpy.errors import ConfigError
from kuberouterpy.family import FAMILIES, IPV4, IPV6, Family

MAX_NODES: Final = 9
ROUTER: Final = "router"
CLIENT: Final = "client"
API_PORT: Final = 6443
ROUTER_ASN: Final = 64500
CLUSTER_ASN: Final = 64512

_FAMILIES: Final = {"ipv4": (IPV4,), "ipv6": (IPV6,), "dual": (IPV4, IPV6)}
_CLUSTER: Final = {IPV4: "10.244.0.0/16", IPV6: "fd00:10:244::/56"}
_SERVICES: Final = {IPV4: "10.96.0.0/16", IPV6: "fd00:10:96::/112"}
_ROUTER_HOST: Final = 1
_HOST: Final = 10


class Address(msgspec.Struct, frozen=True):
    """One address of a link."""

    address: str
    """Canonical text."""
    prefix: int
    """Prefix length of the subnet."""
    family: Family
    """Its family."""

    @property
    def text(self) -> str:
        """``ADDRESS/PREFIX``, as ``ip address add`` takes it."""
        return f"{self.address}/{self.prefix}"


class Subnet(msgspec.Struct, frozen=True):
    """One subnet behind the router, and the bridge that is its wire."""

    name: str
    """Name of the bridge in the guest's own namespace, and of the router's link to it."""
    number: int
    """Third group of its addresses; 0 is the API server's, the client's counts apart."""
    external: bool = False
    """Whether it lies outside the cluster."""

    def prefix(self, family: Family) -> str:
        """Return the subnet of one family."""
        if family is IPV4:
            return f"172.31.{self.number}.0/24" if self.external else f"172.30.{self.number}.0/24"
        head = "fd31" if self.external else "fd30"
        return f"{head}:0:0:{self.number}::/64" if self.number else f"{head}::/64"

    def address(self, family: Family, host: int) -> Address:
        """Return the address of one host in it."""
        network, _, length = self.prefix(family).partition("/")
        text = network.removesuffix("0") + str(host) if family is IPV4 else f"{network}{host}"
        return Address(text, int(length), family)


MANAGEMENT: Final = Subnet("management", 0)
FABRIC: Final = (Subnet("fabric-1", 1), Subnet("fabric-2", 2))
EXTERNAL: Final = Subnet("external", 0, external=True)
SUBNETS: Final = (MANAGEMENT, *FABRIC, EXTERNAL)


class Station(msgspec.Struct, frozen=True):
    """One network namespace with one link to one subnet: a node or the client."""

    name: str
    """Name of the namespace; for a node also of its Node object."""
    subnet: Subnet
    """Where its ``eth0`` is."""
    addresses: tuple[Address, ...]
    """Of ``eth0``, in the order of the topology's families."""
    gateways: tuple[Address, ...]
    """The router's address in the same subnet, one per family."""

    @property
    def netns(self) -> str:
        """Path of the namespace."""
        return f"/run/netns/{self.name}"

    @property
    def directory(self) -> str:
        """Where a node keeps what is its own."""
        return f"/run/lab/nodes/{self.name}"


class Topology(msgspec.Struct, frozen=True):
    """A whole lab."""

    families: tuple[Family, ...]
    """Families of the cluster, the default one first."""
    nodes: tuple[Station, ...]
    """The nodes."""
    client: Station
    """The machine outside the cluster."""
    secure: bool = False
    """Whether the API server speaks TLS and wants a token, as a real one does."""

    @property
    def api(self) -> tuple[Address, ...]:
        """Addresses of the API server."""
        return tuple(MANAGEMENT.address(family, _HOST) for family in self.families)

    @property
    def server(self) -> str:
        """URL of the API server."""
        address = self.api[0]
        return f"{'https' if self.secure else 'http'}://{bracketed(address.address)}:{API_PORT}"

    @property
    def cluster_cidrs(self) -> tuple[str, ...]:
        """Where pod CIDRs are cut from."""
        return tuple(_CLUSTER[family] for family in self.families)

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        """Where cluster IPs are taken from."""
        return tuple(_SERVICES[family] for family in self.families)

    def gateways(self, subnet: Subnet) -> tuple[Address, ...]:
        """Return the router's addresses in a subnet."""
        return tuple(subnet.address(family, _ROUTER_HOST) for family in self.families)

    def station(self, name: str) -> Station:
        """Return a node or the client by name. Errors: ConfigError names those there are."""
        for station in (*self.nodes, self.client):
            if station.name == name:
                return station
        known = ", ".join(station.name for station in (*self.nodes, self.client))
        raise ConfigError(f"no node {name!r} in this lab; there are {known}")


def plan(nodes: int = 3, families: str = "dual", subnets: int = 2, *, secure: bool = False) -> Topology:
    """Return the plan of a lab.

    With two subnets, every third node (the last of three) is on the second. ``secure``: with a real API server.
    Errors: ConfigError names what cannot be built.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise ConfigError(f"--nodes {nodes}: a lab has 1 to {MAX_NODES} nodes")
    if families not in _FAMILIES:
        raise ConfigError(f"--families {families}: choose from {', '.join(_FAMILIES)}")
    if subnets not in (1, 2):
        raise ConfigError(f"--subnets {subnets}: nodes are spread over 1 or 2 subnets")
    chosen = _FAMILIES[families]
    placed = (_station(f"node-{n}", _HOST + n, _subnet_of(n, subnets), chosen) for n in range(1, nodes + 1))
    return Topology(chosen, tuple(placed), _station(CLIENT, _HOST, EXTERNAL, chosen), secure)


def bracketed(address: str) -> str:
    """Return an address as a URL wants it."""
    return f"[{address}]" if ":" in address else address


def _subnet_of(number: int, subnets: int) -> Subnet:
    return FABRIC[1] if subnets == 2 and number % 3 == 0 else FABRIC[0]


def _station(name: str, host: int, subnet: Subnet, families: Iterable[Family]) -> Station:
    chosen = tuple(families)
    return Station(
        name,
        subnet,
        tuple(subnet.address(family, host) for family in chosen),
        tuple(subnet.address(family, _ROUTER_HOST) for family in chosen),
    )


assert FAMILIES == (IPV4, IPV6), "a third family needs an address plan"
