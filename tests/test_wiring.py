"""Synapses follow planted similarity, its slope is found again, and neither distance nor rewiring is taken for it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from brodmann.errors import Refused, Usage
from brodmann.tasks import _poisson as poisson
from brodmann.tasks import wiring as task
from brodmann.tasks._pairs import similarity
from brodmann.tasks._score import Score
from brodmann.tasks.wiring import wiring


def world(
    slope: float, *, seed: int = 0, pre: int = 60, post: int = 150, smooth: bool = False, popular: float = 0.0
) -> tuple[ad.AnnData, pd.DataFrame]:
    """Neurons with barcodes, and synapses whose log rate is linear in distance and in cosine of barcodes."""
    rng = np.random.default_rng(seed)
    n = pre + post
    xyz = rng.uniform(0, 0.6, (n, 3))
    code = rng.standard_normal((n, 12))
    if smooth:
        waves = rng.standard_normal((3, 12)) * 4
        code = np.hstack([np.cos(xyz @ waves), np.sin(xyz @ waves)])
    a, b = (side.ravel() for side in np.meshgrid(np.arange(pre), np.arange(pre, n), indexing="ij"))
    distance = np.linalg.norm(xyz[a] - xyz[b], axis=1) * 1000
    unit = code / np.linalg.norm(code, axis=1, keepdims=True)
    cosine = (unit[a] * unit[b]).sum(axis=1)
    degree, liked = rng.normal(0, 0.5, n), rng.normal(0, 1, n) * popular
    rate = np.exp(-0.8 - distance / 200 + slope * cosine + degree[a] + liked[b])
    obs = pd.DataFrame({"id": [f"n{i}" for i in range(n)], "subject": "M", "section": "s"})
    obs[["x_mm", "y_mm", "z_mm"]] = xyz
    obs.index = obs["id"].to_numpy()
    table = ad.AnnData(
        X=code.astype(np.float32), obs=obs, obsm={"baseline_noise": rng.standard_normal((n, 6)).astype(np.float32)},
        uns={"brodmann": {"recipe_hash": "r", "data_fingerprint": "d"}},
    )  # fmt: skip
    ids = obs["id"].to_numpy()
    frame = pd.DataFrame(
        {"pre": ids[a], "post": ids[b], "synapses": rng.poisson(rate), "distance_um": distance,
         "rf_distance_deg": rng.uniform(0, 40, len(a))}
    )  # fmt: skip
    return table, frame


@pytest.fixture(scope="module")
def planted():
    table, frame = world(1.6, seed=1)
    return wiring(table, frame)


def test_the_planted_slope_is_found_within_its_interval(planted):
    found = planted.more["slope of similarity"]
    assert found.low < 1.6 < found.high
    assert found.high - found.low < 0.8
    assert planted.interval[0] > 0.02
    assert planted.interval[0] < planted.value < planted.interval[1]
    assert (planted.n, planted.n_groups, planted.cluster) == (9000, 60, "pre-synaptic neurons")
    distance = planted.more["slope of distance, per 100 um"]
    assert distance.low < -0.5 < distance.high
    apart = planted.more["slope of receptive-field distance, per 10 deg"]
    assert apart.low < 0 < apart.high


def test_the_slope_is_right_on_average_over_worlds():
    found = [wiring(*world(1.6, seed=seed), shuffles=2).more["slope of similarity"] for seed in range(8)]
    assert np.mean([one.value for one in found]) == pytest.approx(1.6, abs=0.1)
    assert sum(one.low < 1.6 < one.high for one in found) >= 6


def test_the_quick_answer_for_dealt_partners_agrees_with_a_fit(monkeypatch):
    table, frame = world(0.5, seed=4, pre=40, post=80)
    monkeypatch.setattr(task, "LIKE", 1)
    # among groups of one nothing moves: the draw is the planted wiring itself
    found = wiring(table, frame, shuffles=2)
    assert found.baselines["rewired"].value == pytest.approx(found.value, rel=0.05)
    assert found.more["slope of similarity, rewired"].value == pytest.approx(
        found.more["slope of similarity"].value, rel=0.1
    )


def test_rewired_partners_and_rivals_fall_to_zero(planted):
    null = planted.baselines["rewired"]
    assert abs(null.value) < 0.003
    assert null.low < 0 < null.high + 0.003
    assert planted.value > 10 * abs(null.high)
    around = planted.more["slope of similarity, rewired"]
    assert around.low < 0 < around.high
    for name in ("similarity of noise", "similarity of coordinates", "node features alone"):
        assert abs(planted.baselines[name].value) < 0.01, name
        assert planted.gains[name].low > 0.01, name
    assert not any("rewired" in remark for remark in planted.remarks)
    assert Score.from_json(planted.to_json()).more == planted.more


def test_similarity_that_follows_distance_alone_gains_nothing():
    table, frame = world(0.0, smooth=True)
    cosine = similarity(np.asarray(table.X), *(frame[side].str[1:].astype(int).to_numpy() for side in ("pre", "post")))
    assert np.corrcoef(cosine, frame["distance_um"])[0, 1] < -0.6
    found = wiring(table, frame, shuffles=50)
    assert found.value < 0.005
    assert found.interval[0] < 0
    slope = found.more["slope of similarity"]
    assert slope.low < 0 < slope.high
    assert any("rewired partners do as well" in remark for remark in found.remarks)


def test_partners_that_everyone_chooses_are_told_from_similar_ones():
    table, frame = world(0.0, popular=1.0, seed=3)
    found = wiring(table, frame, shuffles=20)
    assert found.baselines["node features alone"].low > 0.1
    assert abs(found.more["beyond distance and node features"].value) < 0.01
    both = wiring(*world(1.5, popular=1.0, seed=3), shuffles=20)
    assert both.more["beyond distance and node features"].low > 0.02


def test_a_poisson_regression_solves_its_own_equations():
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(100), 50)
    x = rng.standard_normal((5000, 2)) + rng.normal(0, 1, 100)[cluster, None]
    offset = rng.normal(0, 0.5, 5000)
    y = rng.poisson(np.exp(offset + x @ [0.7, -0.3] + rng.normal(-0.5, 0.5, 100)[cluster])).astype(float)
    given = poisson.Counts(y, offset, cluster)
    found = poisson.fit(given, x)
    assert found == pytest.approx([0.7, -0.3], abs=0.05)
    expected = poisson.rate(given, x, found)
    assert given.sums(expected) == pytest.approx(given.sums(y))
    assert np.abs(x.T @ (y - expected)).max() < 1e-4 * y.sum()
    # the same as a free level for every cluster
    levels = np.hstack([x, np.eye(100)[cluster]])
    full = minimize(
        lambda b: np.exp(offset + levels @ b).sum() - y @ (levels @ b),
        np.zeros(102), jac=lambda b: levels.T @ (np.exp(offset + levels @ b) - y), method="L-BFGS-B",
        options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-6},
    )  # fmt: skip
    assert found == pytest.approx(full.x[:2], abs=1e-4)
    # two counts by hand: 2 (2 log(2 / 1) - 1) and 2 * 0.5
    assert poisson.deviance(np.array([2.0, 0.0]), np.array([1.0, 0.5])) == pytest.approx([4 * np.log(2) - 2, 1.0])
    with pytest.raises(Refused, match="counts"):
        poisson.fit(poisson.Counts(y * 0, offset, cluster), x)


def test_one_step_draws_agree_with_refits():
    rng = np.random.default_rng(2)
    cluster = np.repeat(np.arange(80), 40)
    x = rng.standard_normal((3200, 2)) + rng.normal(0, 0.6, 80)[cluster, None]
    # slopes that differ between clusters make draws of clusters differ from draws of rows
    own = 0.5 + rng.normal(0, 0.5, 80)
    y = rng.poisson(np.exp(x[:, 0] * own[cluster] - 1)).astype(float)
    given = poisson.Counts(y, np.zeros(3200), cluster)
    fitted = poisson.fit(given, x)
    quick = poisson.redrawn(given, x, fitted, 0)
    refits = []
    for _ in range(150):
        rows = (rng.integers(0, 80, 80)[:, None] * 40 + np.arange(40)).ravel()
        refits.append(poisson.fit(poisson.Counts(y[rows], np.zeros(3200), cluster), x[rows]))
    assert quick.std(axis=0) == pytest.approx(np.std(refits, axis=0), rel=0.2)
    assert quick.mean(axis=0) == pytest.approx(fitted, abs=0.05)


def test_similarity_keeps_its_sign():
    x = np.array([[1.0, 0], [-2, 0], [0, 3], [0, 0]])
    assert similarity(x, np.array([0, 0, 1, 0]), np.array([1, 2, 1, 3])) == pytest.approx([-1, 0, 1, 0])


def test_dealing_anew_keeps_degrees_and_moves_partners_among_like_distances(monkeypatch):
    table, frame = world(1.6, pre=20, post=230)
    seen = []
    sort = np.argsort

    def noted(values, *rest, **more):
        found = sort(values, *rest, **more)
        if values.dtype.kind == "f" and len(values) == 4600:
            seen.append(found)
        return found

    monkeypatch.setattr(task.np, "argsort", noted)
    wiring(table, frame, shuffles=2)
    assert len(seen) == 2
    pre = np.repeat(np.arange(20), 230)
    # pairs are in order of distance: 230 candidates are four groups of 57 or 58
    group = pre * 4 + np.arange(4600) % 230 * 4 // 230
    for order in seen:
        assert (group[order] == group).all()
        assert (order != np.arange(4600)).mean() > 0.95


def test_a_strong_slope_is_gone_when_partners_are_dealt_anew():
    found = wiring(*world(3.0, pre=30, post=500), shuffles=50)
    assert found.more["slope of similarity"].value == pytest.approx(3.0, abs=0.3)
    assert abs(found.more["slope of similarity, rewired"].value) < 0.15
    assert abs(found.baselines["rewired"].value) < 0.02 * found.value


def test_pairs_that_cannot_be_used_are_named_or_refused():
    table, frame = world(1.0, pre=20, post=40)
    odd = frame.copy()
    odd.loc[0, "post"] = "elsewhere"
    odd.loc[1, "post"] = odd.loc[1, "pre"]
    odd.loc[odd["pre"] == "n3", "synapses"] = 0
    found = wiring(table, odd, shuffles=5)
    assert (found.n, found.n_groups) == (800 - 2 - 40, 19)
    text = " ".join(found.remarks)
    assert "1 of 800 pairs have a neuron that is not in the table" in text
    assert "1 pre-synaptic neurons have no synapse" in text
    with pytest.raises(Usage, match="distance_um"):
        wiring(table, frame.drop(columns="distance_um"))
    with pytest.raises(Refused, match="given once"):
        wiring(table, pd.concat([frame, frame.head(1)]))
    with pytest.raises(Refused, match="negative"):
        wiring(table, frame.assign(synapses=-1))
    with pytest.raises(Refused, match="at least 10 pre-synaptic"):
        wiring(table, frame[frame["pre"].isin(["n1", "n2"])])
