"""``record``, ``log-level``, and questions to a recording: screens, errors and exit codes."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kuberouterpy import log as logs
from kuberouterpy.answers.own import OWN
from kuberouterpy.cli import main
from kuberouterpy.cli.moments import moment
from kuberouterpy.cluster import KUBERNETES_KINDS, BestPath, Link, Service, Upsert
from kuberouterpy.config import Config
from kuberouterpy.errors import ConfigError
from kuberouterpy.record import frame, snapshot
from kuberouterpy.recorder import _Events, _step
from kuberouterpy.sources.socket import SocketSource
from kuberouterpy.store import Store
from tests.kuberouterpy.test_record import RECORDS
from tests.kuberouterpy.test_tally import WEB, slice_of

NOON = 1_700_000_000.0  # 2023-11-14T22:13:20Z


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """A ring: at first there is no Service, a minute later there is one with an endpoint."""
    store = Store()
    for one in RECORDS:
        if type(one) not in (Service, type(slice_of(WEB.families[0], ""))):
            store.apply(Upsert(one))
    config = Config(node_name="n1", enable_ipv6=True, run_router=False, run_firewall=False, masquerade_all=True)
    tables = {kind: tuple(store.table(kind)) for kind in (*KUBERNETES_KINDS, BestPath, Link)}
    raw = frame(snapshot("n1", "0.1.0", config, tables), NOON)
    news = [WEB, *(slice_of(family, "") for family in WEB.families)]
    raw += frame(_step(_Events([change for one in news for change in store.apply(Upsert(one))], (), ())), NOON + 60)
    folder = tmp_path / "ring"
    folder.mkdir()
    (folder / "00000001.rec").write_bytes(raw + b"kRf1 half a frame")
    return str(folder)


def test_a_plan_is_made_from_what_was_known_then(recording: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--from", recording, "--at", "2023-11-14T22:13:50Z"]) == 0
    before = capsys.readouterr()
    assert main(["plan", "--from", recording]) == 0
    after = capsys.readouterr()
    assert "note: n1 as it was at 2023-11-14T22:13:20.000Z, agent 0.1.0" in before.err
    assert "10.96.0.10" not in before.out
    assert "+ real      tcp 10.96.0.10:80 -> 10.1.0.1:8080" in after.out
    assert "+ real      tcp [fd00:10:96::a]:80 -> [fd00:10:1::1]:8080" in after.out
    # The settings are those of then: no router, so no BGP in the plan.
    assert "speaker" not in after.out


def test_explain_answers_from_a_recording(recording: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "service/default/web", "--from", recording]) == 0
    assert "Service default/web: ClusterIP" in capsys.readouterr().out
    assert main(["explain", "service/default/web", "--from", recording, "--at", "2023-11-14T22:13:50"]) == 1
    assert "nothing is known of service/default/web" in capsys.readouterr().err


def test_trace_answers_from_a_recording(recording: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "pod/default/web-1", "service/default/web", "--from", recording, "-o", "json"]) == 0
    ends = {one["ways"][0]["endpoint"] for one in json.loads(capsys.readouterr().out)["traces"]}
    assert ends == {"10.1.0.1:8080", "[fd00:10:1::1]:8080"}


def test_export_leaves_the_half_frame_out_and_is_read_alike(
    recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.rec"
    assert main(["record", "export", recording, "-o", str(target)]) == 0
    assert b"half a frame" not in target.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    assert main(["record", "show", str(target)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("2023-11-14T22:13:20.000Z snapshot  n1, agent 0.1.0: ")
    assert shown[1:] == [
        "2023-11-14T22:14:20.000Z fact      Service default/web",
        "2023-11-14T22:14:20.000Z fact      EndpointSlice default/web-4",
        "2023-11-14T22:14:20.000Z fact      EndpointSlice default/web-6",
    ]
    assert main(["record", "show", recording, "--since", "2023-11-14T22:14:00Z", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["text"] == "Service default/web"


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["plan", "--from", "/none"], 2, "error: /none: no such file or directory"),
        (["plan", "--from", "RING", "--at", "noon"], 2, "error: --at 'noon' is no time; write "),
        (
            ["plan", "--from", "RING", "--at", "2001-01-01T00:00:00Z"],
            1,
            "error: the recording begins later, at 2023-11-14",
        ),
        (["plan", "--at", "10m"], 2, "error: --at needs --from FILE"),
        (["plan", "--from", "RING", "-f", "x.yaml"], 2, "error: --from stands alone"),
        (["plan", "--from", "GARBAGE"], 1, "error: the recording is empty"),
        (["record", "show", "/none"], 2, "error: /none: no such file or directory"),
        (["record", "export", "/none"], 2, "error: /none: no such folder; does the agent run with --record-dir /none?"),
        (["record", "show", "RING", "--since", "x"], 2, "error: --since 'x' is no time"),
    ],
)
def test_what_cannot_be_answered_is_one_clear_line(
    words: list[str], code: int, error: str, recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "garbage").write_bytes(b"\x00" * 100)
    given = [{"RING": recording, "GARBAGE": str(tmp_path / "garbage")}.get(word, word) for word in words]
    assert main(given) == code
    assert capsys.readouterr().err.splitlines()[0].startswith(error)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("10m", "2023-11-14T22:03:20+00:00"),
        ("-90s", "2023-11-14T22:11:50+00:00"),
        ("14:05", "2023-11-14T14:05:00+00:00"),
        ("23:05:01", "2023-11-13T23:05:01+00:00"),
        ("2023-11-14T23:00:00+01:00", "2023-11-14T22:00:00+00:00"),
        ("2023-11-14 22:00", "2023-11-14T22:00:00+00:00"),
    ],
)
def test_moments_are_read_as_people_write_them(text: str, at: str) -> None:
    now = datetime.fromtimestamp(NOON, UTC)
    assert moment(text, option="--at", now=now) == datetime.fromisoformat(at).timestamp()


def test_a_moment_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="--at"):
        moment("later", option="--at", now=datetime.now(UTC))


# --- log-level over a socket ------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """A socket that answers as the agent's does."""

    def answer(question: str, words: Mapping[str, Sequence[str]]) -> object:
        return OWN[question](words)

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    path = str(tmp_path / "run" / "agent.sock")
    source = SocketSource(path, answer)
    source.start()
    yield path
    source.stop()
    logs.LEVEL.revert()
    root.setLevel(level)


