"""IPVS connections as /proc/net/ip_vs_conn prints them; the netlink family has no message for them.

One line each, after a title line (net/netfilter/ipvs/ip_vs_conn.c: ip_vs_conn_seq_show); IPv4 addresses are eight hexadecimal
digits, IPv6 ones are written out::

    Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
    TCP 0A010203 A3C2 0A60000A 0050 0A010204 1F90 ESTABLISHED     898
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kuberouterpy.drivers.netlink import address_text
from kuberouterpy.errors import DriverError
from kuberouterpy.protocol import Protocol


class Connection(NamedTuple):
    """One connection or persistence template."""

    protocol: Protocol
    client: str
    client_port: int
    """0: a persistence template."""
    address: str
    """Of the virtual server."""
    port: int
    real_address: str
    real_port: int
    state: str
    """As the kernel words it: ESTABLISHED, TIME_WAIT, UDP, NONE, ..."""
    expires_s: int
    """Seconds until the kernel forgets it unless packets come."""


def connections(path: Path = Path("/proc/thread-self/net/ip_vs_conn")) -> Iterator[Connection]:
    """Yield the connections of this thread's network namespace.

    Errors: DriverError when the file cannot be read.
    """
    try:
        lines = path.read_text().splitlines()[1:]
    except OSError as error:
        raise DriverError(f"read {path}: {(error.strerror or str(error)).lower()}", error.errno or 0) from error
    for line in lines:
        words = line.split()
        if len(words) >= 9 and words[0] in Protocol.__members__:
            yield Connection(
                Protocol[words[0]],
                _address(words[1]),
                int(words[2], 16),
                _address(words[3]),
                int(words[4], 16),
                _address(words[5]),
                int(words[6], 16),
                words[7],
                int(words[8]),
            )


def _address(text: str) -> str:
    return address_text(bytes.fromhex(text.replace(":", "")))
