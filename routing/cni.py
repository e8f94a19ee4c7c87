"""The pods' bridge and the CNI configuration that puts pods on it.

The bridge stands, with the gateway of each pod CIDR, before the first pod: the ``bridge`` plugin then finds what it would have
made. Its MTU and that of the pods leave room for the tunnels' headers.
"""

from __future__ import annotations

from collections.abc import Iterator

from kuberouterpy.config import Config
from kuberouterpy.dataplane import (
    CniConfig,
    CniConfigKey,
    Link,
    LinkKey,
    LocalAddress,
    LocalAddressKey,
    Object,
)
from kuberouterpy.family import family_of
from kuberouterpy.host import BRIDGE_LINK, Host
from routing import overlay
from routing.prefixes import first_address, length


def base(host: Host, config: Config) -> Iterator[Object]:
    """Yield the bridge, its addresses and the configuration; nothing while no pod CIDR is assigned."""
    if not host.pod_cidrs or not config.enable_cni:
        return
    mtu = pod_mtu(host, config)
    yield Link(LinkKey(BRIDGE_LINK), "bridge", mtu=mtu)
    for cidr in host.pod_cidrs:
        yield LocalAddress(LocalAddressKey(BRIDGE_LINK, first_address(cidr), length(cidr)))
    ranges = tuple(sorted(host.pod_cidrs, key=family_of))
    yield CniConfig(CniConfigKey(config.cni_conf_file), BRIDGE_LINK, ranges, mtu=mtu)


def pod_mtu(host: Host, config: Config) -> int:
    """Return the MTU of bridge and pods in bytes; 0 leaves it to the kernel."""
    if not config.auto_mtu or not host.mtu:
        return 0
    if not config.enable_overlay:
        return host.mtu
    return min((overlay.mtu(family, host, config) for family in host.families), default=host.mtu)
