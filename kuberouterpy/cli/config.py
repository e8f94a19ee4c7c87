"""``kuberouterpy config``: settings of the one before as flags of this agent."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kuberouterpy.cli import ExitCode
from kuberouterpy.errors import ConfigError

_FEATURES = {"run-service-proxy": "proxy", "run-router": "router", "run-firewall": "firewall"}


@click.group(
    epilog="""\b
Examples:
  kubectl -n kube-system get configmap kube-proxy -o yaml | kuberouterpy config import -
"""
)
def config() -> None:
    """Translate the configuration of kube-router or kube-proxy."""


@config.command(
    name="import",
    epilog="""\b
Examples:
  kubectl -n kube-system get configmap kube-proxy -o yaml | kuberouterpy config import -
  kubectl -n kube-system get daemonset kube-router -o yaml | kuberouterpy config import - -o values >values.yaml
  echo --run-router --advertise-cluster-ip --peer-router-ips=192.0.2.1 | kuberouterpy config import -
""",
)
@click.argument("file", metavar="FILE|-")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["args", "values"]),
    default="args",
    show_default=True,
    help="Flags, one a line; or values of the Helm chart.",
)
@click.option("--exit-code", is_flag=True, help="Exit with 3 where something does not carry over.")
def import_(file: str, output: str, exit_code: bool) -> int:
    """Print the flags that FILE means; what does not carry over is told on standard error, each with the reason.

    FILE is a kube-proxy ConfigMap or configuration, a kube-router DaemonSet, or kube-router's arguments as text.
    """
    from kuberouterpy.migrate.settings import read

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        found = read(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    click.echo("\n".join(_values(found.flags) if output == "values" else _arguments(found.flags)))
    for setting, reason in found.differences:
        click.echo(f"differs: {setting}: {reason}", err=True)
    return ExitCode.DIFFERENCES if exit_code and found.differences else ExitCode.FINE


def _arguments(flags: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


def _values(flags: dict[str, str]) -> list[str]:
    import json

    features = [f"  {_FEATURES[name]}: {value}" for name, value in flags.items() if name in _FEATURES]
    others = [f"  {name}: {json.dumps(value)}" for name, value in flags.items() if name not in _FEATURES]
    return [*(["features:", *features] if features else []), *(["flags:", *others] if others else ["flags: {}"])]
