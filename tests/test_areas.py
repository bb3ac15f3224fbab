"""A planted map is read out above its nulls; a broken one is not; leaks stop the score."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from brodmann import splits
from brodmann.errors import Leak, Refused, Usage
from brodmann.settings import Split
from brodmann.tasks import _probe as probes
from brodmann.tasks.areas import areas

BRAIN = Split(by="brain", folds=0)


def planted(seed: int = 0, *, brains: int = 4, registration_mm: float = 2.0, noise: float = 1.0) -> ad.AnnData:
    """Brains whose features follow their own areas, while coordinates follow them only up to a registration error."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, 10, (6, 3))
    look = rng.standard_normal((6, 16))
    rows, features, plain = [], [], []
    for brain in range(brains):
        shift, wave = rng.normal(0, registration_mm, 3), rng.uniform(0, 6, 3)
        for section in range(6):
            true = rng.uniform(0, 10, (50, 3))
            true[:, 1] = section * 1.8
            area = np.linalg.norm(true[:, None] - seeds[None], axis=2).argmin(axis=1)
            registered = true + shift + registration_mm / 2 * np.sin(true / 3 + wave)
            features.append(look[area] + noise * rng.standard_normal((50, 16)))
            plain.append(rng.standard_normal((50, 4)))
            rows += [
                (f"B{brain}/s{section}/{i}", f"B{brain}", f"B{brain}_s{section}", *registered[i], f"area{area[i]}")
                for i in range(50)
            ]
    obs = pd.DataFrame(rows, columns=["id", "subject", "section", "x_mm", "y_mm", "z_mm", "area"])
    obs.index = pd.Index(obs["id"].to_numpy(), name=None)
    made = {"system": "patches", "encoder_fold": -1, "recipe_hash": "r", "data_fingerprint": "d"}
    return ad.AnnData(
        X=np.concatenate(features).astype(np.float16),
        obs=obs,
        obsm={"baseline_statistics": np.concatenate(plain)},
        uns={"space": {"name": "phantom"}, "brodmann": made},
    )


@pytest.fixture(scope="module")
def score():
    return areas(planted(), "area", BRAIN, fewer_labels=(60,))


def test_one_held_out_section_has_an_interval_over_blocks_of_it():
    table = planted(brains=2)
    kept = table[(table.obs["subject"] == "B0") | (table.obs["section"] == "B1_s2")].copy()
    found = areas(kept, "area", Split(by="brain", folds=0, fold=1), compare=False)
    assert (found.n, found.n_groups, found.cluster) == (50, 16, "blocks")
    assert found.interval[0] < found.value < found.interval[1]
    assert any("one held-out section" in remark for remark in found.remarks)


def test_a_planted_map_beats_position_chance_and_null(score):
    assert score.value > 0.8
    assert score.interval[0] < score.value < score.interval[1]
    assert score.value > score.baselines["coordinates only"].high
    assert score.baselines["coordinates only"].value > score.baselines["chance"].value
    assert score.value > score.baselines["spatial null"].high + 0.2
    assert score.gains["statistics"].low > 0.3
    assert abs(score.baselines["statistics"].value - 1 / 6) < 0.08
    assert score.more["border-tolerant accuracy"].value >= score.more["accuracy"].value
    assert score.more["statistics + features"].value == pytest.approx(score.value, abs=0.05)
    assert 0.4 < score.more["macro-F1 from 60 labels"].value < score.value
    assert score.n == 1200
    assert score.cluster == "sections"
    assert score.n_groups == 24
    assert any("4 held-out brains" in text for text in score.remarks)
    assert any("without their labels" in text for text in score.remarks)
    assert (score.predicted == score.truth).mean() == pytest.approx(score.more["accuracy"].value)
    assert sum(sum(row) for row in score.confusion) == score.n


def test_the_same_call_gives_the_same_score(score):
    again = areas(planted(), "area", BRAIN, fewer_labels=(60,))
    assert again.to_json() == score.to_json()


