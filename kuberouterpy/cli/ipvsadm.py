"""What ``ipvsadm`` prints, byte for byte: ``-Ln``, ``-Ln --stats``, ``-Ln --rate`` and ``-Sn`` of version 1.31.

Habits and scripts keep working. The order of entries is the tool's own, its faults included: it compares addresses by the
difference of two 32-bit numbers, which wraps, so 192.0.2.1 stands before 10.0.0.1; and since such a comparison is no order,
even the sorting algorithm shows (glibc's merge sort).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, TypeVar

from kuberouterpy.dataplane import Forward, VirtualServerKey
from kuberouterpy.drivers.ipvs_table import Counters, Real, Table, Virtual, address
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.protocol import Protocol

T = TypeVar("T")


class Form(StrEnum):
    """Which of the tool's listings."""

    LIST = "list"
    STATS = "stats"
    RATE = "rate"
    SAVE = "save"


_FORWARDS: Final = {
    Forward.MASQUERADE: ("Masq", "-m"),
    Forward.LOCAL: ("Local", "-g"),
    Forward.TUNNEL: ("Tunnel", "-i"),
    Forward.ROUTE: ("Route", "-g"),
}
_SWITCHES: Final = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service"}
_TUNNELS: Final = ("ipip", "gue", "gre")
_CHECKSUMS: Final = ("--tun-nocsum", "--tun-csum", "--tun-remcsum")
_SCHEDULER_FLAGS: Final = ((0x08, "flag-1", "fallback"), (0x10, "flag-2", "port"), (0x20, "flag-3", ""))
_ONE_PACKET: Final = 0x04
_HEADS: Final = {
    Form.LIST: (
        "Prot LocalAddress:Port Scheduler Flags",
        "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
    ),
    Form.STATS: (
        f"{'Prot LocalAddress:Port':<33} {'Conns':>8} {'InPkts':>8} {'OutPkts':>8} {'InBytes':>8} {'OutBytes':>8}",
        "  -> RemoteAddress:Port",
    ),
    Form.RATE: (
        f"{'Prot LocalAddress:Port':<33} {'CPS':>8} {'InPPS':>8} {'OutPPS':>8} {'InBPS':>8} {'OutBPS':>8}",
        "  -> RemoteAddress:Port",
    ),
}
_LARGE: Final = ((10**8, 1, ""), (10**9, 10**3, "K"), (10**11, 10**6, "M"), (10**14, 10**9, "G"))


def lines(table: Table, form: Form) -> Iterator[str]:
    """Yield what the tool prints, without line ends."""
    if form is not Form.SAVE:
        yield f"IP Virtual Server version {table.version} (size={table.size})"
        yield from _HEADS[form]
    for server in merge_sorted(table.servers, _compare_servers):
        yield _virtual(server, form)
        for real in merge_sorted(server.reals, _compare_reals):
            yield _real(server, real, form)


def _virtual(server: Virtual, form: Form) -> str:
    match form:
        case Form.SAVE:
            return f"-A {_rule_name(server.key)} -s {server.scheduler}{_saved(server)}"
        case Form.LIST:
            return f"{_name(server.key)} {server.scheduler}{_listed(server)}"
        case _:
            return f"{_name(server.key):<33}{_numbers(server.counters, form)}"


def _saved(server: Virtual) -> str:
    text = ""
    if server.persistent:
        text += f" -p {server.persistence_s}" + (f" -M {server.netmask}" if server.netmask else "")
    text += f" --pe {server.engine}" if server.engine else ""
    text += " -o" if server.flags & _ONE_PACKET else ""
    flags = scheduler_flags(server)
    return text + (f" -b {flags}" if flags else "")


def _listed(server: Virtual) -> str:
    flags = scheduler_flags(server)
    text = f" ({flags})" if flags else ""
    if server.persistent:
        text += f" persistent {server.persistence_s}" + (f" mask {server.netmask}" if server.netmask else "")
        text += f" pe {server.engine}" if server.engine else ""
    return text + (" ops" if server.flags & _ONE_PACKET else "")


def scheduler_flags(server: Virtual) -> str:
    """Return the flags of a scheduler in the tool's words, comma-separated."""
    return ",".join(
        f"{server.scheduler}-{word}" if word and server.scheduler in {"sh", "mh"} else plain
        for bit, plain, word in _SCHEDULER_FLAGS
        if server.flags & bit
    )


