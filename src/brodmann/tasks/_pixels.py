"""Classes of pixels: agreement patch by patch, and what depth alone would tell.

n patches, K classes in the order of depth, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.tasks._columns import border_errors

Plane = NDArray[np.uint8]
Real = NDArray[np.float64]

UNLABELLED = 255


@dataclass(frozen=True, eq=False)
class Tally:
    """Agreement of one answer with the truth, patch by patch: all that a score needs of it.

    Parameters
    ----------
    confusion : ndarray (n, K, K) int64
        Pixels; rows truth, columns told.
    away_um : ndarray (n, K - 1) float64
        Distance of told from true borders between one class and the next, summed over columns.
    columns : ndarray (n, K - 1) int64
        In how many columns the truth has that border.
    """

    confusion: NDArray[np.int64]
    away_um: Real
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, predicted: Plane, truth: Plane, n_classes: int, pixel_um: float, *, upright: bool = True) -> Tally:
        """Agreement of (n, H, W) classes.

        Raises
        ------
        Refused
            Shapes that differ, or a class that is none.
        """
        if predicted.shape != truth.shape or predicted.ndim != 3:
            raise Refused(
                "told and true layers should have a class per pixel of the same patches.",
                found=f"{predicted.shape} and {truth.shape}.",
            )
        known = truth != UNLABELLED
        if known.any() and max(int(truth[known].max()), int(predicted[known].max())) >= n_classes:
            raise Refused(
                f"classes should be 0 to {n_classes - 1}, or {UNLABELLED} where the truth is not known.",
                found=f"{truth[known].max()} in the truth, {predicted[known].max()} told.",
            )
        n, square = len(truth), n_classes**2
        flat = truth.astype(np.int64) * n_classes + predicted + np.arange(n)[:, None, None] * square
        counts = np.bincount(flat[known], minlength=n * square).reshape(n, n_classes, n_classes)
        none = np.zeros((n, n_classes - 1))
        away, columns = border_errors(predicted, truth, n_classes) if upright else (none, none.astype(np.int64))
        return cls(counts, away * pixel_um, columns)

    @classmethod
    def joined(cls, parts: Sequence[Tally]) -> Tally:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def depth_prior(labels: Iterable[Plane], n_classes: int, *, by: Literal["place", "row"] = "place") -> Plane:
    """Most frequent class at each place of a patch over training labels: what depth alone tells of an upright patch.

    Parameters
    ----------
    labels : iterable of ndarray (n, H, W) uint8
        In parts of any size; 255 is not counted.
    n_classes : int
    by : {"place", "row"}
        Each pixel by itself, or each row: the better of few labels.

    Returns
    -------
    ndarray (H, W) uint8
        The lower class where two are as frequent; where nothing is known that of the whole.
    """
    counts: NDArray[np.int64] | None = None
    for part in labels:
        found = np.stack([(part == k).sum(axis=0) for k in range(n_classes)]).astype(np.int64)
        counts = found if counts is None else counts + found
    if counts is None or not counts.any():
        raise Refused("a prior of depth needs labels.", found="none.")
    if by == "row":
        counts = np.broadcast_to(counts.sum(axis=2, keepdims=True), counts.shape)
    most = counts.argmax(axis=0).astype(np.uint8)
    return np.where(counts.sum(axis=0) > 0, most, np.uint8(counts.sum(axis=(1, 2)).argmax()))


def majority(labels: Iterable[Plane], n_classes: int) -> int:
    """The most frequent class of training labels (n, H, W)."""
    counts = sum((np.bincount(part.ravel(), minlength=256)[:n_classes] for part in labels), np.zeros(n_classes, int))
    return int(counts.argmax())