def test_the_level_is_shown_and_changed_for_a_while(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, shown in (
        ([], "info"),
        (["debug", "--for", "10m"], "debug, back in 10m0s"),
        (["error"], "error, back in 10m0s"),
    ):
        assert main(["log-level", *words, "--agent-socket", agent]) == 0
        assert capsys.readouterr().out.strip() == shown
    assert logging.getLogger().level == logging.ERROR


def test_a_span_that_is_none_is_refused_by_the_agent(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log-level", "debug", "--for", "1y", "--agent-socket", agent]) == 1
    assert capsys.readouterr().err == "error: for '1y' is not a duration; write it as 90s, 5m or 1h30m\n"


def test_without_an_agent_it_is_unreachable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log-level", "--agent-socket", str(tmp_path / "none")]) == 6
    assert "no agent answers at" in capsys.readouterr().err


def test_a_socket_that_may_not_be_opened_says_who_may(
    agent: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kuberouterpy.cli.ask._Connection.connect", denied)
    assert main(["log-level", "--agent-socket", agent]) == 6
    assert capsys.readouterr().err == f"error: {agent}: permission denied; run as root\n"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", "no agent answers at"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "does not speak as an agent of this version"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", "no agent answers at"),
        (b"nonsense\r\n\r\n", "no agent answers at"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone", "is no agent (404)"),
        (
            b'HTTP/1.1 404 Not Found\r\nContent-Length: 36\r\n\r\n{"error":"no such path: /v1/x; ..."}',
            "is of another version (no such path: /v1/x; ...)",
        ),
        (
            b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 38\r\n\r\n{"error":"the loop is busy or stuck."}',
            "the loop is busy or stuck",
        ),
    ],
    ids=["hangs up", "another version", "cut off", "no HTTP", "another server", "older agent", "busy"],
)
def test_whatever_answers_instead_of_an_agent_is_one_line_and_exit_code_6(
    reply: bytes, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.recv(65536)
                link.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        assert main(["log-level", "--agent-socket", path]) == 6
        thread.join(5)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert error in told[0]


def test_a_socket_that_hangs_is_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kuberouterpy.cli.ask._TIMEOUT_S", 0.2)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert main(["log-level", "--agent-socket", path]) == 6
    assert "no agent answers at" in capsys.readouterr().err
