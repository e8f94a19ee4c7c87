"""What every test may use. The real-kernel tests and the cluster tests are explained in tests/README.md."""

import pytest

pytest_plugins = ["tests.guest", "tests.cluster"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update`` rewrites scenario files with what really came out; the diff is then read by a person."""
    parser.addoption("--update", action="store_true", help="rewrite scenario files with what really came out")
