"""Screens in narrow and wide terminals, closed pipes, interrupts, colours, locales, hung sockets: never a traceback."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuberouterpy.cli import ExitCode, ask, main
from tests.kuberouterpy.cli.test_ipvs import node  # noqa: F401
from tests.kuberouterpy.cli.test_plan import BOTH, agent, folder  # noqa: F401

PROGRAM = [sys.executable, "-c", "from kuberouterpy.cli import main; raise SystemExit(main())"]
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(columns: int, *words: str, **environment: str) -> tuple[int, str]:
    """Run a command on a terminal so wide; return its exit code and what was shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    plain = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [*PROGRAM, *words], stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=plain | environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not more:
            break
        shown += more
    os.close(ours)
    return process.wait(), shown.decode(errors="replace").replace("\r\n", "\n")


@pytest.fixture
def screens(node: str, folder: Path) -> list[list[str]]:  # noqa: F811
    offline = ["-f", str(folder), *BOTH]
    return [
        ["status", "--agent-socket", node],
        ["plan", *offline],
        ["explain", "service/default/web", *offline],
        ["trace", "node", "service/default/web", *offline],
        ["doctor", "--agent-socket", node],
        ["--help"],
        ["ipvs", "top", "--help"],
        ["explain", "service/default/wbe", *offline],
    ]


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_every_screen_fits_or_breaks_where_it_may(columns: int, screens: list[list[str]]) -> None:
    """Traces and the doctor's findings break, the status is cut; plans and explanations are lines to be pasted."""
    for words in screens:
        _, shown = on_a_terminal(columns, *words)
        assert "Traceback" not in shown, words
        lines = [_ESCAPES.sub("", line) for line in shown.splitlines()]
        assert lines, words
        if words[0] in {"status", "doctor", "trace"}:
            assert max(map(len, lines)) <= columns, (words, max(lines, key=len))


def test_colours_only_on_a_terminal_and_not_where_they_are_unwanted(folder: Path) -> None:  # noqa: F811
    words = ["plan", "-f", str(folder)]
    assert "\x1b[" in on_a_terminal(80, *words)[1]
    assert "\x1b[" not in on_a_terminal(80, *words, NO_COLOR="1")[1]
    piped = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=True)
    assert "\x1b[" not in piped.stdout


def test_a_locale_without_unicode_shows_question_marks(screens: list[list[str]]) -> None:
    ascii_only = {
        "LC_ALL": "C",
        "LANG": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    for words in screens[:4]:
        code, shown = on_a_terminal(40, *words, **ascii_only)
        assert code == 0, (words, shown)
        assert "Error" not in shown


def test_a_closed_pipe_ends_in_silence(folder: Path) -> None:  # noqa: F811
    with subprocess.Popen(
        [*PROGRAM, "plan", "-f", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode in {0, 1}


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[str, threading.Event]]:
    """A socket that takes connections and never says a word; the event tells that somebody has connected."""
    path, asked = tmp_path / "hanging.sock", threading.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        held: list[socket.socket] = []

        def accept() -> None:
            try:
                held.append(server.accept()[0])
            except OSError:
                return
            asked.set()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield str(path), asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for one in held:
            one.close()


def test_an_interrupt_is_exit_code_130_and_says_nothing(hanging: tuple[str, threading.Event]) -> None:
    path, asked = hanging
    with subprocess.Popen(
        [*PROGRAM, "plan", "--agent-socket", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert asked.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err.strip()) == (ExitCode.INTERRUPTED, "", "")


@pytest.mark.parametrize(
    "words", [["plan"], ["explain", "x"], ["trace", "node", "10.0.0.1:80"], ["status"], ["ipvs", "show", "10.0.0.1:80"]]
)
def test_a_socket_that_hangs_is_exit_code_6_in_time(
    hanging: tuple[str, threading.Event],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kuberouterpy.drivers import ipvs_table

    monkeypatch.setattr(ask, "_TIMEOUT_S", 0.2)
    monkeypatch.setattr(ipvs_table, "read", lambda: ipvs_table.Table("1.2.1", 1, ()))
    assert main([*words, "--agent-socket", hanging[0]]) == ExitCode.UNREACHABLE
    told = capsys.readouterr().err
    assert "nothing within" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied"), "permission denied; run as root"),
        (FileNotFoundError(2, "No such file or directory"), "does kuberouterpy run on this node?"),
    ],
)
def test_who_may_not_ask_is_told_what_to_do(
    error: OSError, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr(ask._Connection, "connect", refuse)
    assert main(["plan", "--agent-socket", "/run/x.sock"]) == ExitCode.UNREACHABLE
    assert told in capsys.readouterr().err


def test_wrong_names_come_with_the_nearest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert main(["explain", "service/default/wbe", "-f", str(folder)]) == ExitCode.ERROR
    assert "did you mean service/default/web" in capsys.readouterr().err
    assert main(["ipvs", "lsit"]) == ExitCode.USAGE
    assert main(["trace", "node", "service/default/wbe", "-f", str(folder)]) == ExitCode.ERROR
    assert "did you mean default/web?" in capsys.readouterr().err
