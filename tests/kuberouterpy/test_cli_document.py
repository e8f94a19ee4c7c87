"""docs/cli.md is what the help pages say, and every example on them can be pasted; ``--update`` rewrites it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from kuberouterpy.cli import PROGRAM, ExitCode, cli
from tests.documents import ROOT

DOCUMENT = ROOT / "docs" / "cli.md"
WIDTH = 120
HEAD = f"""# The command line

Made from the help pages by `pytest tests/kuberouterpy/test_cli_document.py --update`; `{PROGRAM} COMMAND --help` shows
the same.

| exit code | means |
|---|---|
"""
MEANINGS = {
    ExitCode.FINE: "fine",
    ExitCode.ERROR: "an error, named on stderr; `trace --exit-code`: the packet does not arrive",
    ExitCode.USAGE: "wrong usage, flag, file, or a missing right",
    ExitCode.DIFFERENCES: "differences: `plan --exit-code`, `cleanup --exit-code`, `trace --live`",
    ExitCode.UNHEALTHY: "unhealthy: `doctor`, `status --exit-code`",
    ExitCode.DENIED: "denied: `trace --exit-code`",
    ExitCode.UNREACHABLE: "no agent answers",
    ExitCode.INTERRUPTED: "interrupted",
}


def pages(
    command: click.Command, path: tuple[str, ...] = (PROGRAM,)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its path, groups before what is in them."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            if not inner.hidden:
                yield from pages(inner, (*path, name))


PAGES = list(pages(cli))
BY_PATH = dict(PAGES)


def page(path: tuple[str, ...], command: click.Command) -> str:
    """Return a help page, as wide as the document has it."""
    context: click.Context | None = None
    for depth, name in enumerate(path, 1):
        # click keeps the help option that is made first: it must be made as a real call makes it, below its groups.
        above = BY_PATH[path[:depth]]
        settings = {**above.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
        context = click.Context(above, context, name, **settings)
    assert context is not None
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def document() -> str:
    """Return the document as the code would have it."""
    rows = "".join(f"| {int(code)} | {text} |\n" for code, text in MEANINGS.items())
    parts = [f"\n## {' '.join(path)}\n\n```text\n{page(path, command)}\n```\n" for path, command in PAGES]
    return HEAD + rows + "".join(parts)


def test_the_document_is_what_the_help_pages_say(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update"):
        DOCUMENT.write_text(document())
    assert DOCUMENT.read_text() == document(), "run: pytest tests/kuberouterpy/test_cli_document.py --update"


def test_every_exit_code_has_its_meaning() -> None:
    assert set(MEANINGS) == set(ExitCode)


def examples(command: click.Command) -> list[str]:
    """Return the examples of a help page, lines that go on joined, what is said beside them cut off."""
    text = (command.epilog or "").replace("\\\n", " ")
    lines = (re.split(r"\s{2,}(?=\S)", line.strip())[0] for line in text.splitlines())
    return [line for line in lines if line and not line.endswith(":") and line != "\b"]


@pytest.mark.parametrize(("path", "command"), PAGES, ids=lambda one: "-".join(one) if isinstance(one, tuple) else "")
def test_every_help_page_has_examples_that_parse(path: tuple[str, ...], command: click.Command) -> None:
    """Each is a command with flags and arguments that this very program takes."""
    shown = examples(command)
    assert shown, f"{' '.join(path)} has no examples"
    for line in shown:
        for words in _calls(line):
            current, context = cli, click.Context(cli, info_name=PROGRAM)
            while isinstance(current, click.Group):
                name = words.pop(0)
                if name.startswith("-"):
                    break
                inner = current.get_command(context, name)
                assert inner is not None, f"{line}: no command {name}"
                current = inner  # type: ignore[assignment]
            if not words or {"--help", "-h"} & set(words):
                continue
            told = _refusal(current, path[-1], words)
            assert not told or "does not exist" in told, (line, told)  # a folder of the example's own


def _refusal(command: click.Command, name: str, words: list[str]) -> str:
    """Return why a command does not take some words; empty where it does."""
    try:
        command.make_context(name, words)
    except click.BadParameter as error:
        return error.message
    return ""


def _calls(line: str) -> Iterator[list[str]]:
    """Yield the words after our name of every call of ours in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in (*lexer, ";"):
        if set(word) <= set("();<>|&"):
            if words[:1] == [PROGRAM]:
                yield words[1:]
            words = []
        elif word not in {"#", "!", "sudo"}:
            words.append(word)
