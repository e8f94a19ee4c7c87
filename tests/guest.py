"""Run the tests marked ``kernel`` and ``lab`` inside a guest of the lab, and report them as if they had run here.

Outside: before the first test runs, all marked tests of the session go to a pytest inside a guest: one boot for ``kernel``,
one for each distinct set of options of ``lab``. Their reports come back through a folder and are replayed when their turn
comes. Inside (``KUBEROUTERPY_IN_LAB`` is set) nothing special happens, so a test can be run by hand in ``lab shell``.

Where no engine can run, marked tests are skipped with the reason; with ``CI=true`` the session fails instead.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine import Terminal, boot, choose, kernel
from kuberouterpy.lab.engine.plan import GuestPlan
from kuberouterpy.lab.options import LabOptions

INSIDE: Final = bool(os.environ.get("KUBEROUTERPY_IN_LAB"))
Reports = list[pytest.TestReport]

_reports = pytest.StashKey[dict[str, Reports]]()
_OPTION: Final = "--guest-reports"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the engine's choice and the inner pytest's way back."""
    group = parser.getgroup("lab")
    group.addoption("--engine", default="auto", help="engine of kernel and lab tests: auto, native, uml or qemu")
    group.addoption(_OPTION, default="", help="(inside a guest) file to write reports to")


def pytest_configure(config: pytest.Config) -> None:
    """Inside: write every report to the file that the outer pytest reads."""
    if path := config.getoption(_OPTION):
        config.pluginmanager.register(_Recorder(config, Path(path)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here, loudly; refuse to skip where a machine asks."""
    marked = [item for item in items if _options(item) is not False]
    if INSIDE or not marked or config.option.collectonly:
        return
    try:
        choose(config.getoption("--engine"))
    except LabError as error:
        if os.environ.get("CI") == "true":
            raise pytest.UsageError(f"{len(marked)} tests need a kernel: {error}") from error
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Run the marked tests in guests, before anything else: no test's time limit runs meanwhile."""
    if INSIDE or session.config.option.collectonly or session.testsfailed:
        return
    groups: dict[LabOptions | None, list[pytest.Item]] = {}
    for item in session.items:
        options = _options(item)
        if options is not False and not item.get_closest_marker("skip"):
            groups.setdefault(options, []).append(item)
    session.config.stash[_reports] = {
        nodeid: reports
        for options, items in groups.items()
        for nodeid, reports in _run_inside(session.config, options, items).items()
    }


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Replay what the guest reported, instead of running the test here."""
    reports = item.config.stash.get(_reports, {}).get(item.nodeid)
    if reports is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # The test before this one left standing what it shares with this one, which no test here will end: do that now.
    item.session._setupstate.teardown_exact(nextitem)
    return True


class _Recorder:
    """Writes reports one by one, so that a guest that dies has told all it knew."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._path.open("a") as file:
            file.write(json.dumps(told, default=str) + "\n")


def _run_inside(config: pytest.Config, options: LabOptions | None, items: list[pytest.Item]) -> dict[str, Reports]:
    choice = choose(config.getoption("--engine"))
    what = f"lab of {options.nodes} nodes, {options.families}" if options else "kernel"
    say = config.get_terminal_writer().line
    say("")
    say(f"{len(items)} tests in a guest ({what}; engine {choice.engine.name}: {choice.engine.version()})")
    with tempfile.TemporaryDirectory(prefix="kuberouterpy-tests-") as folder:
        names = Path(folder, "tests")
        names.write_text("".join(f"{item.nodeid}\n" for item in items))
        told, printed = Path(folder, "reports"), Path(folder, "output")
        failure = ""
        with printed.open("wb") as output:
            plan = GuestPlan(
                command=(*_pytest(config), _OPTION, str(told), f"@{names}"),
                directory=str(config.rootpath),
                environment=_environment(),
                engine="",
                results="",
                writable=(folder,),
                lab=options,
            )
            try:
                boot(choice.engine, plan, terminal=Terminal(None, output.fileno(), output.fileno()))
            except LabError as error:
                failure = str(error)
        reports = _read(config, told)
        if missing := [item for item in items if item.nodeid not in reports]:
            failure = failure or "pytest in the guest did not report it; it said:\n" + printed.read_text(
                errors="replace"
            )
            for item in missing:
                reports[item.nodeid] = [_failed(item, failure)]
        return reports


def _environment() -> dict[str, str]:
    return dict(os.environ) | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Tests run system programs by name, and every place looked at in vain costs 15 ms in a guest.
        "PATH": f"/usr/sbin:/usr/bin:{os.environ.get('PATH', '')}",
    }


def _pytest(config: pytest.Config) -> Sequence[str]:
    """Return the inner pytest with the outer one's plugins that settings of ours name."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout"]
    if config.getoption("verbose") > 1:
        words.append("-vv")
    return words


def _read(config: pytest.Config, path: Path) -> dict[str, Reports]:
    reports: dict[str, Reports] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            told = json.loads(line)
        except ValueError:  # the last line of a guest that died in the middle of it
            continue
        report = config.hook.pytest_report_from_serializable(config=config, data=told)
        reports.setdefault(report.nodeid, []).append(report)
    # A test whose teardown was not told did not end: its guest died under it.
    return {nodeid: told for nodeid, told in reports.items() if told[-1].when == "teardown"}


def _failed(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call", duration=0.0)


def _options(item: pytest.Item) -> LabOptions | bool | None:
    """Return the lab a test needs, None for a bare kernel, False where it needs neither."""
    if marker := item.get_closest_marker("lab"):
        return LabOptions(**marker.kwargs) if item.config.getoption("--cluster") == "lab" else False
    return None if item.get_closest_marker("kernel") else False


class Netns:
    """The network namespace of one test; the test's own thread is in it, and so are threads and programs it starts."""

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a program and return what it printed; a failure shows all of it."""
        import subprocess

        done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def _own_mounts() -> Iterator[None]:
    """A mount namespace for this pytest, so that each test can have the /sys of its own namespace."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    return


@pytest.fixture
def netns(request: pytest.FixtureRequest) -> Iterator[Netns]:
    """A fresh network namespace with ``lo`` up, gone after the test: IPVS, ipset, iptables, conntrack are all per namespace."""
    assert INSIDE, "the fixture netns is for tests marked kernel or lab"
    request.getfixturevalue("_own_mounts")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    kernel.unshare(kernel.CLONE_NEWNET)
    kernel.mount("sysfs", "/sys", "sysfs")
    here = Netns()
    here.run("ip", "link", "set", "lo", "up")
    try:
        yield here
    finally:
        kernel.unmount("/sys")
        kernel.enter(f"/proc/self/fd/{before}")
        os.close(before)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say where a run inside a guest is."""
    release: Any = os.uname().release
    return f"inside a guest: Linux {release}" if INSIDE else None
