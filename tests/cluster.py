"""The fixture ``lab``: a cluster to test against, behind an interface that other clusters can implement."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of cluster."""
    parser.getgroup("lab").addoption(
        "--cluster", default="lab", choices=["lab"], help="where cluster tests run: the embedded lab"
    )
