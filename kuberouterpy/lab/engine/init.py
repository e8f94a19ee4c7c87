"""The first process of a guest: make the world writable, start the guest proper, reap orphans, halt.

``python -m kuberouterpy.lab.engine.init PLAN``. It stays small and single-threaded: what it does not import, no process of
the guest has to carry.

What a guest looks like inside, whatever the engine: the host's files where they are outside; /proc, /sys, /dev and an empty
/run of its own; ``iptables`` is a variant that this kernel supports; a missing module loads itself.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import sys
import termios
import traceback
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from kuberouterpy.lab.engine import kernel
from kuberouterpy.lab.engine.plan import GuestPlan
from kuberouterpy.lab.engine.qemu import PORT

_UML_CHANNEL: Final = "/dev/ttyS0"
_NEEDED: Final = (
    # Loading all of these takes 0.3 s here; one modprobe that the kernel starts by itself takes as long (User-Mode Linux).
    *("ip_vs", "ip_vs_rr", "xt_ipvs", "br_netfilter", "bridge", "dummy", "veth", "overlay"),
    *("iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw", "ip6table_filter", "ip6table_nat"),
    *("ip6table_mangle", "ip6table_raw", "ipt_REJECT", "ip6t_REJECT", "xt_MASQUERADE", "xt_addrtype", "xt_comment"),
    *("xt_conntrack", "xt_mark", "xt_multiport", "xt_nat", "xt_set", "xt_tcpudp", "bpfilter"),
    *("ip_set", "ip_set_hash_ip", "ip_set_hash_net", "ip_set_hash_ipport", "ip_set_hash_ipportip"),
    *("nf_conntrack", "nf_conntrack_netlink", "nfnetlink"),
)
_LEGACY: Final = [f"{family}{verb}" for family in ("iptables", "ip6tables") for verb in ("", "-save", "-restore")]


def main() -> None:
    """Prepare the guest, run it, end it. Never returns in a guest with a kernel of its own."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=GuestPlan)
    code = 1
    try:
        _PREPARE[plan.engine](plan)
        code = _run(plan, _CHANNEL[plan.engine](plan))
    except OSError:
        traceback.print_exc()  # to the kernel log, whose tail the session shows
    finally:
        sys.stderr.flush()
        if plan.engine == "uml":
            kernel.power_off()
    sys.exit(code)


def _run(plan: GuestPlan, channel: tuple[int, int]) -> int:
    """Run the guest in a child and reap whatever ends, until that child has ended."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            from kuberouterpy.lab import guest

            status = guest.main(plan, *channel)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    for descriptor in set(channel):
        os.close(descriptor)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        process, status = os.wait()
        if process == child:
            return os.waitstatus_to_exitcode(status)


def _prepare_uml(plan: GuestPlan) -> None:
    """Put an overlay in memory over the host's files and make it the root."""
    kernel.mount("proc", "/proc", "proc")
    kernel.mount("tmpfs", "/run", "tmpfs")
    kernel.load_modules(plan.modules, ("overlay",))
    for name in ("upper", "work", "root"):
        os.mkdir(f"/run/{name}")
    kernel.mount("overlay", "/run/root", "overlay", 0, "lowerdir=/,upperdir=/run/upper,workdir=/run/work")
    os.makedirs("/run/root/run/old", exist_ok=True)
    kernel.pivot_root("/run/root", "/run/root/run/old")
    os.chdir("/")
    kernel.mount("proc", "/proc", "proc")
    kernel.unmount("/run/old")
    _mount_fresh()
    for place in (plan.results, *plan.writable):
        os.makedirs(place, exist_ok=True)
        kernel.mount("none", place, "hostfs", 0, place)
    _finish(plan)


def _prepare_native(plan: GuestPlan) -> None:
    """Leave every namespace of the host for a new one; the caller goes on as its first process."""
    kernel.unshare(
        kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWPID | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC
    )
    child = os.fork()  # a new process namespace begins with the next process
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.die_with_parent()
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("proc", "/proc", "proc")
    kernel.mount("sysfs", "/sys", "sysfs")
    kernel.mount("tmpfs", "/run", "tmpfs")
    os.makedirs(plan.results, exist_ok=True)
    _finish(plan)


