"""The dumps that the migration reads, and the changes it makes: each step names what it did.

Order matters when theirs goes: first the jumps, so that no packet meets half a chain; then chains, sets, and last the link,
whose addresses keep their connections until the agent's own link has them.

The checkpoint is what ``rollback`` needs: chains and sets as text of their own tools, addresses, virtual and real servers.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from kuberouterpy.dataplane import Op, RealServer, Verb, VirtualServer
from kuberouterpy.drivers.command import demand, run
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.errors import ConfigError, DriverError
from kuberouterpy.family import FAMILIES, Family
from kuberouterpy.migrate import remains
from kuberouterpy.migrate.remains import IPVS_LINK, Chain, Jump, Remains, Rules
from kuberouterpy.migrate.servers import Server

CHECKPOINT: Final = Path("/var/lib/kuberouterpy/migration.json")
_METRICS_PORT: Final = 10249
"""Where kube-proxy serves metrics. A pod sees no processes of the host, but its ports; on 10256 the agent answers as well."""
_PROGRAMS: Final = frozenset({"kube-proxy", "kube-router"})


class Standing(Struct, frozen=True):
    """What this node's kernel holds."""

    remains: Remains
    rules: Rules
    servers: tuple[VirtualServer, ...]
    real: tuple[RealServer, ...]
    ours: frozenset[str]
    """Addresses on the agent's own dummy link."""

    @property
    def serving(self) -> dict[Server, frozenset[tuple[str, int]]]:
        """Who takes new connections, by virtual server; firewall marks are nobody's but the agent's."""
        found: dict[Server, set[tuple[str, int]]] = {
            (one.key.protocol.value, one.key.address, one.key.port): set() for one in self.servers if not one.key.fwmark
        }
        for one in self.real:
            key = one.key.server
            if not key.fwmark and one.weight:
                found[key.protocol.value, key.address, key.port].add((one.key.address, one.key.port))
        return {server: frozenset(real) for server, real in found.items()}


class Checkpoint(Struct, frozen=True):
    """What was theirs."""

    node: str
    mode: str
    chains: tuple[tuple[Chain, tuple[str, ...]], ...]
    jumps: tuple[Jump, ...]
    sets: str
    """As ``ipset save`` prints it."""
    addresses: tuple[str, ...]
    link: bool
    servers: tuple[VirtualServer, ...]
    real: tuple[RealServer, ...]


def running() -> list[str]:
    """Return how kube-proxy or kube-router is seen to run here; nothing where they are gone."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = comm.read_text().strip()
        except OSError:
            continue  # it ended meanwhile
        if name in _PROGRAMS:
            found.append(f"{name} runs as process {comm.parent.name}")
    with socket.socket() as sock:
        sock.settimeout(0.5)
        if sock.connect_ex(("127.0.0.1", _METRICS_PORT)) == 0:
            found.append(f"something answers on 127.0.0.1:{_METRICS_PORT}, where kube-proxy serves metrics")
    return found


def read() -> Standing:
    """Return what stands. Errors: DriverError, MissingCapability."""
    rules = remains.parse({family: demand([family.save]) for family in FAMILIES})
    names = demand(["ipset", "list", "-name"]).split()
    addresses: dict[str, tuple[str, ...]] = {
        one["ifname"]: tuple(
            f"{each['local']}/{each['prefixlen']}" for each in one["addr_info"] if each.get("scope") != "link"
            or each["family"] == "inet"
        )
        for one in json.loads(demand(["ip", "-j", "address", "show"]) or "[]")
    }  # fmt: skip
    driver = IpvsDriver(lambda key: True)
    try:
        listed = driver.list().values()
    finally:
        driver.close()
    return Standing(
        remains=remains.recognise(rules, names, addresses),
        rules=rules,
        servers=tuple(one for one in listed if isinstance(one, VirtualServer)),
        real=tuple(one for one in listed if isinstance(one, RealServer)),
        ours=frozenset(prefix.partition("/")[0] for prefix in addresses.get("kube-dummy-if", ())),
    )


def checkpoint(standing: Standing, node: str) -> Checkpoint:
    """Return what is needed to put back what is theirs."""
    theirs = standing.remains
    held = {prefix.partition("/")[0] for prefix in theirs.addresses}
    return Checkpoint(
        node=node,
        mode=theirs.mode,
        chains=tuple((chain, standing.rules[chain.family, chain.table].get(chain.name, ())) for chain in theirs.chains),
        jumps=theirs.jumps,
        sets="".join(demand(["ipset", "save", name]) for name in theirs.sets),
        addresses=theirs.addresses,
        link=theirs.link,
        servers=tuple(one for one in standing.servers if one.key.address in held),
        real=tuple(one for one in standing.real if one.key.server.address in held),
    )


def save(found: Checkpoint, path: Path = CHECKPOINT) -> None:
    """Write a checkpoint, whole."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    fresh.replace(path)


