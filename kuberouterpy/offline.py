"""The agent without its sources: facts from YAML, the same loop, drivers that only list.

What it is for: ``plan`` and ``explain`` on a laptop with nothing but a folder of YAML, and ``plan --live``, which compares that
folder with what stands in this kernel. Nothing is ever applied: :class:`PlanningLoop` computes and lists, and stops there.

Promises: an object that cannot be read is told, never skipped in silence; kinds the agent does not watch are counted.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Final, cast

import yaml
from msgspec import Struct

from kuberouterpy.cluster import KUBERNETES_KINDS, BestPath, Event, Kind, Link, Namespace, Node, Ref, Rejection, Replace
from kuberouterpy.config import Config
from kuberouterpy.dataplane import KINDS, Key, Object, ObjectKind, Op
from kuberouterpy.drivers import Driver
from kuberouterpy.errors import ConfigError, DriverError, SourceError
from kuberouterpy.family import IPV4, IPV6, Family, family_of
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.sources.decode import decode
from kuberouterpy.sources.netlink import NetlinkSource
from kuberouterpy.wiring import controllers

_KINDS: Final[dict[str, Kind]] = {kind.__name__: kind for kind in KUBERNETES_KINDS}
_SUFFIXES: Final = (".yaml", ".yml", ".json")
_ASSUMED_PREFIX: Final[Mapping[Family, int]] = {IPV4: 24, IPV6: 64}
_LISTING_S: Final = 5.0
_ONCE_S: Final = 1e9
"""Resync period of a loop that makes one step."""


class Facts(Struct):
    """What a folder of YAML says."""

    node: str = ""
    """The node they are seen from."""
    records: dict[Kind, list[Any]] = {}
    """By kind; of two objects of one name the later counts."""
    rejected: list[Rejection] = []
    """Objects that cannot be used, whole or in part."""
    passed_over: dict[str, int] = {}
    """Objects of kinds the agent does not watch, by kind."""
    files: int = 0


class PlanningLoop(Loop):
    """A loop that computes and lists, and applies nothing."""

    def _apply(self, now: float) -> int:
        return 0


class Empty:
    """A driver of a kernel in which nothing stands."""

    name = "empty"

    def __init__(self, kinds: Iterable[ObjectKind]) -> None:
        self.kinds = tuple(kinds)

    def list(self) -> Mapping[Key, Object]:
        """Return nothing."""
        return {}

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Refuse: this driver is only ever planned with."""
        raise AssertionError("a plan is never applied")


def read(paths: Iterable[Path], *, node: str = "") -> Facts:
    """Return the facts in files and folders (searched whole) of YAML or JSON, as the agent of ``node`` would know them.

    Without a name the only Node among them is meant. A namespace that objects are in but that is not itself among them is
    assumed, with the one label that every namespace has.
    Errors: ConfigError names file and line of what is no YAML, a path that is not there, or the nodes to choose from.
    """
    found = [(path, one) for path in _files(paths) for one in _documents(path)]
    facts = Facts(files=len({path for path, _ in found}))
    for path, one in found:
        if _kind_of(one, path) is Node:
            _take(facts, Node, one, path)
    facts.node = _chosen([record.ref.name for record in facts.records.get(Node, ())], node)
    for path, one in found:
        kind = _kind_of(one, path)
        if kind is None and one is not None:
            facts.passed_over[one["kind"]] = facts.passed_over.get(one["kind"], 0) + 1
        elif kind is not None and (kind is not Node or one.get("metadata", {}).get("name") == facts.node):
            _take(facts, kind, one, path)  # a Node again: annotations of our own say more than those of others
    _assume_namespaces(facts)
    return facts


def _chosen(names: list[str], named: str) -> str:
    if not named and len(names) != 1:
        raise ConfigError(
            f"--node: name one of {', '.join(sorted(names))}"
            if names
            else "--node: no Node among these objects; name the node to plan for"
        )
    if named and names and named not in names:
        raise ConfigError(f"--node {named}: no such Node among {', '.join(sorted(names))}")
    return named or names[0]


def _assume_namespaces(facts: Facts) -> None:
    known = {record.ref.name for record in facts.records.get(Namespace, ())}
    used = {record.ref.namespace for records in facts.records.values() for record in records} - {""}
    for name in sorted(used - known):
        labels = {"kubernetes.io/metadata.name": name}
        facts.records.setdefault(Namespace, []).append(Namespace(Ref("", name), labels))


def links_of(facts: Facts) -> tuple[Link, ...]:
    """Return the links the node most likely has: its addresses on ``eth0``, /24 and /64."""
    record = next((one for one in facts.records.get(Node, ()) if one.ref.name == facts.node), None)
    addresses = () if record is None else tuple(dict.fromkeys(one.address for one in record.addresses))
    return (
        (link(f"eth0={','.join(f'{one}/{_ASSUMED_PREFIX[family_of(one)]}' for one in addresses)}"),)
        if addresses
        else ()
    )


