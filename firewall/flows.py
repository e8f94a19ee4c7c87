"""Connections that live on although the policies no longer allow them: which of those that are tracked must end."""

from __future__ import annotations

from firewall.model import Flow, judge, pod_at
from firewall.policies import Direction
from kuberouterpy.host import Host
from kuberouterpy.store import Store


def must_end(flow: Flow, store: Store, host: Host) -> bool:
    """Return whether a tracked connection is denied now, by what this host judges: its own pods' egress and ingress.

    ``flow`` is as the first packet was behind any VIP. What this host's own processes began is none of it, also where they
    carry a VIP as their source until they are masqueraded.
    """
    if flow.source in host.node_addresses or flow.source in host.addresses:
        return False
    if any(True for _ in store.services.by("address", flow.source)):
        return False
    for direction, address in ((Direction.EGRESS, flow.source), (Direction.INGRESS, flow.destination)):
        pod = pod_at(address, store)
        if pod is not None and pod.node == host.name and not judge(flow, direction, store).allowed:
            return True
    return False
