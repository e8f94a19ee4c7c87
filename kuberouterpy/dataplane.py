"""What the agent wants: objects of the kernel, of GoBGP and of the CNI, their keys, owners and operations.

This is the contract page between controllers (which make objects) and drivers (which list and apply them). Keys are structs,
never tuples: keys of two kinds must not compare equal. Text of members and prefixes is the text the kernel's own tools
print, so that a listing compares equal to what was wanted.

A new kind is finished when it stands in :data:`KINDS`, in :func:`requires` and in the table of ``drivers/DESIGN.md``
that says how a restart without memory recognises it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

from kuberouterpy.family import Family
from kuberouterpy.names import digest
from kuberouterpy.protocol import Protocol


class Owner(NamedTuple):
    """Why an object exists. ``str()`` gives ``proxy/service/default/web``."""

    controller: str
    """proxy, routing or firewall."""
    kind: str
    """service, node, policy, pod, selector, prefix, base."""
    name: str = ""
    """What the kind calls it; empty for ``base``."""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Note(NamedTuple):
    """Why something is *not* there, or is other than was asked for; ``explain`` shows it."""

    subject: str
    """What a person would ask for: an address, a prefix, an object."""
    reason: str
    """Stable word with hyphens, then detail: ``no-local-endpoints``."""
    event: bool = False
    """Whether a person must do something about it: then it becomes an Event of the owner's object."""


class Verb(StrEnum):
    """What an operation does."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


# --- Host -------------------------------------------------------------------------------------------------------------


class SysctlKey(Struct, frozen=True, order=True):
    """A path below /proc/sys, with slashes: ``net/ipv4/vs/conntrack``."""

    path: str


class Sysctl(Struct, frozen=True):
    """A kernel setting. Deleting one leaves the value: only ``cleanup`` restores."""

    key: SysctlKey
    value: str
    """Text as the kernel prints it, without the newline."""
    reason: str = ""
    """Why, for the table of sysctls; not compared with the kernel."""
    optional: bool = False
    """Absent on some kernels: then not an error."""
    instead_of: str = ""
    """Written only where this value stands, every other will do; empty: whatever stands."""

    def satisfied_by(self, value: str) -> bool:
        """Return whether nothing need be written where ``value`` stands, its numbers separated by single spaces."""
        return value == " ".join(self.value.split()) or bool(self.instead_of and value != self.instead_of)


class FouPortKey(Struct, frozen=True, order=True):
    """A UDP port of one family."""

    family: Family
    port: int


class FouPort(Struct, frozen=True):
    """A UDP port at which the kernel takes Generic UDP Encapsulation (GUE) apart: the receiving end of ``fou`` tunnels."""

    key: FouPortKey


class LinkKey(Struct, frozen=True, order=True):
    """A link by name."""

    name: str


class Link(Struct, frozen=True):
    """A link we make: dummy, bridge, ipip, ip6tnl, vxlan, ..."""

    key: LinkKey
    kind: str
    """IFLA_INFO_KIND."""
    mtu: int = 0
    """Bytes; 0: the kernel's choice, not compared."""
    local: str = ""
    """Tunnel endpoint here."""
    remote: str = ""
    """Tunnel endpoint there; empty for vxlan, whose far ends are :class:`FarEnd` objects."""
    port: int = 0
    """UDP port there: of vxlan, or of an ipip or ip6tnl link that is wrapped in GUE; 0: no UDP."""
    vni: int = 0
    """VXLAN network identifier."""
    hardware: str = ""
    """Hardware address, lower case with colons; empty: the kernel's choice, not compared."""


class FarEndKey(Struct, frozen=True, order=True):
    """A node that one of our vxlan links reaches."""

    link: str
    address: str
    """The node's address, to which packets are sent."""


class FarEnd(Struct, frozen=True):
    """Where a vxlan link finds a node: a forwarding entry and a neighbor entry, both permanent. Nothing is learned or asked."""

    key: FarEndKey
    hardware: str
    """Hardware address of the node's own vxlan link."""
    gateway: str
    """Next hop that stands for the node in routes over the link."""


class LocalAddressKey(Struct, frozen=True, order=True):
    """An address on one of our links."""

    link: str
    address: str
    """Canonical address; its prefix length is always the family's host prefix unless ``prefix`` says else."""
    prefix: int

    @property
    def family(self) -> Family:
        """Family of the address."""
        return Family.IPV6 if ":" in self.address else Family.IPV4


class LocalAddress(Struct, frozen=True):
    """An address bound to one of our links, without duplicate address detection."""

    key: LocalAddressKey


