"""JSON of the API to records: pure, and the one place where absent, null and absurd fields get their meaning.

What is wrong is named by field. A bad part is left out where the rest is safe without it (an endpoint's address, one port,
an external IP). The whole object is refused where leaving a part out would open or close something nobody asked for: a
policy, a source range, a traffic policy. A refused object's last good record stays in force (the store's rule).

Nothing here raises but :class:`Garbage`, for what has no identity.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from kuberouterpy.cluster import (
    ClusterNetworkPolicy,
    EndpointSlice,
    Kind,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Record,
    Ref,
    Service,
)
from kuberouterpy.errors import SourceError
from kuberouterpy.sources import wire
from kuberouterpy.sources.decode import cluster_policies, nodes, policies, services
from kuberouterpy.sources.decode.reading import PREFIX, Decoded, Problems, Refused, reason

__all__ = ["PREFIX", "Decoded", "Garbage", "Identity", "decode", "identity"]

_CLUSTER_WIDE: Final[frozenset[Kind]] = frozenset({Namespace, Node, ClusterNetworkPolicy})


class Garbage(SourceError):
    """What came is not an object of the API: nothing can be concluded from it, least of all that something is gone."""


def decode(kind: Kind, raw: bytes | Raw, *, node_name: str = "") -> Decoded:
    """Return one object of the API as a record, or why it has none.

    Pods of other nodes than ``node_name`` keep only what policy needs.
    Errors: Garbage where not even the object's name can be read.
    """
    known = _identified(kind, raw)
    ref, uid = known.ref, known.uid
    problems = Problems()
    try:
        if kind is NetworkPolicy:
            return policies.policy(_WIRE_POLICY.decode(raw), ref, uid)
        decoder, convert = _KINDS[kind]
        record = convert(decoder.decode(raw), ref, problems, node_name)
    except (msgspec.DecodeError, RecursionError, Refused, ValueError) as error:
        return Decoded(kind, ref, uid, None, (*problems.texts, reason(error)))
    return Decoded(kind, ref, uid, record, tuple(problems.texts))


class Identity(NamedTuple):
    """Which object it is, and in which version."""

    ref: Ref
    """Identity; a cluster-wide kind has no namespace, whatever the object says."""
    uid: str
    """metadata.uid."""
    version: str
    """metadata.resourceVersion."""


def identity(kind: Kind, raw: bytes | Raw) -> Identity:
    """Return who an object is; a bookmark has a version only.

    Errors: Garbage where that cannot be read.
    """
    try:
        known = _IDENTIFIED.decode(raw).metadata
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Garbage(f"an object has no readable metadata ({reason(error)})") from None
    namespace = "" if kind in _CLUSTER_WIDE else known.namespace or ""
    return Identity(Ref(sys.intern(namespace), sys.intern(known.name)), known.uid or "", known.resource_version or "")


def _identified(kind: Kind, raw: bytes | Raw) -> Identity:
    known = identity(kind, raw)
    if not known.ref.name:
        raise Garbage("an object has no metadata.name")
    return known


_IDENTIFIED: Final = msgspec.json.Decoder(wire.Identified)
_WIRE_POLICY: Final = msgspec.json.Decoder(wire.NetworkPolicy)

_KINDS: Final[dict[Kind, tuple[msgspec.json.Decoder[Any], Callable[[Any, Ref, Problems, str], Record | None]]]] = {
    Service: (msgspec.json.Decoder(wire.Service), services.service),
    EndpointSlice: (msgspec.json.Decoder(wire.EndpointSlice), services.endpoint_slice),
    Pod: (msgspec.json.Decoder(wire.Pod), nodes.pod),
    Namespace: (msgspec.json.Decoder(wire.Namespace), nodes.namespace),
    Node: (msgspec.json.Decoder(wire.Node), nodes.node),
    ClusterNetworkPolicy: (msgspec.json.Decoder(wire.ClusterNetworkPolicy), cluster_policies.cluster_policy),
}
