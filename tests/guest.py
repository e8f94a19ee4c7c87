"""Run the tests marked ``kernel`` and ``lab`` inside guests of the lab, and report them as if they had run here.

Outside: when the first test begins, all marked tests of the session go to pytests inside guests, which run beside the tests
of the host (tests/guests.py): one guest for ``kernel``, and for each distinct set of options of ``lab`` as many as there is
room for. Marked tests come last, in the order they were collected; when one's turn comes, its reports are waited for and
replayed. Inside (``KUBEROUTERPY_IN_LAB`` is set) a test can be run by hand in ``lab shell`` as anywhere.

Where no engine can run, marked tests are skipped with the reason; with ``CI=true`` the session fails instead.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pytest

from kuberouterpy.errors import LabError
from kuberouterpy.lab.engine import choose, kernel
from kuberouterpy.lab.engine.plan import GuestPlan
from kuberouterpy.lab.options import LabOptions
from tests.guests import Guests, Order, claim, room

INSIDE: Final = bool(os.environ.get("KUBEROUTERPY_IN_LAB"))
Reports = list[pytest.TestReport]

_player = pytest.StashKey["_Player"]()
_REPORTS, _CLAIMS = "--guest-reports", "--guest-claims"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the engine's choice and the inner pytest's way back."""
    group = parser.getgroup("lab")
    group.addoption("--engine", default="auto", help="engine of kernel and lab tests: auto, native, uml or qemu")
    group.addoption(_REPORTS, default="", help="(inside a guest) file to write reports to")
    group.addoption(_CLAIMS, default="", help="(inside a guest) folder in which guests claim files of tests")


