"""Objects as lines of text: what ``plan``, ``explain``, logs and scenario files show.

One line an object, sorted by kind, the owner last. The words follow the tools people know: ``ipvsadm``, ``ipset``,
``iptables``, ``ip``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kuberouterpy.dataplane import (
    KIND_OF_KEY,
    KINDS,
    Chain,
    ChainKey,
    CniConfig,
    CniConfigKey,
    Entry,
    EntryKey,
    FarEnd,
    FarEndKey,
    Flows,
    FlowsKey,
    Forward,
    FouPort,
    FouPortKey,
    HealthCheck,
    HealthCheckKey,
    Jump,
    JumpKey,
    Key,
    Link,
    LinkKey,
    LocalAddress,
    LocalAddressKey,
    Neighbor,
    NeighborKey,
    NextHop,
    Object,
    ObjectKind,
    Op,
    Owner,
    Path,
    PathKey,
    PodTunnel,
    PodTunnelKey,
    RealServer,
    RealServerKey,
    Route,
    RouteKey,
    RoutePolicy,
    RoutePolicyKey,
    RoutingRule,
    RoutingRuleKey,
    Set,
    SetKey,
    Speaker,
    SpeakerKey,
    Sysctl,
    SysctlKey,
    VirtualServer,
    VirtualServerKey,
)

_WORDS: Final = {
    Sysctl: "sysctl",
    FouPort: "fou",
    Link: "link",
    LocalAddress: "address",
    PodTunnel: "tunnel",
    Set: "set",
    Entry: "entry",
    Chain: "chain",
    Jump: "jump",
    VirtualServer: "virtual",
    RealServer: "real",
    Flows: "flows",
    HealthCheck: "health",
    FarEnd: "far-end",
    Route: "route",
    RoutingRule: "rule",
    CniConfig: "cni",
    Speaker: "speaker",
    RoutePolicy: "policy",
    Neighbor: "neighbor",
    Path: "path",
}
_FORWARDS: Final = {
    Forward.MASQUERADE: "masq",
    Forward.LOCAL: "local",
    Forward.TUNNEL: "tunnel",
    Forward.ROUTE: "route",
}
_ORDER: Final = {kind: index for index, kind in enumerate(KINDS)}


def word_of(kind: ObjectKind) -> str:
    """Return the word for a kind of object."""
    return _WORDS[kind]


def kind_of(key: Key) -> str:
    """Return the word for a key's kind: ``virtual``, ``real``, ``chain``, ..."""
    return _WORDS[KIND_OF_KEY[type(key)]]


def name_of(key: Key) -> str:
    """Return a key as people write it."""
    match key:
        case SysctlKey(path) | CniConfigKey(path):
            return path
        case LinkKey(name) | SetKey(name):
            return name
        case FouPortKey(family, port):
            return f"v{family:d} udp {port}"
        case FarEndKey(link, address):
            return f"{link} {address}"
        case LocalAddressKey(link, address, prefix):
            return f"{link} {address}/{prefix}"
        case PodTunnelKey(pod, vip):
            return f"pod {pod} {vip}"
        case EntryKey(name, member):
            return f"{name} {member}"
        case ChainKey(family, table, name):
            return f"v{family:d} {table} {name}"
        case JumpKey(family, table, parent, chain):
            return f"v{family:d} {table} {parent} -> {chain}"
        case RouteKey(table, destination):
            return destination if table == 254 else f"{destination} table {table}"
        case RoutingRuleKey(family, priority, source, fwmark, fwmask):
            mark = f"fwmark {fwmark:#x}{f'/{fwmask:#x}' if fwmask else ''}" if fwmark else ""
            selector = " ".join(text for text in (source and f"from {source}", mark) if text)
            return f"v{family:d} {priority}: {selector or 'from all'}"
        case SpeakerKey():
            return "bgp"
        case NeighborKey(address):
            return address
        case RoutePolicyKey(direction):
            return direction
        case PathKey(prefix):
            return prefix
        case HealthCheckKey(port):
            return f"port {port}"
        case VirtualServerKey() | RealServerKey() | FlowsKey():
            return str(key)


