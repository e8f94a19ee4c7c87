"""Run one of the kernel's own programs and return what it said; every failure is a typed error.

Programs are run by argument list, never through a shell, with an untranslated locale (errors are read by machine) and in
a process group of their own: a program that hangs is killed with all its children after the timeout.

It does not retry and knows no program's grammar: what a line number in an error means is the caller's to say.
"""

from __future__ import annotations

import contextlib
import errno as errnos
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from kuberouterpy.errors import DriverError, MissingCapability

TIMEOUT_S: Final = 60.0
"""Longest a program may take: an order of magnitude above 100,000 entries or 10,000 rules on a slow machine."""

PACKAGES: Final[Mapping[str, str]] = {
    "conntrack": "conntrack",
    "gobgp": "gobgpd",
    "gobgpd": "gobgpd",
    "ip": "iproute2",
    "ipset": "ipset",
    "ipvsadm": "ipvsadm",
    "modprobe": "kmod",
    "nft": "nftables",
}
"""Package that brings a program, as Debian calls it; everything ``*tables*`` is in ``iptables``."""


class Output(NamedTuple):
    """What a program said before it ended."""

    code: int
    """Exit code; negative: the signal that ended it."""
    stdout: str
    stderr: str


class CommandError(DriverError):
    """A program ended with an error: one line for the log, and all the rest for whoever looks closer."""

    def __init__(self, message: str, output: Output, *, errno: int = 0, context: str = "") -> None:
        super().__init__(message, errno)
        self.output = output
        """All the program said."""
        self.context = context
        """Its input around the line it refused, numbered; empty where it named none."""


def run(
    argv: Sequence[str],
    *,
    text: str = "",
    timeout_s: float = TIMEOUT_S,
    env: Mapping[str, str] | None = None,
) -> Output:
    """Return what the program said, whatever its exit code; ``text`` is its standard input.

    Errors: MissingCapability where the program is not there or not executable; DriverError (ETIMEDOUT) when it hangs.
    """
    environment = {**os.environ, "LC_ALL": "C", **(env or {})}
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except (FileNotFoundError, PermissionError) as error:
        raise MissingCapability(_missing(argv[0]), error.errno or 0) from error
    with process:
        try:
            stdout, stderr = process.communicate(text, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise DriverError(f"run {' '.join(argv)}: killed after {timeout_s:g} s", errnos.ETIMEDOUT) from error
        finally:
            # Also on an exception of ours (an interrupt): nothing outlives this call.
            if process.returncode is None:
                _kill(process)
    return Output(process.returncode, stdout, stderr)


def demand(
    argv: Sequence[str],
    *,
    text: str = "",
    timeout_s: float = TIMEOUT_S,
    env: Mapping[str, str] | None = None,
) -> str:
    """Return the standard output of a program that must succeed.

    Errors: as :func:`run`, and CommandError when the exit code is not 0.
    """
    output = run(argv, text=text, timeout_s=timeout_s, env=env)
    if output.code:
        raise failed(f"run {' '.join(argv)}", output)
    return output.stdout


def failed(attempt: str, output: Output, *, errno: int = 0, context: str = "") -> CommandError:
    """Return the error of a program that ended badly: what was attempted, its exit code, its last line."""
    message = f"{attempt}: exit code {output.code}: {last_line(output.stderr)}"
    return CommandError(message, output, errno=errno, context=context)


def last_line(stderr: str) -> str:
    """Return the last line that says something; advice on how to call for help is skipped."""
    lines = [
        line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith(("Try ", "# Warning"))
    ]
    return lines[-1] if lines else "no message"


def numbered(text: str, line: int, *, around: int = 3) -> str:
    """Return the lines of ``text`` near ``line`` (from 1), numbered, the one itself marked."""
    lines = text.splitlines()
    first, last = max(1, line - around), min(len(lines), line + around)
    return "\n".join(f"{'>' if n == line else ' '} {n:5} {lines[n - 1]}" for n in range(first, last + 1))


def _kill(process: subprocess.Popen[str]) -> None:
    # The group, not the process alone: iptables may wait in a modprobe of its own.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _missing(program: str) -> str:
    name = os.path.basename(program)
    package = PACKAGES.get(name) or ("iptables" if "tables" in name else name)
    return f"run {program}: no such program; install the package {package}"
