"""The links driver on a real kernel; ``ip`` is the judge."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import pytest
from msgspec.structs import replace

from kuberouterpy.dataplane import Key, Link, LinkKey, LocalAddress, LocalAddressKey, Object, Op, Verb
from kuberouterpy.drivers.links import DUMMY, LinksDriver
from kuberouterpy.errors import DriverError
from tests.contract import suite

# dummy and tunnels are modules that many host kernels do not have.
pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns")]

DUMMY_LINK = Link(LinkKey(DUMMY), "dummy")
TUNNEL = Link(LinkKey("tun-0123456789a"), "ipip", mtu=1480, local="10.0.0.1", remote="10.0.0.2")
TUNNEL6 = Link(LinkKey("tun-0123456789b"), "ip6tnl", local="fd00::1", remote="fd00::2")
BRIDGE = Link(LinkKey("kube-bridge"), "bridge", mtu=1400)
VXLAN = Link(LinkKey("tun-0123456789c"), "vxlan", 1450, "10.0.0.1", port=4789, vni=77, hardware="02:00:00:00:00:01")
VXLAN6 = Link(LinkKey("tun-0123456789d"), "vxlan", 1430, "fd00::1", port=4789, vni=77, hardware="02:00:00:00:00:02")


def vip(address: str, link: str = DUMMY, prefix: int = 0) -> LocalAddress:
    return LocalAddress(LocalAddressKey(link, address, prefix or (128 if ":" in address else 32)))


SAMPLES = (
    DUMMY_LINK,
    TUNNEL,
    TUNNEL6,
    BRIDGE,
    VXLAN,
    VXLAN6,
    vip("10.96.0.10"),
    vip("fd00:96::10"),
    vip("10.96.0.11"),
    vip("10.1.2.1", "kube-bridge", 24),
    vip("fd00:1:2::1", "kube-bridge", 64),
)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def outside() -> list[str]:
    """What ip shows, without what the kernel draws by lot or counts up."""
    lines = []
    for link in json.loads(ip("-d", "-j", "address", "show")):
        name = link["ifname"]
        described = {key: link[key] for key in ("mtu", "flags", "linkinfo", "link", "address") if key in link}
        if described.get("linkinfo", {}).get("info_kind") in {"bridge", "dummy"}:
            described = {"mtu": link["mtu"], "up": "UP" in link["flags"], "kind": link["linkinfo"]["info_kind"]}
        if name in {"tunl0", "ip6tnl0"}:
            continue
        lines.append(f"{name} {described}")
        for held in link["addr_info"]:
            if not held["local"].startswith("fe80:"):
                shown = {key: value for key, value in held.items() if not key.endswith("life_time")}
                shown.pop("tentative", None)
                lines.append(f"{name} {shown}")
    return sorted(lines)


@pytest.fixture
def place() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def driver(place: ExitStack) -> LinksDriver:
    return place.enter_context(closing(LinksDriver()))


@pytest.fixture
def subject(place: ExitStack) -> suite.Subject:
    def restart(wanted: Sequence[Object]) -> LinksDriver:
        driver = place.enter_context(closing(LinksDriver()))
        driver.expect(wanted)
        return driver

    def foreign() -> None:
        ip("link", "add", "kube-dummy-if2", "type", "dummy")
        ip("address", "add", "10.96.0.10/32", "dev", "kube-dummy-if2")
        ip("link", "add", "tun-mine", "type", "ipip", "local", "10.0.0.9", "remote", "10.0.0.8")
        ip("link", "add", "tun-0123456789z", "type", "dummy")
        ip("address", "add", "fd00:96::10/128", "dev", "lo")

    return suite.Subject(
        restart,
        SAMPLES,
        outside,
        changes={
            TUNNEL.key: Link(TUNNEL.key, "ipip", mtu=1400, local="10.0.0.1", remote="10.0.0.3"),
            TUNNEL6.key: Link(TUNNEL6.key, "ip6tnl", local="fd00::1", remote="fd00::3"),
            BRIDGE.key: Link(BRIDGE.key, "bridge", mtu=1300),
            VXLAN.key: replace(VXLAN, local="10.0.0.2", hardware="02:00:00:00:00:03"),
            VXLAN6.key: replace(VXLAN6, port=4790, mtu=1400),
        },
        foreign=foreign,
        orphans=(vip("10.96.0.99", "nonesuch"),),
        examples=4,
    )


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


def errors(driver: LinksDriver, verb: Verb, *objects: Object) -> list[tuple[Key, DriverError]]:
    ops = [Op(verb, item.key, None if verb is Verb.DELETE else item) for item in objects]
    return [(op.key, error) for op, error in driver.apply(ops) if error]


def test_vips_are_host_addresses_of_scope_link_without_duplicate_address_detection(driver: LinksDriver) -> None:
    assert errors(driver, Verb.CREATE, DUMMY_LINK, vip("10.96.0.10"), vip("fd00:96::10")) == []
    (link,) = json.loads(ip("-j", "address", "show", "dev", DUMMY))
    assert {"UP", "NOARP"} <= set(link["flags"])
    four, *_, six = sorted(
        (held for held in link["addr_info"] if not held["local"].startswith("fe80")), key=lambda held: held["family"]
    )
    assert (four["local"], four["prefixlen"], four["scope"]) == ("10.96.0.10", 32, "link")
    assert (six["local"], six["prefixlen"], six["nodad"], six["noprefixroute"]) == ("fd00:96::10", 128, True, True)


def test_a_bridge_keeps_its_hardware_address_and_mtu_whatever_its_ports(driver: LinksDriver) -> None:
    """Pods would go on sending to a gateway that is no more."""
    assert errors(driver, Verb.CREATE, BRIDGE) == []
    (before,) = json.loads(ip("-j", "link", "show", "kube-bridge"))
    assert before["mtu"] == 1400
    ip("link", "add", "port", "address", "02:00:00:00:00:01", "mtu", "1300", "type", "dummy")
    ip("link", "set", "port", "up", "master", "kube-bridge")
    (joined,) = json.loads(ip("-j", "link", "show", "kube-bridge"))
    ip("link", "delete", "port")
    (left,) = json.loads(ip("-j", "link", "show", "kube-bridge"))
    assert {(link["address"], link["mtu"]) for link in (before, joined, left)} == {(before["address"], 1400)}


def test_an_ipv6_tunnel_takes_forty_bytes(driver: LinksDriver) -> None:
    """Not the encapsulation limit's eight besides: the MTU of pods leaves no room for them."""
    assert errors(driver, Verb.CREATE, TUNNEL6) == []
    (link,) = json.loads(ip("-d", "-j", "link", "show", "dev", TUNNEL6.key.name))
    assert link["mtu"] == 1460


