"""The guest proper: build the lab that was asked for, run the command, pass its streams on, say how it ended.

Started by ``engine.init``. One thread reads frames from outside, one per stream passes output on, and the first builds the
lab and waits for the command. Everything that is forked for the cluster comes from ``zygote``, which is a process without
threads, started before any of these.
"""

from __future__ import annotations

import fcntl
import os
import platform
import queue
import shutil
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from kuberouterpy.errors import KubeRouterError
from kuberouterpy.lab.engine.frames import Kind, Parser, Writer
from kuberouterpy.lab.engine.plan import GuestPlan
from kuberouterpy.lab.places import install_shortcut

if TYPE_CHECKING:
    from kuberouterpy.lab.zygote import Zygote

_SHORTCUTS: Final = Path("/run/lab/bin")
_SYSTEM_PATH: Final = "/usr/sbin:/usr/bin"
"""First in the PATH of the cluster's parts: where they find every program of theirs at the first try.

Each place on PATH that has not got a program costs a failed execve, which costs 15 ms under User-Mode Linux: the kernel
makes the new address space, a process of the host, before it looks for the file.
"""

_ALIVE_S: Final = 5.0
_DRAIN_S: Final = 2.0
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126


def main(plan: GuestPlan, reader: int, writer: int) -> int:
    """Serve one plan from its first frame to its last; return the exit code that was told outside."""
    environment = _environment(plan)
    os.environ["PATH"] = os.pathsep.join([_SYSTEM_PATH, environment["PATH"]])
    zygote = _zygote() if plan.lab else None  # order matters: forked before there are threads
    link = _Link(reader, Writer(writer))
    link.frames.send(Kind.HELLO, platform.release().encode())
    link.start()
    if plan.lab and zygote:
        from kuberouterpy.lab.cluster import Cluster

        try:
            cluster = Cluster(plan.lab, zygote, note=lambda text: link.frames.send(Kind.NOTE, text.encode()))
            environment |= cluster.start(plan.directory)
        except (KubeRouterError, OSError) as error:
            link.frames.send(Kind.FAILED, str(error).encode())
            return 1
    code = _Command(plan, environment, link).run()
    os.sync()
    link.frames.send(Kind.EXIT, str(code).encode())
    return code


def _zygote() -> Zygote:
    from kuberouterpy.lab.zygote import Zygote

    return Zygote.start()


class _Link:
    """Frames from outside, sorted: input into a queue, signals and sizes to whoever runs."""

    def __init__(self, reader: int, frames: Writer) -> None:
        self.frames = frames
        self.input: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.command: _Command | None = None
        self._reader = reader

    def start(self) -> None:
        for target in (self._read, self._tell):
            threading.Thread(target=target, daemon=True).start()

    def _read(self) -> None:
        parser = Parser()
        while True:
            try:
                data = os.read(self._reader, 65536)
            except OSError:  # EIO: the serial line was hung up
                data = b""
            if not data:
                # Nobody outside any more: nothing that runs here has a reader.
                os._exit(1)
            for kind, body in parser.feed(data):
                self._take(kind, body)

    def _take(self, kind: Kind, body: bytes) -> None:
        match kind:
            case Kind.STDIN:
                self.input.put(body)
            case Kind.SIGNAL if self.command:
                self.command.signal(int(body))
            case Kind.SIGNAL:
                self.frames.send(Kind.EXIT, str(128 + int(body)).encode())
                os._exit(1)
            case Kind.SIZE if self.command:
                rows, columns = map(int, body.split())
                self.command.resize(rows, columns)
            case _:
                return

    def _tell(self) -> None:
        pause = threading.Event()
        while not pause.wait(_ALIVE_S):
            self.frames.send(Kind.ALIVE)


class _Command:
    """The command with its streams: three pipes, or a terminal of its own."""

    def __init__(self, plan: GuestPlan, environment: dict[str, str], link: _Link) -> None:
        self._plan = plan
        self._environment = environment
        self._link = link
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal: int | None = None

    def run(self) -> int:
        try:
            streams = self._start()
        except OSError as error:
            self._link.frames.send(Kind.STDERR, f"{self._plan.command[0]}: {error.strerror}\n".encode())
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        assert self._process is not None
        self._link.command = self
        self._link.frames.send(Kind.STARTED)
        threads = [threading.Thread(target=self._pass_on, args=pair, daemon=True) for pair in streams]
        threads.append(threading.Thread(target=self._feed, daemon=True))
        for thread in threads:
            thread.start()
        code = self._process.wait()
        for thread in threads[:-1]:
            thread.join(_DRAIN_S)  # a daemon the command left behind may hold its streams for ever
        return code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Signal the command and all it started."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command's terminal its size."""
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _start(self) -> list[tuple[int, Kind]]:
        directory = self._plan.directory if os.path.isdir(self._plan.directory) else "/"
        program = shutil.which(self._plan.command[0], path=self._environment["PATH"]) or self._plan.command[0]
        arguments = [program, *self._plan.command[1:]]
        if self._plan.terminal:
            self._terminal, inside = os.openpty()
            self.resize(self._plan.rows, self._plan.columns)
            # setsid makes the terminal the controlling one of a new session, and executes in place.
            self._process = subprocess.Popen(
                ["setsid", "--ctty", *arguments],
                stdin=inside,
                stdout=inside,
                stderr=inside,
                cwd=directory,
                env=self._environment,
            )
            os.close(inside)
            return [(self._terminal, Kind.STDOUT)]
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=self._environment,
            start_new_session=True,
        )
        out, err = self._process.stdout, self._process.stderr
        assert out is not None
        assert err is not None
        return [(out.fileno(), Kind.STDOUT), (err.fileno(), Kind.STDERR)]

    def _pass_on(self, descriptor: int, kind: Kind) -> None:
        while True:
            try:
                data = os.read(descriptor, 65536)
            except OSError:  # EIO: the last process closed the terminal
                return
            if not data:
                return
            self._link.frames.send(kind, data)

    def _feed(self) -> None:
        assert self._process is not None
        pipe: IO[bytes] | None = self._process.stdin
        descriptor = self._terminal if self._terminal is not None else pipe.fileno() if pipe else -1
        open_still = True
        while True:
            data = self._link.input.get()
            if not data:
                if pipe and open_still:
                    pipe.close()
                open_still = False
                continue
            if open_still:
                try:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(descriptor, view) :]
                except OSError:  # EPIPE: the command reads no more
                    open_still = False
            self._link.frames.send(Kind.CREDIT, str(len(data)).encode())


def _environment(plan: GuestPlan) -> dict[str, str]:
    """Return the command's environment: the one outside, with what differs in here."""
    environment = {key: value for key, value in plan.environment.items() if key not in ("TMPDIR", "KUBECONFIG")}
    beside = Path(sys.executable).parent
    install_shortcut(_SHORTCUTS, str(beside / "kuberouterpy"))
    given = [
        *environment.get("PATH", os.defpath).split(os.pathsep),
        "/usr/local/sbin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    there = dict.fromkeys(place for place in given if os.path.isdir(place))
    environment["PATH"] = os.pathsep.join([str(_SHORTCUTS), str(beside), *there])
    environment["KUBEROUTERPY_IN_LAB"] = "1"
    environment["KUBEROUTERPY_ENGINE"] = plan.engine
    home = environment.get("HOME", "")
    if not home or not os.access(home, os.W_OK | os.X_OK):
        os.makedirs("/run/lab/home", exist_ok=True)
        environment["HOME"] = "/run/lab/home"
    return environment
