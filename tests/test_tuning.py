"""Planted orientations and receptive fields are found again, and chance, place and silence are told from tuning."""

from __future__ import annotations

import numpy as np
import pytest

from brodmann.errors import Refused
from brodmann.tasks import _tuning as found_by
from brodmann.tasks._score import Score
from brodmann.tasks._tuning import circular_error, peaks, selectivity
from brodmann.tasks.tuning import tuning

DIRECTIONS = np.arange(16) * 22.5


def two_peaks(rng, n, *, noise=0.0, flat=0):
    """Curves of two von Mises peaks, and what was planted; the last ``flat`` neurons answer to all alike."""
    planted = {
        "phi": rng.uniform(0, 2 * np.pi, n), "k": rng.uniform(1.0, 6.0, n), "first": rng.uniform(0.5, 2, n),
        "offset": rng.uniform(0.05, 0.4, n),
    }  # fmt: skip
    planted["first"][n - flat :] = 0
    planted["second"] = planted["first"] * rng.uniform(0, 0.9, n)
    cos = np.cos(np.radians(DIRECTIONS) - planted["phi"][:, None])
    first, second, k, offset = (planted[name][:, None] for name in ("first", "second", "k", "offset"))
    curves = offset + first * np.exp(k * (cos - 1)) + second * np.exp(-k * (cos + 1))
    return np.maximum(curves + noise * rng.standard_normal(curves.shape), 0), planted


def test_selectivity_agrees_with_numbers_worked_out_by_hand():
    eight = np.arange(8) * 45.0
    curves = np.array([
        [1, 0, 0, 0, 1, 0, 0, 0],  # two directions of one orientation: gOSI 1, no direction
        [0, 0, 3, 0, 0, 0, 0, 0],  # one direction, 90
        [1, 1, 1, 1, 1, 1, 1, 1],
        [2, 0, 1, 0, 1, 0, 0, 0],  # sums 2 + 1 - 1 = 2 of 4; 2 + i - 1 = 1 + i of 4
        [0, 0, 0, 0, 0, 0, 0, 0],
    ])  # fmt: skip
    found = selectivity(curves, eight)
    assert found.gosi[:4] == pytest.approx([1, 1, 0, 0.5])
    assert found.gdsi[:4] == pytest.approx([0, 1, 0, np.sqrt(2) / 4], abs=1e-12)
    assert circular_error(found.orientation[[1, 3]], np.array([90.0, 0])) == pytest.approx([0, 0], abs=1e-9)
    assert found.direction[[1, 3]] == pytest.approx([90, 45])
    assert np.isnan(found.gosi[4])
    assert np.isnan(found.gdsi[4])


def test_two_peaks_are_found_exactly_without_noise():
    curves, planted = two_peaks(np.random.default_rng(0), 300)
    found = peaks(curves, DIRECTIONS)
    assert circular_error(found.direction, np.degrees(planted["phi"]), period_deg=360).max() < 0.01
    assert found.first == pytest.approx(planted["first"], abs=1e-3)
    assert found.second == pytest.approx(planted["second"], abs=1e-3)
    assert found.offset == pytest.approx(planted["offset"], abs=1e-3)
    assert found.explained.min() > 0.99999
    half = np.degrees(np.arccos(1 - np.log(2) / planted["k"]))
    assert found.width == pytest.approx(half, abs=0.1)


def test_a_fit_scales_with_the_responses_and_turns_with_the_stimulus():
    curves, _ = two_peaks(np.random.default_rng(1), 50, noise=0.1)
    one, large = peaks(curves, DIRECTIONS), peaks(curves * 1000, DIRECTIONS)
    assert large.first == pytest.approx(one.first * 1000, rel=1e-4)
    turned = peaks(np.roll(curves, 4, axis=1), DIRECTIONS)
    assert np.quantile(circular_error(turned.orientation, one.orientation + 90), 0.9) < 0.1


def test_the_fit_stays_within_its_bounds_and_says_nothing_of_constant_curves():
    rng = np.random.default_rng(2)
    spikes = np.eye(16)[rng.integers(0, 16, 30)] + 0.01 * rng.uniform(size=(30, 16))
    found = peaks(np.concatenate([spikes, np.ones((1, 16)), np.zeros((1, 16))]), DIRECTIONS)
    assert (found.first >= found.second).all()
    assert (found.second >= 0).all()
    assert np.isfinite(found.direction).all()
    assert np.isnan(found.explained[-2:]).all()
    assert found.width[:30].min() > 10


def test_circular_errors_wrap():
    assert circular_error(np.array([1.0, 179, 90, 0]), np.array([179.0, 1, 0, 180])) == pytest.approx([2, 2, 90, 0])
    assert circular_error(np.array([350.0]), np.array([10.0]), period_deg=360) == pytest.approx([20])