def test_a_link_that_is_down_is_set_up_again(driver: LinksDriver) -> None:
    assert errors(driver, Verb.CREATE, DUMMY_LINK) == []
    ip("link", "set", DUMMY, "down")
    assert DUMMY_LINK.key not in driver.list()
    assert errors(driver, Verb.CREATE, DUMMY_LINK) == []
    assert driver.list() == {DUMMY_LINK.key: DUMMY_LINK}


def test_a_link_of_another_kind_is_made_anew(driver: LinksDriver) -> None:
    ip("link", "add", "kube-bridge", "type", "dummy")
    assert errors(driver, Verb.CREATE, BRIDGE) == []
    assert driver.list() == {BRIDGE.key: BRIDGE}


def test_a_memoryless_driver_recognises_the_dummy_link_its_addresses_and_tunnels_only() -> None:
    with closing(LinksDriver()) as first:
        assert errors(first, Verb.CREATE, *SAMPLES) == []
    with closing(LinksDriver()) as second:
        assert {str(key) for key in second.list()} == {
            str(item.key) for item in SAMPLES if "kube-bridge" not in str(item.key)
        }


def test_the_loopback_link_cannot_be_claimed(driver: LinksDriver) -> None:
    ((key, error),) = errors(driver, Verb.CREATE, Link(LinkKey("lo"), "dummy"))
    assert key == LinkKey("lo")
    assert str(error).startswith("create link lo: it is there with kind unknown")


def test_a_kind_the_kernel_does_not_know_is_named(driver: LinksDriver) -> None:
    ((_, error),) = errors(driver, Verb.CREATE, Link(LinkKey("x0"), "nonesuch"))
    assert error.errno == errno.EOPNOTSUPP
    assert str(error) == "create link x0: operation not supported: Unknown device type (ENOTSUP)"


def test_ten_thousand_vips_take_no_minutes(driver: LinksDriver) -> None:
    vips = [vip(f"10.{96 + (n >> 16)}.{n >> 8 & 255}.{n & 255}") for n in range(1, 10_001)]
    assert errors(driver, Verb.CREATE, DUMMY_LINK, *vips) == []
    assert driver.list() == {item.key: item for item in (DUMMY_LINK, *vips)}
    assert errors(driver, Verb.CREATE, *vips) == []
    assert errors(driver, Verb.DELETE, *vips) == []
    assert driver.list() == {DUMMY_LINK.key: DUMMY_LINK}