def load(path: Path = CHECKPOINT) -> Checkpoint:
    """Return the checkpoint. Errors: ConfigError where there is none, or none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run kuberouterpy migrate adopt first") from None
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from None


def remove(standing: Standing, wanted: Iterable[Server]) -> Iterator[str]:
    """Remove what is theirs; yield each thing done. ``wanted``: the virtual servers of the agent, which stay.

    Errors: DriverError where the kernel refuses; what was done is done, and the next call does the rest.
    """
    theirs = standing.remains
    for family, tables in _by_table(theirs.jumps, theirs.chains).items():
        demand([family.restore, "--noflush"], text=_removal(tables))
        jumps, chains = (sum(len(both[which]) for both in tables.values()) for which in (0, 1))
        yield f"{jumps} jumps and {chains} chains (IPv{family.value})"
    if theirs.sets:
        demand(["ipset", "restore"], text="".join(f"destroy {name}\n" for name in theirs.sets))
        yield f"{len(theirs.sets)} sets"
    if theirs.link:
        yield from _remove_servers(standing, frozenset(wanted))
        demand(["ip", "link", "delete", IPVS_LINK])
        yield f"link {IPVS_LINK} with {len(theirs.addresses)} addresses"


def missing_addresses(standing: Standing, wanted: Iterable[Server]) -> list[str]:
    """Return the addresses of wanted virtual servers that stand on kube-ipvs0 and not yet on the agent's own link."""
    held = {prefix.partition("/")[0] for prefix in standing.remains.addresses}
    return sorted({address for _, address, _ in wanted if address in held and address not in standing.ours})


def restore(found: Checkpoint) -> Iterator[str]:
    """Put back what is missing of a checkpoint; yield each thing done."""
    if found.sets:
        demand(["ipset", "-exist", "restore"], text=found.sets)
        yield f"{found.sets.count('create ')} sets"
    standing = read()
    for family, tables in _by_table(found.jumps, [chain for chain, _ in found.chains]).items():
        demand([family.restore, "--noflush"], text=_return(tables, dict(found.chains), standing.rules, family))
        yield f"{sum(len(chains) for _, chains in tables.values())} chains (IPv{family.value})"
    if found.link:
        if not standing.remains.link:
            demand(["ip", "link", "add", IPVS_LINK, "type", "dummy"])
        for prefix in found.addresses:
            run(["ip", "address", "add", prefix, "dev", IPVS_LINK])  # already there: fine
        yield f"link {IPVS_LINK} with {len(found.addresses)} addresses"
    yield from _restore_servers(found, standing)


def _by_table(
    jumps: Iterable[Jump], chains: Iterable[Chain]
) -> dict[Family, dict[str, tuple[list[Jump], list[Chain]]]]:
    found: dict[Family, dict[str, tuple[list[Jump], list[Chain]]]] = {}
    for jump in jumps:
        found.setdefault(jump.family, {}).setdefault(jump.table, ([], []))[0].append(jump)
    for chain in chains:
        found.setdefault(chain.family, {}).setdefault(chain.table, ([], []))[1].append(chain)
    return found


def _removal(tables: Mapping[str, tuple[list[Jump], list[Chain]]]) -> str:
    """Return the input of ``iptables-restore --noflush`` that removes jumps and chains in one step a table."""
    lines: list[str] = []
    for table, (jumps, chains) in tables.items():
        lines.append(f"*{table}")
        lines += [f"-D {jump.chain} {jump.rule}" for jump in jumps]
        lines += [f"-F {chain.name}" for chain in chains]
        lines += [f"-X {chain.name}" for chain in chains]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def _return(
    tables: Mapping[str, tuple[list[Jump], list[Chain]]],
    rules: Mapping[Chain, tuple[str, ...]],
    standing: Rules,
    family: Family,
) -> str:
    """Return the input of ``iptables-restore --noflush`` that fills their chains again and leads to them first, as they do."""
    lines: list[str] = []
    for table, (jumps, chains) in tables.items():
        here = standing.get((family, table), {})
        lines.append(f"*{table}")
        lines += [f":{chain.name} - [0:0]" for chain in chains]  # made, or emptied
        lines += [f"-A {chain.name} {rule}" for chain in chains for rule in rules[chain]]
        lines += [
            f"-I {jump.chain} {jump.rule}" for jump in reversed(jumps) if jump.rule not in here.get(jump.chain, ())
        ]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def _remove_servers(standing: Standing, wanted: frozenset[Server]) -> Iterator[str]:
    """Delete the virtual servers on kube-ipvs0 that nobody wants: their address proves whose they were."""
    held = {prefix.partition("/")[0] for prefix in standing.remains.addresses}
    gone = [
        one
        for one in standing.servers
        if one.key.address in held and (one.key.protocol.value, one.key.address, one.key.port) not in wanted
    ]
    if gone:
        _apply(Op(Verb.DELETE, one.key, None) for one in gone)
        yield f"{len(gone)} virtual servers that no Service wants"


def _restore_servers(found: Checkpoint, standing: Standing) -> Iterator[str]:
    there: set[Any] = {one.key for one in standing.servers} | {one.key for one in standing.real}
    servers = [Op(Verb.CREATE, one.key, one) for one in found.servers if one.key not in there]
    missing = servers + [Op(Verb.CREATE, one.key, one) for one in found.real if one.key not in there]
    if missing:
        _apply(missing)
        yield f"{len(missing)} virtual and real servers"


def _apply(ops: Iterable[Op]) -> None:
    driver = IpvsDriver(lambda key: True)
    try:
        errors = [error for _, error in driver.apply(list(ops)) if error is not None]
    finally:
        driver.close()
    if errors:
        raise DriverError("; ".join(map(str, errors)), errors[0].errno)
