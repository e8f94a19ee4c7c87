"""``trace``: verdicts, hops in kernel order, the answer's way, for every kind of client and destination, both families."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kuberouterpy import answers, offline
from kuberouterpy.answers import Trace, UnknownSubject
from kuberouterpy.cli import main
from kuberouterpy.cluster import BestPath
from kuberouterpy.config import Config
from kuberouterpy.loop import Loop

WORLD = """\
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.1.0/24, "fd00:1:1::/64"]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: "fd00::1"}]}
---
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.1.2.0/24, "fd00:1:2::/64"]}
status: {addresses: [{type: InternalIP, address: 10.0.0.2}, {type: InternalIP, address: "fd00::2"}]}
---
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.1.1.2}, {ip: "fd00:1:1::2"}], phase: Running}
---
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.1.1.3}, {ip: "fd00:1:1::3"}], phase: Running}
---
kind: Pod
metadata: {name: web-2, labels: {app: web}}
spec: {nodeName: n2}
status: {podIPs: [{ip: 10.1.2.3}, {ip: "fd00:1:2::3"}], phase: Running}
"""
POLICY = """---
kind: NetworkPolicy
metadata: {name: shut}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]
"""
FAMILIES = {
    4: {
        "type": "IPv4",
        "vip": "10.96.0.10",
        "web-1": "10.1.1.3",
        "web-2": "10.1.2.3",
        "node": "10.0.0.1",
        "out": "192.0.2.1",
    },
    6: {
        "type": "IPv6",
        "vip": "[fd00:96::a]",
        "web-1": "fd00:1:1::3",
        "web-2": "fd00:1:2::3",
        "node": "[fd00::1]",
        "out": "2001:db8::1",
    },
}


def service(more: str = "", *, pods: tuple[str, ...] = ("web-1", "web-2"), conditions: str = "ready: true") -> str:
    """Return a Service of both families with the pods as endpoints."""
    text = f"""---
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::a"]
  ipFamilies: [IPv4, IPv6]
  ports: [{{name: http, port: 80, protocol: TCP, nodePort: 30080}}, {{name: dns, port: 53, protocol: UDP, nodePort: 30053}}]
  {more}
status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.5}}, {{ip: "2001:db8:5::5"}}]}}}}
"""
    for number, family in FAMILIES.items():
        endpoints = "".join(
            f'- {{addresses: ["{family[pod]}"], nodeName: n{pod[-1]}, conditions: {{{conditions}}}}}\n' for pod in pods
        )
        text += f"""---
