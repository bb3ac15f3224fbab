"""The score of layers: numbers against a loop or scikit-learn, intervals of whole sections, borders along columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from brodmann.errors import Leak, Refused
from brodmann.patches.source import LAYERS
from brodmann.tasks._columns import border_errors
from brodmann.tasks._score import Score
from brodmann.tasks.layers import Segmented, Tally, depth_prior, judge, layers, majority

CLASSES = LAYERS


def cortex(n=3, size=40, seed=0, shift=0.0):
    """Upright patches with eight wavy bands; ``shift`` moves every border downwards, in pixels."""
    rng = np.random.default_rng(seed)
    x = np.arange(size)
    wave = rng.uniform(0, 6, (n, 1)) + x[None] / 9
    edge = np.arange(1, 8)[:, None, None] * size / 8 + np.sin(wave)[None] * 2
    row = np.arange(size)[:, None] + 0.5
    return (row[None, None] > edge[:, :, None] + shift).sum(0).astype(np.uint8)


def noisy(truth, seed=1, share=0.2):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(truth.shape) < share, rng.integers(0, 8, truth.shape), truth).astype(np.uint8)


def answer(section, seed, *, share=0.2, subject="B1", rivals=None, truth=None, **more):
    truth = cortex(seed=seed) if truth is None else truth
    names = np.array([f"{section}/{k}" for k in range(len(truth))], object)
    told = noisy(truth, seed + 100, share)
    rivals = {name: noisy(truth, seed + 200, worse) for name, worse in (rivals or {}).items()}
    return Segmented(
        subject=subject, section=section, ids=names, predicted=told, truth=truth, pixel_um=16.0, rivals=rivals, **more
    )


def test_f1_of_pixels_is_scikit_learns():
    answers = [answer(f"s{k}", k) for k in range(4)]
    score = layers(answers, classes=CLASSES, by="section")
    truth = np.concatenate([one.truth.ravel() for one in answers])
    told = np.concatenate([one.predicted.ravel() for one in answers])
    each = f1_score(truth, told, labels=range(8), average=None)
    assert score.value == pytest.approx(each[1:7].mean())
    for k, name in enumerate(CLASSES):
        assert score.more[f"Dice, {name}"].value == pytest.approx(each[k])
        assert score.per_class[name]["f1"] == pytest.approx(each[k])
    assert score.more["macro-F1 with background and white matter"].value == pytest.approx(each.mean())
    assert score.more["accuracy"].value == pytest.approx((truth == told).mean())
    assert score.n == 12
    assert score.n_groups == 4
    assert np.sum(score.confusion) == truth.size
    assert Score.from_json(score.to_json()).to_json() == score.to_json()


def test_dice_in_a_patch_is_over_the_layers_that_it_holds():
    one = answer("s0", 0)
    one.truth[0][one.truth[0] == 4] = 5
    expected = []
    for truth, told in zip(one.truth, one.predicted, strict=True):
        present = [k for k in range(1, 7) if (truth == k).any()]
        dice = [2 * ((truth == k) & (told == k)).sum() / ((truth == k).sum() + (told == k).sum()) for k in present]
        expected.append(np.mean(dice))
    score = layers([one], classes=CLASSES, by="section")
    assert score.more["mean Dice in a patch"].value == pytest.approx(np.mean(expected))


def test_a_pixel_of_which_nothing_is_known_is_not_judged():
    one, other = answer("s0", 0), answer("s0", 0)
    one.truth[:, :, :20] = 255
    half = layers([one], classes=CLASSES, by="section")
    assert np.sum(half.confusion) == one.truth.size / 2
    told, truth = other.predicted[:, :, 20:], other.truth[:, :, 20:]
    expected = f1_score(truth.ravel(), told.ravel(), labels=range(1, 7), average=None).mean()
    assert half.value == pytest.approx(expected)


def test_intervals_draw_whole_sections_and_gains_are_paired():
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.05, 0.6, 12)
    answers = [answer(f"s{k}", k, share=share, rivals={"worse": share + 0.1}) for k, share in enumerate(shares)]
    score = layers(answers, classes=CLASSES, by="section")
    low, high = score.interval
    assert low < score.value < high
    # sections differ much, patches within one do not: an interval over patches would be far narrower
    values = []
    for _ in range(200):
        drawn = rng.integers(0, 12, 12)
        truth = np.concatenate([answers[k].truth.ravel() for k in drawn])
        told = np.concatenate([answers[k].predicted.ravel() for k in drawn])
        values.append(f1_score(truth, told, labels=range(1, 7), average=None).mean())
    assert np.percentile(values, 2.5) == pytest.approx(low, abs=0.02)
    assert np.percentile(values, 97.5) == pytest.approx(high, abs=0.02)
    gain, rival = score.gains["worse"], score.baselines["worse"]
    assert gain.value == pytest.approx(score.value - rival.value)
    assert gain.low > 0
    # paired: its interval is narrower than that of either value
    assert gain.high - gain.low < 0.5 * (high - low)
    assert layers(answers, classes=CLASSES, by="section").to_json() == score.to_json()


def test_brains_are_drawn_where_there_are_enough_and_one_section_has_no_interval():
    many = [answer("s0", k, subject=f"B{k}") for k in range(6)]
    score = layers(many, classes=CLASSES, by="brain")
    assert (score.cluster, score.n_groups) == ("brains", 6)
    few = layers([answer(f"s{j}", j, subject=f"B{k}") for k in range(2) for j in range(3)], classes=CLASSES)
    assert (few.cluster, few.n_groups) == ("sections", 6)
    assert any("too few to draw from" in text for text in few.remarks)
    one = layers([answer("s0", 0)], classes=CLASSES, by="section")
    assert np.isnan(one.interval).all()
    assert any("no interval" in text for text in one.remarks)


def test_tallies_that_were_kept_give_the_same_score():
    answers = [answer(f"s{k}", k, rivals={"other": 0.4}) for k in range(3)]
    whole = layers(answers, classes=CLASSES, by="section")
    kept = {
        name: Tally.joined(
            [Tally.of(one.predicted if not name else one.rivals[name], one.truth, 8, 16.0) for one in answers]
        )
        for name in ("", "other")
    }
    places = pd.DataFrame({"subject": "B1", "section": [one.section for one in answers for _ in one.ids]})
    assert judge(kept, places, classes=CLASSES, by="section").to_json() == whole.to_json()


# ------------------------------------------------------------------------------------------------------- borders


def loop(told, truth, n_classes):
    """Column by column: the run about the middle, its borders, the row that parts the told classes best."""
    n, high, wide = truth.shape
    away, columns = np.zeros((n, n_classes - 1)), np.zeros((n, n_classes - 1), int)
    for p in range(n):
        for c in range(wide):
            true, said = truth[p, :, c].astype(int), told[p, :, c]
            middle = high // 2
            if true[middle] == 255:
                continue
            start = stop = middle
            while start > 0 and true[start - 1] <= true[start] and true[start - 1] != 255:
                start -= 1
            while stop < high - 1 and true[stop + 1] >= true[stop] and true[stop + 1] != 255:
                stop += 1
            for k in range(n_classes - 1):
                borders = [r for r in range(start + 1, stop + 1) if true[r - 1] == k and true[r] == k + 1]
                if not borders:
                    continue
                wrong = [(said[start:r] > k).sum() + (said[r : stop + 1] <= k).sum() for r in range(start, stop + 2)]
                away[p, k] += abs(start + int(np.argmin(wrong)) - borders[0])
                columns[p, k] += 1
    return away, columns


def test_border_errors_are_those_of_a_loop():
    truth = cortex(4, seed=3)
    # another bank of a sulcus above, a hole of the unknown, a layer that is absent
    truth[0, :8, :12] = np.arange(7, -1, -1)[:, None]
    truth[1, 4:7, 10:20] = 255
    truth[1, 31:, 22:36] = 2
    truth[2][truth[2] == 4] = 5
    truth[3, 18:24, 5:9] = 255
    for share in (0.0, 0.15, 0.7):
        told = noisy(cortex(4, seed=3, shift=1.7), 5, share)
        away, columns = border_errors(told, truth, 8)
        expected = loop(told, truth, 8)
        np.testing.assert_array_equal(columns, expected[1])
        np.testing.assert_array_equal(away, expected[0])
    assert columns[2, 3] == columns[2, 4] == 0
    assert columns[2, 5] == 40


def test_a_shift_of_all_borders_is_its_own_error_in_um():
    truth, told = cortex(5, size=80, seed=2), cortex(5, size=80, seed=2, shift=3.0)
    tally = Tally.of(told, truth, 8, 20.0)
    assert tally.away_um.sum() / tally.columns.sum() == pytest.approx(60.0)
    score = judge({"": tally}, pd.DataFrame({"subject": "B1", "section": list("aabbc")}), classes=CLASSES, by="section")
    assert score.more["border error, um"].value == pytest.approx(60.0)
    assert score.more["border III to IV, um"].value == pytest.approx(60.0)


def test_stray_pixels_do_not_move_a_border_and_a_missing_layer_does():
    truth = cortex(2, size=80)
    away, columns = border_errors(noisy(truth, share=0.1), truth, 8)
    assert away.sum() / columns.sum() < 0.5
    none = np.where(truth == 4, 3, truth).astype(np.uint8)
    missing = border_errors(none, truth, 8)[0] / columns
    # without a told IV its upper border is its lower one
    assert (missing[:, 3] > 8).all()
    assert missing[:, [0, 1, 2, 4, 5, 6]].max() == 0


def test_patches_that_do_not_stand_upright_have_no_columns():
    score = layers([answer("s0", 0, upright=False), answer("s1", 1, upright=False)], classes=CLASSES, by="section")
    assert "border error, um" not in score.more
    assert any("borders are not known" in text for text in score.remarks)


# ------------------------------------------------------------------------------------------------------- rivals


def test_the_depth_prior_is_the_commonest_class_of_a_place():
    labels = cortex(9, seed=4)
    labels[:, 0, 0] = 255
    prior = depth_prior([labels[:4], labels[4:]], 8)
    for i, j in ((3, 5), (20, 20), (39, 1)):
        assert prior[i, j] == np.bincount(labels[:, i, j], minlength=8).argmax()
    assert prior[0, 0] == np.bincount(labels[labels < 8], minlength=8).argmax()
    rows = depth_prior([labels], 8, by="row")
    assert (rows == rows[:, :1]).all()
    assert rows[17, 0] == np.bincount(labels[:, 17].ravel(), minlength=8).argmax()
    assert majority([labels], 8) == np.bincount(labels[labels < 8]).argmax()
    with pytest.raises(Refused, match="needs labels"):
        depth_prior([np.full((2, 4, 4), 255, np.uint8)], 8)


def test_what_gave_labels_is_not_judged():
    with pytest.raises(Leak, match="both give labels and be judged"):
        layers([answer("s0", 0)], classes=CLASSES, by="section", taught=[("B1", "s0")])
    with pytest.raises(Leak, match="B1"):
        layers([answer("s0", 0)], classes=CLASSES, by="brain", taught=[("B1", "s9")])
    # another brain's section of the same name is another section
    layers([answer("s0", 0)], classes=CLASSES, by="section", taught=[("B2", "s0")])


def test_answers_that_do_not_fit_are_refused():
    with pytest.raises(Refused, match="held out"):
        layers([], classes=CLASSES)
    with pytest.raises(Refused, match="answer for every section"):
        layers([answer("s0", 0, rivals={"a": 0.1}), answer("s1", 1)], classes=CLASSES)
    one = answer("s0", 0)
    with pytest.raises(Refused, match="class per pixel"):
        Tally.of(one.predicted[:, :30], one.truth, 8, 16.0)
    with pytest.raises(Refused, match="0 to 4"):
        Tally.of(one.predicted, one.truth, 5, 16.0)


def test_a_layer_that_is_never_told_is_said():
    truth = cortex(2)
    said = np.where(truth == 4, 5, truth)
    given = [replace(answer(f"s{k}", k, truth=truth.copy()), predicted=said.copy()) for k in (0, 1)]
    score = layers(given, classes=CLASSES, by="section")
    assert any(text.startswith("never told: IV;") for text in score.remarks)
    right = layers([answer("s0", 0, truth=truth), answer("s1", 1, truth=truth.copy())], classes=CLASSES, by="section")
    assert not any("never told" in text for text in right.remarks)


def test_a_layer_that_does_not_occur_is_left_out_and_said():
    truth = cortex(2)
    truth[truth == 4] = 5
    score = layers([answer("s0", 0, truth=truth), answer("s1", 1, truth=truth.copy())], classes=CLASSES, by="section")
    assert any("no judged pixel is of IV" in text for text in score.remarks)
    assert np.isfinite(score.value)
