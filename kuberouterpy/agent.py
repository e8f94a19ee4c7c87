"""The composition root: the only module that knows every other. It wires sources, controllers and drivers to the loop."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, Protocol
from uuid import uuid4

from kuberouterpy import __version__, answers, health
from kuberouterpy.answers.bgp import BGP
from kuberouterpy.answers.own import OWN
from kuberouterpy.balancer.allocator import Allocator
from kuberouterpy.cluster import (
    ClusterNetworkPolicy,
    Event,
    Kind,
    Link,
    NetworkPolicy,
    Node,
    Ref,
    Rejection,
    Restarted,
    Service,
)
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller
from kuberouterpy.cri.client import Runtime
from kuberouterpy.cutting import Cutter
from kuberouterpy.dataplane import Note, Owner
from kuberouterpy.drivers import Driver
from kuberouterpy.drivers.announced import Announced
from kuberouterpy.drivers.cni import CniDriver
from kuberouterpy.drivers.conntrack import ConntrackDriver
from kuberouterpy.drivers.fou import FouDriver
from kuberouterpy.drivers.gobgp import GobgpDriver
from kuberouterpy.drivers.health import HealthDriver
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.drivers.links import LinksDriver
from kuberouterpy.drivers.pods import PodsDriver
from kuberouterpy.drivers.routes import RoutesDriver
from kuberouterpy.drivers.sysctl import SysctlDriver
from kuberouterpy.drivers.tracked import ConnectionTable
from kuberouterpy.drivers.vxlan import VxlanDriver
from kuberouterpy.lane import Lane, LaneResult
from kuberouterpy.log import configure
from kuberouterpy.log import event as log_event
from kuberouterpy.loop import Ask, Loop
from kuberouterpy.metrics.scraper import Scraper
from kuberouterpy.prepare import MODULES, load_modules, missing_modules
from kuberouterpy.programmed import Programmed
from kuberouterpy.recorder import Recorder
from kuberouterpy.sources.conditions import NodeReporter
from kuberouterpy.sources.events import EventRecorder, EventType, Occurrence
from kuberouterpy.sources.gobgp import GobgpSource, NeighborState
from kuberouterpy.sources.http import HttpSource
from kuberouterpy.sources.kubernetes import KubernetesSource, kinds
from kuberouterpy.sources.netlink import NetlinkSource
from kuberouterpy.sources.passwords import PasswordSource
from kuberouterpy.sources.socket import SocketSource
from kuberouterpy.sources.transport import Transport
from kuberouterpy.status import Status
from kuberouterpy.wiring import controllers, is_ours

_ANSWER_S: Final = 10.0
"""A question waits so long for the loop, which may be in the middle of a large batch."""
_log = logging.getLogger("kuberouterpy.agent")


class Source(Protocol):
    """A thread that puts events."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