def test_labels_without_relation_fall_to_chance():
    table = planted()
    table.obs["area"] = np.random.default_rng(1).permutation(table.obs["area"].to_numpy())
    score = areas(table, "area", BRAIN)
    assert score.value < 0.23
    # A gain whose interval excludes zero would be a false discovery.
    assert score.gains["chance"].low < 0.03


def test_features_that_only_know_where_they_are_do_not_beat_the_spatial_null():
    """Smooth random functions of place predict any smooth map: the true one no better than a moved one."""
    table = planted(registration_mm=0.0)
    xyz = splits.positions(table.obs)
    rng = np.random.default_rng(2)
    table.X = np.cos(xyz @ rng.normal(0, 0.5, (3, 16)) + rng.uniform(0, 6, 16)).astype(np.float16)
    score = areas(table, "area", BRAIN)
    null = score.baselines["spatial null"]
    assert score.value > 0.6
    assert null.value > 0.5
    assert score.more["features, as the null"].value < null.high + 0.1
    assert any("position alone" in text for text in score.remarks)


def test_knn_probe_and_other_tables_stand_beside():
    table, other = planted(), planted(noise=6.0)
    score = areas(table, "area", BRAIN, probe="knn", extra_tables={"noisy": other[::-1].copy()})
    assert score.value > 0.8
    assert score.gains["noisy"].low > 0.1
    with pytest.raises(Refused, match="every row"):
        areas(table, "area", BRAIN, extra_tables={"noisy": other[10:].copy()})


def test_other_tables_are_aligned_by_id():
    table = planted()
    score = areas(table, "area", BRAIN, extra_tables={"itself": table[::-1].copy()})
    assert score.baselines["itself"].value == score.value
    assert score.gains["itself"].value == 0


def test_a_leaking_split_raises():
    table = planted()
    half = np.arange(table.n_obs)
    by_hand = [splits.Fold(half[::2], half[1::2], "every other row")]
    with pytest.raises(Leak, match="section"):
        areas(table, "area", Split(by="section", folds=3), folds=by_hand)
    sections = splits.folds(table.obs, Split(by="section", folds=3))
    with pytest.raises(Leak, match="brain"):
        areas(table, "area", Split(by="brain", folds=2), folds=sections)
    made = areas(table, "area", Split(by="section", folds=3), folds=sections, compare=False)
    assert made.baselines == {}
    assert made.n == 1200


def test_encoder_that_never_saw_the_fold_earns_no_remark():
    table = planted()
    table.uns["brodmann"] |= {"encoder_fold": 1, "split": {"by": "brain", "folds": 4}}
    clean = areas(table, "area", Split(by="brain", folds=4, fold=1), compare=False)
    assert not any("encoder" in text for text in clean.remarks)
    for split in (Split(by="brain", folds=4), Split(by="brain", folds=4, fold=2), Split(by="brain", folds=2, fold=1)):
        assert any("other rows as well" in text for text in areas(table, "area", split, compare=False).remarks)


def test_rare_and_missing_labels_take_no_part():
    table = planted()
    labels = table.obs["area"].astype(object).to_numpy().copy()
    labels[:100] = None
    labels[100:150] = ""
    labels[200:240] = "only here"
    table.obs["area"] = labels
    score = areas(table, "area", BRAIN, compare=False)
    assert "only here" not in score.classes
    assert score.n == 1200 - 190
    assert any("only here (40)" in text for text in score.remarks)
    assert any("150 of 1,200" in text for text in score.remarks)


def test_features_join_the_form_of_coordinates_that_is_best():
    """Of the sheet nothing can be told here; in space areas lie apart."""
    table = planted(registration_mm=0.0, noise=3.0)
    rng = np.random.default_rng(1)
    table.obs["u_mm"], table.obs["v_mm"] = rng.uniform(0, 10, (2, table.n_obs))
    score = areas(table, "area", BRAIN)
    alone, both = score.baselines["coordinates only"], score.more["coordinates + features"]
    assert "space" in alone.note
    assert f"over coordinates only ({alone.value:.3f})" in both.note
    assert both.value > alone.value - 0.1