class PodTunnelKey(Struct, frozen=True, order=True):
    """A VIP on the tunnel of a pod of this node."""

    pod: str
    """Canonical address of the pod, which the tunnel ends at."""
    vip: str
    """Canonical address of the same family."""

    @property
    def family(self) -> Family:
        """Family of both addresses."""
        return Family.IPV6 if ":" in self.pod else Family.IPV4


class PodTunnel(Struct, frozen=True):
    """In a pod's network namespace: a tunnel's end with a VIP on it, so that the pod takes tunnelled packets for the VIP and
    answers by itself. The tunnel goes with the last of its VIPs."""

    key: PodTunnelKey


# --- ipset ------------------------------------------------------------------------------------------------------------


class SetKey(Struct, frozen=True, order=True):
    """An ipset by name, at most 31 characters; IPv6 sets carry the prefix ``inet6:``."""

    name: str


class Set(Struct, frozen=True):
    """An ipset. Its type and family never change in place: another type is another name."""

    key: SetKey
    family: Family
    type: str
    """``hash:ip``, ``hash:net``, ``hash:ip,port``, ..."""
    max_elements: int = 65536
    """maxelem; the driver may have to recreate and swap to change it."""
    timeout_s: int | None = None
    """Default timeout of entries; ``None``: the set has no timeouts."""
    marks: bool = False
    """Entries carry a packet mark, which ``-j SET --map-set NAME ... --map-mark`` puts on what matches."""


class EntryKey(Struct, frozen=True, order=True, cache_hash=True):
    """A member of a set, in the words of ``ipset save``: ``10.0.0.1``, ``10.0.0.0/8``, ``10.0.0.1,tcp:80``."""

    set: str
    member: str


class Entry(Struct, frozen=True):
    """A member of a set."""

    key: EntryKey
    comment: str = ""
    """Who it is for, at most 255 bytes without double quotes."""
    nomatch: bool = False
    """An exception inside a ``hash:net`` set."""
    mark: int = 0
    """Packet mark, all 32 bits, in a set with ``marks``; 0: none."""


# --- iptables ---------------------------------------------------------------------------------------------------------


class Table(StrEnum):
    """The tables we use."""

    FILTER = "filter"
    NAT = "nat"
    MANGLE = "mangle"
    RAW = "raw"


class Rule(Struct, frozen=True):
    """One rule, as iptables arguments. iptables does not round-trip text: rules are compared by :attr:`id`."""

    match: tuple[str, ...]
    """Arguments before ``-j``, without ``-A CHAIN`` and without the comment the driver adds."""
    target: tuple[str, ...]
    """Arguments after ``-j``: ``("ACCEPT",)``, ``("MARK", "--set-xmark", "0x1/0x1")``, ``("KUBE-POD-FW-...",)``."""
    reason: str = ""
    """For people, in the rule's comment after its id."""

    @property
    def id(self) -> str:
        """Eight characters that change when the rule's meaning or its reason does."""
        return digest(*self.match, "-j", *self.target, self.reason, length=8)

    @property
    def jumps(self) -> str:
        """The target word: a chain's name, ``ACCEPT``, ``MARK``, ..."""
        return self.target[0]


class ChainKey(Struct, frozen=True, order=True):
    """A chain of ours."""

    family: Family
    table: Table
    name: str


class Chain(Struct, frozen=True, dict=True):
    """A chain of ours with all its rules, replaced at once."""

    key: ChainKey
    rules: tuple[Rule, ...] = ()

    @cached_property
    def sets(self) -> frozenset[str]:
        """Names of the ipsets its rules match on."""
        return frozenset(
            after
            for rule in self.rules
            for word, after in zip((*rule.match, *rule.target), (*rule.match, *rule.target)[1:], strict=False)
            if word in {"--match-set", "--add-set", "--del-set", "--map-set"}
        )


class JumpKey(Struct, frozen=True, order=True):
    """A rule of ours in a chain that is not ours: ``FORWARD -> KUBE-ROUTER-FORWARD``."""

    family: Family
    table: Table
    parent: str
    """Built-in chain."""
    chain: str
    """Chain of ours, its target."""


class Jump(Struct, frozen=True):
    """The jump with its match; it stands first in the parent, or last where ``first`` is false."""

    key: JumpKey
    rule: Rule
    first: bool = True
    """Before every foreign rule; several first jumps of one parent stand in the order of their ``rank``."""
    rank: int = 0
    """Smaller stands earlier among our own jumps of one parent."""


