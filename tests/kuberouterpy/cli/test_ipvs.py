"""``ipvs``: the kernel's table with the agent's names, with and without an agent, in every form."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from kuberouterpy import answers
from kuberouterpy.cli import ipvs_rows, main, table
from kuberouterpy.cli.ipvs_screens import top_table
from kuberouterpy.cli.ipvsadm import Form, large, lines, merge_sorted
from kuberouterpy.dataplane import (
    Chain,
    ChainKey,
    Forward,
    RealServer,
    RealServerKey,
    Rule,
    VirtualServer,
    VirtualServerKey,
)
from kuberouterpy.dataplane import Table as ChainTable
from kuberouterpy.drivers import ipvs_table
from kuberouterpy.drivers.fake import FakeDriver
from kuberouterpy.drivers.ipvs_table import Counters, Real, Table, Virtual
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.loop import Loop
from kuberouterpy.protocol import Protocol
from kuberouterpy.sources.socket import SocketSource
from kuberouterpy.status import Status
from tests.kuberouterpy.cli.test_plan import agent, folder  # noqa: F401

ALIEN = VirtualServerKey(IPV4, Protocol.TCP, "192.0.2.1", 443)
NONE = Counters()


def standing(loop: Loop) -> Table:
    """Return the table a kernel would show after this agent, with a foreign server in it."""
    wanted = list(loop.tracker.wanted_of((VirtualServer, RealServer)))
    reals = [value for value in wanted if isinstance(value, RealServer)]
    servers = [
        Virtual(
            value.key,
            value.scheduler,
            value.flags,
            0,
            "",
            "",
            Counters(5, 40, 30, 4000, 3000),
            tuple(
                Real(real.key, real.forward, real.weight, 2, 1, NONE) for real in reals if real.key.server == value.key
            ),
        )
        for value in wanted
        if isinstance(value, VirtualServer)
    ]
    alien = Virtual(
        ALIEN, "wlc", 1, 300, "", "", NONE, (Real(RealServerKey(ALIEN, "10.9.9.9", 443), Forward.ROUTE, 3, 0, 0, NONE),)
    )
    return Table("1.2.1", 4096, (*servers, alien))


@pytest.fixture
def node(
    agent: Callable[..., Loop],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A node: its table, and an agent's socket that answers for its loop."""
    loop = agent()
    monkeypatch.setattr(ipvs_table, "read", lambda: standing(loop))
    fake = loop.drivers[0].driver
    assert isinstance(fake, FakeDriver)
    docker = ChainKey(IPV4, ChainTable.NAT, "DOCKER")
    fake.kernel.plant(VirtualServer(ALIEN, "wlc", 1), Chain(docker, (Rule((), ("RETURN",)),) * 12))

    def answer(question: str, words: Mapping[str, Sequence[str]]) -> object:
        return answers.answer(loop, question, words, now=time.monotonic())

    source = SocketSource(str(tmp_path / "run" / "agent.sock"), answer)
    source.start()
    yield str(tmp_path / "run" / "agent.sock")
    source.stop()


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["ipvs", *words]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_list_names_services_and_shows_foreign_ones(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "list", "--agent-socket", node) == [
        "VIRTUAL SERVER SCHED SERVICE PORT VIP READY ACTIVE STATE",
        "tcp 10.96.0.10:80 rr default/web http cluster-ip 1/2 4 ok",
        "tcp 192.0.2.1:443 wlc (foreign) - - 1/1 0 foreign",
        "tcp [fd00:96::a]:80 rr default/web http cluster-ip 1/1 2 ok",
    ]


def test_one_server_shows_pods_and_why_a_weight_is_zero(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "show", "tcp/10.96.0.10:80", "--agent-socket", node)
    assert out[0] == "tcp 10.96.0.10:80 rr default/web http cluster-ip ok"
    assert out[1] == "wanted by proxy/service/default/web"
    assert "10.1.1.3:8080 1 masq 2 1 default/web-1 n1 ready" in out
    assert "10.1.2.3:8080 0 masq 2 1 - n2 terminating, drains" in out


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--service", "default/web"), ["tcp/10.96.0.10:80", "tcp/[fd00:96::a]:80"]),
        (("-n", "kube-system"), []),
        (("--vip", "fd00:96:0::a"), ["tcp/[fd00:96::a]:80"]),
        (("--port", "443"), ["tcp/192.0.2.1:443"]),
        (("--protocol", "udp"), []),
        (("--state", "foreign"), ["tcp/192.0.2.1:443"]),
        (("--state", "draining"), ["tcp/10.96.0.10:80"]),
        (("--state", "empty"), []),
    ],
)
def test_filters_choose(node: str, capsys: pytest.CaptureFixture[str], words: Sequence[str], names: list[str]) -> None:
    out = shown(capsys, "list", "-o", "name", "--agent-socket", node, *words)
    assert out == names


