"""Agreement with noisy repeats by hand and by simulation; the scores of responses and of transfer built on it."""

from __future__ import annotations

import numpy as np
import pytest

from brodmann.errors import Refused
from brodmann.tasks._medians import Units
from brodmann.tasks._reliability import moments, reliability
from brodmann.tasks._score import Score
from brodmann.tasks.responses import Answer, responses
from brodmann.tasks.transfer import Point, transfer


def by_hand(p, y):
    """The formulas of Schoppe et al. 2016 for one neuron, spelt out: p (T,), y (N, T)."""
    n, mean = len(y), y.mean(axis=0)
    power = (n * mean.var() - y.var(axis=1).mean()) / (n - 1)
    absolute = np.corrcoef(p, mean)[0, 1]
    maximum = np.sqrt(power / mean.var()) if power > 0 else np.nan
    return absolute, maximum, absolute / maximum


def test_numbers_worked_out_by_hand_come_out():
    # two repeats, four frames: ybar = 2 1 4 5, p = 1 1 3 3
    y = np.array([[1.0, 2, 4, 5], [3, 0, 4, 5]])[:, :, None]
    p = np.array([1.0, 1, 3, 3])[:, None]
    found = reliability(p, y)
    # Var(ybar) = 2.5; Var(y_1) = 2.5, Var(y_2) = 3.5; SP = 2 * 2.5 - 3 = 2
    assert found.signal_power[0] == pytest.approx(2.0)
    assert found.maximum[0] == pytest.approx(np.sqrt(2.0 / 2.5))
    # Cov(p, ybar) = 1.5, Var(p) = 1
    assert found.absolute[0] == pytest.approx(1.5 / np.sqrt(2.5))
    assert found.normalised[0] == pytest.approx(1.5 / np.sqrt(2.0))
    # pooled: mean 3, Var(y) = (1 + 4 + 16 + 25 + 9 + 0 + 16 + 25) / 8 - 9 = 3, Cov = 1.5
    assert found.single[0] == pytest.approx(1.5 / np.sqrt(3.0))


def test_many_neurons_agree_with_the_formulas_one_by_one():
    rng = np.random.default_rng(0)
    y, p = rng.gamma(2, 1, (5, 90, 40)), rng.gamma(2, 1, (90, 40)).astype(np.float32)
    found = reliability(p, y, clips=[30, 40, 20], burn_in=10)
    kept = np.r_[10:30, 40:70, 80:90]
    for i in range(40):
        absolute, maximum, normalised = by_hand(p[kept, i], y[:, kept, i])
        assert found.absolute[i] == pytest.approx(absolute, abs=1e-6)
        assert found.single[i] == pytest.approx(
            np.corrcoef(np.tile(p[kept, i], 5), y[:, kept, i].ravel())[0, 1], abs=1e-6
        )
        assert found.maximum[i] == pytest.approx(maximum, rel=1e-5, nan_ok=True)
        assert found.normalised[i] == pytest.approx(normalised, rel=1e-5, nan_ok=True)
    assert 5 < found.undefined.sum() < 35


def test_means_far_from_zero_do_not_cost_precision():
    rng = np.random.default_rng(1)
    y, p = rng.normal(0, 1, (4, 60, 5)), rng.normal(0, 1, (60, 5))
    y += rng.normal(0, 2, (60, 5))
    plain, far = reliability(p, y), reliability(p + 1e4, y + 1e4)
    assert far.normalised == pytest.approx(plain.normalised, rel=1e-6)


def test_the_true_rate_reaches_one_and_the_formula_its_correlation():
    rng = np.random.default_rng(2)
    rate = rng.gamma(1.5, 0.7, (3000, 200))
    y = rng.poisson(rate, (10, *rate.shape)).astype(float)
    found = reliability(rate, y)
    assert not found.undefined.any()
    assert np.median(found.normalised) == pytest.approx(1, abs=0.003)
    assert found.normalised.std() < 0.02
    # CC_max is what the true rate reaches with the mean of ten repeats: Var(rate) / (Var(rate) + mean / 10)
    truth = np.sqrt(rate.var(axis=0) / (rate.var(axis=0) + rate.mean(axis=0) / 10))
    assert found.maximum == pytest.approx(truth, abs=0.02)
    assert np.median(found.absolute) == pytest.approx(np.median(truth), abs=0.005)
    half = reliability(rate + rng.normal(0, rate.std(axis=0), rate.shape), y)
    assert np.median(half.normalised) == pytest.approx(np.sqrt(0.5), abs=0.02)


