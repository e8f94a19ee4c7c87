"""What the agent answers when a person asks: its objects, its plan, and why a thing is there or is not.

Every function takes the loop and returns a frozen value that encodes to JSON. The agent calls them on the loop's thread
(through :class:`kuberouterpy.loop.Ask`), the command line calls the very same ones on a loop over a folder of YAML: there is
no second implementation of any answer.

Cost: a question about everything walks everything once (0.3 s for 100,000 objects); nothing is indexed for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

import proxy.services
from kuberouterpy import __version__
from kuberouterpy.cluster import Endpoint, Kind, NetworkPolicy, Node, Pod, Ref, Service
from kuberouterpy.dataplane import (
    KIND_OF_KEY,
    KINDS,
    Chain,
    ChainKey,
    EntryKey,
    JumpKey,
    Key,
    LinkKey,
    LocalAddressKey,
    NeighborKey,
    Note,
    Object,
    Op,
    Owner,
    PathKey,
    RealServerKey,
    RouteKey,
    RoutingRuleKey,
    SetKey,
    SysctlKey,
    VirtualServerKey,
    requires,
)
from kuberouterpy.errors import KubeRouterError
from kuberouterpy.loop import Loop
from kuberouterpy.text import kind_of, line, name_of, word_of

MOST: Final = 2000
"""Objects in one explanation; the rest is counted."""
_ORDER: Final = {kind: index for index, kind in enumerate(KINDS)}
_FACTS: Final[dict[str, Kind]] = {"service": Service, "pod": Pod, "policy": NetworkPolicy, "node": Node}
_ALIASES: Final = {
    "svc": "service",
    "services": "service",
    "pods": "pod",
    "po": "pod",
    "netpol": "policy",
    "networkpolicy": "policy",
    "nodes": "node",
    "peer": "neighbor",
    "ipset": "set",
    "vip": "address",
    "prefix": "route",
}
_KEYS_NAMED: Final[dict[str, tuple[type, ...]]] = {
    "chain": (ChainKey,),
    "set": (SetKey,),
    "neighbor": (NeighborKey,),
    "route": (RouteKey, PathKey),
    "path": (PathKey,),
    "link": (LinkKey,),
    "sysctl": (SysctlKey,),
    "rule": (RoutingRuleKey,),
}
KIND_WORDS: Final = (*_FACTS, *_ALIASES, *_KEYS_NAMED, "address")
"""Words that may stand before a subject's name."""


class UnknownSubject(KubeRouterError):
    """Nothing is known of what was asked for."""


class View(Struct, frozen=True, omit_defaults=True):
    """One object: what is wanted, what stands, who wants it."""

    kind: str
    """virtual, real, chain, set, entry, route, ..."""
    name: str
    """As people write it; with ``kind`` it names one object."""
    state: str
    """``ok``, ``missing`` (wanted, not there), ``differs``, ``extra`` (there, not wanted)."""
    owners: tuple[str, ...] = ()
    """Who wants it; the first decides its value."""
    wanted: str = ""
    """The wanted value as one line; a chain's rules follow in ``rules``."""
    actual: str = ""
    """What stands, as one line."""
    error: str = ""
    """What the kernel or GoBGP said last, where the last try failed."""
    attempt: int = 0
    """How often it was tried since its wanted value last changed."""
    retry_in_s: float = 0.0
    """Seconds until the next try."""
    about: dict[str, str] = {}
    """For people: service, port, vip, pod, node, note."""
    rules: tuple[RuleView, ...] = ()
    """Of a chain, in order."""
    used_by: tuple[str, ...] = ()
    """Objects that cannot be without it."""


class RuleView(Struct, frozen=True):
    """One rule of a chain."""

    rule: str
    """Match and target as iptables reads them."""
    reason: str
    """Why it is there."""


class NoteView(Struct, frozen=True):
    """Why something is not there."""

    owner: str
    subject: str
    reason: str


class Objects(Struct, frozen=True):
    """Answer to /v1/objects."""

    node: str
    version: str
    objects: tuple[View, ...]
    notes: tuple[NoteView, ...] = ()


