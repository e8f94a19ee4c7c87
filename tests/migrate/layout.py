"""A node as kube-proxy leaves it: input of ``iptables-restore``, ``ipset restore``, ``ip -batch`` and ``ipvsadm -R``.

Laid out from pkg/proxy/ipvs/proxier.go and pkg/proxy/iptables/proxier.go: chains, jumps, comments and sets by their names.
One Service, default/web, 80 -> 8080, with one endpoint; and default/gone, which was deleted while kube-proxy stood still.
"""

from __future__ import annotations

from typing import NamedTuple

from kuberouterpy.family import IPV4, IPV6, Family


class Addresses(NamedTuple):
    """Of one family."""

    family: Family
    vip: str
    gone: str
    pod: str
    client: str
    node: str
    """Toward the client."""
    gateway: str
    """Toward the pod."""
    pods: str


V4 = Addresses(IPV4, "10.96.0.10", "10.96.0.66", "10.244.1.2", "192.0.2.9", "192.0.2.1", "10.244.1.1", "10.244.0.0/16")
V6 = Addresses(
    IPV6, "fd00:96::10", "fd00:96::66", "fd00:244:1::2", "2001:db8::9", "2001:db8::1", "fd00:244:1::1", "fd00:244::/32"
)
BOTH = (V4, V6)

FOREIGN = """*filter
:MINE - [0:0]
-A INPUT -j MINE
-A MINE -p tcp --dport 22 -j ACCEPT
COMMIT
"""
"""Somebody else's rules: they must live through everything."""


def set_name(name: str, one: Addresses) -> str:
    """Return the name of a set, as kube-proxy has it in the family."""
    return name if one.family is IPV4 else name.replace("KUBE-", "KUBE-6-", 1)


def ipset(one: Addresses) -> str:
    """Return the sets of IPVS mode."""
    tail = f"family {one.family.ipset} hashsize 1024 maxelem 65536"
    names = {
        "KUBE-CLUSTER-IP": f"hash:ip,port {tail}",
        "KUBE-LOOP-BACK": f"hash:ip,port,ip {tail}",
        "KUBE-IPVS-IPS": f"hash:ip {tail}",
    }
    made = "".join(f"create {set_name(name, one)} {kind}\n" for name, kind in names.items())
    return made + (
        f"add {set_name('KUBE-CLUSTER-IP', one)} {one.vip},tcp:80\n"
        f"add {set_name('KUBE-LOOP-BACK', one)} {one.pod},tcp:8080,{one.pod}\n"
        f"add {set_name('KUBE-IPVS-IPS', one)} {one.vip}\n"
    )


def ipvs_rules(one: Addresses) -> str:
    """Return the rules of IPVS mode, with the kubelet's own chains beside them."""
    loopback, cluster, ips = (set_name(f"KUBE-{name}", one) for name in ("LOOP-BACK", "CLUSTER-IP", "IPVS-IPS"))
    return f"""*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m set --match-set {loopback} dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES ! -s {one.pods} -m set --match-set {cluster} dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set {cluster} dst,dst -j ACCEPT
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-IPVS-FILTER -m set --match-set {cluster} dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {ips} dst -j REJECT
COMMIT
"""


