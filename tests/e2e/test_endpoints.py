"""Endpoints in every state on a real cluster: which serve where, and what moves when they change.

Names begin with the row of the Kubernetes project's own conformance tests, or of our own list of behaviours. Where the control
plane would only copy a state into a slice, the slices are written by hand.
"""
# ruff: noqa: N802  (rows are D12, E1, ...)

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from socket import SOCK_DGRAM

import pytest

from kuberouterpy.lab.client import ENDPOINT_SLICES, NODES, PODS, SERVICES, Object
from tests.cluster import REFUSED, Lab, Place, ask, eventually, name_in, url
from tests.e2e.conftest import Make, Pods, Relabel, Serve, ip_of, node_urls, ready, remove, vip, vip_urls
from tests.e2e.objects import DNS, HTTP, NAMESPACE, container_port, endpoint_slice, pod, port, service
from tests.e2e.slices import DEAD, DYING, READY, UNREADY, UNTOLD, Slices, near
from tests.e2e.test_services import EVERYONE, covers, refuses
from tests.e2e.test_traffic_policy import closed, on

TCP = [port(80, 80, name="tcp")]
BOTH = [*TCP, port(53, 53, name="udp", protocol="UDP")]
NEVER = {"readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 60}}
"""What a container says that is never ready."""
ZONE = "topology.kubernetes.io/zone"


def test_D12_D13_D14_D16_dying_endpoints_serve_by_the_policy_and_dead_ones_nobody(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    plain = serve(service("plain", TCP, type="NodePort"))
    inside = serve(service("inside", TCP, internalTrafficPolicy="Local"))
    outside = serve(service("outside", TCP, type="NodePort", externalTrafficPolicy="Local"))
    slices = Slices(lab, shared, make, "plain", "inside", "outside")
    guest, green = shared["guest"], shared["green"]
    here, there = on(lab, "node-1", outside), on(lab, "node-3", outside)

    slices.hold(red=DYING)
    for place in (guest, green):
        eventually(covers, place, [*vip_urls(lab, plain), *node_urls(lab, plain)], {"red"})
    eventually(covers, guest, vip_urls(lab, inside), {"red"})
    closed(green, vip_urls(lab, inside))
    for place in (lab.client, guest, green):
        eventually(covers, place, here, {"red"})
    for place in (lab.client, guest):
        closed(place, there)

    slices.hold(red=DYING, green=READY)  # the tiers never mix; each set has its own
    for place in (guest, green):
        eventually(covers, place, vip_urls(lab, plain), {"green"})
    eventually(covers, guest, vip_urls(lab, inside), {"red"})
    covers(green, vip_urls(lab, inside), {"green"})
    covers(lab.client, here, {"red"})
    eventually(covers, lab.client, there, {"green"})

    slices.hold(red=DEAD, green=UNREADY)
    for place in (guest, green):
        every = (*vip_urls(lab, plain), *node_urls(lab, plain), *vip_urls(lab, inside), *here, *there)
        eventually(refuses, place, list(every))

    slices.hold(red=UNTOLD)
    eventually(covers, green, vip_urls(lab, plain), {"red"})


def test_A13_D15_D16_D17_pods_that_are_not_ready_serve_where_the_service_says_so(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    """Also while they terminate; but a pod that has ended serves nobody, whatever the Service says."""
    containers = [{"name": "c", "image": "responder", "ports": [container_port(HTTP, "http")], **NEVER}]
    linger = {"kuberouterpy.io/linger": "true"}
    make(PODS, pod("never", "node-3", labels={"app": "never"}, annotations=linger, containers=containers))
    failed = [{"name": "c", "image": "busybox", "command": ["sh", "-c", "exit 1"]}]
    make(PODS, pod("failed", "node-2", labels={"app": "failed"}, containers=failed, restartPolicy="Never"))
    shown: Object = {"type": "NodePort", "publishNotReadyAddresses": True}
    item = serve(service("shown", [port(80, "http")], {"app": "never"}, **shown))
    over = serve(service("over", [port(80, HTTP)], {"app": "failed"}, **shown))
    places = (shared["guest"], lab.node("node-3"))
    urls = [*vip_urls(lab, item), *on(lab, "node-1", item), *on(lab, "node-3", item)]

    def publish(value: bool) -> None:
        lab.api.patch(SERVICES, NAMESPACE, "shown", {"spec": {"publishNotReadyAddresses": value}})

    for _ in ("alive", "terminating"):
        for place in places:
            eventually(covers, place, urls, {"never"})
        publish(False)
        for place in places:
            eventually(refuses, place, urls)
        publish(True)
        for place in places:
            eventually(covers, place, urls, {"never"})
        lab.api.delete(PODS, NAMESPACE, "never", grace_s=100)
    eventually(_has_failed, lab)
    for place in places:
        eventually(refuses, place, [*vip_urls(lab, over), *node_urls(lab, over)])


def _has_failed(lab: Lab) -> None:
    assert lab.api.get(PODS, NAMESPACE, "failed")["status"]["phase"] == "Failed"


def test_D3_local_policy_with_an_endpoint_on_the_host_network(lab: Lab, shared: Pods, serve: Serve) -> None:
    item = serve(service("hosted", [port(80, "http")], {"name": "host"}, internalTrafficPolicy="Local"))
    for place in (shared["blue"], lab.node("node-2")):
        eventually(covers, place, vip_urls(lab, item), {"host"})
    for place in (shared["guest"], lab.node("node-1")):
        closed(place, vip_urls(lab, item))


@pytest.fixture
def zones(lab: Lab) -> Iterator[None]:
    """Every node in a zone of its own, until the end of the test."""
    for node in lab.nodes:
        lab.api.patch(NODES, "", node, {"metadata": {"labels": {ZONE: f"zone-{node}"}}})
    yield
    for node in lab.nodes:
        lab.api.patch(NODES, "", node, {"metadata": {"labels": {ZONE: None}}})


@pytest.mark.usefixtures("zones")
def test_E1_E2_K14_traffic_stays_near_where_the_service_wants_it(
    lab: Lab, shared: Pods, serve: Serve, relabel: Relabel
) -> None:
    """The control plane hints, and nodes follow. green's zone has no endpoint: it may use any."""
    for name in ("red", "blue"):
        relabel(name, near="yes")
    item = serve(service("near", [port(80, "http")], {"near": "yes"}, trafficDistribution="PreferClose"))
    urls = vip_urls(lab, item)
    eventually(covers, shared["guest"], urls, {"red"})
    eventually(covers, lab.node("node-2"), urls, {"blue"})
    eventually(covers, shared["green"], urls, {"red", "blue"})
    lab.api.patch(NODES, "", "node-3", {"metadata": {"labels": {ZONE: "zone-node-2"}}})  # K14: green's node moves
    eventually(covers, shared["green"], urls, {"blue"})
    lab.api.patch(SERVICES, NAMESPACE, "near", {"spec": {"trafficDistribution": "PreferSameNode"}})
    relabel("green", near="yes")
    for name, place in (("red", shared["guest"]), ("blue", lab.node("node-2")), ("green", shared["green"])):
        eventually(covers, place, urls, {name})
    relabel("green", near=None)  # no endpoint on the node any more: the zone's, then any
    eventually(covers, shared["green"], urls, {"blue"})
    relabel("blue", near=None)
    eventually(covers, shared["green"], urls, {"red"})


@pytest.mark.usefixtures("zones")
def test_E3_E4_E5_hints_count_only_when_all_ready_endpoints_have_them_and_never_for_local(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    item = serve(service("hinted", TCP, type="NodePort"))
    local = serve(service("local", TCP, type="NodePort", externalTrafficPolicy="Local", internalTrafficPolicy="Local"))
    slices = Slices(lab, shared, make, "hinted", "local")
    urls, guest = vip_urls(lab, item), shared["guest"]
    elsewhere = {"red": near(READY, zones="zone-node-2"), "blue": near(READY, zones="zone-node-1")}

    slices.hold(**elsewhere)
    eventually(covers, guest, urls, {"blue"})
    eventually(covers, guest, vip_urls(lab, local), {"red"})  # E4
    covers(lab.client, on(lab, "node-1", local), {"red"})
    slices.hold(**elsewhere, green=READY)  # E3: one has no hint
    eventually(covers, guest, urls, EVERYONE)
    # E5: a terminating endpoint's hint does not count, nor does its zone keep it in use.
    slices.hold(red=near(DYING, zones="zone-node-1"), blue=near(READY, zones="zone-node-2"))
    eventually(covers, guest, urls, {"blue"})
    slices.hold(red=near(DYING, zones="zone-node-2"), blue=near(DYING, zones="zone-node-3"))
    eventually(covers, guest, urls, {"red", "blue"})


def test_A31_no_new_connection_goes_to_an_endpoint_that_is_ready_no_more(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    """Clients that always asked blue: not one question may fail, and after the flip none be answered by blue."""
    item = serve(service("flip", TCP, type="NodePort"))
    slices = Slices(lab, shared, make, "flip")
    slices.hold(blue=READY)
    places = {
        shared["guest"]: vip_urls(lab, item),
        lab.node("node-3"): vip_urls(lab, item),
        lab.client: on(lab, "node-2", item),
    }
    for place, urls in places.items():
        eventually(covers, place, urls, {"blue"})
    slices.hold(blue=READY, green=READY)
    for place, urls in places.items():
        eventually(covers, place, urls, {"blue", "green"})
    slices.hold(blue={"conditions": {"ready": False, "serving": True}}, green=READY)
    for place, urls in places.items():
        for one in urls:
            eventually(_only, place, one, {"blue", "green"}, "green")
            assert set(place.names(one, 12)) == {"green"}, (place, one)


def _only(place: Place, one: str, allowed: set[str], wanted: str) -> None:
    found = set(place.names(one, 6))
    if not found <= allowed:
        raise RuntimeError(f"{place} {one}: {found}")  # not an assertion: no later answer makes this one good
    assert found == {wanted}


def test_I3_a_flow_is_not_stuck_when_its_local_endpoint_moves_away(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    item = serve(service("moving", BOTH, internalTrafficPolicy="Local"))
    slices = Slices(lab, shared, make, "moving")
    slices.hold(red=READY)
    with ExitStack() as stack:
        flows = {
            vip(item, family): stack.enter_context(shared["guest"].socket(vip(item, family), SOCK_DGRAM))
            for family in lab.families
        }

        def hears(*names: str) -> None:
            for address, flow in flows.items():
                assert name_in(ask(flow, address, 53, timeout_s=0.5)) in names, address

        eventually(hears, "red")
        slices.hold(red=READY, green=READY)
        slices.hold(green=READY)  # red itself lives on and would answer
        eventually(hears, "refused", "silence")
        slices.hold(green=READY, guest=READY)
        eventually(hears, "guest")


def test_K6_K8_an_endpoint_passes_to_another_service_and_a_slice_may_be_empty_between(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    one, two = (serve(service(name, TCP, type="NodePort")) for name in ("from", "to"))
    slices = Slices(lab, shared, make, "from", "to")
    place = shared["guest"]
    for _ in range(2):
        slices.hold("from", red=READY)
        slices.hold("to")
        eventually(covers, place, [*vip_urls(lab, one), *on(lab, "node-3", one)], {"red"})
        eventually(refuses, place, [*vip_urls(lab, two), *on(lab, "node-3", two)])
        slices.hold("to", red=READY)
        slices.hold("from")
        eventually(covers, place, [*vip_urls(lab, two), *on(lab, "node-3", two)], {"red"})
        eventually(refuses, place, [*vip_urls(lab, one), *on(lab, "node-3", one)])


def test_K7_hundreds_of_endpoints_in_slices_that_come_and_go_in_any_order(
    lab: Lab, shared: Pods, serve: Serve, make: Make
) -> None:
    """Three slices a family, the last before their Service; one is deleted, another made again, an endpoint is in two."""
    named = [{"name": "tcp", "protocol": "TCP", "port": HTTP}]
    each = 100

    def block(family_index: int, number: int) -> Object:
        prefix = (f"10.77.{number}.", f"fd77:0:0:{number}::")[family_index]
        made = endpoint_slice(f"many-{family_index}-{number}", "many", [f"{prefix}1"], named)
        endpoints = [{"addresses": [f"{prefix}{index}"], "conditions": {"ready": True}} for index in range(1, each + 1)]
        if number == 2:  # in the middle of a migration: also in the first slice
            endpoints[0] = {"addresses": [f"{('10.77.0.', 'fd77::')[family_index]}1"], "conditions": {"ready": True}}
        return made | {"endpoints": endpoints}

    for index, _ in enumerate(lab.families):
        make(ENDPOINT_SLICES, block(index, 2))
    item = serve(service("many", TCP))
    for index, _ in enumerate(lab.families):
        for number in (0, 1):
            make(ENDPOINT_SLICES, block(index, number))
    eventually(_counts, lab, item, 3 * each - 1)
    for index, _ in enumerate(lab.families):
        remove(lab, ENDPOINT_SLICES, f"many-{index}-0")
    eventually(_counts, lab, item, 2 * each)
    for index, _ in enumerate(lab.families):
        make(ENDPOINT_SLICES, block(index, 0))
        remove(lab, ENDPOINT_SLICES, f"many-{index}-1")
    eventually(_counts, lab, item, 2 * each - 1)


def _counts(lab: Lab, item: Object, number: int) -> None:
    """Assert how many real servers, each once and with weight 1, a Service has on every node."""
    for node in lab.nodes:
        lines = lab.node(node).run("ipvsadm -Sn").splitlines()
        for family in lab.families:
            server = url(vip(item, family), 80).removeprefix("http://")
            found = [line for line in lines if line.startswith(f"-a -t {server} ")]
            assert len(found) == len(set(found)) == number, (node, server, len(found))
            assert all(line.endswith(" -w 1") for line in found)


def test_A32_a_sidecars_port_is_found_by_number_and_by_name(lab: Lab, shared: Pods, serve: Serve, make: Make) -> None:
    side = {"name": "side", "image": "responder", "restartPolicy": "Always", "ports": [container_port(9090, "side")]}
    item = pod("carrier", "node-2", labels={"app": "carrier"}, ports=[container_port(HTTP, "http")])
    make(PODS, item | {"spec": {**item["spec"], "initContainers": [side]}})
    ports = [port(80, "side", name="named"), port(81, 9090, name="numbered"), port(82, "http", name="main")]
    made = serve(service("carrier", ports, {"app": "carrier"}))
    for place in (shared["guest"], lab.node("node-2")):
        eventually(covers, place, [one for number in (80, 81, 82) for one in vip_urls(lab, made, number)], {"carrier"})


def test_A30_a_terminating_pod_is_reached_and_reaches_others_until_its_grace_ends(
    lab: Lab, shared: Pods, make: Make
) -> None:
    linger = {"kuberouterpy.io/linger": "true"}
    web = [container_port(HTTP, "http"), container_port(DNS, "dns", "UDP")]
    item = make(PODS, pod("ending", "node-2", labels={"app": "ending"}, ports=web, annotations=linger))
    now = eventually(ready, lab, item)
    ending = lab.pod(NAMESPACE, "ending")
    lab.api.delete(PODS, NAMESPACE, "ending", grace_s=100)
    own = [url(ip_of(now, family), HTTP) for family in lab.families]
    others = [url(shared.ip(name, family), HTTP) for name in ("blue", "green") for family in lab.families]
    for _ in range(5):  # while agents hear of it
        for place in (shared["guest"], shared["blue"], lab.node("node-3")):
            assert [answer.code for answer in place.curl(*own)] == [0, 0], place
        assert [answer.code for answer in ending.curl(*others)] == [0] * len(others)
    remove(lab, PODS, "ending")
    eventually(_gone, shared["blue"], own)


def _gone(place: Place, urls: list[str]) -> None:
    assert not {0, REFUSED} & set(place.codes(*urls, timeout_s=1))
