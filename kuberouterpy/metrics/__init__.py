"""What the agent measures, under the names that Prometheus knows: pure, from frozen values only.

Names begin with ``kuberouterpy_``, units are base units, counters end in ``_total``. Labels are bounded: kinds, drivers and
sources by the program, Services, pods and neighbors by the cluster; nothing a client sends becomes a label. ``docs/metrics.md``
lists them all. Names of kube-router and kube-proxy are in :mod:`kuberouterpy.metrics.compat`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct

from kuberouterpy.cluster import Ref
from kuberouterpy.dataplane import Chain, ChainKey, Table, VirtualServer, VirtualServerKey
from kuberouterpy.drivers.ipvs_table import Counters, Virtual
from kuberouterpy.drivers.readings import Readings
from kuberouterpy.exposition import Distribution, Labels, Metric, Sample, Type
from kuberouterpy.loop import Loop
from kuberouterpy.sources.gobgp import NeighborState
from kuberouterpy.status import Status
from kuberouterpy.tally import Figures

PREFIX: Final = "kuberouterpy_"
_STATES: Final = ("idle", "connect", "active", "opensent", "openconfirm", "established")


class Place(Struct, frozen=True):
    """Whose virtual server it is."""

    service: Ref


class Denier(Struct, frozen=True):
    """Whose rule it is."""

    pod: Ref
    direction: str
    """ingress or egress."""
    policies: str
    """Names of the policies that deny it, as the rule's comment has them."""


class Names(Struct, frozen=True):
    """What the kernel's objects are called in the cluster."""

    services: Mapping[VirtualServerKey, Place] = {}
    deniers: Mapping[tuple[ChainKey, str], Denier] = {}
    """By chain and id of a rule that drops."""
    revision: tuple[int, ...] = ()
    """Of what they were made from."""


class Scrape(Struct, frozen=True):
    """All that one answer is made of."""

    status: Status
    figures: Figures
    readings: Readings
    names: Names
    neighbors: tuple[NeighborState, ...] = ()
    events_dropped: int = 0
    """Events that could not be posted."""
    now: float = 0.0
    """Monotonic time."""


def names(loop: Loop, before: Names) -> Names:
    """Return what the cluster calls the objects that are counted by the kernel. On the loop's thread.

    Cost: every wanted object once; nothing where none of those with a name has changed since ``before``.
    """
    revision = loop.tracker.revision(VirtualServer, Chain)
    if revision == before.revision:
        return before
    services: dict[VirtualServerKey, Place] = {}
    deniers: dict[tuple[ChainKey, str], Denier] = {}
    for owner, value in loop.tracker.winners():
        match value:
            case VirtualServer(key=server) if owner.kind == "service":
                services[server] = Place(_ref(owner.name))
            case Chain(key=chain, rules=rules) if owner.kind == "pod":
                for rule in rules:
                    if rule.target == ("DROP",):
                        head, _, policies = rule.reason.partition(" denied by ")
                        deniers[chain, rule.id] = Denier(_ref(owner.name), head.partition(" ")[0], policies)
    return Names(services, deniers, revision)


def _ref(name: str) -> Ref:
    namespace, _, last = name.partition("/")
    return Ref(namespace, last)


def metrics(scrape: Scrape) -> Iterator[Metric]:
    """Yield every metric of ours."""
    yield from _agent(scrape)
    yield from _work(scrape.figures)
    yield from _trouble(scrape)
    yield from _services(scrape)
    yield from _denied(scrape)
    yield from _neighbors(scrape)
    yield from _tables(scrape.readings)