def iptables_rules(one: Addresses) -> str:
    """Return the rules of iptables mode."""
    to = f"[{one.pod}]:8080" if one.family is IPV6 else f"{one.pod}:8080"
    return f"""*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-5LVPZQNSPT5P7YVA - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-LOLE4ISW44XBNF3G - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SEP-5LVPZQNSPT5P7YVA -s {one.pod}/{one.family.host_prefix} -m comment --comment "default/web" -j KUBE-MARK-MASQ
-A KUBE-SEP-5LVPZQNSPT5P7YVA -p tcp -m comment --comment "default/web" -m tcp -j DNAT --to-destination {to}
-A KUBE-SERVICES -d {one.vip}/{one.family.host_prefix} -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 \
-j KUBE-SVC-LOLE4ISW44XBNF3G
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-LOLE4ISW44XBNF3G ! -s {one.pods} -d {one.vip}/{one.family.host_prefix} -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-LOLE4ISW44XBNF3G -m comment --comment "default/web -> {to}" -j KUBE-SEP-5LVPZQNSPT5P7YVA
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""


def link(both: tuple[Addresses, ...] = BOTH) -> str:
    """Return the commands of ``ip -batch`` that make kube-ipvs0, as IPVS mode has it: down, with its addresses."""
    lines = ["link add kube-ipvs0 type dummy"]
    lines += [
        f"address add {address}/{one.family.host_prefix} dev kube-ipvs0"
        for one in both
        for address in (one.vip, one.gone)
    ]
    return "\n".join(lines) + "\n"


def ipvs(one: Addresses) -> str:
    """Return the virtual servers, for ``ipvsadm -R``."""
    vip, gone, pod = (f"[{a}]" if one.family is IPV6 else a for a in (one.vip, one.gone, one.pod))
    return f"-A -t {vip}:80 -s rr\n-a -t {vip}:80 -r {pod}:8080 -m -w 1\n-A -t {gone}:80 -s rr\n"


def kube_router_ipset(one: Addresses) -> str:
    """Return the sets of kube-router's service proxy and firewall, as it makes them."""
    prefix = "" if one.family is IPV4 else "inet6:"
    tail = f"family {one.family.ipset} hashsize 1024 maxelem 65536 timeout 0"
    return (
        f"create {prefix}kube-router-local-ips hash:ip {tail}\n"
        f"create {prefix}kube-router-svip hash:ip {tail}\n"
        f"create {prefix}kube-router-svip-prt hash:ip,port {tail}\n"
        f"create {prefix}KUBE-SRC-2J5BWRT4LCEDUPS4 hash:ip {tail}\n"
        f"add {prefix}kube-router-local-ips {one.node}\n"
        f"add {prefix}kube-router-svip {one.vip}\n"
        f"add {prefix}kube-router-svip-prt {one.vip},tcp:80\n"
    )


def kube_router_rules(one: Addresses) -> str:
    """Return the rules of kube-router: the services' chain, a pod's and a policy's, whose names it changes at every sync."""
    prefix = "" if one.family is IPV4 else "inet6:"
    own = "10.244.1.0/24" if one.family is IPV4 else "fd00:244:1::/64"
    return f"""*nat
-A POSTROUTING -m ipvs --ipvs --vdir ORIGINAL --vmethod MASQ ! -s {own} ! -d {own} -j SNAT --to-source {one.node}
COMMIT
*filter
:KUBE-NWPLCY-3GKQWFJNDZGKZAYI - [0:0]
:KUBE-NWPLCY-COMMON - [0:0]
:KUBE-POD-FW-54JPDRM2LCXQHPLM - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-ROUTER-SERVICES - [0:0]
-A INPUT -m comment --comment "handle traffic to IPVS service IPs in custom chain" -m set \
--match-set {prefix}kube-router-svip dst -j KUBE-ROUTER-SERVICES
-A FORWARD -m comment --comment "kube-router netpol - TEMCG2JMHZYE7H7T" -j KUBE-ROUTER-FORWARD
-A KUBE-NWPLCY-3GKQWFJNDZGKZAYI -m set --match-set {prefix}KUBE-SRC-2J5BWRT4LCEDUPS4 src -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-COMMON -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-POD-FW-54JPDRM2LCXQHPLM -j KUBE-NWPLCY-COMMON
-A KUBE-POD-FW-54JPDRM2LCXQHPLM -d {one.pod} -j KUBE-NWPLCY-3GKQWFJNDZGKZAYI
-A KUBE-ROUTER-FORWARD -d {one.pod} -j ACCEPT
-A KUBE-ROUTER-SERVICES -m set --match-set {prefix}kube-router-svip-prt dst,dst -j ACCEPT
-A KUBE-ROUTER-SERVICES -m set ! --match-set {prefix}kube-router-local-ips dst -j REJECT
COMMIT
"""


def kube_router_link(both: tuple[Addresses, ...] = BOTH) -> str:
    """Return the commands of ``ip -batch`` that make kube-dummy-if with its addresses."""
    lines = ["link add kube-dummy-if type dummy", "link set kube-dummy-if up"]
    lines += [
        f"address add {address}/{one.family.host_prefix} dev kube-dummy-if"
        for one in both
        for address in (one.vip, one.gone)
    ]
    return "\n".join(lines) + "\n"