# --- Routes -----------------------------------------------------------------------------------------------------------


class RouteKey(Struct, frozen=True, order=True):
    """A route by table and destination; ours carry our protocol number."""

    table: int
    """254 is main."""
    destination: str
    """Canonical prefix; hosts with /32 or /128."""

    @property
    def family(self) -> Family:
        """Family of the destination."""
        return Family.IPV6 if ":" in self.destination else Family.IPV4


class NextHop(Struct, frozen=True, order=True):
    """Where a route goes."""

    gateway: str = ""
    """Canonical address; empty: on link."""
    link: str = ""
    """Link name; empty: the kernel finds it by the gateway (then not compared)."""
    on_link: bool = False
    """Take the gateway as reachable over the link whatever the addresses say."""


class Route(Struct, frozen=True):
    """A unicast route; more than one next hop is ECMP."""

    key: RouteKey
    next_hops: tuple[NextHop, ...]
    """Sorted, never empty."""
    source: str = ""
    """Preferred source address; empty: none."""
    kind: str = "unicast"
    """``unicast`` or ``local``."""


class RoutingRuleKey(Struct, frozen=True, order=True):
    """An ``ip rule`` of ours: recognised by its table and priority."""

    family: Family
    priority: int
    source: str = ""
    """Canonical prefix or empty: any."""
    fwmark: int = 0
    """0: any."""
    fwmask: int = 0
    """Bits of the mark that are compared; 0: all."""


class RoutingRule(Struct, frozen=True):
    """A routing rule that looks up ``table``."""

    key: RoutingRuleKey
    table: int


# --- IPVS -------------------------------------------------------------------------------------------------------------


class Forward(IntEnum):
    """How packets reach a real server: IP_VS_CONN_F_* of the kernel."""

    MASQUERADE = 0
    LOCAL = 1
    TUNNEL = 2
    ROUTE = 3


class VirtualServerFlag(IntEnum):
    """IP_VS_SVC_F_* bits of :attr:`VirtualServer.flags`; persistence follows from ``persistence_s``."""

    ONE_PACKET = 0x0004
    SCHED1 = 0x0008
    """sh-fallback, mh-fallback."""
    SCHED2 = 0x0010
    """sh-port, mh-port."""
    SCHED3 = 0x0020


class VirtualServerKey(Struct, frozen=True, order=True, cache_hash=True):
    """A virtual server: by address, protocol and port, or by firewall mark (then address is empty, port 0)."""

    family: Family
    protocol: Protocol
    """With a firewall mark always TCP; the kernel ignores it."""
    address: str
    port: int
    fwmark: int = 0

    def __str__(self) -> str:
        if self.fwmark:
            return f"fwmark {self.fwmark} {self.family.ipset}"
        host = f"[{self.address}]" if self.family is Family.IPV6 else self.address
        return f"{self.protocol} {host}:{self.port}"


class VirtualServer(Struct, frozen=True):
    """An IPVS service."""

    key: VirtualServerKey
    scheduler: str = "rr"
    """Kernel scheduler name."""
    flags: int = 0
    """Or of :class:`VirtualServerFlag`."""
    persistence_s: int = 0
    """Seconds of IPVS persistence per client address; 0: none."""


class RealServerKey(Struct, frozen=True, order=True, cache_hash=True):
    """A destination of a virtual server."""

    server: VirtualServerKey
    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.server} -> {host}:{self.port}"


class RealServer(Struct, frozen=True):
    """An IPVS destination."""

    key: RealServerKey
    weight: int = 1
    """0 drains: established connections live, new ones go elsewhere."""
    forward: Forward = Forward.MASQUERADE


# --- What goes with virtual servers ------------------------------------------------------------------------------------


class FlowsKey(Struct, frozen=True, order=True):
    """The conntrack entries whose clients ask for an address and port."""

    family: Family
    protocol: Protocol
    """UDP: connections of TCP and SCTP end by themselves."""
    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.family is Family.IPV6 else self.address
        return f"{self.protocol} {host}:{self.port}"


class Flows(Struct, frozen=True):
    """Who may answer what conntrack remembers. Applying it deletes the entries that another answers, or nobody; deleting it
    deletes all entries of the key."""

    key: FlowsKey
    answering: tuple[str, ...] = ()
    """Addresses of endpoints, sorted."""


class HealthCheckKey(Struct, frozen=True, order=True):
    """A health-check node port."""

    port: int


