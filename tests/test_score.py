"""Metrics agree with slow references; a score survives a trip to disk."""

from __future__ import annotations

import io
import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.spatial.distance import cdist
from sklearn.metrics import balanced_accuracy_score, f1_score

from brodmann.errors import Corrupt, Usage
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._score import Estimate, Score


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 200), size=st.integers(2, 7))
def test_f1_and_recall_are_scikit_learns(seed, n, size):
    rng = np.random.default_rng(seed)
    truth, said = rng.integers(0, size, n), rng.integers(0, size, n)
    matrix = metrics.confusion(truth, said, size)
    present = np.unique(truth)
    expected = f1_score(truth, said, labels=present, average="macro", zero_division=0)
    assert metrics.macro_f1(matrix) == pytest.approx(expected)
    if len(present) > 1 and set(said) <= set(present):
        assert metrics.balanced_accuracy(matrix) == pytest.approx(balanced_accuracy_score(truth, said))
    assert metrics.accuracy(matrix) == pytest.approx((truth == said).mean())


def test_bootstrap_draws_whole_clusters():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 3, 90), rng.integers(0, 3, 90)
    names = np.repeat([f"s{i}" for i in range(9)], 10).astype(object)
    boot = metrics.Bootstrap.of(names, seed=4)
    fast = boot.confusions(truth, said, 3)
    assert (boot.times.sum(axis=1) == 9).all()
    for draw in (0, 17, 999):
        rows = np.concatenate([np.repeat(np.flatnonzero(names == f"s{i}"), int(boot.times[draw, i])) for i in range(9)])
        assert np.array_equal(fast[draw], metrics.confusion(truth[rows], said[rows], 3))


def test_interval_widens_when_rows_of_a_section_err_together():
    """200 rows in 10 sections: independent errors, and errors that take whole sections."""
    names = np.repeat(np.arange(10), 20).astype(str).astype(object)
    boot = metrics.Bootstrap.of(names, seed=0)
    truth = np.tile([0, 1], 100)
    alone = np.where(np.random.default_rng(1).random(200) < 0.3, 1 - truth, truth)
    together = np.where(np.repeat(np.arange(10), 20) < 3, 1 - truth, truth)
    widths = []
    for said in (alone, together):
        low, high = np.percentile(metrics.macro_f1(boot.confusions(truth, said, 2)), [2.5, 97.5])
        widths.append(high - low)
    assert widths[1] > 2.5 * widths[0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.sampled_from([2, 3]))
def test_distances_to_borders_and_classes_against_loops(seed, d):
    rng = np.random.default_rng(seed)
    n = 60
    where = rng.uniform(0, 10, (n, d))
    brain = rng.choice(["a", "b"], n).astype(object)
    labels = rng.integers(0, 4, n)
    rows = rng.permutation(n)[:25]
    said = rng.integers(0, 4, 25)
    distance = cdist(where, where)
    distance[brain[:, None] != brain[None]] = np.inf
    border = [min([distance[i, j] for j in range(n) if labels[j] != labels[i]], default=np.inf) for i in rows]
    there = [
        min([distance[i, j] for j in range(n) if labels[j] == c], default=np.inf)
        for i, c in zip(rows, said, strict=True)
    ]
    assert np.allclose(metrics.border_distance(where, brain, labels, rows), border)
    assert np.allclose(metrics.class_distance(where, brain, labels, rows, said), there)


def test_sheet_coordinates_are_used_only_when_every_row_has_them():
    places = pd.DataFrame({"x_mm": [0.0, 1], "y_mm": [0.0, 0], "z_mm": [0.0, 0], "u_mm": [5.0, 6], "v_mm": [1.0, 2]})
    assert metrics.coordinates(places)[1] == "sheet"
    places.loc[1, "u_mm"] = np.nan
    where, kind = metrics.coordinates(places)
    assert kind == "space"
    assert where.shape == (2, 3)


def a_score(**changes) -> Score:
    index = pd.Index(["B1/s1/0", "B1/s1/1", "B1/s2/0"], name="id")
    values = {
        "task": "areas",
        "target": "ccf",
        "metric": "macro-F1",
        "value": 0.412,
        "interval": (0.36, 0.46),
        "n": 9312,
        "n_groups": 30,
        "what": "patches",
        "baselines": {"coordinates only": Estimate(0.3), "untrained": Estimate(0.12, 0.1, 0.14, "no training")},
        "gains": {"untrained": Estimate(0.29, 0.2, 0.3)},
        "more": {"accuracy": Estimate(0.5)},
        "classes": ("V1", "V2"),
        "per_class": {"V1": {"precision": float("nan"), "recall": 0.5, "f1": 0.5, "n": 2}},
        "confusion": ((1, 1), (0, 1)),
        "predicted": pd.Series(["V1", "V2", "V2"], index=index, dtype=object, name="predicted"),
        "truth": pd.Series(["V1", "V1", "V2"], index=index, dtype=object, name="truth"),
        "remarks": ("one brain",),
    }
    return Score(**{**values, **changes})


