"""What every test may use. The real-kernel tests and the cluster tests are explained in tests/README.md."""

import pytest

pytest_plugins = ["tests.guest", "tests.cluster"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update`` rewrites scenario files with what really came out; the diff is then read by a person."""
    parser.addoption("--update", action="store_true", help="rewrite scenario files with what really came out")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests measured (``record_property("figure", TEXT)``), of tests in guests too."""
    reports = [one for found in terminalreporter.stats.values() for one in found if isinstance(one, pytest.TestReport)]
    # Setup, call and teardown each carry what was recorded until then.
    figures = dict.fromkeys(str(text) for one in reports for key, text in one.user_properties if key == "figure")
    if figures:
        terminalreporter.section("figures")
    for text in figures:
        terminalreporter.line(text)
