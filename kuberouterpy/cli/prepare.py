"""``kuberouterpy prepare``: what an init container does before the agent starts."""

from __future__ import annotations

from pathlib import Path

import click

from kuberouterpy import prepare as node


@click.command(
    epilog="""\b
Examples:
  kuberouterpy prepare --modules
  kuberouterpy prepare --modules --cni-bin-dir=/host/opt/cni/bin
"""
)
@click.option("--modules", is_flag=True, help="Load the kernel modules the agent needs.")
@click.option(
    "--cni-bin-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Install CNI plugins here. One that somebody else installed is left alone.",
)
@click.option(
    "--cni-source-dir",
    type=click.Path(path_type=Path),
    default=Path("/usr/lib/cni"),
    show_default=True,
    help="Where the plugins are taken from.",
)
def prepare(modules: bool, cni_bin_dir: Path | None, cni_source_dir: Path) -> None:
    """Load modules and install CNI plugins, so that the agent itself needs neither right."""
    if not modules and cni_bin_dir is None:
        raise click.UsageError("nothing to do; give --modules, --cni-bin-dir or both")
    if modules:
        node.load_modules()
        for name in node.missing_modules():
            click.echo(f"module {name} is not there; needed for {node.MODULES[name]}", err=True)
    if cni_bin_dir is not None:
        for name, done in node.install_plugins(cni_source_dir, cni_bin_dir):
            click.echo(f"plugin {name}: {done}")