def test_wrong_questions_are_refused():
    table = planted()
    with pytest.raises(Usage, match="area"):
        areas(table, "aera", BRAIN)
    with pytest.raises(Refused, match="two classes"):
        areas(table, "area", BRAIN, min_per_class=10_000)
    with pytest.raises(Refused, match=r"score RUN properties --target x_mm"):
        areas(table, "x_mm", BRAIN)
    with pytest.raises(Refused, match="a table without one"):
        areas(table, "area", BRAIN, probe="head")
    table.uns["brodmann"]["head"] = {"target": "layer", "classes": ["I", "II"]}
    with pytest.raises(Refused, match="has one for 'layer'"):
        areas(table, "area", BRAIN, probe="head")
    table.X = np.where(np.arange(table.n_obs)[:, None] == 3, np.nan, table.X)
    with pytest.raises(Refused, match="1 of 1200 rows"):
        areas(table, "area", BRAIN)


def test_linear_probe_is_the_optimum_scikit_learn_finds():
    rng = np.random.default_rng(0)
    codes = rng.choice(4, 400, p=[0.1, 0.2, 0.3, 0.4])
    x = rng.standard_normal((4, 10))[codes] + rng.standard_normal((400, 10)) * np.logspace(-1, 1, 10)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    weight = 1 / np.sqrt(np.bincount(codes))[codes]
    weight *= 400 / weight.sum()
    for penalty in (0.1, 0.003):
        weights, bias = probes._logistic(x, codes, 4, [0.03, penalty])[1]
        exact = LogisticRegression(C=1 / (400 * penalty), tol=1e-8, max_iter=5000).fit(x, codes, sample_weight=weight)
        # Both agree up to a constant per row, which the softmax removes.
        assert np.allclose(probes._softmax(x @ weights + bias), exact.predict_proba(x), atol=0.02)


def test_ridge_and_nearest_neighbours_against_scikit_learn():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 8)).astype(np.float32), rng.standard_normal(300)
    group = np.repeat([f"s{i}" for i in range(6)], 50)
    z = (x - x[:200].mean(0)) / x[:200].std(0)
    exact = Ridge(alpha=0.5 * 200).fit(z[:200], y[:200]).predict(z[200:])
    found, _ = probes.fit_predict("ridge", x[:200], y[:200], group[:200], x[200:], 0, penalty=0.5)
    assert np.allclose(found, exact, atol=1e-4)
    strong = x @ rng.standard_normal(8)
    chosen, _ = probes.fit_predict("ridge", x[:200], strong[:200], group[:200], x[200:], 0)
    assert np.corrcoef(chosen, strong[200:])[0, 1] > 0.99
    codes = (z[:, 0] > 0).astype(int)
    k = KNeighborsClassifier(probes.NEIGHBOURS, metric="cosine").fit(z[:200], codes[:200])
    said, probability = probes.fit_predict("knn", x[:200], codes[:200], group[:200], x[200:], 0)
    assert (said == k.predict(z[200:])).mean() > 0.9
    assert np.allclose(probability.sum(axis=1), 1, atol=1e-5)


def test_test_rows_do_not_change_what_is_learned():
    """Standardisation and penalty come from training rows alone: predictions of a row do not depend on its company."""
    table = planted()
    x, y = np.asarray(table.X, np.float32), table.obs["area"].to_numpy()
    group = table.obs["section"].astype(str).to_numpy()
    whole, _ = probes.fit_predict("linear", x[:600], y[:600], group[:600], x[600:], 0)
    part, _ = probes.fit_predict("linear", x[:600], y[:600], group[:600], np.vstack([x[600:650], 50 + x[:9]]), 0)
    assert (whole[:50] == part[:50]).all()
