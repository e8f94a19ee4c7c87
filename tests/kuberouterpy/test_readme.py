"""Every command that README and CONTRIBUTING tell a person to type exists, with the options they show."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from kuberouterpy.cli import cli
from tests.documents import COMMANDS, ROOT

MAKE = [command for command in COMMANDS if command[0] == "make"]
OURS = [command for command in COMMANDS if command[0] == "kuberouterpy"]


def test_the_documents_show_commands_of_both_kinds() -> None:
    assert len(MAKE) >= 2
    assert len(OURS) >= 8


@pytest.mark.parametrize("command", MAKE, ids=" ".join)
def test_make_has_the_target(command: list[str]) -> None:
    done = subprocess.run(["make", "--dry-run", *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_the_program_understands_the_command(words: list[str]) -> None:
    command: click.Command = cli  # its settings are those of every command below: click keeps what it makes of them
    context = click.Context(command, info_name="kuberouterpy", **cli.context_settings)
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    if "--help" in rest:
        return
    # Files that the documents name as examples need not exist here.
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            parameter.type.exists = False
    command.make_context(context.info_name, rest, parent=context.parent)


def test_links_of_the_documents_lead_to_files() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text()
        targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
        assert [target for target in targets if not Path(ROOT / target).exists()] == []


def test_the_demos_screen_is_what_the_demo_says() -> None:
    said = "".join(path.read_text() for path in (ROOT / "kuberouterpy" / "lab").rglob("*.py"))
    shown = re.findall(r"^ok  (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(shown) >= 6
    # Numbers come from the run; what is told stands in the story.
    assert [line for line in shown if re.split(r"^\d+ ", line)[-1] not in said] == []
