"""Shell completion: commands, flags and names from the node, as a real bash asks for them."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from kuberouterpy.cli import COMMANDS, main
from kuberouterpy.cli.completion import SHELLS
from tests.kuberouterpy.cli.test_ipvs import node  # noqa: F401
from tests.kuberouterpy.cli.test_plan import agent, folder  # noqa: F401


def completed(words: str, *, socket: str = "/nonexistent") -> set[str]:
    """Return what bash is offered after the words, of which the last is being typed."""
    environment = {
        "_KUBEROUTERPY_COMPLETE": "bash_complete",
        "COMP_WORDS": f"kuberouterpy {words}",
        "COMP_CWORD": str(len(words.split(" "))),
        "KUBEROUTERPY_SOCKET": socket,
        "PATH": "/usr/bin:/bin",
    }
    code = "from kuberouterpy.cli import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return {line.partition(",")[2] for line in done.stdout.splitlines() if line}


def test_commands_and_flags_are_completed() -> None:
    assert completed("ex") == {"explain"}
    assert completed("") >= set(COMMANDS)
    assert completed("ipvs ") == {"list", "show", "stats", "top", "connections"}
    assert "--sort" in completed("ipvs top --s")
    assert completed("ipvs list --output y") == {"yaml"}


def test_names_come_from_the_node_and_a_node_without_agent_has_none(node: str) -> None:  # noqa: F811
    assert completed("explain service/", socket=node) == {"service/default/web"}
    assert completed("trace ser", socket=node) == {"service/default/web"}
    assert completed("ipvs show tcp/10", socket=node) == {"tcp/10.96.0.10:80"}
    assert completed("ipvs list --service def", socket=node) == {"default/web"}
    assert completed("explain service/") == set()


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script_that_names_us(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_KUBEROUTERPY_COMPLETE" in script
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True, capture_output=True)