def link(text: str, index: int = 2) -> Link:
    """Return the link that ``eth0=10.0.0.1/24,fd00::1/64`` means. Errors: ConfigError."""
    name, _, rest = text.partition("=")
    try:
        addresses = tuple(str(ip_interface(one)) for one in rest.split(",") if one)
    except ValueError as error:
        raise ConfigError(f"--link {text}: {error}; write eth0=10.0.0.1/24,fd00::1/64") from None
    if not name or not addresses:
        raise ConfigError(f"--link {text}: write eth0=10.0.0.1/24,fd00::1/64")
    return Link(name, index, mtu=1500, up=True, addresses=addresses)


def build(config: Config, facts: Facts, links: Iterable[Link], drivers: Sequence[Driver] = ()) -> PlanningLoop:
    """Return a loop that has taken every fact in and compared it with what ``drivers`` list; without any, with nothing."""
    loop = idle(config, drivers or (Empty(KINDS),))
    for event in events(facts, links):
        loop.put(event)
    loop.step(0.0)
    return loop


def idle(config: Config, drivers: Sequence[Driver]) -> PlanningLoop:
    """Return a loop that has not taken anything in."""
    return PlanningLoop(
        config=config,
        controllers=tuple(controllers(config)),
        drivers=[Programmed(driver, period_s=_ONCE_S) for driver in drivers],
        expected=(*KUBERNETES_KINDS, Link),
    )


def links_here() -> tuple[Link, ...]:
    """Return the links of this host, as the agent's own source tells them. Errors: SourceError."""
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()
    source = NetlinkSource(told.put)
    source.start()
    try:
        event = told.get(timeout=_LISTING_S)
    except queue.Empty:
        raise SourceError("list the links of this host: no answer") from None
    finally:
        source.stop()
    if not isinstance(event, Replace):
        raise SourceError(f"list the links of this host: {event}")
    return cast("tuple[Link, ...]", event.records)


def events(facts: Facts, links: Iterable[Link]) -> Iterator[Event]:
    """Yield what every source would have told once all were listed."""
    for kind in KUBERNETES_KINDS:
        rejected = tuple(one for one in facts.rejected if one.kind is kind)
        yield Replace(kind, tuple(facts.records.get(kind, ())), rejected)
    yield Replace(Link, tuple(links))
    yield Replace(BestPath, tuple(facts.records.get(BestPath, ())))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted(one for one in path.rglob("*") if one.suffix in _SUFFIXES and one.is_file())
            if not found:
                raise ConfigError(f"-f {path}: no {', '.join(_SUFFIXES)} file in this folder")
            yield from found
        elif str(path) == "-" or path.exists():
            yield path
        else:
            raise ConfigError(f"-f {path}: no such file or folder")


def _documents(path: Path) -> Iterator[Any]:
    """Yield the objects of a file; a List is its items."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        documents = [json.loads(text)] if path.suffix == ".json" else list(yaml.load_all(text, Loader=_loader()))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"-f {path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"-f {path}: {getattr(error, 'strerror', None) or error}") from None
    for one in documents:
        items = one.get("items") if isinstance(one, dict) and str(one.get("kind", "")).endswith("List") else None
        yield from items if isinstance(items, list) else [one]


def _loader() -> type[Any]:
    """Return a loader that leaves timestamps text, as the API sends them; the C one is ten times faster."""
    base: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    return type("Loader", (base,), {"yaml_implicit_resolvers": resolvers})


def _kind_of(one: Any, path: Path) -> Kind | None:
    if one is None:
        return None
    if not isinstance(one, dict) or not isinstance(one.get("kind"), str):
        raise ConfigError(f"-f {path}: an object without kind; is it a Kubernetes object?")
    return _KINDS.get(one["kind"])


def _take(facts: Facts, kind: Kind, one: Any, path: Path) -> None:
    meta = one.setdefault("metadata", {})
    if isinstance(meta, dict) and kind not in {Node, Namespace}:
        meta.setdefault("namespace", "default")
    try:
        decoded = decode(kind, json.dumps(one).encode(), node_name=facts.node)
    except SourceError as error:
        raise ConfigError(f"-f {path}: {one['kind']}: {error}") from None
    facts.rejected[:] = [one for one in facts.rejected if (one.kind, one.ref) != (kind, decoded.ref)]
    if decoded.rejection is not None:
        facts.rejected.append(decoded.rejection._replace(reason=f"{decoded.rejection.reason} ({path})"))
    # As a reflector without an older good version would: a policy that cannot be read isolates its pods.
    record = decoded.record or decoded.isolating
    if record is not None:
        same: list[Any] = facts.records.setdefault(kind, [])
        same[:] = [*(known for known in same if known.ref != record.ref), record]
