"""Reading /proc/net/ip_vs_conn."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuberouterpy.drivers.ipvs_connections import Connection, connections
from kuberouterpy.errors import DriverError
from kuberouterpy.protocol import Protocol

TITLE = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"
SIX = "fd00:0001:0002:0000:0000:0000:0000:0003"


def test_both_families_templates_and_unknown_protocols_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ip_vs_conn"
    path.write_text(
        TITLE
        + "TCP 0A010203 A3C2 0A60000A 0050 0A010204 1F90 ESTABLISHED     898\n"
        + "TCP 0A010203 0000 0A60000A 0050 0A010204 1F90 NONE             58\n"
        + f"UDP {SIX} A3C2 fd00:0096:0000:0000:0000:0000:0000:000a 0035 {SIX} 0035 UDP             299\n"
        + "IP  0A010203 0000 00000001 0000 0A010204 1F90 NONE             58\n"
    )
    assert list(connections(path)) == [
        Connection(Protocol.TCP, "10.1.2.3", 0xA3C2, "10.96.0.10", 80, "10.1.2.4", 8080, "ESTABLISHED", 898),
        Connection(Protocol.TCP, "10.1.2.3", 0, "10.96.0.10", 80, "10.1.2.4", 8080, "NONE", 58),
        Connection(Protocol.UDP, "fd00:1:2::3", 0xA3C2, "fd00:96::a", 53, "fd00:1:2::3", 53, "UDP", 299),
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="ip_vs_conn: no such file or directory"):
        list(connections(tmp_path / "ip_vs_conn"))


@pytest.mark.kernel
@pytest.mark.usefixtures("netns")
def test_the_kernel_prints_what_is_read_here() -> None:
    """A connection through a virtual server of each family, on loopback."""
    import socket

    from kuberouterpy.dataplane import Op, RealServer, RealServerKey, Verb, VirtualServer, VirtualServerKey
    from kuberouterpy.drivers.ipvs import IpvsDriver
    from kuberouterpy.family import IPV4, IPV6

    seen = []
    driver = IpvsDriver(lambda key: True)
    for family, address in ((IPV4, "127.0.0.1"), (IPV6, "::1")):
        with socket.create_server((address, 0), family=family.af) as listener:
            key = VirtualServerKey(family, Protocol.TCP, address, 7)
            wanted = (VirtualServer(key), RealServer(RealServerKey(key, address, listener.getsockname()[1])))
            assert [error for _, error in driver.apply([Op(Verb.CREATE, item.key, item) for item in wanted])] == [
                None,
                None,
            ]
            with socket.create_connection((address, 7)) as client, listener.accept()[0]:
                (found,) = (one for one in connections() if one.address == address)
                assert (found.client, found.client_port) == client.getsockname()[:2]
                assert (found.port, found.real_port) == (7, listener.getsockname()[1])
                seen.append(found.state)
    driver.close()
    assert seen == ["ESTABLISHED", "ESTABLISHED"]