def test_json_and_yaml_say_the_same(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ipvs", "list", "-o", "json", "--agent-socket", node]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["ipvs", "list", "-o", "yaml", "--agent-socket", node]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == first
    assert first[0]["owners"] == ["proxy/service/default/web"]
    assert first[0]["reals"][0]["pod"] == "default/web-1"


def test_counters_are_of_servers_and_pods(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "stats", "--agent-socket", node)
    assert "tcp 10.96.0.10:80 default/web 5 40 30 4,000 3,000" in out
    assert "-> 10.1.1.3:8080 default/web-1 0 0 0 0 0" in out


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ((), "tcp 10.96.0.10:80 default/web 4 0 0 0 0 0"),
        (("--sort", "active", "--reals"), "tcp 10.96.0.10:80 -> 10.1.1.3:8080 default/web-1 2 0 0 0 0 0"),
        (("--state", "foreign"), "tcp 192.0.2.1:443 (foreign) 0 0 0 0 0 0"),
    ],
)
def test_top_shows_the_busiest_first_and_once_in_a_pipe(
    node: str, capsys: pytest.CaptureFixture[str], words: Sequence[str], first: str
) -> None:
    out = shown(capsys, "top", "--agent-socket", node, *words)
    assert out[0] == "SERVER SERVICE OR POD ACTIVE CONNS/S PKTS/S IN OUT BYTES/S IN OUT"
    assert out[1] == first


def test_top_ranks_by_what_it_is_told() -> None:
    rates = [Counters(connections_per_s=1, bytes_in_per_s=9), Counters(connections_per_s=2, bytes_in_per_s=3)]
    listed = [ipvs_rows.ServerRow(f"tcp 10.0.0.{index}:80", "rr", "a/b", one) for index, one in enumerate(rates)]
    order = [
        [line.split()[1] for line in top_table(listed, wide=False, sort=sort, reals=False)][1:]
        for sort in ("connections", "bytes")
    ]
    assert order == [["10.0.0.1:80", "10.0.0.0:80"], ["10.0.0.0:80", "10.0.0.1:80"]]


def test_what_is_wanted_but_missing_stands_first(
    node: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipvs_table, "read", lambda: Table("1.2.1", 4096, ()))
    known = answers.View("virtual", "tcp 10.96.0.10:80", "missing", owners=("proxy/service/default/web",), error="no")
    listed = ipvs_rows.rows((), {("virtual", known.name): known}, {})
    assert [(row.name, row.state, row.notes) for row in listed] == [("tcp 10.96.0.10:80", "missing", ("no",))]