def line(value: Object) -> str:
    """Return one object as a line; a chain as several, one a rule."""
    head = f"{_WORDS[type(value)]:<9} {name_of(value.key)}"
    rest = _details(value)
    return head + rest if rest.startswith("\n") else f"{head} {rest}".rstrip()


def lines(objects: Iterable[tuple[Object, Owner | None]]) -> list[str]:
    """Return objects with their owners as sorted lines."""
    ordered = sorted(objects, key=lambda pair: (_ORDER[type(pair[0])], pair[0].key))
    return [line for value, owner in ordered for line in _owned(value, owner)]


def op_line(op: Op) -> str:
    """Return an operation as a line: ``update real tcp 10.96.0.10:80 -> 10.1.2.3:8080 weight 0 masq``."""
    if op.value is None:
        return f"{op.verb} {kind_of(op.key)} {name_of(op.key)}"
    head, *more = line(op.value).split("\n")
    word, _, rest = head.partition(" ")
    return "\n".join((f"{op.verb} {word} {rest.lstrip()}", *more))


def _owned(value: Object, owner: Owner | None) -> list[str]:
    head, *more = line(value).split("\n")
    return [f"{head:<72} # {owner}" if owner else head, *more]


def _hop(hop: NextHop) -> str:
    words = (hop.gateway and f"via {hop.gateway}", hop.link and f"dev {hop.link}", hop.on_link and "onlink")
    return " ".join(word for word in words if word)


def _details(value: Object) -> str:
    match value:
        case Sysctl(value=text):
            return f"= {text}"
        case Link():
            words = {
                "vni": value.vni,
                "local": value.local,
                "remote": value.remote,
                "port": value.port,
                "mtu": value.mtu,
            }
            return " ".join((value.kind, *(f"{word} {told}" for word, told in words.items() if told)))
        case FouPort():
            return "gue"
        case FarEnd():
            return f"lladdr {value.hardware} via {value.gateway}"
        case Set():
            return f"{value.type} {value.family.ipset}"
        case Entry():
            return " ".join(
                word for word in (value.nomatch and "nomatch", value.mark and f"mark {value.mark:#x}") if word
            )
        case Chain():
            return "".join(f"\n            {' '.join((*rule.match, '->', *rule.target))}" for rule in value.rules)
        case Jump():
            return f"{' '.join(value.rule.match)} {'first' if value.first else 'last'}".strip()
        case VirtualServer():
            flags = f" flags {value.flags:#x}" if value.flags else ""
            return f"{value.scheduler}{flags}{f' persistent {value.persistence_s}' if value.persistence_s else ''}"
        case RealServer():
            return f"weight {value.weight} {_FORWARDS[value.forward]}"
        case Flows():
            return f"answered by {','.join(value.answering) or 'nobody'}"
        case HealthCheck():
            return f"{value.namespace}/{value.name} endpoints {value.endpoints}"
        case Route():
            hops = " ".join(map(_hop, value.next_hops))
            return f"{hops}{f' src {value.source}' if value.source else ''}"
        case RoutingRule():
            return f"lookup {value.table}"
        case CniConfig():
            return f"{value.bridge} {','.join(value.ranges)}{f' mtu {value.mtu}' if value.mtu else ''}"
        case Speaker():
            return f"asn {value.asn} id {value.router_id}"
        case RoutePolicy():
            return f"{len(value.statements)} statements, else {'accept' if value.accept_by_default else 'reject'}"
        case Neighbor():
            return f"asn {value.asn} {value.description}".rstrip()
        case Path():
            return f"next-hop {value.next_hop}{f' communities {value.communities}' if value.communities else ''}"
        case LocalAddress() | PodTunnel():
            return ""