class HealthCheck(Struct, frozen=True):
    """What a load balancer is told that asks whether this node serves a Service."""

    key: HealthCheckKey
    namespace: str
    """Of the Service."""
    name: str
    """Of the Service."""
    endpoints: int = 0
    """Ready endpoints on this node; 0: answer 503."""


# --- CNI --------------------------------------------------------------------------------------------------------------


class CniConfigKey(Struct, frozen=True, order=True):
    """The conflist file by path."""

    path: str


class CniConfig(Struct, frozen=True):
    """What the agent sets in the conflist; keys and plugins of others in the file are kept."""

    key: CniConfigKey
    bridge: str
    """Name of the bridge."""
    ranges: tuple[str, ...]
    """Pod CIDRs of this node, IPv4 first."""
    mtu: int = 0
    """Bytes; 0: not set."""


# --- BGP --------------------------------------------------------------------------------------------------------------


class SpeakerKey(Struct, frozen=True, order=True):
    """The one speaker of this host."""


class Speaker(Struct, frozen=True):
    """GoBGP's global settings. A change of any restarts the speaker."""

    key: SpeakerKey
    asn: int
    router_id: str
    listen_port: int = 179
    """-1: do not listen."""
    listen_addresses: tuple[str, ...] = ()
    """Canonical, sorted."""
    families: tuple[Family, ...] = ()
    """What may be exchanged at all."""
    graceful_restart_s: int = 0
    """Restart time told to neighbors; 0: off."""
    deferral_s: int = 0
    """Longest wait for End-of-RIB after our own restart."""


class NeighborKey(Struct, frozen=True, order=True):
    """A neighbor by its address."""

    address: str


class Bfd(Struct, frozen=True):
    """Bidirectional forwarding detection of one session, single hop (RFC 5881)."""

    port: int
    """Theirs."""
    multiplier: int
    """Missed packets until down."""
    tx_ms: int
    """How often we send."""
    rx_ms: int
    """How often we expect theirs."""


class Neighbor(Struct, frozen=True):
    """A BGP session we want."""

    key: NeighborKey
    asn: int
    """Their AS number."""
    local_address: str = ""
    """Our end; empty: the kernel's choice."""
    port: int = 179
    """Their port."""
    families: tuple[Family, ...] = ()
    """Address families negotiated."""
    description: str = ""
    """Node name, or ``external``."""
    hold_time_s: int = 90
    """Proposed hold time."""
    connect_retry_s: int = 5
    """Seconds between attempts."""
    passive: bool = False
    """Wait for them to connect."""
    multihop_ttl: int = 0
    """eBGP multihop; 0: off."""
    graceful_restart_s: int = 0
    """Restart time; 0: off."""
    reflector_client: bool = False
    """We reflect routes to it."""
    reflector_cluster: str = ""
    """Our cluster id as a reflector, dotted quad."""
    password: str = ""
    """TCP MD5; never printed, never logged."""
    max_prefixes: int = 0
    """More of one family than this end the session; 0: no limit."""
    bfd: Bfd | None = None
    """Where the daemon has it: GoBGP 4."""

    def __repr__(self) -> str:
        return f"Neighbor({self.key.address}, asn={self.asn})"


class PrefixMatch(Struct, frozen=True, order=True):
    """Prefixes inside ``prefix`` whose length is in ``[low, high]``."""

    prefix: str
    low: int
    high: int


class PolicyStatement(Struct, frozen=True):
    """One statement of a routing policy: when all given conditions hold, take the action."""

    accept: bool
    """Verdict."""
    neighbors: tuple[str, ...] | None = None
    """Host prefixes of neighbors; ``None``: any. Empty matches nothing and must not be sent."""
    prefixes: tuple[PrefixMatch, ...] | None = None
    """Any of these; ``None``: any prefix. Empty matches nothing and must not be sent."""
    communities: tuple[str, ...] = ()
    """Added when accepted, ``a:b`` or well-known name."""
    prepend_asn: int = 0
    """AS path prepend; 0: none."""
    prepend_count: int = 0
    """How often."""
    next_hop_self: bool = False
    """Set the next hop to our own address."""
    originated_here: bool = False
    """Only paths we originate: never transit."""
    learned_inside: bool = False
    """Only paths that neighbors of our own AS told: what a reflector passes on."""


class RoutePolicyKey(Struct, frozen=True, order=True):
    """The global policy of one direction: ``import`` or ``export``."""

    direction: str


class RoutePolicy(Struct, frozen=True):
    """All statements of one direction in order, replaced as a whole; what no statement decides is ``default``."""

    key: RoutePolicyKey
    statements: tuple[PolicyStatement, ...]
    accept_by_default: bool = False