class ChangeView(Struct, frozen=True, omit_defaults=True):
    """One operation that is due."""

    verb: str
    """create, update or delete."""
    kind: str
    name: str
    wanted: str = ""
    actual: str = ""
    owners: tuple[str, ...] = ()
    reason: str = ""
    """Last error where it failed before; why it goes, where it goes."""


class Plan(Struct, frozen=True):
    """Answer to /v1/plan: what would be done now, in the order it would be done."""

    node: str
    version: str
    changes: tuple[ChangeView, ...]
    waiting_for: tuple[str, ...] = ()
    """Kinds of facts not listed yet: until they are, nothing is done."""
    unlisted: dict[str, str] = {}
    """Drivers whose listing failed, with the reason: their part is not in the plan."""


class Explained(Struct, frozen=True):
    """Answer about one subject."""

    subject: str
    facts: tuple[str, ...]
    """What the cluster says."""
    objects: tuple[View, ...]
    notes: tuple[NoteView, ...]
    more: int = 0
    """Objects left out."""


class Explanations(Struct, frozen=True):
    """Answer to /v1/explain."""

    node: str
    version: str
    answers: tuple[Explained, ...]


def answer(loop: Loop, question: str, words: Mapping[str, Sequence[str]], *, now: float) -> object:
    """Return the answer to a question by name: ``objects``, ``plan`` or ``explain``, with the words of its query.

    Errors: UnknownSubject says what there is instead.
    """
    match question:
        case "objects":
            return objects(loop, words.get("kind", ()), now=now)
        case "plan":
            return plan(loop)
        case "explain":
            return explain(loop, words.get("subject", ()), now=now)
        case _:
            raise UnknownSubject(f"no question is called {question}; there are status, objects, plan and explain")


# --- objects ----------------------------------------------------------------------------------------------------------


def objects(loop: Loop, kinds: Collection[str] = (), *, now: float) -> Objects:
    """Return every object of some kinds (of all, where none is named), and the notes of their owners.

    Errors: UnknownSubject names a kind that is none.
    """
    words = {word_of(kind): kind for kind in KINDS}
    for kind in kinds:
        if kind not in words:
            raise UnknownSubject(f"no kind of object is called {kind}; there are {', '.join(words)}")
    wanted = {words[kind] for kind in kinds} or set(KINDS)
    keys = _sorted(key for key in loop.tracker.known() if KIND_OF_KEY[type(key)] in wanted)
    viewer = Viewer(loop, now)
    return Objects(loop.config.node_name, __version__, tuple(map(viewer.view, keys)), tuple(notes(loop)))


def notes(loop: Loop) -> Iterator[NoteView]:
    """Yield every reason for something that is not there."""
    for owner, held in sorted(loop.notes.items()):
        for note in held:
            if isinstance(note, Note):
                yield NoteView(str(owner), note.subject, note.reason)


class Viewer:
    """Makes views, remembering what it found out about each Service."""

    def __init__(self, loop: Loop, now: float) -> None:
        self._loop = loop
        self._now = now
        self._frontends: dict[Ref, dict[tuple[str, str, int], dict[str, str]]] = {}
        self._endpoints: dict[Ref, dict[str, Endpoint]] = {}

    def view(self, key: Key) -> View:
        """Return all that is known of one object."""
        told = self._loop.tracker.explain(key)
        wanted = told.wanted_by[0][1] if told.wanted_by else None
        failure = told.failure
        return View(
            kind=kind_of(key),
            name=name_of(key),
            state=_state(wanted, told.actual),
            owners=tuple(str(owner) for owner, _ in told.wanted_by),
            wanted=summary(wanted),
            actual=summary(told.actual),
            error=failure.error if failure else "",
            attempt=failure.attempt if failure else 0,
            retry_in_s=round(max(0.0, failure.retry_at - self._now), 1) if failure else 0.0,
            about=self._about(key, told.wanted_by[0][0]) if told.wanted_by else {},
            rules=_rules(wanted or told.actual),
        )

    def _about(self, key: Key, owner: Owner) -> dict[str, str]:
        if owner.controller != "proxy" or owner.kind != "service":
            return {}
        namespace, _, name = owner.name.partition("/")
        service = self._loop.store.services.get(Ref(namespace, name))
        match key:
            case VirtualServerKey() if service:
                return {"service": owner.name, **self._frontend(service, key)}
            case RealServerKey(server, address, _) if service:
                return {"service": owner.name, **self._frontend(service, server), **self._endpoint(service, address)}
            case _:
                return {"service": owner.name}

    def _frontend(self, service: Service, key: VirtualServerKey) -> dict[str, str]:
        known = self._frontends.get(service.ref)
        if known is None:
            listening, _ = proxy.services.listening(service, self._loop.host, self._loop.config)
            known = self._frontends[service.ref] = {
                (one.port.protocol, one.address, one.number): _about_frontend(one) for one in reversed(listening)
            }
        if key.fwmark:
            return {"vip": "short-circuit"}
        return known.get((key.protocol, key.address, key.port), {})

    def _endpoint(self, service: Service, address: str) -> dict[str, str]:
        known = self._endpoints.get(service.ref)
        if known is None:
            known = self._endpoints[service.ref] = {
                one.address: one for piece in self._loop.store.slices_of(service.ref) for one in piece.endpoints
            }
        one = known.get(address)
        if one is None:
            return {}
        state = "terminating" if one.terminating else "" if one.ready else "not ready"
        found = {"pod": str(one.pod) if one.pod else "", "node": one.node or "", "note": state}
        return {word: text for word, text in found.items() if text}


