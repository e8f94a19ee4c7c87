"""Taking away what an agent programmed on this host, and nothing else: without an API server, a configuration or an agent.

What is ours is what the agent's own drivers recognise without memory (``drivers/DESIGN.md``); nothing is wanted any more, so
the Tracker of each driver plans deletions only. Drivers go in the reverse of the order in which they were programmed. One that
cannot list is told and passed over: a half-configured host is cleaned as far as it can be, and a second run does the rest.

*invariant*: VIPs stay while a virtual server on them may stand: the address is what tells that it is ours.
Kept on purpose: ``kube-bridge`` (pods hang on it) unless asked for, and a CNI file that somebody else wrote.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct

import proxy
from kuberouterpy.config import Config
from kuberouterpy.cri.client import Runtime
from kuberouterpy.dataplane import (
    KINDS,
    Key,
    Link,
    LinkKey,
    LocalAddressKey,
    Object,
    Op,
    Sysctl,
    SysctlKey,
    Verb,
    VirtualServerKey,
)
from kuberouterpy.drivers import Driver, command
from kuberouterpy.drivers.fou import FouDriver
from kuberouterpy.drivers.gobgp import GobgpDriver
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.drivers.links import LinksDriver
from kuberouterpy.drivers.pods import PodsDriver
from kuberouterpy.drivers.routes import RoutesDriver
from kuberouterpy.drivers.sysctl import SysctlDriver
from kuberouterpy.errors import DriverError, MissingCapability
from kuberouterpy.host import BRIDGE_LINK, DUMMY_LINK
from kuberouterpy.offline import links_here
from kuberouterpy.tracker import Tracker

_CNI_NAME: Final = "kuberouterpy"
"""Name of a network whose file the agent made itself (``drivers/cni.py``)."""
_PROC_SYS: Final = Path("/proc/sys")


Outcome = tuple[Op, DriverError | None]


@runtime_checkable
class Closing(Protocol):
    """A driver that holds a socket."""

    def close(self) -> None:
        """Close it."""
        ...


class Step(Struct, frozen=True):
    """What one driver would take away, in order."""

    driver: str
    ops: tuple[Op, ...]
    standing: Mapping[Key, Object]
    """What stands under the keys of ``ops``."""
    apply: Callable[[Sequence[Op]], Iterator[Outcome]]


class Plan(Struct, frozen=True):
    """Everything that would go, and what could not be looked at."""

    steps: tuple[Step, ...]
    unlisted: Mapping[str, str]
    """Drivers that could not list, with the reason."""
    files: tuple[str, ...] = ()
    """Files the agent made."""

    @property
    def empty(self) -> bool:
        """Whether nothing of ours was found."""
        return not self.files and not any(step.ops for step in self.steps)


@contextmanager
def planned(config: Config, *, bridge: bool = False) -> Iterator[Plan]:
    """Give what would go, to be carried out inside the block. Needs root; writes nothing itself.

    ``bridge``: the pods' bridge as well.
    """
    steps: list[Step] = []
    unlisted: dict[str, str] = {}
    drivers = list(_drivers(config, bridge=bridge))
    for name, driver in drivers:
        try:
            listing = driver.list()
        except DriverError as error:
            if not _is_absent(name, error):
                unlisted[name] = str(error)
        else:
            steps.append(_step(name, driver, listing, vips="ipvs" not in unlisted))
    if "ipvs" in unlisted:
        unlisted["links"] = "VIPs are kept, since virtual servers on them could not be listed"
    try:
        yield Plan((*steps, _sysctls(config)), unlisted, tuple(_files(config)))
    finally:
        for _, driver in drivers:
            if isinstance(driver, Closing):
                driver.close()


def carry_out(plan: Plan) -> Iterator[Outcome]:
    """Take away what a plan says; yield each operation with its error. Files are left to :func:`delete_files`.

    VIPs are left where a virtual server could not be deleted.
    """
    servers_left = False
    for step in plan.steps:
        for op, error in step.apply([op for op in step.ops if not (servers_left and _marks_ours(op.key))]):
            servers_left = servers_left or (error is not None and step.driver == "ipvs")
            yield op, error


def delete_files(plan: Plan) -> Iterator[tuple[str, DriverError | None]]:
    """Delete the files of a plan; yield each with its error."""
    for path in plan.files:
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            yield path, DriverError(f"delete {path}: {(error.strerror or str(error)).lower()}", error.errno or 0)
        else:
            yield path, None


def _is_absent(name: str, error: DriverError) -> bool:
    """Whether a driver that cannot list has nothing: a kernel without IPVS or that variant, a sidecar that is away."""
    return name in {"gobgp", "iptables-legacy", "iptables-nft"} or (
        name == "ipvs" and isinstance(error, MissingCapability) and error.errno == errno.ENOENT
    )


def _drivers(config: Config, *, bridge: bool) -> Iterator[tuple[str, Driver]]:
    """Yield the drivers in the order in which their objects go."""
    yield "gobgp", GobgpDriver(config.gobgp_socket, lost=lambda: None)
    yield "routes", RoutesDriver()
    yield "ipvs", IpvsDriver(_judge(config))
    yield "pods", PodsDriver(Runtime(config.runtime_endpoint), Path(config.sysctl_root))
    links = LinksDriver()
    if bridge:
        links.expect((Link(LinkKey(BRIDGE_LINK), "bridge"),))
    yield "links", links
    yield "fou", FouDriver()
    yield from _iptables()
    yield "ipset", IpsetDriver()


def _iptables() -> Iterator[tuple[str, Driver]]:
    """Yield the variant that the plain name is, and the other where it is installed: an agent of before may have used it."""
    yield "iptables", IptablesDriver()
    if not shutil.which("iptables"):
        return
    try:
        other = "legacy" if "nf_tables" in command.demand(["iptables", "--version"]) else "nft"
    except DriverError:
        return
    if shutil.which(f"iptables-{other}-save"):
        yield f"iptables-{other}", IptablesDriver(variant=other)


def _judge(config: Config) -> Callable[[VirtualServerKey], bool]:
    """Return what tells a virtual server of ours: a mark, an address on our link, a node port on an own address."""
    first, last = config.service_node_port_range
    vips, own = set[str](), set[str]()
    for link in links_here():
        held = {text.partition("/")[0] for text in link.addresses}
        (vips if link.name == DUMMY_LINK else own).update(held)

    def ours(key: VirtualServerKey) -> bool:
        if key.fwmark:
            return proxy.is_mark(key.fwmark)
        return key.address in vips or (key.address in own and first <= key.port <= last)

    return ours


def _step(name: str, driver: Driver, listing: Mapping[Key, Object], *, vips: bool) -> Step:
    tracker = Tracker((tuple(kind for kind in KINDS if kind in driver.kinds),))
    tracker.observe(driver.kinds, listing, lambda key: vips or not _marks_ours(key))
    ops = tuple(tracker.plan())
    return Step(name, ops, {op.key: listing[op.key] for op in ops}, driver.apply)


def _marks_ours(key: Key) -> bool:
    return isinstance(key, LocalAddressKey) or key == LinkKey(DUMMY_LINK)


# --- settings and files -----------------------------------------------------------------------------------------------


def memory_of(config: Config) -> Path:
    """Return the file in which the agent keeps the settings it found."""
    return Path(config.agent_socket).with_name("sysctls.json")


def _sysctls(config: Config) -> Step:
    """Return the step that writes back what the agent found; settings that have that value already are not named."""
    driver = SysctlDriver(memory=memory_of(config))
    originals = dict(driver.originals)
    standing: dict[Key, Object] = {}
    ops: list[Op] = []
    for path, value in sorted(originals.items()):
        now = _setting(path)
        if now not in {None, value}:
            key = SysctlKey(path)
            standing[key] = Sysctl(key, now or "")
            ops.append(Op(Verb.UPDATE, key, Sysctl(key, value, "as the agent found it")))

    def restore(_: Sequence[Op]) -> Iterator[Outcome]:
        failed = [str(error) for error in driver.restore()]
        for op in ops:
            told = next((text for text in failed if f" sysctl {op.key.path}:" in text), "")  # type: ignore[union-attr]
            yield op, DriverError(told) if told else None

    return Step("sysctl", tuple(ops), standing, restore)


def _setting(path: str) -> str | None:
    try:
        return " ".join((_PROC_SYS / path).read_text().split())
    except OSError:
        return None  # gone with its link or its module


def _files(config: Config) -> Iterator[str]:
    if config.enable_cni and _made_by_us(Path(config.cni_conf_file)):
        yield config.cni_conf_file
    if config.agent_socket:
        yield from (str(path) for path in (Path(config.agent_socket), memory_of(config)) if path.exists())


def _made_by_us(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text())["name"] == _CNI_NAME)
    except (OSError, ValueError, KeyError, TypeError):
        return False
