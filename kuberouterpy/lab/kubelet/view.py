"""What a pod's processes see: its network, a /sys that shows it, and a /tmp of its own.

All pods of a lab share one file system, and programs meant for containers do not expect that: without a private /tmp the
``/tmp/ready`` of one replica would make all of them ready. /tmp is an overlay: files that were there are seen, writes stay
in the pod. A view is made when a pod first starts a process; pods that the built-in responder serves need none.

A mount namespace belongs to a thread, like a network namespace. Here it belongs to a thread of the view that does nothing
but start processes; a symbolic link to it lets others join: ``nsenter --net=POD_NETNS --mount=POD_VIEW``.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from kuberouterpy.lab.kubelet import netns
from kuberouterpy.log import event

DIRECTORY: Final = Path("/run/lab/views")
T = TypeVar("T")

log = logging.getLogger(__name__)


def pod_view(namespace: str, name: str, uid: str) -> str:
    """Return the path that names a pod's mount namespace; it exists once the pod started a process."""
    return str(DIRECTORY / Path(netns.pod_netns(namespace, name, uid)).name)


class View:
    """The thread that lives in a pod's namespaces. Errors of the constructor: OSError."""

    def __init__(self, network: str, link: str, directory: str) -> None:
        self._network = network
        self._link = Path(link)
        self._directory = Path(directory)
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, name=f"view-{self._link.name}", daemon=True)
        self._thread.start()
        try:
            self.do(self._set_up)
        except OSError:
            self.close()
            raise

    def do(self, action: Callable[[], T]) -> T:
        """Return what ``action`` returns when done inside. Errors: its own."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs.put((action, answer))
        error, value = answer.get()
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def close(self) -> None:
        """End; the mounts go with the last process inside."""
        self._link.unlink(missing_ok=True)
        self._jobs.put(None)
        self._thread.join(timeout=5)

    def _live(self) -> None:
        while (job := self._jobs.get()) is not None:
            action, answer = job
            try:
                answer.put((None, action()))
            except (OSError, ValueError) as error:
                answer.put((error, None))

    def _set_up(self) -> None:
        netns.enter(self._network)
        netns.own_mounts()
        try:
            netns.mount("sysfs", "sysfs", "/sys")
        except OSError as error:
            event(log, logging.DEBUG, "view-without-sys", key=self._link.name, error=str(error))
        try:
            self._own_tmp()
        except OSError as error:
            # A lab folder below /tmp, or a kernel without overlayfs: then /tmp is everybody's.
            event(log, logging.INFO, "view-without-tmp", key=self._link.name, error=str(error))
        self._link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self._link.unlink()
        self._link.symlink_to(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/mnt")

    def _own_tmp(self) -> None:
        written, work = self._directory / "tmp", self._directory / "work"
        for folder in (written, work):
            folder.mkdir(parents=True, exist_ok=True)
        written.chmod(0o1777)
        netns.mount("overlay", "overlay", "/tmp", f"lowerdir=/tmp,upperdir={written},workdir={work}")
