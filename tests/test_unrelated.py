"""Unrelated smooth maps pass the null of areas and properties one time in twenty, on folded sheets too."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _spectrum as spectrum
from brodmann.tasks import _unrelated as unrelated
from brodmann.tasks._fields import Field
from brodmann.tasks._probe import fit_predict, ridge_all
from test_spin import waves

LENGTH = 6.0
BRAINS, ROWS = 3, 160
BRAIN = np.repeat(np.arange(BRAINS), ROWS)
PARTS = [(np.flatnonzero(b != BRAIN), np.flatnonzero(b == BRAIN)) for b in range(BRAINS)]


def sheet(rng: np.random.Generator, *, folded: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Places on a sheet of 60 x 40 mm, and in space, where it is folded: four gyri 10 mm high."""
    uv = rng.uniform(0, 1, (BRAINS * ROWS, 2)) * [60, 40]
    return uv, np.column_stack([uv, folded * 5 * np.sin(uv[:, 0] * 2 * np.pi / 15)])


def features(uv: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (waves(uv, rng, 8, LENGTH) + 0.1 * rng.standard_normal((len(uv), 8))).astype(np.float32)


def passed(kind: str, trials: range, *, repeats: int = 19, related: float = 0.0) -> np.ndarray:
    """P values of features (smooth functions on the sheet) for maps (others) whose places are known in space alone."""
    found = []
    for trial in trials:
        rng = np.random.default_rng([trial, 7])
        uv, where = sheet(rng)
        x = features(uv, rng)
        if kind == "classes":
            height = waves(uv, rng, 5, LENGTH) + related * x[:, :5]
            y = np.unique(height.argmax(axis=1), return_inverse=True)[1].astype(np.int64)
            one = unrelated.of_classes(
                x, where, BRAIN, y, PARTS, probe="linear", measure=metrics.macro_f1, seed=trial, repeats=repeats
            )
        else:
            y = waves(uv, rng, 1, LENGTH)[:, 0] + related * x[:, 0]
            if kind == "own":
                y = y + np.concatenate([waves(uv[b == BRAIN], rng, 1, LENGTH)[:, 0] for b in range(BRAINS)])
                y = y + 0.5 * rng.standard_normal(len(y))
            one = unrelated.of_numbers(x, where, BRAIN, y, PARTS, seed=trial, repeats=repeats)
        # passing the 95th percentile and a p value of at most .05 are one thing
        assert (one.observed > unrelated.limits(one.values)[1]) == (one.p <= 0.05)
        found.append(one.p)
    return np.array(found)


@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_few_unrelated_maps_pass_and_related_ones_do(kind):
    p = passed(kind, range(12))
    # .05 of 12 is .6: four or more have probability .002
    assert (p <= 0.05).sum() <= 3
    assert (p > 0.3).any()
    assert (passed(kind, range(3), related=2.0) == 0.05).all()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["numbers", "own", "classes"])
def test_the_null_is_calibrated_on_a_folded_sheet(kind):
    """The rate at which smooth labels that know nothing of the features exceed the null's 95th percentile."""
    p = passed(kind, range(200))
    assert (p <= 0.05).mean() <= 0.09
    assert (p <= 0.2).mean() == pytest.approx(0.2, abs=0.1)
    # the middle of the null is a little low (.63 of unrelated numbers have p <= .5); its tail is what is promised
    assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.16)


def test_shuffled_maps_would_let_them_all_pass(monkeypatch):
    """What smoothness is for: without it the null is too low."""
    monkeypatch.setattr(Field, "draw", lambda self, rng: rng.permutation(self.values))
    assert (passed("numbers", range(8)) <= 0.05).mean() > 0.4


