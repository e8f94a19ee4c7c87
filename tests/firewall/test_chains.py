"""Chains as packets meet them: what always passes, what never does, what it costs."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from firewall.chains import Isolated, branch, pod_chain_name
from firewall.policies import Direction
from kuberouterpy.cluster import Action, ClusterRule, IpBlock, NetworkPolicy, PolicyPort, PolicyRule, Record, Ref
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Jump, Rule, Sysctl
from kuberouterpy.family import FAMILIES, IPV4, Family
from kuberouterpy.labels import EVERYTHING, PodSelector, selector
from kuberouterpy.protocol import Protocol
from tests.firewall.world import CONFIG, Cluster, by_owner, cluster_policy, filled, host, merged, namespace, pod, policy
from tests.oracle.netfilter import Netfilter, Packet, from_node, to_node

A, B = {4: "10.1.0.5", 6: "fd00:1:0::5"}, {4: "10.1.0.6", 6: "fd00:1:0::6"}
WORLD = {4: "192.0.2.1", 6: "2001:db8::1"}
FAR = {4: "10.1.1.9", 6: "fd00:1:1::9"}
DENY = policy("x/deny", EVERYTHING, ingress=(), egress=())


def kernel(*policies: NetworkPolicy, config: Config = CONFIG) -> Netfilter:
    """Return node-0 with the pods x/a and x/b."""
    records = (
        namespace("x"),
        pod("x/a", addresses=(A[4], "fd00:1::5"), labels={"pod": "a"}),
        pod("x/b", addresses=(B[4], "fd00:1::6"), labels={"pod": "b"}),
        *policies,
    )
    return Netfilter(Cluster(records, config).nodes["node-0"] and merged_of(records, config))


def merged_of(records: tuple[object, ...], config: Config) -> list[object]:
    """Return the objects of node-0."""
    return list(merged(by_owner(filled(records), host("node-0"), config)).values())  # type: ignore[arg-type]


def packet(source: str, destination: str, hook: str = "FORWARD", **more: object) -> Packet:
    """Return a packet to TCP port 80, or as ``more`` says."""
    return replace(Packet(hook, source, destination, "tcp", 80), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("hook", ["FORWARD", "OUTPUT"])
def test_isolated_pods_are_denied_in_both_hooks(version: int, hook: str) -> None:
    """Row 2: a proxied packet meets OUTPUT only, a direct one FORWARD only."""
    rules = kernel(DENY)
    assert not rules.send(packet(WORLD[version], _short(A[version]), hook)).accepted
    assert not rules.send(packet(_short(A[version]), WORLD[version], hook)).accepted
    assert not rules.send(packet(_short(A[version]), _short(B[version]), hook)).accepted


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("state", ["ESTABLISHED", "RELATED"])
def test_what_belongs_to_an_allowed_connection_passes(version: int, state: str) -> None:
    verdict = kernel(DENY).send(packet(_short(A[version]), WORLD[version], state=state))
    assert (verdict.accepted, verdict.path[-1]) == (True, "KUBE-ROUTER-FORWARD[1]")


@pytest.mark.parametrize("version", FAMILIES)
def test_a_node_reaches_its_own_pods_and_no_other_node_does(version: int) -> None:
    """Rows 6 and 7: kubelet probes. FORWARD never exempts, whatever source a packet claims."""
    rules = kernel(DENY)
    probe = packet("10.0.0.1" if version == 4 else "fd00::1", _short(A[version]))
    assert rules.send(from_node(probe)).accepted
    assert not rules.send(replace(probe, hook="OUTPUT")).accepted
    assert not rules.send(replace(probe, source_is_local=True)).accepted


@pytest.mark.parametrize("version", FAMILIES)
def test_a_pod_reaches_its_own_node(version: int) -> None:
    """Row 41: nothing is enforced in INPUT."""
    assert kernel(DENY).send(packet(_short(A[version]), "10.0.0.1" if version == 4 else "fd00::1", "INPUT")).accepted


def test_invalid_packets_of_pods_are_dropped_and_of_others_left_alone() -> None:
    rules = kernel()
    assert not rules.send(packet(A[4], WORLD[4], state="INVALID")).accepted
    assert not rules.send(packet(WORLD[4], A[4], state="INVALID")).accepted
    left = rules.send(packet(WORLD[4], FAR[4], state="INVALID"))
    assert (left.accepted, len(left.path) - 1) == (True, 1)


@pytest.mark.parametrize(
    ("version", "kind", "passes"),
    [(4, 3, True), (4, 11, True), (4, 12, True), (4, 8, False), (4, 5, False)]
    + [(6, kind, True) for kind in (1, 2, 3, 4, 133, 134, 135, 136, 137)]
    + [(6, 128, False)],
)
@pytest.mark.parametrize("state", ["NEW", "INVALID", "UNTRACKED"])
def test_errors_and_discovery_always_pass_and_echo_is_policy(version: int, kind: int, passes: bool, state: str) -> None:
    one = packet(WORLD[version], _short(A[version]), protocol="icmp", icmp_type=kind, state=state, port=0)
    assert passes == kernel(DENY).send(one).accepted


def test_each_direction_is_judged_by_its_own_rules() -> None:
    """Fault 26 of kube-router: an ingress rule of the same policy satisfied the egress check."""
    web_from_web = policy(
        "x/p",
        EVERYTHING,
        ingress=(
            PolicyRule(
                (),
            ),
        ),
        egress=(),
    )
    assert not kernel(web_from_web).send(packet(A[4], B[4])).accepted


def test_a_mark_of_the_source_does_not_open_the_destination() -> None:
    """The source's egress is allowed, so the packet is marked when the destination's ingress begins."""
    out = policy("x/out", selector({"pod": "a"}), egress=(PolicyRule(),))
    deny = policy("x/in", selector({"pod": "b"}), ingress=())
    assert not kernel(out, deny).send(packet(A[4], B[4])).accepted
    assert not kernel(deny).send(packet(WORLD[4], B[4], mark=0x10000)).accepted
    passed = kernel(out).send(packet(A[4], WORLD[4], mark=0x4000))
    assert (passed.accepted, passed.mark) == (True, 0x4000)


def test_traffic_that_is_no_pods_is_left_to_others() -> None:
    """RETURN, not ACCEPT: the host's own firewall rules stand after ours."""
    verdict = kernel(DENY).send(packet(WORLD[4], FAR[4]))
    assert verdict.path == ["FORWARD[0]", "KUBE-ROUTER-FORWARD[0]"]


