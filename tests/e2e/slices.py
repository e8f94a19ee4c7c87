"""Endpoint slices made by hand: the shared pods as endpoints in any state, without a pod having to be in it."""

from __future__ import annotations

from collections.abc import Mapping

from kuberouterpy.lab.client import ENDPOINT_SLICES, Object
from tests.cluster import Lab
from tests.e2e.conftest import Make, Pods
from tests.e2e.objects import DNS, HTTP, NAMESPACE, endpoint_slice

READY: Object = {"conditions": {"ready": True}}
UNREADY: Object = {"conditions": {"ready": False, "serving": False}}
DYING: Object = {"conditions": {"ready": False, "serving": True, "terminating": True}}
DEAD: Object = {"conditions": {"ready": False, "serving": False, "terminating": True}}
UNTOLD: Object = {"conditions": {}}
"""No condition at all, which is ready."""


def near(state: Object, *, zones: str = "", nodes: str = "") -> Object:
    """Return a state with topology hints, names separated by spaces."""
    hints = {"forZones": [{"name": one} for one in zones.split()], "forNodes": [{"name": one} for one in nodes.split()]}
    return state | {"hints": {key: found for key, found in hints.items() if found}}


class Slices:
    """One slice a family for each of some Services, which have no selector; gone after the test.

    Ports are named ``tcp`` (HTTP) and ``udp`` (DNS).
    """

    def __init__(self, lab: Lab, pods: Pods, make: Make, *services: str) -> None:
        self._lab = lab
        self._pods = pods
        ports = [
            {"name": "tcp", "protocol": "TCP", "port": HTTP},
            {"name": "udp", "protocol": "UDP", "port": DNS},
        ]
        self._names = {(one, family): f"{one}-{family.value}" for one in services for family in lab.families}
        for (one, family), name in self._names.items():
            made = endpoint_slice(name, one, [pods.ip("red", family)], ports) | {"endpoints": []}
            make(ENDPOINT_SLICES, made)

    def hold(self, *only: str, **states: Object) -> None:
        """Have the slices, or those of some Services, name these pods, each in its state, and no others."""
        for (one, family), name in self._names.items():
            if not only or one in only:
                self.write(name, states, {pod: self._pods.ip(pod, family) for pod in states})

    def write(self, name: str, states: Mapping[str, Object], addresses: Mapping[str, str]) -> None:
        """Write the endpoints of one slice."""
        endpoints = [
            {"addresses": [addresses[pod]], "nodeName": self._pods.node(pod), **state} for pod, state in states.items()
        ]
        self._lab.api.patch(ENDPOINT_SLICES, NAMESPACE, name, {"endpoints": endpoints})
