"""BGP to the fabric: the lab's router speaks BIRD, nodes are told of it by annotation at run time; and a sidecar that hangs."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from kuberouterpy.answers.bgp import Neighbors, Why
from kuberouterpy.cli.ask import ask
from kuberouterpy.cli.bgp import why_lines
from kuberouterpy.family import family_of
from kuberouterpy.lab.client import NODES, SERVICES
from kuberouterpy.lab.topology import ROUTER_ASN
from kuberouterpy.status import Status
from tests.cluster import Lab, Place, Steady, eventually, url
from tests.e2e.conftest import Pods, Serve, vip_urls
from tests.e2e.objects import EVENTS, HTTP, port, service
from tests.e2e.test_routes import meshed
from tests.e2e.test_services import EVERYONE, WEB, covers

PREFIX = "kube-router.io/"
VIPS = ("203.0.113.77", "2001:db8:cb::77")
COMMUNITY = "(65000,7)"
HANGS_S = 5
"""Well within these labs' hold time."""
FORGOTTEN_S = 8.0
"""From here on a neighbor may find it silent for the hold time."""


Annotate = Callable[..., None]


@pytest.fixture
def router(lab: Lab) -> Iterator[Place]:
    place = Place("router", "/run/netns/router")
    yield place
    place.close()


@pytest.fixture
def annotate(lab: Lab) -> Iterator[Annotate]:
    """Annotate Nodes until the end of the test; None takes one away."""
    given: set[tuple[str, str]] = set()

    def patch(node: str, **texts: str | None) -> None:
        named = {PREFIX + key.replace("_", "."): text for key, text in texts.items()}
        given.update((node, key) for key in named)
        lab.api.patch(NODES, "", node, {"metadata": {"annotations": named}})

    yield patch
    for node, key in given:
        lab.api.patch(NODES, "", node, {"metadata": {"annotations": {key: None}}})


def gateways(lab: Lab, node: str) -> list[str]:
    """Return the router's addresses on a node's subnet."""
    return [one.address for one in lab.topology.station(node).gateways]


def peers(lab: Lab, node: str) -> str:
    """Return the annotation that makes the router a node's neighbor, in both families."""
    return "\n".join(f"- {{remoteip: '{one}', remoteasn: {ROUTER_ASN}}}" for one in gateways(lab, node))


def ways(lab: Lab, router: Place) -> dict[str, set[str]]:
    """Return the next hops the router's kernel has for each VIP."""
    found: dict[str, set[str]] = {}
    for address in VIPS:
        words = router.run(f"ip -{family_of(address):d} route show {address}").split()
        found[address] = {word for before, word in itertools.pairwise(words) if before == "via"}
    return found


def reached_over(lab: Lab, router: Place, *nodes: str) -> None:
    """Assert that the router's kernel has the VIPs over exactly these nodes."""
    assert ways(lab, router) == {one: {lab.address(node, family_of(one)) for node in nodes} for one in VIPS}


def bird(router: Place, words: str) -> str:
    return router.run(f"birdc -s /run/lab/router/bird.ctl '{words}'")


def sessions(router: Place) -> dict[str, float]:
    """Return the router's established sessions: neighbor to since when, in seconds of the day.

    BIRD counts back from now each time it is asked: the same session is a millisecond older or younger.
    """
    found: dict[str, float] = {}
    since = ""
    for line in bird(router, "show protocols all").splitlines():
        words = line.split()
        if len(words) > 5 and words[1] == "BGP":
            since = words[4] if words[5] == "Established" else ""
        elif line.strip().startswith("Neighbor address:") and since:
            hours, minutes, seconds = map(float, since.split(":"))
            found[words[2]] = hours * 3600 + minutes * 60 + seconds
    return found


def untouched(before: dict[str, float]) -> object:
    """Return what equals these sessions as long as none of them began anew."""
    return pytest.approx(before, abs=0.5)


def reason(node: str, address: str) -> str:
    """Return what ``bgp why`` says of an address on a node."""
    return "\n".join(why_lines(ask(socket_of(node), "bgp-why", Why, prefix=(address,))))


def socket_of(node: str) -> str:
    """Return the path of an agent's socket."""
    return f"/run/lab/nodes/{node}/agent.sock"


@pytest.fixture
def fabric(lab: Lab, shared: Pods, serve: Serve, router: Place, annotate: Annotate) -> None:
    """The router as a neighbor of every node, by annotation, and VIPs of a Service over all of them."""
    for node in lab.nodes:
        annotate(node, peers=peers(lab, node), node_bgp_communities="65000:7")
    item = service("fabric", [port(80, "http")], WEB, externalIPs=list(VIPS))
    item["metadata"]["annotations"] = {f"{PREFIX}service.advertise.externalip": "true"}
    serve(item)
    eventually(reached_over, lab, router, *lab.nodes)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("fabric")
