"""``kuberouterpy policy``: which policies there are, what they say of a connection, and what they deny as it happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click
import msgspec
from msgspec.structs import replace

from kuberouterpy.answers import Connection, PolicyList, connection, list_policies
from kuberouterpy.answers.policed import Answer, PolicyView, walked
from kuberouterpy.cli import ExitCode, table
from kuberouterpy.cli.ask import ask, offline_command, offline_loop, socket_option, yaml_options
from kuberouterpy.drivers.policy_counters import Counts

_FORM: Final = ["table", "json"]
_EXPLAIN: Final = """\b
Examples:
  kuberouterpy policy explain --from default/client --to default/web --port 80/tcp
  kuberouterpy policy explain --from 192.0.2.7 --to default/web --port 443
  kuberouterpy policy explain --from node-1 --to 10.1.2.3 --port icmp
  kuberouterpy policy explain --from a/x --to b/y --port 80 -f cluster/ --node worker-1
"""
_LIST: Final = """\b
Examples:
  kuberouterpy policy list
  kuberouterpy policy list -o wide           with the kernel's counters
  kuberouterpy policy list -f cluster/ --node worker-1
"""


@click.group(
    "policy",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="""\b
Examples:
  kuberouterpy policy list
  kuberouterpy policy denied -w
""",
)
def policy() -> None:
    """List policies, explain what they say of a connection, and watch what they deny.

    NetworkPolicies and ClusterNetworkPolicies (cnp/NAME), as the firewall of this node enforces them.
    """


def _json(told: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())


# --- list -------------------------------------------------------------------------------------------------------------


@yaml_options
@click.option(
    "-o", "--output", type=click.Choice([*_FORM, "wide"]), default="table", show_default=True, help="wide: counters."
)
@socket_option
def _list(
    *,
    files: tuple[str, ...],
    node: str,
    links: tuple[str, ...],
    output: str,
    agent_socket: str,
    **flags: Any,
) -> int:
    _refuse_without_files(files, node, links, *flags.values())
    told = (
        list_policies(offline_loop(files, node, links, flags)) if files else ask(agent_socket, "policies", PolicyList)
    )
    if output == "json":
        _json(told)
        return ExitCode.FINE
    counts = _counts() if output == "wide" and not files else {}
    for line in list_lines(told, counts, wide=output == "wide"):
        click.echo(line)
    return ExitCode.FINE


def _counts() -> Mapping[str, Counts]:
    from kuberouterpy.drivers import policy_counters
    from kuberouterpy.family import FAMILIES

    return policy_counters.read(FAMILIES)


def list_lines(told: PolicyList, counts: Mapping[str, Counts], *, wide: bool) -> Iterator[str]:
    """Yield the table of policies; wide has a line for each direction, with the packets the kernel counted."""
    if not told.policies:
        yield "no policies: every pod may talk to every other"
        return
    heads = ["POLICY", "ORDER", "DIRECTIONS", "RULES", "PODS", "HERE", "NOTE"]
    rows = [
        [
            one.name,
            one.order,
            ",".join(one.directions) or "none",
            str(one.rules),
            str(one.pods),
            str(one.here),
            _note(one),
        ]
        for one in told.policies
    ]
    if wide:
        heads = ["POLICY", "ORDER", "DIRECTION", "PODS", "HERE", "ALLOWED", "DENIED", "CHAIN", "NOTE"]
        rows = [row for one in told.policies for row in _wide(one, counts)]
    yield from table.lines(heads, rows, columns=table.width())


def _wide(one: PolicyView, counts: Mapping[str, Counts]) -> Iterator[list[str]]:
    for direction in one.directions:
        chain = one.chains.get(direction, "")
        found = counts.get(chain)
        numbers = [str(found.allowed), str(found.denied)] if found else ["-", "-"]
        yield [one.name, one.order, direction, str(one.pods), str(one.here), *numbers, chain or "-", _note(one)]


def _note(one: PolicyView) -> str:
    return "; ".join(filter(None, ("audited: denies nothing" if one.audited else "", one.rejected))) or "-"


policy.add_command(
    offline_command(
        "list",
        _list,
        short_help="List every policy, and whom it selects.",
        help="""List every policy: in which order it is asked, which directions it is about, how many pods it selects and how
    many of those run on this node (HERE). Wide adds the packets that began a connection and were allowed or denied, as the
    kernel of this node counts them; they begin again when a policy's rules change.""",
        epilog=_LIST,
    )
)


# --- explain ----------------------------------------------------------------------------------------------------------


@click.option("--from", "source", required=True, metavar="END", help="Who begins: NAMESPACE/POD, an address, a node.")
@click.option("--to", "destination", required=True, metavar="END", help="Who is meant: the same; not a VIP.")
@click.option("--port", required=True, metavar="N/PROTO", help="80/tcp, 53/udp, 9003/sctp, or icmp.")
@click.option("--exit-code", is_flag=True, help="Exit with 5 where it is denied.")
@yaml_options
@click.option("-o", "--output", type=click.Choice(_FORM), default="table", show_default=True, help="Form.")
@socket_option
def _explain(
    *,
    source: str,
    destination: str,
    port: str,
    exit_code: bool,
    files: tuple[str, ...],
    node: str,
    links: tuple[str, ...],
    output: str,
    agent_socket: str,
    **flags: Any,
) -> int:
    _refuse_without_files(files, node, links, *flags.values())
    if files:
        from kuberouterpy.dataplane import KINDS
        from kuberouterpy.tracing.world import World

        loop = offline_loop(files, node, links, flags)
        told, world = connection(loop, source, destination, port), World(loop.tracker.wanted_of(KINDS))
    else:
        words = {"from": [source], "to": [destination], "port": [port]}
        told, world = ask(agent_socket, "connection", Connection, **words), _standing()
    told = replace(told, answers=tuple(replace(one, walked=walked(one, told, world)) for one in told.answers))
    if output == "json":
        _json(told)
    else:
        for line in explain_lines(told, live=not files):
            click.echo(line)
    if any(one.differs for one in told.answers):
        return ExitCode.DIFFERENCES
    return ExitCode.DENIED if exit_code and not all(one.allowed for one in told.answers) else ExitCode.FINE


