"""``status``: problems first, and an exit code that scripts can use."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from kuberouterpy.answers import ForeignView, NeighborView, Overview
from kuberouterpy.cli import ExitCode, main
from kuberouterpy.cli.status import healthy, lines, screen, since
from kuberouterpy.health import pages
from kuberouterpy.sources.http import HttpSource
from kuberouterpy.status import FailingKey, SourceStatus, Status

GOOD = Status(
    node="n1",
    version="0.1.0",
    up_s=7300,
    synced=True,
    settled=True,
    objects={"virtual": 12, "real": 1930},
    records={"Service": 12},
    sources=(SourceStatus("kubernetes", True, since_s=61), SourceStatus("gobgp", True)),
    last_change_s=14,
    last_took_ms=38.4,
)
BAD = Status(
    node="n1",
    version="0.1.0",
    up_s=5,
    synced=True,
    settled=True,
    failing=(FailingKey("set kube-router-x", ("firewall/policy/a/p",), "create set: busy (EBUSY)", 3, 4.0),),
    failing_total=5,
    failing_steps=3,
    sources=(SourceStatus("kubernetes", False, "connection refused", 240),),
    rejected=("Service default/web: spec.type: 'Absurd' is unknown",),
    bugs=("proxy/service/default/x",),
    drift_repaired={"chain": 2},
)


@pytest.fixture
def agent(request: pytest.FixtureRequest) -> Iterator[int]:
    """Serve a Status as an agent does; return the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    asked = threading.Event()
    source = HttpSource("127.0.0.1", port, pages(lambda: request.param, lambda: 0.0, lambda: 0.0))
    source.start()
    while not asked.is_set():
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            asked.set()
        except OSError:
            continue
    yield port
    source.stop()
    source._thread.join(5)


def test_a_healthy_agent_fits_a_few_lines() -> None:
    assert list(lines(GOOD)) == [
        "node        n1   agent 0.1.0   up 2h   ready",
        "kubernetes  ok   for 61s",
        "gobgp       ok   for 0s",
        "facts       12 Service",
        "programmed  1,930 real  12 virtual   pending 0",
        "changed     14s ago, in 38 ms",
        "drift       none",
    ]
    assert healthy(GOOD)


def test_problems_come_first_and_name_cause_and_owner() -> None:
    shown = list(lines(BAD))
    assert shown[:7] == [
        "node        n1   agent 0.1.0   up 5s   NOT READY",
        "UNREACHABLE kubernetes for 4m: connection refused",
        "FAILING     set kube-router-x: create set: busy (EBUSY)   (try 3, next in 4s)",
        "            wanted by firewall/policy/a/p",
        "            and 4 more",
        "REJECTED    Service default/web: spec.type: 'Absurd' is unknown",
        "BUG         proxy/service/default/x: its last objects stay; please report it",
    ]
    assert not healthy(BAD)


def test_an_agent_that_waits_says_for_what() -> None:
    assert "WAITING     for the first list of Pod, Service" in lines(Status("n1", "0", waiting_for=("Pod", "Service")))
    assert "WAITING     for the first pass over the kernel" in lines(Status("n1", "0", synced=True))


@pytest.mark.parametrize(
    ("agent", "arguments", "code"),
    [
        (GOOD, [], ExitCode.FINE),
        (GOOD, ["--exit-code"], ExitCode.FINE),
        (BAD, [], ExitCode.FINE),
        (BAD, ["--exit-code"], ExitCode.UNHEALTHY),
    ],
    indirect=["agent"],
)
def test_the_exit_code_tells_health_when_asked(agent: int, arguments: list[str], code: int) -> None:
    assert main(["status", "--port", str(agent), *arguments]) == code


@pytest.mark.parametrize("agent", [BAD], indirect=True)
def test_json_is_the_agents_own(agent: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--port", str(agent), "-o", "json"]) == ExitCode.FINE
    assert json.loads(capsys.readouterr().out)["failing_total"] == 5


def test_no_agent_is_one_line_and_exit_code_6(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert main(["status", "--port", str(port)]) == ExitCode.UNREACHABLE
    assert capsys.readouterr().err.splitlines() == [
        f"error: no agent answers at 127.0.0.1:{port} (connection refused); does kuberouterpy run there on this port?"
    ]


def test_something_else_on_the_port_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        assert main(["status", "--port", str(other.getsockname()[1])]) == ExitCode.UNREACHABLE
        thread.join(5)
    assert "does not speak as an agent does" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (90, "90s"), (600, "10m"), (7200, "2h"), (200_000, "2d"), (260_000, "3d")]
)
def test_spans_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert since(seconds) == text


def overview(**more: object) -> Overview:
    return Overview(GOOD, ("proxy", "routing", "firewall"), 412, 1930, 2, {"rr": 400, "mh": 12}, 61, 0, **more)  # type: ignore[arg-type]


def test_the_screen_has_a_line_a_controller_and_says_what_to_look_at_next() -> None:
    down = NeighborView("10.0.0.9", "worker-9", up=False, state="active hold timer expired")
    up = NeighborView("fd00::2", "worker-2", up=True, state="established")
    others = (
        ForeignView("rules", 12, ("v4 nat DOCKER", "v4 nat POSTROUTING", "v6 filter INPUT"), more=2),
        ForeignView("virtual servers", 1, ("tcp 192.0.2.1:443",)),
    )
    out = list(screen(overview(neighbors=(down, up), foreign=others)))
    assert "proxy       ok   412 services  1,930 real servers (2 draining)  rr/mh" in out
    assert "firewall    ok   61 pods protected, 0 waiting for an address" in out
    assert "routing     WARN   1 of 2 neighbors up   worker-9 10.0.0.9 active hold timer expired" in out
    names = "v4 nat DOCKER, v4 nat POSTROUTING, v6 filter INPUT, tcp 192.0.2.1:443 ..."
    assert f"foreign     12 rules, 1 virtual server left alone: {names}" in out
    assert out[-1] == "next        kuberouterpy explain neighbor 10.0.0.9"
    assert out[0].startswith("node        n1   agent 0.1.0   kernel ")


def test_problems_stand_above_what_runs_and_a_sound_node_has_no_next() -> None:
    out = list(screen(replace(overview(), status=BAD)))
    labels = [line.split(" ")[0] for line in out]
    assert labels.index("FAILING") < labels.index("proxy")
    assert [line for line in out if line.startswith("next")] == [
        "next        kuberouterpy explain set kube-router-x",
        "next        kuberouterpy doctor",
    ]
    assert not [line for line in screen(overview()) if line.startswith("next")]
    none = (ForeignView("rules", 0, ()), ForeignView("virtual servers", 0, ()))
    assert "foreign     nothing of others" in list(screen(overview(foreign=none)))