def test_vips_reach_the_fabric_over_every_node_and_edits_at_run_time_touch_nothing_else(
    lab: Lab, router: Place, annotate: Annotate
) -> None:
    """ECMP over three nodes in both families with a community; a malformed edit costs nothing; Local leaves only the node
    with a ready endpoint; what is taken away is withdrawn."""
    for address in VIPS:
        assert bird(router, f"show route all for {address}").count(COMMUNITY) == len(lab.nodes)
    eventually(covers, lab.client, [url(one, 80) for one in VIPS], EVERYONE)

    told = ask(socket_of("node-1"), "bgp-neighbors", Neighbors)
    external = {one.address: one.state for one in told.neighbors if one.name == "external"}
    assert external == dict.fromkeys(gateways(lab, "node-1"), "established")
    text = reason("node-1", VIPS[0])
    assert f"to {gateways(lab, 'node-1')[0]} external: export statement" in text
    assert "communities 65000:7" in text

    before = sessions(router)
    assert before.keys() == {one for node in lab.nodes for one in _of(lab, node)}
    annotate("node-1", peers="- remoteip: nonsense")
    eventually(_event, lab, "node-1", f"{PREFIX}peers: [0].remoteasn: is missing")
    assert sessions(router) == untouched(before)

    patch = {"spec": {"externalTrafficPolicy": "Local", "selector": {"name": "red"}, "type": "NodePort"}}
    lab.api.patch(SERVICES, "e2e", "fabric", patch)
    eventually(reached_over, lab, router, "node-1")
    assert "no-local-endpoint" in reason("node-2", VIPS[1])
    annotate("node-1", peers=None)
    eventually(reached_over, lab, router)
    eventually(_gone, router, _of(lab, "node-1"))


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("fabric")
def test_an_agent_and_a_gobgp_that_are_killed_cost_the_fabric_no_way(lab: Lab, router: Place) -> None:
    """The agent's end is no event for BGP; of GoBGP's the router keeps the routes for the restart time."""
    before = sessions(router)
    lab.stop_agent("node-2", signal.SIGKILL)
    lab.start_agent("node-2")
    lab.wait("agents")
    assert sessions(router) == untouched(before)
    reached_over(lab, router, *lab.nodes)
    lab.restart_gobgp("node-3", signal.SIGKILL)
    reached_over(lab, router, *lab.nodes)
    eventually(_again, router, before)
    reached_over(lab, router, *lab.nodes)
    others = {one for node in ("node-1", "node-2") for one in _of(lab, node)}
    kept = {one: since for one, since in sessions(router).items() if one in others}
    assert kept == untouched({one: before[one] for one in others})


def _of(lab: Lab, node: str) -> set[str]:
    return {lab.address(node, family) for family in lab.families}


def _again(router: Place, before: dict[str, float]) -> None:
    assert sessions(router).keys() == before.keys()


def _gone(router: Place, addresses: set[str]) -> None:
    assert not sessions(router).keys() & addresses


def _event(lab: Lab, node: str, text: str) -> None:
    found, _ = lab.api.list(EVENTS, "default")
    about = [one["message"] for one in found if one["involvedObject"]["name"] == node]
    assert any(text in one for one in about), about


@pytest.mark.timeout(180)
def test_a_gobgp_that_hangs_delays_no_service_and_costs_no_connection(
    lab: Lab, shared: Pods, serve: Serve, record_property: Callable[[str, object], None]
) -> None:
    """Neighbors wait for the hold time, its own kernel keeps what it had; IPVS goes on as if nothing were."""
    targets = [(shared.ip(name, family), HTTP) for name in ("guest", "green") for family in lab.families]
    pid = lab.parts()[next(name for name in lab.parts() if "gobgp" in name and "node-2" in name)]
    with Steady(shared["blue"], targets) as flow:
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            web = serve(service("web", [port(80, "http")], WEB))
            eventually(covers, shared["blue"], vip_urls(lab, web), EVERYONE)
            eventually(_unreachable)
            while time.monotonic() - stopped < HANGS_S:
                same_routes(lab)
        finally:
            os.kill(pid, signal.SIGCONT)
            hung_s = time.monotonic() - stopped
        eventually(meshed, lab)
    record_property("figure", f"hung for {hung_s:.0f} s, {flow.asked} connections, {len(flow.lost)} lost")
    assert flow.asked > len(targets)
    # Silent for the hold time (12 s, a keepalive each 4 s), a node is forgotten: a busy machine may take that long to look.
    assert hung_s >= FORGOTTEN_S or flow.lost == []


def _unreachable() -> None:
    (gobgp,) = [one for one in ask(socket_of("node-2"), "status", Status).sources if one.name == "gobgp"]
    assert not gobgp.ok
    assert "within 2 s" in gobgp.reason


def same_routes(lab: Lab) -> None:
    """Assert that node-2 has its routes to the pods of every other node."""
    text = lab.node("node-2").run("ip route show proto 17; ip -6 route show proto 17")
    assert len(text.splitlines()) == 2 * (len(lab.nodes) - 1), text
