"""Denied packets as lines: who wanted to talk to whom, and which policies said no."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import click
import msgspec

from kuberouterpy.cli import table
from kuberouterpy.drivers.nflog import Logged
from kuberouterpy.errors import KubeRouterError

_AGAIN_S: Final = 5.0
"""Names are asked for again after so long, where an address has none."""


class Names:
    """Names of pods and nodes by address, as the agent knows them; without an agent there are none."""

    def __init__(self, fetch: Callable[[], Mapping[str, str]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._names: Mapping[str, str] = {}
        self._asked: float | None = None

    def of(self, address: str) -> str:
        """Return the name of who holds an address, or an empty string."""
        now = self._clock()
        if address not in self._names and (self._asked is None or now - self._asked >= _AGAIN_S):
            self._asked = now
            with suppress(KubeRouterError, click.ClickException):
                self._names = self._fetch()
        return self._names.get(address, "")


class Denial(msgspec.Struct, frozen=True):
    """One denied packet."""

    time: str
    direction: str
    """ingress or egress: at whose pod it was denied."""
    pod: str
    policies: str
    audited: bool
    source: str
    source_name: str
    destination: str
    destination_name: str
    protocol: str
    port: int


def read(packet: Logged, names: Names, when: str) -> Denial:
    """Return a packet with what its prefix says: ``in:default/web:deny``, ``audit:out:...`` or ``unseen``."""
    words = packet.prefix.split(":")
    audited = words[0] == "audit"
    direction, pod, policies = [*(words[1:] if audited else words), "", "", ""][:3]
    return Denial(
        when,
        {"in": "ingress", "out": "egress"}.get(direction, direction),
        pod,
        policies,
        audited,
        packet.source,
        names.of(packet.source),
        packet.destination,
        names.of(packet.destination),
        packet.protocol,
        packet.port,
    )


def lines(packet: Logged, names: Names, when: str, *, as_json: bool = False) -> Iterator[str]:
    """Yield a packet as one line."""
    one = read(packet, names, when)
    if as_json:
        yield msgspec.json.encode(one).decode()
        return
    word = table.paint("WOULD DENY", "yellow") if one.audited else table.paint("DENIED", "red")
    port = f"{one.port}/{one.protocol}" if one.port else one.protocol
    ends = " -> ".join(
        f"{name} ({address})" if name else address
        for name, address in ((one.source_name, one.source), (one.destination_name, one.destination))
    )
    by = f"{one.direction} of {one.pod} by {one.policies}" if one.pod else "a pod not seen yet"
    yield f"{one.time} {word} {ends} {port}   # {by}"