def summary(value: Object | None) -> str:
    """Return an object's value as one line without kind and name; a chain's is how many rules it has."""
    match value:
        case None:
            return ""
        case Chain():
            return f"{len(value.rules)} rules"
        case _:
            head = f"{kind_of(value.key):<9} {name_of(value.key)}"
            return line(value).removeprefix(head).strip() or "present"


def _about_frontend(frontend: proxy.services.Frontend) -> dict[str, str]:
    port = {"port": frontend.port.name} if frontend.port.name else {}
    return {"vip": str(frontend.vip), **port}


def _state(wanted: Object | None, actual: Object | None) -> str:
    if wanted is None:
        return "extra"
    if actual is None:
        return "missing"
    return "ok" if wanted == actual else "differs"


def _rules(value: Object | None) -> tuple[RuleView, ...]:
    if not isinstance(value, Chain):
        return ()
    return tuple(RuleView(" ".join((*rule.match, "-j", *rule.target)), rule.reason) for rule in value.rules)


def _sorted(keys: Iterable[Key]) -> list[Key]:
    return sorted(keys, key=lambda key: (_ORDER[KIND_OF_KEY[type(key)]], key))


# --- plan -------------------------------------------------------------------------------------------------------------


def plan(loop: Loop) -> Plan:
    """Return what the loop would do now if nothing backed off; normally nothing."""
    unlisted = {one.name: _why_unlisted(loop, one.name) for one in loop.drivers if not one.listed}
    closed = {kind for one in loop.drivers if not one.listed for kind in one.driver.kinds}
    ops = [op for op in loop.tracker.plan() if KIND_OF_KEY[type(op.key)] not in closed] if loop.store.synced else []
    return Plan(
        loop.config.node_name,
        __version__,
        tuple(_change(loop, op) for op in ops),
        loop.store.waiting_for,
        unlisted if loop.store.synced else {},
    )


def _why_unlisted(loop: Loop, name: str) -> str:
    return next((one.reason for one in loop.status.sources if one.name == name and not one.ok), "not listed yet")


def _change(loop: Loop, op: Op) -> ChangeView:
    told = loop.tracker.explain(op.key)
    failed = f"failed {told.failure.attempt} times: {told.failure.error}" if told.failure else ""
    return ChangeView(
        str(op.verb),
        kind_of(op.key),
        name_of(op.key),
        summary(op.value),
        summary(told.actual),
        tuple(str(owner) for owner, _ in told.wanted_by),
        failed or ("" if told.wanted_by else "nobody wants it"),
    )


# --- explain ----------------------------------------------------------------------------------------------------------


def explain(loop: Loop, subjects: Collection[str], *, now: float) -> Explanations:
    """Return all that is known of each subject.

    Errors: UnknownSubject names the one nothing is known of, and what comes near.
    """
    return Explanations(
        loop.config.node_name, __version__, tuple(explain_one(loop, subject, now=now) for subject in subjects)
    )