def _prepare_qemu(plan: GuestPlan) -> None:
    """Finish what virtme's own init began: it mounted everything, with overlays over what is written."""
    log = os.open(f"{plan.results}/kernel.log", os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    kernel.load_modules(plan.modules, ("virtio_console",))
    _finish(plan)


def _mount_fresh() -> None:
    kernel.mount("sysfs", "/sys", "sysfs")
    kernel.mount("devtmpfs", "/dev", "devtmpfs")
    kernel.mount("tmpfs", "/run", "tmpfs")
    for place, kind, options in (("/dev/pts", "devpts", "newinstance,ptmxmode=0666"), ("/dev/shm", "tmpfs", "")):
        os.makedirs(place, exist_ok=True)
        kernel.mount(kind, place, kind, 0, options)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(target, f"/dev/{name}")
    if os.path.exists("/dev/ptmx"):
        os.remove("/dev/ptmx")
    os.symlink("pts/ptmx", "/dev/ptmx")


def _finish(plan: GuestPlan) -> None:
    """Do what is the same for every engine."""
    for place in ("/run/netns", "/run/lock", "/run/lab", "/run/tmp"):
        os.makedirs(place, exist_ok=True)
    if plan.modules:
        _show_modules(plan.modules)
    if plan.engine == "uml":
        _use_legacy_iptables()
    socket.sethostname("lab")
    kernel.load_modules(plan.modules or "/lib/modules", _NEEDED)


def _show_modules(folder: str) -> None:
    """Make the kernel's modules visible where modprobe looks, and let the kernel call it."""
    release = platform.release()
    place = Path("/lib/modules") / release
    if not (place / "modules.dep").exists():
        place.mkdir(parents=True, exist_ok=True)
        kernel.bind(f"{folder}/{release}", str(place))
    loader = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if loader:
        Path("/proc/sys/kernel/modprobe").write_text(loader)


def _use_legacy_iptables() -> None:
    """Make ``iptables`` mean the legacy variant for everyone: User-Mode Linux has no nftables for IP.

    Debian chooses the variant by symbolic links in /etc/alternatives; here they lie in the overlay.
    """
    for name in _LEGACY:
        family, _, verb = name.partition("-")
        legacy = f"/usr/sbin/{family}-legacy{'-' + verb if verb else ''}"
        link = f"/etc/alternatives/{name}"
        if os.path.exists(legacy) and os.path.islink(link):
            os.remove(link)
            os.symlink(legacy, link)


def _open_serial(plan: GuestPlan) -> tuple[int, int]:
    descriptor = os.open(_UML_CHANNEL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    tty.setraw(descriptor, termios.TCSANOW)
    return descriptor, descriptor


def _inherited(plan: GuestPlan) -> tuple[int, int]:
    os.set_inheritable(plan.channel, False)
    return plan.channel, plan.channel


def _open_port(plan: GuestPlan) -> tuple[int, int]:
    """Open the serial port by its name in sysfs: without udev there are no links in /dev."""
    for port in Path("/sys/class/virtio-ports").iterdir():
        if (port / "name").exists() and (port / "name").read_text().strip() == PORT:
            descriptor = os.open(f"/dev/{port.name}", os.O_RDWR | os.O_CLOEXEC)
            return descriptor, descriptor
    raise OSError(2, f"no serial port {PORT} in this machine")


_PREPARE: Final[dict[str, Callable[[GuestPlan], None]]] = {
    "uml": _prepare_uml,
    "native": _prepare_native,
    "qemu": _prepare_qemu,
}
_CHANNEL: Final[dict[str, Callable[[GuestPlan], tuple[int, int]]]] = {
    "uml": _open_serial,
    "native": _inherited,
    "qemu": _open_port,
}

if __name__ == "__main__":
    main()
