"""A claim makes an address one Service's: a Lease with the address in its name, so that the API server lets only one exist.

``kubectl get leases -l kube-router.io/balancer=claim`` shows who has what. A claim names the uid of its Service, which no other
Service ever has. One that is *released* is on its way out: nobody may give its address any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from kuberouterpy.balancer.api import CONFLICT, NOT_FOUND, Api, lease_path, leases_path
from kuberouterpy.cluster import Ref
from kuberouterpy.sources.transport import ApiError

_LABEL: Final = "kube-router.io/balancer"
_ADDRESS: Final = "kube-router.io/address"
_SERVICE: Final = "kube-router.io/service"
_RELEASED: Final = "kube-router.io/released"
_PAGE: Final = 500


class Claim(Struct, frozen=True):
    """An address and whose it is."""

    address: str
    uid: str
    """metadata.uid of the Service."""
    service: Ref
    """Its name, for people and to find it."""
    version: str
    """resourceVersion of the claim."""
    released: bool = False


class Book:
    """Claims as last seen, by address and by Service."""

    def __init__(self, claims: Iterable[Claim] = ()) -> None:
        self._by_address: dict[str, Claim] = {}
        self._by_service: dict[Ref, dict[str, None]] = {}
        for claim in claims:
            self.note(claim)

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._by_address.values())

    def at(self, address: str) -> Claim | None:
        """Return the claim on an address."""
        return self._by_address.get(address)

    def of(self, service: Ref) -> list[Claim]:
        """Return the claims of a Service of this name, whatever its uid."""
        return [self._by_address[address] for address in self._by_service.get(service, ())]

    def note(self, claim: Claim) -> None:
        """Take a claim in, as it stands now."""
        self.drop(claim.address)
        self._by_address[claim.address] = claim
        self._by_service.setdefault(claim.service, {})[claim.address] = None

    def drop(self, address: str) -> None:
        """Take in that there is no claim on an address."""
        claim = self._by_address.pop(address, None)
        if claim is not None:
            del self._by_service[claim.service][address]
            if not self._by_service[claim.service]:
                del self._by_service[claim.service]


class Claims:
    """Claims of one namespace, read and written; nothing is remembered here."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api: Final = api
        self._namespace: Final = namespace

    def list(self) -> Book:
        """Return every claim."""
        found = Book()
        query: dict[str, str | int] = {"labelSelector": f"{_LABEL}=claim", "limit": _PAGE}
        while True:
            page: dict[str, Any] = msgspec.json.decode(self._api.get(leases_path(self._namespace), query).body)
            for item in page.get("items") or ():
                claim = _read(item)
                if claim is not None:
                    found.note(claim)
            token = page.get("metadata", {}).get("continue")
            if not token:
                return found
            query["continue"] = token

    def get(self, address: str) -> Claim | None:
        """Return the claim on an address as it is now."""
        try:
            return _read(msgspec.json.decode(self._api.get(self._path(address)).body))
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def make(self, address: str, service: Ref, uid: str) -> Claim | None:
        """Claim an address; ``None`` where somebody has it."""
        body = {
            "metadata": {
                "name": _name(address),
                "namespace": self._namespace,
                "labels": {_LABEL: "claim"},
                "annotations": {_ADDRESS: address, _SERVICE: str(service)},
            },
            "spec": {"holderIdentity": uid},
        }
        try:
            return _read(msgspec.json.decode(self._api.post(leases_path(self._namespace), body).body))
        except ApiError as error:
            if error.status == CONFLICT:
                return None
            raise

    def release(self, claim: Claim) -> Claim:
        """Mark a claim as on its way out; return it as it stands. Errors: ApiError 409 where it changed meanwhile."""
        body = {
            "metadata": {
                "name": _name(claim.address),
                "namespace": self._namespace,
                "resourceVersion": claim.version,
                "labels": {_LABEL: "claim"},
                "annotations": {_ADDRESS: claim.address, _SERVICE: str(claim.service), _RELEASED: "true"},
            },
            "spec": {"holderIdentity": claim.uid},
        }
        stored = _read(msgspec.json.decode(self._api.put(self._path(claim.address), body).body))
        assert stored is not None
        return stored

    def delete(self, claim: Claim) -> None:
        """Delete this very version of a claim; one that is gone is fine. Errors: ApiError 409 where it changed."""
        try:
            self._api.delete(self._path(claim.address), {"preconditions": {"resourceVersion": claim.version}})
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise

    def _path(self, address: str) -> str:
        return lease_path(self._namespace, _name(address))


def _name(address: str) -> str:
    """Return the name of an address's claim: one for each, since no address has a dash, and never with one at its end."""
    return f"kube-router-lb-{address.replace(':', '-')}-v{6 if ':' in address else 4}"


def _read(item: dict[str, Any]) -> Claim | None:
    """Return the claim that a Lease is; ``None`` for what is none."""
    meta = item.get("metadata") or {}
    notes = meta.get("annotations") or {}
    address, service = notes.get(_ADDRESS, ""), notes.get(_SERVICE, "")
    uid = (item.get("spec") or {}).get("holderIdentity") or ""
    namespace, slash, name = service.partition("/")
    if not (address and slash and uid):
        return None
    return Claim(address, uid, Ref(namespace, name), meta.get("resourceVersion", ""), _RELEASED in notes)
