"""Every kernel setting of the agent with its reason, in one table: controllers ask for its rows, `doctor` compares them with
the kernel, `cleanup` puts back what stood before, docs/sysctls.md shows it.

Tunnels in pods are not in it: the reverse-path filter there is of the pod's own namespace and goes with it (drivers/pods.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from msgspec import Struct

from kuberouterpy.dataplane import Sysctl, SysctlKey
from kuberouterpy.family import Family


class Setting(Struct, frozen=True):
    """A row: what one controller, or several for one reason, want of a path below /proc/sys."""

    path: str
    """``LINK`` in it stands for a link's name."""
    value: str
    reason: str
    controllers: tuple[str, ...]
    family: Family | None = None
    """Wanted only where this family is in use; None: always."""
    optional: bool = False
    """Absent on some kernels: then not an error."""
    instead_of: str = ""
    """Written only where this value stands; empty: whatever stands."""
    when: str = ""
    """Condition in words; empty: whenever the controller runs."""

    def sysctl(self, *, value: str = "", link: str = "") -> Sysctl:
        """Return the object, with another value or for a link where one is given."""
        key = SysctlKey(self.path.replace("LINK", link) if link else self.path)
        return Sysctl(key, value or self.value, self.reason, optional=self.optional, instead_of=self.instead_of)


TCP_LOOSE: Final = Setting(
    "net/netfilter/nf_conntrack_tcp_loose",
    "0",
    "a connection that was cut is not taken up again from its middle",
    ("firewall",),
    when="with `--netpol-cut-flows`",
)
SLOPPY_TCP: Final = Setting(
    "net/ipv4/vs/sloppy_tcp",
    "0",
    "a DSR connection may come to another node in its middle: mh finds the same endpoint there",
    ("proxy",),
    optional=True,
    when="1 while a Service with direct server return uses the scheduler `mh`",
)
REVERSE_PATH: Final = Setting(
    "net/ipv4/conf/LINK/rp_filter",
    "2",
    "answers of DSR endpoints come from an address that is routed elsewhere",
    ("proxy",),
    optional=True,
    instead_of="1",
    when="while a Service has direct server return",
)
"""Of ``all``, the bridge and the links to other nodes."""

_FORWARD: Final = "the node routes for its pods, and answers of endpoints pass it"
_BRIDGED: Final = "packets between pods of one bridge meet services and policy"
_PROXY: Final = ("proxy",)

TABLE: Final = (
    Setting("net/ipv4/vs/conntrack", "1", "netfilter sees proxied flows: SNAT and policy need their state", _PROXY),
    Setting("net/ipv4/vs/expire_nodest_conn", "1", "a connection whose server is gone ends at once", _PROXY),
    Setting(
        "net/ipv4/vs/expire_quiescent_template", "1", "affinity does not pin clients to a draining server", _PROXY
    ),
    Setting(
        "net/ipv4/vs/conn_reuse_mode",
        "1",
        "a client's port that comes again gets a server that lives",
        _PROXY,
        optional=True,
    ),
    SLOPPY_TCP,
    Setting(
        "net/netfilter/nf_conntrack_tcp_be_liberal",
        "1",
        "a packet out of window does not reset a masqueraded client",
        _PROXY,
        optional=True,
    ),
    Setting(
        "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
        "3600",
        "half-closed connections keep their masquerade",
        _PROXY,
        optional=True,
    ),
    TCP_LOOSE,
    Setting("net/ipv4/conf/all/arp_ignore", "1", "VIPs on the dummy link answer no ARP of others", _PROXY),
    Setting("net/ipv4/conf/all/arp_announce", "2", "ARP never names a VIP as its sender", _PROXY),
    REVERSE_PATH,
    Setting("net/ipv4/ip_forward", "1", _FORWARD, ("proxy", "routing"), Family.IPV4),
    # Only where the family is in use: with forwarding a node takes no router advertisements any more.
    Setting("net/ipv6/conf/all/forwarding", "1", _FORWARD, ("proxy", "routing"), Family.IPV6),
    Setting(
        "net/bridge/bridge-nf-call-iptables", "1", _BRIDGED, ("proxy", "routing"), Family.IPV4, optional=True
    ),
    Setting(
        "net/bridge/bridge-nf-call-ip6tables", "1", _BRIDGED, ("proxy", "routing"), Family.IPV6, optional=True
    ),
    # Without these a policy is passed by, so the firewall does not do without.
    Setting("net/bridge/bridge-nf-call-iptables", "1", _BRIDGED, ("firewall",), Family.IPV4),
    Setting("net/bridge/bridge-nf-call-ip6tables", "1", _BRIDGED, ("firewall",), Family.IPV6),
)  # fmt: skip


def always(controller: str, families: Collection[Family]) -> Iterator[Sysctl]:
    """Yield what a controller wants whenever it runs with these families."""
    for one in TABLE:
        if controller in one.controllers and not one.when and (one.family is None or one.family in families):
            yield one.sysctl()
