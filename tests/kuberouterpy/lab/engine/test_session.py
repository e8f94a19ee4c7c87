"""A session passes streams and codes on, and says what became of a guest that is gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine.plan import GuestPlan
from kuberouterpy.lab.engine.session import Terminal, boot

PLAN = GuestPlan(command=("x",), directory="/", environment={}, engine="", results="")
PRELUDE = """
import os, sys
from kuberouterpy.lab.engine.frames import Kind, Parser, Writer
channel = int(sys.argv[1])
frames = Writer(channel)
frames.send(Kind.HELLO, b"6.6")
"""


class Scripted:
    """An engine whose guest is a Python script."""

    name = "scripted"

    def __init__(self, script: str) -> None:
        self._script = script

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return "scripted"

    def start(self, plan: GuestPlan, folder: Path, channel: socket.socket) -> subprocess.Popen[bytes]:
        with open(folder / "kernel.log", "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", PRELUDE + self._script, str(channel.fileno())],
                stdout=log,
                stderr=log,
                pass_fds=(channel.fileno(),),
                start_new_session=True,
            )


def run(script: str, stdin: bytes | None = None) -> tuple[int, bytes, list[str]]:
    notes: list[str] = []
    out_reader, out_writer = os.pipe()
    in_reader, in_writer = os.pipe()
    os.write(in_writer, stdin or b"")
    os.close(in_writer)
    try:
        terminal = Terminal(None if stdin is None else in_reader, out_writer, out_writer)
        code = boot(Scripted(script), PLAN, terminal=terminal, note=notes.append)
    finally:
        os.close(out_writer)
        os.close(in_reader)
        with os.fdopen(out_reader, "rb") as reader:
            printed = reader.read()
    return code, printed, notes


def test_output_code_and_notes_pass_through() -> None:
    script = "frames.send(Kind.NOTE, b'API up'); frames.send(Kind.STDOUT, b'hello'); frames.send(Kind.EXIT, b'7')"
    assert run(script) == (7, b"hello", ["kernel 6.6 booted", "API up"])


def test_input_is_sent_against_credit_and_ends() -> None:
    script = """
frames.send(Kind.STARTED)
parser, got = Parser(), b""
while True:
    for kind, body in parser.feed(os.read(channel, 65536)):
        if not body:
            frames.send(Kind.STDOUT, str(len(got)).encode())
            frames.send(Kind.EXIT, b"0")
            os.read(channel, 1)
        got += body
        frames.send(Kind.CREDIT, str(len(body)).encode())
"""
    assert run(script, b"x" * 50_000)[:2] == (0, b"50000")


def test_a_guest_that_ends_by_itself_is_an_error_with_its_last_words() -> None:
    with pytest.raises(LabError, match=r"(?s)ended by itself.*Kernel panic"):
        run("print('Kernel panic - not syncing', file=sys.stderr)")


def test_a_lab_that_cannot_be_built_is_told_in_its_own_words() -> None:
    with pytest.raises(LabError, match="no such file: web"):
        run("frames.send(Kind.FAILED, b'no such file: web.yaml'); os.read(channel, 1)")


def test_noise_instead_of_frames_is_an_error() -> None:
    with pytest.raises(LabError, match="garbled"):
        run("os.write(channel, b'\\xff' * 40); os.read(channel, 1)")
