"""``kuberouterpy completion``: what a shell sources so that it completes commands, flags and names from the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kuberouterpy.cli import PROGRAM, ExitCode
from kuberouterpy.errors import KubeRouterError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SHELLS = ("bash", "zsh", "fish")
VARIABLE = f"_{PROGRAM.upper()}_COMPLETE"


@click.command(
    epilog=f"""\b
Examples:
  source <({PROGRAM} completion bash)
  {PROGRAM} completion bash > /etc/bash_completion.d/{PROGRAM}
  {PROGRAM} completion zsh > "${{fpath[1]}}/_{PROGRAM}"
  {PROGRAM} completion fish > ~/.config/fish/completions/{PROGRAM}.fish
""",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> int:
    """Print the script that makes SHELL complete commands, flags, and names of Services, pods and servers of this node."""
    from click.shell_completion import get_completion_class

    from kuberouterpy.cli import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, PROGRAM, VARIABLE).source())
    return ExitCode.FINE


# --- names ------------------------------------------------------------------------------------------------------------


def subjects(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names that ``explain`` and ``trace`` take and that begin so; none where no agent answers at once."""
    return _items(_known(), incomplete)


def servers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return virtual servers of this node."""
    return _items([one for one in _known() if one.startswith(("tcp/", "udp/", "sctp/"))], incomplete)


def services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return Services by namespace and name."""
    return _items([one.removeprefix("service/") for one in _known() if one.startswith("service/")], incomplete)


def _known() -> Sequence[str]:
    import os

    from kuberouterpy.cli import ask

    try:
        told: list[str] = ask.ask(os.environ.get(ask.VARIABLE, ask.DEFAULT), "subjects", list[str])
    except (click.ClickException, KubeRouterError):  # a shell that waits for a completion must not see it
        return ()
    return told


def _items(names: Sequence[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
