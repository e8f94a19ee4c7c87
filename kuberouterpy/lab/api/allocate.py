"""Cluster addresses, address families and node ports of Services: given, kept over updates, and given back."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from kuberouterpy.lab.api import addresses
from kuberouterpy.lab.api.addresses import Network
from kuberouterpy.lab.api.errors import JsonObject, StatusError, invalid
from kuberouterpy.lab.api.pools import AddressPool, Exhausted, Outside, Pool, Taken, node_ports

NONE: Final = "None"
"""The cluster address of a headless service."""
_OTHER: Final = {"IPv4": "IPv6", "IPv6": "IPv4"}


class ServiceAllocator:
    """What services hold. ``begin``/``commit``/``rollback`` frame one write."""

    def __init__(self, cidrs: tuple[Network, ...], ports: tuple[int, int]) -> None:
        self.pools = {pool.family: pool for pool in map(AddressPool, cidrs)}
        """Address pools by family; the first is the default family."""
        self._ports: Pool = node_ports(*ports)
        self._range = ports

    def begin(self) -> None:
        """Start a write."""
        self.commit()

    def commit(self) -> None:
        """Keep what the write took and gave back."""
        for pool in self._all():
            pool.commit()

    def rollback(self) -> None:
        """Undo what the write took and gave back."""
        for pool in self._all():
            pool.rollback()

    def restore(self, service: JsonObject) -> None:
        """Take what a stored service holds (after a restart)."""
        for family, address in _addresses(service):
            if family in self.pools:
                with suppress(Taken, Outside):
                    self.pools[family].claim(address)
        for port in _held_ports(service):
            with suppress(Taken):
                self._ports.claim(port)
        self.commit()

    def create(self, service: JsonObject) -> None:
        """Give a new service its families, addresses and ports. Errors: 422."""
        spec = service["spec"]
        if spec.get("type") != "ExternalName":
            self._families(service, None)
            self._give_addresses(service, held=())
        self._give_ports(service, held=frozenset())

    def carry_over(self, old: JsonObject, new: JsonObject) -> None:
        """Copy to the new wish what the old one was given and the client left out; drop what a new type does not have."""
        before, after = old.get("spec") or {}, new.setdefault("spec", {})
        after.setdefault("type", "ClusterIP")
        if _has_address(before) and _has_address(after):
            _carry_addresses(before, after)
        if _has_node_ports(before) and _has_node_ports(after):
            _carry_node_ports(before, after)
        if _has_health_port(before) and _has_health_port(after) and not after.get("healthCheckNodePort"):
            after["healthCheckNodePort"] = before.get("healthCheckNodePort")
        _drop_by_type(before, after)

    def update(self, old: JsonObject, new: JsonObject) -> None:
        """Give and take what the change of a service demands. Errors: 422."""
        before, after = old.get("spec") or {}, new["spec"]
        held = _addresses(old)
        if after.get("type") == "ExternalName":
            self._take_addresses(held)
        elif before.get("type") == "ExternalName":
            self._families(new, None)
            self._give_addresses(new, held=())
        elif _addresses(old) or before.get("clusterIP") == NONE:
            self._refuse_primary_change(new, before)
            self._families(new, before)
            self._give_addresses(new, held=held)
            self._take_addresses(tuple(one for one in held if one not in _addresses(new)))
        else:
            self._families(new, None)
            self._give_addresses(new, held=())
        ports = _held_ports(old)
        self._give_ports(new, held=ports)
        for port in ports - _held_ports(new):
            self._ports.release(port)

    def release(self, service: JsonObject) -> None:
        """Give back everything a service holds."""
        self._take_addresses(_addresses(service))
        for port in _held_ports(service):
            self._ports.release(port)
        self.commit()

    def _all(self) -> list[Pool]:
        return [self._ports, *(pool.numbers for pool in self.pools.values())]

    def _families(self, service: JsonObject, before: JsonObject | None) -> None:
        """Fill in ``ipFamilyPolicy`` and ``ipFamilies``. Errors: 422."""
        spec = service["spec"]
        given = [one for one in spec.get("clusterIPs") or [] if one]
        headless = given[:1] == [NONE]
        families = list(spec.get("ipFamilies") or [])
        free = headless and not spec.get("selector")  # selectorless headless: any family may be asked for
        named = families or ([] if headless else [addresses.family(one) for one in given])
        policy = spec.get("ipFamilyPolicy") or (
            "RequireDualStack" if free or max(len(named), len(given)) > 1 else "SingleStack"
        )
        if policy == "SingleStack" and max(len(named), len(given)) > 1:
            text = "must be RequireDualStack or PreferDualStack when multiple ipFamilies are specified"
            if before is None or before.get("ipFamilyPolicy") == "SingleStack":
                raise _invalid(service, "spec.ipFamilyPolicy", policy, text)
            named = named[:1]
            spec["clusterIPs"] = given[:1]
        for index, family in enumerate(named):
            if family not in self.pools and not free:
                raise _invalid(service, f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
        named = named or [next(iter(self.pools))]
        if policy != "SingleStack" and len(named) == 1:
            if _OTHER[named[0]] in self.pools or free:
                named.append(_OTHER[named[0]])
            elif policy == "RequireDualStack":
                text = "this cluster is not configured for dual-stack services"
                raise _invalid(service, "spec.ipFamilyPolicy", policy, text)
        spec["ipFamilies"], spec["ipFamilyPolicy"] = named, policy

    def _give_addresses(self, service: JsonObject, *, held: tuple[tuple[str, str], ...]) -> None:
        """Fill in ``clusterIPs`` for every family. Errors: 422."""
        spec = service["spec"]
        asked = [one for one in spec.get("clusterIPs") or [] if one]
        if asked[:1] == [NONE]:
            spec["clusterIP"], spec["clusterIPs"] = NONE, [NONE]
            return
        given = []
        for index, family in enumerate(spec["ipFamilies"]):
            wanted = asked[index] if index < len(asked) else ""
            if wanted and addresses.family(wanted) != family:
                text = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
                raise _invalid(service, f"spec.clusterIPs[{index}]", wanted, text)
            given.append(wanted if (family, wanted) in held else self._one_address(service, family, wanted))
        spec["clusterIP"], spec["clusterIPs"] = given[0], given

    def _one_address(self, service: JsonObject, family: str, wanted: str) -> str:
        pool = self.pools[family]
        shown = f"[]string{{{', '.join(_quoted(one) for one in service['spec'].get('clusterIPs') or [''])}}}"
        try:
            if not wanted:
                return pool.allocate()
            pool.claim(wanted)
        except Taken:
            text = f"failed to allocate IP {wanted}: provided IP is already allocated"
            raise _invalid(service, "spec.clusterIPs", shown, text, quote=False) from None
        except Outside:
            text = (
                f"failed to allocate IP {wanted}: the provided IP ({wanted}) is not in the valid range. "
                f"The range of valid IPs is {pool.network}"
            )
            raise _invalid(service, "spec.clusterIPs", shown, text, quote=False) from None
        except Exhausted:
            raise StatusError(
                500,
                "InternalError",
                f"Internal error occurred: failed to allocate a serviceIP: range is full ({pool.network})",
            ) from None
        return wanted

    def _take_addresses(self, held: tuple[tuple[str, str], ...]) -> None:
        for family, address in held:
            if family in self.pools:
                self.pools[family].release(address)

    def _refuse_primary_change(self, new: JsonObject, before: JsonObject) -> None:
        after = new["spec"]
        old_ip, new_ip = (before.get("clusterIPs") or [""])[0], (after.get("clusterIPs") or [""])[0]
        if old_ip and new_ip != old_ip:
            text = "may not change once set"
            shown = f"[]string{{{', '.join(_quoted(one) for one in after.get('clusterIPs') or [])}}}"
            raise _invalid(new, "spec.clusterIPs[0]", shown, text, quote=False)
        old_family, new_family = (before.get("ipFamilies") or [""])[0], (after.get("ipFamilies") or [""])[0]
        if old_family and new_family and new_family != old_family:
            raise _invalid(new, "spec.ipFamilies[0]", new_family, "may not change once set")

    def _give_ports(self, service: JsonObject, *, held: frozenset[int]) -> None:
        """Fill in node ports and the health check port. Errors: 422."""
        spec = service["spec"]
        taken = set(held)
        by_port: dict[int, int] = {}
        for index, port in enumerate(spec.get("ports") or []):
            if wanted := port.get("nodePort"):
                by_port.setdefault(port["port"], wanted)
                if wanted not in taken:
                    self._one_port(service, f"spec.ports[{index}].nodePort", wanted)
                    taken.add(wanted)
        if _has_node_ports(spec) and spec.get("allocateLoadBalancerNodePorts", True) is not False:
            for index, port in enumerate(spec.get("ports") or []):
                if not port.get("nodePort"):
                    # 53/UDP and 53/TCP get the same node port, as long as both ask in one service.
                    number = by_port.get(port["port"]) or self._one_port(service, f"spec.ports[{index}].nodePort", 0)
                    port["nodePort"] = by_port[port["port"]] = number
        if _has_health_port(spec):
            wanted = spec.get("healthCheckNodePort") or 0
            if wanted not in taken:
                spec["healthCheckNodePort"] = self._one_port(service, "spec.healthCheckNodePort", wanted)

    def _one_port(self, service: JsonObject, field: str, wanted: int) -> int:
        try:
            if not wanted:
                return self._ports.allocate()
            first, last = self._range
            if not first <= wanted <= last:
                text = f"provided port is not in the valid range. The range of valid ports is {first}-{last}"
                raise _invalid(service, field, wanted, text)
            self._ports.claim(wanted)
        except Taken:
            raise _invalid(service, field, wanted, "provided port is already allocated") from None
        except Exhausted:
            raise StatusError(
                500, "InternalError", "Internal error occurred: failed to allocate a nodePort: range is full"
            ) from None
        return wanted


def _carry_addresses(before: JsonObject, after: JsonObject) -> None:
    if not after.get("clusterIP") and not after.get("clusterIPs"):
        after["clusterIP"], after["clusterIPs"] = before.get("clusterIP", ""), list(before.get("clusterIPs") or [])
    elif not after.get("clusterIPs"):
        same = after["clusterIP"] == before.get("clusterIP")
        after["clusterIPs"] = list(before.get("clusterIPs") or []) if same else [after["clusterIP"]]
    elif after.get("clusterIP") != after["clusterIPs"][0]:
        # A patch names only one of the two; the one that changed is meant.
        if not after.get("clusterIP") or after["clusterIP"] == before.get("clusterIP"):
            after["clusterIP"] = after["clusterIPs"][0]
        elif after["clusterIPs"] == before.get("clusterIPs"):
            after["clusterIPs"] = [after["clusterIP"]]
    for field in ("ipFamilies", "ipFamilyPolicy"):
        if not after.get(field) and before.get(field):
            after[field] = before[field]


def _carry_node_ports(before: JsonObject, after: JsonObject) -> None:
    known = {(one.get("port"), one.get("protocol", "TCP")): one.get("nodePort") for one in before.get("ports") or []}
    used = {one.get("nodePort") for one in after.get("ports") or [] if one.get("nodePort")}
    for port in after.get("ports") or []:
        kept = known.get((port.get("port"), port.get("protocol", "TCP")))
        if not port.get("nodePort") and kept and kept not in used:
            port["nodePort"] = kept


def _drop_by_type(before: JsonObject, after: JsonObject) -> None:
    """Clear what the new type does not have, where the client only left the old value standing."""
    if _has_address(before) and not _has_address(after):
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if after.get(field) == before.get(field):
                after.pop(field, None)
    if _has_node_ports(before) and not _has_node_ports(after):
        old = {one.get("nodePort") for one in before.get("ports") or []}
        for port in after.get("ports") or []:
            if port.get("nodePort") in old:
                port.pop("nodePort", None)
    if (
        _has_health_port(before)
        and not _has_health_port(after)
        and after.get("healthCheckNodePort") == before.get("healthCheckNodePort")
    ):
        after.pop("healthCheckNodePort", None)
    if before.get("type") == "LoadBalancer" and after.get("type") != "LoadBalancer":
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if after.get(field) == before.get(field):
                after.pop(field, None)
    if (
        _external(before)
        and not _external(after)
        and after.get("externalTrafficPolicy") == before.get("externalTrafficPolicy")
    ):
        after.pop("externalTrafficPolicy", None)


def _external(spec: JsonObject) -> bool:
    return spec.get("type") in {"NodePort", "LoadBalancer"} or bool(_has_address(spec) and spec.get("externalIPs"))


def _has_address(spec: JsonObject) -> bool:
    return bool(spec.get("type", "ClusterIP") != "ExternalName")


def _has_node_ports(spec: JsonObject) -> bool:
    return spec.get("type") in {"NodePort", "LoadBalancer"}


def _has_health_port(spec: JsonObject) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _addresses(service: JsonObject) -> tuple[tuple[str, str], ...]:
    """Return the family and address of every cluster address held."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return ()
    return tuple((addresses.family(one), one) for one in spec.get("clusterIPs") or [] if one and one != NONE)


def _held_ports(service: JsonObject) -> frozenset[int]:
    spec = service.get("spec") or {}
    ports = {one.get("nodePort") for one in spec.get("ports") or []} | {spec.get("healthCheckNodePort")}
    return frozenset(port for port in ports if isinstance(port, int) and port)


def _quoted(text: object) -> str:
    return f'"{text}"'


def _invalid(service: JsonObject, field: str, value: object, text: str, *, quote: bool = True) -> StatusError:
    shown = _quoted(value) if isinstance(value, str) and quote else value
    return invalid(
        "",
        "Service",
        service["metadata"].get("name", ""),
        [("FieldValueInvalid", field, f"Invalid value: {shown}: {text}")],
    )