def test_one_ddof_makes_few_frames_unbiased():
    rng = np.random.default_rng(3)
    y = rng.normal(0, 1, (2, 6, 40_000))
    # pure noise has a signal power of zero on average; formulas that mix ddof 0 and 1 do not
    assert abs(np.mean(reliability(y[0], y).signal_power)) < 0.005
    mixed = (2 * y.mean(axis=0).var(axis=0) - y.var(axis=1, ddof=1).mean(axis=0)).mean()
    assert abs(mixed) > 0.1


def test_undefined_neurons_are_told_and_flat_predictions_count_as_zero():
    rng = np.random.default_rng(4)
    y = rng.gamma(2, 1, (2, 50, 4)) + 3 * rng.gamma(2, 1, (50, 4))
    y[:, :, 1] = 0.3
    y[1, :, 2] = -y[0, :, 2]
    p = y.mean(axis=0)
    p[:, 3] = 100 + 1e-6 * rng.standard_normal(50)
    found = reliability(p, y)
    assert found.undefined.tolist() == [False, True, True, False]
    assert found.flat[3]
    assert (found.normalised[3], found.absolute[3], found.single[3]) == (0, 0, 0)
    assert np.isnan(found.single[1])
    alone = reliability(p, y[:1])
    assert alone.undefined.all()
    assert alone.single[0] == pytest.approx(np.corrcoef(p[:, 0], y[0, :, 0])[0, 1])


def test_a_prediction_for_each_repeat_is_judged_by_its_mean_and_trial_by_trial():
    rng = np.random.default_rng(5)
    y, q = rng.gamma(2, 1, (3, 80, 6)), rng.gamma(2, 1, (3, 80, 6))
    q += y
    found, mean = reliability(q, y), reliability(q.mean(axis=0), y)
    assert found.absolute == pytest.approx(mean.absolute)
    assert found.single[0] == pytest.approx(np.corrcoef(q[:, :, 0].ravel(), y[:, :, 0].ravel())[0, 1])
    assert found.single[0] > mean.single[0]


def test_clips_are_judged_on_the_repeats_they_share():
    rng = np.random.default_rng(6)
    y, p = rng.gamma(2, 1, (4, 60, 3)), rng.gamma(2, 1, (60, 3))
    y[3, 20:40] = np.nan
    y[1:, 40:] = np.nan
    found = moments(p, y, clips=[20, 20, 20])
    assert (found.repeats, found.clips) == (3, (0, 1))
    assert any("1 trials left out" in text for text in found.remarks)
    assert any("1 clips left out" in text for text in found.remarks)
    same = reliability(p[:40], y[:3, :40])
    assert found.reliability().normalised == pytest.approx(same.normalised, nan_ok=True)
    twice = moments(p, y, clips=[20, 20, 20]).reliability(np.array([2, 1]))
    double = reliability(np.concatenate([p[:20], p[:40]]), np.concatenate([y[:3, :20], y[:3, :40]], axis=1))
    assert twice.absolute == pytest.approx(double.absolute)


def test_arrays_that_cannot_be_judged_are_refused():
    y, p = np.ones((2, 10, 3)), np.ones((10, 3))
    with pytest.raises(Refused, match="fit responses"):
        reliability(p[:9], y)
    with pytest.raises(Refused, match="add up"):
        reliability(p, y, clips=[4, 4])
    with pytest.raises(Refused, match="finite"):
        reliability(p * np.nan, y)
    with pytest.raises(Refused, match="after the burn-in"):
        reliability(p, y, burn_in=10)
    y[0, :, 1] = np.nan
    with pytest.raises(Refused, match="for all neurons"):
        reliability(p, y)


# ------------------------------------------------------------------------------------------------ responses


CLIPS = {f"clip{i}": 60 for i in range(5)}