def test_receptive_fields_are_found_by_the_dots_that_drive_them():
    rng = np.random.default_rng(3)
    height, width, n = 18, 32, 12
    y, x = np.mgrid[:height, :width]
    dots = np.zeros((12000, height, width), np.float32)
    rows, columns = rng.integers(0, height, 12000), rng.integers(0, width, 12000)
    dots[np.arange(12000), rows, columns] = rng.choice([-1, 1], 12000)
    cx, cy, sd = rng.uniform(6, 26, n), rng.uniform(5, 13, n), rng.uniform(1.5, 3, n)
    sign = np.where(np.arange(n) % 3 == 0, -1.0, 1.0)
    bumps = sign[:, None, None] * np.exp(
        -((x - cx[:, None, None]) ** 2 + (y - cy[:, None, None]) ** 2) / 2 / sd[:, None, None] ** 2
    )
    drive = np.tensordot(dots, bumps, ((1, 2), (1, 2)))
    drive = np.concatenate([np.zeros((2, n)), drive[:-2]])
    answers = rng.poisson(np.maximum(0.2 + drive, 0.0))
    found = found_by.fields(found_by.triggered(dots, answers, lags=[2]))
    assert np.hypot(found.x - cx, found.y - cy).max() < 0.7
    assert found.sd == pytest.approx(sd, rel=0.3)
    assert (np.sign(found.peak) == sign).all()
    wrong = found_by.fields(found_by.triggered(dots, answers, lags=[0]))
    assert np.median(wrong.explained) < 0.3 * np.median(found.explained)


def test_triggered_average_is_the_weighted_mean_of_frames():
    frames = np.zeros((3, 1, 2))
    frames[0, 0, 0], frames[2, 0, 1] = 3, 6
    found = found_by.triggered(frames, np.array([[2.0, 0], [0, 0], [1, 0]]))
    # means 1 and 2 of the pixels: (2 * 2 + 1 * -1) / 3 and (2 * -2 + 1 * 4) / 3
    assert found == pytest.approx(np.array([[[1.0, 0.0]], [[0.0, 0.0]]]))
    late = found_by.triggered(frames, np.array([[5.0], [1], [0]]), lags=[1])
    assert late == pytest.approx(np.array([[[2.0, -2.0]]]))


def scored(n=300, **more):
    rng = np.random.default_rng(4)
    curves, planted = two_peaks(rng, n, noise=0.1, flat=n // 5)
    truth = np.degrees(planted["phi"]) % 180
    ids = np.array([f"r/{i}" for i in range(n)])
    where = rng.uniform(0, 500, (n, 2))
    return curves, truth, tuning(curves, DIRECTIONS, truth, ids, positions=where, **more)


def test_planted_orientations_beat_shuffled_neurons_and_place():
    _, _, score = scored()
    assert score.value < 5
    assert score.interval[0] < score.value < score.interval[1]
    assert score.baselines["shuffled neurons"].value == pytest.approx(45, abs=3)
    assert score.baselines["coordinates only"].value == pytest.approx(45, abs=8)
    assert score.gains["coordinates only"].high < -30
    assert score.n == 156
    assert score.cluster == "neurons"
    assert any("lower is better" in remark for remark in score.remarks)
    assert any("0.25" in remark for remark in score.remarks)
    assert circular_error(score.predicted.to_numpy(), score.truth.to_numpy()).mean() < 10
    again = Score.from_json(score.to_json())
    assert again.value == score.value
    assert again.predicted.equals(score.predicted)


def test_place_tells_the_orientation_where_a_map_is_smooth():
    rng = np.random.default_rng(5)
    curves, planted = two_peaks(rng, 300)
    truth = np.degrees(planted["phi"]) % 180
    where = np.column_stack([np.cos(2 * np.radians(truth)), np.sin(2 * np.radians(truth))])
    score = tuning(curves, DIRECTIONS, truth, np.arange(300), positions=where)
    assert score.baselines["coordinates only"].value < 3


def test_three_animals_are_drawn_whole_and_unknown_orientations_are_told():
    curves, truth, _ = scored()
    truth[:50] = np.nan
    subjects = np.array(["A", "B", "C"])[np.arange(300) % 3]
    score = tuning(curves, DIRECTIONS, truth, np.arange(300), subjects=subjects)
    assert (score.cluster, score.n_groups) == ("animals", 3)
    assert any("no known orientation" in remark for remark in score.remarks)
    bare = tuning(curves, DIRECTIONS, None, np.arange(300), subjects=subjects)
    assert bare.metric == "share of tuned neurons"
    assert bare.value == 156 / 300
    assert not len(bare.truth)


def test_curves_and_directions_that_cannot_be_are_refused():
    curves, truth, _ = scored()
    ids = np.arange(300)
    with pytest.raises(Refused, match="evenly"):
        tuning(curves, DIRECTIONS / 2, truth, ids)
    with pytest.raises(Refused, match="not negative"):
        tuning(curves - curves.mean(), DIRECTIONS, truth, ids)
    with pytest.raises(Refused, match="five directions"):
        tuning(curves[:, :4], DIRECTIONS[:4] * 4, truth, ids)
    with pytest.raises(Refused, match="at least 10 neurons"):
        tuning(curves, DIRECTIONS, truth, ids, tuned=0.999)
    with pytest.raises(Refused, match="one per curve"):
        tuning(curves, DIRECTIONS, truth[:-1], ids)
