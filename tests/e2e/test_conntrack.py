"""UDP flows on a real cluster: a client that never changes its port follows the endpoints, and is cut where nobody serves.

Names begin with the row of the Kubernetes project's own conformance tests that they repeat; ``conntrack`` is the judge of
what the kernels remember.
"""
# ruff: noqa: N802  (rows are I1, I2, ...)

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from kuberouterpy.family import Family, family_of
from kuberouterpy.lab.client import PODS, SERVICES
from tests.cluster import Lab, Place, eventually, name_in, say, source_in
from tests.e2e.conftest import Make, Pods, Serve, node_port, ready, remove, vip
from tests.e2e.objects import DNS, HTTP, NAMESPACE, container_port, pod, port, service
from tests.e2e.test_traffic_policy import INGRESS, balance

UDP = [port(53, "dns", protocol="UDP")]
DNS_PORT = (container_port(DNS, "dns", "UDP"),)
EXTERNAL = {Family.IPV4: "203.0.113.77", Family.IPV6: "2001:db8:cb::77"}

Flow = Callable[[Place, str, int], "Client"]


class Client:
    """One socket with one source port, which it keeps whatever happens."""

    def __init__(self, place: Place, address: str, number: int) -> None:
        self.socket = place.socket(address, socket.SOCK_DGRAM)
        self.socket.settimeout(0.3)
        self.socket.connect((address, number))
        self.port: int = self.socket.getsockname()[1]

    def ask(self) -> str:
        """Return who answers, or ``refused`` or ``silence``."""
        try:
            return name_in(say(self.socket))
        except ConnectionError:
            return "refused"
        except TimeoutError:
            return "silence"
        except OSError as error:  # no way there
            return str(error)

    def hears(self, *wanted: str) -> None:
        """Assert who answers now; answers of before are passed over by asking twice."""
        self.ask()
        assert self.ask() in wanted


@pytest.fixture
def flow() -> Iterator[Flow]:
    made: list[Client] = []

    def start(place: Place, address: str, number: int) -> Client:
        made.append(Client(place, address, number))
        return made[-1]

    yield start
    for one in made:
        one.socket.close()


def remembered(lab: Lab, place: str, client: Client, address: str) -> list[str]:
    """Return what a node's conntrack holds of a client's flow to an address."""
    family = "ipv6" if family_of(address) is Family.IPV6 else "ipv4"
    script = f"conntrack -L -f {family} -p udp --orig-dst {address} --orig-port-src {client.port} 2>/dev/null"
    return lab.node(place).sh(script).text.splitlines()


def test_F5_I1_I2_I4_a_flow_follows_the_endpoints(lab: Lab, shared: Pods, serve: Serve, make: Make, flow: Flow) -> None:
    labels = {"app": "cycling"}
    first = make(PODS, pod("cycle-1", "node-1", labels=labels, ports=DNS_PORT))
    eventually(ready, lab, first)
    item = serve(service("cycling", UDP, labels, type="LoadBalancer"))
    ingress = {family_of(one): one for one in INGRESS}
    balance(lab, "cycling", *INGRESS)
    clients = [
        flow(place, address, number)
        for family in lab.families
        for place, address, number in (
            (shared["blue"], vip(item, family), 53),
            (lab.node("node-2"), vip(item, family), 53),
            (shared["blue"], ingress[family], 53),
            (lab.client, lab.address("node-2", family), node_port(item)),
            (lab.client, lab.address("node-1", family), node_port(item)),
        )
    ]
    for client in clients:
        eventually(client.hears, "cycle-1")
    second = make(PODS, pod("cycle-2", "node-3", labels=labels, ports=DNS_PORT))
    eventually(ready, lab, second)
    remove(lab, PODS, "cycle-1")
    for client in clients:
        eventually(client.hears, "cycle-2")


def test_I6_a_packet_out_of_window_resets_nobody(lab: Lab, shared: Pods, serve: Serve) -> None:
    """The endpoint's host sends one; where it reached the client with the endpoint's own address, the client would reset."""
    item = serve(service("boom", [port(80, "http")], {"name": "green"}))
    place = shared["guest"]
    for family in lab.families:
        server = shared.ip("green", family)
        sock = eventually(_connected, place, vip(item, family))
        with sock:
            client = source_in(say(sock))
            for _ in range(3):
                stray(shared["green"], (server, HTTP), (client, sock.getsockname()[1]))
            for _ in range(3):
                assert name_in(say(sock)) == "green", family


