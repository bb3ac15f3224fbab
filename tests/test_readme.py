"""The front page keeps its word: its examples run, its tables match the code, its links lead somewhere."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from brodmann import cli, errors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "MODELS.md",
    "CHANGELOG.md",
    *(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/*.md")),
]


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


EXAMPLES = blocks(README, "python")


def test_there_are_three_examples_of_about_ten_lines():
    assert len(EXAMPLES) == 3
    assert max(len(block.splitlines()) for block in EXAMPLES) <= 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples: a later one may use the run of an earlier one."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    exec(compile(EXAMPLES[number], f"README example {number + 1}", "exec"), {"__name__": "__main__"})
    told = capsys.readouterr().out
    if number == 0:
        assert re.search(r"areas  macro-F1 0\.\d\d \[.*n [\d,]+ patches", told)
        assert "coordinates only" in told
        assert (folder / "runs/first/features.zarr").is_dir()
    if number == 1:
        assert "2 of 2 subjects" in told
        assert (folder / "sections.png").is_file()
    if number == 2:
        assert len(re.findall(r"^brain B\d held out, (?:features|untrained): R2 -?\d", told, re.M)) == 2


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRODMANN_CACHE", str(tmp_path / "cache"))
    for block in blocks((ROOT / page).read_text("utf-8"), "python"):
        exec(compile(block, page, "exec"), {"__name__": "__main__"})


def rows(heading: str) -> list[list[str]]:
    """Cells of the table whose first heading is given."""
    found = re.search(rf"^\| {heading} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", README, re.M)
    assert found, heading
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in found[1].splitlines()]


def test_the_table_of_commands_is_the_command_line():
    told = {row[0].split()[1].strip("`"): row[0] for row in rows("command")}
    assert set(told) == set(cli.VERBS)
    for verb, row in told.items():
        known = {name.replace("_", "-") for name in inspect.signature(cli.VERBS[verb]).parameters} | {
            "no-controls",
            "no-browser",
        }
        assert {flag.removeprefix("--") for flag in re.findall(r"--[a-z-]+", row)} <= known


def test_the_table_of_exit_codes_is_that_of_the_errors():
    told = {int(row[0]) for row in rows("exit code")}
    found = {e.exit_code for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.BrodmannError)}
    # 1 is the base class, never raised; 0 and 3 are no errors.
    assert told == found - {1} | {0, 3}
    assert {int(code) for code in re.findall(r"\b(\d+) [a-z]", cli.__doc__)} == told


def test_the_extras_are_those_of_the_package():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {re.search(r"\[(\w+)\]", row[0])[1] for row in rows("extra")} == set(extras) - {"dev"}


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    pages = "\n".join((ROOT / page).read_text("utf-8") for page in PAGES if (ROOT / page).is_file())
    for target in set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", pages, re.M)):
        assert re.search(rf"^{''.join(target)}:", makefile, re.M), target


def test_the_pinned_torch_is_the_tested_one():
    pinned = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.M)[0]
    assert f'"{pinned}"' in README


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing


def test_version_and_changelog_agree():
    import brodmann

    assert f"## {brodmann.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"version: {brodmann.__version__}" in (ROOT / "CITATION.cff").read_text("utf-8")
