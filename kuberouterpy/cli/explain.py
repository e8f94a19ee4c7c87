"""``kuberouterpy explain``: why a thing is there, or why it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
import msgspec

from kuberouterpy import __version__
from kuberouterpy.answers import KIND_WORDS, Explained, Explanations, View
from kuberouterpy.answers import explain as explain_of
from kuberouterpy.cli import ExitCode, completion, table
from kuberouterpy.cli.ask import (
    Refused,
    ask,
    now,
    offline_command,
    offline_loop,
    offline_options,
    recorded_loop,
    refuse_live_without_files,
    socket_option,
)

_SHOWN: Final = 60
"""Objects on the screen of one subject; -o json has all."""
_WORDS: Final = {
    "ok": ("ok", "green"),
    "missing": ("MISSING", "red"),
    "differs": ("DIFFERS", "yellow"),
    "extra": ("EXTRA", "red"),
    "foreign": ("foreign", "yellow"),
}
_PASTED: Final = frozenset({"virtual", "real", "entry", "jump", "flows", "health", "cni", "speaker"})
"""Kinds of objects whose names have several words."""
_EXAMPLES: Final = """\b
Examples:
  kuberouterpy explain service/default/web
  kuberouterpy explain 10.96.0.10:80
  kuberouterpy explain tcp/[fd00:10:96::a]:80 10.1.2.3
  kuberouterpy explain neighbor 10.0.0.9
  kuberouterpy explain KUBE-ROUTER-FORWARD
  kuberouterpy explain net.ipv4.ip_forward
  kuberouterpy explain 'real tcp 10.96.0.10:80 -> 10.1.2.3:8080'
  kuberouterpy explain pod/default/web-1 -f cluster/ --node worker-1
  kuberouterpy explain service/default/web --from node-1.rec --at 10m
"""


@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT...", shell_complete=completion.subjects)
@offline_options
@click.option("--live", is_flag=True, help="With -f: compare with what stands in this kernel, not with nothing.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Form.")
@socket_option
def _explain(
    *,
    subjects: tuple[str, ...],
    files: tuple[str, ...],
    node: str,
    links: tuple[str, ...],
    recording: str,
    at: str,
    live: bool,
    output: str,
    agent_socket: str,
    **flags: Any,
) -> int:
    refuse_live_without_files(files, node, links, live, *flags.values())
    wanted = joined(subjects)
    if recording:
        told = explain_of(recorded_loop(recording, at, flags), wanted, now=now())
    elif files:
        told = explain_of(offline_loop(files, node, links, flags, live=live), wanted, now=now())
    else:
        told = _asked(agent_socket, wanted)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
        return ExitCode.FINE
    compared = not (files or recording) or live
    for number, one in enumerate(told.answers):
        click.echo("\n" if number else "", nl=False)
        for line in lines(one, compared=compared):
            click.echo(line)
    return ExitCode.FINE


def _asked(agent_socket: str, wanted: list[str]) -> Explanations:
    """Return the agent's answer; of one thing that it does not know, what the kernel has under that name."""
    try:
        return ask(agent_socket, "explain", Explanations, subject=wanted)
    except Refused:
        from kuberouterpy.cli.foreign import found

        views = found(wanted[0]) if len(wanted) == 1 else ()
        if not views:
            raise
        return Explanations("", __version__, (Explained(wanted[0], (), views, ()),))


def joined(words: Sequence[str]) -> list[str]:
    """Return subjects with a kind before them joined: ``neighbor 10.0.0.9`` is ``neighbor/10.0.0.9``.

    An object as ``plan`` prints it takes all the words there are: ``real tcp 10.96.0.10:80 -> 10.1.2.3:8080``.
    """
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in _PASTED and rest:
            return [*found, " ".join((word, *rest))]
        found.append(f"{word}/{rest.pop(0)}" if word.lower() in KIND_WORDS and rest else word)
    return found


def lines(told: Explained, *, compared: bool) -> Iterator[str]:
    """Yield one answer: what the cluster says, what is programmed, what is not and why.

    ``compared``: whether what stands is known; without a kernel every object is only wanted.
    """
    yield told.subject
    for fact in told.facts:
        yield f"  {fact}"
    for view in told.objects[:_SHOWN]:
        yield from _object(view, compared=compared, alone=len(told.objects) <= 3)
    left = len(told.objects) - _SHOWN + told.more
    if left > 0:
        yield f"  and {left} more; -o json shows them"
    for note in told.notes:
        yield f"  {table.paint('why not', 'yellow')}   {note.subject}: {note.reason}   # {note.owner}"
    if not told.objects and not told.notes:
        yield "  nothing is programmed for it on this node, and nothing says why not"


def _object(view: View, *, compared: bool, alone: bool) -> Iterator[str]:
    word, colour = _WORDS[view.state] if compared or view.state != "missing" else ("wanted", "green")
    value = view.wanted or view.actual
    text = f"{view.kind:<9} {view.name} {'' if value == 'present' else value}".rstrip()
    nobody = "of another program: never touched" if view.state == "foreign" else "nobody wants it"
    whose = " and ".join(view.owners) or nobody
    about = " ".join(view.about[word] for word in ("pod", "note") if word in view.about)
    yield f"  {table.paint(f'{word:<9}', colour)} {text:<62} # {whose}{f' ({about})' if about else ''}"
    if view.state == "differs":
        yield f"            stands: {view.actual}"
    if view.error:
        yield f"            last error: {view.error} (try {view.attempt}, next in {view.retry_in_s:.0f} s)"
    if alone or view.kind == "chain":
        for number, rule in enumerate(view.rules, 1):
            yield f"            {number:>3}  {rule.rule}" + (f"   # {rule.reason}" if rule.reason else "")
    for user in view.used_by[:10]:
        yield f"            used by {user}"


explain = offline_command(
    "explain",
    _explain,
    short_help="Say why a thing is there, or why it is not.",
    help="""Say who wants a thing, what stands of it, what went wrong with it, and why what is absent is absent.

    SUBJECT is a virtual server (10.96.0.10:80, udp/[fd00::a]:53), an address, a prefix, service/NAMESPACE/NAME, pod/...,
    policy/..., node/NAME, neighbor/ADDRESS, a chain, a rule's id (kr:ABCDEFGH in its comment), a set, a link, a setting, an
    object or an owner as `plan` prints it. With -f it is answered from YAML.
    """,
    epilog=_EXAMPLES,
)
"""The command."""
