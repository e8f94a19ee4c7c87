"""What a repository promises about itself: workflows that are valid, one version, types that are shipped."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.documents import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def valid(schema: list[str], *files: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "check_jsonschema", *schema, *map(str, files)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_workflows_are_what_github_understands(tmp_path: Path) -> None:
    assert len(WORKFLOWS) >= 4
    builtin = ["--builtin-schema", "vendor.github-workflows"]
    done = valid(builtin, *WORKFLOWS)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[0].read_text().replace("runs-on", "run-on"))
    assert valid(builtin, wrong).returncode == 1


def test_the_charts_values_are_what_its_schema_allows(tmp_path: Path) -> None:
    chart = ROOT / "manifests" / "chart"
    schema = ["--schemafile", str(chart / "values.schema.json")]
    assert valid(schema, chart / "values.yaml").returncode == 0
    wrong = tmp_path / "values.yaml"
    wrong.write_text("flags: {peer-router-ip: 192.0.2.1}\n")
    assert "peer-router-ip" in valid(schema, wrong).stdout
    assert valid(["--check-metaschema"], chart / "values.schema.json").returncode == 0


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_only_what_is_there(workflow: Path) -> None:
    steps = [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]
    text = "\n".join(step.get("run", "") for step in steps)
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for path in re.findall(r"(?<![\w./-])((?:tests|manifests|\.github|\.ci)/[\w./-]+)", text):
        assert (ROOT / path).exists(), path
    # Whoever can name a branch must not be able to run commands: inputs come through the environment.
    assert "${{" not in text


def test_the_version_is_the_same_everywhere() -> None:
    spec = importlib.util.spec_from_file_location("version", ROOT / ".github" / "version.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(set(module.versions(ROOT).values())) == 1
    assert module.main("v99.0.0") == 1


def test_types_are_shipped_with_every_package() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert [package for package in packages if not (ROOT / package / "py.typed").exists()] == []


def test_hooks_before_a_commit_run_what_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    text = " ".join(hook["entry"] for hook in hooks)
    for tool in re.findall(r"\$\(PY\)/(ruff|mypy|lint-imports)", (ROOT / "Makefile").read_text()):
        assert tool in text


def test_every_form_for_issues_has_what_github_asks() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) >= 2
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids))