def _connected(place: Place, address: str) -> socket.socket:
    try:
        return place.connect(address, 80)
    except OSError as error:
        raise AssertionError(str(error)) from error


def stray(place: Place, source: tuple[str, int], target: tuple[str, int]) -> None:
    """Send one TCP segment whose numbers fit no window, between the ports of a connection that is there."""
    head = struct.pack("!HHIIBBHHH", source[1], target[1], 0x10000000, 0x20000000, 5 << 4, 0x18, 512, 0, 0) + b"stray"
    packed = [ip_address(one).packed for one, _ in (source, target)]
    pseudo = b"".join(packed) + struct.pack("!II", len(head), socket.IPPROTO_TCP)
    total = sum(struct.unpack(f"!{len(pseudo + head) // 2}H", (pseudo + head)[: len(pseudo + head) // 2 * 2]))
    total += head[-1] << 8 if len(head) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    segment = head[:16] + struct.pack("!H", ~total & 0xFFFF) + head[18:]
    with place.socket(target[0], socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.bind((source[0], 0))
        raw.sendto(segment, (target[0], 0))


def test_I5_a_client_that_began_before_any_endpoint_is_served(
    lab: Lab, shared: Pods, serve: Serve, make: Make, flow: Flow
) -> None:
    labels = {"app": "late"}
    item = serve(service("late", UDP, labels, type="NodePort"))
    clients = [
        flow(place, address, number)
        for family in lab.families
        for place, address, number in (
            (shared["guest"], vip(item, family), 53),
            (lab.node("node-2"), vip(item, family), 53),
            (lab.client, lab.address("node-2", family), node_port(item)),
        )
    ]
    for client in clients:
        eventually(client.hears, "refused")
    make(PODS, pod("late", "node-3", labels=labels, ports=DNS_PORT))
    for client in clients:
        eventually(client.hears, "late")


def test_I5_V5_a_flow_older_than_its_address_is_forgotten_and_begins_anew(
    lab: Lab, shared: Pods, serve: Serve, flow: Flow
) -> None:
    """Sent while nobody had the address, remembered as unanswered; who asks on must be served, and the memory be right."""
    clients = {address: flow(shared["guest"], address, 53) for address in (EXTERNAL[one] for one in lab.families)}
    for address, client in clients.items():
        eventually(_began, lab, client, address)
    serve(service("older", UDP, {"name": "green"}, externalIPs=list(clients)))
    for address, client in clients.items():
        eventually(client.hears, "green")
        (entry,) = remembered(lab, "node-1", client, address)
        assert "[UNREPLIED]" not in entry
        assert f"src={shared.ip('green', family_of(address))}" in entry


def _began(lab: Lab, client: Client, address: str) -> None:
    assert client.ask() not in {"green", "refused"}
    (entry,) = remembered(lab, "node-1", client, address)
    assert "[UNREPLIED]" in entry
    assert entry.count(f"src={address}") == 1, "its answerer is the address itself"


def test_A5_I7_a_removed_port_cuts_its_flows_and_spares_others(
    lab: Lab, shared: Pods, serve: Serve, flow: Flow
) -> None:
    ports = [port(53, "dns", name="one", protocol="UDP"), port(54, "dns", name="two", protocol="UDP")]
    item = serve(service("two", ports, {"name": "green"}))
    cut = [flow(shared["guest"], vip(item, family), 53) for family in lab.families]
    spared = [flow(shared["guest"], vip(item, family), 54) for family in lab.families]
    for client in (*cut, *spared):
        eventually(client.hears, "green")
    lab.api.patch(SERVICES, NAMESPACE, "two", {"spec": {"ports": ports[1:]}})
    for client, family in zip(cut, lab.families, strict=True):
        eventually(client.hears, "refused")
        assert not [one for one in remembered(lab, "node-1", client, vip(item, family)) if "[ASSURED]" in one]
    for client, family in zip(spared, lab.families, strict=True):
        client.hears("green")
        assert remembered(lab, "node-1", client, vip(item, family))


def test_A24_I7_a_deleted_node_port_answers_no_flow(lab: Lab, shared: Pods, serve: Serve, flow: Flow) -> None:
    item = serve(service("closing", UDP, {"name": "green"}, type="NodePort"))
    clients = [
        flow(lab.client, lab.address(node, family), node_port(item)) for family in lab.families for node in lab.nodes
    ]
    for client in clients:
        eventually(client.hears, "green")
    remove(lab, SERVICES, "closing")
    for client in clients:
        eventually(client.hears, "refused", "silence")
        for _ in range(3):
            assert client.ask() != "green"
