"""A planted number is read out of features beyond position and chance; a broken one is not; leaks stop the score."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from brodmann.errors import Leak, Refused, Usage
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks import properties as task
from brodmann.tasks._probe import fit_predict
from brodmann.tasks._score import Score
from brodmann.tasks.properties import properties, r_squared

BRAIN = Split(by="brain", folds=0)


def planted(*, seed: int = 0, brains: int = 6, of_place: bool = False) -> ad.AnnData:
    """Neurons whose dendrites grow with what their features say, or with depth alone."""
    rng = np.random.default_rng(seed)
    n = brains * 80
    xyz = rng.uniform(0, 1, (n, 3))
    features = rng.standard_normal((n, 10))
    drive = np.sin(5 * xyz[:, 2]) if of_place else features[:, :3] @ [1.0, -0.7, 0.4]
    obs = pd.DataFrame({
        "id": [f"n{i}" for i in range(n)], "subject": np.repeat([f"B{b}" for b in range(brains)], 80),
        "section": np.tile(np.repeat(["s0", "s1"], 40), brains), "type": "L23",
        "dendrite_um": 2000 + 300 * drive + rng.normal(0, 150, n),
    })  # fmt: skip
    obs[["x_mm", "y_mm", "z_mm"]] = xyz
    obs.index = obs["id"].to_numpy()
    made = {"system": "neurons", "encoder_fold": -1, "recipe_hash": "r", "data_fingerprint": "d"}
    return ad.AnnData(
        X=features.astype(np.float32), obs=obs,
        obsm={"baseline_statistics": rng.standard_normal((n, 4)).astype(np.float32)}, uns={"brodmann": made},
    )  # fmt: skip


@pytest.fixture(scope="module")
def score():
    return properties(planted(), "dendrite_um", BRAIN)


def test_a_planted_number_beats_position_statistics_and_the_null(score):
    # variance 300^2 * 1.65 of 300^2 * 1.65 + 150^2
    assert score.value == pytest.approx(1.65 / 1.90, abs=0.04)
    assert score.interval[0] < score.value < score.interval[1]
    for name in ("coordinates only", "statistics"):
        assert abs(score.baselines[name].value) < 0.08, name
        assert score.gains[name].low > 0.6, name
    assert score.baselines["spatial null"].high < 0.15
    assert score.baselines["spatial null"].value > -0.15
    assert score.more["features, as the null"].value > 0.75
    assert score.more["coordinates + features"].value == pytest.approx(score.value, abs=0.05)
    assert score.more["correlation"].value == pytest.approx(np.sqrt(score.value), abs=0.03)
    assert (score.n, score.n_groups, score.cluster, score.what) == (480, 6, "brains", "neurons")
    assert score.folds[0] == "brain B0 held out"
    assert Score.from_json(score.to_json()).predicted.equals(score.predicted)


def test_the_value_is_that_of_another_ridge(score):
    table = planted()
    obs = table.obs
    said = pd.Series(0.0, index=obs.index)
    level = said.copy()
    for brain in obs["subject"].unique():
        test = (obs["subject"] == brain).to_numpy()
        said[test] = Ridge(alpha=1.0).fit(table.X[~test], obs["dendrite_um"][~test]).predict(table.X[test])
        level[test] = obs["dendrite_um"][~test].mean()
    y = obs["dendrite_um"].to_numpy()
    other = 1 - ((y - said) ** 2).sum() / ((y - level) ** 2).sum()
    assert score.value == pytest.approx(other, abs=0.01)
    assert np.corrcoef(score.predicted[obs.index], said)[0, 1] > 0.999


def test_a_number_that_follows_place_is_told_by_place():
    found = properties(planted(of_place=True), "dendrite_um", BRAIN)
    assert found.value < 0.05
    assert found.baselines["coordinates only"].value > 0.3
    assert found.gains["coordinates only"].high < 0
    assert any("position alone" in remark for remark in found.remarks)


def test_zero_is_as_good_as_the_mean_of_training_rows():
    truth, level = np.array([1.0, 3]), np.array([1.0, 1])
    assert r_squared(truth, level, level) == 0
    assert r_squared(truth, truth, level) == 1
    assert r_squared(truth, np.array([2.0, 2]), level) == pytest.approx(0.5)
    assert np.isnan(r_squared(level, truth, level))


def test_two_brains_choose_the_penalty_on_sections_and_missing_numbers_take_no_part(monkeypatch):
    table = planted(brains=2)
    groups = []
    monkeypatch.setattr(
        task, "fit_predict", lambda *given, **more: groups.append(given[3]) or fit_predict(*given, **more)
    )
    table.obs.loc[table.obs.index[:7], "dendrite_um"] = np.nan
    found = properties(table, "dendrite_um", BRAIN, compare=False)
    assert found.n == 153
    assert found.value > 0.7
    assert any("7 of 160 rows have no 'dendrite_um'" in remark for remark in found.remarks)
    assert not found.baselines
    assert [sorted(set(each)) for each in groups] == [["B1/s0", "B1/s1"], ["B0/s0", "B0/s1"]]


def test_another_table_is_a_rival_and_places_that_are_not_known_are_said():
    table, blind = planted(), planted()
    blind.X = np.random.default_rng(1).standard_normal(blind.shape).astype(np.float32)
    table.obs["z_mm"] = np.nan
    found = properties(table, "dendrite_um", BRAIN, extra_tables={"untrained": blind})
    assert found.gains["untrained"].low > 0.6
    assert "spatial null" not in found.baselines
    assert any("not all places are known" in remark for remark in found.remarks)


def test_what_cannot_be_scored_is_refused():
    table = planted()
    with pytest.raises(Usage, match="numeric column"):
        properties(table, "type", BRAIN)
    with pytest.raises(Usage, match="numeric column"):
        properties(table, "axon_um", BRAIN)
    table.obs["constant"] = 1.0
    with pytest.raises(Refused, match="differ"):
        properties(table, "constant", BRAIN)
    table.obs["rare"] = np.where(np.arange(480) < 5, 1.0, np.nan)
    with pytest.raises(Refused, match="at least 20 rows"):
        properties(table, "rare", BRAIN)
    everything = np.arange(480)
    with pytest.raises(Leak):
        properties(table, "dendrite_um", BRAIN, folds=[Fold(everything[40:], everything[:40], "half a brain")])