def run(config: Config) -> int:
    """Run the agent until SIGTERM or SIGINT; return the exit code. The dataplane stays as it stands."""
    configure(config.v, as_json=config.log_format == "json")
    stop = threading.Event()
    agent = Agent(config)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        agent.loop.put(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    log_event(
        _log,
        logging.INFO,
        "started",
        version=__version__,
        node=config.node_name,
        controllers=",".join(agent.loop.controllers),
    )
    agent.start()
    try:
        agent.loop.run(stop)
    finally:
        agent.stop()
    log_event(_log, logging.INFO, "stopped", reason="the dataplane stays as it is")
    return 0


class Agent:
    """Everything that runs: the loop, its drivers and its sources."""

    def __init__(self, config: Config) -> None:
        self._config = config
        chosen = tuple(controllers(config))
        self.source = KubernetesSource(config, self._put)
        self.events = EventRecorder(self.source.transport, config.node_name)
        self.allocator = _allocator(config, self.source.transport, self.events) if config.run_loadbalancer else None
        self.reporter = NodeReporter(self.source.transport, config.node_name, self.events.record)
        self._neighbors: Callable[[], tuple[NeighborState, ...]] = lambda: ()
        self.recorder = self._make_recorder()
        self.loop = Loop(
            config=config,
            controllers=chosen,
            drivers=tuple(self._drivers(chosen)),
            expected=(*kinds(config), Link),
            on_rejection=self._tell,
            on_note=self._note,
            on_trouble=self._trouble,
            recorder=self.recorder,
            on_status=self.reporter.see if config.run_router else lambda _: None,
        )
        self._sources: tuple[Source, ...] = tuple(self._make_sources())

    def start(self) -> None:
        """Start every thread."""
        if self.loop.drivers:
            _load_modules()
        self._check()
        self.events.start()
        if self.recorder is not None:
            self.recorder.start()
        self.reporter.start()
        for programmed in self.loop.drivers:
            if programmed.lane is not None:
                programmed.lane.start()
        for source in self._sources:
            source.start()

    def _check(self) -> None:
        """Fail at once where the kernel cannot do the work. Errors: MissingCapability names what is missing."""
        config = self._config
        for driver in (programmed.driver for programmed in self.loop.drivers):
            if isinstance(driver, IpvsDriver):
                driver.check()
                seconds = (config.service_tcp_timeout_s, config.service_tcpfin_timeout_s, config.service_udp_timeout_s)
                if any(seconds):
                    driver.set_timeouts(tcp_s=int(seconds[0]), fin_s=int(seconds[1]), udp_s=int(seconds[2]))

    def stop(self) -> None:
        """Stop every source; nothing is undone."""
        for source in self._sources:
            source.stop()
        self.reporter.stop()
        self.events.stop()
        if self.recorder is not None:
            self.recorder.stop()

    def _make_recorder(self) -> Recorder | None:
        config = self._config
        if not config.record_dir:
            return None
        return Recorder(
            Path(config.record_dir),
            limit_bytes=config.record_size_mib << 20,
            node=config.node_name,
            version=__version__,
            config=config,
            neighbors=self._neighbor_states,
        )

    def _neighbor_states(self) -> dict[str, str]:
        return {one.address: f"{one.state} {one.error}".rstrip() for one in self._neighbors()}

    def _put(self, message: Event | LaneResult) -> None:
        self.loop.put(message)
        if self.allocator is not None and not isinstance(message, LaneResult):
            self.allocator.put(message)

    def _answer(self, question: str, words: Mapping[str, Sequence[str]]) -> object:
        """Answer what a person asks, on the loop's thread. Errors: TimeoutError where the loop is too busy."""
        if question == "status":
            return self.loop.status
        if question in OWN:
            return OWN[question](words)
        reply: queue.SimpleQueue[object] = queue.SimpleQueue()
        if question == "overview":
            self.loop.put(Ask(lambda loop: answers.overview(loop, self._neighbor_states()), reply))
        elif question in BGP:
            self.loop.put(Ask(lambda loop: BGP[question](loop, words, self._neighbors()), reply))
        else:
            self.loop.put(Ask(lambda loop: answers.answer(loop, question, words, now=time.monotonic()), reply))
        try:
            told = reply.get(timeout=_ANSWER_S)
        except queue.Empty:
            raise TimeoutError(f"the loop did not answer within {_ANSWER_S:.0f} s; it is busy or stuck") from None
        if isinstance(told, Exception):
            raise told
        return told

    def _tell(self, rejection: Rejection) -> None:
        """Make a rejected object an Event on it, where whoever wrote it will look."""
        self.events.record(
            Occurrence(rejection.kind, rejection.ref, "Rejected", rejection.reason, rejection.uid, EventType.WARNING)
        )

    def _note(self, owner: Owner, note: Note) -> None:
        """Make a note that somebody must act on an Event on whoever asked for it, and a line in the log."""
        log_event(_log, logging.WARNING, "refused", owner=owner, key=note.subject, reason=note.reason)
        word, _, detail = note.reason.partition(": ")
        reason = "".join(part.capitalize() for part in word.split("-"))
        self._event(*_concerned(owner, self._config.node_name), reason, f"{note.subject}: {detail or word}")

    def _trouble(self, reason: str, message: str) -> None:
        """Make what concerns this node an Event on its Node."""
        self._event(Node, Ref("", self._config.node_name), reason, message)

    def _event(self, kind: Kind, ref: Ref, reason: str, message: str) -> None:
        record = self.loop.store.table(kind).get(ref)
        uid = record.uid if record else ""
        self.events.record(Occurrence(kind, ref, reason, message, uid, EventType.WARNING))

    def _well(self) -> bool:
        """Whether load balancers may be told that this node serves: programmed once, and not stuck."""
        status = self.loop.status
        return status.settled and status.alive(time.monotonic())

    def _make_sources(self) -> Iterator[Source]:
        config = self._config
        if self.allocator is not None:
            yield self.allocator
        yield self.source
        yield NetlinkSource(self._put)
        if config.run_router:
            yield PasswordSource(config.peer_router_passwords_file, len(config.peer_router_ips), self._put)
            gobgp = GobgpSource(config.gobgp_socket, self._put, restart_s=config.bgp_graceful_restart_time_s)
            self._neighbors = gobgp.neighbors
            yield gobgp
        scraper = Scraper(self.loop, neighbors=self._neighbors, events_dropped=lambda: self.events.dropped)
        yield from self._servers(scraper)
        if config.agent_socket:
            yield SocketSource(config.agent_socket, self._answer)

    def _servers(self, scraper: Scraper) -> Iterator[HttpSource]:
        """Yield a server for each port; metrics on the port of health share its server."""
        config = self._config

        def status() -> Status:
            return self.loop.status

        pages = health.pages(status, time.monotonic, time.time)
        if config.health_port:
            shared = config.metrics_port == config.health_port
            yield HttpSource(
                config.health_addr,
                config.health_port,
                (lambda path: scraper.page(path) or pages(path)) if shared else pages,
            )
        if config.metrics_port and config.metrics_port != config.health_port:
            yield HttpSource(config.metrics_addr, config.metrics_port, scraper.page, name="metrics")
        if config.proxy_health_port and config.run_service_proxy:
            proxy_pages = health.proxy_pages(status, time.monotonic, time.time)
            yield HttpSource(config.health_addr, config.proxy_health_port, proxy_pages, name="proxy-health")

    def _cutting(self, driver: Driver, controllers: Collection[str]) -> Driver:
        """Return a driver after whose changes connections end that are denied now, where that is asked for."""
        if not self._config.netpol_cut_flows or "firewall" not in controllers:
            return driver
        cutter = Cutter(ConnectionTable())
        return Announced(driver, lambda ops: cutter.review(self.loop, ops))

    def _drivers(self, chosen: tuple[Controller, ...]) -> Iterator[Programmed]:
        config = self._config
        names = {controller.name for controller in chosen}
        if not names:
            return  # the allocator alone needs nothing of this host
        # Beside our socket: a tmpfs, forgotten at a reboot as the settings are.
        memory = Path(config.agent_socket).with_name("sysctls.json") if config.agent_socket else None
        yield Programmed(SysctlDriver(Path(config.sysctl_root), memory=memory), period_s=config.iptables_sync_period_s)
        yield Programmed(
            LinksDriver(dummy="proxy" in names, tunnels="routing" in names),
            period_s=config.injected_routes_sync_period_s,
        )
        for firewall in (IpsetDriver(), IptablesDriver(config.families)):
            yield Programmed(self._cutting(firewall, names), period_s=config.iptables_sync_period_s)
        if "proxy" in names:
            yield Programmed(IpvsDriver(lambda key: is_ours(self.loop, key)), period_s=config.ipvs_sync_period_s)
            # In a lane: a runtime that hangs must not delay the kernel.
            pods = PodsDriver(Runtime(config.runtime_endpoint), Path(config.sysctl_root))
            yield Programmed(pods, period_s=config.ipvs_sync_period_s, lane=Lane(pods, self._put))
            yield Programmed(ConntrackDriver(), period_s=config.ipvs_sync_period_s)
            yield Programmed(HealthDriver(self._well), period_s=config.ipvs_sync_period_s)
        if names & {"proxy", "routing"}:
            yield Programmed(RoutesDriver(), period_s=config.injected_routes_sync_period_s)
        if "routing" in names:
            for driver in (FouDriver(), VxlanDriver()):
                yield Programmed(driver, period_s=config.injected_routes_sync_period_s)
            if config.enable_cni:
                yield Programmed(CniDriver(), period_s=config.routes_sync_period_s)
            gobgp = GobgpDriver(config.gobgp_socket, lost=lambda: self._put(Restarted("gobgp")))
            yield Programmed(gobgp, period_s=config.routes_sync_period_s, lane=Lane(gobgp, self._put))


_CONCERNED: Final[dict[tuple[str, str], Kind]] = {
    ("proxy", "service"): Service,
    ("routing", "service"): Service,
    ("routing", "node"): Node,
    ("firewall", "policy"): NetworkPolicy,
    ("firewall", "cnp"): ClusterNetworkPolicy,
}
"""Whom a note of an owner concerns; every other owner's concern this node."""


def _allocator(config: Config, api: Transport, events: EventRecorder) -> Allocator:
    """Return the allocator of this process; its Leases are in the pod's own namespace."""
    own = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    namespace = os.environ.get("POD_NAMESPACE") or (own.read_text().strip() if own.exists() else "kube-system")
    # Unlike a former life's, which may still think that it leads.
    identity = f"{os.environ.get('POD_NAME') or config.node_name}_{uuid4()}"
    return Allocator(api, config, namespace=namespace, identity=identity, record=events.record)


def _concerned(owner: Owner, node: str) -> tuple[Kind, Ref]:
    """Return the object that an Event about an owner belongs to."""
    kind = _CONCERNED.get((owner.controller, owner.kind), Node)
    namespace, slash, name = owner.name.partition("/")
    if kind is Node:
        return Node, Ref("", owner.name if owner.kind == "node" else node)
    return kind, Ref(namespace, name) if slash else Ref("", owner.name)


def _load_modules() -> None:
    """Load what the host lets us; what is missing is named now, and again by the driver that needs it."""
    try:
        load_modules()
    except (OSError, subprocess.TimeoutExpired) as error:
        log_event(_log, logging.DEBUG, "modules-not-loaded", error=error)
    for module in missing_modules():
        log_event(_log, logging.WARNING, "module-missing", key=module, reason=f"needed for {MODULES[module]}")
