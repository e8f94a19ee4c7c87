"""The command line: one line an error, documented exit codes, and nothing heavy imported for a help page."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from kuberouterpy import cli
from kuberouterpy.cli import ExitCode, main
from kuberouterpy.config import Config
from kuberouterpy.errors import ConfigError, DriverError, MissingCapability
from kuberouterpy.flags import FLAGS


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Stand in for the agent: keep the Config it is run with."""
    seen: list[Config] = []
    module = types.ModuleType("kuberouterpy.agent")
    module.run = lambda config: seen.append(config) or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kuberouterpy.agent", module)
    monkeypatch.setattr("kuberouterpy.log.configure", lambda *_args, **_kwargs: None)
    return seen


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_commands_and_examples(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == ExitCode.FINE
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)
    assert "Examples:" in shown


def test_help_of_run_lists_every_flag_and_says_which_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == ExitCode.FINE
    shown = capsys.readouterr().out
    assert [flag.name for flag in FLAGS if f"--{flag.name}" not in shown] == []
    assert "no effect" in shown
    assert "kuberouterpy run --kubeconfig" in shown


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    """What keeps them within 150 ms, without measuring a time."""
    code = (
        "import sys; from kuberouterpy.cli import main; main(sys.argv[1:]);"
        "heavy = {'kubernetes', 'grpc', 'pyroute2', 'urllib3', 'msgspec', 'yaml', 'asyncio'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["runn"], "error: no such command: runn; did you mean run?"),
        (["run", "--run-ruter"], "error: no such flag: --run-ruter; did you mean --run-router?"),
        (["lab", "run", "--bogus", "--", "true"], "error: no such flag: --bogus; did you mean --verbose?"),
        (["run", "--master"], "error: option '--master' requires an argument"),
        (["run", "x"], "error: got unexpected extra argument (x)"),
        (["--run-router"], "error: --run-router belongs to the command run; write kuberouterpy run --run-router"),
        (["run", "--bgp-port", "x"], "error: --bgp-port 'x' is not a whole number; write one from 1 to 65535"),
        (["run", "--run-router=maybe"], "error: --run-router 'maybe' is not a boolean; write true or false"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.err.splitlines()[0] == told
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--run-router"], Config(run_router=True)),
        (["--run-router=false"], Config(run_router=False)),
        (["--enable-ipv6", "--run-firewall=0"], Config(enable_ipv6=True, run_firewall=False)),
        (["-v", "2"], Config(v=2)),
        (["-v=3"], Config(v=3)),
        (["--v", "1"], Config(v=1)),
        (["--ipvs-sync-period", "1m30s"], Config(ipvs_sync_period_s=90.0)),
        (
            ["--excluded-cidrs", "10.0.0.0/8", "--excluded-cidrs=fd00::/64"],
            Config(excluded_cidrs=("10.0.0.0/8", "fd00::/64")),
        ),
    ],
)
def test_run_reads_flags_as_kube_router_does(arguments: list[str], expected: Config, agent: list[Config]) -> None:
    assert main(["run", "--hostname-override", "n", *arguments]) == ExitCode.FINE
    assert [Config(**{**_fields(one), "node_name": "", "hostname_override": ""}) for one in agent] == [expected]


def test_cleanup_config_never_starts_an_agent(
    agent: list[Config], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["run", "--cleanup-config"]) == ExitCode.USAGE
    assert agent == []
    assert "cleanup needs root" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("kubeconfig x: no such file"), 2),
        (MissingCapability("load ip_vs: no such module"), 2),
        (DriverError("list routes: broken", 5), 1),
        (OSError(28, "No space left on device"), 1),
        (KeyError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_one_line_and_their_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    assert main(["run"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (0 if isinstance(error, KeyboardInterrupt) else 1)
    assert all(line.startswith("error: ") for line in lines)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(KeyError):
        main(["--debug", "run"])


def _fields(config: Config) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__struct_fields__}
