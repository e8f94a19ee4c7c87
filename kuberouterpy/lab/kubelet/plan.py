"""What a kubelet is told about its node."""

from __future__ import annotations

import msgspec


class KubeletNode(msgspec.Struct, frozen=True):
    """One node, as the lab's topology laid it out."""

    name: str
    """Name of the Node object."""
    netns: str
    """Path of the node's network namespace."""
    addresses: tuple[str, ...]
    """InternalIPs, first the family that the node prefers."""
    directory: str
    """Where this node keeps what is its own: addresses in use, what pods write."""
    conflist: str
    """The CNI list the routing controller writes; the node is Ready once it is there."""
    zone: str = ""
    """Value of topology.kubernetes.io/zone; none where empty."""
    labels: dict[str, str] = {}
    """Further labels of the Node."""

    logs: str = ""
    """Where containers' logs go: all nodes may share one folder. ``directory``/logs where empty."""

    @property
    def cri_socket(self) -> str:
        """Where this node's container runtime answers."""
        return f"{self.directory}/cri.sock"

    @property
    def cni_data(self) -> str:
        """Where host-local keeps this node's addresses."""
        return f"{self.directory}/cni/networks"

    def scratch(self, uid: str) -> str:
        """Return the folder that a pod's writes to /tmp go to."""
        return f"{self.directory}/pods/{uid}"

    def log_path(self, namespace: str, name: str, container: str) -> str:
        """Return the file that a container's output goes to; the API server's ``--pod-log-dir`` has the same layout."""
        return f"{self.logs or self.directory + '/logs'}/{namespace}/{name}/{container}.log"
