"""What stands in this kernel under a name and is not ours: for ``explain``, where the agent knows nothing of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

from kuberouterpy.answers import View, read_socket
from kuberouterpy.drivers import command, ipvs_table
from kuberouterpy.drivers import iptables_text as texts
from kuberouterpy.drivers.ipset import parse_headers
from kuberouterpy.errors import DriverError, KubeRouterError
from kuberouterpy.family import FAMILIES
from kuberouterpy.offline import links_here


def found(subject: str) -> tuple[View, ...]:
    """Return what the kernel has under a name; nothing where it cannot be read."""
    name = subject.rpartition("/")[2] if subject.partition("/")[0] in {"chain", "set", "link"} else subject
    views: list[View] = []
    for look in _LOOKS:
        try:
            views += look(name)
        except KubeRouterError:
            continue
    return tuple(views)


def _servers(name: str) -> Iterator[View]:
    address, port, protocol = read_socket(name)
    for one in ipvs_table.read().servers if address else ():
        key = one.key
        if key.address == address and port in {0, key.port} and protocol in {"", str(key.protocol)}:
            yield _view("virtual", str(key), f"{one.scheduler} {len(one.reals)} real servers")


def _chains(name: str) -> Iterator[View]:
    for family in FAMILIES:
        for (table, chain), rules in texts.parse(command.demand([family.save])).items():
            if chain == name:
                yield _view("chain", f"v{family:d} {table} {chain}", f"{len(rules)} rules")


def _sets(name: str) -> Iterator[View]:
    if not shutil.which("ipset"):
        raise DriverError("no ipset")
    for one, header in parse_headers(command.demand(["ipset", "-terse", "list"])):
        if one == name:
            yield _view("set", one, f"{header.type} {header.family}")


def _links(name: str) -> Iterator[View]:
    for one in links_here():
        held = {text.partition("/")[0] for text in one.addresses}
        if one.name == name or name in held:
            yield _view("link", one.name, " ".join((one.kind or "hardware", f"mtu {one.mtu}", *one.addresses)))


def _view(kind: str, name: str, actual: str) -> View:
    return View(kind, name, "foreign", actual=actual)


_LOOKS: tuple[Callable[[str], Iterator[View]], ...] = (_servers, _chains, _sets, _links)
