"""A program's end, good or bad, becomes a value or a typed error; nothing hangs and nothing outlives the call."""

from __future__ import annotations

import errno
import os
import select
import sys
from pathlib import Path

import pytest

from kuberouterpy.drivers import command
from kuberouterpy.errors import DriverError, MissingCapability


def python(code: str) -> list[str]:
    """A program that runs ``code``."""
    return [sys.executable, "-S", "-c", code]


def test_input_goes_in_and_both_outputs_come_back() -> None:
    output = command.run(python("import sys; sys.stdout.write(sys.stdin.read()[::-1]); sys.exit('why')"), text="abc")
    assert output == command.Output(1, "cba", "why\n")


def test_the_locale_is_untranslated_and_more_environment_is_added() -> None:
    output = command.run(python("import os; print(os.environ['LC_ALL'], os.environ['HINT'])"), env={"HINT": "x"})
    assert output.stdout == "C x\n"


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(MissingCapability, match="install the package iptables"):
        command.run(["/nowhere/ip6tables-legacy-restore"])


def test_a_failed_program_tells_attempt_code_and_last_line() -> None:
    with pytest.raises(command.CommandError, match=r"exit code 2: line 3 failed$") as caught:
        command.demand(python("import sys; print('a\\nline 3 failed\\nTry `x --help`', file=sys.stderr); sys.exit(2)"))
    assert caught.value.output.code == 2


def test_success_returns_the_output() -> None:
    assert command.demand(python("print(1)")) == "1\n"


def test_a_hanging_program_is_killed_with_its_children(tmp_path: Path) -> None:
    """The child holds the pipe: waiting for its end of file alone would hang."""
    note = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {note}; wait"  # a shell starts in time also where the machine is busy
    with pytest.raises(DriverError) as caught:
        command.run(["sh", "-c", script], timeout_s=1.0)
    assert caught.value.errno == errno.ETIMEDOUT
    assert _ends(int(note.read_text()))


def _ends(pid: int) -> bool:
    """Return whether a process ends: the kernel carries a kill out when it next looks at the process, not at once."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 30)[0])
    finally:
        os.close(watched)


def test_bytes_that_are_no_text_survive() -> None:
    output = command.run(python("import os; os.write(1, b'\\xff')"))
    assert os.fsencode(output.stdout) == b"\xff"


def test_context_shows_three_lines_around_and_marks_the_one() -> None:
    text = "\n".join(f"line {n}" for n in range(1, 11))
    assert command.numbered(text, 2).splitlines() == [
        "      1 line 1",
        ">     2 line 2",
        "      3 line 3",
        "      4 line 4",
        "      5 line 5",
    ]