def test_a_denied_packet_is_logged_with_direction_pod_and_policies_then_counted() -> None:
    rules = kernel(DENY)
    verdict = rules.send(packet(WORLD[4], A[4]))
    assert verdict.logged == ["in:x/a:deny"]
    name = pod_chain_name(Ref("x", "a"), Direction.INGRESS)
    assert f"{name}[4]" == verdict.path[-1]
    assert rules.counters[IPV4, name, 4] == 1
    drop = next(one for key, one in rules.chains.items() if key.name == name)[4]
    assert Rule((), ("DROP",), "ingress of x/a denied by deny") == drop


def test_a_log_prefix_of_the_longest_names_fits() -> None:
    names = ("n" * 63, "p" * 253)
    records = (
        namespace(names[0]),
        pod("/".join(names), addresses=("10.1.0.5",)),
        policy("/".join(names), EVERYTHING, ingress=()),
    )
    verdict = Cluster(records).nodes["node-0"].send(packet(WORLD[4], "10.1.0.5"))
    assert [len(prefix) for prefix in verdict.logged] == [63]


def test_pods_not_seen_yet_are_denied_only_where_asked_for() -> None:
    new = "10.1.0.77"
    strict = replace_config(netpol_default_deny=True)
    assert kernel().send(packet(WORLD[4], new)).accepted
    for hook in ("FORWARD", "OUTPUT"):
        for source, destination in ((WORLD[4], new), (new, WORLD[4]), (A[4], new), (new, A[4])):
            assert not kernel(config=strict).send(packet(source, destination, hook)).accepted
    assert not kernel(config=strict).send(packet(WORLD[6], "fd00:1::77")).accepted
    assert kernel(config=strict).send(from_node(packet("10.1.0.1", new))).accepted
    assert kernel(config=strict).send(packet(WORLD[4], A[4])).accepted
    assert kernel(config=strict).send(packet(WORLD[4], FAR[4])).accepted


def test_jumps_stand_behind_the_proxys() -> None:
    wanted = merged(by_owner(filled(()), host("node-0")))
    jumps = [one for one in wanted.values() if isinstance(one, Jump)]
    assert {(parent, f"KUBE-ROUTER-{parent}") for parent in ("INPUT", "FORWARD", "OUTPUT")} == {
        (one.key.parent, one.key.chain) for one in jumps
    }
    assert all(one.first and one.rank > 0 for one in jumps)
    assert {"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} == {
        one.key.path for one in wanted.values() if isinstance(one, Sysctl)
    }