def test_a_weight_that_another_hand_changed_is_named(
    node: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent believes what it last saw; the kernel is what stands."""
    before = ipvs_table.read()
    reals = [replace(one, reals=tuple(replace(real, weight=0) for real in one.reals)) for one in before.servers]
    monkeypatch.setattr(ipvs_table, "read", lambda: replace(before, servers=tuple(reals)))
    out = shown(capsys, "show", "10.96.0.10:80", "--agent-socket", node)
    assert any(line.endswith("drains, changed by another hand: wanted weight 1 masq") for line in out)


def test_without_an_agent_the_kernel_alone_is_shown_and_said_so(
    node: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEROUTERPY_SOCKET", raising=False)
    monkeypatch.setattr("kuberouterpy.cli.ask.DEFAULT", node + ".none")
    monkeypatch.setattr(ipvs_rows, "judge", lambda: lambda key: key.address == "10.96.0.10")
    assert main(["ipvs", "list"]) == 0
    told = capsys.readouterr()
    assert "note: no agent answers" in told.err
    assert "(ours)" in told.out
    assert "(foreign)" in told.out


def test_an_agent_that_was_asked_for_and_is_away_is_exit_code_six(
    node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ipvs", "list", "--agent-socket", node + ".none"]) == 6
    assert main(["ipvs", "connections", "--agent-socket", node + ".none"]) in {1, 6}


def test_a_server_that_is_not_there_is_an_error(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ipvs", "show", "10.0.0.1:1", "--agent-socket", node]) == 1
    assert main(["ipvs", "show", "nonsense", "--agent-socket", node]) == 2


def test_a_server_by_firewall_mark_is_shown(
    node: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = Virtual(VirtualServerKey(IPV4, Protocol.TCP, "", 0, 77), "rr", 0, 0, "", "", NONE)
    monkeypatch.setattr(ipvs_table, "read", lambda: Table("1.2.1", 1, (marked,)))
    assert shown(capsys, "show", "fwmark/77", "--agent-socket", node)[0] == "fwmark 77 inet rr (foreign) foreign"
    assert main(["ipvs", "show", "fwmark/7", "--agent-socket", node]) == 1


def test_ipvsadm_needs_no_agent(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ipvs", "list", "-o", "ipvsadm", "--agent-socket", node + ".none", "--vip", "192.0.2.1"]) == 0
    assert capsys.readouterr().out == (
        "IP Virtual Server version 1.2.1 (size=4096)\n"
        "Prot LocalAddress:Port Scheduler Flags\n"
        "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
        "TCP  192.0.2.1:443 wlc persistent 300\n"
        "  -> 10.9.9.9:443                 Route   3      0          0         \n"
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "        0"),
        (99_999_999, " 99999999"),
        (123_456_789, "  123456K"),
        (99_999_999_999, "   99999M"),
        (10**13, "   10000G"),
        (10**15, "    1000T"),
    ],
)
def test_large_numbers_are_cut_as_the_tool_cuts_them(number: int, text: str) -> None:
    assert large(number) == text


def test_addresses_stand_in_the_tools_order_not_in_theirs() -> None:
    keys = [VirtualServerKey(IPV4, Protocol.TCP, one, 80) for one in ("10.0.0.1", "192.0.2.1")]
    keys.append(VirtualServerKey(IPV6, Protocol.TCP, "::1", 80))
    servers = tuple(Virtual(key, "rr", 0, 0, "", "", NONE) for key in keys)
    rules = [line.split()[2] for line in lines(Table("1.2.1", 1, servers), Form.SAVE)]
    assert rules == ["192.0.2.1:80", "10.0.0.1:80", "[::1]:80"]
    assert merge_sorted([3, 1, 2], lambda a, b: a - b) == [1, 2, 3]


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_a_table_fits_its_terminal(columns: int) -> None:
    rows = [["tcp [fd00:10:96::a]:80", "a-very-long-namespace-name/and-a-long-service-name", "x" * 40]] * 3
    assert all(len(line) <= columns for line in table.lines(("A", "B", "C"), rows, columns=columns))


def test_what_a_row_is_gives_way_last() -> None:
    rows = [["tcp [fd00:10:96::a]:80", "kube-system/a-long-service-name", "terminating, drains"]]
    assert "tcp [fd00:10:96::a]:80" in "\n".join(table.lines(("A", "B", "C"), rows, columns=50))


def test_nothing_is_cut_in_a_pipe() -> None:
    assert "x" * 400 in "\n".join(table.lines(("A",), [["x" * 400]], columns=0))


def test_a_running_agents_status_comes_from_its_socket(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--agent-socket", node]) == 0
    out = capsys.readouterr().out
    assert "proxy       ok   1 services  3 real servers (1 draining)  rr" in out
    assert "foreign     12 rules, 1 virtual server left alone: v4 nat DOCKER, tcp 192.0.2.1:443" in out
    assert main(["status", "--agent-socket", f"{node}.none"]) == 6


def test_what_stands_and_is_not_ours_is_explained_as_foreign(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "192.0.2.1:443", "--agent-socket", node]) == 0
    assert capsys.readouterr().out.split() == [
        *("192.0.2.1:443", "foreign", "virtual", "tcp", "192.0.2.1:443", "wlc", "1", "real", "servers"),
        *("#", "of", "another", "program:", "never", "touched"),
    ]
    assert main(["explain", "lo", "--agent-socket", node]) == 0
    assert "link      lo" in capsys.readouterr().out
    assert main(["explain", "192.0.2.1:444", "--agent-socket", node]) == 1


def test_cleanup_is_refused_beside_a_running_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the socket that everybody asks, or one that is named: the agent would put everything back."""
    path = str(tmp_path / "run" / "agent.sock")
    source = SocketSource(path, lambda question, words: Status("n1", "0.1.0"))
    source.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBEROUTERPY_SOCKET", path)
            assert main(["cleanup", "--yes"]) == 2
        assert main(["cleanup", "--yes", "--agent-socket", path]) == 2
        assert main(["run", "--cleanup-config", "--agent-socket", path]) == 2
    finally:
        source.stop()
    told = capsys.readouterr()
    assert (
        told.err.splitlines()
        == [f"error: an agent runs here ({path}) and would put everything back; stop it first"] * 3
    )
    assert told.out == ""