def answer(subject, domain="natural", *, n=40, noise=0.5, repeats=6, silent=3, seed=0):
    rng = np.random.default_rng([seed, ord(subject), len(domain)])
    rate = rng.gamma(1.5, 0.8, (300, n))
    rate[:, n - silent :] = 0.5
    y = rng.poisson(rate, (repeats, *rate.shape)).astype(np.float32)
    rivals = {
        "linear": rate + rng.normal(0, 1.5 * rate.std(axis=0) + 1e-3, rate.shape),
        "mean": np.full_like(rate, rate.mean()),
    }
    p = rate + rng.normal(0, noise * rate.std(axis=0) + 1e-3, rate.shape)
    ids = np.array([f"{subject}/scan1/{i}" for i in range(n)])
    return Answer(
        subject=subject, recording=f"{subject}/scan1", domain=domain, ids=ids, predicted=p, observed=y, clips=CLIPS,
        rivals=rivals,
    )  # fmt: skip


def everything():
    for subject in "ABC":
        yield answer(subject)
        yield answer(subject, "gabor", noise=1.5)


@pytest.fixture(scope="module")
def score():
    return responses(everything(), burn_in=10, about={"recipe_hash": "r", "data_fingerprint": "d"})


def test_the_headline_is_the_median_over_animals_that_are_drawn_whole(score):
    assert score.metric == "median CC_norm"
    assert score.value == pytest.approx(1 / np.sqrt(1.25), abs=0.02)
    assert (score.cluster, score.n_groups) == ("animals", 3)
    assert score.interval[0] <= score.value <= score.interval[1]
    # three animals alone: an interval over neurons would be narrower than the spread of their medians
    each = [score.more[f"animal {who}"].value for who in "ABC"]
    assert score.interval == pytest.approx((min(each), max(each)), abs=0.01)
    assert score.baselines["linear"].value == pytest.approx(1 / np.sqrt(1 + 1.5**2), abs=0.03)
    gain = score.gains["linear"]
    assert 0.25 < gain.low <= gain.value <= gain.high < 0.5
    assert score.baselines["mean"].value == 0
    assert score.gains["mean"].value == pytest.approx(score.value)


def test_undefined_neurons_are_counted_and_kept_as_missing(score):
    missing = int(score.more["undefined neurons"].value)
    assert 1 <= missing <= 9
    assert score.n == 120 - missing
    assert len(score.predicted) == 120
    assert int(score.predicted.isna().sum()) == missing
    assert score.predicted.median() == score.value
    assert any(f"{missing} of 120 neurons have no signal power" in text for text in score.remarks)
    again = Score.from_json(score.to_json())
    assert again.predicted.equals(score.predicted)
    assert not len(again.truth)


def test_other_domains_stand_beside_their_fraction_of_the_main_one(score):
    gabor = score.more["gabor"]
    assert gabor.value == pytest.approx(1 / np.sqrt(1 + 1.5**2), abs=0.03)
    share = score.more["gabor, fraction of natural"]
    assert share.value == pytest.approx(gabor.value / score.value)
    assert share.low <= share.value <= share.high
    assert "gabor, linear" in score.more
    for name in ("single-trial correlation", "correlation to average (CC_abs)", "CC_max", "interval over clips"):
        assert np.isfinite(score.more[name].value), name
    assert score.more["single-trial correlation"].value < score.more["correlation to average (CC_abs)"].value
    clips = score.more["interval over clips"]
    assert clips.low < score.value < clips.high
    assert responses(everything(), main="gabor", burn_in=10).value == pytest.approx(gabor.value)


def test_few_animals_are_drawn_by_neuron_and_it_is_said():
    found = responses([answer("A"), answer("B")])
    assert (found.cluster, found.n_groups) == ("neurons", 80)
    assert any("2 animals: the interval is over neurons" in text for text in found.remarks)
    assert found.interval[0] < found.value < found.interval[1]


def test_without_repeats_the_single_trial_correlation_is_the_headline():
    found = responses([answer("A", repeats=1)])
    assert found.metric == "median single-trial correlation"
    assert found.value == pytest.approx(found.more["single-trial correlation"].value)
    assert np.isnan(found.more["CC_max"].value)
    assert any("no clip is repeated" in text for text in found.remarks)
    Score.from_json(found.to_json())


