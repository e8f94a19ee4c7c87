"""Paths we originate, as GoBGP has them: BGP's own bytes, which every version takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from kuberouterpy.dataplane import Path, PathKey
from kuberouterpy.family import FAMILIES, Family
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp import wire
from kuberouterpy.gobgp.client import GobgpClient, originated_here
from kuberouterpy.gobgp.dialect import Shifted

_CHUNK: Final = 500
"""Paths in one message of AddPathStream."""


def list_paths(client: GobgpClient, families: Iterable[Family]) -> Iterator[Path]:
    """Yield what we originate in some families; in both where none is given. Errors: GobgpError."""
    for family in families or FAMILIES:
        request = pb.ListPathRequest(
            table_type=_table(client),
            family=_family(family),
            enable_only_binary=True,
            enable_nlri_binary=True,
            enable_attribute_binary=True,
        )
        for answer in client.collect("ListPath", request, pb.ListPathResponse):
            for path in answer.destination.paths:
                if originated_here(path):
                    yield read(path, family)


def announce(client: GobgpClient, path: Path) -> None:
    """Originate one path. Errors: GobgpError; ValueError where it cannot be written."""
    client.call("AddPath", pb.AddPathRequest(table_type=_table(client), path=as_path(path)), pb.Nothing)


def announce_all(client: GobgpClient, paths: Sequence[Path]) -> None:
    """Originate many paths by one stream: all or, where one is refused, the daemon's choice. Errors: as for one."""
    written = [as_path(path) for path in paths]
    client.send("AddPathStream", _chunks(written, _table(client)), pb.Nothing)


def withdraw(client: GobgpClient, key: PathKey) -> None:
    """Originate a path no more. Errors: GobgpError."""
    # Some versions want complete attributes to withdraw, though they look at the prefix alone.
    next_hop = "::" if key.family is Family.IPV6 else "0.0.0.0"  # noqa: S104 (no listening here)
    path = as_path(Path(key, next_hop))
    path.is_withdraw = True
    request = pb.DeletePathRequest(table_type=_table(client), family=_family(key.family), path=path)
    client.call("DeletePath", request, pb.Nothing)


def as_path(path: Path) -> pb.Path:
    """Return a path as it is told to GoBGP. Errors: ValueError names the attribute that cannot be written."""
    prefix = path.key.prefix
    attributes = wire.encode(
        prefix, path.next_hop, communities=path.communities, local_preference=path.local_preference
    )
    return pb.Path(family=_family(path.key.family), nlri_binary=wire.encode_prefix(prefix), pattrs_binary=attributes)


def read(path: pb.Path, family: Family) -> Path:
    """Return a path as GoBGP tells it."""
    attributes = wire.decode(path.pattrs_binary)
    return Path(
        PathKey(wire.decode_prefix(path.nlri_binary, family)),
        next_hop=attributes.next_hop,
        communities=attributes.communities,
        local_preference=attributes.local_preference,
    )


def _chunks(paths: Sequence[pb.Path], table: int) -> Iterator[pb.AddPathStreamRequest]:
    for start in range(0, len(paths), _CHUNK):
        yield pb.AddPathStreamRequest(table_type=table, paths=paths[start : start + _CHUNK])


def _table(client: GobgpClient) -> int:
    return client.dialect.number(Shifted.TABLE_GLOBAL)


def _family(family: Family) -> pb.Family:
    return pb.Family(afi=wire.AFI[family], safi=wire.UNICAST)
