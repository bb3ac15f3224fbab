"""A whole report as `brodmann map` writes it: all parts are there, figures and numbers lie beside it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import viewing
from brodmann.maps import failures, numbers
from brodmann.maps.page import CSP
from brodmann.maps.report import LARGEST
from test_map_outputs import cells, drawn, scored
from viewing import browser

__all__ = ["browser"]
EVIL = "<script>document.title='canary'</script>"
METRICS = [{"step": s, "total": 3 - s / 50, "parts": {"near": 1.0 + s}, "lr": 1e-3, "crc": 7} for s in range(40)]
RECIPE = 'system = "patches"\nseed = 3\n[fit]\nsteps = 40\nbatch = 8\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brodmann.maps.embedding.find_spec", lambda _: None)
        out = tmp_path_factory.mktemp("report")
        table, sheets = cells()
        table.obs["section"] = table.obs["section"].astype(str)
        ids = list(table.obs["id"])
        drawn(
            out, "area", table, sheets, metrics=METRICS, recipe_toml=RECIPE, environment={"python": "3.11", "x": EVIL},
            source_name=f"a {EVIL}", remarks=["read as it is"], neighbours={ids[400]: [ids[5], ids[9]]},
        )  # fmt: skip
    return out


def test_every_part_is_in_the_page(home):
    content = (home / "report.html").read_text()
    assert len(content.encode()) <= LARGEST
    assert CSP in content
    assert "unsafe-eval" not in CSP
    assert EVIL not in content
    titles = re.findall(r"<h2>([^<]+)</h2>", content)
    for part in ("Scores", "Maps", "Figures", "Training", "Data", "Methods", "Recipe, environment, files"):
        assert part in titles
    for figure in ("Failure cases", "Learning curves", "Against every baseline", "What is taken for what"):
        assert f"<b>{figure}</b>" in content
    assert "We analysed 600 patches on 4 sections from 2 brains" in content
    seen = re.sub(r"<[^>]+>", " ", content)
    assert re.search(r"B0\s+2\s+300\s", seen)
    assert re.search(r"All\s+4\s+600\s", seen)
    assert "figures/areas-area" in content
    assert not re.search(r"(?:src|href)=\"?(?!data:)[a-z]+:", content)


def test_each_figure_is_png_and_svg_and_its_numbers_are_csv(home):
    folder = home / "figures/areas-area"
    names = {path.stem for path in folder.glob("*.png")}
    assert names == {"baselines", "confusion", "failures", "embedding", "neighbours", "learning"}
    assert {path.stem for path in folder.glob("*.svg")} == names
    assert {path.stem for path in folder.glob("*.csv")} == (names - {"baselines"}) | {"scores"}
    scores = pd.read_csv(folder / "scores.csv", keep_default_na=False, na_values=[""])  # "null" is a name
    own = scores[scores["name"] == "features"].iloc[0]
    assert (own["value"], own["low"], own["high"]) == (0.5, 0.4, 0.6)
    null = scores[scores["name"] == "null"].iloc[0]
    assert (null["value"], null["gain"]) == (0.1, 0.4)
    table, _ = cells()
    truth, said = scored(table).truth, scored(table).predicted
    confusion = pd.read_csv(folder / "confusion.csv").set_index("true")
    for t in "ABC":
        for p in "ABC":
            assert confusion.loc[t, p] == ((truth == t) & (said == p)).sum()
    learning = pd.read_csv(folder / "learning.csv")
    assert list(learning["step"]) == list(range(40))
    assert learning["loss.near"].iloc[3] == 4.0
    assert "crc" not in learning
    assert len(pd.read_csv(folder / "embedding.csv")) == 600


def test_failure_cases_are_rows_that_were_wrong(home):
    table, _ = cells()
    found = scored(table)
    wrong = {str(name) for name in found.truth.index[found.truth != found.predicted]}
    listed = pd.read_csv(home / "figures/areas-area/failures.csv", dtype={"id": str})
    assert 0 < len(listed) <= 30
    assert set(listed["id"]) <= wrong
    for _, row in listed.iterrows():
        assert (found.truth[row["id"]], found.predicted[row["id"]]) == (row["truth"], row["predicted"])
        lost = (found.truth == row["truth"]) & (found.predicted == row["predicted"])
        assert (row["lost"], row["of"]) == (lost.sum(), (found.truth == row["truth"]).sum())


def test_failure_cases_begin_with_what_was_lost_most():
    """A pair of few rows is not the worst by a whim; nothing wrong gives nothing."""
    table, _ = cells()
    truth = pd.Categorical(["A"] * 300 + ["B"] * 299 + ["C"])
    said = np.array(["A"] * 600, object)
    said[300:599] = "B"
    said[300:400] = "C"
    table.obs["truth"], table.obs["predicted"] = truth, pd.Categorical(said)
    found = failures.mistaken(table)
    assert list(dict.fromkeys(found["truth"] + found["predicted"])) == ["BC", "CA"]
    assert found["row"].iloc[0] == 300
    assert found["row"].iloc[5] == 399
    table.obs["predicted"] = truth
    assert failures.mistaken(table).empty


def test_scores_without_baselines_are_a_table_too():
    listed = numbers.scores([{"task": "x", "value": 1.0}])
    assert len(listed) == 1
    assert numbers.scores([]).empty
    never = {"task": "areas", "value": 1.0, "per_class": {"V1": {"precision": None, "f1": 0.0}}}
    assert numbers.scores([never])["value"].isna().tolist() == [False, True, False]


@viewing.needs_chromium
def test_it_opens_without_a_word_and_asks_for_nothing(home, browser):
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith("data:") else asked.append(one.url))
    address = Path(home / "report.html").as_uri()
    page.goto(address)
    page.wait_for_load_state("networkidle")
    assert said == []
    assert asked == [address]
    assert page.title() == f"areas: area on a {EVIL}"
    assert page.locator("script").count() == 0
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert page.locator("img").count() >= 7
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
