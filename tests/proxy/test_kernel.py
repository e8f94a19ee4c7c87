"""The proxy's objects on a real kernel, through the real drivers."""
# ruff: noqa: N802  (rows of tests/e2e/README.md are A15, ...)

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kuberouterpy.cluster import Endpoint, EndpointPort, EndpointSlice, Ref, Service, ServicePort
from kuberouterpy.dataplane import Chain, Entry, Jump, Object, RealServer, Set, VirtualServer
from kuberouterpy.drivers.ipset import IpsetDriver
from kuberouterpy.drivers.iptables import IptablesDriver
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.family import FAMILIES, IPV4
from kuberouterpy.protocol import Protocol
from kuberouterpy.store import Store
from kuberouterpy.tracker import Tracker
from proxy import controller, services
from tests.guest import Netns
from tests.proxy.test_services import CONFIG, HOST, WEB

pytestmark = [pytest.mark.kernel]


def _users_of_sctp() -> int:
    """Return how many sockets and namespaces hold the module; -1 where it is not loaded."""
    rows = (line.split() for line in Path("/proc/modules").read_text().splitlines())
    return next((int(row[2]) for row in rows if row[0] == "sctp"), -1)


def _wanted(service: Service, slices: Sequence[EndpointSlice]) -> tuple[Object, ...]:
    return services.desired(service, slices, HOST, CONFIG).objects


def test_A15_an_sctp_service_does_not_load_the_module_that_hosts_keep_out(netns: Netns) -> None:
    """IPVS, rules and sets only read packets; a proxy that guards its ports with sockets would load ``sctp``."""
    before = _users_of_sctp()  # a test before this one may have loaded it; once it is, namespaces hold it for ever
    signal = replace(WEB, ports=(ServicePort("signal", Protocol.SCTP, 5060, 30060),))
    slices = [
        EndpointSlice(
            Ref("default", f"web-{family.value}"),
            WEB.ref,
            family,
            (EndpointPort("signal", Protocol.SCTP, 5060),),
            (Endpoint("10.1.4.4" if family is IPV4 else "fd00:1:4::4", HOST.name),),
        )
        for family in FAMILIES
    ]
    with closing(IpvsDriver(lambda key: True)) as ipvs:
        drivers: dict[tuple[Any, ...], Any] = {
            (Set, Entry): IpsetDriver(),
            (Chain, Jump): IptablesDriver(),
            (VirtualServer, RealServer): ipvs,
        }
        base = controller.desired(controller.BASE, Store(()), HOST, CONFIG).objects
        tracker = Tracker(tuple(drivers))
        for owner, objects in ((controller.BASE, base), (controller.owner_of(WEB.ref), _wanted(signal, slices))):
            tracker.replace(owner, objects)
        for batch in tracker.pending(0.0):
            assert [error for _, error in drivers[batch.group].apply(batch.ops) if error] == []
    assert netns.run("ipvsadm", "-Sn").count("-a --sctp-service") == 5  # addresses, each with its endpoint
    assert "sctp:5060" in netns.run("ipset", "save")
    assert _users_of_sctp() <= before
