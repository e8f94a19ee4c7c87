"""Every error the agent raises on purpose::

    KubeRouterError
    |-- ConfigError      a flag, file or kubeconfig is wrong: exit code 2, one line that names it
    |-- SourceError      a source of facts failed: reconnect with backoff, keep the last facts
    |   `-- Rejected     one object from a source is unusable: the last good value stays
    |-- DriverError      one operation on the dataplane failed: that key backs off, the rest goes on
    |   |-- MissingCapability   a module, a permission or a program is missing: exit code 2
    |   `-- MissingModule       what one Service asked for needs a kernel module that is not there: it gets something else
    `-- LabError         the lab could not be built

Text is lower case, has no full stop, and says what was attempted, on what, and what the other side answered.
"""

from __future__ import annotations

import errno as errnos


class KubeRouterError(Exception):
    """Anything the agent raises on purpose."""


class ConfigError(KubeRouterError):
    """A setting is unusable; the message names it, the value and the mend."""


class SourceError(KubeRouterError):
    """A source of facts failed; facts already known stay in force."""


class Rejected(SourceError):
    """One object cannot be used; the message names the field, the value and why."""


class LabError(KubeRouterError):
    """The lab could not be built or asked; the message says what is missing."""


class DriverError(KubeRouterError):
    """One operation failed. ``errno`` is the kernel's positive number, 0 where there is none."""

    def __init__(self, message: str, errno: int = 0) -> None:
        name = errnos.errorcode.get(errno, "")
        super().__init__(f"{message} ({name})" if name else message)
        self.errno = errno


class MissingCapability(DriverError):
    """The host lacks something the agent needs; the message names it and the mend."""


class MissingModule(DriverError):
    """The kernel cannot load a module that one object needs; controllers hear of it by ``Host.missing_modules``."""

    def __init__(self, message: str, errno: int, module: str) -> None:
        super().__init__(message, errno)
        self.module = module
