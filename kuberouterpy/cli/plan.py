"""``kuberouterpy plan``: what would change now, and because of which object."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import click
import msgspec

from kuberouterpy.answers import ChangeView, Plan
from kuberouterpy.answers import plan as plan_of
from kuberouterpy.cli import ExitCode, table
from kuberouterpy.cli.ask import (
    ask,
    offline_command,
    offline_loop,
    offline_options,
    recorded_loop,
    refuse_live_without_files,
    socket_option,
)

_SIGNS: Final = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}
_REASON_COLUMN: Final = 72
_EXAMPLES: Final = """\b
Examples:
  kuberouterpy plan
  kuberouterpy plan --exit-code && echo nothing to do
  kuberouterpy plan -f cluster/ --node worker-1
  kuberouterpy plan -f cluster/ --node worker-1 --masquerade-all --run-router=false
  kubectl get nodes,pods,services,endpointslices,networkpolicies,namespaces -A -o json \\
    | kuberouterpy plan -f - --node worker-1 --live
  kuberouterpy plan --from /var/lib/kuberouterpy/record --at 14:05
"""


@offline_options
@click.option("--live", is_flag=True, help="With -f: compare with what stands in this kernel, not with nothing.")
@click.option("--exit-code", is_flag=True, help="Exit with 3 where something would change.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form.")
@socket_option
def _plan(
    *,
    files: tuple[str, ...],
    node: str,
    links: tuple[str, ...],
    recording: str,
    at: str,
    live: bool,
    exit_code: bool,
    output: str,
    agent_socket: str,
    **flags: Any,
) -> int:
    refuse_live_without_files(files, node, links, live, *flags.values())
    if recording:
        told = plan_of(recorded_loop(recording, at, flags))
    elif files:
        told = plan_of(offline_loop(files, node, links, flags, live=live))
    else:
        told = ask(agent_socket, "plan", Plan)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    else:
        for line in lines(told):
            click.echo(line)
    return ExitCode.DIFFERENCES if exit_code and told.changes else ExitCode.FINE


def lines(told: Plan) -> list[str]:
    """Return a plan as lines: what hinders it first, then one line a change, then how many."""
    found = [f"WAITING for the first list of {kind}" for kind in told.waiting_for]
    found += [
        f"UNKNOWN {name}: {reason}; its part is not in this plan" for name, reason in sorted(told.unlisted.items())
    ]
    found += [line(change) for change in told.changes]
    if told.changes:
        counts = Counter(change.verb for change in told.changes)
        found.append(", ".join(f"{counts[verb]} to {verb}" for verb in _SIGNS if counts[verb]) + f" on {told.node}")
    elif not told.waiting_for:
        found.append(f"nothing to do on {told.node}")
    return found


def line(change: ChangeView) -> str:
    """Return one change as a line that ends in who wants it and why."""
    sign, colour = _SIGNS[change.verb]
    value = change.actual if change.verb == "delete" else change.wanted
    if change.verb == "update" and change.actual and change.actual != change.wanted:
        value = f"{change.actual} -> {change.wanted}"
    text = f"{sign} {change.kind:<9} {change.name} {'' if value == 'present' else value}".rstrip()
    why = " and ".join(change.owners) or change.reason
    if change.owners and change.reason:
        why += f" ({change.reason})"
    return table.paint(f"{text:<{_REASON_COLUMN}}", colour) + f" # {why}"


plan = offline_command(
    "plan",
    _plan,
    short_help="Show what would change now, and why.",
    help="""Show what would change in kernel, BGP and CNI of this node, and because of which object: + new, ~ changed, - gone.

    Asks the agent of this node (which normally has nothing to do). With -f the cluster is a folder of YAML, and every flag of
    `kuberouterpy run` may be given. Nothing is ever applied.
    """,
    epilog=_EXAMPLES,
)
"""The command."""