kind: EndpointSlice
metadata: {{name: web-{number}, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family["type"]}
ports: [{{name: http, port: 8080, protocol: TCP}}, {{name: dns, port: 5353, protocol: UDP}}]
endpoints: {"" if endpoints else "[]"}
{endpoints}"""
    return text


def loop_of(tmp_path: Path, *texts: str, paths: tuple[BestPath, ...] = ()) -> Loop:
    (tmp_path / "world.yaml").write_text(WORLD + "".join(texts))
    facts = offline.read([tmp_path / "world.yaml"], node="n1")
    config = Config(
        node_name="n1",
        enable_ipv6=True,
        service_cluster_ip_range=("10.96.0.0/12", "fd00:96::/112"),
        loadbalancer_ip_range=("203.0.113.0/24", "2001:db8:5::/64"),
    )
    if not paths:
        return offline.build(config, facts, offline.links_of(facts))
    loop = offline.idle(config, (offline.Empty(offline.KINDS),))
    for event in offline.events(facts, offline.links_of(facts)):
        loop.put(event._replace(records=paths) if getattr(event, "kind", None) is BestPath else event)  # type: ignore[union-attr]
    loop.step(0.0)
    return loop


def traced(loop: Loop, source: str, destination: str, family: int, protocol: str = "") -> Trace:
    (one,) = answers.trace(loop, source, destination, family=family, protocol=protocol).traces
    assert not one.doubts
    return one


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_reaches_a_service_on_both_nodes_and_the_answer_comes_back(tmp_path: Path, family: int) -> None:
    one = traced(loop_of(tmp_path, service()), "pod/default/client", "service/default/web:http", family)
    assert one.verdict == "reaches"
    assert [way.end.partition(",")[0] for way in one.ways] == ["pod default/web-1 on n1", "pod default/web-2 on n2"]
    near, far = one.ways
    assert [hop.stage for hop in near.hops] == ["route", "ipvs", "OUTPUT filter", "POSTROUTING nat", "route"]
    assert [(hop.node, hop.stage) for hop in far.hops[-3:]] == [
        ("n1", "route"),
        ("n2", "FORWARD filter"),
        ("n2", "route"),
    ]
    assert [(hop.node, hop.stage) for hop in far.back] == [
        ("n2", "FORWARD filter"),
        ("n1", "FORWARD filter"),
        ("n1", "ipvs"),
    ]
    assert near.hops[1].owner == "proxy/service/default/web"
    assert near.hops[2].owner == "firewall/base"
    assert all(hop.text.startswith("ACCEPT") for hop in near.back[:1])
    assert near.seen_as == far.seen_as == FAMILIES[family]["web-1"].rpartition("3")[0] + "2"


@pytest.mark.parametrize("family", [4, 6])
def test_a_policy_denies_directly_and_through_the_service_and_is_named(tmp_path: Path, family: int) -> None:
    loop = loop_of(tmp_path, service(), POLICY)
    for target in ("service/default/web:80", "pod/default/web-1:8080", "pod/default/web-2:8080"):
        one = traced(loop, "pod/default/client", target, family)
        assert one.verdict == "denied"
        last = one.ways[0].hops[-1]
        assert last.text.endswith("denied by shut")
        assert last.owner.startswith("firewall/pod/default/web-")
        assert last.path[0].startswith(("OUTPUT", "FORWARD"))
    # A node always reaches its own pods; those of another node see a node, which no selector means.
    assert {
        way.end.partition(",")[0]: way.verdict for way in traced(loop, "node", "service/default/web:80", family).ways
    } == {
        "pod default/web-1 on n1": "reaches",
        "DROP: ingress of default/web-2 denied by shut": "denied",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_reaches_its_own_address_whatever_isolates_it(tmp_path: Path, family: int) -> None:
    """The packet never leaves its network; through a Service it does, and is judged."""
    loop = loop_of(tmp_path, POLICY, service(pods=("web-1",)))
    itself = traced(loop, "pod/default/web-1", "pod/default/web-1:8080", family)
    assert itself.verdict == "reaches"
    assert [hop.stage for hop in itself.ways[0].hops] == ["loopback"]
    assert traced(loop, "pod/default/web-1", "service/default/web:80", family).verdict == "denied"


@pytest.mark.parametrize("family", [4, 6])
def test_a_client_outside_is_masqueraded_so_that_the_answer_comes_back(tmp_path: Path, family: int) -> None:
    names = FAMILIES[family]
    one = traced(loop_of(tmp_path, service()), names["out"], f"{names['node']}:30080", family)
    assert (one.verdict, one.origin) == ("reaches", "outside")
    assert one.ways[1].seen_as == names["node"].strip("[]")
    assert [hop.stage for hop in one.ways[1].back] == ["FORWARD filter", "FORWARD filter", "conntrack", "ipvs"]


@pytest.mark.parametrize("family", [4, 6])
def test_policy_local_keeps_clients_outside_on_this_node_and_lets_pods_go_anywhere(tmp_path: Path, family: int) -> None:
    names = FAMILIES[family]
    loop = loop_of(tmp_path, service("externalTrafficPolicy: Local"))
    outside = traced(loop, names["out"], f"{names['node']}:30080", family)
    assert [way.end.partition(",")[0] for way in outside.ways] == ["pod default/web-1 on n1"]
    assert outside.ways[0].seen_as == names["out"]
    inside = traced(loop, "pod/default/client", f"{names['node']}:30080", family)
    assert len(inside.ways) == 2
    assert inside.ways[0].hops[0].stage == "PREROUTING mangle"
    assert inside.ways[0].hops[0].text.startswith("mark 0x4")
    elsewhere = loop_of(tmp_path, service("externalTrafficPolicy: Local", pods=("web-2",)))
    assert traced(elsewhere, names["out"], f"{names['node']}:30080", family).verdict == "refused"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("text", "verdict", "end"),
    [
        (service(pods=()), "refused", "ip_vs refuses the connection"),
        (service(conditions="ready: false, serving: false"), "refused", "ip_vs refuses the connection"),
        (service(conditions="ready: false, serving: true, terminating: true"), "reaches", "pod default/web-1 on n1"),
        (service("sessionAffinity: ClientIP"), "reaches", "pod default/web-1 on n1"),
    ],
)
def test_endpoints_decide(tmp_path: Path, family: int, text: str, verdict: str, end: str) -> None:
    one = traced(loop_of(tmp_path, text), "pod/default/client", "service/default/web:80", family)
    assert one.verdict == verdict
    assert one.ways[0].end.startswith(end)


@pytest.mark.parametrize("family", [4, 6])
def test_an_unused_port_of_a_vip_is_refused_and_a_port_of_the_node_is_not_ours(tmp_path: Path, family: int) -> None:
    names = FAMILIES[family]
    loop = loop_of(tmp_path, service())
    unused = traced(loop, "pod/default/client", f"{names['vip']}:22", family)
    assert (unused.verdict, unused.ways[0].hops[-1].stage) == ("refused", "INPUT filter")
    assert traced(loop, "node", f"{names['vip']}:22", family).verdict == "refused"
    assert traced(loop, "pod/default/client", f"{names['node']}:22", family).verdict == "reaches the node"
    assert traced(loop, "pod/default/client", f"{names['vip']}:53", family, "udp").verdict == "reaches"


@pytest.mark.parametrize("family", [4, 6])
def test_source_ranges_drop_who_is_outside_them(tmp_path: Path, family: int) -> None:
    ranges = 'loadBalancerSourceRanges: ["192.0.2.0/28", "2001:db8::/120"]'
    loop = loop_of(tmp_path, service(ranges))
    vip = {4: "203.0.113.5", 6: "[2001:db8:5::5]"}[family]
    inside, outside = {4: ("192.0.2.1", "192.0.2.99"), 6: ("2001:db8::1", "2001:db8:9::1")}[family]
    assert traced(loop, inside, f"{vip}:80", family).verdict == "reaches"
    denied = traced(loop, outside, f"{vip}:80", family)
    assert (denied.verdict, denied.ways[0].hops[-1].stage) == ("denied", "INPUT filter")
    assert traced(loop, "node", f"{vip}:80", family).verdict == "denied"


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_that_leaves_the_cluster_is_masqueraded_and_one_without_a_route_is_lost(
    tmp_path: Path, family: int
) -> None:
    names = FAMILIES[family]
    target = f"[{names['out']}]:443" if family == 6 else f"{names['out']}:443"
    one = traced(loop_of(tmp_path, service()), "pod/default/client", target, family)
    assert (one.verdict, one.ways[0].seen_as) == ("leaves the cluster", names["node"].strip("[]"))
    other = BestPath("10.1.9.0/24", ("10.0.0.9",), neighbor="10.0.0.9")
    lost = traced(loop_of(tmp_path, service(), paths=(other,)), "pod/default/client", "pod/default/web-2:80", family)
    assert lost.verdict == "lost"
    assert "no route to" in lost.ways[0].end


@pytest.mark.parametrize(
    ("source", "destination", "told"),
    [
        ("pod/default/none", "service/default/web", "no pod default/none is known"),
        ("pod/default/clinet", "service/default/web", "did you mean default/client?"),
        ("node", "service/default/wbe", "did you mean default/web?"),
        ("node", "node/n3:80", "did you mean n2?"),
        ("nonsense", "service/default/web", "nonsense is no source; write pod/NAMESPACE/NAME"),
        ("node", "nonsense", "nonsense is no destination; write service/"),
        ("node", "10.1.1.3", "to which port? write 10.1.1.3:80"),
        ("node", "service/default/none", "no Service default/none is known"),
        ("node", "service/default/web:443", "has no port 443; it has http (80/TCP), dns (53/UDP)"),
        ("node", "pod/default/web-1:x", "x is no port number"),
        ("192.0.2.1", "[fd00::1]:80", "no address of one family in common"),
    ],
)
def test_what_is_not_known_is_said_with_what_to_write(tmp_path: Path, source: str, destination: str, told: str) -> None:
    loop = loop_of(tmp_path, service())
    with pytest.raises(UnknownSubject) as error:
        answers.trace(loop, source, destination)
    assert told.lower() in str(error.value).lower()


def test_the_command_says_verdict_hops_and_answer_and_its_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop_of(tmp_path, service(), POLICY)
    offline_words = ["-f", str(tmp_path), "--node", "n1", "--enable-ipv6"]
    assert main(["trace", "pod/default/client", "service/default/web", *offline_words, "--exit-code"]) == 5
    out = capsys.readouterr().out
    assert out.startswith("DENIED  10.1.1.2 -> 10.96.0.10:80/tcp from n1\n")
    assert "   3  n1  OUTPUT filter        DROP: ingress of default/web-1 denied by shut" in out
    assert "  or 10.1.2.3:8080: DENIED" in out
    assert main(["trace", "node", "pod/default/web-1:80", *offline_words, "--exit-code", "--family", "6"]) == 0
    assert "back" in capsys.readouterr().out
    assert main(["trace", "pod/default/client", "10.96.0.10:22", *offline_words, "--exit-code"]) == 1
    capsys.readouterr()
    assert main(["trace", "pod/default/client", "service/default/web", *offline_words, "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["family"] for one in told["traces"]] == [4, 6]
    assert main(["trace", "pod/default/nobody", "service/default/web", *offline_words]) == 1
    assert capsys.readouterr().err.startswith("error: no pod default/nobody is known")
