"""What the one before serves, as virtual servers, and how that differs from what the agent wants.

kube-proxy in IPVS mode and kube-router have virtual servers; kube-proxy in iptables mode has chains that mean the same: a rule
of ``KUBE-SERVICES`` is a virtual server, the ``KUBE-SEP-*`` chains it leads to are its real servers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from ipaddress import ip_network

from msgspec import Struct

from kuberouterpy.migrate.remains import Rules, target, words_of

Server = tuple[str, str, int]
"""Protocol in lower case, address, port."""
Serving = Mapping[Server, frozenset[tuple[str, int]]]
"""Real servers (address, port) that take new connections, by virtual server."""


class Comparison(Struct, frozen=True):
    """Two tables of virtual servers."""

    same: tuple[Server, ...] = ()
    """The same real servers take new connections."""
    differ: tuple[tuple[Server, tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]], ...] = ()
    """Virtual server, real servers only theirs, real servers only ours."""
    theirs: tuple[Server, ...] = ()
    """Only theirs."""
    ours: tuple[Server, ...] = ()
    """Only ours."""

    @property
    def equal(self) -> bool:
        """Whether the agent would serve exactly what is served now."""
        return not (self.differ or self.theirs or self.ours)


def compare(theirs: Serving, ours: Serving) -> Comparison:
    """Return where the two agree and where not, in order."""
    both = sorted(set(theirs) & set(ours))
    return Comparison(
        same=tuple(one for one in both if theirs[one] == ours[one]),
        differ=tuple(
            (one, tuple(sorted(theirs[one] - ours[one])), tuple(sorted(ours[one] - theirs[one])))
            for one in both
            if theirs[one] != ours[one]
        ),
        theirs=tuple(sorted(set(theirs) - set(ours))),
        ours=tuple(sorted(set(ours) - set(theirs))),
    )


def from_rules(rules: Rules) -> dict[Server, frozenset[tuple[str, int]]]:
    """Return what the chains of kube-proxy's iptables mode serve on cluster and external addresses."""
    found: dict[Server, set[tuple[str, int]]] = {}
    for (_, table), chains in rules.items():
        if table != "nat":
            continue
        for rule in chains.get("KUBE-SERVICES", ()):
            words = words_of(rule)
            options = dict(itertools.pairwise(words))
            if "-d" in options and "--dport" in options:
                address = str(ip_network(options["-d"]).network_address)
                server = (options.get("-p", "tcp"), address, int(options["--dport"]))
                found.setdefault(server, set()).update(_real(chains, target(rule), set()))
    return {server: frozenset(real) for server, real in found.items()}


def _real(chains: Mapping[str, tuple[str, ...]], name: str, seen: set[str]) -> Iterator[tuple[str, int]]:
    if name in seen:
        return
    seen.add(name)
    for rule in chains.get(name, ()):
        words = words_of(rule)
        if "--to-destination" in words:
            address, _, port = words[words.index("--to-destination") + 1].rpartition(":")
            yield address.strip("[]"), int(port)
        elif (leads := target(rule)).startswith(
            ("KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-")
        ):
            yield from _real(chains, leads, seen)
