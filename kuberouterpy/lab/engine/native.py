"""The running kernel, in namespaces of its own: nothing of the host is touched.

Taken where we are root and ``ip_vs`` is loaded, built in, or can be loaded. The guest's processes live in new network, mount,
process, hostname and IPC namespaces; with its first process all of them end.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from kuberouterpy.lab.engine import kernel as kernel_calls
from kuberouterpy.lab.engine.plan import GuestPlan
from kuberouterpy.lab.engine.uml import write_init


class Native:
    """The engine ``native``."""

    name = "native"

    def missing(self) -> str:
        """Return why it cannot be used here, or nothing."""
        if sys.platform != "linux":
            return "not Linux"
        if os.geteuid() != 0:
            return "not root"
        if not _has_ipvs():
            return "this kernel has no ip_vs"
        return ""

    def version(self) -> str:
        """Return the running kernel's version."""
        return f"Linux {platform.release()}"

    def start(self, plan: GuestPlan, folder: Path, channel: socket.socket) -> subprocess.Popen[bytes]:
        """Start the guest; frames go over ``channel``, messages of init to ``folder/kernel.log``."""
        plan = msgspec.structs.replace(plan, engine=self.name, channel=channel.fileno())
        init = write_init(plan, folder)
        with open(folder / "kernel.log", "wb") as log:
            return subprocess.Popen(
                [str(init)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(channel.fileno(),),
                start_new_session=True,
                preexec_fn=kernel_calls.die_with_parent,  # noqa: PLW1509 (nothing has threads yet)
            )


def _has_ipvs() -> bool:
    if Path("/proc/net/ip_vs").exists():
        return True
    modprobe = shutil.which("modprobe") or shutil.which("modprobe", path="/usr/sbin:/sbin")
    if not modprobe:
        return False
    return subprocess.run([modprobe, "-q", "ip_vs"], check=False, capture_output=True).returncode == 0
