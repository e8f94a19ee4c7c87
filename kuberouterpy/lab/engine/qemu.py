"""A whole machine in software through virtme-ng: slow, but with everything a distribution's kernel has.

Needs ``virtme-ng`` (the extra ``kuberouterpy[lab]``), ``qemu-system-x86`` and a kernel with its modules: the host's own, or
the folder that ``KUBEROUTERPY_KERNEL`` names (``boot/vmlinuz-*`` beside ``lib/modules``, as ``linux-image-amd64`` unpacks;
its *cloud* flavour has no 9p). The guest boots the host's root file system; virtme lays an overlay in memory over what is
written. Emulation is in software; KUBEROUTERPY_KVM=1 uses /dev/kvm. Frames go over a virtio serial port of our own: virtme's
standard streams need udev in the guest.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine import kernel as kernel_calls
from kuberouterpy.lab.engine.plan import GuestPlan
from kuberouterpy.lab.engine.uml import write_init

PORT: Final = "kuberouterpy.lab"
"""Name of the serial port in the guest."""


class Qemu:
    """The engine ``qemu``."""

    name = "qemu"

    def missing(self) -> str:
        """Return why it cannot be used here, or nothing."""
        if not _vng():
            return "no vng (virtme-ng) beside this Python or on PATH"
        if not shutil.which("qemu-system-x86_64"):
            return "no qemu-system-x86_64"
        if not _kernel():
            return "no kernel image with modules in / or $KUBEROUTERPY_KERNEL"
        return ""

    def version(self) -> str:
        """Return which kernel image will run."""
        kernel = _kernel()
        return f"QEMU with {kernel.name}" if kernel else "QEMU"

    def start(self, plan: GuestPlan, folder: Path, channel: socket.socket) -> subprocess.Popen[bytes]:
        """Start the guest; frames go over ``channel``, messages of vng to ``folder/kernel.log``."""
        vng, kernel = _vng(), _kernel()
        if not vng or not kernel:
            raise LabError(f"engine qemu cannot run here: {self.missing()}")
        modules = kernel.parents[1] / "lib/modules"
        plan = msgspec.structs.replace(plan, engine=self.name, modules=str(modules))
        init = write_init(plan, folder)
        arguments = [vng, "--run", str(kernel), "--user", "root", "--memory", "2G", "--cpus", "2"]
        if os.environ.get("KUBEROUTERPY_KVM") != "1":  # a nested /dev/kvm that opens may still kill the machine
            arguments.append("--disable-kvm")
        for place in (str(folder), *plan.writable):
            arguments += ["--rwdir", place]
        path = folder / "channel.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(1)
        port = (
            f"-chardev socket,id=lab,path={path} -device virtio-serial-pci,id=lab-bus"
            f" -device virtserialport,bus=lab-bus.0,chardev=lab,name={PORT}"
        )
        arguments += [f"--qemu-opts={port}", "--exec", str(init)]
        with open(folder / "kernel.log", "wb") as log:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                # vng starts its other half, virtme-run, by name.
                env=os.environ | {"PATH": f"{Path(vng).parent}:{os.environ.get('PATH', os.defpath)}"},
                start_new_session=True,
                preexec_fn=kernel_calls.die_with_parent,  # noqa: PLW1509 (nothing has threads yet)
            )
        threading.Thread(target=_relay, args=(listener, channel.dup()), daemon=True).start()
        return process


def _relay(listener: socket.socket, channel: socket.socket) -> None:
    """Join QEMU's socket and the session's: QEMU takes a path, the session gives a descriptor."""
    machine, _ = listener.accept()
    listener.close()
    back = threading.Thread(target=_copy, args=(machine, channel), daemon=True)
    back.start()
    _copy(channel, machine)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _vng() -> str:
    beside = Path(sys.executable).with_name("vng")
    return str(beside) if beside.exists() else shutil.which("vng") or ""


def _kernel() -> Path | None:
    root = Path(os.environ.get("KUBEROUTERPY_KERNEL", "/"))
    for image in sorted((root / "boot").glob("vmlinuz-*"), reverse=True):
        if (root / "lib/modules" / image.name.removeprefix("vmlinuz-")).is_dir():
            return image
    return None
