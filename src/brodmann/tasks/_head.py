"""A model's own head: what it says of held-out rows, how sure it may be, and when it must not be asked.

n rows of a table, m held-out rows, K classes of the head, J classes that are judged, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.errors import Leak, Refused
from brodmann.settings import Split
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _rows
from brodmann.tasks._classes import Judge
from brodmann.tasks._score import Estimate

UNSURE = "unsure"
"""What a row is called whose most probable class is not probable enough."""
ROW = "own head"

BINS = 15
"""Of the calibration error, as Guo et al. (2017)."""
_LEAST = 1e-30
_FEW = 100
"""Calibrating rows below which that is said."""

Codes = NDArray[np.int64]
Real = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Head:
    """What a tuned model says of the held-out rows of a table.

    Parameters
    ----------
    said : ndarray (m,) int64
        The most probable of the judged classes.
    top, plain : ndarray (m,) float64
        Probability of the most probable class of all, after and before the temperature.
    right : ndarray (m,) bool
        Whether that class is the true one.
    sure : ndarray (m,) bool
        Whether it is probable enough to be named.
    temperature, threshold : float
        Fitted on labelled training rows that were not learned.
    calibrated : int
        How many these were; with none, nothing is unsure.
    wanted : float
        Accuracy that is wanted of what is named; NaN where the table does not say.
    """

    said: Codes
    top: Real
    plain: Real
    right: NDArray[np.bool_]
    sure: NDArray[np.bool_]
    temperature: float
    threshold: float
    calibrated: int
    wanted: float

    def measures(self, judge: Judge) -> dict[str, Estimate]:
        """Calibration error, and what is left when the head may say that it is unsure."""
        times, cluster = judge.boot.times, judge.boot.cluster
        before, _ = calibration_error(self.plain, self.right, cluster, times)
        after, draws = calibration_error(self.top, self.right, cluster, times)
        if not self.calibrated:
            note = f"{BINS} bins; not calibrated, because no labelled sections were set aside"
            return {f"{ROW}, calibration error": metrics.estimate(after, draws, note)}
        gave = f"{BINS} bins (Guo et al. 2017); {before:.3f} before the temperature of {self.temperature:.2f}"
        sure = self.sure
        asked = "" if np.isnan(self.wanted) else f"{self.wanted:.2f} is wanted (tune.sure)"
        kept = metrics.Bootstrap(cluster[sure], times)
        truth, said, size = judge.truth[sure], self.said[sure], judge.size
        named = right = Estimate(float("nan"), note="nothing is sure")
        if sure.any():
            matrix, drawn = metrics.confusion(truth, said, size), kept.confusions(truth, said, size)
            named = metrics.estimate(
                float(metrics.macro_f1(matrix)),
                metrics.macro_f1(drawn),
                f"of the rows that it names: those with a probability of {self.threshold:.2f} or more",
            )
            right = metrics.estimate(float(metrics.accuracy(matrix)), metrics.accuracy(drawn), asked)
        rows = np.bincount(cluster, minlength=times.shape[1])
        held = np.bincount(cluster, sure, minlength=times.shape[1])
        share = (times @ held) / np.maximum(times @ rows, 1)
        return {
            f"{ROW}, calibration error": metrics.estimate(after, draws, gave),
            f"{ROW}, where sure": named,
            f"{ROW}, accuracy where sure": right,
            f"{ROW}, coverage": metrics.estimate(
                float(sure.mean()), share, f"of the rows get a name, the others are '{UNSURE}'"
            ),
        }

    def remarks(self, more: Mapping[str, Estimate]) -> list[str]:
        """What the measures say against it."""
        if not self.calibrated:
            return []
        found: list[str] = []
        if self.calibrated < _FEW:
            found.append(f"temperature and threshold come from {self.calibrated} rows: too few to rely on")
        right = more[f"{ROW}, accuracy where sure"].value
        if right < self.wanted:
            found.append(f"{right:.0%} of the named rows are named rightly, {self.wanted:.0%} were wanted (tune.sure)")
        before = float(np.abs(np.mean(self.right) - np.mean(self.plain)))
        after = float(np.mean(self.right) - np.mean(self.top))
        if abs(after) > before:
            side = "too modest" if after > 0 else "too sure of itself"
            found.append(f"the temperature does not fit these rows: with it the head is {side}, by {abs(after):.2f}")
        return found


def of(table: AnnData, target: str, classes: Sequence[str], tested: Codes, truth: Codes) -> Head | None:
    """What the head of a table's model says of held-out rows; None if it has none for this target.

    Parameters
    ----------
    table : AnnData
        ``obsm["probability"]`` (n, K) float32, calibrated, and ``uns["brodmann"]["head"]``.
    target : str
    classes : sequence of str
        The J classes that are judged.
    tested : ndarray (m,) int64
        Rows, whose ``truth`` (m,) int64 are numbers of ``classes``.

    Raises
    ------
    Refused
        The head knows none of the classes.
    """
    about = _about(table)
    if about is None or str(about["target"]) != target:
        return None
    names = [str(name) for name in about["classes"]]
    columns = [names.index(name) for name in classes if name in names]
    if not columns:
        raise Refused(
            f"the model's head should know some classes of '{target}'.", found=f"{', '.join(names[:6])}.",
            do="score the features without it (--probe linear).",
        )  # fmt: skip
    probability = np.asarray(cast("Any", table.obsm)["probability"], np.float64)[tested]
    numbers = np.array([number for number, name in enumerate(classes) if name in names])
    temperature, threshold = float(about["temperature"]), float(about["threshold"])
    plain = np.maximum(probability, _LEAST) ** temperature
    plain /= plain.sum(axis=1, keepdims=True)
    top = probability.max(axis=1)
    place = {name: number for number, name in enumerate(classes)}
    true_name = np.array([place.get(name, -1) for name in names], np.int64)
    return Head(
        said=numbers[probability[:, columns].argmax(axis=1)],
        top=top,
        plain=plain.max(axis=1),
        right=true_name[probability.argmax(axis=1)] == truth,
        # stored in single precision: a row that lies on the threshold is on its upper side
        sure=top >= threshold - 1e-6,
        temperature=temperature,
        threshold=threshold,
        calibrated=int(about["calibrated"]),
        wanted=float(about.get("sure", np.nan)),
    )


def whose(table: AnnData) -> str:
    """What a table's model names, in words."""
    about = _about(table)
    return "a table without one." if about is None else f"a table whose model has one for '{about['target']}'."


