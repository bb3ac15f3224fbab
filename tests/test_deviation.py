"""Errors in the unit of the number: planted ones are small, and other methods stand beside them as they came."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from brodmann import results
from brodmann.errors import Refused, Usage
from brodmann.settings import Split
from brodmann.tasks._score import Score
from brodmann.tasks.deviation import MEAN, deviation
from brodmann.tasks.properties import properties

TILE = Split(by="section", folds=0)


def planted(*, seed: int = 0, tiles: int = 6, blind: bool = False) -> ad.AnnData:
    """Crops whose count their features tell; one method counts half of the cells, another nearly all."""
    rng = np.random.default_rng(seed)
    n = tiles * 60
    drive = rng.standard_normal((n, 2))
    count = np.round(12 + 3 * drive[:, 0] + 2 * drive[:, 1] + rng.normal(0, 0.7, n)).clip(0)
    features = rng.standard_normal((n, 6))
    if not blind:
        features[:, :2] = drive
    half = np.round(count / 2 + rng.normal(0, 0.3, n))
    half[:5] = np.nan
    obs = pd.DataFrame({
        "id": [f"t{i // 60}/{i % 60}" for i in range(n)], "subject": "rat",
        "section": np.repeat([f"t{t}" for t in range(tiles)], 60), "count": count, "count_half": half,
        "count_good": count - 1.0,
    })  # fmt: skip
    obs[["x_mm", "y_mm", "z_mm"]] = rng.uniform(0, 0.2, (n, 3))
    obs.index = obs["id"].to_numpy()
    made = {"system": "patches", "encoder_fold": -1, "split": {"by": "section", "folds": 0}, "same_data": True}
    return ad.AnnData(
        X=features.astype(np.float32), obs=obs,
        obsm={"baseline_statistics": drive[:, :1].astype(np.float32)}, uns={"brodmann": made},
    )  # fmt: skip


@pytest.fixture(scope="module")
def score():
    return deviation(planted(), "count", TILE, measured=["count_half", "count_good"])


def test_errors_are_those_of_another_ridge(score):
    table = planted()
    obs, said = table.obs, pd.Series(0.0, index=table.obs.index)
    level = said.copy()
    for tile in obs["section"].unique():
        test = (obs["section"] == tile).to_numpy()
        said[test] = Ridge(alpha=1.0).fit(table.X[~test], obs["count"][~test]).predict(table.X[test])
        level[test] = obs["count"][~test].mean()
    truth = obs["count"]
    assert score.value == pytest.approx((said - truth).abs().mean(), abs=0.02)
    assert score.baselines[MEAN].value == pytest.approx((level - truth).abs().mean(), abs=1e-5)
    share = ((said - truth).abs() / truth)[truth > 0].mean() * 100
    assert score.more["features, %"].value == pytest.approx(share, abs=0.3)
    assert score.more["R^2"].value == pytest.approx(properties(table, "count", TILE, compare=False).value)
    assert (score.n, score.n_groups, score.cluster, score.metric) == (360, 6, "sections", "mean absolute error")


def test_a_planted_count_is_read_out_better_than_by_its_rivals(score):
    # rounding and planted noise leave about 0.8 of sd
    assert 0.4 < score.value < 0.9
    assert score.interval[0] < score.value < score.interval[1]
    assert list(score.baselines) == [
        MEAN, "statistics", "count_half", "count_half, rescaled", "count_good", "count_good, rescaled",
    ]  # fmt: skip
    for name in (MEAN, "statistics", "count_half"):
        assert score.gains[name].high < -0.5, name
    assert any("lower is better" in remark for remark in score.remarks)
    assert any("interval from 6 sections is rough" in remark for remark in score.remarks)
    assert Score.from_json(score.to_json()).gains == score.gains


def test_features_that_know_nothing_are_no_better_than_the_mean():
    found = deviation(planted(blind=True), "count", TILE)
    assert abs(found.gains[MEAN].value) < 0.15
    assert found.gains["statistics"].value > 0.5
    assert found.more["R^2"].value < 0.05


def test_another_method_is_judged_as_it_came_and_without_what_it_always_misses(score):
    obs = planted().obs
    raw = score.baselines["count_half"]
    known = obs["count_half"].notna()
    assert raw.value == pytest.approx((obs["count_half"] - obs["count"]).abs()[known].mean())
    assert "5 rows have no value" in raw.note
    bias = (obs["count_half"] - obs["count"]).mean()
    assert f"bias {bias:+.3g} [" in raw.note
    # features are compared on the rows where the method has a value
    own = (score.predicted - score.truth).abs()[known[known].index]
    assert score.gains["count_half"].value == pytest.approx(own.mean() - raw.value)
    assert score.baselines["count_half, rescaled"].value < 1.2
    assert score.baselines["count_good"].value == pytest.approx(1.0)
    assert score.baselines["count_good, rescaled"].value < 0.05
    assert score.gains["count_good, rescaled"].low > 0.3


def test_intervals_draw_whole_tiles(score):
    error = (score.predicted - score.truth).abs().to_numpy()
    tile = np.array([name.split("/")[0] for name in score.truth.index])
    means = np.array([error[tile == name].mean() for name in np.unique(tile)])
    rng = np.random.default_rng(0)
    draws = means[rng.integers(0, 6, (4000, 6))].mean(axis=1)
    assert score.interval == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.02)


def test_each_fold_may_have_an_encoder_of_its_own(score):
    tables = []
    for fold in range(6):
        table = planted()
        table.uns["brodmann"]["encoder_fold"] = fold
        # elsewhere than on its own fold an encoder's features are not looked at for the score of that fold's rows
        table.X = table.X + np.float32(fold)
        tables.append(table)
    found = deviation(tables, "count", TILE, measured=["count_half", "count_good"])
    assert found.value == pytest.approx(score.value, abs=1e-3)
    assert found.n_groups == 6
    assert not any("kept from" in remark or "trained on" in remark for remark in found.remarks)
    tables[2].X = np.random.default_rng(0).standard_normal(tables[2].shape).astype(np.float32)
    worse = deviation(tables, "count", TILE)
    moved = (worse.predicted - found.predicted).abs().groupby(lambda name: name.split("/")[0]).max()
    (held,) = (name for name in moved.index if f"/{name} " in found.folds[2])
    assert moved[held] > 1
    assert moved.drop(held).max() < 1e-3
    with pytest.raises(Refused, match="one for each fold"):
        deviation(tables[:3], "count", TILE)
    with pytest.raises(Refused, match="the same rows in the same order"):
        deviation([*tables[:5], tables[5][::-1].copy()], "count", TILE)


def test_what_was_measured_must_be_a_column_of_numbers():
    with pytest.raises(Usage, match="not 'count_cyto'"):
        deviation(planted(), "count", TILE, measured=["count_cyto"])
    with pytest.raises(Usage, match="numeric column"):
        deviation(planted(), "section", TILE)


def test_a_user_asks_it_of_a_table_and_is_told_what_it_needs(score):
    found = results.score("deviation", planted(), "count")
    assert (found.task, found.metric, found.n) == ("deviation", "mean absolute error", score.n)
    assert found.value == pytest.approx(score.value)
    assert found.baselines[MEAN].value == pytest.approx(score.baselines[MEAN].value)
    assert found.gains[MEAN].high < 0
    for given, said in (({"target": None}, "no target"), ({"target": "count", "probe": "knn"}, "probe")):
        with pytest.raises(Usage, match=said):
            results.score("deviation", planted(), **given)
    with pytest.raises(Usage, match="numeric column"):
        results.score("deviation", planted(), "subject")
