"""BIRD and FRR as external routers, and one node as the router's controller makes it of facts: all in one network namespace.

Two independent implementations judge what we say and what we let in. They bind addresses on ``lo`` (see ``gobgpd``), so their
sessions are configured as multihop; routes stay out of the kernel.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from kuberouterpy.annotations import PREFIX, read_bgp
from kuberouterpy.cluster import BestPath, Delete, Event, Node, NodeAddress, Record, Ref, Replace, Upsert
from kuberouterpy.config import Config
from kuberouterpy.dataplane import Key, Object
from kuberouterpy.drivers.gobgp import GobgpDriver
from kuberouterpy.host import describe
from kuberouterpy.sources.gobgp import GobgpSource, NeighborState
from kuberouterpy.store import Store
from routing import CONTROLLER
from tests.contract import gobgpd, suite

BIRD: Final = shutil.which("bird", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or ""
BIRDC: Final = shutil.which("birdc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or ""
BGPD: Final = next((one for one in ("/usr/lib/frr/bgpd",) if os.access(one, os.X_OK)), "")
THERE: Final = bool(BIRD and BIRDC and BGPD and shutil.which("vtysh"))
"""Whether both speakers are installed."""
BIRD_ASN, FRR_ASN, OUR_ASN = 65001, 65002, 64512
BGP_PORT: Final = 1790
"""Ours; theirs is 179."""


class Bird:
    """BIRD at the second address of each family; AS 65001."""

    v4, v6, asn = "10.99.0.2", "fd00:99::2", BIRD_ASN

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "bird"
        self._folder.mkdir()
        self._control = self._folder / "ctl"
        self._program: subprocess.Popen[bytes] | None = None

    def configure(self, *, password: str = "", announce: Iterable[str] = ()) -> None:
        """Start it with these settings, or change them in the running daemon."""
        (self._folder / "bird.conf").write_text(self._text(password, announce))
        if self._program is not None:
            self.ask("configure")
            return
        words = [BIRD, "-f", "-c", str(self._folder / "bird.conf"), "-s", str(self._control)]
        self._program = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        gobgpd.eventually(self._control.exists)

    def ask(self, words: str) -> str:
        """Return what birdc prints."""
        return subprocess.run(
            [BIRDC, "-s", str(self._control), words], capture_output=True, text=True, check=True
        ).stdout

    def session(self) -> str:
        """Return the state of the session over IPv4, as BIRD calls it."""
        line = self.ask("show protocols node_v4").splitlines()[-1]
        return line.split()[-1]

    def routes(self) -> dict[str, dict[str, str]]:
        """Return what it holds: prefix to attributes, by BIRD's own names."""
        found: dict[str, dict[str, str]] = {}
        current: dict[str, str] = {}
        for line in self.ask("show route all protocol node_v4").splitlines():
            words = line.split()
            if words and "/" in words[0] and ("unicast" in line or "unreachable" in line):
                current = found.setdefault(words[0], {})
            elif line.strip().startswith("BGP."):
                name, _, value = line.strip().removeprefix("BGP.").partition(": ")
                current[name] = value
        return found

    def stop(self) -> None:
        """End it."""
        _stop(self._program)

    def _text(self, password: str, announce: Iterable[str]) -> str:
        secret = f'password "{password}";' if password else ""
        static = "\n".join(
            f"protocol static static{version} {{ ipv{version}; "
            + " ".join(f"route {one} blackhole;" for one in announce if (":" in one) == (version == 6))
            + " }"
            for version in (4, 6)
        )
        channels = " ".join(
            f"ipv{version} {{ import all; export where source = RTS_STATIC; next hop address {hop}; }};"
            for version, hop in ((4, self.v4), (6, self.v6))
        )
        return f"""
router id {self.v4};
protocol device {{ }}
{static}
protocol bgp node_v4 {{
  local {self.v4} as {self.asn};
  neighbor 10.99.0.1 port {BGP_PORT} as {OUR_ASN};
  multihop 3; passive on; connect retry time 1; error wait time 1, 2; hold time 9; {secret}
  {channels}
}}
"""