class PathKey(Struct, frozen=True, order=True):
    """A path we originate, by prefix."""

    prefix: str

    @property
    def family(self) -> Family:
        """Family of the prefix."""
        return Family.IPV6 if ":" in self.prefix else Family.IPV4


class Path(Struct, frozen=True):
    """A path we originate."""

    key: PathKey
    next_hop: str
    communities: tuple[str, ...] = ()
    local_preference: int = 0
    """0: not set."""


Key: TypeAlias = (
    SysctlKey
    | FouPortKey
    | LinkKey
    | FarEndKey
    | LocalAddressKey
    | PodTunnelKey
    | SetKey
    | EntryKey
    | ChainKey
    | JumpKey
    | RouteKey
    | RoutingRuleKey
    | VirtualServerKey
    | RealServerKey
    | FlowsKey
    | HealthCheckKey
    | CniConfigKey
    | SpeakerKey
    | NeighborKey
    | RoutePolicyKey
    | PathKey
)
Object: TypeAlias = (
    Sysctl
    | FouPort
    | Link
    | FarEnd
    | LocalAddress
    | PodTunnel
    | Set
    | Entry
    | Chain
    | Jump
    | Route
    | RoutingRule
    | VirtualServer
    | RealServer
    | Flows
    | HealthCheck
    | CniConfig
    | Speaker
    | Neighbor
    | RoutePolicy
    | Path
)
ObjectKind: TypeAlias = type[Object]


class Op(NamedTuple):
    """One change."""

    verb: Verb
    key: Key
    value: Object | None
    """Wanted value; ``None`` when deleting."""


# order matters: create and update in this order, delete in reverse. Rules stand before the first VIP (a client must never
# meet a VIP whose SNAT is missing), the address before its virtual server (the address is the mark of ownership), a pod's
# tunnel before what is sent through it, the policy before the neighbor that would otherwise send everything; conntrack entries
# are judged, and load balancers invited, when the servers stand.
KINDS: Final[tuple[ObjectKind, ...]] = (
    Sysctl,
    FouPort,
    Link,
    Set,
    Entry,
    Chain,
    Jump,
    LocalAddress,
    PodTunnel,
    VirtualServer,
    RealServer,
    Flows,
    HealthCheck,
    FarEnd,
    Route,
    RoutingRule,
    CniConfig,
    Speaker,
    RoutePolicy,
    Neighbor,
    Path,
)

KIND_OF_KEY: Final[dict[type, ObjectKind]] = {
    SysctlKey: Sysctl,
    FouPortKey: FouPort,
    LinkKey: Link,
    FarEndKey: FarEnd,
    LocalAddressKey: LocalAddress,
    PodTunnelKey: PodTunnel,
    SetKey: Set,
    EntryKey: Entry,
    ChainKey: Chain,
    JumpKey: Jump,
    RouteKey: Route,
    RoutingRuleKey: RoutingRule,
    VirtualServerKey: VirtualServer,
    RealServerKey: RealServer,
    FlowsKey: Flows,
    HealthCheckKey: HealthCheck,
    CniConfigKey: CniConfig,
    SpeakerKey: Speaker,
    RoutePolicyKey: RoutePolicy,
    NeighborKey: Neighbor,
    PathKey: Path,
}


def requires(value: Object) -> Iterator[Key]:
    """Yield the keys that must stand before ``value`` can; operations whose requirement failed are put off."""
    match value:
        case Entry(key=key):
            yield SetKey(key.set)
        case Chain(key=key):
            for name in sorted(value.sets):
                yield SetKey(name)
            for target in sorted({rule.jumps for rule in value.rules if is_ours(rule.jumps)}):
                yield ChainKey(key.family, key.table, target)
        case Jump(key=key):
            yield ChainKey(key.family, key.table, key.chain)
        case LocalAddress(key=key) | FarEnd(key=key):
            yield LinkKey(key.link)
        case RealServer(key=key):
            yield key.server
        case Flows(key=key):
            yield VirtualServerKey(key.family, key.protocol, key.address, key.port)
        case Neighbor() | RoutePolicy() | Path():
            yield SpeakerKey()
        case _:
            return


CHAIN_PREFIXES: Final = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
"""Chains with these prefixes are ours or kube-router's; nobody else's."""


def is_ours(chain: str) -> bool:
    """Return whether a chain name is one of ours."""
    return chain.startswith(CHAIN_PREFIXES)