def test_answers_that_do_not_fit_are_refused():
    with pytest.raises(Refused, match="main domain"):
        responses([])
    with pytest.raises(Refused, match="main domain"):
        responses([answer("A")], main="dots")
    with pytest.raises(Refused, match="once"):
        responses([answer("A"), answer("A")])
    with pytest.raises(Refused, match="neurons of a recording"):
        responses([answer("A"), answer("A", "gabor", n=39)])
    one = answer("B")
    one.rivals.pop("linear")
    with pytest.raises(Refused, match="rivals"):
        responses([answer("A"), one])


def test_units_draw_neurons_within_animals_or_animals_whole():
    subject = np.array(list("AABBBC"))
    for rows in list(Units.of(subject, 0).draws())[:50]:
        names, counts = np.unique(subject[rows], return_counts=True)
        assert all(count % {"A": 2, "B": 3, "C": 1}[name] == 0 for name, count in zip(names, counts, strict=True))
    for rows in list(Units.of(subject, 0, whole=False).draws())[:50]:
        assert (np.sort(subject[rows]) == subject).all()


# ------------------------------------------------------------------------------------------------- transfer


LEVELS = {("foundation", 1): 0.6, ("foundation", 16): 0.7, ("individual", 1): 0.2, ("individual", 16): 0.7}


def curves(*, seeds=(0, 1), subjects=("A", "B"), unseen=True):
    for subject in subjects:
        ids = np.array([f"{subject}/{i}" for i in range(60)])
        own = np.random.default_rng(ord(subject)).normal(0, 0.1, 60)
        for seed in seeds:
            for (method, minutes), level in LEVELS.items():
                noise = np.random.default_rng([seed, minutes, len(method)]).normal(0, 0.01, 60)
                values = level + own + noise
                values[0] = np.nan
                given = {"subject": subject, "seed": seed, "minutes": minutes, "method": method, "ids": ids}
                yield Point(**given, cc_norm=values)
                if unseen and minutes == 16:
                    worse = values * (0.8 if method == "foundation" else 0.5)
                    yield Point(**given, cc_norm=worse, domain="dots")


def test_transfer_is_judged_at_the_fewest_minutes_against_the_individual_model():
    found = transfer(curves())
    assert found.metric == "median CC_norm after 1 min"
    assert found.value == pytest.approx(0.6, abs=0.03)
    assert found.gains["individual"].value == pytest.approx(0.4, abs=0.01)
    # neurons are paired: the gain is known far better than either value
    gain = found.gains["individual"]
    assert gain.high - gain.low < 0.5 * (found.interval[1] - found.interval[0])
    late = found.more["gain over individual, 16 min"]
    assert late.low < 0.01
    assert late.value == pytest.approx(0, abs=0.01)
    assert "A seed 0 0." in found.more["foundation, 1 min"].note
    assert "seed 1" in found.more["foundation, 1 min"].note
    assert (found.cluster, found.n, found.n_groups) == ("neurons", 118, 120)
    assert any("2 of 120 neurons have no CC_norm" in text for text in found.remarks)
    assert Score.from_json(found.to_json()).predicted.equals(found.predicted)


def test_unseen_domains_stand_as_fractions_of_the_trained_one():
    found = transfer(curves())
    assert found.more["dots, foundation, fraction of natural, 16 min"].value == pytest.approx(0.8)
    assert found.more["dots, individual, fraction of natural, 16 min"].value == pytest.approx(0.5)
    assert found.more["dots, gain over individual, 16 min"].low > 0.1


def test_curves_that_cannot_be_compared_are_refused():
    points = list(curves(unseen=False))
    with pytest.raises(Refused, match="once"):
        transfer([*points, points[0]])
    with pytest.raises(Refused, match="same animals and seeds"):
        transfer([point for point in points if (point.method, point.subject) != ("individual", "B")])
    with pytest.raises(Refused, match="same seeds"):
        transfer(points[1:])
    with pytest.raises(Refused, match="judged on 'natural'"):
        transfer([point for point in points if point.method == "individual"])
    alone = transfer([point for point in points if point.method == "foundation"])
    assert any("what transfer adds is not known" in text for text in alone.remarks)
    short = Point(subject="A", seed=9, minutes=1, method="foundation", ids=np.array(["x"]), cc_norm=np.ones(1))
    with pytest.raises(Refused, match="same in every point"):
        transfer([*points, short])