def explain_one(loop: Loop, subject: str, *, now: float) -> Explained:
    """Return facts, objects and notes of one subject. Errors: UnknownSubject."""
    asked = _Subject(subject)
    owners = _owners(loop, asked)
    # Notes of an owner are all told; of others those that name the subject, or stand for what it is.
    keys = {key for key in loop.tracker.known() if asked.names(key)}
    for owner in owners:
        keys.update(value.key for value in _wanted_by(loop, owner))
    if asked.kind == "pod" and (pod := loop.store.pods.get(asked.ref)) and not pod.host_network:
        others = [_Subject(address) for address in pod.addresses]
        keys.update(key for key in loop.tracker.known() if any(other.names(key) for other in others if _is_host(key)))
    facts = [fact for fact in _facts(loop, asked) if fact]
    told = [note for note in notes(loop) if note.owner in {*map(str, owners)} or asked.noted(note.subject)]
    if not (keys or facts or told):
        raise UnknownSubject(f"nothing is known of {subject}{_near(loop, asked)}")
    users = _users(loop, keys) if any(isinstance(key, ChainKey | SetKey) for key in keys) and len(keys) < 50 else {}
    viewer = Viewer(loop, now)
    ordered = _sorted(keys)
    return Explained(
        subject,
        tuple(facts),
        tuple(_used(viewer.view(key), users.get(key, ())) for key in ordered[:MOST]),
        tuple(told),
        max(0, len(ordered) - MOST),
    )


class _Subject:
    """What a person asked for, read once."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        word, slash, rest = self.text.partition("/")
        word = _ALIASES.get(word.lower(), word.lower())
        self.kind = word if slash and (word in _FACTS or word in _KEYS_NAMED or word == "address") else ""
        self.name = rest if self.kind else self.text
        self.address, self.port, self.protocol = read_socket(self.name)
        self.prefix = _prefix_of(self.name)

    @property
    def ref(self) -> Ref:
        """Namespace and name; a node has no namespace, others default's where none is given."""
        if self.kind == "node":
            return Ref("", self.name)
        namespace, slash, name = self.name.partition("/")
        return Ref(namespace, name) if slash else Ref("default", self.name)

    def names(self, key: Key) -> bool:
        """Whether ``key`` is what is asked for."""
        if self.kind in _FACTS:
            return False
        if self.kind in _KEYS_NAMED and not isinstance(key, _KEYS_NAMED[self.kind]):
            return False
        if self.address:
            return self._holds(key)
        if self.name == name_of(key):
            return True
        match key:
            case ChainKey(name=name) | SetKey(name=name) | LinkKey(name=name):
                return self.name == name
            case JumpKey(chain=name):
                return self.name == name
            case EntryKey(set=name, member=member):
                return self.name == name or (bool(self.prefix) and member == self.prefix)
            case RouteKey(destination=prefix) | PathKey(prefix=prefix) | RoutingRuleKey(source=prefix):
                return bool(self.prefix) and prefix == self.prefix
            case _:
                return False

    def _holds(self, key: Key) -> bool:
        match key:
            case VirtualServerKey(protocol=protocol, address=address, port=port):
                return self._is(protocol, address, port)
            case RealServerKey(server, address, port):
                return self._is(server.protocol, address, port) or self._holds(server)
            case EntryKey(member=member):
                address, comma, port_text = member.partition(",")
                if self.port and (not comma or port_text.rpartition(":")[2] != str(self.port)):
                    return False
                return address == self.address
            case _ if self.port:
                return False
            case LocalAddressKey(address=address) | NeighborKey(address=address):
                return address == self.address
            case RouteKey(destination=prefix) | PathKey(prefix=prefix) | RoutingRuleKey(source=prefix):
                return bool(prefix) and _inside(self.address, prefix)
            case _:
                return False

    def _is(self, protocol: str, address: str, port: int) -> bool:
        return address == self.address and self.port in {0, port} and self.protocol in {"", str(protocol)}

    def noted(self, subject: str) -> bool:
        """Whether a note about ``subject`` answers the question."""
        if self.address:
            words = subject.replace(",", " ").split()
            return self.address in words and (not self.port or "port" not in words or str(self.port) in words)
        return subject == (str(self.ref) if self.kind in _FACTS and self.kind != "node" else self.name)


