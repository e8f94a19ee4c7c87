"""The pods driver in real network namespaces; ``ip`` and /proc/sys are the judges."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from kuberouterpy.cri.client import CriError
from kuberouterpy.dataplane import Object, PodTunnel, PodTunnelKey
from kuberouterpy.drivers.pods import PodsDriver
from kuberouterpy.errors import DriverError
from kuberouterpy.lab.kubelet import netns as namespaces
from tests.contract import suite
from tests.documents import ROOT

# ipip and ip6_tunnel are modules that many host kernels do not have.
pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns")]

PODS = {"one": ("10.1.3.4", "fd00:1:3::4"), "two": ("10.1.3.5", "fd00:1:3::5")}


def tunnel(pod: str, vip: str) -> PodTunnel:
    return PodTunnel(PodTunnelKey(pod, vip))


SAMPLES = (
    tunnel("10.1.3.4", "203.0.113.7"),
    tunnel("10.1.3.4", "203.0.113.8"),
    tunnel("10.1.3.5", "203.0.113.7"),
    tunnel("fd00:1:3::4", "2001:db8:cb::7"),
    tunnel("fd00:1:3::4", "2001:db8:cb::8"),
)
NOBODY = tunnel("10.1.3.99", "203.0.113.7")


def path(pod: str) -> str:
    return f"/run/netns/test-{pod}"


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Runtime:
    """A container runtime that knows the two pods, or nobody's."""

    def __init__(self) -> None:
        self.away = False
        self.found: dict[str, Sequence[str]] = {
            address: ("/nowhere", path(pod)) for pod, addresses in PODS.items() for address in addresses
        }

    def namespaces(self) -> Mapping[str, Sequence[str]]:
        if self.away:
            raise CriError("no container runtime here")
        return self.found


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    for pod, addresses in PODS.items():
        namespaces.create(path(pod))
        with namespaces.entered(path(pod)):
            ip("link", "add", "eth0", "type", "dummy")
            ip("link", "set", "eth0", "up")
            for address in addresses:
                ip("address", "add", address, "dev", "eth0", *(("nodad",) if ":" in address else ()))
            filters("1")
    yield Runtime()
    for pod in PODS:
        namespaces.remove(path(pod))


def filters(value: str) -> None:
    for link in ("all", "eth0"):
        Path(f"/proc/sys/net/ipv4/conf/{link}/rp_filter").write_text(value)


def inside(pod: str) -> list[str]:
    """What ip shows in a pod, without what the kernel draws by lot."""
    lines = []
    with namespaces.entered(path(pod)):
        for link in json.loads(ip("-d", "-j", "address", "show")):
            if link["ifname"] in {"tunl0", "ip6tnl0", "lo"}:
                continue
            ends = link.get("linkinfo", {}).get("info_data", {})
            shown = {key: ends[key] for key in ("proto", "local", "remote", "encap_limit") if key in ends}
            lines.append(f"{pod} {link['ifname']} {'UP' in link['flags']} {shown}")
            lines += [
                f"{pod} {link['ifname']} {held['local']}/{held['prefixlen']}"
                for held in link["addr_info"]
                if not held["local"].startswith("fe80:")
            ]
    return lines


def outside() -> list[str]:
    return sorted(line for pod in PODS for line in inside(pod))


@pytest.fixture
def subject(runtime: Runtime) -> suite.Subject:
    def restart(wanted: Sequence[Object]) -> PodsDriver:
        driver = PodsDriver(runtime)
        driver.expect(wanted)
        return driver

    return suite.Subject(restart, SAMPLES, outside, orphans=(NOBODY,), examples=4)


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.named)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


