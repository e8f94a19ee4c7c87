"""The ends of a trace: what a person wrote for source and destination, as addresses, ports and nodes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from msgspec import Struct

from kuberouterpy.answers.subjects import ALIASES, UnknownSubject, read_socket
from kuberouterpy.cluster import Node, Pod, Ref, Service
from kuberouterpy.family import family_of
from kuberouterpy.host import addresses_of
from kuberouterpy.loop import Loop


class End(Struct, frozen=True):
    """An end of a packet."""

    address: str
    """Empty: the kernel chooses it."""
    node: str
    """Where it is; empty: outside, met first on this node."""
    origin: str = "outside"
    port: int = 0
    protocol: str = "tcp"

    @property
    def family(self) -> int:
        """IP version; 0: any."""
        return family_of(self.address) if self.address else 0


def ends_of(loop: Loop, text: str, *, protocol: str, client: bool) -> list[End]:
    """Return the addresses that a text means, as a client's or a server's. Errors: UnknownSubject says what to write."""
    word, slash, rest = text.partition("/")
    kind = ALIASES.get(word.lower(), word.lower())
    name, port, spoken = _port_of(rest if slash else "")
    if kind == "pod" and slash:
        return _pod_ends(loop, name, port=port, protocol=protocol or spoken, client=client)
    if kind == "service" and slash and not client:
        return list(_service_ends(loop, name, port=port, protocol=protocol or spoken))
    if kind == "node" and client:
        return [End("", rest or loop.host.name, "node")]
    if kind == "node":
        record = _node(loop, name)
        return [
            End(one, record.ref.name, "node", _numbered(port), protocol or spoken or "tcp")
            for one in addresses_of(record)
        ]
    address, number, spoken = read_socket(text)
    if not address:
        hint = (
            "pod/NAMESPACE/NAME, node, an address"
            if client
            else "service/NAMESPACE/NAME:PORT, pod/...:PORT, ADDRESS:PORT"
        )
        raise UnknownSubject(f"{text} is no {'source' if client else 'destination'}; write {hint}")
    if not client and not number:
        raise UnknownSubject(f"{text}: to which port? write {address if ':' not in address else f'[{address}]'}:80")
    holder = next(iter(loop.store.pods.by("address", address)), None)
    if holder is not None and not holder.host_network:
        return [End(address, holder.node, "pod", number, protocol or spoken or "tcp")]
    return [End(address, "", "outside", number, protocol or spoken or "tcp")]


def _port_of(text: str) -> tuple[str, str, str]:
    """Return name, port and protocol of ``default/web:80/udp``."""
    name, _, port = text.partition(":")
    port, _, protocol = port.partition("/")
    return name, port, protocol.lower()


def _numbered(port: str) -> int:
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UnknownSubject(f"{port or 'no port'} is no port number; write ...:80")
    return int(port)


def _ref(name: str) -> Ref:
    namespace, slash, short = name.partition("/")
    return Ref(namespace, short) if slash else Ref("default", namespace)


def _near(name: str, known: Iterable[Ref]) -> str:
    """Return a hint with the name that comes nearest, or an empty string."""
    names = [str(ref) if ref.namespace else ref.name for ref in known]
    wanted = str(_ref(name)) if names and "/" in names[0] else name
    found = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def _pod_ends(loop: Loop, name: str, *, port: str, protocol: str, client: bool) -> list[End]:
    pod: Pod | None = loop.store.pods.get(_ref(name))
    if pod is None:
        raise UnknownSubject(f"no pod {_ref(name)} is known{_near(name, loop.store.pods.refs())}")
    if not pod.addresses:
        raise UnknownSubject(f"pod {pod.ref} has no address yet")
    number = 0 if client else _numbered(port)
    origin = "node" if pod.host_network else "pod"
    return [
        End("" if client and pod.host_network else one, pod.node, origin, number, protocol or "tcp")
        for one in pod.addresses
    ]


def _service_ends(loop: Loop, name: str, *, port: str, protocol: str) -> Iterator[End]:
    service: Service | None = loop.store.services.get(_ref(name))
    if service is None:
        raise UnknownSubject(f"no Service {_ref(name)} is known{_near(name, loop.store.services.refs())}")
    ports = [
        one for one in service.ports if port in {"", one.name, str(one.port)} and protocol in {"", str(one.protocol)}
    ]
    if not ports:
        told = ", ".join(f"{one.name or one.port} ({one.port}/{one.protocol})" for one in service.ports)
        raise UnknownSubject(
            f"Service {service.ref} has no port {port}{f' of {protocol}' if protocol else ''}; it has {told}"
        )
    if not service.cluster_ips:
        raise UnknownSubject(f"Service {service.ref} has no cluster IP: clients find its pods by name")
    for address in service.cluster_ips:
        yield End(address, "", "service", ports[0].port, str(ports[0].protocol))


def _node(loop: Loop, name: str) -> Node:
    record: Node | None = loop.store.nodes.get(Ref("", name or loop.host.name))
    if record is None:
        raise UnknownSubject(f"no Node {name} is known{_near(name, loop.store.nodes.refs())}")
    return record
