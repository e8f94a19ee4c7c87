"""Where a pod lives: a network namespace attached to the node by the CNI plugins, or the node's own with hostNetwork."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from kuberouterpy.lab.client import Object
from kuberouterpy.lab.kubelet import cni, netns
from kuberouterpy.lab.kubelet.plan import KubeletNode
from kuberouterpy.lab.kubelet.process import Command, Process
from kuberouterpy.lab.kubelet.view import View, pod_view
from kuberouterpy.log import event

T = TypeVar("T")

log = logging.getLogger(__name__)


class Sandbox:
    """One pod's network. ``turn`` lets one plugin run of a node go at a time: there is one CPU, and one bridge."""

    def __init__(self, node: KubeletNode, pod: Object, turn: threading.Lock) -> None:
        meta = pod["metadata"]
        self._node = node
        self._pod = pod
        self._turn = turn
        self.namespace: str = meta["namespace"]
        self.name: str = meta["name"]
        self.uid: str = meta["uid"]
        self._host = bool(pod["spec"].get("hostNetwork"))
        self.netns = node.netns if self._host else netns.pod_netns(meta["namespace"], meta["name"], meta["uid"])
        self.addresses: tuple[str, ...] = ()
        self._view: View | None = None
        self._viewing = threading.Lock()  # probes start processes too
        self._attached: tuple[Object, cni.Attachment, Object | None] | None = None

    def attach(self) -> None:
        """Make the namespace and attach it. Errors: CniError, OSError; nothing is left then, and it may be tried again."""
        if self._host:
            self.addresses = self._node.addresses
            return
        conflist = cni.load(self._node.conflist)
        with self._turn:
            netns.remove(self.netns)
            netns.create(self.netns)
            attachment = self._attachment()
            self._attached = (conflist, attachment, None)
            try:
                result = cni.add(conflist, attachment)
            except cni.CniError:
                self._detach()
                raise
            self._attached = (conflist, attachment, result)
            self.addresses = tuple(cni.addresses(result))

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """The pod's addresses while it is attached; none with hostNetwork."""
        return () if self._host or self._attached is None else self.addresses

    def detach(self, *, node_goes: bool = False) -> None:
        """Undo ``attach`` and end every process left in the namespace; ``node_goes`` spares the plugins' work."""
        with self._viewing:
            if self._view is not None:
                self._view.close()
                self._view = None
                shutil.rmtree(self._node.scratch(self._pod["metadata"]["uid"]), ignore_errors=True)
        if self._host or self._attached is None:
            return
        with suppress(OSError):
            for pid in netns.processes(self.netns):
                if pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
        if node_goes:
            netns.remove(self.netns)
            return
        with self._turn:
            self._detach()

    def start(self, command: Command) -> Process:
        """Start a process in the pod. Errors: OSError."""
        with self._viewing:
            if self._view is None:
                meta = self._pod["metadata"]
                link = pod_view(meta["namespace"], meta["name"], meta["uid"])
                self._view = View(self.netns, link, self._node.scratch(meta["uid"]))
            return self._view.do(lambda: Process(command))

    def within(self, action: Callable[[], T]) -> T:
        """Return what ``action`` returns when done in the pod's network."""
        with netns.entered(self.netns):
            return action()

    def _detach(self) -> None:
        assert self._attached is not None
        conflist, attachment, result = self._attached
        try:
            cni.delete(conflist, attachment, result)
        except (cni.CniError, OSError) as error:
            # Upstream would retry for ever; here the namespace goes, and with it all but an address in the node's range.
            event(log, logging.WARNING, "detach-failed", key=attachment.container_id, error=str(error))
        netns.remove(self.netns)
        self._attached = None

    def _attachment(self) -> cni.Attachment:
        meta = self._pod["metadata"]
        mappings = cni.port_mappings(self._pod)
        return cni.Attachment(
            container_id=meta["uid"],
            netns=self.netns,
            node_netns=self._node.netns,
            data_dir=self._node.cni_data,
            args=(
                ("IgnoreUnknown", "1"),
                ("K8S_POD_NAMESPACE", meta["namespace"]),
                ("K8S_POD_NAME", meta["name"]),
                ("K8S_POD_UID", meta["uid"]),
            ),
            capabilities=(("portMappings", mappings),) if mappings else (),
        )
