"""Planted shortcuts are found and features without them are at chance; what a table does not tell is said."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import KDTree
from sklearn.metrics import balanced_accuracy_score

from brodmann import cli, results
from brodmann.errors import Refused, Usage
from brodmann.maps.shown import Shown
from brodmann.settings import Split
from brodmann.tasks import _identity as identity
from brodmann.tasks._score import Score
from brodmann.tasks.shortcuts import NEAR, shortcuts

BRAIN = Split(by="brain", folds=0)
BRAINS, SECTIONS, ROWS = 3, 8, 60


def planted(*told: str, seed: int = 0) -> ad.AnnData:
    """Noise that also tells what is named: a stain of each section or brain, vessels, the angle, or the place."""
    rng = np.random.default_rng(seed)
    n = BRAINS * SECTIONS * ROWS
    brain, section = np.repeat(np.arange(BRAINS), SECTIONS * ROWS), np.repeat(np.arange(BRAINS * SECTIONS), ROWS)
    xy = rng.uniform(0, 1, (n, 2)) * [40, 10]
    z = (section % SECTIONS) * 2.0
    vessel, angle = rng.uniform(0, 0.1, n), rng.uniform(-180, 180, n)
    x = rng.standard_normal((n, 12))
    look = rng.standard_normal
    parts = {
        "section": look((BRAINS * SECTIONS, 12))[section],
        "brain": look((BRAINS, 12))[brain],
        "vessel": (vessel[:, None] - 0.05) * 60 * look(12),
        "fold": np.column_stack([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))]) @ look((2, 12)),
        "place": 0.5 * np.cos(z[:, None] * rng.uniform(0.05, 0.25, 12) + rng.uniform(0, 6, 12)),
    }
    for name in told:
        x = x + 2 * parts[name]
    ids = [f"B{b}/s{s}/{i}" for i, (b, s) in enumerate(zip(brain, section, strict=True))]
    obs = pd.DataFrame({
        "id": ids, "subject": [f"B{b}" for b in brain], "section": [f"s{s % SECTIONS}" for s in section],
        "x_um": 1000 * xy[:, 0], "y_um": 1000 * xy[:, 1], "angle_deg": angle, "vessel": vessel,
        "x_mm": xy[:, 0], "y_mm": xy[:, 1], "z_mm": z,
    }, index=ids)  # fmt: skip
    untrained = rng.standard_normal((n, 5)).astype(np.float32)
    made = {"system": "patches", "encoder_fold": -1, "recipe_hash": "r", "data_fingerprint": "d"}
    return ad.AnnData(
        X=x.astype(np.float32), obs=obs, obsm={"baseline_untrained": untrained}, uns={"brodmann": made}
    )  # fmt: skip


CHANCE = {"vessel": 0.0, "fold": 0.0, "section": 1 / 24, "brain": 1 / 3, NEAR: 1 / 3}


@pytest.fixture(scope="module")
def clean():
    """Features of nothing, beside another run whose features tell everything."""
    return shortcuts(planted(), BRAIN, extra_tables={"simclr": planted("section", "vessel", "fold")})


def test_features_without_shortcuts_are_at_chance(clean):
    for name, chance in CHANCE.items():
        found = clean.more[name]
        # R^2 of nothing lies a little below 0: what is learned of noise costs on held-out rows
        assert found.low - 0.03 <= chance <= found.high + (0.03 if chance == 0 else 0), name
        assert found.value < chance + 0.05, name
    assert clean.value < 0.03
    assert clean.interval[0] <= clean.value <= clean.interval[1]


def test_the_run_that_takes_shortcuts_is_seen_to_take_them(clean):
    for name in ("vessel", "fold", "section", NEAR):
        assert clean.more[f"{name}: simclr"].value > CHANCE[name] + 0.4, name
        assert clean.gains[f"{name}: simclr"].high < -0.3, name
    assert clean.gains["simclr"].high < -0.4
    assert clean.baselines["simclr"].value > 0.6
    assert abs(clean.gains["untrained"].value) < 0.05
    assert clean.baselines["chance"].value < 0.02
    assert "lower is better" in clean.metric
    assert "lower is better" in str(clean)
    assert (clean.n, clean.n_groups, clean.cluster) == (1440, 24, "sections")


@pytest.mark.parametrize("name", ["vessel", "fold", "brain"])
def test_each_planted_shortcut_raises_its_own_row_alone(name):
    found = shortcuts(planted(name), BRAIN, compare=False)
    assert found.more[name].low > CHANCE[name] + 0.3
    for other in set(CHANCE) - {name, "section"}:
        assert found.more[other].value < CHANCE[other] + 0.06, other
    assert not found.baselines


def test_who_knows_the_place_tells_far_sections_and_not_their_neighbours():
    """Place is no stain: among three sections side by side it helps little, where a stain tells nearly all."""
    place, stain = (shortcuts(planted(kind), BRAIN, target="section") for kind in ("place", "section"))
    assert place.more["section"].low > CHANCE["section"] + 0.01
    assert stain.more["section"].low > 0.8
    assert stain.more[NEAR].low > 0.85
    assert stain.more[NEAR].low > place.more[NEAR].high + 0.3
    assert any("of the slide itself" in text for text in place.remarks)
    assert set(place.more) == {
        "section", "section: coordinates only", "section: untrained", NEAR, f"{NEAR}: untrained",
    }  # fmt: skip
    assert place.target == "section"


def test_values_are_those_of_scikit_learn():
    table = planted("section")
    found = shortcuts(table, BRAIN, target="section", compare=False)
    one = identity.of_sections(table, 0, 0)
    said = one.read_out(np.asarray(table.X), 0).argmax(axis=1)
    assert found.more["section"].value == pytest.approx(balanced_accuracy_score(one.codes[one.tested], said))
    assert found.value == pytest.approx(balanced_accuracy_score(one.codes[one.tested], said, adjusted=True))
    assert found.n == len(said)


@pytest.mark.parametrize("buffer_mm", [0.0, 3.0])
@pytest.mark.parametrize("make", [identity.of_sections, identity.of_brains])
def test_every_class_is_on_both_sides_and_neighbours_are_not(make, buffer_mm):
    table = planted()
    one = make(table, buffer_mm, 0)
    where = table.obs[["x_mm", "y_mm", "z_mm"]].to_numpy()
    seen = np.concatenate([test for _, test in one.parts])
    assert len(np.unique(seen)) == len(seen) == 1440
    if buffer_mm == 0:
        buffer_mm = float(one.held.split(", ")[1].split(" mm")[0]) * 0.9
        assert buffer_mm > 1
    for train, test in one.parts:
        for k in range(len(one.classes)):
            mine, theirs = train[one.codes[train] == k], test[one.codes[test] == k]
            assert len(mine) >= 5
            assert len(theirs) >= 5
            assert KDTree(where[theirs]).query(where[mine])[0].min() > buffer_mm
    if make is identity.of_brains:
        names = (table.obs["subject"] + table.obs["section"]).to_numpy()
        assert all(not set(names[train]) & set(names[test]) for train, test in one.parts)


def test_what_the_table_does_not_tell_is_said():
    table = planted("brain")
    del table.obs["vessel"]
    table.obs["angle_deg"] = 0.0
    found = shortcuts(table[table.obs["subject"] == "B0"].copy(), Split(by="section", folds=4), compare=False)
    assert set(found.more) == {"section", NEAR}
    for text in (
        "vessel (no column 'vessel'",
        "fold (no column 'angle_deg' or 'cutting_angle_deg'",
        "there is one brain",
    ):
        assert any(f"not asked: {text}" in remark or text in remark for remark in found.remarks), text
    short = table[table.obs["section"].isin(["s0", "s1"])].copy()
    assert any("B0 has 2 sections" in remark for remark in shortcuts(short, BRAIN, compare=False).remarks)
    single = table[(table.obs["subject"] == "B0") & (table.obs["section"] == "s0")].copy()
    with pytest.raises(Refused, match="nothing"):
        shortcuts(single, BRAIN)


def test_the_cutting_angle_stands_in_for_the_angle_and_any_number_may_be_asked():
    table = planted("fold")
    table.obs = table.obs.rename(columns={"angle_deg": "cutting_angle_deg"})
    found = shortcuts(table, BRAIN, target="fold", compare=False)
    # a line through the angle itself, whose ends meet, would explain 6 / pi^2 of it at most
    assert found.more["fold"].low > 0.75
    assert any("cutting_angle_deg" in text for text in found.remarks)
    assert shortcuts(table, BRAIN, target="cutting_angle_deg", compare=False).value == found.value
    with pytest.raises(Usage, match="section, brain"):
        shortcuts(table, BRAIN, target="subject")


def test_few_sections_are_drawn_in_blocks_and_many_are_thinned(monkeypatch):
    table = planted("section")
    few = shortcuts(table[table.obs["subject"] != "B2"].copy()[: 5 * ROWS].copy(), BRAIN, target="section")
    assert few.cluster == "blocks"
    assert few.more["section"].low > 0.6
    monkeypatch.setattr(identity, "MOST", 9)
    thin = shortcuts(table, BRAIN, target="section", compare=False)
    assert any("9 of 24 sections" in text for text in thin.remarks)
    assert thin.n_groups == 9
    assert thin.more["section"].note == "balanced accuracy, chance 0.11"


def test_it_saves_loads_and_is_the_same_again(clean, tmp_path):
    path = clean.save(tmp_path)
    assert path.name == "shortcuts-all.json"
    again = shortcuts(planted(), BRAIN, extra_tables={"simclr": planted("section", "vessel", "fold")})
    assert Score.load(path).to_json() == clean.to_json() == again.to_json()


def test_rivals_without_places_leave_position_out():
    table = planted("vessel")
    table.obs[["x_mm", "y_mm", "z_mm"]] = np.nan
    found = shortcuts(table, Split(by="section", folds=4))
    assert "coordinates only" not in found.baselines
    assert NEAR not in found.more
    assert found.more["vessel"].low > 0.3


def test_the_verb_asks_and_the_report_knows_that_less_is_better(clean):
    table = planted("vessel")
    table.uns["brodmann"] |= {"split": {"by": "brain", "folds": 0}}
    found = results.score("shortcuts", table, "vessel", fold=1)
    assert found.n == SECTIONS * ROWS
    assert found.value > 0.3
    with pytest.raises(Usage, match="less is better"):
        results.score("shortcuts", table, probe="knn")
    assert "shortcuts" in cli.Asked.__args__
    beaten, _, better = Shown.of(json.loads(clean.to_json())).rivals()
    assert "simclr" in beaten
    assert "simclr" not in better


def test_properties_suggest_only_what_they_would_take():
    table = planted()
    table.uns["brodmann"] |= {"split": {"by": "brain", "folds": 0}}
    table.obs["orientation_deg"], table.obs["flat"], table.obs["seen"] = 1.0 + np.arange(1440), 1.0, True
    with pytest.raises(Usage, match=r"here there are vessel\.") as refused:
        results.score("properties", table)
    assert "orientation_deg" not in str(refused.value)
    with pytest.raises(Usage, match="ask `shortcuts`"):
        results.score("properties", table, "angle_deg")