def pytest_configure(config: pytest.Config) -> None:
    """Inside: write every report to the file that the outer pytest reads."""
    if path := config.getoption(_REPORTS):
        config.pluginmanager.register(_Recorder(config, Path(path)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what runs in guests last; skip what cannot run here, loudly; refuse to skip where a machine asks."""
    marked = [item for item in items if _options(item) is not False]
    if INSIDE or not marked or config.option.collectonly:
        return
    items.sort(key=_rank)
    try:
        choose(config.getoption("--engine"))
    except LabError as error:
        if os.environ.get("CI") == "true":
            raise pytest.UsageError(f"{len(marked)} tests need a kernel: {error}") from error
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Outside: start the guests. Inside a guest that shares its tests with another: run those it gets."""
    if session.config.option.collectonly or session.testsfailed:
        return None
    if folder := session.config.getoption(_CLAIMS):
        return _run_claimed(session, Path(folder))
    if not INSIDE:
        groups: dict[LabOptions | None, list[pytest.Item]] = {}
        for item in session.items:
            options = _options(item)
            if not isinstance(options, bool) and not item.get_closest_marker("skip"):
                groups.setdefault(options, []).append(item)
        if groups:
            player = session.config.stash[_player] = _Player(session.config, groups)
            session.config.pluginmanager.register(player)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Replay what a guest reported, instead of running the test here."""
    player = item.config.stash.get(_player, None)
    reports = player.take(item) if player else None
    if reports is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # The test before this one left standing what it shares with this one, which no test here will end: do that now.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def _run_claimed(session: pytest.Session, folder: Path) -> bool:
    """Run the files of tests that no other guest has begun."""
    by_file = groupby(session.items, key=lambda item: item.nodeid.partition("::")[0])
    mine = (item for name, items in by_file if claim(folder, name) for item in items)
    item = next(mine, None)
    while item is not None:
        following = next(mine, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def replayed(config: pytest.Config, told: dict[str, Any]) -> pytest.TestReport:
    """Return the report that a guest told, with the tuples that JSON turned into lists: pytest's summary insists on them."""
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=told)
    if isinstance(report.longrepr, list):  # where a skip was said, and why
        report.longrepr = tuple(report.longrepr)
    report.user_properties = [(name, value) for name, value in report.user_properties]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests measured: their properties ``figure``, whether they passed or not."""
    reports = [one for name in ("passed", "failed") for one in terminalreporter.stats.get(name, ())]
    lines = [f"{one.nodeid.rpartition('::')[2]}: {value}" for one in reports for value in _figures(one)]
    if lines and not INSIDE:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


def _figures(report: pytest.TestReport) -> list[object]:
    if report.when != "call":  # properties stand in the reports of every later phase too
        return []
    return [value for name, value in report.user_properties if name == "figure"]


class _Recorder:
    """Writes reports one by one, so that a guest that dies has told all it knew."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._config = config
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._path.open("a") as file:
            file.write(json.dumps(told, default=str) + "\n")


class _Player:
    """The session's guests, and what they have reported so far."""

    def __init__(self, config: pytest.Config, groups: dict[LabOptions | None, list[pytest.Item]]) -> None:
        choice = choose(config.getoption("--engine"))
        self._config = config
        self._claims = tempfile.TemporaryDirectory(prefix="kuberouterpy-claims-")
        self._told: dict[str, Reports] = {}
        self._ours = {item.nodeid for items in groups.values() for item in items}
        orders = [order for options, items in groups.items() for order in self._orders(options, items)]
        say = config.get_terminal_writer().line
        say("")
        for what, count in Counter(f"{len(order.tests)} tests in guests ({order.what})" for order in orders).items():
            say(f"{what}: {count}, engine {choice.engine.name} ({choice.engine.version()})")
        self._guests = Guests(orders, choice.engine.name)
        config.add_cleanup(self._end)
        self._tend()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Wait until a test's turn can come. Here, because pytest-timeout starts its clock after this and before the replay."""
        self._tend()
        while item.nodeid in self._ours and not self._complete(item):
            may_come = self._guests.wait(item.nodeid)
            self._tend()
            if not may_come and not self._complete(item):
                self._told[item.nodeid] = [_failed(item, self._guests.failure(item.nodeid))]
                break
        return (yield)

    def take(self, item: pytest.Item) -> Reports | None:
        """Return a test's reports; nothing where it runs here."""
        return self._told.pop(item.nodeid, None)

    def _complete(self, item: pytest.Item) -> bool:
        # A test whose teardown was not told did not end: its guest died under it.
        return any(report.when == "teardown" for report in self._told.get(item.nodeid, ()))

    def _tend(self) -> None:
        for told in self._guests.tend():
            report = replayed(self._config, told)
            self._told.setdefault(report.nodeid, []).append(report)

    def _orders(self, options: LabOptions | None, items: list[pytest.Item]) -> Iterator[Order]:
        """Return the guests for tests that need the same: several labs where the tests are in several files."""
        files = Counter(item.nodeid.partition("::")[0] for item in items)
        names = [item.nodeid for item in sorted(items, key=lambda item: -files[item.nodeid.partition("::")[0]])]
        claims = Path(tempfile.mkdtemp(dir=self._claims.name))
        for _ in range(min(room(), len(files)) if options else 1):
            yield Order(
                f"lab of {options.nodes} nodes, {options.families}" if options else "kernel",
                names,
                GuestPlan(
                    command=(*_pytest(self._config), f"{_CLAIMS}={claims}"),
                    directory=str(self._config.rootpath),
                    environment=_environment(),
                    engine="",
                    results="",
                    writable=(str(claims),),
                    lab=options,
                ),
            )

    def _end(self) -> None:
        self._guests.stop()
        self._claims.cleanup()


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
    if (limit := config.getoption("timeout", None)) is not None:
        words.append(f"--timeout={limit}")
    return words


def _failed(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call", duration=0.0)


def _rank(item: pytest.Item) -> int:
    """Return when a test's turn is: those of the host, those of a bare kernel, those of labs."""
    options = _options(item)
    return 0 if options is False else 1 if options is None else 2


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
