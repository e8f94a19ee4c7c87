"""docs/socket.md names every path and every field that the socket answers, as the code has them; ``--update`` rewrites it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator

import msgspec
import pytest
from msgspec import Struct

from kuberouterpy import answers
from kuberouterpy.answers.bgp import BGP, Neighbors, Routes, Why
from kuberouterpy.answers.own import OWN, LogLevel, Logs, Version
from kuberouterpy.cli import main
from kuberouterpy.sources import socket as sockets
from kuberouterpy.status import Status
from tests.documents import ROOT

DOCUMENT = ROOT / "docs" / "socket.md"
ANSWERS: dict[str, tuple[str, type[Struct]]] = {
    "status": ("how the agent is; never waits for the loop", Status),
    "objects": ("every object, wanted or there; `kind=virtual` (repeated) narrows", answers.Objects),
    "plan": ("what would be done now", answers.Plan),
    "explain": ("why things are there, or not; `subject=service/default/web` (repeated)", answers.Explanations),
    "trace": (
        "where a packet goes, and the answer; `source=...&destination=...&protocol=tcp&family=4`",
        answers.Traces,
    ),
    "overview": ("a node at one glance, a line a controller", answers.Overview),
    "policies": ("NetworkPolicies of all kinds and what each does here", answers.PolicyList),
    "connection": ("the rules a connection meets; `from=...&to=...&port=80/tcp`", answers.Connection),
    "bgp-neighbors": ("sessions, those with problems first", Neighbors),
    "bgp-routes": ("what is announced and learned", Routes),
    "bgp-why": ("why a prefix goes where, or does not; `prefix=10.96.0.10`", Why),
    "facts": ("everything the agent was told, secrets hidden", answers.FactTables),
    "version": ("who answers; never waits for the loop", Version),
    "logs": ("the last 2,000 log lines, secrets hidden; never waits for the loop", Logs),
}
PLAIN = {"names", "subjects"}
"""Questions whose answer is no struct: pods by address, and names for shells to complete."""
VERBS: dict[str, tuple[str, type[Struct]]] = {
    "log-level": ("change the level for a while: `level=debug&for=10m`; without words only tells", LogLevel),
}
HEAD = """# The agent's socket

HTTP/1.0 with JSON bodies on a unix socket, `/run/kuberouterpy/agent.sock` (`--agent-socket`). The folder has mode 0700, the
socket 0600, and the kernel says who connects (SO_PEERCRED): only root, or whoever the agent runs as, gets an answer.

```console
# curl -s --unix-socket /run/kuberouterpy/agent.sock http://agent/v1/plan
```

Every path begins with `/v1/`. Within a version fields are only added: a client passes over what it does not know, and a field
that has its default may be left out. What breaks a client is `/v2/`.

Questions are `GET` and change nothing. Verbs are `POST`; there are no others than those below. An error is
`{"error": "..."}` with 404 (not known; the text says what is), 405 (the path has another method), 500 (a bug, see the log) or
503 (the loop did not answer within 10 s). The command line turns 404 into exit code 1, and 503 and silence into 6.

This page is made from the code by `pytest tests/kuberouterpy/test_socket_document.py --update`.
"""


def document() -> str:
    """Return the page as the code would have it."""
    parts = [HEAD, "## Questions\n", *_rows("GET", ANSWERS), "\n## Verbs\n", *_rows("POST", VERBS), "\n## Answers\n"]
    for one in _all([kind for _, kind in (*ANSWERS.values(), *VERBS.values())]):
        parts += [f"### {one.__name__}\n", f"{(inspect.getdoc(one) or '').splitlines()[0]}\n", *_fields(one)]
    return "\n".join(parts)


def _rows(method: str, paths: dict[str, tuple[str, type[Struct]]]) -> Iterator[str]:
    yield "| path | what | answer |\n|---|---|---|"
    for name, (what, kind) in paths.items():
        yield f"| `{method} /v1/{name}` | {what} | [{kind.__name__}](#{kind.__name__.lower()}) |"


def _all(kinds: list[type[Struct]]) -> list[type[Struct]]:
    """Return structs with those in their fields, each once."""
    found: dict[type[Struct], None] = {}
    for kind in kinds:
        found[kind] = None
        inner = [
            one for field in msgspec.structs.fields(kind) for one in _structs(msgspec.inspect.type_info(field.type))
        ]
        found.update(dict.fromkeys(_all(inner)))
    return list(found)


def _structs(info: msgspec.inspect.Type) -> Iterator[type[Struct]]:
    match info:
        case msgspec.inspect.StructType(cls=cls):
            yield cls
        case msgspec.inspect.VarTupleType(item_type=item):
            yield from _structs(item)
        case msgspec.inspect.DictType(value_type=value):
            yield from _structs(value)
        case msgspec.inspect.UnionType(types=types):
            for one in types:
                yield from _structs(one)
        case _:
            return


def _fields(kind: type[Struct]) -> Iterator[str]:
    said = _docstrings(kind)
    yield "| field | type | what |\n|---|---|---|"
    for field in msgspec.structs.fields(kind):
        yield f"| `{field.encode_name}` | {_word(msgspec.inspect.type_info(field.type))} | {said.get(field.name, '')} |"
    yield ""


def _word(info: msgspec.inspect.Type) -> str:
    match info:
        case msgspec.inspect.StructType(cls=cls):
            return f"[{cls.__name__}](#{cls.__name__.lower()})"
        case msgspec.inspect.VarTupleType(item_type=item):
            return f"list of {_word(item)}"
        case msgspec.inspect.DictType(value_type=value):
            return f"object of {_word(value)}"
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(map(_word, types))
        case _:
            words = {"str": "text", "int": "number", "float": "number", "bool": "true or false", "none": "null"}
            name = type(info).__name__.removesuffix("Type").lower()
            return words.get(name, name)


def _docstrings(kind: type[Struct]) -> dict[str, str]:
    """Return what stands below each field in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            value = ast.literal_eval(text.value)
            found[field.target.id] = " ".join(str(value).split()).replace("``", "`").replace("|", "\\|")
    return found


def test_the_page_says_what_the_code_does(request: pytest.FixtureRequest) -> None:
    wanted = document()
    if request.config.getoption("--update"):
        DOCUMENT.write_text(wanted)
    assert DOCUMENT.read_text() == wanted, "run: pytest tests/kuberouterpy/test_socket_document.py --update"


def test_every_path_that_is_served_is_on_the_page() -> None:
    assert {*ANSWERS} <= {*sockets.QUESTIONS}
    missing = {*sockets.QUESTIONS} - {*ANSWERS} - PLAIN
    assert not missing, f"add to ANSWERS of this test: {missing}"
    assert {*VERBS} == {*sockets.VERBS}
    assert {*sockets.QUESTIONS, *sockets.VERBS} == {"status", *answers.QUESTIONS, *OWN, *BGP}


def test_the_command_line_is_what_the_page_says(tmp_path: object) -> None:
    assert main(["log-level", "--agent-socket", f"{tmp_path}/none"]) == 6
