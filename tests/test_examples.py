"""The examples run, from the first cell to the last, with the settings they call quick."""

from __future__ import annotations

import html
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9]*.py"))


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_cells_are_numbered_and_the_first_lines_say_what_it_is(path):
    text = path.read_text("utf-8")
    numbers = [int(number) for number in re.findall(r"^# %% (\d+)\. \S", text, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == len(re.findall(r"^# %%", text, re.M)) > 2
    assert text.startswith('"""')


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), "--quick"])
    # Compiling UMAP takes longer than all the rest; without it figures fall back to principal components.
    monkeypatch.setattr("brodmann.maps.embedding.find_spec", lambda _: None)
    runpy.run_path(str(path), run_name="__main__")
    told = capsys.readouterr().out
    if path.stem == "01_phantom_to_map":
        assert re.search(r"^areas  macro-F1 0\.\d\d \[", told, re.M)
        assert "example-quick-simclr" in told
        assert re.search(r"^search  ", told, re.M)
        report = tmp_path / "runs/example-quick/report.html"
        assert f"open {report}" in told
        page = html.unescape(report.read_text("utf-8"))
        assert "coordinates only" in page
        scores = [json.loads(file.read_text()) for file in (report.parent / "scores").iterdir()]
        said = [remark for score in scores for remark in score["remarks"]]
        assert said
        assert [remark for remark in said if page.count(remark) != said.count(remark)] == []
        assert list((tmp_path / "runs/example-quick/maps").iterdir())