def _real(server: Virtual, real: Real, form: Form) -> str:
    name = _place(real.key.address, real.key.port)
    if form is Form.SAVE:
        return f"-a {_rule_name(server.key)} -r {name} {_FORWARDS[real.forward][1]} -w {real.weight}{_tunnel(real)}"
    if server.key.family is IPV4:
        name = name[:28]
    if form is not Form.LIST:
        return f"  -> {name:<28}{_numbers(real.counters, form)}"
    return f"  -> {name:<28} {_FORWARDS[real.forward][0]:<7} {real.weight:<6} {real.active:<10} {real.inactive:<10}"


def _tunnel(real: Real) -> str:
    if real.forward is not Forward.TUNNEL or real.tunnel >= len(_TUNNELS):
        return ""
    kind = _TUNNELS[real.tunnel]
    port = f" --tun-port {real.tunnel_port}" if kind == "gue" else ""
    checksum = "" if kind == "ipip" else f" {_CHECKSUMS[min(real.tunnel_flags, 2)]}"
    return f" --tun-type {kind}{port}{checksum}"


def _name(key: VirtualServerKey) -> str:
    if key.fwmark:
        return f"FWM  {_signed(key.fwmark)}" + (" IPv6" if key.family is IPV6 else "")
    text = f"{key.protocol.upper():<4} {_place(key.address, key.port)}"
    return text[:33] if key.family is IPV4 else text


def _rule_name(key: VirtualServerKey) -> str:
    if key.fwmark:
        return f"-f {_signed(key.fwmark)}" + (" -6" if key.family is IPV6 else "")
    return f"{_SWITCHES[key.protocol]} {_place(key.address, key.port)}"


def _place(text: str, port: int) -> str:
    return f"[{address(text)}]:{port}" if ":" in text else f"{text}:{port}"


def _numbers(counters: Counters, form: Form) -> str:
    if form is Form.STATS:
        values = (
            counters.connections,
            counters.packets_in,
            counters.packets_out,
            counters.bytes_in,
            counters.bytes_out,
        )
    else:
        values = (
            counters.connections_per_s,
            counters.packets_in_per_s,
            counters.packets_out_per_s,
            counters.bytes_in_per_s,
            counters.bytes_out_per_s,
        )
    return "".join(map(large, values))


def large(number: int) -> str:
    """Return a number in nine characters, as the tool cuts it: 123456789 is ``  123456K``."""
    for limit, unit, letter in _LARGE:
        if number < limit:
            return f"{number // unit:>{9 - len(letter)}}{letter}"
    return f"{number // 10**12:>8}T"


# --- order ------------------------------------------------------------------------------------------------------------


def merge_sorted(items: Sequence[T], compare: Callable[[T, T], int]) -> list[T]:
    """Return items as glibc's qsort leaves them: a merge sort that halves, and takes the left one where equal."""
    if len(items) <= 1:
        return list(items)
    middle = len(items) // 2
    left, right = merge_sorted(items[:middle], compare), merge_sorted(items[middle:], compare)
    merged: list[T] = []
    i = j = 0
    while i < len(left) and j < len(right):
        if compare(left[i], right[j]) <= 0:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return [*merged, *left[i:], *right[j:]]


def _compare_servers(one: Virtual, other: Virtual) -> int:
    a, b = one.key, other.key
    return (
        _signed(a.fwmark - b.fwmark)
        or a.family - b.family
        or a.protocol.number - b.protocol.number
        or _compare_addresses(a.address, b.address)
        or a.port - b.port
    )


def _compare_reals(one: Real, other: Real) -> int:
    return _compare_addresses(one.key.address, other.key.address) or one.key.port - other.key.port


def _compare_addresses(one: str, other: str) -> int:
    """Compare word by word as C does; where the first is IPv4, by the first word only, whatever the second is."""
    if not one or not other:
        return 0
    a, b = (ip_address(text).packed.ljust(16, b"\0") for text in (one, other))
    words = range(0, 16 if ":" in one else 4, 4)
    differences = (
        _signed(int.from_bytes(a[at : at + 4], "big") - int.from_bytes(b[at : at + 4], "big")) for at in words
    )
    return next((difference for difference in differences if difference), 0)


def _signed(number: int) -> int:
    """Return a number as a C int holds it."""
    return (number + 2**31) % 2**32 - 2**31