class Frr:
    """FRR's bgpd at the third address of each family; AS 65002. Its session is over IPv6."""

    v4, v6, asn = "10.99.0.3", "fd00:99::3", FRR_ASN

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "frr"
        self._folder.mkdir()
        self._program: subprocess.Popen[bytes] | None = None

    def configure(self, *, password: str = "") -> None:
        """Start it with these settings."""
        file = self._folder / "bgpd.conf"
        secret = f" neighbor fd00:99::1 password {password}\n" if password else ""
        file.write_text(f"""
router bgp {self.asn}
 bgp router-id {self.v4}
 no bgp ebgp-requires-policy
 neighbor fd00:99::1 remote-as {OUR_ASN}
 neighbor fd00:99::1 port {BGP_PORT}
 neighbor fd00:99::1 ebgp-multihop 3
 neighbor fd00:99::1 update-source {self.v6}
 neighbor fd00:99::1 timers 3 9
 neighbor fd00:99::1 timers connect 1
 neighbor fd00:99::1 passive
{secret} address-family ipv4 unicast
  neighbor fd00:99::1 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor fd00:99::1 activate
 exit-address-family
""")
        words = [BGPD, "-Z", "-S", "-f", str(file), "-i", str(self._folder / "pid"), "--vty_socket", str(self._folder)]
        words += ["-l", self.v6, "-A", "127.0.0.1", "-P", "0"]
        self._program = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        gobgpd.eventually((self._folder / "bgpd.vty").exists)

    def ask(self, words: str) -> Any:
        """Return the JSON of a show command."""
        command = ["vtysh", "--vty_socket", str(self._folder), "-d", "bgpd", "-c", f"show {words} json"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return json.loads(text or "{}")

    def session(self) -> str:
        """Return the state of the session."""
        neighbor = self.ask("bgp neighbors").get("fd00:99::1", {})
        return str(neighbor.get("bgpState", ""))

    def routes(self) -> set[str]:
        """Return the prefixes it holds."""
        tables = (self.ask(f"bgp {family} unicast").get("routes", {}) for family in ("ipv4", "ipv6"))
        return {prefix for table in tables for prefix in table}

    def route(self, prefix: str) -> dict[str, Any]:
        """Return the path it holds for a prefix."""
        family = "ipv6" if ":" in prefix else "ipv4"
        (path,) = self.ask(f"bgp {family} unicast {prefix}")["paths"]
        return dict(path)

    def stop(self) -> None:
        """End it."""
        _stop(self._program)


def node(number: int, texts: Mapping[str, str]) -> Node:
    """Return a Node with annotations, as the API would tell it: its addresses are the namespace's of that number."""
    addresses = tuple(NodeAddress("InternalIP", one) for one in (f"10.99.0.{number}", f"fd00:99::{number}"))
    pods = (f"10.1.{number}.0/24", f"fd00:1:{number}::/64")
    bgp = read_bgp({PREFIX + key: text for key, text in texts.items()})
    return Node(Ref("", f"node-{number}"), addresses, pods, bgp=bgp)


class Site:
    """One node: facts, the router's controller, the driver and a real gobgpd. What is wanted is carried out by ``settle``."""

    def __init__(self, daemon: gobgpd.Daemon, settings: Config) -> None:
        self.config = settings
        self.store = Store()
        self.driver = GobgpDriver(daemon.socket)
        self.learned: dict[str, BestPath] = {}
        self.source = GobgpSource(daemon.socket, self._hear, restart_s=60)
        self._held: dict[Key, Object] = {}
        self.annotate({})
        self.source.start()

    def annotate(self, texts: Mapping[str, str]) -> None:
        """Give the node these annotations, as the API would, and carry out what follows."""
        self.tell(node(int(self.config.node_name.removeprefix("node-")), texts))

    def tell(self, *records: Record) -> None:
        """Take facts in and carry out what follows from them."""
        for record in records:
            self.store.apply(Upsert(record))
        self.settle()

    def settle(self) -> None:
        """Make the daemon what the controller wants; only what differs is touched."""
        wanted = self.wanted()
        self.put(value for key, value in wanted.items() if self._held.get(key) != value)
        suite.applied(self.driver, [suite.delete(value) for key, value in self._held.items() if key not in wanted])
        self._held = wanted

    def wanted(self) -> dict[Key, Object]:
        """Return what the controller wants of the daemon."""
        host = describe(self.store, self.config)
        return {
            value.key: value
            for owner in CONTROLLER.owners(self.store, host, self.config)
            for value in CONTROLLER.desired(owner, self.store, host, self.config).objects
            if type(value) in GobgpDriver.kinds
        }

    def put(self, values: Iterable[Object]) -> None:
        """Write objects, in the order of their kinds."""
        ordered = sorted(values, key=lambda value: GobgpDriver.kinds.index(type(value)))
        suite.applied(self.driver, [suite.create(value) for value in ordered])

    def state(self, address: str) -> NeighborState | None:
        """Return a session as our source sees it."""
        return next((one for one in self.source.neighbors() if one.address == address), None)

    def up(self, address: str) -> bool:
        """Return whether a session is established."""
        state = self.state(address)
        return state is not None and state.established

    def stop(self) -> None:
        """End it."""
        self.source.stop()
        self.driver.close()

    def _hear(self, event: Event) -> None:
        match event:
            case Replace(kind, records) if kind is BestPath:
                self.learned = {one.prefix: one for one in records if isinstance(one, BestPath)}
            case Upsert(BestPath() as path):
                self.learned[path.prefix] = path
            case Delete(_, ref):
                self.learned.pop(ref.name, None)
            case _:
                pass


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    gobgpd.eventually(holds, within_s=40)


def _stop(program: subprocess.Popen[bytes] | None) -> None:
    if program is not None:
        program.kill()
        program.wait(timeout=20)
