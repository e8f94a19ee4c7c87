"""What a guest is asked to do: one value, written as JSON beside its results, read by the guest's init."""

from __future__ import annotations

import msgspec

from kuberouterpy.lab.options import LabOptions


class GuestPlan(msgspec.Struct, frozen=True):
    """Everything a guest must know. Paths are the host's own; the guest sees the same file system."""

    command: tuple[str, ...]
    """Program and arguments to run once all is up."""
    directory: str
    """Working directory of the command."""
    environment: dict[str, str]
    """The command's environment, before the lab adds its own variables."""
    engine: str
    """Name of the engine, so that init knows what it has to mount."""
    results: str
    """Folder of the host that the guest may write: exit notes, logs."""
    writable: tuple[str, ...] = ()
    """Further folders of the host whose writes reach the host."""
    modules: str = ""
    """Folder that holds ``KERNEL-RELEASE/`` with the kernel's modules; empty where the system's own is right."""
    terminal: bool = False
    """Whether the command gets a terminal of its own."""
    rows: int = 24
    """Terminal height."""
    columns: int = 80
    """Terminal width."""
    channel: int = -1
    """Descriptor of the frames' stream, where it is inherited."""
    lab: LabOptions | None = None
    """The cluster to build first; nothing for a bare kernel."""
