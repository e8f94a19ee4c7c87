"""IP addresses and CIDRs as the API takes them: octets with leading zeros pass, zones do not, host bits may be set."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ZEROS: Final = re.compile(r"(?<![\d:a-fA-F])0+(?=\d)|(?<=\.)0+(?=\d)")


def parse(text: object) -> Address | None:
    """Return the address; None where the text is none. Old clusters hold ``010.0.0.1``, so the API reads it as decimal."""
    if not isinstance(text, str) or "%" in text or "/" in text or len(text) > 64:
        return None
    try:
        return ipaddress.ip_address(_ZEROS.sub("", text) if "." in text else text)
    except ValueError:
        return None


def parse_network(text: object) -> Network | None:
    """Return the network; None where the text is none."""
    if not isinstance(text, str) or text.count("/") != 1 or "%" in text:
        return None
    address, length = text.split("/")
    if parse(address) is None or not re.fullmatch(r"\d{1,3}", length):
        return None
    try:
        return ipaddress.ip_network(f"{parse(address)}/{int(length)}", strict=False)
    except ValueError:
        return None


def family(text: object) -> str:
    """Return ``IPv4`` or ``IPv6``; empty for what is no address. An IPv4-mapped address counts as IPv4, as in Go."""
    address = parse(text)
    if address is None:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return "IPv4"
    return f"IPv{address.version}"