def read_socket(text: str) -> tuple[str, int, str]:
    """Return (address, port, protocol) of ``tcp/10.96.0.10:80``, ``[fd00::1]:53``, ``tcp 10.96.0.10:80``, ``10.1.2.3``."""
    protocol = ""
    for separator in ("/", " "):
        word, found, rest = text.partition(separator)
        if found and word.lower() in {"tcp", "udp", "sctp"}:
            protocol, text = word.lower(), rest.strip()
    port = ""
    host = text
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return str(ip_address(host)), int(port) if port else 0, protocol
    except ValueError:
        return "", 0, ""


def _prefix_of(text: str) -> str:
    try:
        return str(ip_network(text, strict=False)) if "/" in text else ""
    except ValueError:
        return ""


def _is_host(key: Key) -> bool:
    """Whether a key is of single addresses: a pod's own, not a range it happens to be in."""
    return not isinstance(key, RouteKey | PathKey | RoutingRuleKey)


def _inside(address: str, prefix: str) -> bool:
    one, network = ip_address(address), ip_network(prefix)
    return one.version == network.version and one in network


def _owners(loop: Loop, asked: _Subject) -> list[Owner]:
    """Return the owners that a subject names: of a Service, Pod, policy or node, or by an owner's own name."""
    every = dict.fromkeys(loop.tracker.owners()) | dict.fromkeys(loop.notes)
    for controller in loop.controllers.values():
        every |= dict.fromkeys(controller.owners(loop.store, loop.host, loop.config))
    if asked.kind in _FACTS:
        name = asked.name if asked.kind == "node" else str(asked.ref)
        return sorted(owner for owner in every if owner.kind == asked.kind and owner.name == name)
    if asked.kind:
        return []
    return sorted(owner for owner in every if asked.name in {str(owner), f"{owner.kind}/{owner.name}"})


def _wanted_by(loop: Loop, owner: Owner) -> Iterable[Object]:
    controller = loop.controllers.get(owner.controller)
    return controller.desired(owner, loop.store, loop.host, loop.config).objects if controller else ()


def _users(loop: Loop, keys: Collection[Key]) -> dict[Key, list[str]]:
    """Return what needs each chain or set; entries are part of a set, not users of it."""
    found: dict[Key, list[str]] = {}
    sought = {key for key in keys if isinstance(key, ChainKey | SetKey)}
    for value in loop.tracker.wanted_of(KINDS):
        if isinstance(value.key, EntryKey):
            continue
        for need in requires(value):
            if need in sought and value.key != need:
                found.setdefault(need, []).append(f"{kind_of(value.key)} {name_of(value.key)}")
    return found


def _used(view: View, users: Iterable[str]) -> View:
    return replace(view, used_by=tuple(sorted(users)))


# --- facts ------------------------------------------------------------------------------------------------------------


def _facts(loop: Loop, asked: _Subject) -> Iterator[str]:
    store = loop.store
    if asked.kind in _FACTS:
        kind = _FACTS[asked.kind]
        record = store.table(kind).get(asked.ref)
        if record is not None:
            yield from _TELL[kind](loop, record)
        rejection = store.rejections.get((kind, asked.ref))
        if rejection is not None:
            yield f"{kind.__name__} {asked.ref} cannot be used: {rejection.reason}"
    elif asked.address:
        for pod in store.pods.by("address", asked.address):
            yield from _tell_pod(loop, pod)
        for node in store.nodes.by("address", asked.address):
            yield from _tell_node(loop, node)
        for service in store.services:
            addresses = (*service.cluster_ips, *service.external_ips, *(one.address for one in service.load_balancer))
            if asked.address in addresses:
                yield from _tell_service(loop, service)
        for path in store.paths:
            if _inside(asked.address, path.prefix):
                yield _tell_path(path.prefix, path.next_hops, path.neighbor)
    elif asked.prefix:
        for path in store.paths:
            if path.prefix == asked.prefix:
                yield _tell_path(path.prefix, path.next_hops, path.neighbor)