def gauge(name: str, help_: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    """Return a gauge of ours."""
    return Metric(PREFIX + name, Type.GAUGE, help_, tuple(Sample(labels, value) for labels, value in samples))


def counter(name: str, help_: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    """Return a counter of ours."""
    return Metric(PREFIX + name, Type.COUNTER, help_, tuple(Sample(labels, value) for labels, value in samples))


def _one(value: float | None) -> tuple[tuple[Labels, float], ...]:
    return () if value is None else (({}, value),)


def _agent(scrape: Scrape) -> Iterator[Metric]:
    status, now = scrape.status, scrape.now
    labels = {"version": status.version, "node": status.node, "python": platform.python_version()}
    yield gauge("build_info", "The agent that answers; always 1.", ((labels, 1),))
    yield gauge("ready", "Whether the agent is ready: first pass done, nothing failing for long.", _one(status.ready))
    yield gauge("alive", "Whether the loop made a step within the last minute.", _one(status.alive(now)))
    yield gauge("up_seconds", "Seconds since the agent started.", _one(status.up_s))
    yield gauge("heartbeat_age_seconds", "Seconds since the loop's last step.", _one(max(0.0, now - status.heartbeat)))
    yield gauge(
        "last_settled_timestamp_seconds",
        "Unix time of the last step that left nothing undone.",
        _one(status.settled_at),
    )
    yield gauge("pending_objects", "Objects that differ from what is wanted.", _one(status.pending))
    yield gauge("objects", "Objects that stand, by kind.", _by("kind", status.objects))
    yield gauge("facts", "Facts known, by kind.", _by("kind", status.records))
    yield gauge("rejected_facts", "Objects of the API that cannot be used.", _one(status.rejected_total))
    yield gauge("node_eligible", "Whether load balancers should choose this node.", _one(status.node_eligible))
    sources = status.sources
    yield gauge(
        "source_up", "Whether a source or a driver answers.", (({"source": one.name}, one.ok) for one in sources)
    )
    yield gauge(
        "source_state_age_seconds",
        "Seconds since a source or a driver began or ceased to answer.",
        (({"source": one.name}, one.since_s) for one in sources),
    )
    yield counter("process_cpu_seconds_total", "Processor time of the agent.", _one(scrape.readings.cpu_s))
    yield gauge("process_resident_memory_bytes", "Resident memory of the agent.", _one(scrape.readings.memory_bytes))
    yield gauge("process_open_fds", "Open files of the agent.", _one(scrape.readings.open_files))


def _by(label: str, counts: Mapping[str, int]) -> Iterator[tuple[Labels, float]]:
    return (({label: name}, count) for name, count in sorted(counts.items()))


def _work(figures: Figures) -> Iterator[Metric]:
    yield counter("facts_received_total", "Facts taken in, by kind; a whole list is one.", _by("kind", figures.events))
    yield counter(
        "operations_total",
        "Operations on the kernel, on files and on GoBGP.",
        (
            ({"kind": kind, "verb": verb, "result": result}, count)
            for (kind, verb, result), count in sorted(figures.ops.items())
        ),
    )
    yield _histogram("step_duration_seconds", "Seconds of the steps that changed something.", [({}, figures.steps)])
    yield _histogram(
        "driver_call_duration_seconds",
        "Seconds of a driver's calls.",
        [({"driver": driver, "call": call}, value) for (driver, call), value in sorted(figures.calls.items())],
    )
    yield counter(
        "driver_call_failures_total",
        "Calls of a driver that failed.",
        (({"driver": driver, "call": call}, count) for (driver, call), count in sorted(figures.call_failures.items())),
    )
    yield programming(PREFIX, figures)


def programming(prefix: str, figures: Figures) -> Metric:
    """Return the network programming latency under a prefix."""
    return Metric(
        f"{prefix}network_programming_duration_seconds",
        Type.HISTOGRAM,
        "Seconds from a change of endpoints until it was programmed here.",
        tuple(Sample({"ip_family": family}, value) for family, value in sorted(figures.programming.items())),
    )


def _histogram(name: str, help_: str, samples: Iterable[tuple[Labels, Distribution]]) -> Metric:
    return Metric(PREFIX + name, Type.HISTOGRAM, help_, tuple(Sample(labels, value) for labels, value in samples))


def _trouble(scrape: Scrape) -> Iterator[Metric]:
    status = scrape.status
    yield gauge("failing_objects", "Objects whose last operation failed.", _one(status.failing_total))
    yield gauge("failing_owners", "Owners whose computation failed; they keep their objects.", _one(len(status.bugs)))
    yield counter(
        "drift_total",
        "Objects that another hand changed, by kind and what was seen.",
        (({"kind": kind, "what": what}, count) for (kind, what), count in sorted(scrape.figures.drift.items())),
    )
    yield gauge(
        "contested_objects",
        "Objects that another hand changes again and again, left alone.",
        _one(status.contested_total),
    )
    yield gauge("deletes_refused", "Whether --max-delete-ratio holds deletes back.", _one(bool(status.guard)))
    yield counter("events_dropped_total", "Kubernetes Events that were not posted.", _one(scrape.events_dropped))


# --- servers ----------------------------------------------------------------------------------------------------------

_SERVICE_COUNTERS: Final[tuple[tuple[str, str, Callable[[Counters], Mapping[str, int]]], ...]] = (
    (
        "service_connections_total",
        "Connections that a virtual server took.",
        lambda one: {"": one.connections},
    ),
    (
        "service_packets_total",
        "Packets of a virtual server's clients (in) and of its answers (out).",
        lambda one: {"in": one.packets_in, "out": one.packets_out},
    ),
    (
        "service_bytes_total",
        "Bytes of a virtual server's clients (in) and of its answers (out).",
        lambda one: {"in": one.bytes_in, "out": one.bytes_out},
    ),
)


def service_labels(one: Virtual, place: Place) -> dict[str, str]:
    """Return the labels of a virtual server."""
    key = one.key
    return {
        "namespace": place.service.namespace,
        "service": place.service.name,
        "vip": key.address or f"fwmark {key.fwmark}",
        "protocol": key.protocol.value if not key.fwmark else "",
        "port": str(key.port) if not key.fwmark else "",
    }


def known_servers(scrape: Scrape) -> Iterator[tuple[Virtual, Place]]:
    """Yield the virtual servers that are a Service's."""
    for one in scrape.readings.ipvs.servers if scrape.readings.ipvs else ():
        place = scrape.names.services.get(one.key)
        if place is not None:
            yield one, place


def _services(scrape: Scrape) -> Iterator[Metric]:
    known = [(service_labels(one, place), one) for one, place in known_servers(scrape)]
    for name, help_, read in _SERVICE_COUNTERS:
        yield counter(name, help_, (pair for labels, one in known for pair in _directed(labels, read(one.counters))))
    reals = [
        ({**labels, "real_server": str(real.key).partition(" -> ")[2]}, real)
        for labels, one in known
        for real in one.reals
    ]
    yield counter(
        "real_server_connections_total",
        "Connections that a real server took.",
        ((labels, real.counters.connections) for labels, real in reals),
    )
    yield gauge(
        "real_server_active_connections",
        "Established connections of a real server.",
        ((labels, real.active) for labels, real in reals),
    )
    yield gauge("real_server_weight", "Weight of a real server.", ((labels, real.weight) for labels, real in reals))
    if scrape.readings.ipvs:
        foreign = len(scrape.readings.ipvs.servers) - len(known)
        yield gauge("foreign_virtual_servers", "Virtual servers that are no Service's; left alone.", _one(foreign))


def _directed(labels: dict[str, str], counts: Mapping[str, int]) -> Iterator[tuple[Labels, float]]:
    for direction, count in counts.items():
        yield ({**labels, "direction": direction} if direction else labels), count


def _denied(scrape: Scrape) -> Iterator[Metric]:
    found = []
    for one in scrape.readings.denied:
        denier = scrape.names.deniers.get((ChainKey(one.family, Table.FILTER, one.chain), one.rule))
        if denier is not None:
            labels = {
                "namespace": denier.pod.namespace,
                "pod": denier.pod.name,
                "direction": denier.direction,
                "policies": denier.policies,
                "ip_family": f"IPv{one.family:d}",
            }
            found.append((labels, one))
    yield counter(
        "policy_denied_packets_total",
        "Packets of a pod that its policies did not allow.",
        ((labels, one.packets) for labels, one in found),
    )
    yield counter(
        "policy_denied_bytes_total",
        "Bytes of a pod that its policies did not allow.",
        ((labels, one.bytes) for labels, one in found),
    )


# --- neighbors and tables ---------------------------------------------------------------------------------------------


def _neighbors(scrape: Scrape) -> Iterator[Metric]:
    labelled = [({"neighbor": one.address, "asn": str(one.asn)}, one) for one in scrape.neighbors]
    yield gauge("neighbor_up", "Whether a BGP session is established.", ((at, one.established) for at, one in labelled))
    yield gauge(
        "neighbor_state",
        "State of a BGP session: 1 for the one it is in.",
        (({**at, "state": state}, state == one.state) for at, one in labelled for state in _STATES),
    )
    yield gauge(
        "neighbor_prefixes_received",
        "Prefixes a neighbor has told.",
        ((at, one.received) for at, one in labelled),
    )
    yield gauge(
        "neighbor_prefixes_accepted",
        "Prefixes of a neighbor that the import policy takes.",
        ((at, one.accepted) for at, one in labelled),
    )
    yield gauge(
        "neighbor_changed_timestamp_seconds",
        "Unix time at which a session last went up or down; 0: never up.",
        ((at, one.since) for at, one in labelled),
    )


def _tables(readings: Readings) -> Iterator[Metric]:
    yield gauge("ipvs_connections", "Entries of the IPVS connection table.", _one(readings.ipvs_connections))
    yield gauge("conntrack_entries", "Entries of the connection tracking table.", _one(readings.conntrack_entries))
    yield gauge("conntrack_entries_limit", "Most entries it may have.", _one(readings.conntrack_limit))
