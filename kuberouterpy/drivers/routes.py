"""Kernel routes and routing rules, a hundred in one send.

What the kernel's own tool shows of a route of ours, of one with two next hops, and of a rule::

    $ ip route show proto 17
    10.1.4.0/24 via 10.0.0.4 dev eth0
    10.1.5.0/24
        nexthop via 10.0.0.4 dev eth0 weight 1
        nexthop via 10.0.0.5 dev eth0 weight 1
    $ ip rule show table 77
    32764:  from 10.1.2.0/24 lookup 77 proto 17

Ours are the routes of protocol 17 (what kube-router uses, so its routes are adopted in place) in any table, and the rules that
look up one of the tables 77, 78 and 79, with the mark or source they have; rules on links or destinations are of others. What
kube-router made with ``ip route`` has protocol *boot*: ``local default dev lo`` in 78, single addresses on its bridge in 79.
These alone are adopted as they stand, and go when nobody wants them.

Promises: a route of another protocol is never replaced by CREATE (EEXIST says whose it is); next hops change in one message, so
there is no moment without a route. A link of a next hop is compared only where it was wanted or where there is no gateway.
Kernel: net/ipv4/fib_frontend.c: inet_rtm_newroute; net/ipv6/route.c: inet6_rtm_newroute; net/core/fib_rules.c: fib_nl_newrule.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, product
from typing import Final

from kuberouterpy.dataplane import (
    Key,
    NextHop,
    Object,
    ObjectKind,
    Op,
    Route,
    RouteKey,
    RoutingRule,
    RoutingRuleKey,
    Verb,
)
from kuberouterpy.drivers import rtnl_wire as wire
from kuberouterpy.drivers.batches import sends
from kuberouterpy.drivers.netlink import (
    CREATE,
    EXCLUSIVE,
    REPLACE,
    ROUTE,
    Message,
    Netlink,
    Refusal,
    failure,
    unanswered,
)
from kuberouterpy.drivers.rtnl_wire import Hop, RouteSeen
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES

Outcome = tuple[Op, DriverError | None]

PROTOCOL: Final = 17
"""rtm_protocol of our routes and rules."""
RULE_TABLES: Final = frozenset({77, 78, 79})
"""kube-router, kube-router-dsr, external_ip: tables whose rules are ours."""

_BOOT: Final = 3
"""rtm_protocol of what ``ip route add`` makes."""
_DIRECT, _EXTERNAL = 78, 79
_BRIDGE: Final = "kube-bridge"

_FLAGS: Final = {Verb.CREATE: CREATE | EXCLUSIVE, Verb.UPDATE: CREATE | REPLACE}
_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT})


class RoutesDriver:
    """Programs the routing tables of the network namespace in which it is first used."""

    name = "routes"
    kinds: tuple[ObjectKind, ...] = (Route, RoutingRule)

    def __init__(self) -> None:
        self._netlink = Netlink(ROUTE)
        self._wanted: dict[RouteKey, Route] = {}
        self._left: set[RouteKey] = set()
        """Routes that kube-router left under another protocol."""

    def expect(self, wanted: Iterable[Object]) -> None:
        """Tell what will be wanted, so that a listing leaves out what is not compared."""
        self._wanted |= {value.key: value for value in wanted if isinstance(value, Route)}

    def list(self) -> Mapping[Key, Object]:
        """Return our routes and rules of both families."""
        try:
            routes = self._routes()
            rules = self._rules()
        except OSError as error:
            raise unanswered("list routes and rules", error) from error
        return {**routes, **rules}

    def apply(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        """Carry out ``ops`` in order: routes a hundred in one send, rules one by one."""
        for is_rule, group in groupby(ops, lambda op: isinstance(op.key, RoutingRuleKey)):
            if is_rule:
                yield from self._apply_rules([*group])
            else:
                for part in sends([*group]):
                    yield from self._apply_routes(part)

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    # --- routes -------------------------------------------------------------------------------------------------------

    def _apply_routes(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        try:
            errors = self._send_routes(ops)
        except OSError as error:
            yield from ((op, unanswered(_attempted(op), error)) for op in ops)
            return
        for op in ops:
            failed = errors.get(op.key)
            if op.verb is Verb.DELETE and failed is None:
                self._wanted.pop(_route_key(op), None)
            yield op, failed

    def _send_routes(self, ops: Sequence[Op]) -> dict[Key, DriverError]:
        """Return the error of each key that failed.

        Errors: OSError when answers were lost.
        """
        errors: dict[Key, DriverError] = {}
        indexes = self._indexes(ops)
        sent: list[tuple[Op, Message]] = []
        for op in ops:
            if not isinstance(op.value, Route):
                key = _route_key(op)
                sent.append((op, _deletion(key, _BOOT if key in self._left else PROTOCOL)))
                continue
            self._wanted[op.value.key] = op.value
            absent = [hop.link for hop in op.value.next_hops if hop.link and not indexes[hop.link]]
            if absent:
                errors[op.key] = DriverError(f"{_attempted(op)}: no link {absent[0]}", errno.ENODEV)
            else:
                sent.append((op, Message(wire.NEW_ROUTE, _FLAGS[op.verb], _route_body(op.value, indexes))))
        refused = self._netlink.transact([message for _, message in sent])
        taken = [sent[position] for position, refusal in refused.items() if _is_taken(sent[position][0], refusal)]
        for position, refusal in refused.items():
            op = sent[position][0]
            if not _is_taken(op, refusal) and not (op.verb is Verb.DELETE and refusal.errno in _GONE):
                errors[op.key] = failure(_attempted(op), refusal)
        if taken:
            errors |= self._replace(taken)
        return errors

    def _replace(self, taken: Sequence[tuple[Op, Message]]) -> dict[Key, DriverError]:
        """Change the routes that were to be created but exist; return the errors of those that are of others."""
        ours = self._routes()
        errors: dict[Key, DriverError] = {}
        changed: list[tuple[Op, Message]] = []
        for op, message in taken:
            if op.key not in ours:
                errors[op.key] = DriverError(f"{_attempted(op)}: a route of another protocol is there", errno.EEXIST)
            elif ours[op.key] != op.value:
                changed.append((op, message._replace(flags=_FLAGS[Verb.UPDATE])))
        for position, refusal in self._netlink.transact([message for _, message in changed]).items():
            errors[changed[position][0].key] = failure(_attempted(changed[position][0]), refusal)
        return errors

    def _routes(self) -> dict[Key, Object]:
        """Return our routes; the ones that satisfy what is wanted, as wanted."""
        names = {link.ifindex: link.name for link in map(wire.decode_link, self._dump(wire.GET_LINK, wire.get_links()))}
        found: dict[Key, Object] = {}
        for family in FAMILIES:
            for body in self._dump(wire.GET_ROUTE, wire.get_routes(family, PROTOCOL)):
                seen = wire.decode_route(body)
                if seen is None or seen.protocol != PROTOCOL:
                    continue
                key = RouteKey(seen.table, seen.destination)
                if key not in found:  # of several metrics the kernel lists, and uses, the smallest first
                    found[key] = self._described(key, seen, names)
        left = {key: route for key, route in self._left_routes(names) if key not in found}
        self._left = set(left)
        return found | left

    def _left_routes(self, names: Mapping[int, str]) -> Iterator[tuple[RouteKey, Route]]:
        for family, table in product(FAMILIES, (_DIRECT, _EXTERNAL)):
            try:
                bodies = [*self._dump(wire.GET_ROUTE, wire.get_routes(family, _BOOT, table))]
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue
                raise
            for seen in filter(None, map(wire.decode_route, bodies)):
                key = RouteKey(seen.table, seen.destination)
                route = Route(key, tuple(sorted(_next_hops(seen.hops, names))), seen.source, seen.kind)
                if seen.protocol == _BOOT and _is_kube_routers(route):
                    yield key, route

    def _described(self, key: RouteKey, seen: RouteSeen, names: Mapping[int, str]) -> Route:
        whole = Route(key, tuple(sorted(_next_hops(seen.hops, names))), seen.source, seen.kind)
        wanted = self._wanted.get(key)
        if wanted and _satisfies(whole, wanted):
            return wanted
        short = (
            NextHop(hop.gateway, "" if hop.gateway and not hop.on_link else hop.link, hop.on_link)
            for hop in whole.next_hops
        )
        return Route(key, tuple(sorted(short)), seen.source, seen.kind)

    def _indexes(self, ops: Sequence[Op]) -> dict[str, int]:
        """Return the index of every link that ``ops`` name; 0 where there is none."""
        names = {hop.link for op in ops if isinstance(op.value, Route) for hop in op.value.next_hops} - {""}
        return {"": 0} | {name: self._index(name) for name in names}

    def _index(self, name: str) -> int:
        try:
            return wire.decode_link(self._netlink.request(Message(wire.GET_LINK, 0, wire.get_links(name)))).ifindex
        except OSError as error:
            if error.errno == errno.ENODEV:
                return 0
            raise

    # --- rules --------------------------------------------------------------------------------------------------------

    def _apply_rules(self, ops: Sequence[Op]) -> Iterator[Outcome]:
        try:
            rules = self._rules()
        except OSError as error:
            yield from ((op, unanswered(f"{op.verb} routing rule {op.key}", error)) for op in ops)
            return
        for op in ops:
            try:
                yield op, self._apply_rule(op, rules)
            except OSError as error:
                yield op, unanswered(f"{op.verb} routing rule {op.key}", error)

    def _apply_rule(self, op: Op, rules: dict[Key, RoutingRule]) -> DriverError | None:
        """Carry out one operation and note it in ``rules``, what is there."""
        before = rules.get(op.key)
        if before == op.value:
            return None
        # order matters: the new rule stands before the old one goes, so that there is no moment without either
        if isinstance(op.value, RoutingRule):
            refusal = self._send_rule(wire.NEW_RULE, CREATE | EXCLUSIVE, op.value)
            if refusal and refusal.errno != errno.EEXIST:
                return failure(f"{op.verb} routing rule {op.key}", refusal)
            rules[op.key] = op.value
        else:
            rules.pop(op.key, None)
        refusal = self._send_rule(wire.DELETE_RULE, 0, before) if before else None
        if refusal and refusal.errno not in _GONE:
            return failure(f"{op.verb} routing rule {op.key}", refusal)
        return None

    def _send_rule(self, kind: int, flags: int, rule: RoutingRule) -> Refusal | None:
        key = rule.key
        body = wire.rule(
            key.family,
            priority=key.priority,
            source=key.source,
            fwmark=key.fwmark,
            fwmask=key.fwmask,
            table=rule.table,
            # The kernel compares the protocol when deleting, too; kube-router's rules have another.
            protocol=PROTOCOL if kind == wire.NEW_RULE else 0,
        )
        return self._netlink.transact([Message(kind, flags, body)]).get(0)

    def _rules(self) -> dict[Key, RoutingRule]:
        found: dict[Key, RoutingRule] = {}
        for family in FAMILIES:
            for body in self._dump(wire.GET_RULE, wire.get_rules(family)):
                seen = wire.decode_rule(body)
                if seen and seen.table in RULE_TABLES:
                    key = RoutingRuleKey(family, seen.priority, seen.source, seen.fwmark, seen.fwmask)
                    found[key] = RoutingRule(key, seen.table)
        return found

    def _dump(self, kind: int, body: bytes) -> Iterator[memoryview]:
        return self._netlink.dump(Message(kind, 0, body))


def _is_kube_routers(route: Route) -> bool:
    key = route.key
    if key.table == _DIRECT:
        return route == Route(key, (NextHop(link="lo"),), kind="local") and key.destination == key.family.everything
    alone = key.destination.endswith(f"/{key.family.host_prefix}")
    return key.table == _EXTERNAL and alone and route == Route(key, (NextHop(link=_BRIDGE),))


def _route_body(route: Route, indexes: Mapping[str, int]) -> bytes:
    return wire.route(
        route.key.family,
        route.key.destination,
        table=route.key.table,
        protocol=PROTOCOL,
        kind=route.kind,
        hops=tuple(Hop(hop.gateway, indexes[hop.link], hop.on_link) for hop in route.next_hops),
        source=route.source,
    )


def _deletion(key: RouteKey, protocol: int) -> Message:
    body = wire.route_key(key.family, key.destination, table=key.table, protocol=protocol)
    return Message(wire.DELETE_ROUTE, 0, body)


def _is_taken(op: Op, refusal: Refusal) -> bool:
    return op.verb is Verb.CREATE and refusal.errno == errno.EEXIST


def _next_hops(hops: Iterable[Hop], names: Mapping[int, str]) -> Iterator[NextHop]:
    for hop in hops:
        yield NextHop(hop.gateway, names.get(hop.ifindex, ""), hop.on_link)


def _satisfies(seen: Route, wanted: Route) -> bool:
    """Return whether the kernel's route is the wanted one, links compared only where one is wanted."""
    links = {hop.gateway: hop.link for hop in wanted.next_hops}
    hops = sorted(
        NextHop(hop.gateway, hop.link if links.get(hop.gateway, hop.link) else "", hop.on_link)
        for hop in seen.next_hops
    )
    return (tuple(hops), seen.source, seen.kind) == (wanted.next_hops, wanted.source, wanted.kind)


def _route_key(op: Op) -> RouteKey:
    assert isinstance(op.key, RouteKey)
    return op.key


def _attempted(op: Op) -> str:
    key = _route_key(op)
    where = "" if key.table == 254 else f" in table {key.table}"
    if not isinstance(op.value, Route):
        return f"{op.verb} route {key.destination}{where}"
    hops = " ".join(_hop_text(hop) for hop in op.value.next_hops)
    return f"{op.verb} route {key.destination} {hops}{where}"


def _hop_text(hop: NextHop) -> str:
    return " ".join(part for part in (hop.gateway and f"via {hop.gateway}", hop.link and f"dev {hop.link}") if part)