def test_a_score_prints_with_its_rivals():
    text = str(a_score())
    assert text.startswith("areas  macro-F1 0.41 [0.36, 0.46]  n 9,312 patches, 30 sections | coordinates only 0.30")
    assert "untrained 0.12" in text
    assert "note: one brain" in text
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(a_score().table())
    assert "untrained" in console.export_text()


def test_eighty_columns_are_enough_for_a_table(capsys):
    rivals = {"coordinates only": Estimate(0.2, 0.15, 0.25, "best form: 15 nearest places"), "profile": Estimate(0.3)}
    more = {
        "brain": Estimate(0.4, 0.35, 0.45, "chance 0.25"), "brain: untrained": Estimate(0.33, 0.3, 0.36),
        "section": Estimate(math.nan, note="chance 0.25"), "undefined draws": Estimate(3),
    }  # fmt: skip
    gains = {"coordinates only": Estimate(0.21, 0.1, 0.3), "brain: untrained": Estimate(0.07, -0.01, 0.15)}
    found = a_score(baselines=rivals, more=more, gains=gains)
    console = Console(record=True, width=80)
    console.print(found.table())
    said = console.export_text()
    lines = [line.rstrip() for line in said.splitlines()]
    assert max(map(len, lines)) <= 80
    row = {line.strip().partition("  ")[0]: line for line in lines}
    assert "[0.150, 0.250]" in row["coordinates only"]
    assert "+0.210 [0.100, 0.300]" in row["coordinates only"]
    # what belongs to the row above is set in, with its own gain
    assert row["untrained"].startswith("   untrained")
    assert "+0.070 [-0.010, 0.150]" in row["untrained"]
    assert row["section"].split() == ["section"]
    assert row["undefined draws"].split() == ["undefined", "draws", "3"]
    # a note stands once, for all that it is of
    assert "brain, section: chance 0.25" in lines
    assert "coordinates only: best form: 15 nearest places" in lines


def test_a_score_comes_back_from_disk_unchanged(tmp_path):
    score = a_score(target="a/b c")
    path = score.save(tmp_path)
    assert path == tmp_path / "scores" / "areas-a_b_c.json"
    text = path.read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))
    again = Score.load(path)
    assert again.to_json() == text
    pd.testing.assert_series_equal(again.predicted, score.predicted)
    assert again.baselines["untrained"] == score.baselines["untrained"]
    assert np.isnan(again.baselines["coordinates only"].low)
    assert again.confusion == score.confusion


def test_a_score_says_what_it_is_of():
    other = a_score(scored="consensus, no network")
    assert str(other).startswith("areas (consensus, no network)  macro-F1 0.41")
    assert next(iter(other.table().columns[0].cells)) == "consensus, no network"
    assert Score.from_json(other.to_json()).scored == "consensus, no network"
    before = json.loads(a_score().to_json())
    del before["scored"]
    assert Score.from_json(json.dumps(before)).scored == "features", "as files of before are read"


def test_numeric_scores_keep_missing_numbers(tmp_path):
    index = pd.Index(["a", "b"], name="id")
    score = a_score(
        classes=(),
        confusion=(),
        predicted=pd.Series([1.5, np.nan], index=index),
        truth=pd.Series([1.0, 2], index=index),
    )
    again = Score.load(score.save(tmp_path))
    assert again.predicted["a"] == 1.5
    assert np.isnan(again.predicted["b"])


def test_what_is_not_a_score_is_named(tmp_path):
    with pytest.raises(Usage, match="no such file"):
        Score.load(tmp_path / "absent.json")
    for text in ("{}", "[]", "{", a_score().to_json().replace('"classes":["V1","V2"]', '"classes":["V1"]')):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(Corrupt):
            Score.load(tmp_path / "broken.json")


def test_a_draw_without_any_known_class_has_no_score_and_no_warning():
    matrices = np.array([[[3.0, 1.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[2.0, 2.0], [0.0, 0.0]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.macro_f1(matrices), metrics.balanced_accuracy(matrices)
    assert np.isnan([found[0][1], found[1][1]]).all()
    assert found[1][[0, 2]] == pytest.approx([(0.75 + 1) / 2, 0.5])
    assert found[0][0] == pytest.approx((6 / 7 + 8 / 9) / 2)