def _tell_path(prefix: str, next_hops: Iterable[str], neighbor: str) -> str:
    return f"best path {prefix} via {', '.join(next_hops)}" + (f" learned from {neighbor}" if neighbor else "")


def _tell_service(loop: Loop, record: Service) -> Iterator[str]:
    ports = ", ".join(
        f"{port.name + ' ' if port.name else ''}{port.port}/{port.protocol}"
        + (f" node port {port.node_port}" if port.node_port else "")
        for port in record.ports
    )
    yield f"Service {record.ref}: {record.type}, cluster IP {', '.join(record.cluster_ips) or 'none'}, ports {ports or 'none'}"
    others = [f"external IP {one}" for one in record.external_ips]
    others += [f"load-balancer IP {one.address}" for one in record.load_balancer]
    if others:
        yield ", ".join(others)
    yield f"traffic policy internal {record.internal_policy}, external {record.external_policy}" + (
        f", client affinity {record.affinity_s} s" if record.affinity_s else ""
    )
    every = [one for piece in loop.store.slices_of(record.ref) for one in piece.endpoints]
    ready = sum(one.ready for one in every)
    ending = sum(one.terminating for one in every)
    here = sum(one.node == loop.host.name for one in every)
    yield f"{len(every)} endpoints: {ready} ready, {ending} terminating, {here} on this node"


def _tell_pod(loop: Loop, record: Pod) -> Iterator[str]:
    where = "this node" if record.node == loop.host.name else record.node or "no node yet"
    extra = ", on the host network" if record.host_network else ""
    yield (
        f"Pod {record.ref}: {', '.join(record.addresses) or 'no address'} on {where}{extra}"
        + (", finished" if record.finished else "")
    )
    yield "labels " + (", ".join(f"{key}={value}" for key, value in sorted(record.labels.items())) or "none")
    policies = [one for one in loop.store.policies_in(record.ref.namespace) if one.pods.matches(record.labels)]
    yield "selected by " + (", ".join(sorted(f"policy/{one.ref}" for one in policies)) or "no policy")


def _tell_node(loop: Loop, record: Node) -> Iterator[str]:
    this = " (this node)" if record.ref.name == loop.host.name else ""
    yield (
        f"Node {record.ref.name}{this}: {', '.join(one.address for one in record.addresses) or 'no address'}, "
        f"pod CIDRs {', '.join(record.pod_cidrs) or 'none'}"
    )


def _tell_policy(loop: Loop, record: NetworkPolicy) -> Iterator[str]:
    pods = [pod for pod in loop.store.pods_in(record.ref.namespace) if record.pods.matches(pod.labels)]
    here = sum(pod.node == loop.host.name for pod in pods)
    yield f"NetworkPolicy {record.ref}: selects {len(pods)} pods, {here} on this node"
    for direction, rules in (("ingress", record.ingress), ("egress", record.egress)):
        if rules is not None:
            yield f"{direction}: " + (f"{len(rules)} rules, the rest is denied" if rules else "all is denied")


_TELL: Final[dict[Kind, Callable[..., Iterator[str]]]] = {
    Service: _tell_service,
    Pod: _tell_pod,
    NetworkPolicy: _tell_policy,
    Node: _tell_node,
}


def _near(loop: Loop, asked: _Subject) -> str:
    """Return a hint with the names that come near, or an empty string."""
    names: dict[str, str] = {}
    for word, kind in _FACTS.items():
        for ref in loop.store.table(kind).refs():
            names[f"{word}/{ref.namespace}/{ref.name}" if ref.namespace else f"{word}/{ref.name}"] = ref.name
    last = asked.name.rpartition("/")[2]
    same = [full for full, name in names.items() if name == last]
    wanted = f"{asked.kind}/{asked.ref.namespace}/{last}" if asked.kind else asked.name
    pool = [*names, *(name_of(key) for key in loop.tracker.known() if isinstance(key, SetKey | NeighborKey))]
    found = same[:3] or difflib.get_close_matches(wanted, pool, n=3, cutoff=0.7)
    if found:
        return f"; did you mean {' or '.join(found)}?"
    return "; ask for service/NAMESPACE/NAME, pod/..., policy/..., an address, ADDRESS:PORT, a prefix, a chain or a set"
