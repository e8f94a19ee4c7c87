"""What a person asked for, read once: a kind and a name, an address with port and protocol, or a prefix."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Final

from kuberouterpy.cluster import Kind, NetworkPolicy, Node, Pod, Ref, Service
from kuberouterpy.dataplane import (
    ChainKey,
    EntryKey,
    JumpKey,
    Key,
    LinkKey,
    LocalAddressKey,
    NeighborKey,
    PathKey,
    RealServerKey,
    RouteKey,
    RoutingRuleKey,
    SetKey,
    SysctlKey,
    VirtualServerKey,
)
from kuberouterpy.errors import KubeRouterError
from kuberouterpy.loop import Loop
from kuberouterpy.text import kind_of, name_of

FACTS: Final[dict[str, Kind]] = {"service": Service, "pod": Pod, "policy": NetworkPolicy, "node": Node}
MOST: Final = 5000
"""Names a shell is told; it shows fewer."""
ALIASES: Final = {
    "svc": "service",
    "services": "service",
    "pods": "pod",
    "po": "pod",
    "netpol": "policy",
    "networkpolicy": "policy",
    "nodes": "node",
    "peer": "neighbor",
    "ipset": "set",
    "vip": "address",
    "prefix": "route",
}
KEYS_NAMED: Final[dict[str, tuple[type, ...]]] = {
    "chain": (ChainKey,),
    "set": (SetKey,),
    "neighbor": (NeighborKey,),
    "route": (RouteKey, PathKey),
    "path": (PathKey,),
    "link": (LinkKey,),
    "sysctl": (SysctlKey,),
    "rule": (RoutingRuleKey,),
}
KIND_WORDS: Final = (*FACTS, *ALIASES, *KEYS_NAMED, "address")
"""Words that may stand before a subject's name."""


class UnknownSubject(KubeRouterError):
    """Nothing is known of what was asked for."""


_RULE_ID: Final = re.compile(r"(?:kr:)?([A-Z2-7]{8})")
"""As a rule's comment begins."""


class Subject:
    """What a person asked for, read once."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        word, slash, rest = self.text.partition("/")
        word = ALIASES.get(word.lower(), word.lower())
        self.kind = word if slash and (word in FACTS or word in KEYS_NAMED or word == "address") else ""
        self.name = rest if self.kind else self.text
        if self.name.startswith(("net.", "kernel.")) and "/" not in self.name:  # as sysctl(8) prints it
            self.name = self.name.replace(".", "/")
        found = _RULE_ID.fullmatch(self.name)
        self.rule = found[1] if found else ""
        self.address, self.port, self.protocol = read_socket(self.name)
        self.prefix = _prefix_of(self.name)

    @property
    def ref(self) -> Ref:
        """Namespace and name; a node has no namespace, others default's where none is given."""
        if self.kind == "node":
            return Ref("", self.name)
        namespace, slash, name = self.name.partition("/")
        return Ref(namespace, name) if slash else Ref("default", self.name)

    def names(self, key: Key) -> bool:
        """Whether ``key`` is what is asked for."""
        if self.kind in FACTS:
            return False
        if self.kind in KEYS_NAMED and not isinstance(key, KEYS_NAMED[self.kind]):
            return False
        if self.address:
            return self._holds(key)
        if self.name == name_of(key) or self.text == f"{kind_of(key)} {name_of(key)}":
            return True
        match key:
            case ChainKey(name=name) | SetKey(name=name) | LinkKey(name=name):
                return self.name == name
            case JumpKey(chain=name):
                return self.name == name
            case EntryKey(set=name, member=member):
                return self.name == name or (bool(self.prefix) and member == self.prefix)
            case RouteKey(destination=prefix) | PathKey(prefix=prefix) | RoutingRuleKey(source=prefix):
                return bool(self.prefix) and prefix == self.prefix
            case _:
                return False

    def _holds(self, key: Key) -> bool:
        match key:
            case VirtualServerKey(protocol=protocol, address=address, port=port):
                return self._is(protocol, address, port)
            case RealServerKey(server, address, port):
                return self._is(server.protocol, address, port) or self._holds(server)
            case EntryKey(member=member):
                address, comma, port_text = member.partition(",")
                if self.port and (not comma or port_text.rpartition(":")[2] != str(self.port)):
                    return False
                return address == self.address
            case _ if self.port:
                return False
            case LocalAddressKey(address=address) | NeighborKey(address=address):
                return address == self.address
            case RouteKey(destination=prefix) | PathKey(prefix=prefix) | RoutingRuleKey(source=prefix):
                return bool(prefix) and inside(self.address, prefix)
            case _:
                return False

    def _is(self, protocol: str, address: str, port: int) -> bool:
        return address == self.address and self.port in {0, port} and self.protocol in {"", str(protocol)}

    def noted(self, subject: str) -> bool:
        """Whether a note about ``subject`` answers the question."""
        if self.address:
            words = subject.replace(",", " ").split()
            return self.address in words and (not self.port or "port" not in words or str(self.port) in words)
        return subject == (str(self.ref) if self.kind in FACTS and self.kind != "node" else self.name)


def read_socket(text: str) -> tuple[str, int, str]:
    """Return (address, port, protocol) of ``tcp/10.96.0.10:80``, ``[fd00::1]:53``, ``tcp 10.96.0.10:80``, ``10.1.2.3``."""
    protocol = ""
    for separator in ("/", " "):
        word, found, rest = text.partition(separator)
        if found and word.lower() in {"tcp", "udp", "sctp"}:
            protocol, text = word.lower(), rest.strip()
    port = ""
    host = text
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return str(ip_address(host)), int(port) if port else 0, protocol
    except ValueError:
        return "", 0, ""


def _prefix_of(text: str) -> str:
    try:
        return str(ip_network(text, strict=False)) if "/" in text else ""
    except ValueError:
        return ""


def inside(address: str, prefix: str) -> bool:
    one, network = ip_address(address), ip_network(prefix)
    return one.version == network.version and one in network


def subjects(loop: Loop) -> list[str]:
    """Return names that ``explain`` takes, for shells to complete: what the cluster calls things, servers and neighbors."""
    found = [
        f"{word}/{ref.namespace}/{ref.name}" if ref.namespace else f"{word}/{ref.name}"
        for word, kind in FACTS.items()
        for ref in loop.store.table(kind).refs()
    ]
    for key in loop.tracker.known():
        match key:
            case VirtualServerKey(fwmark=0):
                found.append(str(key).replace(" ", "/", 1))
            case NeighborKey(address=address):
                found.append(f"neighbor/{address}")
            case _:
                pass
    return sorted(found)[:MOST]
