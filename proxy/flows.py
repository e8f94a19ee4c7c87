"""UDP flows that conntrack remembers wrongly: which addresses and ports must be looked after, and who may answer there.

IPVS moves its own UDP connections: a real server that is deleted loses them at once, and their conntrack entries are rewritten
(services.md V3). What is left are flows older than the address: they began while packets to it were routed away or refused,
stay ``[UNREPLIED]`` with the VIP as their answerer for as long as the client sends, and a policy that admits only answers to
established flows cuts them (V5). So whoever may answer is all the driver needs: serving endpoints, whatever the traffic
policy, as kube-proxy has it (pkg/proxy/conntrack/cleanup.go). An entry that someone else answers goes, its neighbors stay.

Addresses with direct server return have none of this: there the address itself answers, rightly.
"""

from __future__ import annotations

from collections.abc import Iterator

from kuberouterpy.dataplane import Flows, FlowsKey, Object
from kuberouterpy.family import family_of
from kuberouterpy.protocol import Protocol
from proxy.endpoints import Categories


def flows(address: str, port: int, protocol: Protocol, found: Categories) -> Iterator[Object]:
    """Yield what conntrack may hold of an address and port: nothing to do for TCP and SCTP, which end by themselves."""
    if protocol is not Protocol.UDP:
        return
    answering = {one.address for one in found.all if one.endpoint.serving or one.endpoint.ready}
    yield Flows(FlowsKey(family_of(address), protocol, address, port), tuple(sorted(answering)))
