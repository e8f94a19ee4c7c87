"""The agent's socket: who may ask, what is answered, and what becomes of a socket that is already there."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from kuberouterpy.cli.ask import Refused, Unreachable, ask
from kuberouterpy.errors import SourceError
from kuberouterpy.sources.socket import SocketSource
from kuberouterpy.status import Status


def answer(question: str, words: Mapping[str, Sequence[str]]) -> object:
    match question, words.get("kind"):
        case "status", _:
            return Status(node="n1", version="0.1.0")
        case "objects", ["absurd"]:
            raise SourceError("no kind is called absurd")
        case "objects", _:
            raise KeyError("a bug")
        case "plan", _:
            raise TimeoutError("the loop is busy")
        case _:
            return {"words": words}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    source = SocketSource(str(tmp_path / "run" / "agent.sock"), answer)
    source.start()
    yield tmp_path / "run" / "agent.sock"
    source.stop()


def get(path: Path, target: str, method: str = "GET") -> tuple[int, object]:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5)
        link.connect(str(path))
        link.sendall(f"{method} {target} HTTP/1.0\r\n\r\n".encode())
        response = http.client.HTTPResponse(link)
        response.begin()
        return response.status, json.loads(response.read())


def test_only_its_user_can_open_the_socket_and_its_folder(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_question_is_answered_as_json(path: Path) -> None:
    assert ask(str(path), "status", Status).node == "n1"


def test_words_of_the_query_reach_the_answer(path: Path) -> None:
    assert get(path, "/v1/explain?subject=a%2Fb&subject=c") == (200, {"words": {"subject": ["a/b", "c"]}})


def test_what_cannot_be_answered_is_told_in_the_agents_words(path: Path) -> None:
    with pytest.raises(Refused, match="no kind is called absurd"):
        ask(str(path), "objects", Status, kind=["absurd"])


def test_a_busy_loop_is_unavailable_and_the_client_says_so(path: Path) -> None:
    assert get(path, "/v1/plan")[0] == 503
    with pytest.raises(Unreachable, match="busy"):
        ask(str(path), "plan", Status)


def test_a_bug_in_an_answer_is_an_answer_too(path: Path) -> None:
    status, body = get(path, "/v1/objects")
    assert status == 500
    assert "a bug in the agent" in str(body)


@pytest.mark.parametrize("target", ["/v2/status", "/v1/secrets", "/", "/v1/"])
def test_another_version_or_path_is_told_what_there_is(path: Path, target: str) -> None:
    status, body = get(path, target)
    assert status == 404
    assert "/v1/status" in str(body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(path: Path, method: str) -> None:
    assert get(path, "/v1/status", method)[0] == 405


def test_stopping_removes_the_socket(tmp_path: Path) -> None:
    source = SocketSource(str(tmp_path / "agent.sock"), answer)
    source.start()
    source.stop()
    assert not (tmp_path / "agent.sock").exists()


def test_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    source = SocketSource(str(path), answer)
    source.start()
    assert ask(str(path), "status", Status).node == "n1"
    source.stop()


def test_a_living_agents_socket_is_left_alone(path: Path) -> None:
    second = SocketSource(str(path), lambda question, words: Status(node="second", version=""))
    second.start()
    assert ask(str(path), "status", Status).node == "n1"
    second.stop()
    assert ask(str(path), "status", Status).node == "n1"


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("mine")
    source = SocketSource(str(path), answer)
    source.start()
    source.stop()
    assert path.read_text() == "mine"


def test_no_agent_is_unreachable_with_a_mend(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"no agent answers at .*does kuberouterpy run") as told:
        ask(str(tmp_path / "none.sock"), "status", Status)
    assert told.value.exit_code == 6


def test_a_socket_of_something_else_is_no_agent(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        pid = os.fork()
        if not pid:
            link, _ = other.accept()
            link.sendall(b"220 mail ready\r\n")
            link.close()
            os._exit(0)
        with pytest.raises(Unreachable):
            ask(str(path), "status", Status)
        os.waitpid(pid, 0)