def crowd(count: int) -> Netfilter:
    """Return a node with ``count`` isolated pods in sequence, each open on TCP port 80."""
    pods = (
        pod(f"x/p{index}", addresses=(f"10.1.{index // 250}.{index % 250 + 2}",), labels={"pod": "a"})
        for index in range(count)
    )
    allow = policy("x/allow", EVERYTHING, ingress=(PolicyRule((), (PolicyPort(Protocol.TCP, 80),)),))
    return Netfilter(merged(by_owner(filled((namespace("x"), allow, *pods)), host("node-0"))).values())


@pytest.mark.parametrize("count", [10, 110, 1000])
def test_the_cost_of_a_packet_does_not_grow_with_the_pods(count: int) -> None:
    """Rules looked at: three for an established packet; for a new one no more than a few forks and a leaf have."""
    rules = crowd(count)
    last = f"10.1.{(count - 1) // 250}.{(count - 1) % 250 + 2}"
    assert rules.send(packet(WORLD[4], last, state="ESTABLISHED")).rules == 3
    verdict = rules.send(packet(WORLD[4], last))
    assert verdict.accepted
    assert verdict.rules <= 45


@pytest.mark.parametrize("count", [0, 1, 8, 9, 40, 300])
def test_the_tree_finds_every_pod_and_nobody_else(count: int) -> None:
    """Addresses that agree in their last twelve bits make it fork to the end."""
    isolated = [Isolated(f"10.{index // 16}.{index % 16 * 16}.5", Ref("x", f"p{index}")) for index in range(count)]
    chains = {chain.key.name: chain.rules for chain in branch(5, isolated, Direction.INGRESS, IPV4)}
    for one in isolated:
        assert [pod_chain_name(one.pod, Direction.INGRESS)] == list(
            _walk(chains, "KUBE-ROUTER-TO-PODS-11", one.address)
        )
    assert list(_walk(chains, "KUBE-ROUTER-TO-PODS-11", "10.99.1.5")) == []
    assert all(len(name) <= 28 for name in chains)


def _walk(chains: dict[str, tuple[Rule, ...]], name: str, address: str) -> list[str]:
    from tests.oracle.netfilter import _in

    found: list[str] = []
    for rule in chains[name]:
        if _in(address, rule.match[1]):
            found += _walk(chains, rule.target[0], address) if rule.target[0] in chains else [rule.target[0]]
    return found


def replace_config(**fields: object) -> Config:
    """Return the tests' config with some fields set."""
    from msgspec.structs import replace as with_fields

    return with_fields(CONFIG, **fields)


def _short(address: str) -> str:
    return address.replace(":0::", "::")


def test_families_are_compiled_by_the_same_lines() -> None:
    """Every IPv4 rule has its IPv6 twin, ICMP types aside."""
    wanted = merged(
        by_owner(filled((namespace("x"), pod("x/a", addresses=("10.1.0.5", "fd00:1::5")), DENY)), host("node-0"))
    )
    names: dict[Family, set[str]] = {
        family: {key.name for key in wanted if type(key).__name__ == "ChainKey" and key.family is family}  # type: ignore[union-attr]
        for family in FAMILIES
    }
    assert names[IPV4] == names[Family.IPV6]


def test_what_pods_ask_of_their_node_is_judged_by_the_clusters_policies_only() -> None:
    """Also where a range of VIPs holds the node's own address; VIPs and node ports are left to OUTPUT."""
    everybody = PodSelector(EVERYTHING, namespaces=EVERYTHING)
    deny = ClusterRule(Action.DENY, (IpBlock("0.0.0.0/0"), IpBlock("::/0")))
    records = (namespace("x"), pod("x/a", addresses=(A[4], "fd00:1::5")))
    here = msgspec.structs.replace(host("node-0"), node_addresses=("10.0.0.1", "fd00::1"))
    config = msgspec.structs.replace(CONFIG, loadbalancer_ip_range=("10.0.0.0/24", "fd00::/64"))

    def judged(*more: Record) -> Netfilter:
        return Netfilter(merged(by_owner(filled((*records, *more)), here, config)).values())

    judges = judged(cluster_policy("guard", everybody, egress=(deny,)))
    for version, own, gateway, vip in (
        (4, "10.0.0.1", "10.1.0.1", "10.96.0.9"),
        (6, "fd00::1", "fd00:1::1", "fd00::9"),
    ):
        source = A[4] if version == 4 else "fd00:1::5"
        for destination, port, passes in ((own, 22, False), (gateway, 22, False), (vip, 80, True), (own, 30080, True)):
            assert judges.send(to_node(source, destination, "tcp", port)).accepted is passes, destination
        assert judges.send(to_node(WORLD[version], own, "tcp", 22)).accepted
        isolated = judged(policy("x/shut", EVERYTHING, egress=()))
        assert isolated.send(to_node(source, own, "tcp", 22)).accepted