def _standing() -> Any:
    """Return the filter table and the sets that stand in this kernel. Errors: DriverError."""
    from kuberouterpy.cli.standing import filter_world

    return filter_world()


def explain_lines(told: Connection, *, live: bool) -> Iterator[str]:
    """Yield what policies and rules say of a connection, one block a family."""
    port = f"{told.port}/{told.protocol}" if told.port else told.protocol
    for number, one in enumerate(told.answers):
        if number:
            yield ""
        word = table.paint("allowed", "green") if one.allowed else table.paint("DENIED", "red")
        yield f"{told.source} {one.source} -> {told.destination} {one.destination} {port}: {word}"
        yield from _judged(one)
        yield from _ruled(one, told.node, live=live)


def _judged(answer: Answer) -> Iterator[str]:
    for one in answer.judgements:
        word = table.paint("allowed", "green") if one.allowed else table.paint("DENIED ", "red")
        where = f" of {one.pod} on {one.node}" if one.pod else ""
        yield f"  {one.direction:<8} {word}  {one.by}" + (f"   # {one.direction}{where}" if where else "")
        for near in one.near:
            yield f"           {table.paint('near', 'yellow')}     {near}"
        if one.audit:
            yield f"           {table.paint('audit', 'yellow')}    {one.audit} would deny it"


def _ruled(answer: Answer, node: str, *, live: bool) -> Iterator[str]:
    what = "kernel" if live else "rules"
    if answer.here is None:
        yield f"  {what:<8} neither end is a pod of this node ({node}): its rules judge nothing of it"
    for one in answer.walked:
        word = "allowed" if one.accepted else "denied "
        verdict = table.paint("agrees", "green") if one.accepted == answer.here else table.paint("MISMATCH", "red")
        yield f"  {what:<8} {word}  {one.hook} on {node}: {one.by}   # {verdict}"
        yield from (f"           doubt    {doubt}" for doubt in one.doubts)


policy.add_command(
    offline_command(
        "explain",
        _explain,
        short_help="Say whether a connection is allowed, by which rule, and whether the kernel agrees.",
        help="""Say whether policies allow a connection, which rule decides, and of a denial what came near: the label or port
    that is missing. Egress is judged on the node of the one who begins, ingress on the other's. What this node judges is also
    walked through the rules and sets that stand in its kernel: a difference is a MISMATCH, and exit code 3.

    With -f the cluster is a folder of YAML, and the rules are those that would be programmed.
    """,
        epilog=_EXPLAIN,
    )
)


def _refuse_without_files(files: tuple[str, ...], *given: object) -> None:
    if not files and any(given):
        raise click.UsageError("--node, --link and the flags of run need -f PATH", click.get_current_context())


# --- denied -----------------------------------------------------------------------------------------------------------


@policy.command(
    "denied",
    short_help="Show what policies deny: counted, or live.",
    epilog="""\b
Examples:
  kuberouterpy policy denied
  kuberouterpy policy denied -w -n 10 -o json
""",
)
@click.option("-w", "--watch", is_flag=True, help="Print packets as they are denied, until interrupted.")
@click.option("-n", "--count", default=0, metavar="N", help="With -w: end after so many packets.")
@click.option("-o", "--output", type=click.Choice(_FORM), default="table", show_default=True, help="Form.")
@socket_option
def denied(*, watch: bool, count: int, output: str, agent_socket: str) -> int:
    """Show which policies of this node denied packets, by the kernel's counters; with -w each packet as it is denied.

    Live packets come from NFLOG group 100, at most ten a second for each pod and direction. Needs root.
    """
    if watch:
        return _watch(count, output, agent_socket)
    told = ask(agent_socket, "policies", PolicyList)
    counts = _counts()
    rows = [
        [one.name, direction, str(found.denied), "audited: let go" if one.audited else "dropped"]
        for one in told.policies
        for direction, chain in one.chains.items()
        if (found := counts.get(chain)) and found.denied
    ]
    if output == "json":
        _json([dict(zip(("policy", "direction", "packets", "fate"), row, strict=True)) for row in rows])
    else:
        for line in table.lines(("POLICY", "DIRECTION", "PACKETS", "FATE"), rows, columns=table.width()):
            click.echo(line)
        if not rows:
            click.echo("no packet was denied since the rules were last changed")
    return ExitCode.FINE


def _watch(count: int, output: str, agent_socket: str) -> int:
    from firewall.pod_chains import NFLOG_GROUP
    from kuberouterpy.cli.denied import Names, lines
    from kuberouterpy.drivers.nflog import NflogReader

    reader = NflogReader(NFLOG_GROUP)
    names = Names(lambda: ask(agent_socket, "names", dict[str, str]), time.monotonic)
    try:
        for number, packet in enumerate(reader.packets(), 1):
            for line in lines(packet, names, time.strftime("%H:%M:%S"), as_json=output == "json"):
                click.echo(line)
            sys.stdout.flush()
            if number == count:
                break
    finally:
        reader.close()
    return ExitCode.FINE
