"""What every test may use. The real-kernel tests and the cluster tests are explained in tests/README.md."""

pytest_plugins = ["tests.guest", "tests.cluster"]
