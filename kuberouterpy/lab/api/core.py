"""Everything behind the sockets, put together; and the objects every cluster begins with."""

from __future__ import annotations

import contextlib
import threading
from typing import Final

from kuberouterpy.lab.api.admission import Admission
from kuberouterpy.lab.api.allocate import ServiceAllocator
from kuberouterpy.lab.api.config import Config
from kuberouterpy.lab.api.errors import JsonObject, StatusError
from kuberouterpy.lab.api.faults import Faults
from kuberouterpy.lab.api.gc import Collector
from kuberouterpy.lab.api.journal import Journal
from kuberouterpy.lab.api.resources import CRD_KEY, Catalog
from kuberouterpy.lab.api.rest import LogPath, Rest
from kuberouterpy.lab.api.routes import Target
from kuberouterpy.lab.api.storage import Event, Storage
from kuberouterpy.lab.api.writing import Options, Writer

NAMESPACES: Final = ("default", "kube-node-lease", "kube-public", "kube-system")
"""Namespaces that always exist."""
_OPTIONS: Final = Options(manager="kuberouterpy-lab")


class Core:
    """Storage, verbs, faults and the collector of one server."""

    def __init__(self, config: Config, *, log_path: LogPath | None = None) -> None:
        self._config = config
        self.storage = Storage(window=config.window, journal=Journal(config.data) if config.data else None)
        """Objects and versions."""
        self.catalog = Catalog()
        """What is served."""
        self.faults = Faults()
        """What goes wrong on purpose."""
        self._services = ServiceAllocator(config.service_cidrs, config.node_ports)
        self.writer = Writer(self.storage, self.catalog, Admission(self._services))
        """Writes."""
        self.rest = Rest(self.storage, self.catalog, self.writer, log_path=log_path)
        """Requests."""
        self.rest.validate = config.validate
        self._collector = Collector(self.storage, self.catalog, self.writer)
        self._unhang = threading.Event()

    def start(self, port: int) -> None:
        """Take in what was stored, make what every cluster has, start the collector. ``port`` is the one served."""
        for _, entry in self.storage.items(CRD_KEY)[0]:
            self.catalog.define(entry.obj)
        for _, entry in self.storage.items("services")[0]:
            with contextlib.suppress(AttributeError, TypeError, KeyError):  # absurd objects hold nothing
                self._services.restore(entry.obj)
        self._collector.start()
        self.storage.subscribe(self._equip_namespace)
        for name in NAMESPACES:
            self._make("", "namespaces", "", {"metadata": {"name": name}})
        self._make_kubernetes_service(port)

    def stop(self) -> None:
        """End the collector and close the journal."""
        self.unhang()
        self._collector.stop()
        self.storage.close()

    def hang(self, stopping: threading.Event) -> None:
        """Wait until faults are cleared or the server stops."""
        waiting = self._unhang
        while not stopping.is_set() and not waiting.wait(60):
            pass

    def unhang(self) -> None:
        """End every hanging request."""
        waiting, self._unhang = self._unhang, threading.Event()
        waiting.set()

    def _make(self, group: str, plural: str, namespace: str, obj: JsonObject) -> None:
        resource = self.catalog.find(group, "v1", plural)
        assert resource is not None
        try:
            self.writer.create(Target(resource, namespace), obj, _OPTIONS)
        except StatusError as error:
            if error.reason != "AlreadyExists":
                raise

    def _equip_namespace(self, resource: str, event: Event) -> None:
        """Give a new namespace its default service account; runs under the storage's lock."""
        if resource == "namespaces" and event.type == "ADDED":
            self._make("", "serviceaccounts", event.key[1], {"metadata": {"name": "default"}})

    def _make_kubernetes_service(self, port: int) -> None:
        """Make the service under which pods find this server, and its endpoints from the configuration."""
        first = next(iter(self._services.pools.values()))
        address = str(first.network.network_address + 1)
        labels = {"component": "apiserver", "provider": "kubernetes"}
        spec = {"clusterIP": address, "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}
        self._make("", "services", "default", {"metadata": {"name": "kubernetes", "labels": labels}, "spec": spec})
        for version, suffix in ((4, ""), (6, "-ipv6")):
            found = [
                (host, given or port) for host, given in self._config.advertise if (6 if ":" in host else 4) == version
            ]
            if found:
                self._make_endpoints(found, f"IPv{version}", suffix, mirrored=version == first.network.version)

    def _make_endpoints(self, found: list[tuple[str, int]], family: str, suffix: str, *, mirrored: bool) -> None:
        port = found[0][1]
        self._make("discovery.k8s.io", "endpointslices", "default", {
            "metadata": {"name": f"kubernetes{suffix}", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host, _ in found],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        })  # fmt: skip
        if mirrored:
            self._make("", "endpoints", "default", {
                "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
                "subsets": [{
                    "addresses": [{"ip": host} for host, _ in found],
                    "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
                }],
            })  # fmt: skip