def test_fields_have_the_values_and_the_variogram_of_the_truth():
    rng = np.random.default_rng(3)
    uv, where = sheet(rng, folded=False)
    y = np.exp(waves(uv, rng, 1, LENGTH)[:, 0] + 0.4 * rng.standard_normal(len(uv)))
    field = Field.fit(where, y, BRAIN, 0)
    drawn = np.array([field.draw(np.random.default_rng(k)) for k in range(40)])
    assert (np.sort(drawn, axis=1) == np.sort(y)).all()
    assert abs(np.corrcoef(y, drawn.mean(axis=0))[0, 1]) < 0.35
    apart = np.linalg.norm(uv[:, None] - uv, axis=2)
    scores = np.log(np.vstack([y, drawn]))
    for low, high in ((0.1, 2), (3, 5), (8, 10)):
        a, b = np.nonzero((apart > low) & (apart <= high) & (BRAIN[:, None] == BRAIN))
        half = ((scores[:, a] - scores[:, b]) ** 2).mean(axis=1) / 2
        assert half[1:].mean() == pytest.approx(half[0], rel=0.25), (low, high)
    assert 0.05 < field.nugget < 0.3


def test_what_brains_share_is_found_and_kept():
    rng = np.random.default_rng(4)
    uv, where = sheet(rng)
    common = waves(uv, rng, 1, LENGTH)[:, 0]
    own = np.concatenate([waves(uv[b == BRAIN], rng, 1, LENGTH)[:, 0] for b in range(BRAINS)])
    assert Field.fit(where, common, BRAIN, 0).shared > 0.8
    assert Field.fit(where, own, BRAIN, 0).shared < 0.4
    assert 0.2 < Field.fit(where, common + own, BRAIN, 0).shared < 0.8
    assert Field.fit(where, own, np.zeros_like(BRAIN), 0).shared == 1
    noise = Field.fit(where, rng.standard_normal(len(uv)), BRAIN, 0)
    assert noise.nugget > 0.8


def test_a_draw_of_the_null_passes_its_limits_as_often_as_they_say():
    draws = np.random.default_rng(0).random((4000, 20))
    over = [one[0] > unrelated.limits(one[1:])[1] for one in draws]
    assert np.mean(over) == pytest.approx(0.05, abs=0.012)
    # the plain percentile of nineteen draws is passed more often than it says
    assert np.mean([one[0] > np.percentile(one[1:], 95) for one in draws]) > 0.06


def test_rows_of_the_null_are_rows_of_the_folds():
    parts = [(np.arange(3000, 12000), np.arange(3000)), (np.arange(3000), np.arange(3000, 9000))]
    used, kept = unrelated._some(parts, 0)
    assert len(kept) == 2
    assert len(used) <= 2500
    for (train, test), (a, b) in zip(parts, kept, strict=True):
        assert np.isin(used[a], train).all()
        assert np.isin(used[b], test).all()
        assert not set(a) & set(b)
        assert len(b) == 500
    many = [(np.arange(100, 200), np.arange(k, k + 10)) for k in range(0, 100, 10)]
    assert len(unrelated._some(many, 0)[1]) == 4


def test_many_numbers_at_once_are_read_out_as_one_by_one():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((300, 9)).astype(np.float32), rng.standard_normal((300, 4))
    together = ridge_all(x[:200], y[:200], x[200:], 1e-2)
    for k in range(4):
        alone, _ = fit_predict("ridge", x[:200], y[:200, k], np.arange(200), x[200:], 0, penalty=1e-2)
        assert np.allclose(together[:, k], alone)


def test_components_are_those_of_scikit_learn_and_all_of_them_are_the_readout():
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((400, 11)) @ rng.standard_normal((11, 11))).astype(np.float32)
    y = x[:, 0] + 0.5 * x[:, 3] + rng.standard_normal(400)
    one_group = np.zeros(400)
    parts = [(np.arange(300), np.arange(300, 400))]
    found = spectrum.read_out(x, y, parts, lambda rows: one_group[rows])
    assert tuple(found) == spectrum.counts(11) == (1, 2, 4, 8, 11)
    assert spectrum.counts(8) == (1, 2, 4, 8)
    train, test = parts[0]
    z = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    for count, said in found.items():
        pca = PCA(count).fit(z[train])
        # the probe's penalty is on the mean squared error, that of scikit-learn on the sum
        other = Ridge(alpha=1e-2 * len(train)).fit(pca.transform(z[train]), y[train])
        assert np.allclose(said, other.predict(pca.transform(z[test])), atol=1e-2)
    groups = rng.integers(0, 4, 400)
    whole = spectrum.read_out(x, y, parts, lambda rows: groups[rows])[11]
    assert np.allclose(whole, fit_predict("ridge", x[train], y[train], groups[train], x[test], 0)[0], atol=1e-4)