def calibration_error(top: Real, right: NDArray[np.bool_], cluster: Codes, times: Real) -> tuple[float, Real]:
    """Expected calibration error (Guo et al. 2017, eq. 3), and that of bootstrap draws of whole clusters (B,).

    The mean distance between how probable the most probable class is and how often it is right, over `BINS` bins of
    equal width, weighted by their rows.

    Parameters
    ----------
    top : ndarray (m,) float64
        Probability of the most probable class.
    right : ndarray (m,) bool
    cluster : ndarray (m,) int64
        Cluster of each row.
    times : ndarray (B, G) float64
        How often each draw holds each of G clusters.
    """
    # bins are open below, as published
    bins = np.clip(np.ceil(top * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count = times.shape[1]
    gap = np.bincount(cluster * BINS + bins, right - top, minlength=count * BINS).reshape(count, BINS)
    rows = np.bincount(cluster, minlength=count)
    draws = np.abs(times @ gap).sum(axis=1) / np.maximum(times @ rows, 1)
    return float(np.abs(gap.sum(axis=0)).sum() / len(top)), draws


def refuse_seen(table: AnnData, target: str, split: Split, others: Mapping[str, AnnData] | None = None) -> None:
    """Refuse to score labels on rows whose labels a model has learned.

    Parameters
    ----------
    table : AnnData
    target : str
    split : Split
        Of the score.
    others : mapping of str to AnnData, optional
        Rivals, which are asked, too.

    Raises
    ------
    Leak
        A model was tuned on this target, and the split tests other rows than those it was kept from.
    """
    for name, one in {"this model": table, **{f"'{name}'": other for name, other in (others or {}).items()}}.items():
        about, made = _about(one), _rows.about(one)
        if about is None or str(about["target"]) != target or not made.get("same_data", True):
            continue
        if _rows.kept_apart(one, split):
            continue
        fold = int(made.get("encoder_fold", -1))
        raise Leak(
            f"{name} should not be scored on rows whose labels of '{target}' it has learned.",
            found="it learned from all rows, none were held out." if fold < 0
            else f"it was kept from fold {fold} of its own split only, and other rows are tested as well.",
            do="set split.fold when tuning, and score that fold (the default), or other brains: embed --data.",
        )  # fmt: skip


def _about(table: AnnData) -> Mapping[str, Any] | None:
    held = _rows.about(table).get("head")
    return cast("Mapping[str, Any]", held) if held else None
