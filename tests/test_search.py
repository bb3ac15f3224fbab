"""Search finds what a loop finds; retrieval measures in millimetres against its rivals."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from brodmann import results
from brodmann.errors import Refused, Usage
from brodmann.settings import Split
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import search as module
from brodmann.tasks._score import Score
from brodmann.tasks.search import retrieval, search


def located(seed: int = 0, *, brains: int = 3, space: str = "phantom") -> ad.AnnData:
    """Features that are a smooth code of the true place; registered places are off by 1 mm per brain."""
    rng = np.random.default_rng(seed)
    mix, phase = rng.normal(0, 0.35, (3, 32)), rng.uniform(0, 6, 32)
    rows, features = [], []
    for brain in range(brains):
        true = rng.uniform(0, 10, (120, 3))
        section = (true[:, 1] // 2).astype(int)
        features.append(np.cos(true @ mix + phase) + 0.1 * rng.standard_normal((120, 32)))
        registered = true + rng.normal(0, 1, 3)
        rows += [
            (f"B{brain}/{i}", f"B{brain}", f"B{brain}_s{section[i]}", *registered[i], *true[i]) for i in range(120)
        ]
    columns = ["id", "subject", "section", "x_mm", "y_mm", "z_mm", "true_x", "true_y", "true_z"]
    obs = pd.DataFrame(rows, columns=columns)
    obs.index = pd.Index(obs["id"].to_numpy())
    x = np.concatenate(features)
    return ad.AnnData(
        X=x.astype(np.float16),
        obs=obs,
        obsm={"baseline_untrained": rng.standard_normal(x.shape)},
        uns={"space": {"name": space}, "brodmann": {"system": "patches", "encoder_fold": -1}},
    )


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("exclude_mm", [0.0, 3.0])
@pytest.mark.parametrize("brains", [1, 3])
def test_search_against_a_loop(across, exclude_mm, brains, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 37)
    monkeypatch.setattr(module, "_ASK", 2)
    table = located(brains=brains)
    x = np.asarray(table.X, np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    obs = table.obs.reset_index(drop=True)
    xyz = obs[["x_mm", "y_mm", "z_mm"]].to_numpy()
    ask = [0, 50, 119]
    found = search(table, obs["id"][ask].tolist(), k=9, exclude_mm=exclude_mm, across=across)
    for q, row in enumerate(ask):
        allowed = []
        for j in range(len(obs)):
            home = "subject" if brains > 1 else "section"
            near = obs["subject"][j] == obs["subject"][row] and np.linalg.norm(xyz[j] - xyz[row]) <= exclude_mm
            if j == row or (exclude_mm and near) or (across and obs[home][j] == obs[home][row]):
                continue
            allowed.append(j)
        best = sorted(allowed, key=lambda j, row=row: -(x[row] @ x[j]))[:9]
        assert found.ids[q].tolist() == obs["id"][best].tolist()
        assert np.allclose(found.similarity[q], x[best] @ x[row], atol=1e-3)
        assert np.allclose(found.distance_mm[q], np.linalg.norm(xyz[best] - xyz[row], axis=1), atol=1e-3)


def test_too_few_rows_leave_blanks():
    table = located(brains=1)[:6].copy()
    found = search(table, table.obs["id"].iloc[0], k=20, across=False)
    assert found.ids.shape == (1, 20)
    assert (found.ids[0, 5:] == "").all()
    assert np.isnan(found.similarity[0, 5:]).all()
    assert len(found.frame()) == 5


def test_wrong_questions_are_refused():
    table = located()
    with pytest.raises(Usage, match="no row 'nowhere' and 1 more"):
        search(table, ["B0/0", "nowhere", "else"])
    with pytest.raises(Usage, match="at least 1"):
        search(table, "B0/0", k=0)
    with pytest.raises(Refused, match="common space"):
        retrieval(located(space="unregistered"), Split(by="brain", folds=0))
    with pytest.raises(Usage, match="no_such"):
        retrieval(table, Split(by="brain", folds=0), truth=["no_such"])


def test_retrieval_is_between_position_and_chance(tmp_path):
    table = located()
    score = retrieval(table, Split(by="brain", folds=0))
    assert score.baselines["coordinates only"].value < score.value < 0.6 * score.baselines["random"].value
    assert score.baselines["untrained"].value > 0.8 * score.baselines["random"].value
    assert score.gains["untrained"].high < 0
    assert score.n == 360
    assert Score.load(score.save(tmp_path)).to_json() == score.to_json()
    # The features know the true place, which the registered coordinates miss by a brain's own error.
    true = retrieval(table, Split(by="brain", folds=0), truth=["true_x", "true_y", "true_z"])
    assert true.value < score.value
    assert true.value < true.baselines["random"].value / 2


def test_retrieval_by_a_loop():
    table = located(brains=2)
    score = retrieval(table, Split(by="brain", folds=0))
    x = np.asarray(table.X, np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    obs = table.obs.reset_index(drop=True)
    xyz = obs[["x_mm", "y_mm", "z_mm"]].to_numpy()
    for row in (3, 77, 200):
        other = np.flatnonzero(obs["subject"] != obs["subject"][row])
        best = other[(x[other] @ x[row]).argmax()]
        assert score.predicted[obs["id"][row]] == pytest.approx(np.linalg.norm(xyz[best] - xyz[row]), abs=1e-6)


def test_weighted_medians_are_medians_of_the_drawn_rows():
    rng = np.random.default_rng(0)
    values = rng.normal(size=63)
    names = np.repeat([f"s{i}" for i in range(7)], 9).astype(object)
    boot = metrics.Bootstrap.of(names, seed=0)
    fast = module._medians(boot, values)
    for draw in (0, 11, 399):
        drawn = np.concatenate([np.repeat(values[names == f"s{i}"], int(boot.times[draw, i])) for i in range(7)])
        assert fast[draw] == pytest.approx(np.median(drawn))


@pytest.mark.parametrize(
    "given", [{"target": "area"}, {"probe": "knn"}, {"atlas": "folder"}, {"fewer_labels": (60,)}], ids=str
)
def test_settings_of_another_question_are_refused(given):
    """An answer must not look as if it had been measured with them."""
    with pytest.raises(Usage, match=f"(?s)no labels and no read-out.*found: {next(iter(given))}"):
        results.score("search", located(), **given)


def test_an_atlas_for_a_column_of_the_table_is_refused():
    table = located()
    table.obs["area"] = "V1"
    with pytest.raises(Usage, match="'area' is a column of the table"):
        results.label(table, "area", atlas="folder")