def test_a_pod_takes_what_comes_by_the_tunnel_and_may_answer_by_eth0(runtime: Runtime) -> None:
    suite.applied(PodsDriver(runtime), [suite.create(one) for one in SAMPLES])
    shown = inside("one")
    for name, end in (("kube-tunnel-if", "10.1.3.4"), ("kube-tunnel-v6", "fd00:1:3::4")):
        assert any(line.startswith(f"one {name} True") and f"'local': '{end}'" in line for line in shown), shown
    assert {"one kube-tunnel-if 203.0.113.7/32", "one kube-tunnel-if 203.0.113.8/32"} <= {*shown}
    assert {"one kube-tunnel-v6 2001:db8:cb::7/128", "one kube-tunnel-v6 2001:db8:cb::8/128"} <= {*shown}
    with namespaces.entered(path("one")):
        for link in ("all", "eth0", "kube-tunnel-if"):
            assert Path(f"/proc/sys/net/ipv4/conf/{link}/rp_filter").read_text() == "0\n"


@pytest.mark.parametrize(("also", "said"), [("+sys_admin", "None"), ("-sys_admin", "add the capability SYS_ADMIN")])
def test_the_rights_of_the_chart_are_enough_and_needed(runtime: Runtime, also: str, said: str) -> None:
    """As in the agent's container: /proc/sys read-only, the host's ``net`` of it mounted elsewhere."""
    mounts = "mkdir -p /tmp/sys/net && mount --bind /proc/sys/net /tmp/sys/net && mount -o bind,ro /proc/sys /proc/sys"
    rights = f"--no-new-privs --bounding-set=-all,+net_admin,+net_raw,{also}"
    words = [shutil.which("unshare") or "", "--mount", "sh", "-ec"]
    text = f"{mounts} && mount -o remount,bind,ro /proc/sys && exec setpriv {rights} {sys.executable} -c '{_PROGRAM}'"
    done = subprocess.run([*words, text], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert ("one kube-tunnel-if 203.0.113.7/32" in outside()) is (said == "None")


_PROGRAM = f"""
from pathlib import Path
from types import SimpleNamespace
from kuberouterpy.dataplane import Op, PodTunnel, PodTunnelKey, Verb
from kuberouterpy.drivers.pods import PodsDriver
runtime = SimpleNamespace(namespaces=lambda: {{"10.1.3.4": ["{path("one")}"]}})
one = PodTunnel(PodTunnelKey("10.1.3.4", "203.0.113.7"))
[(_, error)] = PodsDriver(runtime, Path("/tmp/sys")).apply([Op(Verb.CREATE, one.key, one)])
print(error)
"""


def test_a_tunnel_that_is_down_or_filtered_is_made_again(runtime: Runtime) -> None:
    driver = PodsDriver(runtime)
    suite.applied(driver, [suite.create(one) for one in SAMPLES[:1]])
    driver.expect(SAMPLES[:1])
    assert driver.list() == suite.as_dict(SAMPLES[:1])
    with namespaces.entered(path("one")):
        filters("2")
    assert driver.list() == {}
    suite.applied(driver, [suite.create(one) for one in SAMPLES[:1]])
    assert driver.list() == suite.as_dict(SAMPLES[:1])


def test_a_namespace_without_the_pods_address_is_not_touched(runtime: Runtime) -> None:
    runtime.found = {"10.1.3.4": (path("two"),)}
    before = outside()
    error = suite.outcomes(PodsDriver(runtime), [suite.create(SAMPLES[0])])[SAMPLES[0].key]
    assert "does not hold its address" in str(error)
    assert outside() == before


def test_what_a_gone_pod_had_is_gone(runtime: Runtime) -> None:
    driver = PodsDriver(runtime)
    suite.applied(driver, [suite.create(one) for one in SAMPLES])
    namespaces.remove(path("one"))
    assert driver.list() == suite.as_dict(SAMPLES[2:3])
    suite.applied(driver, [suite.delete(one) for one in SAMPLES])


def test_without_a_runtime_nothing_is_listed_and_what_is_wanted_says_why(runtime: Runtime) -> None:
    driver = PodsDriver(runtime)
    runtime.away = True
    assert driver.list() == {}
    error = suite.outcomes(driver, [suite.create(SAMPLES[0])])[SAMPLES[0].key]
    assert "no container runtime here" in str(error)
    runtime.away = False
    driver.list()
    runtime.away = True
    with pytest.raises(DriverError, match="no container runtime"):
        driver.list()
