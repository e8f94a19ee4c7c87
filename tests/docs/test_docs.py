"""The documents are true: flags from the table, annotations from the code, commands that exist, links that lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kuberouterpy.config import DEFAULTS
from kuberouterpy.flags import FLAGS, Section, default_text
from kuberouterpy.sysctls import TABLE
from tests.documents import ROOT, commands

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))
FLAGS_HEAD = """# Flags

Of `kuberouterpy run`, made from the agent's own table by `pytest tests/docs --update`. Names and meanings are kube-router's;
those marked *own* are not. A flag without effect is accepted, and told once at the start with the reason. Durations are written
as in Go: `90s`, `5m`, `1h30m`; lists with commas, or by repeating the flag.
"""


def flags_page() -> str:
    """Return docs/flags.md."""
    lines = [FLAGS_HEAD]
    for section in Section:
        lines += [f"## {section}\n", "| flag | default | what |", "|---|---|---|"]
        for flag in (one for one in FLAGS if one.section is section):
            default = "" if flag.secret else default_text(flag, DEFAULTS.get(flag.field, ""))
            text = flag.help + (" *(own)*" if flag.ours else "")
            text += f". **No effect**: {flag.no_effect}" if flag.no_effect else ""
            shown = f"`{default}`" if default else ""
            lines.append(f"| `--{flag.name}` {flag.form.metavar} | {shown} | {text.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)


def test_the_page_of_flags_is_the_table_of_flags(request: pytest.FixtureRequest) -> None:
    path = DOCS / "flags.md"
    if request.config.getoption("--update"):
        path.write_text(flags_page())
    assert path.read_text() == flags_page(), "run pytest tests/docs --update"


SYSCTLS_HEAD = """# Kernel settings

What the agent writes below `/proc/sys`, made from its own table by `pytest tests/docs --update`. A setting that already has its
value is not written. `kuberouterpy doctor` compares them with the kernel, `kuberouterpy cleanup` puts back what stood before. A
row that names IPv4 or IPv6 is for nodes with that family; *if there* means that a kernel without it is fine.

| setting | value | by | why |
|---|---|---|---|
"""


def sysctls_page() -> str:
    """Return docs/sysctls.md."""
    lines = []
    for one in TABLE:
        value = f"{one.value}, where it is {one.instead_of}" if one.instead_of else one.value
        notes = [one.when, f"IPv{one.family:d}" if one.family else "", "if there" if one.optional else ""]
        notes = [note for note in notes if note]
        why = one.reason + (f" ({'; '.join(notes)})" if notes else "")
        lines.append(f"| `{one.path.replace('/', '.')}` | {value} | {', '.join(one.controllers)} | {why} |\n")
    return SYSCTLS_HEAD + "".join(lines)


def test_the_page_of_kernel_settings_is_their_table(request: pytest.FixtureRequest) -> None:
    path = DOCS / "sysctls.md"
    if request.config.getoption("--update"):
        path.write_text(sysctls_page())
    assert path.read_text() == sysctls_page(), "run pytest tests/docs --update"


def annotations() -> Iterator[str]:
    """Yield every annotation that a module of the agent names in full."""
    for package in ("kuberouterpy", "proxy", "routing", "firewall"):
        for path in (ROOT / package).rglob("*.py"):
            if "lab" not in path.parts:
                yield from re.findall(r'"(kube(?:-router|routerpy)\.io/[a-z][a-z0-9.-]*[a-z0-9.])"', path.read_text())


def test_every_annotation_the_code_names_is_documented() -> None:
    page = (DOCS / "annotations.md").read_text()
    labels = {"kube-router.io/balancer", "kube-router.io/address", "kube-router.io/released"}  # on leases of the agent
    found = set(annotations()) - labels
    assert len(found) > 8
    assert sorted(name for name in found if name not in page) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_and_headings(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert heading in {_anchor(title) for title in titles}, f"{page}: {target}"


def _anchor(title: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def test_every_page_is_in_the_navigation() -> None:
    def pages(items: list[object]) -> Iterator[str]:
        for item in items:
            for value in item.values() if isinstance(item, dict) else (item,):
                yield from pages(value) if isinstance(value, list) else (str(value),)

    shown = set(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert shown == {Path(page).relative_to("docs").as_posix() for page in PAGES} - {"compare.md"} | shown & {
        "compare.md"
    }


def test_the_documents_name_only_flags_that_exist() -> None:
    known = {flag.name for flag in FLAGS}
    for page in PAGES:
        if Path(page).name in {"cli.md", "metrics.md", "socket.md", "compare.md"}:
            continue
        for line in (ROOT / page).read_text().splitlines():
            if re.search(r"kuberouterpy |kubectl|kind |docker|helm|make |--allocate|pytest|--cascade", line):
                continue  # flags of other commands
            for name in re.findall(r"`--([a-z0-9-]+)", line):
                assert name in known, f"{page}: --{name}"


def test_the_quickstart_has_its_three_ways() -> None:
    shown = commands("docs/quickstart.md")
    assert ["make", "demo"] in shown
    assert any(words[:3] == ["kuberouterpy", "lab", "shell"] for words in shown)
